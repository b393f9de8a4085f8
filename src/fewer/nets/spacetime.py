"""SpaceTime: state spaces in companion form, which hold autoregression exactly and forecast in closed loop.

A state space whose matrix is a companion matrix can be any discrete linear process, so that a layer of them can learn an
autoregression exactly, which diagonal state spaces cannot.  The last layer learns to predict its own next input as well;
after the last observation it is rolled forward on its own predictions, to any horizon, with no weights for the steps.

::

    layer        x_{t+1} = A x_t + b u_t,   y_t = c'x_t,   A = S + a e_d'   (S shifts down by one)
    encoder      blocks z + y + linear(dropout(gelu(y))), y = companion(z); the first z are fixed filters of the input
    decoder      y_{l+i} = c'(A + b k')^i x_l        u^_{l+i} = k'(A + b k')^i x_l
    loss         RMSE(closed loop, future) + RMSE(open loop, observed) + RMSE(u^ in open loop, decoder's inputs)

The fast and the plain kernel are in :mod:`fewer.nets.companion`, the layers in :mod:`fewer.nets.spacetime_layers`, the
network and its loss in :mod:`fewer.nets.spacetime_network`.

References
----------
Michael Zhang, Khaled Saab, Michael Poli et al., "Effectively Modeling Time Series with Simple Discrete State Spaces", ICLR
2023, arXiv:2303.09489.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewer.claim import Claim, Measures, higher, identical, lower
from fewer.core.seeding import generator
from fewer.nets.companion import companion_kernel, krylov_kernel, unit_sum
from fewer.nets.diagonal import S4D
from fewer.nets.direct_forecasts import ForecastArchitecture
from fewer.nets.forecaster import Forecaster, dlinear, nlinear, s4d
from fewer.nets.forecasting import Forecasting
from fewer.nets.spacetime_layers import ClosedLoop
from fewer.nets.spacetime_network import SpaceTimeArchitecture
from fewer.nets.window_forecaster import RidgeForecaster, SeasonalNaive
from fewer.tasks.series import ar, autoregression, stable_coefficients


class SpaceTimeForecaster(Forecaster):
    """Forecast series with SpaceTime: trained for one horizon, good for any.

    Parameters
    ----------
    lag, horizon : int, default 336 and 720
        Time steps of the window, and of the future that is trained for.
    kernel_dim : int, default 64
        Entries of each state; no more than ``lag``.
    channels : int, default 128
        Width, a multiple of eight.
    blocks : int, default 2
        Of the encoder.
    dropout : float, default 0.25
        Before each linear layer.
    weights : tuple of three floats, default (1, 1, 1)
        Of the loss in closed loop, in open loop, and of the next inputs.
    epochs, batch, learning_rate, weight_decay, patience, validation, device, progress, random_state
        As in :class:`Forecaster`.

    Attributes
    ----------
    network_, history_, best_epoch_, n_parameters_, mean_, scale_, n_channels_
        As in :class:`Forecaster`.

    Notes
    -----
    Take the learning rate seriously: on a few hundred time steps of a noisy autoregression, 1e-2 forecasts about as well as
    ridge regression (see the last claim), and the default far worse.

    References
    ----------
    arXiv:2303.09489.

    Examples
    --------
    >>> wave = torch.arange(300.0).div(4).sin().numpy()
    >>> model = SpaceTimeForecaster(lag=32, horizon=8, kernel_dim=8, channels=8, blocks=1, epochs=2).fit(wave[:250])
    >>> model.predict(wave[218:250]).shape, model.predict(wave[218:250], horizon=50).shape
    ((8,), (50,))
    """

    def __init__(
        self,
        lag: int = 336,
        horizon: int = 720,
        kernel_dim: int = 64,
        channels: int = 128,
        blocks: int = 2,
        dropout: float = 0.25,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        epochs: int = 500,
        batch: int = 50,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        patience: int | None = 20,
        validation: float = 0.2,
        device: str = "auto",
        progress: bool = False,
        random_state: int = 0,
    ) -> None:
        self.lag = lag
        self.horizon = horizon
        self.kernel_dim = kernel_dim
        self.channels = channels
        self.blocks = blocks
        self.dropout = dropout
        self.weights = weights
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation = validation
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def _architecture(self) -> ForecastArchitecture:
        return SpaceTimeArchitecture(self.channels, self.kernel_dim, self.blocks, self.dropout, self.weights)


# --- the claim -------------------------------------------------------------------------------------------------------

STATES, OBSERVED, AHEAD = 8, 64, 128
"""Entries of the state, time steps of a window, and steps that follow, in the claim about exactness."""


def measure_exactness(seed: int, tiny: bool) -> Measures:
    """Fit one layer to noise-free autoregressions of order 4 and 6, and let it go on by itself."""
    problems = [(4, 0)] if tiny else [(order, draw) for order in (4, 6) for draw in range(3)]
    errors: dict[str, list[tuple[float, float]]] = {}
    for order, draw in problems:
        rng = generator(seed, "autoregression", order, draw)
        series = autoregression(stable_coefficients(order, rng), OBSERVED + AHEAD, 60, rng)
        series = torch.from_numpy(series / series.std(axis=1, keepdims=True))
        torch.manual_seed(rng.integers(2**31))
        layers = _single_layers()
        for name, (layer, learned) in layers.items():
            one_step = _fitted(layer, learned, series[:40, :OBSERVED], iterations=5 if tiny else 250)
            ahead = _continued(layer, series[40:, :OBSERVED])
            error = float((ahead - series[40:, OBSERVED:]).square().mean().sqrt())
            errors.setdefault(name, []).append((one_step, min(error, 1e6) if error == error else 1e6))
    measured = {}
    for name, found in errors.items():
        one_step, ahead = map(list, zip(*found, strict=True))
        measured[name] = {
            "worst one-step error": max(one_step),
            "best one-step error": min(one_step),
            "worst roll-out error": max(ahead),
            "log10 of the median roll-out error": float(np.log10(max(np.median(ahead), 1e-300))),
        }
    return measured


def _single_layers() -> dict[str, tuple[nn.Module, list[nn.Parameter]]]:
    """Layers of one channel in float64, and which of their weights are learned."""
    shift, free = (ClosedLoop(1, STATES, normalise=False).double() for _ in range(2))
    with torch.no_grad():
        for layer in (shift, free):  # the state is the last inputs
            layer.a.zero_()
            layer.b.zero_()
            layer.b[:, 0] = 1
            layer.k.mul_(0.1)
    bounded = ClosedLoop(1, STATES).double()
    diagonal = S4D(1, modes=16).double()
    return {
        "companion": (shift, [shift.k]),
        "companion, all learned": (free, [free.a, free.b, free.k]),
        "companion, normalised": (bounded, [bounded.a, bounded.b, bounded.k]),
        "s4d": (diagonal, list(diagonal.parameters())),
    }


def _one_step(layer: nn.Module, series: Tensor) -> Tensor:
    """What the layer expects after each value."""
    given = series[..., None]
    return (layer.open_loop(given)[1] if isinstance(layer, ClosedLoop) else layer(given))[..., 0]


def _fitted(layer: nn.Module, learned: list[nn.Parameter], series: Tensor, iterations: int) -> float:
    """Fit to the next value by L-BFGS, for the problem is ill-conditioned; give the mean squared error."""
    optimiser = torch.optim.LBFGS(
        learned, max_iter=iterations, history_size=50, tolerance_grad=1e-14, line_search_fn="strong_wolfe"
    )
    optimiser.param_groups[0]["tolerance_change"] = 1e-18

    def error() -> Tensor:
        return (_one_step(layer, series)[:, STATES - 1 : -1] - series[:, STATES:]).square().mean()

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = error()
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return float(error())


@torch.no_grad()
def _continued(layer: nn.Module, series: Tensor) -> Tensor:
    """The steps that follow, from the layer's own predictions."""
    if isinstance(layer, ClosedLoop):
        return layer.next_inputs(series[..., None], AHEAD)[..., 0]
    assert isinstance(layer, S4D)
    kernel = layer.kernel(OBSERVED + AHEAD)[0]
    kernel = torch.cat([kernel[:1] + layer.skip, kernel[1:]]).flip(0)
    for _ in range(AHEAD):
        series = torch.cat([series, (series @ kernel[-series.shape[1] :])[:, None]], dim=1)
    return series[:, OBSERVED:]


