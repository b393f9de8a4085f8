"""Scores against their formulas, curves made by hand and closed forms, and plain loops over every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fewer.core.errors import FewerError
from fewer.nets.selective_prediction import (
    auroc,
    confidence,
    fpr_at_tpr,
    mistakes,
    probabilities_of,
    risk_coverage,
    scod,
)

LOGITS = np.array([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]])


def test_scores_are_their_formulas():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(confidence(LOGITS), p.max(axis=1))
    np.testing.assert_allclose(confidence(LOGITS, "entropy"), (p * np.log(p)).sum(axis=1))
    np.testing.assert_allclose(confidence(LOGITS, "energy"), np.log(np.exp(LOGITS).sum(axis=1)))
    np.testing.assert_allclose(confidence(LOGITS, "max-logit"), [3, 2])
    for score in ("msp", "entropy"):
        np.testing.assert_allclose(confidence(p, score, "probabilities"), confidence(LOGITS, score))


def test_scores_take_tensors_and_do_not_saturate_in_single_precision():
    logits = torch.tensor([[0.0, 20.0], [0.0, 22.0]], requires_grad=True)
    single = logits.detach().softmax(dim=1).max(dim=1).values
    assert single[0] == single[1]
    first, second = confidence(logits)
    assert first < second < 1


def test_entropy_of_certainty_is_nothing():
    assert confidence(np.array([[0.0, 1.0]]), "entropy", "probabilities").tolist() == [0.0]


# --- risk against coverage -------------------------------------------------------------------------------------------


def test_a_curve_made_by_hand():
    curve = risk_coverage([0.2, 0.9, 0.7, 0.7, 0.5], [True, False, True, False, False])
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.5, 0.2]
    assert curve.coverage.tolist() == [0.2, 0.6, 0.8, 1.0]
    np.testing.assert_allclose(curve.risk, [0, 1 / 3, 1 / 4, 2 / 5])
    assert curve.risk_at(0.2) == 0
    assert curve.risk_at(0.21) == pytest.approx(1 / 3)
    assert curve.risk_at(1) == pytest.approx(0.4)
    assert curve.coverage_at(0.3) == 0.8  # the largest, although a smaller one has a higher risk
    assert curve.coverage_at(0) == 0.2
    assert curve.at_risk(0.1, skip=0.2) is None
    assert curve.risk_above(0.7) == pytest.approx(1 / 3)
    assert curve.risk_above(0.95) == 0
    area = 0.2 * 0 + 0.4 * (0 + 1 / 3) / 2 + 0.2 * (1 / 3 + 1 / 4) / 2 + 0.2 * (1 / 4 + 2 / 5) / 2
    assert curve.area == pytest.approx(area)


@pytest.mark.parametrize(("rows", "errors"), [(10, 3), (200, 50), (50, 0), (7, 7)])
def test_the_area_of_a_perfect_ranking_has_a_closed_form(rows, errors):
    curve = risk_coverage(np.arange(rows, 0, -1.0), np.arange(rows) >= rows - errors)
    risks = [max(0, accepted - (rows - errors)) / accepted for accepted in range(1, rows + 1)]
    expected = sum((a + b) / 2 for a, b in zip([risks[0], *risks], risks, strict=False)) / rows
    assert curve.area == pytest.approx(expected)
    assert curve.coverage_at(0) == pytest.approx((rows - errors) / rows)


def test_equal_scores_are_accepted_together_and_their_area_is_the_share_of_mistakes():
    curve = risk_coverage(np.zeros(10), np.arange(10) < 3)
    assert len(curve.risk) == 1
    assert curve.area == pytest.approx(0.3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 999))
def test_each_point_is_what_a_plain_count_gives(rows, seed):
    rng = np.random.default_rng(seed)
    scores, wrong = rng.integers(8, size=rows) / 8, rng.random(rows) < 0.3
    weights = rng.random(rows) + 0.1
    curve = risk_coverage(scores, wrong, weights)
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        kept = scores >= threshold
        assert coverage == pytest.approx(weights[kept].sum() / weights.sum())
        assert risk == pytest.approx((weights * wrong)[kept].sum() / weights[kept].sum())
    assert curve.coverage[-1] == pytest.approx(1)
    assert (np.diff(curve.thresholds) < 0).all()


def test_what_lies_outside_counts_as_wrong_in_its_share_whatever_its_number():
    inside, wrong = np.array([4.0, 3.0, 2.0, 1.0]), np.array([False, False, False, True])
    outside = np.array([2.5, 0.5])
    curve = scod(inside, wrong, outside)
    assert curve.risk[-1] == pytest.approx(0.5 * 0.25 + 0.5)
    repeated = scod(inside, wrong, np.repeat(outside, 7))
    np.testing.assert_allclose(repeated.risk, curve.risk)
    np.testing.assert_allclose(repeated.coverage, curve.coverage)
    threshold = risk_coverage(inside, wrong).thresholds[1]  # half of the rows inside
    assert curve.risk_above(threshold) == 0
    rare = scod(inside, wrong, outside, share=1e-9)
    np.testing.assert_allclose(rare.risk_above(1.0), 0.25, atol=1e-6)


# --- telling rows apart ----------------------------------------------------------------------------------------------


def test_auroc_is_scikit_learns():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(6, size=80), rng.integers(5, size=50)
    truth = np.r_[np.ones(80), np.zeros(50)]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]))
    assert auroc([1, 2], [0]) == 1
    assert auroc([1], [1]) == 0.5


@pytest.mark.parametrize(("tpr", "expected"), [(0.25, 0.0), (0.5, 0.2), (0.75, 0.6), (1.0, 0.8)])
def test_false_positives_at_the_threshold_that_keeps_a_share(tpr, expected):
    assert fpr_at_tpr([9, 7, 5, 3], [8, 6, 5, 4, 1], tpr) == pytest.approx(expected)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confidence(LOGITS, "margin"), "unknown score 'margin'; did you mean max-logit"),
        (lambda: confidence(LOGITS, "msp", "odds"), "outputs are 'odds'; choose 'logits' or 'probabilities'"),
        (lambda: confidence(LOGITS, "energy", "probabilities"), "the score energy needs logits"),
        (lambda: confidence(LOGITS, kind="probabilities"), "these outputs are no probabilities"),
        (lambda: probabilities_of(np.array([[1.5, -0.5]]), "probabilities"), "a row is negative or does not sum to 1"),
        (lambda: confidence(np.zeros(3)), r"outputs have the shape \(3,\)"),
        (lambda: confidence(np.zeros((3, 1))), "two classes or more"),
        (lambda: confidence([[0, math.nan], [0, 1]]), r"NaN or infinity in 1 rows \(the first is row 0\)"),
        (lambda: risk_coverage([], []), r"scores have the shape \(0,\)"),
        (lambda: risk_coverage([1, math.nan], [True, False]), "1 scores are NaN"),
        (lambda: risk_coverage([1, 2], [True]), r"one score, one mistake and one weight a row; given \(2,\), \(1,\)"),
        (lambda: risk_coverage([1], [True]).risk_at(1.2), "coverage is 1.2; give a share between 0 and 1"),
        (lambda: risk_coverage([1], [True]).coverage_at(-1), "risk is -1; give a share"),
        (lambda: scod([1], [True], [1], share=1), "the share of rows outside is 1"),
        (lambda: scod([1], [True], []), r"scores have the shape \(0,\)"),
        (lambda: mistakes(LOGITS, [0]), "give a class number for each of 2 rows"),
        (lambda: mistakes(LOGITS, [0.0, 1.0]), "of float64; give a class number"),
        (lambda: mistakes(LOGITS, [0, 3]), "labels run from 0 to 3; with 3 classes they are 0 to 2"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()
