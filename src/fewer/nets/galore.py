"""GaLore: dense weights, but Adam sees each gradient through a projection to rank r.

The gradient G (m, n) of a matrix with m <= n is projected by the first r left singular vectors P of a recent G::

    R = P^T G,   W <- W - lr * scale * P Adam(R)

and by right ones where m > n.  Adam's two moments are then r by n, while the weight moves through changing subspaces.

References
----------
Jiawei Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", ICML 2024,
arXiv:2403.03507.
"""

# pyright: reportPrivateImportUsage=false
# torch's optimisers use the _foreach functions in this way; they have no public names

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.models.optimisers import Parameters


@dataclass(frozen=True)
class GaLore:
    """Adam on projected gradients.

    Parameters
    ----------
    lr : float, default 1e-2
        Peak learning rate.
    rank : int, optional
        r; by default a quarter of a matrix's smaller side.  A matrix whose smaller side is no larger is not projected.
    refresh : int, default 200
        Steps after which the subspace is taken anew.
    scale : float, default 0.25
        Of a projected matrix's steps.
    weight_decay : float, default 0
        Decoupled penalty.
    """

    lr: float = 1e-2
    rank: int | None = None
    refresh: int = 200
    scale: float = 0.25
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if (self.rank is not None and self.rank < 1) or self.refresh < 1 or not self.scale > 0:
            raise FewerError(
                f"galore: rank and refresh must be at least 1 and scale above 0; given {self.rank}, {self.refresh} and "
                f"{self.scale}"
            )

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build it; matrices are projected unless their group says ``project: False``."""
        return ProjectedAdam(parameters, self.lr, self.rank, self.refresh, self.scale, weight_decay=self.weight_decay)


class ProjectedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay that keeps the moments of projected gradients.

    Parameters
    ----------
    parameters : iterable of Parameter, or of groups
        Matrices of a group are projected unless it has ``project=False``.
    lr, rank, refresh, scale, weight_decay
        As of :class:`GaLore`.
    betas, eps
        As of Adam.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(64, 32))
    >>> optimiser = ProjectedAdam([weight], lr=0.1, rank=4)
    >>> weight.square().sum().backward()
    >>> optimiser.step()
    >>> optimiser.state[weight]["exp_avg"].shape
    torch.Size([64, 4])
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        rank: int | None = None,
        refresh: int = 200,
        scale: float = 0.25,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        settings = {"lr": lr, "rank": rank, "refresh": refresh, "scale": scale, "project": True}
        super().__init__(parameters, {**settings, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            states = [self._prepared(parameter, group) for parameter in moved]
            seen = [_down(parameter.grad, state) for parameter, state in zip(moved, states, strict=True)]
            changes = _adam(seen, states, group)
            for parameter, state, change in zip(moved, states, changes, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = group["scale"] if "projection" in state else 1.0
                parameter.add_(_up(change, state), alpha=-group["lr"] * size)
        return loss

    def _prepared(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter, with a subspace as new as it has to be."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        side = min(gradient.shape) if gradient.ndim == 2 and group["project"] else 0
        rank = max(side // 4, 1) if group["rank"] is None else group["rank"]
        steps = state.get("steps", 0)
        if side > rank and steps % group["refresh"] == 0:
            state["projection"] = subspace(gradient, rank)
        if not steps:
            like = _down(gradient, state)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)
        state["steps"] = steps + 1
        return state


def subspace(gradient: Float[Tensor, "m n"], rank: int) -> Float[Tensor, "side rank"]:
    """The first singular vectors on the smaller side of a gradient: left ones if it is not taller than wide.

    Raises
    ------
    FewerError
        If the gradient has NaN or infinite entries.
    """
    if not torch.isfinite(gradient).all():
        raise FewerError("galore: a gradient is not finite, so it has no subspace; lower the learning rate")
    exact = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    left, _, right = torch.linalg.svd(exact, full_matrices=False)
    vectors = left[:, :rank] if gradient.shape[0] <= gradient.shape[1] else right[:rank].T
    return vectors.to(gradient.dtype).contiguous()


def _down(gradient: Tensor | None, state: dict[str, Any]) -> Tensor:
    assert gradient is not None
    projection = state.get("projection")
    if projection is None:
        return gradient
    return projection.T @ gradient if gradient.shape[0] <= gradient.shape[1] else gradient @ projection


def _up(change: Tensor, state: dict[str, Any]) -> Tensor:
    projection = state.get("projection")
    if projection is None:
        return change
    # what was projected on the left has r rows
    return projection @ change if change.shape[0] == projection.shape[1] else change @ projection.T


def _adam(seen: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> list[Tensor]:
    """Adam's directions, with its moments brought up to date, over all parameters at once."""
    first, second = group["betas"]
    means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
    torch._foreach_lerp_(means, seen, 1 - first)
    torch._foreach_mul_(squares, second)
    torch._foreach_addcmul_(squares, seen, seen, 1 - second)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [(1 - second ** state["steps"]) ** 0.5 for state in states])
    torch._foreach_add_(roots, group["eps"])
    changes = torch._foreach_div(means, roots)
    torch._foreach_div_(changes, [1 - first ** state["steps"] for state in states])
    return list(changes)
