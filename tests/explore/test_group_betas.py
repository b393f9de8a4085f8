"""How unlike the members of groups are, exactly and from samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from fewer.explore.group_betas import betas_of_levels, estimated_betas, falling, true_betas
from fewer.explore.groupings import ActionGrouping, halved
from fewer.explore.sampled_worlds import grouped_actions


def pilot(world, tries, runs=2, seed=0, count=None):
    """Tries of random actions of each state, equally often."""
    rng = np.random.default_rng(seed)
    count = count or world.actions
    order = np.argsort(rng.random((runs, world.states, world.actions)), axis=-1)[..., :count]
    actions = order.repeat(tries, axis=-1).reshape(runs, -1)
    states = np.broadcast_to(np.arange(world.states).repeat(count * tries), actions.shape)
    return states, actions, *world.sample(states, actions, rng)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_smallest_betas_decompose_the_world_and_no_smaller_ones_do(seed, unlike):
    world = grouped_actions(states=3, actions=6, groups=2, unlike=unlike, seed=seed)
    beta_P, beta_r = true_betas(world.P, world.R, world.groups)
    assert beta_P <= unlike + 1e-9
    assert beta_r <= unlike + 1e-9
    for s in range(3):
        for j in range(2):
            rows = world.P[s, world.groups.labels[0] == j]
            # what all share is at least 1 - beta of a distribution, and what is left of each is its own
            assert rows.min(axis=0).sum() >= 1 - beta_P - 1e-9
    finer = [true_betas(world.P, world.R, each) for each in halved(6, (1, 2, 6))]
    assert [each[0] for each in finer] == sorted((each[0] for each in finer), reverse=True)
    assert finer[-1] == pytest.approx((0, 0))


def test_betas_of_a_world_with_actions_missing_look_at_those_that_are_there():
    P, R = np.zeros((2, 3, 2)), np.array([[0.2, 0.3, 0.9]] * 2)
    P[..., 0], P[..., 1] = [1.0, 0.9, 0.0], [0.0, 0.1, 1.0]
    assert true_betas(P, R, ActionGrouping([0, 0, 0])) == pytest.approx((1, 0.7))
    left = ActionGrouping([0, 0, 1]).allowed(np.array([[True, True, False]] * 2))
    assert true_betas(P, R, left) == pytest.approx((0.1, 0.1))


def plain_estimate(states, actions, following, rewards, groups):
    """Distance and spread before chance is taken off, in plain loops over one run."""
    distances, spreads = [], []
    for s in np.unique(states):
        for j in np.unique(groups):
            here = (states == s) & (groups == j)
            members = np.unique(actions[here])
            if len(members) < 2:
                continue
            shares = {a: np.bincount(following[here & (actions == a)], minlength=20) for a in members}
            means = [rewards[here & (actions == a)].mean() for a in members]
            for a in members:
                others = sum(shares[b] for b in members if b != a)
                distances.append(0.5 * np.abs(shares[a] / shares[a].sum() - others / others.sum()).sum())
                spreads.append(0.5 * (max(means) - min(means)))
    return np.mean(distances), np.mean(spreads)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_are_those_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    states, actions = rng.integers(3, size=(2, 200)), rng.integers(6, size=(2, 200))
    following, rewards, groups = rng.integers(4, size=(2, 200)) * (actions > 1), rng.random((2, 200)), actions // 2
    seen = np.array(
        [plain_estimate(*(each[run] for each in (states, actions, following, rewards, groups))) for run in (0, 1)]
    )
    drawn, chance = np.random.default_rng(7), np.zeros((2, 2))
    for _ in range(400):  # deal samples of each state and group out anew
        dealt = np.arange(200) + np.zeros((2, 1), int)
        for run in range(2):
            for s in range(3):
                for j in range(3):
                    here = np.flatnonzero((states[run] == s) & (groups[run] == j))
                    dealt[run, here] = drawn.permutation(here)
            args = (states[run], actions[run], following[run, dealt[run]], rewards[run, dealt[run]], groups[run])
            chance[run] += np.array(plain_estimate(*args)) / 400
    expected = np.sqrt(np.maximum(seen**2 - chance**2, 0))
    found = np.stack(estimated_betas(states, actions, following, rewards, groups, rng, shuffles=400), axis=1)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_runs_do_not_see_one_another():
    """A run alone has the same distances; only how samples are dealt out differs."""
    world = grouped_actions(states=3, actions=8, groups=4)
    states, actions, following, rewards = pilot(world, 50, runs=3)
    rewards = rewards + np.arange(3)[:, None]
    found = np.stack(estimated_betas(states, actions, following, rewards, actions // 4, np.random.default_rng(0), 200))
    for run in range(3):
        alone = (each[run : run + 1] for each in (states, actions, following, rewards, actions // 4))
        again = np.stack(estimated_betas(*alone, np.random.default_rng(1), 200))
        np.testing.assert_allclose(again[:, 0], found[:, run], atol=0.01)


def test_estimates_come_near_what_is_true_with_few_and_many_tries():
    """Equal actions are found alike, and unlike ones as unlike as they are, although single tries tell little."""
    world = grouped_actions(states=10, actions=32, groups=4, unlike=0.2)
    truth = [
        0.5
        * np.abs(world.P[s, a] - world.P[s, [b for b in range(32) if b // 8 == a // 8 and b != a]].mean(axis=0)).sum()
        for s in range(10)
        for a in range(32)
    ]
    for tries, within in ((8, 0.05), (100, 0.02)):
        states, actions, following, rewards = pilot(world, tries, runs=4)
        beta_P, beta_r = estimated_betas(states, actions, following, rewards, actions // 8, np.random.default_rng(0))
        assert beta_P.mean() == pytest.approx(np.mean(truth), abs=within)
        ranges = np.ptp(world.R.reshape(10, 4, 8), axis=-1)
        assert beta_r.mean() == pytest.approx(ranges.mean() / 2, abs=within)
    alike = grouped_actions(states=10, actions=32, groups=4, unlike=0.0)
    states, actions, following, rewards = pilot(alike, 8, runs=20)
    betas = np.stack(estimated_betas(states, actions, following, rewards, actions // 8, np.random.default_rng(0)))
    assert betas.mean() < 0.03
    # without taking chance off, equal actions would look as unlike as this
    assert plain_estimate(*(each[0] for each in (states, actions, following, rewards, actions // 8)))[0] > 0.15


def test_nothing_is_known_of_groups_without_two_tried_members():
    zero = np.zeros((1, 6), int)
    found = estimated_betas(zero, zero, zero, zero * 1.0, zero, np.random.default_rng(0))
    assert np.isnan(found).all()


def test_levels_fall_from_coarse_to_fine_and_end_at_nothing():
    world = grouped_actions(states=5, actions=16, groups=4, unlike=0.1)
    betas = betas_of_levels(*pilot(world, 10, runs=3), [halved(16)], np.random.default_rng(0))
    assert betas.shape == (2, 5, 3)
    assert (np.diff(betas, axis=1) <= 1e-12).all()
    assert (betas[:, -1] == 0).all()
    assert (betas[0, 0] > 0.3).all()
    assert (betas[0, 2] < 0.2).all()


def test_a_level_of_which_nothing_was_seen_is_as_unlike_as_the_one_above():
    states, actions = np.zeros((1, 40), int), np.tile([0, 3], 20)[None]
    family = [ActionGrouping(labels) for labels in ([0] * 4, [0, 0, 1, 1], [0, 1, 2, 3])]
    betas = betas_of_levels(states, actions, actions, states * 0.0, [family], np.random.default_rng(0))
    assert betas[0, 0] == pytest.approx(1, abs=0.05)
    assert betas[0, 1] == betas[0, 0]
    assert betas[0, 2] == 0
    assert np.isnan(
        betas_of_levels(states, actions, actions, states * 0.0, [family[1:]], np.random.default_rng(0))
    ).all()


def test_an_action_alone_is_unlike_nobody():
    """Half of the actions have a group of their own, so the rest count for half."""
    states, actions = np.zeros((1, 400), int), np.tile(np.arange(4), 100)[None]
    family = [ActionGrouping(labels) for labels in ([0, 0, 1, 1], [0, 0, 1, 2])]
    whole, half = betas_of_levels(states, actions, actions % 2, 0.0 * states, [family], np.random.default_rng(0))[
        0, :, 0
    ]
    assert (whole, half) == pytest.approx((1, 0.5), abs=0.02)


def test_each_run_may_have_its_own_family_and_each_state_its_own_partition():
    world = grouped_actions(states=3, actions=4, groups=2, unlike=0.0)
    data = pilot(world, 200)
    true, wrong = ActionGrouping(np.tile([0, 0, 1, 1], (3, 1))), ActionGrouping([0, 1, 0, 1])
    betas = betas_of_levels(*data, [[true], [wrong]], np.random.default_rng(0))[0, 0]
    assert betas[0] < 0.1 < 0.3 < betas[1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_falling_is_isotonic_regression(seed, levels):
    values = np.random.default_rng(seed).normal(size=(2, levels, 3))
    expected = np.apply_along_axis(lambda each: isotonic_regression(each, increasing=False).x, 1, values)
    np.testing.assert_allclose(falling(values), expected)
