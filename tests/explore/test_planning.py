from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.explore.planning import (
    backward_induction,
    discounted_value,
    draw,
    evaluate,
    greedy,
    mix,
    one_hot,
    outcome,
    policy_iteration,
    relative_value_iteration,
)


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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 0.95))
def test_policy_iteration_is_the_best_of_all_stationary_policies(seed, gamma):
    P, R = models(2, 3, 2, seed)
    values, of_actions = policy_iteration(P, R, gamma)
    for model in range(2):
        best = np.full(3, -np.inf)
        for choice in itertools.product(range(2), repeat=3):
            flow, reward = P[model, range(3), choice], R[model, range(3), choice]
            best = np.maximum(best, discounted_value(flow[None], reward[None], gamma)[0])
        np.testing.assert_allclose(values[model], best)
    np.testing.assert_allclose(of_actions.max(axis=-1), values)
    np.testing.assert_allclose(of_actions, R + gamma * np.einsum("msat,mt->msa", P, values))


def test_the_discounted_value_is_the_sum_of_what_is_paid():
    P, R = models(2, 4, 1)
    expected, at = np.zeros((2, 4)), np.broadcast_to(np.eye(4), (2, 4, 4))
    for time in range(300):
        expected += 0.9**time * (at @ R)[..., 0]
        at = at @ P[:, :, 0]
    np.testing.assert_allclose(discounted_value(P[:, :, 0], R[..., 0], 0.9), expected)


def test_policy_iteration_leaves_alone_what_a_state_does_not_have():
    P, R = models(1, 3, 3)
    R[0, 1, 2] = R[0, 2, :2] = -np.inf
    values, of_actions = policy_iteration(P, R, 0.9)
    assert np.isneginf(of_actions[0, 1, 2])
    small = np.stack([P[0, [0, 1, 2], [a, b, 2]] for a in range(3) for b in range(2)])
    paid = np.stack([R[0, [0, 1, 2], [a, b, 2]] for a in range(3) for b in range(2)])
    np.testing.assert_allclose(values[0], discounted_value(small, paid, 0.9).max(axis=0))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_equally_good_policies_do_not_take_turns(scale):
    """Copies of one action differ by rounding only, at whatever scale rewards are."""
    P, R = models(1, 20, 1, seed=2)
    again = policy_iteration(np.repeat(P, 30, axis=2), np.repeat(R, 30, axis=2) * scale, 0.9999)[0]
    np.testing.assert_allclose(again, discounted_value(P[:, :, 0], R[..., 0] * scale, 0.9999))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_an_outcome_is_found_as_by_counting(seed, outcomes):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(outcomes, 0.2), size=(2, 3)) * (rng.random((2, 3, outcomes)) > 0.3)
    shares[..., 0] += 0.1
    cumulative = (shares / shares.sum(axis=-1, keepdims=True)).cumsum(axis=-1)
    row = (rng.integers(2, size=50), rng.integers(3, size=50))
    u = rng.random(50)
    found = outcome(cumulative, row, u)
    np.testing.assert_array_equal(found, (cumulative[row] <= (u * cumulative[row][:, -1])[:, None]).sum(axis=1))
    assert (shares[(*row, found)] > 0).all()
