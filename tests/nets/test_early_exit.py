"""Exits over arrays: the limits of the window, exact counts, the ensemble inside it, many stages, shift, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.nets.early_exit import EarlyExitCascade, Window
from fewer.nets.selective_prediction import confidence, risk_coverage


def outputs(rows=1000, models=2, classes=4, seed=0, spread=1.2):
    """Logits of models of like skill, whose mistakes are partly their own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    common = 2 * np.eye(classes)[y] + 0.5 * rng.normal(size=(rows, classes))
    return common + spread * rng.normal(size=(models, rows, classes)), y


def mean_probabilities(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)).mean(axis=0)


VALID, Y = outputs()
TEST, TEST_Y = outputs(seed=1)


# --- limits and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["msp", "entropy", "energy", "max-logit"])
def test_no_width_is_the_first_model_and_full_width_the_ensemble_also_beyond_the_validation_scores(score):
    far = TEST * 5  # scores that no validation row had
    single = EarlyExitCascade(width=0, confidence=score).calibrate(VALID).run(far)
    np.testing.assert_allclose(single.probabilities, mean_probabilities(far[:1]))
    np.testing.assert_allclose(single.scores, confidence(far[0], score))
    assert single.calls.tolist() == [1000, 0]
    assert single.saved == 0.5
    full = EarlyExitCascade(width=1, confidence=score).calibrate(VALID).run(far)
    np.testing.assert_allclose(full.probabilities, mean_probabilities(far))
    np.testing.assert_allclose(full.scores, np.mean([confidence(each, score) for each in far], axis=0))
    assert full.saved == 0
    for width, rule in ((0, "single"), (1, "ensemble")):
        same = EarlyExitCascade(width=0.1, confidence=score, rule=rule).calibrate(VALID).run(far)
        assert np.array_equal(same.scores, (single if width == 0 else full).scores)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.05, 0.95))
def test_the_share_passed_on_is_twice_the_width_but_for_the_ends(width, coverage):
    cascade = EarlyExitCascade(("coverage", coverage), width=width).calibrate(VALID)
    below = 1 - coverage
    expected = min(below + width, 1) - max(below - width, 0)
    assert cascade.validation_.calls[1] / 1000 == pytest.approx(expected, abs=0.003)


def test_a_baseline_of_one_threshold_passes_on_the_least_certain():
    exits = EarlyExitCascade(rule="single-threshold", width=0.1).calibrate(VALID).validation_
    scores = confidence(VALID[0])
    assert exits.calls[1] == 200
    assert scores[exits.passes == 2].max() <= scores[exits.passes == 1].min()


def test_a_baseline_at_random_passes_on_as_many_and_by_its_seed():
    cascade = EarlyExitCascade(rule="random", width=0.1, seed=3).calibrate(VALID)
    exits = cascade.run(TEST)
    assert 150 < exits.calls[1] < 250
    assert np.array_equal(exits.passes, cascade.run(TEST).passes)
    other = EarlyExitCascade(rule="random", width=0.1, seed=4).calibrate(VALID).run(TEST)
    assert not np.array_equal(exits.passes, other.passes)


def test_inside_the_window_the_ensemble_decides_and_outside_the_first_model():
    exits = EarlyExitCascade(("coverage", 0.6)).calibrate(VALID).run(TEST)
    full = EarlyExitCascade(("coverage", 0.6), rule="ensemble").calibrate(VALID).run(TEST)
    inside = exits.passes == 2
    assert np.array_equal(exits.scores[inside], full.scores[inside])
    assert np.array_equal(exits.probabilities[inside], full.probabilities[inside])
    assert np.array_equal(exits.scores[~inside], confidence(TEST[0])[~inside])
    for threshold in np.quantile(exits.scores, [0.2, 0.4, 0.6]):
        differs = (exits.scores >= threshold) != (full.scores >= threshold)
        assert not (differs & inside).any()


def test_ends_of_the_window_are_passed_on():
    window = Window(0.4, 0.5, 0.6)
    assert window.holds(np.array([0.39, 0.4, 0.5, 0.6, 0.61])).tolist() == [False, True, True, True, False]


def test_identical_models_change_nothing():
    same = np.stack([VALID[0]] * 3)
    exits = EarlyExitCascade(width=0.3).calibrate(same).run(same)
    assert exits.calls[1] > 0
    np.testing.assert_allclose(exits.scores, confidence(VALID[0]), rtol=1e-13)
    assert np.array_equal(exits.predictions, VALID[0].argmax(axis=1))


