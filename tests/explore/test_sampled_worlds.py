"""Discounted worlds that can be asked what any action does in any state."""

from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.groupings import ActionGrouping
from fewer.explore.sampled_worlds import DiscountedMDP, SampledWorld, grouped_actions


def uniform(world, runs=1):
    has = np.ones((world.states, world.actions)) if world.allowed is None else world.allowed
    return np.repeat((has / has.sum(axis=1, keepdims=True))[None], runs, axis=0)


def test_samples_follow_the_arrays():
    world, rng = grouped_actions(states=3, actions=4, groups=2, noise=0.3), np.random.default_rng(0)
    states, actions = np.ones((2, 20_000), int), np.full((2, 20_000), 2)
    following, rewards = world.sample(states, actions, rng)
    assert np.bincount(following.ravel(), minlength=3) / 40_000 == pytest.approx(world.P[1, 2], abs=0.01)
    assert rewards.mean() == pytest.approx(world.R[1, 2], abs=0.01)
    assert rewards.std() == pytest.approx(0.3, abs=0.01)


def test_the_value_of_a_policy_is_that_of_a_long_sum():
    world = grouped_actions(states=4, actions=3, groups=3)
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4))
    for run in range(2):
        flow = np.einsum("sa,sat->st", policy[run], world.P)
        paid, value, at = (policy[run] * world.R).sum(axis=1), 0.0, np.full(4, 0.25)
        for time in range(400):
            value += 0.9**time * (at @ paid)
            at = at @ flow
        assert world.value(policy, np.random.default_rng(0))[run] == pytest.approx(value)


def test_the_optimum_is_that_of_value_iteration():
    world = grouped_actions(states=5, actions=6, groups=3)
    values = np.zeros(5)
    for _ in range(400):
        values = (world.R + 0.9 * world.P @ values).max(axis=1)
    assert world.optimum == pytest.approx(values.mean())


def test_what_a_state_does_not_have_is_never_played_whatever_is_written_there():
    P, R = np.full((2, 3, 2), 0.5), np.array([[0.1, 0.9, np.nan], [0.2, 5.0, 0.3]])
    P[0, 2] = np.nan
    allowed = np.array([[True, True, False], [True, False, True]])
    world = DiscountedMDP("own", P, R, 0.5, allowed=allowed)
    left = DiscountedMDP("left", np.full((2, 2, 2), 0.5), np.array([[0.1, 0.9], [0.2, 0.3]]), 0.5)
    assert world.optimum == pytest.approx(left.optimum)
    rng = np.random.default_rng(0)
    assert world.value(uniform(world), rng) == pytest.approx(left.value(uniform(left), rng))


def test_actions_of_a_kind_are_equal_where_nothing_is_their_own():
    world = grouped_actions(actions=12, groups=3, unlike=0.0)
    assert (world.P[:, :4] == world.P[:, :1]).all()
    assert (world.P[:, 3] != world.P[:, 4]).any()
    more = grouped_actions(actions=24, groups=3, unlike=0.0)
    assert (more.P[:, ::2] == world.P).all()
    assert (more.R[:, ::2] == world.R).all()
    assert world.groups.labels.tolist() == [[0] * 4 + [1] * 4 + [2] * 4]


def test_a_file_is_the_world_it_was_made_from(tmp_path):
    made = grouped_actions(states=3, actions=4, groups=2)
    path = tmp_path / "world.npz"
    has = np.array([[1, 1, 0, 1]] * 3)
    np.savez(path, P=made.P, R=made.R, groups=[0, 0, 1, 1], allowed=has, features=np.arange(4)[:, None])
    world = compose.task(f"discounted-mdp('{path}', gamma=0.9, noise=0.3)")
    assert (world.groups.groups, world.allowed.sum(), world.features.shape) == (2, 9, (4, 1))
    np.savez(path, P=made.P, R=made.R, groups=[0, 0, 1, 1])
    same = compose.task(f"discounted-mdp('{path}', gamma=0.9, noise=0.3)")
    assert same.fingerprint() == made.fingerprint()
    np.savez(path, P=made.P, R=made.R, groups=[0, 1, 1, 1])
    assert compose.task(f"discounted-mdp('{path}', gamma=0.9, noise=0.3)").fingerprint() != made.fingerprint()
    np.savez(path, R=made.R)
    with pytest.raises(FewerError, match=r"has no array 'P' \(it has R\)"):
        compose.task(f"discounted-mdp('{path}', gamma=0.9)")
    path.write_text("not an archive")
    with pytest.raises(FewerError, match="cannot be read as NPZ"):
        compose.task(f"discounted-mdp('{path}', gamma=0.9)")
    np.savez(path, P=np.array([None]), R=made.R)
    with pytest.raises(FewerError, match="cannot be read as NPZ"):
        compose.task(f"discounted-mdp('{path}', gamma=0.9)")


