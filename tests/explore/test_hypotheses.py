from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.endless_worlds import labelled_river
from fewer.explore.hypotheses import Hypotheses


def models(count=4, states=3, actions=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(states), size=(count, states, actions)), rng.random((count, states, actions))


def steps(runs=5, states=3, actions=2, seed=1):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(states, size=runs),
        rng.integers(actions, size=runs),
        rng.random(runs),
        rng.integers(states, size=runs),
    )


def test_each_hypothesis_obeys_the_bellman_equation_of_average_rewards():
    P, R = models()
    known = Hypotheses.of_models(P, R)
    np.testing.assert_allclose(
        known.gain[:, None, None] + known.Q, R + np.einsum("ksaz,kz->ksa", P, known.values), atol=1e-6
    )
    np.testing.assert_allclose(known.values.min(axis=1), 0, atol=1e-6)
    assert known.span == pytest.approx(np.ptp(known.values, axis=1).max())
    assert len(known) == known.against == 4


def test_the_discrepancy_of_models_is_the_formula_for_each_pair():
    P, R = models()
    known, (s, a, r, z) = Hypotheses.of_models(P, R), steps()
    found = known.discrepancy(s, a, r, z)
    assert found.shape == (5, 4, 4)
    for run, f, g in np.ndindex(found.shape):
        expected = R[g, s[run], a[run]] + P[g, s[run], a[run]] @ known.values[f] - r[run] - known.values[f, z[run]]
        assert found[run, f, g] == pytest.approx(expected)


def test_the_discrepancy_of_values_is_the_formula_for_each_pair():
    rng = np.random.default_rng(0)
    Q, gain, more = rng.random((3, 3, 2)), rng.random(3), rng.random((2, 3, 2))
    known, (s, a, r, z) = Hypotheses.of_values(Q, gain, more), steps()
    found = known.discrepancy(s, a, r, z)
    assert found.shape == (5, 3, 5)
    for run, f, g in np.ndindex(found.shape):
        value = known.targets[g, s[run], a[run]]
        expected = value - r[run] - known.values[f, z[run]] + gain[f]
        assert found[run, f, g] == pytest.approx(expected)
    np.testing.assert_allclose(known.values.min(axis=1), 0)
    np.testing.assert_array_equal(known.targets[3:], more)


def test_shifting_the_values_of_a_hypothesis_changes_nothing():
    rng = np.random.default_rng(0)
    Q, gain = rng.random((3, 3, 2)), rng.random(3)
    one = Hypotheses.of_values(Q, gain).discrepancy(*steps())
    two = Hypotheses.of_values(Q + np.array([5.0, -2.0, 0.1])[:, None, None], gain).discrepancy(*steps())
    np.testing.assert_allclose(one, two)


def test_values_with_all_backups_judge_as_the_models_do():
    """Targets R_g + P_g V_f - J_f make the value-based discrepancy that of the models."""
    P, R = models()
    known = Hypotheses.of_models(P, R)
    backups = R[None] + np.einsum("gsaz,fz->fgsa", P, known.values) - known.gain[:, None, None, None]
    values = Hypotheses.of_values(known.Q, known.gain, backups.reshape(-1, 3, 2))
    by_values = values.discrepancy(*steps())[:, :, 4:].reshape(5, 4, 4, 4)
    by_models = known.discrepancy(*steps())
    for f in range(4):
        np.testing.assert_allclose(by_values[:, f, f], by_models[:, f], atol=1e-6)
        np.testing.assert_allclose(values.discrepancy(*steps())[:, f, f], by_models[:, f, f], atol=1e-6)


def test_a_list_or_a_generator_of_models_will_do():
    P, R = models()
    pairs = list(zip(P, R, strict=True))
    np.testing.assert_array_equal(Hypotheses.of_list(pairs).gain, Hypotheses.of_models(P, R).gain)
    np.testing.assert_array_equal(Hypotheses.of_list(pair for pair in pairs).gain, Hypotheses.of_models(P, R).gain)


def test_it_shows_itself_by_what_it_holds():
    assert repr(Hypotheses.of_models(*models())) == repr(Hypotheses.of_models(*models()))
    assert repr(Hypotheses.of_models(*models())) != repr(Hypotheses.of_models(*models(seed=2)))
    assert "16 hypotheses" in repr(labelled_river(3).hypotheses)


def broken(model, state, action, value):
    P, R = models()
    P[model, state, action, 0] += value
    return P, R


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Hypotheses.of_models(*broken(2, 1, 0, 0.5)),
            r"P\[1, 0\] of model 2 is no distribution \(its sum is 1.5\)",
        ),
        (lambda: Hypotheses.of_models(*broken(0, 0, 1, np.nan)), r"P\[0, 1\] of model 0 is no distribution"),
        (lambda: Hypotheses.of_models(models()[0], models()[1][:2]), "P must be .* with at least one model"),
        (lambda: Hypotheses.of_models(np.zeros((0, 3, 2, 3)), np.zeros((0, 3, 2))), "with at least one model"),
        (lambda: Hypotheses.of_models(models()[0], models()[1] * np.nan), "model 0 has a reward that is not finite"),
        (lambda: Hypotheses.of_list([]), "0 models of different shapes, or none"),
        (
            lambda: Hypotheses.of_list([(np.ones((1, 1, 1)), np.ones((1, 1))), (np.ones((2, 1, 2)), np.ones((2, 1)))]),
            "2 models",
        ),
        (lambda: Hypotheses.of_values(np.zeros((2, 3, 2)), np.zeros(3)), "Q must be"),
        (lambda: Hypotheses.of_values(np.zeros((2, 3, 2)), np.zeros(2), np.zeros((1, 2, 2))), "targets"),
        (lambda: Hypotheses.of_values(np.full((2, 3, 2), np.inf), np.zeros(2)), "must be finite"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()


@pytest.mark.slow
def test_a_model_that_falls_apart_is_named():
    P, R = models(2, 2, 1)
    P[1], R[1] = np.eye(2)[:, None], [[1.0], [0.0]]
    with pytest.raises(FewerError, match="the average reward of model 1 depends on the state one starts in"):
        Hypotheses.of_models(P, R)