# --- the operating point ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coverage", "tpr"])
def test_a_share_of_the_validation_rows_is_accepted(name):
    cascade = EarlyExitCascade((name, 0.7)).calibrate(VALID)
    assert cascade.validation_.accepted.mean() == pytest.approx(0.7)
    assert cascade.run(TEST).accepted.mean() == pytest.approx(0.7, abs=0.05)


def test_a_risk_is_kept_to_with_as_many_rows_as_it_allows():
    cascade = EarlyExitCascade(("risk", 0.1)).calibrate(VALID, Y)
    exits = cascade.validation_
    wrong = exits.predictions != Y
    assert wrong[exits.accepted].mean() <= 0.1
    assert exits.accepted.mean() == pytest.approx(risk_coverage(exits.scores, wrong).coverage_at(0.1))
    assert (cascade.run(TEST).predictions != TEST_Y)[cascade.run(TEST).accepted].mean() == pytest.approx(0.1, abs=0.05)


def test_a_risk_out_of_reach_is_said_with_the_best_there_is():
    wrong_labels = (Y + 1) % 4
    with pytest.warns(UserWarning, match=r"no coverage has a risk of 0.05 .*; the least is 0\.\d+ at a coverage of"):
        EarlyExitCascade(("risk", 0.05)).calibrate(VALID, wrong_labels)


def test_a_risk_that_all_rows_keep_to_accepts_all():
    assert EarlyExitCascade(("risk", 1.0)).calibrate(VALID, Y).validation_.accepted.all()


# --- forms of input --------------------------------------------------------------------------------------------------


def test_arrays_tensors_and_functions_are_the_same_and_functions_are_asked_only_about_rows_that_got_there():
    cascade = EarlyExitCascade().calibrate([torch.from_numpy(each) for each in VALID])
    asked = []

    def second(rows):
        asked.extend(rows.tolist())
        return torch.from_numpy(TEST[1][rows])

    lazy = cascade.run([TEST[0], second])
    plain = cascade.run(TEST)
    assert np.array_equal(lazy.scores, plain.scores)
    assert asked == np.flatnonzero(plain.passes == 2).tolist()
    assert 0 < len(asked) < 1000
    functions = cascade.run([lambda rows: TEST[0][rows], second], rows=1000)
    assert np.array_equal(functions.probabilities, plain.probabilities)


def test_probabilities_give_what_their_logits_give():
    p = np.stack([mean_probabilities(each[None]) for each in VALID])
    ours = EarlyExitCascade(("risk", 0.1), confidence="entropy", kind="probabilities").calibrate(p, Y).validation_
    theirs = EarlyExitCascade(("risk", 0.1), confidence="entropy").calibrate(VALID, Y).validation_
    np.testing.assert_allclose(ours.scores, theirs.scores)
    assert np.array_equal(ours.passes, theirs.passes)


def test_scores_of_mean_probabilities():
    exits = EarlyExitCascade(width=1, combine="probabilities").calibrate(VALID).run(TEST)
    np.testing.assert_allclose(exits.scores, mean_probabilities(TEST).max(axis=1))


def test_no_row_that_passes_is_no_trouble():
    exits = EarlyExitCascade(width=0).calibrate(VALID).run(TEST[:, :5])
    assert exits.calls.tolist() == [5, 0]
    assert EarlyExitCascade().calibrate(VALID).run(TEST[:, :0]).scores.shape == (0,)


# --- many stages -----------------------------------------------------------------------------------------------------


def test_each_stage_has_its_window_around_the_running_mean_by_a_plain_loop():
    valid, y = outputs(models=4, seed=2)
    test, _ = outputs(models=4, seed=3)
    cascade = EarlyExitCascade(("risk", 0.12), width=0.2).calibrate(valid, y)
    exits = cascade.run(test)
    scores = np.stack([confidence(each) for each in test])
    p = np.stack([mean_probabilities(each[None]) for each in test])
    for row in range(0, 1000, 37):
        models = 1
        while models < 4:
            window = cascade.windows_[models - 1]
            if not window.low <= scores[:models, row].mean() <= window.high:
                break
            models += 1
        assert exits.passes[row] == models
        assert exits.scores[row] == pytest.approx(scores[:models, row].mean())
        np.testing.assert_allclose(exits.probabilities[row], p[:models, row].mean(axis=0))
    assert len(cascade.windows_) == 3
    assert exits.calls.tolist() == [np.count_nonzero(exits.passes > stage) for stage in range(4)]
    assert exits.cost([1, 2, 3, 4]) == pytest.approx(exits.calls @ [1, 2, 3, 4] / 1000)
    assert exits.saved == pytest.approx(1 - exits.passes.mean() / 4)


