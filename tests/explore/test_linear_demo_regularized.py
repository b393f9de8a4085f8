from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.cloning import clone_features
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.linear_demo_regularized import LinearDemoRegularized
from fewer.explore.linear_worlds import linear_mdp
from fewer.explore.loop import Exploration
from fewer.explore.planning import mix
from fewer.explore.soft_planning import soft_backward_induction, soft_evaluate
from fewer.explore.trajectories import Expert
from fewer.explore.worlds import random_mdp


def after(world, agent, episodes, copies=3, seed=0):
    loop = Exploration(agent, copies=copies, points=1)
    state = loop.start(world, episodes, seed)
    loop.advance(state)
    return loop, state, agent.bounds(loop._account(state))


def test_the_bounds_are_those_of_a_plain_least_squares_fit():
    world = linear_mdp(states=5, actions=2, dimensions=3, horizon=3)
    world = replace(world, pays=world.R)
    agent = LinearDemoRegularized(strength=0.4, scale=0.3, ridge=0.7)
    _, state, found = after(world, agent, 15, copies=1)
    gram, pull = state.memory["gram"][0], state.memory["pull"][0]
    upper, lower = np.zeros(5), np.zeros(5)
    for step in (2, 1, 0):
        left = 3 - step
        new_upper, new_lower = np.zeros(5), np.zeros(5)
        for s in range(5):
            up, down = np.zeros(2), np.zeros(2)
            for a in range(2):
                phi = world.features[s, a]
                b = 0.3 * left * np.sqrt(phi @ np.linalg.solve(gram, phi))
                up[a] = np.clip(world.R[s, a] + phi @ np.linalg.solve(gram, pull @ upper) + b, 0, left)
                down[a] = np.clip(world.R[s, a] + phi @ np.linalg.solve(gram, pull @ lower) - b, 0, left)
            new_upper[s] = 0.4 * np.log((0.5 * np.exp(up / 0.4)).sum())
            new_lower[s] = 0.4 * np.log((0.5 * np.exp(down / 0.4)).sum())
            np.testing.assert_allclose(found["apart"][0, step, s], up - down)
        upper, lower = new_upper, new_lower
        np.testing.assert_allclose(found["upper"][0, step], upper)
        np.testing.assert_allclose(found["lower"][0, step], lower)


def test_one_dimension_a_pair_is_counting_with_a_ridge():
    world = random_mdp(3, 2, 4)
    agent = LinearDemoRegularized(strength=0.3, scale=0.5, ridge=1.0)
    _, state, found = after(world, agent, 30)
    times = np.diagonal(state.memory["gram"], axis1=1, axis2=2) - 1
    assert times.sum(axis=1) == pytest.approx(30 * 4)
    last = state.memory["paid"] / (times + 1) + 0.5 / np.sqrt(times + 1)
    up = np.clip(last, 0, 1).reshape(3, 3, 2)
    expected = 0.3 * np.log((0.5 * np.exp(up / 0.3)).sum(axis=-1))
    np.testing.assert_allclose(found["upper"][:, -2], expected)


@pytest.mark.parametrize("episodes", [5, 200])
def test_with_a_wide_bonus_the_bounds_hold_and_the_gap_too(episodes):
    world = linear_mdp(states=8, actions=3, dimensions=3, horizon=3, seed=2)
    agent = LinearDemoRegularized(strength=0.5, scale=3.0)
    _, state, found = after(world, agent, episodes, copies=60)
    prior = state.memory["prior"]
    best = soft_backward_induction(world.P[None], world.R[None], prior, 0.5)[0]
    inside = (found["lower"] <= best + 1e-9) & (best <= found["upper"] + 1e-9)
    assert inside.all(axis=(1, 2)).mean() >= 0.95
    loss = best - soft_evaluate(world.P[None], world.R[None], found["policy"], prior, 0.5)
    assert (loss <= found["gap"] + 1e-9).all(axis=(1, 2)).mean() >= 0.95


def test_few_dimensions_need_far_fewer_episodes_than_many_states():
    world = linear_mdp(states=20, actions=3, dimensions=3, horizon=4)
    left = {}
    for name, features in (("features", world.features), ("states", None)):
        agent = LinearDemoRegularized(strength=0.02, scale=0.05, replan=1.2)
        _, _, found = after(replace(world, features=features), agent, 60)
        left[name] = world.optimum - world.value(found["policy"]).mean()
    assert left["features"] < 0.5 * left["states"]


def test_it_begins_at_a_log_linear_clone_and_stays_there_if_that_is_all_that_counts():
    world = linear_mdp(states=6, actions=3, dimensions=3, horizon=3)
    logits = world.features @ np.array([3.0, -3.0, 0.0])
    expert = mix(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 0.1)
    world = replace(world, shown=Expert(np.broadcast_to(expert, (3, 6, 3)), 20))
    loop = Exploration(LinearDemoRegularized(strength=np.inf, deviate=False), copies=2, points=1)
    learned = loop.learn(world, 4, seed=3)
    from fewer.core.seeding import generator

    shown = world.demonstrations(2, generator(3, "demonstrations"))
    np.testing.assert_allclose(learned.result, clone_features(shown, world.features))
    told = slippery_grid(side=3, horizon=5, demonstrations=30)  # no features: the clone is that of the counts
    learned = Exploration(LinearDemoRegularized(strength=0.1, scale=0.02), copies=3, points=1).learn(told, 60)
    assert (told.value(learned.result) > 0.9 * told.optimum).all()


def test_it_stops_when_it_may():
    world = linear_mdp(states=4, actions=2, dimensions=2, horizon=2)
    agent = LinearDemoRegularized(strength=1.0, scale=0.05, precision=0.3, replan=1.2)
    loop, state, _ = after(world, agent, 3000)
    assert state.exhausted
    prior = state.memory["prior"]
    best = soft_backward_induction(world.P[None], world.R[None], prior, 1.0)[0][:, 0] @ world.first
    got = soft_evaluate(world.P[None], world.R[None], loop.result(state), prior, 1.0)[:, 0] @ world.first
    assert (best - got <= 0.3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "x"}, "unknown prior 'x'"),
        ({"strength": -1}, "strength must not be negative"),
        ({"ridge": 0}, "ridge be positive"),
        ({"scale": -1}, "scale and precision must not be negative"),
        ({"strength": 0, "precision": 1}, "only a strength above 0"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options, message):
    with pytest.raises(FewerError, match=f"linear-demo-regularized: .*{message}"):
        LinearDemoRegularized(**options)
