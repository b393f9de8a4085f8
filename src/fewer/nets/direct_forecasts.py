"""Networks that give all steps of a horizon at once: linear maps, and any stack of sequence layers under a linear head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.nets.diagonal import S4D

Window = Float[Tensor, "batch lag"]
Future = Float[Tensor, "batch horizon"]


class ForecastNetwork(Protocol):
    """A torch module that forecasts single channels."""

    def __call__(self, window: Window, horizon: int) -> Future:
        """Forecast at least one step after each window, and as many of ``horizon`` as possible."""
        ...

    def loss(self, window: Window, future: Future) -> Float[Tensor, ""]:
        """What training makes small."""
        ...


class ForecastArchitecture(Protocol):
    """Describes a forecasting network; two equal descriptions build equal shapes."""

    def build(self, lag: int, horizon: int) -> nn.Module:
        """Make a freshly initialised :class:`ForecastNetwork`; draws from torch's global generator."""
        ...


def root_mean_square(one: Tensor, two: Tensor) -> Float[Tensor, ""]:
    """Root of the mean squared difference, with a gradient of zero where there is none; 0 where nothing is compared."""
    if one.numel() == 0:
        return one.new_zeros(())
    return (one - two).square().mean().clamp_min(torch.finfo(one.dtype).tiny).sqrt()


class Direct(nn.Module):
    """A network from windows to the whole of its horizon, told the window less a level that is added again.

    Parameters
    ----------
    body : nn.Module
        Maps (batch, lag) to (batch, horizon).
    level : {"mean", "last"}, default "mean"
        What is taken from each window: its mean, or its last value.
    """

    def __init__(self, body: nn.Module, level: str = "mean") -> None:
        super().__init__()
        self.body = body
        self.level = level

    def forward(self, window: Window, horizon: int) -> Future:
        """All steps that the network was made for."""
        level = window.mean(dim=1, keepdim=True) if self.level == "mean" else window[:, -1:]
        return self.body(window - level) + level

    def loss(self, window: Window, future: Future) -> Float[Tensor, ""]:
        """Root mean squared error."""
        return root_mean_square(self(window, future.shape[1]), future)


@dataclass(frozen=True)
class NLinear:
    """One linear map from the window, less its last value, to the horizon.

    References
    ----------
    Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023, arXiv:2205.13504.
    """

    def build(self, lag: int, horizon: int) -> nn.Module:
        """Make the network."""
        return Direct(nn.Linear(lag, horizon), level="last")


@dataclass(frozen=True)
class DLinear:
    """Two linear maps, of the window's moving average and of what it leaves.

    Parameters
    ----------
    window : int, default 25
        Time steps of the moving average, odd; the ends are repeated.

    References
    ----------
    Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023, arXiv:2205.13504.
    """

    window: int = 25

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise FewerError(f"dlinear: the moving average needs an odd window of at least 1; {self.window} was given")

    def build(self, lag: int, horizon: int) -> nn.Module:
        """Make the network."""
        return Direct(_Decomposed(lag, horizon, self.window))


class _Decomposed(nn.Module):
    def __init__(self, lag: int, horizon: int, window: int) -> None:
        super().__init__()
        self.trend, self.rest = nn.Linear(lag, horizon), nn.Linear(lag, horizon)
        self.window = window

    def forward(self, window: Window) -> Future:
        half = self.window // 2
        ends = window[:, :1].expand(-1, half), window[:, -1:].expand(-1, half)
        trend = nn.functional.avg_pool1d(torch.cat([ends[0], window, ends[1]], dim=1)[:, None], self.window, stride=1)
        trend = trend.squeeze(1)
        return self.trend(trend) + self.rest(window - trend)


SequenceLayer = Callable[[int, int], nn.Module]
"""Makes a layer for so many channels and sequences of at most such a length: (batch, length, channels) to the same."""


@dataclass(frozen=True)
class LayerStack:
    """Sequence layers of any kind, each followed by a position-wise layer with skips, and a linear head on the last step.

    Each block is ``u + y + linear(dropout(gelu(y)))`` with ``y = layer(u)``: what surrounds the state space of
    :class:`fewer.nets.SpaceTime`, so that layers can be compared in the same place.

    Parameters
    ----------
    layer : callable, default S4D
        Called with the number of channels and the lag, it makes the layer: a class such as ``S4D`` or ``LongConv``, or a
        function of these two.
    channels : int, default 128
        Copies of the series that go through the layers.
    blocks : int, default 2
        How many.
    dropout : float, default 0.25
        Before each linear layer.

    Examples
    --------
    >>> from fewer.nets import Forecaster, SpaceTime
    >>> stack = LayerStack(lambda channels, length: SpaceTime(channels, kernel_dim=8), channels=16, blocks=1)
    >>> model = Forecaster(stack, lag=24, horizon=6, epochs=2).fit(torch.arange(100.0).sin().numpy())
    >>> model.predict(torch.arange(76.0, 100).sin().numpy()).shape
    (6,)
    """

    layer: SequenceLayer = S4D
    channels: int = 128
    blocks: int = 2
    dropout: float = 0.25

    def __post_init__(self) -> None:
        if min(self.channels, self.blocks) < 1 or not 0 <= self.dropout < 1:
            raise FewerError(
                f"layer stack: channels and blocks must be at least 1 and dropout in [0, 1); they are {self.channels}, "
                f"{self.blocks} and {self.dropout}"
            )

    def build(self, lag: int, horizon: int) -> nn.Module:
        """Make the network."""
        blocks = [_Block(self.layer(self.channels, lag), self.channels, self.dropout) for _ in range(self.blocks)]
        return Direct(_Stack(nn.Sequential(*blocks), self.channels, horizon, self.dropout))


class _Block(nn.Module):
    def __init__(self, layer: nn.Module, channels: int, dropout: float) -> None:
        super().__init__()
        self.layer = layer
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, channels))

    def forward(self, u: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        y = self.layer(u)
        return u + y + self.mix(y)


class _Stack(nn.Module):
    def __init__(self, blocks: nn.Module, channels: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.blocks = blocks
        self.channels = channels
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, horizon))

    def forward(self, window: Window) -> Future:
        return self.head(self.blocks(window[..., None].expand(-1, -1, self.channels))[:, -1])


def s4d_stack(channels: int = 128, blocks: int = 2, modes: int = 16, dropout: float = 0.25) -> LayerStack:
    """A stack of diagonal state spaces."""
    return LayerStack(partial(S4D, modes=modes), channels, blocks, dropout)
