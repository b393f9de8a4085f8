"""Series to forecast: what is held out, the score, the user's files, the real ones, the generated ones, errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.tasks.series import Series, ar, autoregression, series, stable_coefficients

WAVE = np.sin(np.arange(100.0) / 3)[:, None]


def wave(**changes):
    return Series(**{"name": "wave", "values": WAVE, "channels": ("wave",), "lag": 10, "horizon": 5, **changes})


# --- windows and score -----------------------------------------------------------------------------------------------


def test_forecasts_begin_at_every_held_out_step_and_know_only_the_past():
    task = wave()
    assert np.array_equal(task.history, WAVE[:80])
    for index, origin in enumerate(range(80, 96)):
        assert np.array_equal(task.windows[index], WAVE[origin - 10 : origin])
        assert np.array_equal(task.futures[index], WAVE[origin : origin + 5])
    assert len(task.windows) == 16


def test_no_more_forecasts_than_asked_for_evenly_spread():
    task = wave(origins=4, test=20)
    assert len(task.windows) == 4
    assert np.array_equal(task.futures[0], WAVE[80:85])
    assert np.array_equal(task.futures[-1], WAVE[95:])


def test_the_score_is_the_error_over_that_of_the_last_season():
    values = np.stack([np.arange(40.0) ** 1.5, np.random.default_rng(0).normal(size=40)], axis=1)
    task = wave(values=values, channels=("a", "b"), period=2, test=8, horizon=3)
    forecasts = task.futures + np.array([1.0, 0.5])
    scale = [np.mean([abs(values[t, c] - values[t - 2, c]) for t in range(2, 32)]) for c in range(2)]
    assert task.score(forecasts) == pytest.approx(-np.mean([1 / scale[0], 0.5 / scale[1]]))
    assert task.score(task.futures) == 0


def test_repeating_the_last_value_one_step_ahead_scores_about_minus_one():
    values = np.random.default_rng(0).normal(size=(3000, 1)).cumsum(axis=0)
    task = wave(values=values, horizon=1, test=1500, origins=1500)
    assert task.score(task.windows[:, -1:]) == pytest.approx(-1, abs=0.05)


def test_a_series_that_repeats_itself_exactly_is_measured_by_how_much_it_moves():
    task = wave(values=np.tile([0.0, 2.0], 50)[:, None], period=2)
    assert task.score(task.futures + 1) == pytest.approx(-1)


def test_equal_tasks_have_equal_fingerprints_and_others_do_not():
    assert wave().fingerprint() == wave(name="same").fingerprint()
    changed = WAVE.copy()
    changed[3] += 1e-9
    others = [wave(values=changed), wave(lag=9), wave(horizon=4), wave(period=2), wave(test=21), wave(origins=3)]
    assert len({task.fingerprint() for task in [wave(), *others]}) == 7


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lag": 0}, "lag=0; give a whole number of at least 1"),
        ({"horizon": 2.0}, "horizon=2.0; give a whole number"),
        ({"period": 11}, "a season of 11 time steps is longer than the window of 10"),
        ({"lag": 76}, "100 time steps, of which test=0.2 are held out, are too few for lag=76 and horizon=5"),
        ({"test": 4}, "too few for lag=10 and horizon=5"),
        ({"test": 0}, "test=0 of 100 time steps leaves nothing to score"),
        ({"values": np.where(np.arange(100)[:, None] == 4, np.nan, WAVE)}, "NaN or infinite in data row 5"),
        ({"values": np.where(np.arange(100)[:, None] < 80, 1.0, WAVE)}, "'wave' is constant in the history"),
    ],
)
def test_impossible_tasks_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        wave(**bad)


# --- the user's own --------------------------------------------------------------------------------------------------


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    day = pd.date_range("2020-01-01", periods=90).astype(str)
    return pd.DataFrame({"day": day, "load": 1e9 + rng.random(90), "price": rng.random(90)})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_of_a_file_are_read_and_sorted(frame, tmp_path, kind):
    path = tmp_path / f"load.{kind}"
    mixed = frame.sample(frac=1, random_state=0)
    mixed.to_csv(path, index=False) if kind == "csv" else mixed.to_parquet(path)
    task = compose.task(f"series({str(path)!r}, order='day', lag=14, horizon=7, period=7)")
    assert task.channels == ("load", "price")
    assert np.allclose(task.values, frame[["load", "price"]], rtol=1e-12)  # not rounded to single precision
    assert series(str(path), "price", lag=14, horizon=7).values.shape == (90, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "lod"}, "no column 'lod'; did you mean load"),
        ({"order": "date"}, "no column 'date'"),
        ({"columns": "day"}, "holds '2020-01-01' in data row 1, which is no number"),
        ({"columns": "load", "order": "word"}, "column 'word' holds neither dates nor numbers to sort by"),
        ({"lag": 90}, "are too few for lag=90"),
    ],
)
def test_files_that_make_no_series_are_refused(frame, tmp_path, options, message):
    frame["word"] = ["a", "b", "c"] * 30
    frame.to_csv(tmp_path / "load.csv", index=False)
    with pytest.raises(FewerError, match=message):
        series(str(tmp_path / "load.csv"), **options)


def test_gaps_and_files_without_numbers_are_refused(frame, tmp_path):
    frame.loc[3, "load"] = np.nan
    frame.to_csv(tmp_path / "load.csv", index=False)
    with pytest.raises(FewerError, match="column 'load' has no value in data row 4"):
        series(str(tmp_path / "load.csv"))
    frame[["day"]].to_csv(tmp_path / "days.csv", index=False)
    with pytest.raises(FewerError, match="no column holds numbers; name what to forecast in columns="):
        series(str(tmp_path / "days.csv"))
    with pytest.raises(FewerError, match="no file at"):
        series(str(tmp_path / "none.csv"))


# --- real ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "first", "last"),
    [
        ("sunspots", 309, 5.0, 2.9),
        ("co2", 2284, 316.1, 371.5),
        ("nile", 100, 1120, 740),
        ("el-nino", 732, 23.11, 22.07),
    ],
)
def test_real_series(name, steps, first, last):
    pytest.importorskip("statsmodels")
    task = compose.task(name)
    assert task.values.shape == (steps, 1)
    assert task.values[[0, -1], 0] == pytest.approx([first, last])


# --- generated -------------------------------------------------------------------------------------------------------


def test_an_autoregression_is_its_recurrence_and_has_the_poles_that_were_drawn():
    rng = np.random.default_rng(0)
    coefficients = stable_coefficients(6, rng)
    poles = np.roots(np.r_[1, -coefficients])
    assert np.abs(poles).min() >= 0.99 - 1e-9
    assert np.abs(poles).max() < 1
    x = autoregression(coefficients, 50, 3, rng)
    for t in range(6, 50):
        assert np.allclose(x[:, t], sum(coefficients[i] * x[:, t - 1 - i] for i in range(6)))


def test_ar_tasks_differ_by_seed_and_are_scaled():
    assert ar(steps=400).fingerprint() == ar(steps=400).fingerprint() != ar(steps=400, seed=1).fingerprint()
    assert ar(steps=400).values.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ar(order=3), "order must be even and at least 2, for poles come in pairs; 3 was given"),
        (lambda: ar(noise=0.0), "steps must be at least 1 and noise above 0; they are 2000 and 0.0"),
    ],
)
def test_impossible_autoregressions_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
