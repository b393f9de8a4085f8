from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fewer.core.errors import FewerError
from fewer.explore.cloning import Cloning, action_counts, clone_counts, clone_features
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.linear_worlds import linear_mdp
from fewer.explore.loop import Exploration
from fewer.explore.soft_planning import trajectory_divergence
from fewer.explore.trajectories import Trajectories, collect


def shown(runs=2, episodes=5, horizon=3, states=3, actions=2, seed=0):
    rng = np.random.default_rng(seed)
    return Trajectories(
        rng.integers(states, size=(runs, episodes, horizon + 1)),
        rng.integers(actions, size=(runs, episodes, horizon)),
        rng.random((runs, episodes, horizon)),
    )


def test_shares_with_pseudo_counts_as_in_a_plain_loop():
    given = shown()
    given.actions[0, 1, 2] = -1  # an episode that was over
    cloned = clone_counts(given, 3, 2, pseudo_count=0.25)
    for run in range(2):
        for step in range(3):
            for state in range(3):
                seen = [0, 0]
                for episode in range(5):
                    action = given.actions[run, episode, step]
                    if given.states[run, episode, step] == state and action >= 0:
                        seen[action] += 1
                expected = [(each + 0.25) / (sum(seen) + 0.5) for each in seen]
                assert cloned[run, step, state].tolist() == pytest.approx(expected)
    assert action_counts(given, 3, 2).sum() == 2 * 5 * 3 - 1


def test_a_clone_of_many_is_the_expert_where_the_expert_goes_and_diverges_as_one_over_their_number():
    world = slippery_grid(side=4, horizon=8)
    expert, sizes = world.shown.policy[None], np.array([30, 100, 300, 1000, 3000])
    apart = []
    for size in sizes:
        demonstrations = collect(world, expert, int(size), 8, np.random.default_rng(size))
        cloned = clone_counts(demonstrations, world.states, world.actions)
        apart.append(trajectory_divergence(world.P[None], world.first, np.repeat(expert, 8, 0), cloned).mean())
    assert np.polyfit(np.log(sizes), np.log(apart), 1)[0] == pytest.approx(-1, abs=0.25)
    assert apart[-1] < 0.1


def test_log_linear_clones_are_at_the_top_of_their_likelihood():
    rng = np.random.default_rng(0)
    features, given = rng.normal(size=(3, 2, 4)), shown(runs=2, episodes=12)
    cloned = clone_features(given, features, uniform=1e-9, ridge=0.5)
    counted = action_counts(given, 3, 2)

    def loss(theta, run, step):
        logits = features @ theta
        likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -(counted[run, step] * likely).sum() + 0.25 * theta @ theta

    for run in range(2):
        for step in range(3):
            best = minimize(loss, np.zeros(4), args=(run, step), tol=1e-12).x
            logits = features @ best
            np.testing.assert_allclose(
                cloned[run, step], np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5
            )


def test_features_clone_an_expert_that_counts_cannot_with_few_demonstrations():
    world = linear_mdp(states=40, actions=4, dimensions=5, horizon=4)
    theta = np.random.default_rng(0).normal(size=5) * 4
    logits = world.features @ theta
    expert = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    policy = np.broadcast_to(expert, (1, 4, *expert.shape))
    demonstrations = collect(world, policy, 50, 5, np.random.default_rng(1))
    every = np.repeat(policy, 5, 0)
    apart = {
        name: trajectory_divergence(world.P[None], world.first, every, cloned).mean()
        for name, cloned in {
            "features": clone_features(demonstrations, world.features),
            "counts": clone_counts(demonstrations, 40, 4),
        }.items()
    }
    assert apart["features"] < 0.5 * apart["counts"]


def test_features_that_are_one_hot_leave_what_was_not_shown_uniform():
    given = shown(runs=1, episodes=4, states=2)
    features = np.eye(6).reshape(3, 2, 6)  # state 2 is never shown
    cloned = clone_features(given, features)
    assert cloned[:, :, 2] == pytest.approx(0.5)
    assert cloned.min() >= 1 / 4 / 2  # a quarter of uniform actions


def test_the_agent_plays_the_clone_and_only_that():
    world = slippery_grid(side=3, horizon=5, demonstrations=10)
    learned = Exploration(Cloning(), copies=3, points=2).learn(world, 10, seed=1)
    from fewer.core.seeding import generator

    again = world.demonstrations(3, generator(1, "demonstrations"))
    np.testing.assert_array_equal(learned.result, clone_counts(again, 9, 4))
    assert len({tuple(each.ravel()) for each in learned.result}) == 3  # other demonstrations for each copy
    nothing = Exploration(Cloning(), points=1).learn(slippery_grid(side=3, horizon=5), 1)
    assert (nothing.result == 0.25).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clone_counts(shown(), 3, 2, 0), "pseudo_count must be positive"),
        (lambda: clone_counts(shown(), 3, 2, float("nan")), "pseudo_count must be positive"),
        (lambda: clone_features(shown(), np.zeros((3, 2, 1)), ridge=0), "ridge must be positive"),
        (lambda: clone_features(shown(), np.zeros((3, 2, 1)), uniform=0), r"share of uniform actions lies in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
