from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.explore.planning import backward_induction, evaluate, greedy
from fewer.explore.soft_planning import (
    divergence,
    soft_backward_induction,
    soft_choice,
    soft_evaluate,
    trajectory_divergence,
)
from fewer.explore.worlds import random_mdp


def some(runs=3, states=4, actions=3, horizon=5, seed=0, by_step=False):
    rng = np.random.default_rng(seed)
    steps = (horizon,) if by_step else ()
    P = rng.dirichlet(np.ones(states), size=(runs, *steps, states, actions))
    R = rng.random((runs, *steps, states, actions))
    return P, R, rng.dirichlet(np.ones(actions), size=(runs, horizon, states))


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.3, 2.0, 50.0]))
def test_the_choice_is_better_than_any_other_and_worth_its_value(seed, strength):
    rng = np.random.default_rng(seed)
    values, prior = rng.normal(size=5) * 3, rng.dirichlet(np.ones(5))
    value, policy = soft_choice(values, prior, strength)
    assert policy.sum() == pytest.approx(1)
    assert policy @ values - strength * divergence(policy, prior) == pytest.approx(value, abs=1e-10)
    for other in rng.dirichlet(np.ones(5), size=20):
        assert other @ values - strength * divergence(other, prior) <= value + 1e-10


def test_strength_zero_is_greedy_and_infinity_the_prior_and_the_ends_are_approached():
    P, R, prior = some()
    values, policy = soft_backward_induction(P, R, prior, 0.0)
    hard, of_actions = backward_induction(P, R, 5)
    np.testing.assert_array_equal(values, hard)
    np.testing.assert_array_equal(policy, greedy(of_actions))
    np.testing.assert_allclose(soft_backward_induction(P, R, prior, 1e-6)[0], hard, atol=1e-3)
    values, policy = soft_backward_induction(P, R, prior, math.inf)
    np.testing.assert_array_equal(policy, prior)
    np.testing.assert_allclose(values, evaluate(P, R, prior))
    np.testing.assert_allclose(soft_backward_induction(P, R, prior, 1e7)[1], prior, atol=1e-5)


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.2, 3.0])
def test_the_plan_is_worth_what_it_says_and_no_policy_is_worth_more(by_step, strength):
    P, R, prior = some(by_step=by_step)
    values, policy = soft_backward_induction(P, R, prior, strength)
    np.testing.assert_allclose(soft_evaluate(P, R, policy, prior, strength), values, atol=1e-10)
    rng = np.random.default_rng(1)
    for _ in range(10):
        other = rng.dirichlet(np.ones(3), size=(3, 5, 4))
        assert (soft_evaluate(P, R, other, prior, strength) <= values + 1e-10).all()


def test_what_is_forbidden_is_never_done():
    _, policy = soft_choice(np.array([9.0, 1.0]), np.array([0.0, 1.0]), 0.1)
    assert policy.tolist() == [0, 1]
    assert divergence(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == np.inf
    assert divergence(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0


def test_the_divergence_of_episodes_is_that_of_their_whole_distribution():
    """Over all sequences of states and actions, one by one."""
    rng, world = np.random.default_rng(0), random_mdp(2, 2, 3)
    policy, prior = (rng.dirichlet(np.ones(2), size=(3, 2)) for _ in range(2))
    total = 0.0
    for actions in itertools.product(range(2), repeat=3):
        for states in itertools.product(range(2), repeat=3):
            chance, ratio = world.first[states[0]], 0.0
            for step, (state, action) in enumerate(zip(states, actions, strict=True)):
                chance *= policy[step, state, action]
                ratio += math.log(policy[step, state, action] / prior[step, state, action])
                if step < 2:
                    chance *= world.P[state, action, states[step + 1]]
            total += chance * ratio
    assert trajectory_divergence(world.P[None], world.first, policy[None], prior[None])[0] == pytest.approx(total)


def test_soft_values_of_no_loss_are_none_and_shift_with_rewards():
    P, R, prior = some()
    assert (soft_backward_induction(P, R, prior, 0.3)[0] >= 0).all()
    up = soft_backward_induction(P, R + 1, prior, 0.3)[0] - soft_backward_induction(P, R, prior, 0.3)[0]
    np.testing.assert_allclose(up, np.broadcast_to(np.arange(5, -1, -1.0)[:, None], up.shape))
