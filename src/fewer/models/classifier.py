"""Classifiers in two parts, a backbone and a linear head, and the small architectures that build them.

Knows shapes, not training.  An architecture is a frozen description (so that a race can name it and
a checkpoint can recognise it); ``build`` makes the network for a row's shape and a number of classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError


class Classifier(nn.Module):
    """A backbone and a linear head.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows to features.
    width : int
        How many features.
    classes : int
        How many classes.

    Examples
    --------
    >>> import torch
    >>> net = MLP((16,)).build((8,), classes=3)
    >>> net(torch.zeros(5, 8)).shape, net.features(torch.zeros(5, 8)).shape
    (torch.Size([5, 3]), torch.Size([5, 16]))
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.head = nn.Linear(width, classes)

    def features(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch width"]:
        """What the head sees."""
        return self.backbone(x)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.head(self.backbone(x))


class Architecture(Protocol):
    """Describes a classifier; two equal descriptions build equal shapes."""

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make a freshly initialised network for rows of ``shape``; draws from torch's global generator."""
        ...


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU; rows of any shape are flattened.

    Parameters
    ----------
    hidden : tuple of int, default (128, 64)
        Units of each hidden layer; the last ones are the features.
    dropout : float, default 0
        Share of units dropped after each hidden layer while training.
    """

    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or not 0 <= self.dropout < 1:
            raise FewerError(f"mlp: hidden must hold positive sizes and dropout lie in [0, 1); given {self}")

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``."""
        sizes = (math.prod(shape), *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return Classifier(nn.Sequential(*layers), sizes[-1], classes)


@dataclass(frozen=True)
class ConvNet:
    """Strided convolutions over one or two dimensions, then an optional fully connected layer.

    Parameters
    ----------
    channels : tuple of int, default (16, 32)
        Output channels of each convolution; each halves the resolution.
    kernel : int, default 3
        Its width.
    norm : bool, default False
        Batch normalisation after each convolution.
    hidden : int, default 64
        Units of the fully connected layer; 0 leaves it out, and the flattened maps are the features.
    pool : bool, default False
        Take the mean of each last map in place of the map.
    """

    channels: tuple[int, ...] = (16, 32)
    kernel: int = 3
    norm: bool = False
    hidden: int = 64
    pool: bool = False

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``: (channels, length) or (channels, height, width)."""
        if len(shape) not in (2, 3):
            raise FewerError(
                f"a convolutional network needs rows of (channels, length) or (channels, height, width); these are {shape}"
            )
        convolution = nn.Conv1d if len(shape) == 2 else nn.Conv2d
        normalise = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
        layers: list[nn.Module] = []
        before, sides = shape[0], shape[1:]
        for after in self.channels:
            layers.append(
                convolution(before, after, self.kernel, stride=2, padding=self.kernel // 2, bias=not self.norm)
            )
            if self.norm:
                layers.append(normalise(after))
            layers.append(nn.ReLU())
            before, sides = after, tuple((side + 1) // 2 for side in sides)
        if self.pool:
            layers.append(nn.AdaptiveAvgPool1d(1) if len(shape) == 2 else nn.AdaptiveAvgPool2d(1))
        layers.append(nn.Flatten())
        width = before if self.pool else before * math.prod(sides)
        if self.hidden:
            layers += [nn.Linear(width, self.hidden), nn.ReLU()]
            width = self.hidden
        return Classifier(nn.Sequential(*layers), width, classes)
