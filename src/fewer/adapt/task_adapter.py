"""The bottleneck adapters of one task as tensors: what is trained, written to files and put into models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint

ACTIVATIONS = {"relu": nn.functional.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}
"""What stands between the two matrices of an adapter."""

PARTS: tuple[str, ...] = ("down.weight", "down.bias", "up.weight", "up.bias")
"""Tensors of one adapter at one layer: D (hidden, width), b (hidden,), U (width, hidden), c (width,)."""


@dataclass(frozen=True, eq=False)
class TaskAdapter:
    """The trained adapters of one task, one for each place of an encoder.

    Parameters
    ----------
    task : str
        Its name.
    layers : tuple of dict
        For each place the tensors named in :data:`PARTS`.
    activation : {"relu", "gelu", "silu"}, default "relu"
        Between the two matrices.

    Raises
    ------
    FewerError
        If a tensor is missing or shapes do not belong together.

    Examples
    --------
    >>> from fewer.adapt.bottleneck_adapter import Bottlenecks
    >>> TaskAdapter("tense", (dict(zip(PARTS, Bottlenecks(1, 8, 2).of(0))),))
    TaskAdapter('tense', 1 layer of 8-2-8, relu, ...)
    """

    task: str
    layers: tuple[dict[str, Tensor], ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise FewerError(
                f"adapter {self.task}: activation is {self.activation!r}; choose {', '.join(sorted(ACTIVATIONS))}"
            )
        if not self.layers:
            raise FewerError(f"adapter {self.task}: it has no layer")
        for index, layer in enumerate(self.layers):
            shapes = {name: tuple(each.shape) for name, each in layer.items()}
            hidden, width = shapes.get("down.weight", (0, 0)) if len(shapes.get("down.weight", ())) == 2 else (0, 0)
            if not hidden or shapes != dict(
                zip(PARTS, ((hidden, width), (hidden,), (width, hidden), (width,)), strict=True)
            ):
                raise FewerError(
                    f"adapter {self.task}: the tensors of layer {index} do not make a bottleneck: {shapes}"
                )
            if any(not bool(torch.isfinite(each).all()) for each in layer.values()):
                raise FewerError(f"adapter {self.task}: layer {index} holds NaN or infinity; train it anew")
        if len({layer["down.weight"].shape for layer in self.layers}) > 1:
            raise FewerError(f"adapter {self.task}: its layers are of different width; give one width for all")

    @property
    def hidden(self) -> int:
        """Units between the two matrices."""
        return self.layers[0]["down.weight"].shape[0]

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.layers[0]["down.weight"].shape[1]

    def __repr__(self) -> str:
        weights = fingerprint(*(layer[part].detach().float().cpu().numpy() for layer in self.layers for part in PARTS))
        count = f"{len(self.layers)} layer{'s' if len(self.layers) > 1 else ''}"
        return f"TaskAdapter({self.task!r}, {count} of {self.width}-{self.hidden}-{self.width}, {self.activation}, {weights})"
