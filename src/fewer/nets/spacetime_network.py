"""SpaceTime as networks: the forecaster with its three-part loss, and a classifier of signals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.classifier import Classifier
from fewer.nets.direct_forecasts import Future, Window, root_mean_square
from fewer.nets.sequence_network import AsSequence, channels_and_length
from fewer.nets.spacetime_layers import GROUP, ClosedLoop, encoder


class SpaceTimeNetwork(nn.Module):
    """Copies of a series, an encoder in open loop, a decoder in closed loop, and a linear output.

    Parameters
    ----------
    channels : int, default 128
        Copies, a multiple of eight.
    kernel_dim : int, default 64
        Entries of each state; no more than the length of a window.
    blocks : int, default 2
        Of the encoder; the first begins with fixed filters.
    dropout : float, default 0.25
        Before each linear layer.
    weights : tuple of three floats, default (1, 1, 1)
        Of the closed loop, the open loop and the next inputs in the loss.

    Examples
    --------
    >>> network = SpaceTimeNetwork(channels=8, kernel_dim=4)
    >>> network(torch.randn(5, 32), horizon=100).shape
    torch.Size([5, 100])
    """

    def __init__(
        self,
        channels: int = 128,
        kernel_dim: int = 64,
        blocks: int = 2,
        dropout: float = 0.25,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_dim = kernel_dim
        self.weights = weights
        self.encoder = encoder(channels, kernel_dim, blocks, dropout)
        self.decoder = ClosedLoop(channels, kernel_dim)
        self.output = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, 1))

    def forward(self, window: Window, horizon: int) -> Future:
        """Forecast in closed loop."""
        level = window.mean(dim=1, keepdim=True)
        return self._closed(self._encoded(window - level), horizon) + level

    def loss(self, window: Window, future: Future) -> Float[Tensor, ""]:
        """The three parts, by their weights; the first ``kernel_dim - 1`` steps, before a state is full, do not count."""
        level, length, filled = window.mean(dim=1, keepdim=True), window.shape[1], self.kernel_dim
        window, future = window - level, future - level
        inputs = self._encoded(window)
        opened, next_inputs = self.decoder.open_loop(inputs)
        opened = self.output(opened[:, filled - 1 :]).squeeze(-1)
        observed = torch.cat([window, future[:, :1]], dim=1)
        closed = root_mean_square(self._closed(inputs, future.shape[1]), future)
        open_ = root_mean_square(opened, observed[:, filled:])
        following = root_mean_square(next_inputs[:, filled - 1 : length - 1], inputs[:, filled:])
        return self.weights[0] * closed + self.weights[1] * open_ + self.weights[2] * following

    def _encoded(self, window: Window) -> Float[Tensor, "batch lag channels"]:
        return self.encoder(window[..., None].expand(-1, -1, self.channels))

    def _closed(self, inputs: Float[Tensor, "batch lag channels"], horizon: int) -> Future:
        return self.output(self.decoder(inputs, horizon)).squeeze(-1)


@dataclass(frozen=True)
class SpaceTimeArchitecture:
    """Describes a :class:`SpaceTimeNetwork`; the parameters are the same."""

    channels: int = 128
    kernel_dim: int = 64
    blocks: int = 2
    dropout: float = 0.25
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.channels < 1 or self.channels % GROUP or self.kernel_dim < 1:
            raise FewerError(
                f"spacetime: channels must be a multiple of {GROUP} and kernel_dim at least 1; they are {self.channels} "
                f"and {self.kernel_dim}"
            )
        if len(self.weights) != 3 or min(self.weights) < 0 or not math.fsum(self.weights):
            raise FewerError(
                f"spacetime: weights are three numbers of at least 0, for closed loop, open loop and next inputs, and "
                f"not all 0; given {self.weights}"
            )

    def build(self, lag: int, horizon: int) -> nn.Module:
        """Make the network; a horizon takes no weights."""
        if lag < self.kernel_dim:
            raise FewerError(
                f"spacetime: a window of {lag} time steps cannot fill a state of kernel_dim={self.kernel_dim}; "
                f"set lag to {self.kernel_dim} or more, or a smaller kernel_dim"
            )
        return SpaceTimeNetwork(self.channels, self.kernel_dim, self.blocks, self.dropout, self.weights)


@dataclass(frozen=True)
class SpaceTimeClassifier:
    """SpaceTime for classes of signals: the encoder, its mean over time, and a linear head.

    Parameters
    ----------
    channels : int, default 128
        Width, a multiple of eight.
    kernel_dim : int, default 64
        Entries of each state.
    blocks : int, default 2
        Of the encoder.
    dropout : float, default 0.25
        Before each linear layer.

    Examples
    --------
    >>> SpaceTimeClassifier(channels=8, kernel_dim=4).build((1, 40), classes=10)(torch.zeros(3, 1, 40)).shape
    torch.Size([3, 10])
    """

    channels: int = 128
    kernel_dim: int = 64
    blocks: int = 2
    dropout: float = 0.25

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``: (variables, length), or (channels, height, width) read by pixel."""
        variables, _ = channels_and_length(shape, "spacetime")
        return Classifier(nn.Sequential(AsSequence(), _Pooled(variables, self)), self.channels, classes)


class _Pooled(nn.Module):
    """The mean of the encoder's outputs."""

    def __init__(self, variables: int, size: SpaceTimeClassifier) -> None:
        super().__init__()
        self.channels = size.channels
        # one variable is copied, several are mixed
        self.embedding = nn.Linear(variables, size.channels) if variables > 1 else None
        self.encoder = encoder(size.channels, size.kernel_dim, size.blocks, size.dropout)

    def forward(self, x: Float[Tensor, "batch length variables"]) -> Float[Tensor, "batch channels"]:
        u = x.expand(-1, -1, self.channels) if self.embedding is None else self.embedding(x)
        return self.encoder(u).mean(dim=1)
