"""Critics of chunks: one value for every prefix of a chunk, each of which knows the actions of its prefix alone.

    Q(s, a_1 .. a_h) -> Q^1(s, a_1), Q^2(s, a_1 a_2), .. Q^h(s, a_1 .. a_h)

Two ways to be causal: a small transformer over [state, a_1 .. a_h] in which a token sees those before it, and fully connected
layers whose first one adds up what the actions of a prefix contribute.  All members of the ensemble and all prefixes come
out of one pass; :meth:`ChunkCritic.full` gives the last value alone, for a fraction of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.core.errors import FewerError
from fewer.models.ensemble import LinearEnsemble

States = Float[Tensor, "batch features"]
Chunks = Float[Tensor, "batch chunk action"]


class ChunkCritics(Protocol):
    """Describes a critic of chunks; two equal descriptions build equal shapes."""

    def build(self, features: int, chunk: int, action: int) -> ChunkCritic:
        """Make it, from torch's global generator."""
        ...


class ChunkCritic(nn.Module):
    """An ensemble of networks that value chunks."""

    def forward(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch chunk"]:
        """The value of every prefix, by every member."""
        raise NotImplementedError

    def full(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch"]:
        """The value of the whole chunk: the last of :meth:`forward`."""
        raise NotImplementedError


# --- a transformer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CausalTransformer:
    """A small transformer over the state and the actions after it.

    Parameters
    ----------
    width : int, default 64
        Numbers of a token.
    layers : int, default 2
        Blocks of attention and feed-forward part.
    heads : int, default 4
        Of each attention.
    members : int, default 2
        Networks that share nothing.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    members: int = 2

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.members) < 1 or self.width % self.heads:
            raise FewerError(
                f"causal-transformer: sizes must be at least 1 and width a multiple of the heads; given {self}"
            )

    def build(self, features: int, chunk: int, action: int) -> ChunkCritic:
        """Make it."""
        return TransformerCritic(self, features, chunk, action)


class TransformerCritic(ChunkCritic):
    """What :class:`CausalTransformer` builds.

    Examples
    --------
    >>> critic = CausalTransformer(width=8, layers=1, heads=2).build(features=3, chunk=5, action=2)
    >>> critic(torch.zeros(4, 3), torch.zeros(4, 5, 2)).shape, critic.full(torch.zeros(4, 3), torch.zeros(4, 5, 2)).shape
    (torch.Size([2, 4, 5]), torch.Size([2, 4]))
    """

    def __init__(self, shape: CausalTransformer, features: int, chunk: int, action: int) -> None:
        super().__init__()
        width, members = shape.width, shape.members
        self.state = LinearEnsemble(features, width, members)
        self.action = LinearEnsemble(action, width, members)
        self.position = nn.Parameter(0.02 * torch.randn(chunk, members, width))
        self.blocks = nn.ModuleList(_Block(width, shape.heads, members) for _ in range(shape.layers))
        self.value = LinearEnsemble(width, 1, members)

    def forward(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch chunk"]:
        """The value of every prefix."""
        x = self._tokens(states, chunks)
        for block in self.blocks:
            x = block(x)
        return self._values(x[:, 1:])

    def full(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch"]:
        """The value of the whole chunk; the last block is computed for the last token alone."""
        x = self._tokens(states, chunks)
        for index, block in enumerate(self.blocks):
            x = block(x, last=index == len(self.blocks) - 1)
        return self._values(x)[..., 0]

    def _tokens(self, states: States, chunks: Chunks) -> Float[Tensor, "batch tokens members width"]:
        first = self.state(states[:, None])[:, None]
        later = self.action(chunks.flatten(0, 1)[:, None]).unflatten(0, chunks.shape[:2]) + self.position
        return torch.cat([first, later], dim=1)

    def _values(self, x: Float[Tensor, "batch tokens members width"]) -> Float[Tensor, "members batch tokens"]:
        normed = functional.layer_norm(x, x.shape[-1:])
        return self.value(normed.flatten(0, 1))[..., 0].unflatten(0, x.shape[:2]).permute(2, 0, 1)


class _Block(nn.Module):
    """Attention and feed-forward part, each with a norm before it and a skip around it; members apart."""

    def __init__(self, width: int, heads: int, members: int) -> None:
        super().__init__()
        self.heads = heads
        # one after a norm without weights of its own, which these layers have anyhow
        self.query = LinearEnsemble(width, width, members)
        self.key_value = LinearEnsemble(width, 2 * width, members)
        self.out = LinearEnsemble(width, width, members)
        self.up = LinearEnsemble(width, 4 * width, members)
        self.down = LinearEnsemble(4 * width, width, members)

    def forward(
        self, x: Float[Tensor, "batch tokens members width"], last: bool = False
    ) -> Float[Tensor, "batch asked members width"]:
        batch, tokens, members, width = x.shape
        normed = functional.layer_norm(x, (width,))
        asked = slice(-1, None) if last else slice(None)
        query = self.query(normed[:, asked].flatten(0, 1)).unflatten(0, (batch, -1))
        key, value = self.key_value(normed.flatten(0, 1)).unflatten(0, (batch, tokens)).chunk(2, dim=-1)
        # (batch * members, heads, tokens, width of a head): what the fused kernels take
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1) for each in (query, key, value)
        )
        # the last token sees all
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=not last)
        mixed = mixed.unflatten(0, (batch, members)).permute(0, 3, 1, 2, 4).flatten(-2)
        x = x[:, asked] + self.out(mixed.flatten(0, 1)).unflatten(0, (batch, -1))
        normed = functional.layer_norm(x, (width,)).flatten(0, 1)
        return x + self.down(functional.gelu(self.up(normed))).unflatten(0, (batch, -1))


# --- fully connected layers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrefixMLP:
    """Fully connected layers over the state and the sum of what the actions of a prefix contribute.

    About an order of magnitude cheaper than the transformer.

    Parameters
    ----------
    hidden : tuple of int, default (128, 128)
        Units of each hidden layer.
    members : int, default 2
        Networks that share nothing.
    """

    hidden: tuple[int, ...] = (128, 128)
    members: int = 2

    def __post_init__(self) -> None:
        if self.members < 1 or not self.hidden or min(self.hidden) < 1:
            raise FewerError(f"prefix-mlp: at least one member and one hidden layer are needed; given {self}")

    def build(self, features: int, chunk: int, action: int) -> ChunkCritic:
        """Make it."""
        return PrefixCritic(self, features, chunk, action)


class PrefixCritic(ChunkCritic):
    """What :class:`PrefixMLP` builds.

    Examples
    --------
    >>> PrefixMLP((16,)).build(features=3, chunk=5, action=2)(torch.zeros(4, 3), torch.zeros(4, 5, 2)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, shape: PrefixMLP, features: int, chunk: int, action: int) -> None:
        super().__init__()
        width, members = shape.hidden[0], shape.members
        bound = (features + chunk * action) ** -0.5
        self.state = nn.Parameter(torch.empty(members, features, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, width).uniform_(-bound, bound))
        self.actions = nn.Parameter(torch.empty(members, chunk * action, width).uniform_(-bound, bound))
        # which prefix it is
        self.length = nn.Parameter(torch.empty(members, chunk, width).uniform_(-bound, bound))
        self.later = nn.ModuleList(
            LinearEnsemble(before, after, members) for before, after in itertools.pairwise((*shape.hidden, 1))
        )

    def forward(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch chunk"]:
        """The value of every prefix; the first layer is computed once for all of them."""
        base = torch.baddbmm(self.bias, states.expand(len(self.bias), -1, -1), self.state)
        count = chunks.shape[1]
        seen = chunks.new_ones(count, count).tril()  # which actions a prefix has
        prefixes = (chunks[:, None] * seen[:, :, None]).flatten(2)
        adds = torch.matmul(prefixes.flatten(0, 1), self.actions).unflatten(1, (-1, count))
        x = base[:, :, None] + adds + self.length[:, None]
        return self._rest(x.flatten(1, 2)).unflatten(1, chunks.shape[:2])

    def full(self, states: States, chunks: Chunks) -> Float[Tensor, "members batch"]:
        """The value of the whole chunk."""
        base = torch.baddbmm(self.bias + self.length[:, -1:], states.expand(len(self.bias), -1, -1), self.state)
        return self._rest(torch.baddbmm(base, chunks.flatten(1).expand(len(self.bias), -1, -1), self.actions))

    def _rest(self, x: Float[Tensor, "members rows width"]) -> Float[Tensor, "members rows"]:
        x = x.transpose(0, 1)
        for layer in self.later:
            x = layer(x.relu())
        return x[..., 0].T