def measure_cost(seed: int, tiny: bool) -> Measures:
    """Both ways to the same kernels, turn about, and the weights that a longer horizon takes."""
    lengths, repeats = ((128, 256), 2) if tiny else ((1024, 2048, 4096, 8192), 7)
    drawn = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(16, 64, generator=drawn) for _ in range(3))
    a, difference = unit_sum(a), 0.0
    seconds: list[list[float]] = []
    for length in lengths:
        difference = max(
            difference, float((companion_kernel(a, b, c, length) - krylov_kernel(a, b, c, length)).abs().max())
        )
        # pairs, so that a busy moment hits both alike
        pairs = [[_seconds(way, a, b, c, length) for way in (companion_kernel, krylov_kernel)] for _ in range(repeats)]
        seconds.append(np.median(pairs, axis=0).tolist())
    weights = [
        sum(parameter.numel() for parameter in SpaceTimeArchitecture().build(336, horizon).parameters())
        for horizon in (96, 720)
    ]
    by_length = {
        f"times faster at {length}": krylov / fast for length, (fast, krylov) in zip(lengths, seconds, strict=True)
    }
    fast, krylov = seconds[-1]
    return {
        "spectral kernel": {
            "largest difference": difference,
            "times faster at the longest": krylov / fast,
            **by_length,
        },
        "horizon 96": {"weights": weights[0]},
        "horizon 720": {"weights": weights[1]},
    }


