"""The estimator: classes and numbers of signals, shorter sequences, repeatability, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from fewer.core.errors import Diverged, FewerError
from fewer.nets.long_conv import LongConvArchitecture
from fewer.nets.long_conv_model import LongConvModel

SMALL = LongConvArchitecture(width=8, layers=1, channels=1)
QUICK = LongConvArchitecture(
    width=16, layers=1, channels=1, lam=0, kernel_dropout=0, init="double_exp", dropout=0, kernel_lr=0.01
)


def waves(rows=120, length=40, seed=0):
    """Noisy waves of one of three frequencies, with a second channel of noise."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=rows)
    phase = rng.uniform(0, 6, size=(rows, 1))
    wave = np.sin(np.arange(length) * (0.3 + 0.4 * kind[:, None]) + phase) + 0.2 * rng.normal(size=(rows, length))
    return np.stack([wave, rng.normal(size=(rows, length))], axis=2), kind


def model(**settings):
    return LongConvModel(**{"network": SMALL, "epochs": 30, "batch": 30, **settings})


def test_it_tells_frequencies_apart_by_any_labels():
    x, kind = waves()
    labels = np.array(["low", "mid", "top"])[kind]
    fitted = model(network=QUICK).fit(x, labels)
    test_x, test_kind = waves(seed=1)
    assert fitted.score(test_x, np.array(["low", "mid", "top"])[test_kind]) > 0.8
    assert fitted.classes_.tolist() == ["low", "mid", "top"]
    np.testing.assert_allclose(fitted.predict_proba(test_x).sum(axis=1), 1, rtol=1e-5)
    assert fitted.history_[-1] < fitted.history_[0]
    assert len(fitted.history_) == 30


@pytest.mark.parametrize("outputs", [None, 2])
def test_it_predicts_numbers_in_their_own_scale(outputs):
    x, kind = waves()
    y = 1000 + 50.0 * kind
    y = y if outputs is None else np.stack([y, -y], axis=1)
    fitted = model(goal="regression", network=QUICK).fit(x, y)
    assert fitted.predict(x).shape == y.shape
    assert fitted.score(x, y) > 0.7
    with pytest.raises(FewerError, match="a regression has no probabilities"):
        fitted.predict_proba(x)


def test_one_channel_needs_no_axis_and_a_constant_one_does_no_harm():
    x, kind = waves(60)
    single = model(epochs=2).fit(x[:, :, 0], kind).predict_proba(x[:, :, 0])
    assert np.array_equal(single, model(epochs=2).fit(x[:, :, :1], kind).predict_proba(x[:, :, :1]))
    x[:, :, 1] = 3
    assert np.isfinite(model(epochs=2).fit(x, kind).predict_proba(x)).all()


def test_it_repeats_itself_and_is_an_estimator():
    x, kind = waves(60)
    first = model(epochs=2).fit(x, kind)
    second = clone(first).fit(x, kind)
    assert np.array_equal(first.predict_proba(x), second.predict_proba(x))
    other = model(epochs=2, random_state=1).fit(x, kind)
    assert not np.array_equal(first.predict_proba(x), other.predict_proba(x))


def test_shorter_sequences_are_welcome_and_longer_ones_are_not():
    x, kind = waves(60)
    fitted = model(epochs=1).fit(x, kind)
    assert fitted.predict(x[:, :25]).shape == (60,)
    with pytest.raises(FewerError, match="a sequence of 80 steps is longer than l_max=40"):
        fitted.predict(np.concatenate([x, x], axis=1))


X, KIND = waves(20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model(goal="rank").fit(X, KIND), "goal is 'rank'"),
        (lambda: model(epochs=0).fit(X, KIND), "epochs and batch must be at least 1; they are 0 and 30"),
        (lambda: model().fit(X, KIND[:5]), r"y has the shape \(5,\) for 20 sequences"),
        (lambda: model().fit(X, np.stack([KIND] * 2, axis=1)), r"y has the shape \(20, 2\)"),
        (lambda: model().fit(X, np.zeros(20)), "there is only one class, 0.0"),
        (lambda: model(goal="regression").fit(X, ["a"] * 20), "a regression needs numbers"),
        (lambda: model(goal="regression").fit(X, np.full(20, np.nan)), "y holds NaN"),
        (lambda: model().fit(np.where(X > 1, np.nan, X), KIND), "the sequences hold NaN"),
        (lambda: model().fit(X[:0], KIND[:0]), "not empty"),
        (lambda: model().fit([[1.0, 2.0], [1.0]], [0, 1]), "must be one array of numbers"),
        (lambda: model().predict(X), "has not been fitted yet"),
        (lambda: model(epochs=1).fit(X, KIND).predict(X[:, :, :1]), "1 channels and the fitted ones 2"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(Diverged, match=r"the loss became .* lower lr"):
        model(lr=1e30, goal="regression").fit(X, KIND.astype(float))