def test_members_of_one_ensemble_network_are_stages():
    """Logits as an ensemble inside one network gives them, (rows, members, classes), grouped into three stages."""
    logits, _ = outputs(models=8, seed=4)
    members = logits.transpose(1, 0, 2)
    groups = (members[:, :2], members[:, 2:4], members[:, 4:])
    stages = [mean_probabilities(each.transpose(1, 0, 2)) for each in groups]
    exits = EarlyExitCascade(kind="probabilities").calibrate(stages).validation_
    last = exits.passes == 3
    assert exits.calls[0] > exits.calls[1] > exits.calls[2] > 0
    np.testing.assert_allclose(exits.probabilities[last], np.mean(stages, axis=0)[last])
    assert exits.saved > 0.5


# --- shift -----------------------------------------------------------------------------------------------------------


def test_under_shift_the_adjusted_window_keeps_its_share_around_the_same_threshold():
    cascade = EarlyExitCascade(("coverage", 0.5)).calibrate(VALID)
    shifted = TEST * 0.6  # less certain than the validation rows
    adjusted = cascade.adjusted(shifted[:1])
    assert adjusted.windows_[0].threshold == cascade.windows_[0].threshold
    assert adjusted.windows_ != cascade.windows_
    assert adjusted.threshold_ == cascade.threshold_
    scores = confidence(shifted[0])
    share = np.mean(scores < cascade.windows_[0].threshold)
    expected = min(share + 0.1, 1) - max(share - 0.1, 0)
    assert adjusted.run(shifted).calls[1] / 1000 == pytest.approx(expected, abs=0.003)
    unshifted = cascade.adjusted(VALID)
    assert unshifted.windows_ == cascade.windows_


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": ("accuracy", 0.5)}, r"target is \('accuracy', 0.5\); give \('risk', 0.05\)"),
        ({"target": ("risk", 0)}, "target is"),
        ({"target": 0.8}, "target is 0.8"),
        ({"width": -0.1}, "width is -0.1; give a share"),
        ({"width": 1.1}, "width is 1.1"),
        ({"rule": "windows"}, "unknown rule 'windows'; did you mean window"),
        ({"combine": "logits"}, "combine is 'logits'; choose"),
        ({"confidence": "energy", "combine": "probabilities"}, "mean probabilities have no energy"),
        ({"confidence": "sure"}, "unknown score 'sure'"),
        ({"confidence": "energy", "kind": "probabilities"}, "the score energy needs logits"),
        ({"kind": "probabilities"}, "these outputs are no probabilities"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(FewerError, match=message):
        EarlyExitCascade(**settings).calibrate(VALID, Y)


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (VALID[:1], Y, "outputs of two models or more; 1 given"),
        ([VALID[0], VALID[1][:999]], Y, r"model 1 have the shape \(999, 4\) and those of model 0 \(1000, 4\)"),
        ([VALID[0], VALID[1][:, :3]], Y, r"\(1000, 3\) and those of model 0 \(1000, 4\)"),
        (VALID, None, "a risk needs the labels of the validation rows"),
        (VALID[:, :199], Y[:199], "199 validation rows are too few to tell a risk; give 200 or more"),
        (VALID, Y[:5], r"validation labels have the shape \(5,\)"),
        (VALID, Y + 1, "validation labels run from 1 to 4"),
        (VALID[:, :0], Y[:0], "there are no validation rows"),
        (np.where(VALID > 4, np.nan, VALID), Y, "outputs of model 0 hold NaN"),
    ],
)
def test_validation_rows_that_do_not_fit_are_refused(logits, y, message):
    with pytest.raises(FewerError, match=message):
        EarlyExitCascade(("risk", 0.05)).calibrate(logits, y)


def test_outputs_that_do_not_fit_are_refused():
    cascade = EarlyExitCascade().calibrate(VALID)
    with pytest.raises(FewerError, match="calibrated with 2 models; outputs of 3 were given"):
        cascade.run([TEST[0]] * 3)
    with pytest.raises(FewerError, match="equally many rows; given: 900, 1000"):
        cascade.run([TEST[0], TEST[1][:900]])
    with pytest.raises(FewerError, match="given: none, as every stage is a function"):
        cascade.run([lambda rows: TEST[0][rows]] * 2)
    with pytest.raises(FewerError, match=r"outputs of model 0 have the shape \(1000, 3\); \(1000, 4\) was asked for"):
        cascade.run(TEST[:, :, :3])
    with pytest.raises(FewerError, match="has no windows yet; call calibrate"):
        EarlyExitCascade().run(TEST)
    with pytest.raises(FewerError, match="outputs of 1 models are needed to adjust the windows; 0 given"):
        cascade.adjusted([])
    with pytest.raises(FewerError, match="2 models and 3 costs"):
        cascade.run(TEST).cost([1, 2, 3])
