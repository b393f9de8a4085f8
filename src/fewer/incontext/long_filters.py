"""Sequence models that filter a prompt in place of attending to it: Hyena, and diagonal state spaces.

A Hyena layer of order N gates and filters by turns; its filters are as long as the prompt, and a small network of the
lag says what their taps are::

    v, x_1, ..., x_N = short filters of linear maps of the input
    z = v,   z <- x_n (h_n * z + d_n z)  for n = 1 .. N,   y = W z
    h_n(t) = (exp(-a t) + b) network(t, cos and sin of t)

A layer of diagonal state spaces filters each channel once (:mod:`fewer.nets.diagonal`).

References
----------
Michael Poli et al., "Hyena Hierarchy: Towards Larger Convolutional Language Models", 2023, arXiv:2302.10866.
Ankit Gupta, Albert Gu, Jonathan Berant, "Diagonal State Spaces are as Effective as Structured State Spaces", 2022,
arXiv:2203.14343.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.incontext.networks import only_causal
from fewer.nets.convolution import causal_convolution
from fewer.nets.sequence_network import S4DMixer


@dataclass(frozen=True)
class Hyena:
    """Gated long filters that read vectors in place of words.

    Parameters
    ----------
    width : int, default 64
        Of the residual stream.
    layers : int, default 4
        Blocks, each with a feed-forward part.
    order : int, default 3
        Gates, and filters, of each layer.
    """

    width: int = 64
    layers: int = 4
    order: int = 3

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.order) < 1:
            raise FewerError(f"hyena: width, layers and order must be at least 1; given {self}")

    def build(self, features: int, outputs: int, length: int) -> ResidualParts:
        """Make the network; ``length`` is what its filters begin to fade over, and longer prompts can be read."""
        parts: list[nn.Module] = []
        for _ in range(self.layers):
            parts.append(HyenaLayer(self.width, self.order, length))
            parts.append(
                nn.Sequential(nn.Linear(self.width, 4 * self.width), nn.GELU(), nn.Linear(4 * self.width, self.width))
            )
        return ResidualParts(features, self.width, outputs, parts)


@dataclass(frozen=True)
class StateSpace:
    """Diagonal state spaces, each layer with a gated linear map behind it.

    Parameters
    ----------
    width : int, default 64
        Of the residual stream.
    layers : int, default 4
        Blocks.
    modes : int, default 16
        Complex modes of each channel's filter.
    """

    width: int = 64
    layers: int = 4
    modes: int = 16

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.modes) < 1:
            raise FewerError(f"state-space: width, layers and modes must be at least 1; given {self}")

    def build(self, features: int, outputs: int, length: int) -> ResidualParts:
        """Make the network; the length of prompts is not limited."""
        parts = [S4DMixer(self.width, self.modes, dropout=0.0, kernel_lr=None) for _ in range(self.layers)]
        return ResidualParts(features, self.width, outputs, parts)


class ResidualParts(nn.Module):
    """Parts that map (batch, length, width) to the same shape, each with a norm before it and a skip around it.

    Parameters
    ----------
    features, width, outputs : int
        Of a token, of the residual stream, and numbers given at each position.
    parts : sequence of nn.Module
        None may look ahead.
    """

    def __init__(self, features: int, width: int, outputs: int, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.read_in, self.read_out = nn.Linear(features, width), nn.Linear(width, outputs)
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in parts)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        only_causal(observed)
        x = self.read_in(tokens)
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = x + part(norm(x))
        return self.read_out(self.norm(x))


class HyenaLayer(nn.Module):
    """The operator, from (batch, length, width) to the same shape.

    Parameters
    ----------
    width : int
        Channels.
    order : int
        Gates and filters.
    length : int
        Of the prompts that it is made for.
    """

    def __init__(self, width: int, order: int, length: int) -> None:
        super().__init__()
        many = (order + 1) * width
        self.project = nn.Linear(width, many)
        self.short = nn.Conv1d(many, many, 3, padding=2, groups=many)
        self.filters = ImplicitFilters(order, width, length)
        self.skip = nn.Parameter(torch.randn(order, width))
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """Gate and filter by turns."""
        length = x.shape[1]
        # padded on both sides: what knows later tokens stands at the end, and is cut off
        mixed = self.short(self.project(x).mT)[..., :length]
        z, *gates = mixed.chunk(len(self.skip) + 1, 1)
        for gate, taps, skip in zip(gates, self.filters(length), self.skip, strict=True):
            z = gate * (causal_convolution(z, taps) + skip[:, None] * z)
        return self.out(z.mT)


class ImplicitFilters(nn.Module):
    """Filters whose taps a small network of sines computes from the lag, under a window that fades.

    Channels fade at different rates: to a hundredth after between 0.3 and 1.5 of ``length``.

    Parameters
    ----------
    count, channels : int
        How many filters of each channel.
    length : int
        What lags are counted in.
    hidden : int, default 32
        Width of the network.
    bands : int, default 4
        Frequencies of the lag that it sees.
    """

    rates: Tensor

    def __init__(self, count: int, channels: int, length: int, hidden: int = 32, bands: int = 4) -> None:
        super().__init__()
        self.count, self.length, self.bands = count, length, bands
        self.layers = nn.ModuleList([nn.Linear(1 + 2 * bands, hidden), nn.Linear(hidden, hidden)])
        self.frequency = nn.Parameter(torch.full((hidden,), 10.0))
        self.last = nn.Linear(hidden, count * channels, bias=False)
        rates = math.log(100) / torch.linspace(1.5, 0.3, channels)
        self.register_buffer("rates", rates[:, None], persistent=False)

    def forward(self, taps: int) -> Float[Tensor, "count channels taps"]:
        """The first taps of each filter."""
        lag = torch.arange(taps, device=self.rates.device, dtype=self.rates.dtype) / self.length
        angles = 2 * math.pi * torch.arange(1, self.bands + 1, device=lag.device) * lag[:, None]
        said = torch.cat([lag[:, None], angles.cos(), angles.sin()], -1)
        for layer in self.layers:
            said = torch.sin(self.frequency * layer(said))
        values = self.last(said).T.unflatten(0, (self.count, -1))
        return values * ((-self.rates * lag).exp() + 0.05)