def mdp(**changes):
    given = {"P": np.full((2, 3, 2), 0.5), "R": np.full((2, 3), 0.5), "gamma": 0.9} | changes
    return DiscountedMDP("own", given.pop("P"), given.pop("R"), given.pop("gamma"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mdp(P=np.ones((2, 3))), r"own: P must be \(states, actions, states\)"),
        (lambda: mdp(P=np.zeros((0, 3, 0)), R=np.zeros((0, 3))), "P must be"),
        (lambda: mdp(R=np.ones((3, 2))), r"they are \(2, 3, 2\) and \(3, 2\)"),
        (lambda: mdp(P=np.full((2, 3, 2), 0.4)), r"P\[0, 0\] is no distribution \(its sum is 0.8\)"),
        (lambda: mdp(P=np.stack([np.full((2, 3), 1.5), np.full((2, 3), -0.5)], axis=2)), r"P\[0, 0\] is no distr"),
        (lambda: mdp(P=np.full((2, 3, 2), np.nan)), r"P\[0, 0\] is no distribution"),
        (lambda: mdp(R=np.full((2, 3), 2.0)), r"R\[0, 0\] is 2, outside the declared range \[0, 1\]"),
        (lambda: mdp(R=np.full((2, 3), np.nan)), r"R\[0, 0\] is nan"),
        (lambda: mdp(gamma=1.0), "gamma is a discount between 0 and 1; 1 was given"),
        (lambda: mdp(noise=-1.0), "noise is a standard deviation"),
        (lambda: mdp(rewards=(1.0, 1.0)), r"rewards are declared as \(least, greatest\)"),
        (lambda: mdp(allowed=np.zeros((2, 3), bool)), r"allowed must be \(2, 3\) with an action in every state"),
        (lambda: mdp(groups=ActionGrouping([0, 0])), "own: the grouping is of 2 actions, and there are 3"),
        (lambda: mdp(features=np.ones((2, 1))), "features must have one row for each of 3 actions"),
        (lambda: grouped_actions(unlike=2), "unlike from 0 to 1"),
        (lambda: grouped_actions(actions=4, groups=8), "8 were asked for"),
        (lambda: SampledWorld("own", wheel, 0, 2, 0.5), "states, actions and rollouts must be at least 1"),
        (lambda: SampledWorld("own", wheel, 3, 2, 0.0), "gamma is a discount"),
    ],
)
def test_what_is_no_world_is_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()


# --- a function of the user's ----------------------------------------------------------------------------------------


def wheel(states, actions, rng):
    return (states + actions) % 3, (states == 2) * 1.0


def test_simulated_values_are_near_the_exact_ones():
    P = np.zeros((3, 2, 3))
    for state in range(3):
        P[state, [0, 1], [state, (state + 1) % 3]] = 1
    exact = DiscountedMDP("exact", P, np.repeat([[0.0], [0.0], [1.0]], 2, axis=1), 0.8)
    world = SampledWorld("wheel", wheel, 3, 2, 0.8, rollouts=4000)
    policy = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 3))
    rng = np.random.default_rng(1)
    np.testing.assert_allclose(world.value(policy, rng), exact.value(policy, rng), atol=0.1)
    assert world.optimum is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, a, rng: (s[0], s * 1.0), r"must answer with such; it gave \(4,\) and \(1, 4\)"),
        (lambda s, a, rng: (s, s * np.nan), "step gave a reward of nan"),
        (lambda s, a, rng: (s + 3, s * 1.0), "next states as whole numbers from 0 to 2"),
        (lambda s, a, rng: (s * 1.0, s * 1.0), "whole numbers"),
    ],
)
def test_a_function_that_answers_badly_is_told(answer, message):
    world = SampledWorld("own", answer, 3, 2, 0.5)
    with pytest.raises(FewerError, match=message):
        world.sample(np.zeros((1, 4), int), np.zeros((1, 4), int), np.random.default_rng(0))
