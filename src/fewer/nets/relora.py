"""ReLoRA: low-rank adapters that are merged into a frozen dense weight again and again.

Between two merges only W_frozen + (alpha / r) B A moves, by rank r; over several the sum may have any rank.  At a merge
the product is added to the frozen weight, A is drawn anew and B is zero, the smallest entries of the optimiser's state
are forgotten, and the learning rate rises again from zero.

References
----------
Vladislav Lialin et al., "ReLoRA: High-Rank Training Through Low-Rank Updates", ICLR 2024, arXiv:2307.05695.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import Cosine
from fewer.nets.linears import TARGETS, Linears, Place, Replaced, Step, dense_linear, replace_linears
from fewer.nets.low_rank import checked_rank, uniform


class MergingLinear(nn.Module):
    """A frozen weight and a low-rank product beside it that can be merged into it.

    Parameters
    ----------
    in_features, out_features, rank, alpha, bias, generator, device, dtype
        As of :class:`fewer.nets.low_rank.LowRankLinear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | None = None,
        alpha: float = 32.0,
        bias: bool = True,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rank = checked_rank(rank, in_features, out_features)
        self.factor = alpha / self.rank
        where = {"device": device, "dtype": dtype}
        frozen = uniform((out_features, in_features), in_features, generator).to(**where)
        self.frozen = nn.Parameter(frozen, requires_grad=False)
        self.A = nn.Parameter(uniform((self.rank, in_features), in_features, generator).to(**where))
        self.B = nn.Parameter(torch.zeros(out_features, self.rank, **where))
        self.bias = nn.Parameter(uniform((out_features,), out_features, generator).to(**where)) if bias else None

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The dense weight."""
        return torch.addmm(self.frozen, self.B, self.A, alpha=self.factor)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer."""
        moved = nn.functional.linear(self.factor * nn.functional.linear(x, self.A), self.B)
        return nn.functional.linear(x, self.frozen, self.bias) + moved

    @torch.no_grad()
    def merge(self, generator: torch.Generator | None = None) -> None:
        """Add the product to the frozen weight and begin a new one; the outputs stay the same but for rounding."""
        self.frozen.addmm_(self.B, self.A, alpha=self.factor)
        self.A.copy_(uniform(tuple(self.A.shape), self.A.shape[1], generator))
        self.B.zero_()

    def to_dense(self) -> nn.Linear:
        """An ordinary layer with the same outputs."""
        return dense_linear(self.weight, self.bias)


@dataclass(frozen=True)
class ReLoRA(Linears):
    """Every chosen layer becomes a frozen weight with a low-rank product that is merged at even intervals.

    Parameters
    ----------
    rank : int, optional
        By default a quarter of a layer's smaller side.
    alpha : float, default 32
        Scale of the product, divided by the rank.
    restarts : int, default 3
        How many merges there are, at even shares of the training.
    reset : float, default 0.99
        Share of the optimiser's state of A and B, the smallest, that is forgotten at a merge.
    target_modules : sequence of str
        Parts of the names of the layers that are turned.
    """

    rank: int | None = None
    alpha: float = 32.0
    restarts: int = 3
    reset: float = 0.99
    target_modules: Sequence[str] = TARGETS

    def __post_init__(self) -> None:
        if self.restarts < 0 or not 0 <= self.reset <= 1:
            raise FewerError(
                f"relora: restarts must be at least 0 and reset lie in [0, 1]; given {self.restarts} and {self.reset}"
            )

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Turn the layers of a network."""

        def make(place: Place) -> nn.Module:
            return MergingLinear(
                place.in_features,
                place.out_features,
                self.rank,
                self.alpha,
                place.bias,
                generator=torch_generator(seed, "relora", place.name),
                device=place.device,
                dtype=place.dtype,
            )

        return replace_linears(network, make, self.target_modules)

    def after_step(self, step: Step) -> None:
        """Merge where the training passes a restart; not at its very end, where nothing would follow."""
        cycles = self.restarts + 1
        reached = int(step.ended * cycles + 1e-9)
        if reached == int(step.began * cycles + 1e-9) or step.ended >= 1:
            return
        for name, layer in step.network.named_modules():
            if isinstance(layer, MergingLinear):
                layer.merge(torch_generator(step.seed, "relora", name, reached))
                for parameter in (layer.A, layer.B):
                    forget(step.optimiser.state.get(parameter, {}), parameter.shape, self.reset)


@dataclass(frozen=True)
class JaggedCosine:
    """A cosine whose rate rises again from zero after each restart.

    Parameters
    ----------
    restarts : int, default 3
        At even shares of the training.
    rewarm : float, default 0.025
        Share of the training in which the rate rises after each.
    warmup, floor : float, default 0.1
        Of the cosine; see :class:`fewer.models.optimisers.Cosine`.

    Examples
    --------
    >>> schedule = JaggedCosine(restarts=1, rewarm=0.1, warmup=0.0, floor=1.0)
    >>> [round(schedule.factor(progress), 2) for progress in (0, 0.49, 0.5, 0.55, 0.6, 1)]
    [1.0, 1.0, 0.0, 0.5, 1.0, 1.0]
    """

    restarts: int = 3
    rewarm: float = 0.025
    warmup: float = 0.1
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.restarts < 0 or not 0 <= self.rewarm * (self.restarts + 1) < 1:
            raise FewerError(
                f"relora: restarts must be at least 0, and rewarm shorter than the {1 / (max(self.restarts, 0) + 1):g} "
                f"between them; given {self.restarts} and {self.rewarm}"
            )
        Cosine(self.warmup, self.floor)

    def factor(self, progress: float) -> float:
        """Learning rate as a share of the peak."""
        progress = min(max(progress, 0.0), 1.0)
        cycles = self.restarts + 1
        reached = min(int(progress * cycles + 1e-9), self.restarts)
        since = max(progress - reached / cycles, 0.0)
        rising = since / self.rewarm if reached and since < self.rewarm else 1.0
        return rising * Cosine(self.warmup, self.floor).factor(progress)


def relora(
    rank: int | None = None,
    alpha: float = 32.0,
    restarts: int = 3,
    reset: float = 0.99,
    rewarm: float = 0.025,
    warmup: float = 0.1,
    floor: float = 0.1,
) -> dict[str, Any]:
    """The layers and the schedule of ReLoRA, which belong together; see :class:`ReLoRA` and :class:`JaggedCosine`."""
    return {
        "linears": ReLoRA(rank, alpha, restarts, reset),
        "schedule": JaggedCosine(restarts, rewarm, warmup, floor),
    }


def forget(state: dict[str, Any], shape: torch.Size, share: float) -> None:
    """Set the smallest entries of an optimiser's state to zero, and its count of steps if there are any.

    Entries are forgotten in all arrays together, by the size of the first moment: one kept over a second moment of zero
    would make a step of any length.  Moments that begin at zero need the correction of a first step; without it, Adam's
    usual second beta of 0.999 makes the next steps ten times too long.

    Parameters
    ----------
    state : dict
        Of one parameter, with ``exp_avg`` if anything; tensors of ``shape`` and ``step`` are changed in place.
    shape : torch.Size
        The parameter's.
    share : float
        How many, in [0, 1], rounded down to whole entries.
    """
    count = int(share * shape.numel())
    if not count or "exp_avg" not in state:
        return
    smallest = state["exp_avg"].abs().flatten().topk(count, largest=False).indices
    for name, value in state.items():
        if name == "step":
            value.zero_()
        elif isinstance(value, Tensor) and value.shape == shape:
            value.view(-1)[smallest] = 0
