"""How many units of a network are at work: the share of activations above zero, counted by forward hooks.

A rectified unit that is silent on all inputs passes no gradient back, so a network in which few units are at work has lost
some of what it could still learn.  The share Phi is counted where it costs next to nothing, in forward passes that are made
anyway:

    Phi = (activations above zero) / (activations), over all rectified layers and all samples.

References
----------
Ma, Li et al., "Revisiting Plasticity in Visual Reinforcement Learning: Data, Modules and Training Stages", ICLR 2024,
arXiv:2310.07418.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fewer.core.errors import FewerError

RECTIFIERS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)
"""Activations that are exactly zero where a unit is silent."""


class FAUMonitor:
    """The fraction of active units (FAU) of any module, over the forward passes made while it watches.

    Layers are pooled: each counts with as many units as it has.

    Parameters
    ----------
    module : nn.Module
        Whose activations are counted, where they are modules of their own (``nn.ReLU()``, not ``functional.relu``).
    layers : tuple of module types, default (nn.ReLU, nn.ReLU6)
        Which activations are looked at.
    threshold : float, optional
        Above what an activation counts as active; by default 0, which has a meaning for rectified units alone.

    Raises
    ------
    FewerError
        If the module has no such layer, or its layers are not rectifiers and no threshold says what active means.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1))
    >>> monitor = FAUMonitor(network)
    >>> with monitor:
    ...     _ = network(torch.randn(500, 3))
    >>> 0.3 < monitor.average() < 0.7
    True
    """

    def __init__(
        self, module: nn.Module, layers: tuple[type[nn.Module], ...] = RECTIFIERS, threshold: float | None = None
    ) -> None:
        self.module, self.layers = module, tuple(layers)
        soft = [layer.__name__ for layer in self.layers if not issubclass(layer, RECTIFIERS)]
        if soft and threshold is None:
            raise FewerError(
                f"FAU monitor: a {soft[0]} unit is never silent, so 'active' has no meaning for it; say from which "
                "activation on it counts as active, threshold=0.1 for instance, or watch rectified layers"
            )
        if threshold is not None and not math.isfinite(threshold):
            raise FewerError(f"FAU monitor: the threshold is {threshold}; give a finite number")
        self.threshold = 0.0 if threshold is None else threshold
        if not self._watched():
            kinds = " or ".join(layer.__name__ for layer in self.layers)
            has = sorted({type(each).__name__ for each in module.modules() if not list(each.children())})
            raise FewerError(
                f"FAU monitor: {type(module).__name__} has no {kinds} module, its parts are {', '.join(has)}; use "
                "nn.ReLU() as a module, or name its activations with layers= and a threshold="
            )
        self._handles: list[RemovableHandle] = []
        self.reset()

    def _watched(self) -> list[nn.Module]:
        return [each for each in self.module.modules() if isinstance(each, self.layers)]

    def reset(self) -> None:
        """Begin to count anew."""
        self._active: Tensor | int = 0
        self._seen = 0

    def __enter__(self) -> FAUMonitor:
        """Watch; hooks stay only as long as this lasts, so that copies of the module carry none."""
        # looked up anew each time: a network may have been changed since
        self._handles = [each.register_forward_hook(self._count) for each in self._watched()]
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no more."""
        while self._handles:
            self._handles.pop().remove()

    @torch.no_grad()
    def _count(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        # stays on the device: nobody waits for the number before it is asked for
        self._active = self._active + (output > self.threshold).sum()
        self._seen += output.numel()

    @property
    def seen(self) -> int:
        """Activations that were counted since the last reset."""
        return self._seen

    def average(self) -> float:
        """The share of active ones among all that were counted.

        Raises
        ------
        FewerError
            If nothing was.
        """
        if not self._seen:
            raise FewerError(
                "FAU monitor: no forward pass was made while it watched, so there is no average; run the module inside "
                "'with monitor:'"
            )
        return float(self._active) / self._seen

    def state_dict(self) -> dict[str, Any]:
        """What was counted, for a checkpoint."""
        return {"active": int(self._active), "seen": self._seen}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up what was counted."""
        self._active, self._seen = tree["active"], tree["seen"]
