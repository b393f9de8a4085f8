"""The forecasting loop: its lengths of history, what a forecaster is told, resuming to the bit, every filling, errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.nets.direct_forecasts import LayerStack
from fewer.nets.forecaster import Forecaster
from fewer.nets.forecasting import Forecasting
from fewer.nets.long_conv import LongConv
from fewer.nets.spacetime import SpaceTimeForecaster
from fewer.nets.window_forecaster import RidgeForecaster, SeasonalNaive
from fewer.tasks.digits import digits
from fewer.tasks.series import Series, ar

TASK = ar(steps=300, lag=16, horizon=4)
HERE = "fewer.nets.forecasting:Forecasting"
FILLINGS = [name for name, filling in catalogue.fillings().items() if HERE in filling.loops]
SMALLER = {
    "spacetime": "spacetime(kernel_dim=4, channels=8, blocks=1, epochs=1)",
    "s4d": "s4d(channels=4, blocks=1, epochs=1)",
    "nlinear": "nlinear(epochs=2)",
    "dlinear": "dlinear(epochs=2)",
}


class Told(BaseEstimator):
    """Remembers what it is told, and forecasts the truth's mean."""

    seen = []

    def __init__(self, lag=1, horizon=1, period=1, random_state=None):
        self.lag, self.horizon, self.period, self.random_state = lag, horizon, period, random_state

    def fit(self, series):
        self.seen.append((self.lag, self.horizon, self.period, self.random_state, series))
        return self

    def predict(self, last_window, horizon):
        return np.zeros((len(last_window), horizon, 1))


@pytest.mark.parametrize("name", FILLINGS)
def test_every_filling_races(name):
    loop = compose.loop(SMALLER.get(name, name))
    learned = loop.learn(TASK, budget=120, seed=3)
    again = loop.learn(TASK, budget=120, seed=3)
    assert [point.score for point in learned.curve] == [point.score for point in again.curve]
    assert learned.curve.points[-1].spent == 120
    assert learned.result.predict(TASK.windows, 4).shape == TASK.futures.shape


def test_a_forecaster_is_told_the_window_the_season_and_the_most_recent_history():
    Told.seen.clear()
    task = Series("wave", TASK.values, ("wave",), lag=16, horizon=4, period=3)
    curve = Forecasting(Told(), points=3).learn(task, budget=160, seed=2).curve
    assert [point.spent for point in curve] == [40, 80, 160]
    for point, (lag, horizon, period, seed, series) in zip(curve, Told.seen, strict=True):
        assert (lag, horizon, period) == (16, 4, 3)
        assert isinstance(seed, int)
        assert np.array_equal(series, task.history[-point.spent :])
    assert len({seen[3] for seen in Told.seen}) == 1


def test_the_score_is_that_of_the_held_out_forecasts():
    point = Forecasting(RidgeForecaster(), points=1).learn(TASK, budget=200).curve.points[0]
    peer = RidgeForecaster(16, 4).fit(TASK.history[-200:])
    assert point.score == TASK.score(peer.predict(TASK.windows, 4))


@pytest.mark.parametrize(
    "forecaster",
    [
        SpaceTimeForecaster(
            kernel_dim=8, channels=16, blocks=1, dropout=0.0, epochs=60, learning_rate=1e-2, patience=None
        ),
        Forecaster(
            LayerStack(lambda channels, length: LongConv(channels, length, kernel_dropout=0.0), channels=16, blocks=1),
            epochs=60,
            learning_rate=1e-2,
            patience=None,
        ),
    ],
    ids=["spacetime", "long-conv"],
)
def test_air_passengers_are_forecast_better_than_by_the_same_month_of_last_year(forecaster):
    passengers = pytest.importorskip("aeon.datasets").load_airline()  # comes with the package, 144 months
    task = Series("airline", np.log(passengers)[:, None], ("passengers",), lag=24, horizon=12, period=12)
    learned = Forecasting(forecaster, points=1).learn(task, budget=len(task.history), seed=0)
    naive = SeasonalNaive(12, 12).fit(task.history).predict(task.windows, 12)
    assert len(task.history) == 115
    assert learned.curve.points[-1].score > 0.9 * task.score(naive)


@pytest.mark.parametrize(
    ("options", "budget", "expected"),
    [
        ({"points": 1}, 100, [100]),
        ({"points": 4}, 20, [20]),
        ({"points": 2, "initial": 25}, 100, [25, 100]),
        ({"points": 3}, 40, [40]),
    ],
)
def test_lengths_of_history(options, budget, expected):
    assert [point.spent for point in Forecasting(**options).learn(TASK, budget).curve] == expected


def test_a_resumed_run_gives_the_same_curve(tmp_path):
    loop = Forecasting(Forecaster(epochs=2), points=3)
    whole = list(loop.run(TASK, 160, 0))
    part = loop.run(TASK, 160, 0, tmp_path / "run")
    next(part)
    resumed = list(loop.run(TASK, 160, 0, tmp_path / "run"))
    assert [(each.spent, each.score) for each in resumed] == [(each.spent, each.score) for each in whole]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Forecasting().learn(TASK, 19), "a budget of 19 time steps is below the first round, which takes 20"),
        (lambda: Forecasting().learn(TASK, 241), "has 240 time steps of history; lower --budget to that"),
        (lambda: Forecasting().learn(digits(), 100), "Forecasting runs on a Series task; digits is a Classification"),
        (lambda: Forecasting(points=0), "points must be at least 1 and initial at least 0; they are 0 and 0"),
    ],
)
def test_what_cannot_run_is_refused(run, message):
    with pytest.raises(FewerError, match=message):
        run()
