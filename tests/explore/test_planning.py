from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.explore.planning import backward_induction, draw, evaluate, greedy, mix, one_hot, relative_value_iteration


def models(runs, states, actions, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(states, 0.5), size=(runs, states, actions)), rng.random((runs, states, actions))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3))
def test_backward_induction_is_the_best_of_all_policies(seed, actions, horizon):
    """Against every deterministic policy that depends on step and state."""
    P, R = models(1, 2, actions, seed)
    values, of_actions = backward_induction(P, R, horizon)
    best = np.full(2, -np.inf)
    for choice in itertools.product(range(actions), repeat=2 * horizon):
        policy = one_hot(np.array(choice).reshape(1, horizon, 2), actions)
        best = np.maximum(best, evaluate(P, R, policy)[0, 0])
    np.testing.assert_allclose(values[0, 0], best)
    np.testing.assert_allclose(evaluate(P, R, greedy(of_actions)), values)


def test_models_do_not_see_one_another_and_may_change_with_the_step():
    P, R = models(3, 4, 2)
    values, _ = backward_induction(P, R, 5)
    for run in range(3):
        np.testing.assert_allclose(backward_induction(P[run : run + 1], R[run : run + 1], 5)[0][0], values[run])
    by_step, _ = backward_induction(np.stack([P] * 5, axis=1), np.stack([R] * 5, axis=1), 5)
    np.testing.assert_allclose(by_step, values)
    changing = np.stack([R * step for step in range(5)], axis=1)
    last, _ = backward_induction(P, changing, 5)
    np.testing.assert_allclose(last[:, 4], (R * 4).max(axis=-1))


def test_a_ceiling_bounds_what_is_left():
    P, R = models(2, 3, 2)
    values, _ = backward_induction(P, R + 5, 4, ceiling=1.0)
    np.testing.assert_allclose(values[:, :, 0], np.tile([4, 3, 2, 1, 0], (2, 1)))


def test_the_value_of_a_policy_is_the_mean_of_its_returns():
    rng = np.random.default_rng(1)
    P, R = models(1, 3, 2)
    policy = rng.dirichlet(np.ones(2), size=(1, 4, 3))
    copies, at, total = 40_000, np.zeros(40_000, dtype=int), np.zeros(40_000)
    for step in range(4):
        actions = draw(np.broadcast_to(policy[0, step], (copies, 3, 2))[np.arange(copies), at], rng)
        total += R[0, at, actions]
        at = (P[0, at, actions].cumsum(axis=1) <= rng.random((copies, 1))).sum(axis=1)
    assert total.mean() == pytest.approx(evaluate(P, R, policy)[0, 0, 0], abs=0.015)


def test_ties_go_to_the_first_or_to_all_alike():
    values = np.array([1.0, 1.0, 0.0])
    assert greedy(values).tolist() == [1, 0, 0]
    rng = np.random.default_rng(0)
    assert np.mean([greedy(values, rng) for _ in range(4000)], axis=0) == pytest.approx([0.5, 0.5, 0], abs=0.03)


@given(st.floats(0, 1))
def test_a_mixed_policy_is_a_distribution(share):
    policy = mix(one_hot(np.array([2, 0]), 4), share)
    assert policy.sum(axis=-1) == pytest.approx(1)
    assert policy.min() == pytest.approx(share / 4)


def test_draws_follow_the_policy():
    rng = np.random.default_rng(0)
    drawn = draw(np.tile([0.2, 0.0, 0.5, 0.3], (20_000, 1)), rng)
    assert np.bincount(drawn, minlength=4) / 20_000 == pytest.approx([0.2, 0, 0.5, 0.3], abs=0.015)
    assert (draw(one_hot(np.arange(5), 5), rng) == np.arange(5)).all()


def test_the_gain_is_the_best_of_all_stationary_policies():
    P, R = models(4, 3, 2, seed=3)
    gain, bias, of_actions = relative_value_iteration(P, R)
    for model in range(4):
        gains = []
        for choice in itertools.product(range(2), repeat=3):
            chain, reward = P[model, range(3), choice], R[model, range(3), choice]
            system = np.vstack([chain.T - np.eye(3), np.ones(3)])
            gains.append(np.linalg.lstsq(system, np.array([0, 0, 0, 1.0]), rcond=None)[0] @ reward)
        assert gain[model] == pytest.approx(max(gains), abs=1e-6)
    np.testing.assert_allclose(of_actions.max(axis=-1), bias, atol=1e-6)
    np.testing.assert_allclose(bias.min(axis=1), 0)


def test_a_chain_that_swings_has_a_gain_and_one_that_falls_apart_has_none():
    swing = np.array([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    assert relative_value_iteration(swing, np.array([[[1.0], [0.0]]]))[0] == pytest.approx([0.5])
    apart = np.eye(2)[None, :, None]
    with pytest.raises(FewerError, match="model 0 depends on the state one starts in"):
        relative_value_iteration(apart, np.array([[[1.0], [0.0]]]), sweeps=200)
