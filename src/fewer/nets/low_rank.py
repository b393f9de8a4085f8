"""Linear layers of low rank, W = (alpha / r) B A: what sparse plus low rank is without its sparse part.

With B = 0 at the start, as adapters begin, a layer says nothing until B has grown; with a random B its weight starts
with the variance of a dense layer's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.nets.linears import TARGETS, Linears, Place, Replaced, dense_linear, replace_linears

Initial = Literal["zero", "random"]


class LowRankLinear(nn.Module):
    """A linear layer whose weight is (alpha / r) B A.

    Parameters
    ----------
    in_features, out_features : int
        As of ``nn.Linear``.
    rank : int, optional
        r, from 1 to below the smaller side; by default a quarter of it.
    alpha : float, default 32
        Scale of the product, divided by r.
    bias : bool, default True
        Add one.
    initial : {"zero", "random"}, default "zero"
        What B starts as: zero, or normal with the variance that gives W that of ``nn.Linear``.
    generator : torch Generator, optional
        On the CPU; torch's global one by default.
    device, dtype
        Of the parameters.

    Examples
    --------
    >>> layer = LowRankLinear(64, 48, rank=4)
    >>> layer(torch.zeros(2, 64)).shape, sum(each.numel() for each in layer.parameters())
    (torch.Size([2, 48]), 496)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | None = None,
        alpha: float = 32.0,
        bias: bool = True,
        initial: Initial = "zero",
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if initial not in get_args(Initial):
            raise FewerError(f"low-rank: unknown initial {initial!r}; choose 'zero' or 'random'")
        self.rank = checked_rank(rank, in_features, out_features)
        self.factor = alpha / self.rank
        where = {"device": device, "dtype": dtype}
        self.A = nn.Parameter(uniform((self.rank, in_features), in_features, generator).to(**where))
        spread = math.sqrt(self.rank) / alpha if initial == "random" else 0.0
        self.B = nn.Parameter((spread * torch.randn(out_features, self.rank, generator=generator)).to(**where))
        self.bias = nn.Parameter(uniform((out_features,), out_features, generator).to(**where)) if bias else None

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The dense weight."""
        return self.factor * (self.B @ self.A)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer, through r numbers a row."""
        return nn.functional.linear(self.factor * nn.functional.linear(x, self.A), self.B, self.bias)

    def to_dense(self) -> nn.Linear:
        """An ordinary layer with the same outputs."""
        return dense_linear(self.weight, self.bias)


@dataclass(frozen=True)
class LowRank(Linears):
    """Every chosen layer becomes one of low rank.

    Parameters
    ----------
    rank : int, optional
        By default a quarter of a layer's smaller side.
    alpha : float, default 32
        Scale of the product, divided by the rank.
    initial : {"zero", "random"}, default "zero"
        What B starts as; see :class:`LowRankLinear`.
    target_modules : sequence of str
        Parts of the names of the layers that are turned.
    """

    rank: int | None = None
    alpha: float = 32.0
    initial: Initial = "zero"
    target_modules: Sequence[str] = TARGETS

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Turn the layers of a network."""

        def make(place: Place) -> nn.Module:
            return LowRankLinear(
                place.in_features,
                place.out_features,
                self.rank,
                self.alpha,
                place.bias,
                self.initial,
                generator=torch_generator(seed, "low rank", place.name),
                device=place.device,
                dtype=place.dtype,
            )

        return replace_linears(network, make, self.target_modules)


def checked_rank(rank: int | None, in_features: int, out_features: int) -> int:
    """A rank below the smaller side of a layer, or an error; by default a quarter of that side, as the papers' are."""
    side = min(in_features, out_features)
    if rank is None:
        rank = max(side // 4, 1)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank < side:
        raise FewerError(
            f"a rank of {rank} does not lie in 1 to below the smaller side of {out_features} by {in_features}; lower rank, "
            "or leave small layers out of target_modules"
        )
    return rank


def uniform(shape: tuple[int, ...], fan: int, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers within 1 / sqrt(fan) of zero, on the CPU: how torch's linear layers start."""
    return torch.empty(shape).uniform_(-1, 1, generator=generator) / math.sqrt(fan)
