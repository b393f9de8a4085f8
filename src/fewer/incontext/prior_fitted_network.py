"""The transformer of prior-data fitted networks: it reads a set of observations and answers queries about it.

Observed tokens attend to one another; a query attends to the observed tokens and to itself, and
never to another query.  So the answer to a query does not depend on what else is asked, and there is
no order among observations but what their features say.  (Müller et al., arXiv 2112.10510.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError


@dataclass(frozen=True)
class PriorFitted:
    """Post-norm transformer without positions; a query's token is its input without a value.

    Parameters
    ----------
    width : int, default 512
        Of the residual stream; the feed-forward part is twice as wide.
    layers : int, default 12
        Blocks.
    heads : int, default 4
        Of each attention; must divide ``width``.
    waves : int, default 0
        Sines and cosines of each number that are read beside it, of periods 4, 2, 1, 1/2 …; 0 reads the
        number alone, as in the paper.  A small network tells close numbers apart much sooner with them.
    """

    width: int = 512
    layers: int = 12
    heads: int = 4
    waves: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % self.heads or self.waves < 0:
            raise FewerError(
                "prior-fitted: width must be a multiple of heads, all of them positive and waves not negative; "
                f"given {self}"
            )

    def build(self, features: int, outputs: int, length: int) -> PriorFittedNetwork:
        """Make the network; ``length`` does not matter, for there are no positions."""
        return PriorFittedNetwork(self.width, self.layers, self.heads, self.waves, features, outputs)


class PriorFittedBlock(nn.Module):
    """Attention to what was observed, and a feed-forward part, each with a norm behind its skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm_mlp = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        # each block begins as the identity (up to its norms), which lets deep post-norm stacks train
        last = self.mlp[2]
        assert isinstance(last, nn.Linear)
        for parameter in (self.query_key_value.bias, self.out.weight, self.out.bias, last.weight, last.bias):
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "batch length width"], observed: int, last: bool = False
    ) -> Float[Tensor, "batch positions width"]:
        """Mix tokens, then channels; where it is the last block only queries are, since nobody reads the others."""
        batch, length, width = x.shape
        mixed = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        known_key, known_value = key[:, :, :observed], value[:, :, :observed]
        asked = _ask(query[:, :, observed:], known_key, known_value, key[:, :, observed:], value[:, :, observed:])
        if last:
            x = x[:, observed:]
        else:
            known = nn.functional.scaled_dot_product_attention(query[:, :, :observed], known_key, known_value)
            asked = torch.cat([known, asked], dim=2)
        # added in place, where a linear layer has just written: nobody needs its bare output
        x = self.norm_attention(self.out(asked.transpose(1, 2).reshape(x.shape)).add_(x))
        return self.norm_mlp(self.mlp(x).add_(x))


def _ask(
    query: Float[Tensor, "batch heads queries part"],
    known_key: Float[Tensor, "batch heads observed part"],
    known_value: Float[Tensor, "batch heads observed part"],
    own_key: Float[Tensor, "batch heads queries part"],
    own_value: Float[Tensor, "batch heads queries part"],
) -> Float[Tensor, "batch heads queries part"]:
    """Attention of each query to what was observed and to itself: one more column, not a square of masked ones."""
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat([query @ known_key.transpose(-1, -2), (query * own_key).sum(-1, keepdim=True)], dim=-1)
    share = scores.softmax(-1)
    own = share[..., -1:] * own_value
    both = torch.baddbmm(own.flatten(0, 1), share[..., :-1].flatten(0, 1), known_value.flatten(0, 1))
    return both.view(own.shape)


class PriorFittedNetwork(nn.Module):
    """What :class:`PriorFitted` builds.

    Parameters
    ----------
    width, layers, heads, waves : int
        As there.
    features : int
        Width of a token: its input, and last the value observed there, which is ignored in queries.
    outputs : int
        Numbers given for each query.

    Examples
    --------
    >>> network = PriorFitted(width=16, layers=2, heads=2).build(features=2, outputs=5, length=0)
    >>> network(torch.rand(3, 10, 2), observed=4).shape
    torch.Size([3, 6, 5])
    """

    def __init__(self, width: int, layers: int, heads: int, waves: int, features: int, outputs: int) -> None:
        super().__init__()
        self.waves = waves
        self.read_input = nn.Linear((features - 1) * (1 + 2 * waves), width)
        self.read_value = nn.Linear(1 + 2 * waves, width)
        self.blocks = nn.ModuleList([PriorFittedBlock(width, heads) for _ in range(layers)])
        self.read_out = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch queries outputs"]:
        """Outputs for the queries, which are the tokens after the first ``observed``."""
        if observed is None or not 0 < observed < tokens.shape[1]:
            raise FewerError(
                "a prior-fitted network needs at least one observed token and one query; given "
                f"{tokens.shape[1]} tokens of which {'none' if observed is None else observed} are observed"
            )
        x = self.read_input(_waves(tokens[..., :-1], self.waves))
        values = self.read_value(_waves(tokens[:, :observed, -1:], self.waves))
        x = torch.cat([x[:, :observed] + values, x[:, observed:]], dim=1)
        for block in self.blocks[:-1]:
            x = block(x, observed)
        return self.read_out(self.blocks[-1](x, observed, last=True))


def _waves(numbers: Float[Tensor, "batch tokens numbers"], count: int) -> Float[Tensor, "batch tokens features"]:
    """Numbers, and their sines and cosines of halving periods."""
    if not count:
        return numbers
    angles = numbers[..., None] * (0.5 * torch.pi * 2.0 ** torch.arange(count, device=numbers.device))
    return torch.cat([numbers, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)
