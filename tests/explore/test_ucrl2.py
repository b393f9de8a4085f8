from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fewer.core.errors import FewerError
from fewer.explore.average_reward import Account, AverageReward, Step
from fewer.explore.endless_worlds import EndlessMDP, endless_river, labelled_river
from fewer.explore.planning import relative_value_iteration
from fewer.explore.ucrl2 import UCRL2, extended_value_iteration, most


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0, 2.5))
def test_the_most_a_ball_allows_is_what_a_linear_program_says(seed, states, wide):
    rng = np.random.default_rng(seed)
    p, values = rng.dirichlet(np.full(states, 0.5)), rng.random(states)
    # q = p + up - down, with up and down sharing the radius
    equal = np.concatenate([np.eye(states), -np.eye(states), np.eye(states)], axis=1)
    equal = np.vstack([equal, [1.0] * states + [0.0] * 2 * states])
    cost = np.concatenate([-values, np.zeros(2 * states)])
    found = linprog(
        cost,
        A_ub=[[0.0] * states + [1.0] * 2 * states],
        b_ub=[wide],
        A_eq=equal,
        b_eq=np.append(p, 1.0),
        bounds=(0, None),
    )
    ours = most(p[None, None, None], np.array([[[wide]]]), values[None])[0, 0, 0]
    assert ours == pytest.approx(-found.fun, abs=1e-7)


def plain_most(p, wide, values):
    order = sorted(range(len(p)), key=lambda s: -values[s])
    q = list(p)
    q[order[0]] = min(1.0, q[order[0]] + wide / 2)
    for state in reversed(order):
        excess = sum(q) - 1
        if excess <= 0 or state == order[0]:
            break
        q[state] = max(0.0, q[state] - excess)
    return sum(a * b for a, b in zip(q, values, strict=True))


def test_all_runs_states_and_actions_are_the_plain_loop():
    rng = np.random.default_rng(0)
    P, wide, values = rng.dirichlet(np.full(5, 0.4), size=(3, 4, 2)), rng.random((3, 4, 2)) * 2, rng.random((3, 5))
    ours = most(P, wide, values)
    for run, state, action in np.ndindex(wide.shape):
        assert ours[run, state, action] == pytest.approx(
            plain_most(P[run, state, action], wide[run, state, action], values[run])
        )


def test_without_width_it_is_relative_value_iteration_and_width_only_adds():
    rng = np.random.default_rng(1)
    P, R = rng.dirichlet(np.ones(4), size=(3, 4, 2)), rng.random((3, 4, 2))
    exact, bias, _ = relative_value_iteration(P, R)
    gain, values, policy = extended_value_iteration(P, R, np.zeros((3, 4, 2)), np.zeros((3, 4)), 1e-9)
    np.testing.assert_allclose(gain, exact, atol=1e-7)
    np.testing.assert_allclose(values, bias, atol=1e-6)
    wider, *_ = extended_value_iteration(P, R, np.full((3, 4, 2), 0.2), np.zeros((3, 4)), 1e-9)
    widest, *_ = extended_value_iteration(P, R, np.full((3, 4, 2), 2.0), np.zeros((3, 4)), 1e-9)
    assert (wider > exact).all()
    np.testing.assert_allclose(widest, R.max(axis=(1, 2)))  # anything goes: stay where it pays most
    assert policy.shape == (3, 4)


def test_a_best_world_that_swings_settles():
    P = np.array([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    gain, *_ = extended_value_iteration(P, np.array([[[1.0], [0.0]]]), np.zeros((1, 2, 1)), np.zeros((1, 2)), 1e-9)
    assert gain == pytest.approx([0.5])


def test_epochs_end_when_visits_have_doubled():
    at = Account(1, 2, 1, (0.0, 1.0), 100, 0, np.random.default_rng(0))
    agent = UCRL2()
    agent.begin(at)
    began = []
    for step in range(100):
        at.taken = step
        if at.memory["due"][0]:
            began.append(step)
        agent.plan(at)
        agent.learn(at, Step(np.array([0]), np.array([0]), np.array([0.0]), np.array([0])))
    assert began == [0, 1, 2, 4, 8, 16, 32, 64]


def test_the_balls_are_those_of_the_paper():
    at = Account(1, 3, 2, (0.0, 1.0), 100, 49, np.random.default_rng(0))
    agent = UCRL2(delta=0.1)
    agent.begin(at)
    for _ in range(20):
        agent.learn(at, Step(np.array([1]), np.array([0]), np.array([0.25]), np.array([2])))
    P, R, wide, pays = agent.balls(at)
    assert P[0, 1, 0].tolist() == [0, 0, 1]
    assert R[0, 1, 0] == pytest.approx(0.25)
    assert wide[0, 1, 0] == pytest.approx(math.sqrt(14 * 3 * math.log(2 * 2 * 50 / 0.1) / 20))
    assert pays[0, 1, 0] == pytest.approx(min(math.sqrt(7 * math.log(2 * 3 * 2 * 50 / 0.1) / 40), 0.75))
    assert (R + pays)[0, 0, 0] == 1  # what was never tried may pay the most
    at.pays = np.full((3, 2), 0.5)
    assert (agent.balls(at)[3] == 0).all()


@pytest.mark.parametrize("noise", ["none", "bernoulli"])
def test_the_balls_hold_the_truth_in_nineteen_of_twenty_runs_at_all_steps(noise):
    river = endless_river(4)
    world = EndlessMDP("river", river.P, np.clip(river.R, 0.1, 0.9), noise=noise)
    loop = AverageReward(UCRL2(scale=1.0, delta=0.05), copies=60, points=20)
    state, kept = loop.start(world, 400, 0), np.ones(60, dtype=bool)
    for _ in range(20):
        loop.advance(state)
        state.points += 1
        P, R, wide, pays = loop.agent.balls(loop._account(state))
        inside = (np.abs(world.P - P).sum(axis=-1) <= wide) & (np.abs(world.R - R) <= np.maximum(pays, 1 - R - pays))
        kept &= inside.all(axis=(1, 2))
        assert state.report["promised gain"] >= world.solved.gain[0] - 1e-2
    assert kept.mean() >= 0.95


def test_the_river_is_learned_and_runs_differ():
    loop = AverageReward(UCRL2(scale=0.001), copies=6, points=4)
    points = list(loop.run(endless_river(4), 2000, 0))
    gain = endless_river(4).solved.gain[0]
    assert points[-1].score > 0.85 * gain
    lost = np.diff([0, *(point.extras["mistakes"] for point in points)])
    assert lost[-1] < 0.3 * lost[0]


def test_the_proofs_radius_is_too_wide_to_learn_much():
    point = AverageReward(UCRL2(), copies=2, points=1).learn(labelled_river(4), 500).curve.points[-1]
    assert point.extras["promised gain"] > 0.9


@pytest.mark.parametrize("wrong", [{"scale": -1}, {"delta": 0}, {"delta": 1}, {"scale": math.nan}])
def test_what_cannot_be_is_one_clear_line(wrong):
    with pytest.raises(FewerError, match="ucrl2: scale must not be negative and delta lie in"):
        UCRL2(**wrong)
