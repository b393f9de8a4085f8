from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.average_reward import Account, AverageReward, Step
from fewer.explore.endless_worlds import endless_linear_river, endless_river, mixture_river
from fewer.explore.linear_optimism import LinearLOOP, MixtureLOOP
from fewer.explore.local_fitted_optimism import holds_truth


def test_the_regression_on_mixtures_is_ridge_regression():
    world = mixture_river(3)
    agent = MixtureLOOP(span=2.0, ridge=0.3)
    at = Account(2, 3, 2, (0.0, 1.0), 50, 0, np.random.default_rng(0), basis=world.basis, pays=world.pays)
    agent.begin(at)
    rng = np.random.default_rng(1)
    at.memory["values"] = rng.random((2, 3))
    values, rows, targets = at.memory["values"], [[], []], [[], []]
    for _ in range(25):
        step = Step(rng.integers(3, size=2), rng.integers(2, size=2), rng.random(2), rng.integers(3, size=2))
        agent.learn(at, step)
        for run in range(2):
            x = world.basis[:, step.states[run], step.actions[run]] @ values[run] / 2
            rows[run].append(x)
            targets[run].append(values[run, step.following[run]] / 2)
    for run in range(2):
        x, y = np.array(rows[run]), np.array(targets[run])
        gram = x.T @ x + 0.3 * np.eye(6)
        np.testing.assert_allclose(at.memory["inverse"][run] @ at.memory["target"][run], np.linalg.solve(gram, x.T @ y))
        volume = np.linalg.slogdet(gram)[1] - 6 * math.log(0.3)
        assert at.memory["volume"][run] == pytest.approx(volume)
        theta = rng.random((2, 6))
        off = theta[run] - np.linalg.solve(gram, x.T @ y)
        width = math.sqrt(volume / 4 + math.log(20) / 2) + math.sqrt(0.3 * 6)
        assert agent.misses(at, theta)[run] == pytest.approx(math.sqrt(off @ gram @ off) / width)


def test_the_ellipsoid_holds_the_truth_in_nineteen_of_twenty_runs_at_all_steps():
    world = mixture_river(4)
    loop = AverageReward(MixtureLOOP(scale=1.0, span=world.solved.span), copies=60, points=20)
    state, kept = loop.start(world, 400, 0), np.ones(60, dtype=bool)
    for _ in range(20):
        loop.advance(state)
        state.points += 1
        kept &= holds_truth(loop.agent, loop, state)
    assert kept.mean() >= 0.95


def test_what_is_chosen_is_chosen_rarely():
    """Each choice doubles a determinant, so there are at most dimensions times a logarithm of them."""
    for agent, world, dimensions in (
        (MixtureLOOP(), mixture_river(4), 8),
        (LinearLOOP(), endless_linear_river(3, 3), 6),
    ):
        loop = AverageReward(agent, copies=3, points=1)
        state = loop.start(world, 800, 0)
        loop.advance(state)
        assert state.memory["choices"].max() <= 1 + dimensions * math.log2(1 + 800 / agent.ridge / dimensions)
        assert state.memory["choices"].min() > 1


def test_mixtures_are_explored():
    world = mixture_river(5)
    regret = {
        scale: AverageReward(MixtureLOOP(scale=scale), copies=6, points=1).learn(world, 1500).curve.points[-1].extras
        for scale in (0.03, 1.0)
    }
    assert regret[0.03]["mistakes"] < 0.15 * 1500 * world.solved.gain[0]
    assert regret[0.03]["mistakes"] < 0.5 * regret[1.0]["mistakes"]


def test_features_are_used():
    world = endless_linear_river(4, 4)
    made = {
        scale: AverageReward(LinearLOOP(scale=scale), copies=6, points=1).learn(world, 1500).curve.points[-1].extras
        for scale in (0.0, 0.01)
    }
    assert made[0.01]["mistakes"] < 0.15 * 1500 * world.solved.gain[0]
    assert made[0.01]["mistakes"] < 0.25 * made[0.0]["mistakes"]


def test_without_features_each_pair_is_a_dimension():
    learned = AverageReward(LinearLOOP(scale=0.003), copies=4, points=1).learn(endless_river(4), 1500)
    assert learned.curve.points[-1].extras["mistakes"] < 0.2 * 1500 * endless_river(4).solved.gain[0]


def test_copies_do_not_see_one_another():
    world = endless_linear_river(3, 2)
    whole = Account(3, 6, 2, (0.0, 1.0), 40, 0, np.random.default_rng(0), features=world.features)
    agent, rng = LinearLOOP(), np.random.default_rng(1)
    agent.begin(whole)
    alone = [Account(1, 6, 2, (0.0, 1.0), 40, 0, np.random.default_rng(0), features=world.features) for _ in range(3)]
    for each in alone:
        agent.begin(each)
    for taken in range(40):
        step = Step(rng.integers(6, size=3), rng.integers(2, size=3), rng.random(3), rng.integers(6, size=3))
        whole.taken = taken
        agent.plan(whole)
        agent.learn(whole, step)
        for run, each in enumerate(alone):
            each.taken = taken
            agent.plan(each)
            agent.learn(
                each, Step(*(part[run : run + 1] for part in (step.states, step.actions, step.rewards, step.following)))
            )
    for run, each in enumerate(alone):
        np.testing.assert_allclose(each.memory["inverse"][0], whole.memory["inverse"][run])
        np.testing.assert_array_equal(each.memory["choices"][0], whole.memory["choices"][run])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureLOOP(scale=-1), "mixture-loop: scale must not be negative"),
        (lambda: MixtureLOOP(norm=0), "mixture-loop: norm must be positive"),
        (lambda: LinearLOOP(span=0), "linear-loop: .* span and ridge be positive"),
        (lambda: LinearLOOP(ridge=0), "linear-loop: .* ridge be positive"),
        (
            lambda: MixtureLOOP().begin(
                Account(1, 3, 2, (0, 1), 9, 0, np.random.default_rng(0), basis=mixture_river(3).basis)
            ),
            "mixture-loop: the rewards must be told",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
