"""SpaceTime as an estimator: real series, any horizon, exact autoregression, its errors, its place in races."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from fewer import compose
from fewer.core.errors import FewerError
from fewer.nets.spacetime import SpaceTimeForecaster, measure_exactness, measure_mechanism
from fewer.nets.window_forecaster import SeasonalNaive

SMALL = {"kernel_dim": 8, "channels": 16, "blocks": 1}


def test_sunspots_are_forecast_better_than_by_the_last_value():
    pytest.importorskip("statsmodels")
    task = compose.task("sunspots")
    model = SpaceTimeForecaster(
        task.lag, task.horizon, **SMALL, epochs=40, learning_rate=1e-2, dropout=0.0, patience=None
    )
    model.fit(task.history)
    score = task.score(model.predict(task.windows))
    naive = SeasonalNaive(1, task.horizon).fit(task.history)
    last = task.score(naive.predict(task.windows, task.horizon))
    assert score > 0.8 * last


def test_a_horizon_is_free_and_of_any_length():
    wave = np.sin(np.arange(120) / 3)
    short, long = (SpaceTimeForecaster(16, horizon, **SMALL, epochs=1).fit(wave) for horizon in (2, 50))
    assert short.n_parameters_ == long.n_parameters_
    far = short.predict(wave[-16:], horizon=500)
    assert far.shape == (500,)
    assert np.allclose(far[:30], short.predict(wave[-16:], horizon=30), atol=1e-4)


def test_its_defaults_are_the_papers():
    model = SpaceTimeForecaster()
    assert (model.lag, model.kernel_dim, model.channels, model.batch, model.dropout) == (336, 64, 128, 50, 0.25)
    assert (model.learning_rate, model.weight_decay, model.epochs, model.patience) == (1e-3, 1e-4, 500, 20)
    assert clone(model.set_params(kernel_dim=32)).kernel_dim == 32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kernel_dim": 17}, "a window of 16 time steps cannot fill a state of kernel_dim=17; set lag to 17 or more"),
        ({"channels": 12}, "channels must be a multiple of 8 and kernel_dim at least 1; they are 12 and 8"),
        ({"kernel_dim": 0}, "they are 16 and 0"),
        ({"weights": (1.0, 1.0)}, "weights are three numbers of at least 0"),
        ({"weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"blocks": 0}, "blocks must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        SpaceTimeForecaster(16, 4, **{**SMALL, **bad}).fit(np.sin(np.arange(100)))


def test_a_race_sets_its_window_and_horizon():
    loop = compose.loop("spacetime(kernel_dim=8, channels=8, blocks=1, epochs=1)")
    learned = loop.learn(compose.task("ar(steps=400, lag=20, horizon=6)"), 200, seed=1)
    assert (learned.result.lag, learned.result.horizon) == (20, 6)
    assert learned.curve.points[-1].extras["parameters"] == learned.result.n_parameters_


@pytest.mark.slow
def test_only_the_companion_layer_learns_an_autoregression_exactly():
    measured = measure_exactness(100, tiny=False)
    assert measured["companion"]["worst one-step error"] < 1e-12
    assert measured["companion"]["worst roll-out error"] < 1e-6
    assert measured["s4d"]["best one-step error"] > 1e-8


def test_one_state_too_few_cannot_hold_it():
    measured = measure_mechanism(100, tiny=False)
    assert measured["d = p"]["largest roll-out error"] < 1e-6
    assert measured["d = p - 1"]["largest one-step error"] > 1e-3


def test_a_model_on_the_gpu_comes_back_to_the_cpu():
    model = SpaceTimeForecaster(16, 4, **SMALL, epochs=1).fit(np.sin(np.arange(100)))
    assert {parameter.device for parameter in model.network_.parameters()} == {torch.device("cpu")}
