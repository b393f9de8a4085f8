"""What all forecasters share: forms of a series, shapes of forecasts, moving on beyond the horizon, errors; ridge and seasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge

from fewer.core.errors import FewerError
from fewer.nets.forecaster import Forecaster
from fewer.nets.spacetime import SpaceTimeForecaster
from fewer.nets.window_forecaster import RidgeForecaster, SeasonalNaive, read_series

RNG = np.random.default_rng(0)
WALK = RNG.normal(size=(120, 2)).cumsum(axis=0)
SMALL = {"lag": 12, "horizon": 4}
EACH = [
    SeasonalNaive(period=12, horizon=4),
    RidgeForecaster(**SMALL),
    Forecaster(**SMALL, epochs=2),
    SpaceTimeForecaster(**SMALL, kernel_dim=4, channels=8, blocks=1, epochs=1),
]


# --- every forecaster ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", EACH)
def test_forecasts_have_the_form_of_the_series(model):
    model = clone(model)
    assert model.fit(WALK[:, 0]) is model
    one = model.predict(WALK[-12:, 0])
    assert one.shape == (4,)
    many = model.predict(np.stack([WALK[-12:, 0], WALK[:12, 0]]), horizon=7)
    assert many.shape == (2, 7)
    assert np.allclose(many[0, :4], one, atol=1e-5)
    model.fit(pd.DataFrame(WALK, columns=["a", "b"]))
    both = model.predict(pd.DataFrame(WALK[-30:], columns=["a", "b"]))  # longer than needed
    assert both.shape == (4, 2)
    assert np.allclose(both, model.predict(WALK[-12:]))
    assert model.predict(np.stack([WALK[-12:]] * 3), horizon=9).shape == (3, 9, 2)


@pytest.mark.parametrize("model", EACH)
def test_channels_are_forecast_one_by_one_and_move_with_their_scale(model):
    model = clone(model).fit(WALK)
    moved = clone(model).fit(1000 + 50 * WALK)
    expected = 1000 + 50 * model.predict(WALK[-12:])
    assert np.allclose(moved.predict(1000 + 50 * WALK[-12:]), expected, rtol=1e-2)
    changed = WALK[-12:] + np.array([0.0, 9.0])
    assert np.allclose(model.predict(changed)[:, 0], model.predict(WALK[-12:])[:, 0])


@pytest.mark.parametrize("model", EACH)
def test_clones_keep_their_parameters_and_equal_fits_are_equal(model):
    twin = clone(model)
    assert {k: repr(v) for k, v in twin.get_params().items()} == {k: repr(v) for k, v in model.get_params().items()}
    first, second = clone(model).fit(WALK), clone(model).fit(WALK)
    assert np.array_equal(first.predict(WALK[-12:]), second.predict(WALK[-12:]))


@pytest.mark.parametrize("model", EACH)
def test_what_cannot_be_fitted_is_refused(model):
    name = type(model).__name__
    with pytest.raises(FewerError, match=rf"{name}: the series has 15 time steps, fewer than lag \+ horizon = 12 \+ 4"):
        clone(model).fit(WALK[:15])
    gap = WALK.copy()
    gap[7, 1] = np.nan
    with pytest.raises(
        FewerError, match=rf"{name}: 1 values are NaN or infinite, the first at time step 7 of channel 1"
    ):
        clone(model).fit(gap)
    with pytest.raises(FewerError, match="the first at time step 7 of column 'b'; fill them"):
        clone(model).fit(pd.DataFrame(gap, columns=["a", "b"]))
    flat = WALK.copy()
    flat[:, 1] = 3
    with pytest.raises(FewerError, match="channel 1 is constant, so there is nothing to learn; leave it out"):
        clone(model).fit(flat)


@pytest.mark.parametrize(
    ("window", "horizon", "message"),
    [
        (WALK[-11:], 4, "needs 12 time steps or more of 2 channels; these are 1 windows of 11 steps of 2 channels"),
        (WALK[-12:, :1], 4, "of 12 steps of 1 channels"),
        (WALK[-12:, 0], 4, "a window has 2 axes as the fitted series has, and many windows one more; this has 1"),
        (np.zeros((0, 12, 2)), 4, "these are 0 windows"),
        (np.full((12, 2), np.nan), 4, "24 values are NaN or infinite"),
        (WALK[-12:], 0, "horizon is 0; give a whole number of at least 1"),
        (WALK[-12:], 2.5, "horizon is 2.5"),
    ],
)
def test_windows_that_cannot_be_forecast_are_refused(window, horizon, message):
    with pytest.raises(FewerError, match=message):
        RidgeForecaster(**SMALL).fit(WALK).predict(window, horizon)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_series_comes_in_many_forms():
    expected = np.array([[1.0], [2.0], [4.0]])
    for given in ([1, 2, 4], (1, 2, 4), np.array([1, 2, 4]), pd.Series([1, 2, 4]), pl.Series([1, 2, 4]), expected):
        assert np.array_equal(read_series(given, "toy"), expected)
    assert np.array_equal(read_series(pl.DataFrame({"a": [1, 2, 4]}), "toy"), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"not empty; this one has shape \(0,\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (5.0, r"shape \(\)"),
        (["a", "b"], "toy: the series holds values that are no numbers"),
        (pd.DataFrame({"day": ["mon"], "load": [1]}), "leave such columns out"),
        ([1, np.inf], "1 values are NaN or infinite, the first at time step 1 of channel 0"),
    ],
)
def test_what_is_no_series_is_refused(given, message):
    with pytest.raises(FewerError, match=message):
        read_series(given, "toy")


# --- ridge and seasons -----------------------------------------------------------------------------------------------


def test_ridge_is_scikit_learns_on_windows_cut_by_hand():
    series = WALK[:, 0]
    z = (series - series.mean()) / series.std()
    rows = [(z[i : i + 12], z[i + 12 : i + 16]) for i in range(len(z) - 15)]
    x, y = (np.stack(part) for part in zip(*rows, strict=True))
    level = x.mean(axis=1, keepdims=True)
    peer = Ridge(0.5).fit(x - level, y - level)
    window = z[-12:]
    expected = (peer.predict((window - window.mean())[None])[0] + window.mean()) * series.std() + series.mean()
    assert np.allclose(RidgeForecaster(**SMALL, alphas=(0.5,)).fit(series).predict(series[-12:]), expected)


def test_beyond_its_horizon_a_forecaster_moves_on_over_its_own_forecasts():
    model = RidgeForecaster(**SMALL).fit(WALK)
    window = WALK[-12:]
    parts = []
    for _ in range(3):
        parts.append(model.predict(window))
        window = np.concatenate([window, parts[-1]])[-12:]
    assert np.allclose(model.predict(WALK[-12:], horizon=10), np.concatenate(parts)[:10])


def test_a_season_is_repeated():
    model = SeasonalNaive(period=3).fit(WALK[:, 0])
    assert np.allclose(model.predict([9.0, 1, 2, 3], horizon=7), [1, 2, 3, 1, 2, 3, 1])


def test_impossible_numbers_are_refused():
    with pytest.raises(FewerError, match="lag and horizon must be at least 1; they are 0 and 4"):
        SeasonalNaive(period=0, horizon=4).fit(WALK)
    with pytest.raises(FewerError, match="they are 12 and 0"):
        RidgeForecaster(lag=12, horizon=0).fit(WALK)
