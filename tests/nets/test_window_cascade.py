"""Fitted classifiers as a cascade: against stored outputs, lazily called, with any labels, and its errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from fewer.core.errors import FewerError
from fewer.nets.early_exit import EarlyExitCascade
from fewer.nets.window_cascade import POINTS, WindowCascade, measure

X, NUMBERS = make_classification(900, n_informative=6, n_classes=3, random_state=0)
Y = np.array(["cat", "dog", "eel"])[NUMBERS]
FIT, VALID, TEST = slice(300), slice(300, 600), slice(600, 900)
FIRST, SECOND = LogisticRegression().fit(X[FIT], Y[FIT]), GaussianNB().fit(X[FIT], Y[FIT])


class Counting(ClassifierMixin, BaseEstimator):
    """Says how many rows it was asked about."""

    def __init__(self, model):
        self.model = model
        self.classes_ = model.classes_
        self.asked = 0

    def predict_proba(self, x):
        self.asked += len(x)
        return self.model.predict_proba(x)


def test_it_is_the_cascade_of_its_models_outputs():
    cascade = WindowCascade([FIRST, SECOND], ("risk", 0.2), confidence="entropy").calibrate(X[VALID], Y[VALID])
    stored = EarlyExitCascade(("risk", 0.2), confidence="entropy", kind="probabilities")
    stored.calibrate([each.predict_proba(X[VALID]) for each in (FIRST, SECOND)], NUMBERS[VALID])
    exits = stored.run([each.predict_proba(X[TEST]) for each in (FIRST, SECOND)])
    np.testing.assert_allclose(cascade.predict_proba(X[TEST]), exits.probabilities)
    assert np.array_equal(cascade.decision(X[TEST]), exits.accepted)
    assert np.array_equal(cascade.predict(X[TEST]), FIRST.classes_[exits.predictions])
    assert cascade.cost_ == stored.validation_.passes.mean()
    assert 0 < cascade.score(X[TEST], Y[TEST]) <= 1


def test_a_later_model_is_never_called_on_rows_that_exited():
    models = [Counting(FIRST), Counting(SECOND), Counting(FIRST)]
    cascade = WindowCascade(models).calibrate(X[VALID])
    assert [each.asked for each in models] == [300, 300, cascade.cascade_.validation_.calls[2]]
    for each in models:
        each.asked = 0
    exits = cascade.run(X[TEST])
    assert [each.asked for each in models] == exits.calls.tolist()
    assert exits.calls[0] == 300 > exits.calls[1] > exits.calls[2] > 0


def test_the_last_model_is_not_called_where_no_row_gets_there():
    models = [Counting(FIRST), Counting(SECOND)]
    WindowCascade(models, width=0).calibrate(X[VALID]).predict(X[TEST])
    assert models[1].asked == 0


@pytest.mark.parametrize("form", [pd.DataFrame, np.asarray])
def test_frames_and_pipelines_are_welcome(form):
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(form(X[FIT]), Y[FIT]) for c in (1, 0.01)]
    cascade = WindowCascade(models).fit(form(X[VALID]), Y[VALID])
    assert cascade.predict(form(X[TEST])).shape == (300,)
    assert "WindowCascade" in repr(cascade)
    assert cascade.get_params(deep=False)["width"] == 0.1


def test_scores_of_logits_are_taken_from_the_decision_function():
    models = [LinearSVC(C=c).fit(X[FIT], Y[FIT]) for c in (1, 0.001)]
    cascade = WindowCascade(models, confidence="max-logit", rule="single").calibrate(X[VALID])
    np.testing.assert_allclose(cascade.run(X[TEST]).scores, models[0].decision_function(X[TEST]).max(axis=1))


def test_two_classes_have_one_decision_that_stands_for_both():
    y = NUMBERS == 1
    models = [LogisticRegression(C=c).fit(X[FIT], y[FIT]) for c in (1, 0.01)]
    cascade = WindowCascade(models, confidence="max-logit", rule="single").calibrate(X[VALID])
    exits = cascade.run(X[TEST])
    np.testing.assert_allclose(exits.scores, np.abs(models[0].decision_function(X[TEST])) / 2)
    np.testing.assert_allclose(exits.probabilities, models[0].predict_proba(X[TEST]))


def test_networks_are_models_and_are_left_as_they_were():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(20, 3), nn.Dropout(0.5)) for _ in range(2)]
    cascade = WindowCascade(networks, confidence="energy", width=1).calibrate(X[VALID])
    assert cascade.classes_.tolist() == [0, 1, 2]
    with torch.no_grad():
        logits = [each[0](torch.from_numpy(X[TEST]).float()).double().numpy() for each in networks]
    expected = np.mean([np.log(np.exp(each).sum(axis=1)) for each in logits], axis=0)
    np.testing.assert_allclose(cascade.run(X[TEST]).scores, expected, rtol=1e-5)
    assert all(each.training for each in networks)


def test_a_network_and_a_classifier_make_a_cascade():
    torch.manual_seed(0)
    cascade = WindowCascade([nn.Linear(20, 3), FIRST]).calibrate(X[VALID])
    assert cascade.classes_.tolist() == ["cat", "dog", "eel"]
    assert set(cascade.predict(X[TEST])) <= {"cat", "dog", "eel"}


def test_windows_follow_a_shift():
    cascade = WindowCascade([FIRST, SECOND], ("coverage", 0.5)).calibrate(X[VALID])
    shifted = X[TEST] * 0.3
    adjusted = cascade.adjusted(shifted)
    assert adjusted.cascade_.windows_ != cascade.cascade_.windows_
    assert adjusted.cascade_.windows_[0].threshold == cascade.cascade_.windows_[0].threshold


@pytest.mark.parametrize(
    ("models", "y", "message"),
    [
        ([FIRST], Y[VALID], "two models are the least; 1 given"),
        (
            [FIRST, GaussianNB().fit(X[FIT], NUMBERS[FIT])],
            Y[VALID],
            r"model 1 knows the classes \(0, 1, 2\) and model 0 \(cat, dog, eel\); fit all on the same labels",
        ),
        ([FIRST, LinearSVC().fit(X[FIT], Y[FIT])], Y[VALID], r"model 1 \(LinearSVC\) has no predict_proba"),
        ([FIRST, SECOND], None, "a risk needs the labels"),
        ([FIRST, SECOND], Y[:5], r"labels have the shape \(5,\); give one for each of 300 rows"),
        ([FIRST, SECOND], np.where(Y[VALID] == "eel", "fox", Y[VALID]), "the label fox is none of the models' classes"),
    ],
)
def test_models_and_labels_that_do_not_fit_are_refused(models, y, message):
    with pytest.raises(FewerError, match=message):
        WindowCascade(models, ("risk", 0.3)).calibrate(X[VALID], y)


def test_the_order_of_classes_counts():
    turned = GaussianNB().fit(X[FIT], Y[FIT])
    turned.classes_ = turned.classes_[::-1]
    with pytest.raises(FewerError, match=r"\(eel, dog, cat\) and model 0 \(cat, dog, eel\)"):
        WindowCascade([FIRST, turned]).calibrate(X[VALID])


def test_it_is_to_be_calibrated_first():
    with pytest.raises(FewerError, match="this WindowCascade has no windows yet"):
        WindowCascade([FIRST, SECOND]).predict(X[TEST])
    with pytest.raises(FewerError, match="there are no validation rows"):
        WindowCascade([FIRST, SECOND]).calibrate(X[:0])


def test_what_the_claim_measures_is_exact_where_it_must_be():
    measured = measure(100, tiny=True)
    for point in POINTS:
        assert measured["window"][f"decided otherwise inside, {point}"] == 0
        assert measured["single"][f"gain at {point}"] == 0
        assert measured["single"][f"passes at {point}"] == 1
        assert measured["ensemble"][f"passes at {point}"] == 2
