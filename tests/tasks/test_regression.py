"""Regression tasks: splits, scores against the definitions, fingerprints, errors; the two that are bundled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score

from fewer.compose import task as compose
from fewer.core.errors import FewerError
from fewer.tasks.diabetes import diabetes
from fewer.tasks.friedman import friedman
from fewer.tasks.regression import Regression


def toy(**options):
    x = np.arange(60.0)[:, None] * [1, 2]
    return Regression("toy", x, np.sqrt(np.arange(60.0)), **options)


@pytest.mark.parametrize(("test", "held"), [(0.2, 12), (7, 7), (0.5, 30)])
def test_a_split_uses_every_row_once_and_rows_keep_their_targets(test, held):
    split = toy(test=test).split(3)
    assert len(split.test_y) == held
    together = np.concatenate([split.x[:, 0], split.test_x[:, 0]])
    assert sorted(together) == list(range(60))
    assert np.array_equal(np.sqrt(together), np.concatenate([split.y, split.test_y]))


def test_splits_follow_the_seed():
    first, again, other = (toy().split(seed).x for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_standardising_looks_at_the_pool_alone():
    split, raw = toy(standardise=True).split(1), toy().split(1)
    np.testing.assert_allclose(split.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(split.x.std(axis=0), 1)
    np.testing.assert_allclose(split.test_x, (raw.test_x - raw.x.mean(axis=0)) / raw.x.std(axis=0))
    assert np.array_equal(split.y, raw.y)


def test_fewer_rows_are_drawn_from_the_same_pool():
    few, all_rows = toy(rows=9).split(2), toy().split(2)
    assert len(few.x) == 9
    assert np.array_equal(few.test_x, all_rows.test_x)
    assert set(few.x[:, 0]) <= set(all_rows.x[:, 0])


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=20))
def test_scores_are_those_of_scikit_learn(pairs):
    truth, predicted = np.array(pairs).T
    if truth.min() == truth.max() or truth.var() < 1e-9:
        return
    assert toy().score(truth, predicted) == pytest.approx(r2_score(truth, predicted), rel=1e-6, abs=1e-6)
    expected = -np.sqrt(mean_squared_error(truth, predicted))
    assert toy(metric="-rmse").score(truth, predicted) == pytest.approx(expected)


def test_the_fingerprint_follows_everything_that_decides_a_result():
    x, y = toy().x.copy(), toy().y.copy()
    x[0, 0], y[5] = 9, 9
    variants = [
        toy(),
        toy().with_(x=x),
        toy().with_(y=y),
        toy(test=13),
        toy(rows=20),
        toy(metric="-rmse"),
        toy(standardise=True),
        toy(origin="made"),
    ]
    prints = [task.fingerprint() for task in variants]
    assert len(set(prints)) == len(prints)
    assert toy().fingerprint() == prints[0]
    assert toy(origin="made").with_(x=x).fingerprint() == prints[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros(5)}, "60 rows but 5 labels"),
        ({"y": np.full(60, 3.0)}, "the target is 3 in every row, so there is nothing to predict"),
        ({"y": np.full(60, np.nan)}, r"60 targets are NaN or infinite \(the first is row 0\)"),
        ({"x": np.full((60, 2), np.nan)}, r"60 rows hold NaN or infinity"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "the target is missing"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'; choose r2 or -rmse"),
        ({"rows": 0}, "give how many rows"),
        ({"test": "a"}, "give a number of rows"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    with pytest.raises(FewerError, match=f"^toy: .*{message}") as caught:
        toy().with_(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"test": 60}, "leaves nothing"), ({"test": 0}, "leaves nothing"), ({"rows": 49}, "only 48 are left")],
)
def test_an_impossible_split_is_refused(changes, message):
    with pytest.raises(FewerError, match=message):
        toy().with_(**changes).split(0)


def test_r2_of_test_rows_that_are_all_alike_is_refused():
    with pytest.raises(FewerError, match="the 3 test rows all have the target 2, and r2 is undefined; hold out more"):
        toy().score(np.full(3, 2.0), np.zeros(3))
    assert toy(metric="-rmse").score(np.full(3, 2.0), np.zeros(3)) == -2


# --- the bundled ones -------------------------------------------------------------------------------------------------


def test_diabetes_is_the_published_table():
    x, y = load_diabetes(return_X_y=True, scaled=False)
    task = compose("diabetes(metric='-rmse', test=40)")
    assert np.array_equal(task.x, x.astype(np.float32))
    assert np.array_equal(task.y, y)
    assert (task.metric, len(task.split(0).test_y)) == ("-rmse", 40)
    split = diabetes().split(0)
    assert diabetes().score(split.test_y, LinearRegression().fit(split.x, split.y).predict(split.test_x)) > 0.3


def test_friedman_is_its_formula():
    task = compose("friedman(rows=400, noise=0)")
    a, b, c, d, e, *rest = task.x.astype(np.float64).T
    expected = 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
    np.testing.assert_allclose(task.y, expected, atol=1e-4)
    assert len(rest) == 5
    noisy = friedman(rows=400)
    assert np.std(noisy.y - task.y) == pytest.approx(1, abs=0.15)
    assert friedman().x.shape == (2000, 10)
    prints = {friedman(rows=400, **each).fingerprint() for each in ({}, {"draw": 1}, {"noise": 2.0}, {"test": 0.3})}
    assert len(prints) == 4


@pytest.mark.parametrize("bad", [{"rows": 1}, {"rows": 2.5}, {"rows": True}, {"noise": -1.0}])
def test_friedman_refuses_what_cannot_be_generated(bad):
    with pytest.raises(FewerError, match="give two rows or more, and noise of 0 or more"):
        friedman(**bad)
