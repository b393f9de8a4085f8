"""Networks that read a sequence and say one thing about it: mixers in residual blocks, and a mean over time.

The mixer is what differs: long convolutions (:mod:`fewer.nets.long_conv`), and the two that these are measured against,
diagonal state spaces and attention, of the same width and depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.classifier import Classifier
from fewer.nets.diagonal import S4D

Norm = Literal["layer", "batch"]
Sequences = Float[Tensor, "batch length width"]


class SequenceBackbone(nn.Module):
    """A linear encoder, residual blocks of a mixer each, and the mean over time.

    Parameters
    ----------
    inputs : int
        Numbers at each step of the sequence.
    width : int
        Numbers at each step inside.
    mixers : sequence of nn.Module
        From (batch, length, width) to the same shape; one a block.
    norm : {"layer", "batch"}, default "layer"
        Normalisation of a block.
    prenorm : bool, default False
        Normalise what goes into a mixer, rather than the sum that comes out of the block.
    dropout : float, default 0.1
        Share of channels that are dropped from a mixer's output, for the whole sequence at once.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        mixers: Sequence[nn.Module],
        norm: Norm = "layer",
        prenorm: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.encoder = nn.Linear(inputs, width)
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm == "layer" else _BatchNorm(width) for _ in mixers)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Float[Tensor, "batch length inputs"]) -> Float[Tensor, "batch width"]:
        """Features of whole sequences."""
        z = self.encoder(x)
        for mixer, norm in zip(self.mixers, self.norms, strict=True):
            mixed = mixer(norm(z) if self.prenorm else z)
            z = z + self.dropout(mixed.mT).mT
            z = z if self.prenorm else norm(z)
        return z.mean(dim=1)


class _BatchNorm(nn.BatchNorm1d):
    """Over batch and time, of (batch, length, width)."""

    def forward(self, input: Sequences) -> Sequences:
        return super().forward(input.mT).mT


class AsSequence(nn.Module):
    """Read rows of (channels, length), or images pixel by pixel, as (length, channels)."""

    def forward(self, x: Float[Tensor, "batch channels *places"]) -> Float[Tensor, "batch length channels"]:
        """Flatten the places, line by line."""
        return x.flatten(2).mT


def channels_and_length(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """What :class:`AsSequence` makes of a row of this shape.

    Raises
    ------
    FewerError
        If the row is no sequence.
    """
    if len(shape) not in (2, 3):
        raise FewerError(f"{name}: rows are (channels, length), or images (channels, height, width); these are {shape}")
    return shape[0], shape[1] if len(shape) == 2 else shape[1] * shape[2]


class S4DMixer(nn.Sequential):
    """Diagonal state spaces where a long convolution would be; GELU, dropout and a gated linear map follow."""

    def __init__(self, width: int, modes: int, dropout: float, kernel_lr: float | None) -> None:
        super().__init__(S4D(width, modes=modes), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 2 * width), nn.GLU())
        self.kernel_lr = kernel_lr

    def own_groups(self) -> list[dict[str, Any]]:
        """The state space moves slowly and does not decay, as its authors train it."""
        rate = {} if self.kernel_lr is None else {"lr": self.kernel_lr}
        space = [parameter for name, parameter in self[0].named_parameters() if name not in ("c", "skip")]
        return [{"params": space, "weight_decay": 0.0, **rate}]


@dataclass(frozen=True)
class S4DArchitecture:
    """Diagonal state spaces (S4D-Lin) in the blocks that long convolutions have.

    Parameters
    ----------
    width, layers : int, default 64 and 3
        Size.
    modes : int, default 32
        Complex modes of each kernel.
    norm, prenorm, dropout
        See :class:`SequenceBackbone`.
    kernel_lr : float or None, default 1e-3
        Learning rate of step sizes, decays and frequencies; None for the optimiser's.
    """

    width: int = 64
    layers: int = 3
    modes: int = 32
    norm: Norm = "layer"
    prenorm: bool = False
    dropout: float = 0.1
    kernel_lr: float | None = 1e-3

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``: (channels, length) or (channels, height, width)."""
        channels, _ = channels_and_length(shape, "s4d")
        mixers = [S4DMixer(self.width, self.modes, self.dropout, self.kernel_lr) for _ in range(self.layers)]
        backbone = SequenceBackbone(channels, self.width, mixers, self.norm, self.prenorm, self.dropout)
        return Classifier(nn.Sequential(AsSequence(), backbone), self.width, classes)


@dataclass(frozen=True)
class TransformerArchitecture:
    """A pre-norm Transformer over the steps of a sequence, with learned positions.

    Parameters
    ----------
    width, layers : int, default 64 and 3
        Size.
    heads : int, default 4
        Of the attention.
    hidden : int, default 128
        Of the layer at each step.
    dropout : float, default 0.1
        Throughout.
    """

    width: int = 64
    layers: int = 3
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise FewerError(f"transformer: a width of {self.width} cannot be shared by {self.heads} heads")

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``: (channels, length) or (channels, height, width)."""
        backbone = _Attentive(*channels_and_length(shape, "transformer"), self)
        return Classifier(nn.Sequential(AsSequence(), backbone), self.width, classes)


class _Attentive(nn.Module):
    def __init__(self, channels: int, length: int, size: TransformerArchitecture) -> None:
        super().__init__()
        self.encoder = nn.Linear(channels, size.width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, size.width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.width, size.heads, size.hidden, size.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.layers)
        )
        self.norm = nn.LayerNorm(size.width)

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch width"]:
        z = self.encoder(x) + self.positions
        for block in self.blocks:
            z = block(z)
        return self.norm(z).mean(dim=1)
