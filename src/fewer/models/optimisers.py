"""How parameters move, and how fast: the optimisers and learning-rate schedules that several rooms' loops share.

Each is a frozen description, so that a race can name it and a checkpoint can recognise it; ``make``
builds the torch optimiser.  A schedule gives the learning rate as a share of the peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from fewer.core.errors import FewerError

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
"""What torch's optimisers take: parameters, or groups of them that bring settings of their own."""


class Optimiser(Protocol):
    """How the parameters are moved."""

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build the torch optimiser at its peak learning rate."""
        ...


class Schedule(Protocol):
    """How the learning rate changes."""

    def factor(self, progress: float) -> float:
        """Learning rate as a share of the peak, when ``progress`` (0 to 1) of the training is done."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    lr : float, default 0.1
        Peak learning rate.
    momentum : float, default 0.9
        Momentum.
    weight_decay : float, default 5e-4
        L2 penalty.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build it."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=True
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    Parameters
    ----------
    lr : float, default 1e-3
        Peak learning rate.
    weight_decay : float, default 0.01
        Decoupled penalty.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build it."""
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Cosine:
    """From the peak to a floor along a half cosine, after an optional linear rise.

    Parameters
    ----------
    warmup : float, default 0
        Share of the training in which the rate rises linearly from zero to its peak.
    floor : float, default 0
        Share of the peak at which the training ends.

    Examples
    --------
    >>> [round(Cosine(warmup=0.2, floor=0.1).factor(progress), 2) for progress in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.55, 0.1]
    """

    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup < 1 and 0 <= self.floor <= 1):
            raise FewerError(f"cosine: warmup must lie in [0, 1) and floor in [0, 1]; given {self}")

    def factor(self, progress: float) -> float:
        """Learning rate as a share of the peak."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        fallen = (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fallen))


@dataclass(frozen=True)
class Constant:
    """The peak throughout."""

    def factor(self, progress: float) -> float:
        """One."""
        return 1.0


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Give a network's parameters to an optimiser, those apart that a layer wants moved in its own way.

    A layer asks by a method ``own_groups()``, which lists torch's parameter groups: ``params``, and what shall differ
    from the optimiser's defaults, such as ``lr`` (at its peak) or ``weight_decay``.  Groups of equal settings are joined,
    and one group of all parameters remains where no layer asks.

    Parameters
    ----------
    network : nn.Module
        Of any layers.

    Returns
    -------
    list of dict
        The rest first, then what was asked for.

    Examples
    --------
    >>> class Still(nn.Linear):
    ...     def own_groups(self):
    ...         return [{"params": [self.weight], "weight_decay": 0.0}]
    >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 2), Still(2, 2), Still(2, 2)))
    >>> [(len(group.pop("params")), group) for group in groups]
    [(4, {}), (2, {'weight_decay': 0.0})]
    """
    asked: list[tuple[dict[str, Any], list[nn.Parameter]]] = []
    apart: set[int] = set()
    for module in network.modules():
        for group in module.own_groups() if hasattr(module, "own_groups") else ():  # pyright: ignore[reportCallIssue]
            settings = {name: value for name, value in group.items() if name != "params"}
            # a weight that two layers share is moved once
            new = [parameter for parameter in group["params"] if id(parameter) not in apart]
            apart.update(map(id, new))
            for known, members in asked:
                if known == settings:
                    members.extend(new)
                    break
            else:
                asked.append((settings, new))
    rest = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    return [{"params": rest}, *({"params": members, **settings} for settings, members in asked)]


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to a share of the one it was made with.

    Examples
    --------
    >>> optimiser = SGD(lr=0.2).make([nn.Parameter(torch.zeros(1))])
    >>> set_rate(optimiser, 0.5)
    >>> optimiser.param_groups[0]["lr"]
    0.1
    """
    for group in optimiser.param_groups:
        group.setdefault("peak_lr", group["lr"])
        group["lr"] = group["peak_lr"] * factor