def _seconds(way: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    way(*arguments)
    return time.perf_counter() - began


def measure_mechanism(seed: int, tiny: bool) -> Measures:
    """Write an autoregression into a layer, roll it out, and simulate it; and try with a state too short by one."""
    order, steps = 6, 50 if tiny else 200
    rng = generator(seed, "mechanism")
    coefficients = stable_coefficients(order, rng)
    series = torch.from_numpy(autoregression(coefficients, OBSERVED + steps, 20, rng))
    series = series / series.std(dim=1, keepdim=True)
    measured = {}
    for name, states in (("d = p", order), ("d = p - 1", order - 1)):
        if states == order:
            weights = torch.from_numpy(coefficients)
        else:  # the best there is for one step
            past = series.unfold(1, states, 1)[:, :-1].flip(-1).reshape(-1, states)
            weights = torch.linalg.lstsq(past, series[:, states:].reshape(-1, 1)).solution[:, 0]
        layer = ClosedLoop(1, states, normalise=False).double()
        with torch.no_grad():
            layer.a.zero_()
            layer.b.zero_()
            layer.b[:, 0] = 1
            layer.k.copy_(weights)
            layer.c.copy_(weights)
            given = series[:, :OBSERVED, None]
            ahead = (layer(given, steps)[..., 0] - series[:, OBSERVED:]).abs().max()
            one_step = (layer.open_loop(given)[0][:, order - 1 : -1, 0] - series[:, order:OBSERVED]).abs().max()
        measured[name] = {"largest roll-out error": float(ahead), "largest one-step error": float(one_step)}
    return measured


def measure_small(seed: int, tiny: bool) -> Measures:
    """Forecasts of a noisy autoregression after 600 time steps, by the network and its rivals."""
    task = ar(steps=400, seed=seed) if tiny else ar(steps=1500, seed=seed)
    size, epochs = (8, 1) if tiny else (32, 40)
    trained: dict[str, Any] = {"epochs": epochs, "learning_rate": 1e-2}
    forecasters = {
        "spacetime": SpaceTimeForecaster(kernel_dim=16, channels=size, blocks=1, **trained),
        "s4d": s4d(size, blocks=1, **trained),
        "nlinear": nlinear(**trained),
        "dlinear": dlinear(**trained),
        "ridge": RidgeForecaster(),
        "last value": SeasonalNaive(),
    }
    measured = {}
    for name, forecaster in forecasters.items():
        score = Forecasting(forecaster, points=1).learn(task, 200 if tiny else 600, seed).curve.final
        # series differ in how far they can be foreseen, so that ratios are compared
        measured[name] = {"scaled error": -score, "log of the scaled error": float(np.log(-score))}
    return measured


claim = (
    Claim(
        says="A companion layer whose state is its last inputs learns a noise-free autoregression exactly and goes on alone "
        "for 128 steps, where a diagonal state space does not.",
        measure=measure_exactness,
        seeds=5,
        holds=[
            lower("worst one-step error", "companion", than=1e-10),
            lower("worst roll-out error", "companion", than=1e-3),
            higher("best one-step error", "s4d", than=1e-8),
            higher("log10 of the median roll-out error", "s4d", than=-1),
        ],
        note="Each seed takes six autoregressions of order 4 and 6, 40 windows of 64 steps, a state of 8, L-BFGS in float64. "
        "The companion layer learns k; where a and b are learned as well, or all are normalised, it is not exact either.",
    ),
    Claim(
        says="The kernel from its spectrum equals the one from powers of the matrix and is at least three times as fast at 8,192 "
        "taps; a longer horizon takes no weights.",
        measure=measure_cost,
        seeds=4,
        holds=[
            lower("largest difference", "spectral kernel", than=1e-4),
            higher("times faster at the longest", "spectral kernel", than=3),
            identical("weights", "horizon 720", to="horizon 96"),
        ],
        note="16 kernels of 64 states in float32, medians of seven interleaved repeats.",
    ),
    Claim(
        says="An autoregression of order p written into a layer of p states rolls out as it is simulated; p - 1 states are too "
        "few.",
        measure=measure_mechanism,
        seeds=5,
        holds=[
            lower("largest roll-out error", "d = p", than=1e-6),
            lower("largest one-step error", "d = p", than=1e-6),
            higher("largest one-step error", "d = p - 1", than=1e-3),
        ],
        note="Order 6, 20 series, 200 steps; with p - 1 states the weights are those of least squares.",
    ),
    Claim(
        says="After 600 steps of a noisy autoregression, ridge regression forecasts better than the whole network: a limit at "
        "this size, and no promise of the paper.",
        measure=measure_small,
        seeds=4,
        holds=[lower("log of the scaled error", "ridge", than="spacetime")],
        note="A different autoregression of order 4 for each seed, window 64, horizon 32. The network has 32 channels, 16 states "
        "and one block, and 40 epochs; the learning rate is the best of 1e-3, 3e-3 and 1e-2 on other seeds.",
    ),
)
