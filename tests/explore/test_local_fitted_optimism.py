from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.average_reward import Account, AverageReward, Step
from fewer.explore.endless_worlds import EndlessMDP, endless_river, labelled_river
from fewer.explore.hypotheses import Hypotheses
from fewer.explore.local_fitted_optimism import (
    LOOP,
    DiscountedQ,
    LeastSquaresGreedy,
    consistency,
    excess_of_current,
    holds_truth,
)


def played(agent, world, steps, copies=3, seed=0, points=1):
    loop = AverageReward(agent, copies=copies, points=points)
    state = loop.start(world, steps, seed)
    point = None
    for _ in range(points):
        point = loop.advance(state)
        state.points += 1
    return loop, state, point


def test_losses_kept_step_by_step_are_those_of_all_data():
    world = labelled_river(3)
    known, agent = world.hypotheses, LOOP()
    at = Account(2, 3, 2, (0.0, 1.0), 50, 0, np.random.default_rng(0), hypotheses=known)
    agent.begin(at)
    rng, seen = np.random.default_rng(1), []
    for _ in range(30):
        step = Step(rng.integers(3, size=2), rng.integers(2, size=2), rng.random(2), rng.integers(3, size=2))
        seen.append(step)
        agent.learn(at, step)
    for run in range(2):
        for f in range(0, 16, 5):
            for g in range(0, 16, 3):
                total = 0.0
                for step in seen:
                    s, a, r, z = (each[run] for each in (step.states, step.actions, step.rewards, step.following))
                    error = known.R[g, s, a] + known.P[g, s, a] @ known.values[f] - r - known.values[f, z]
                    total += error**2
                assert at.memory["losses"][run, f, g] == pytest.approx(total)


def test_consistency_is_never_negative_and_the_row_of_the_current_one_is_the_same():
    rng = np.random.default_rng(0)
    losses, current = rng.random((5, 4, 7)), np.array([0, 3, 1, 2, 2])
    losses[:, :, 0] += 1
    excess = consistency(losses)
    assert (excess >= 0).all()
    for run, f in np.ndindex(excess.shape):
        assert excess[run, f] == pytest.approx(losses[run, f, f] - losses[run, f].min())
    np.testing.assert_allclose(excess_of_current({"losses": losses, "current": current}), excess[range(5), current])


def test_the_truth_survives_at_the_radius_of_the_proof_and_what_is_followed_promises_no_less():
    world = labelled_river(4)
    loop = AverageReward(LOOP(scale=0.5, delta=0.05), copies=60, points=30)
    state, kept = loop.start(world, 900, 0), np.ones(60, dtype=bool)
    for _ in range(30):
        loop.advance(state)
        state.points += 1
        kept &= holds_truth(loop.agent, loop, state)
        promised = world.hypotheses.gain[state.memory["current"]]
        assert (promised[kept] >= state.stream.gains[kept] - 1e-6).all()
    assert kept.mean() >= 0.95


def test_a_radius_that_is_far_too_small_loses_it():
    """So that the test above can fail."""
    loop = AverageReward(LOOP(scale=1e-5), copies=40, points=50)
    state, kept = loop.start(labelled_river(4), 300, 0), np.ones(40, dtype=bool)
    for _ in range(50):
        loop.advance(state)
        state.points += 1
        kept &= holds_truth(loop.agent, loop, state)
    assert kept.mean() < 0.8


def test_one_hypothesis_is_never_left():
    river = endless_river(3)
    world = EndlessMDP("told", river.P, river.R, told=True)
    _, state, point = played(LOOP(), world, 300)
    assert (state.memory["choices"] == 1).all()
    assert point.extras["switches"] == 0
    assert point.extras["mistakes"] == pytest.approx(0, abs=1e-4)


def test_on_the_same_data_a_larger_radius_never_chooses_more_often():
    world, rng = labelled_river(3), np.random.default_rng(3)
    choices = []
    steps = [
        Step(rng.integers(3, size=20), rng.integers(2, size=20), rng.random(20), rng.integers(3, size=20))
        for _ in range(60)
    ]
    for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        at = Account(20, 3, 2, (0.0, 1.0), 60, 0, np.random.default_rng(0), hypotheses=world.hypotheses)
        agent = LOOP(scale=scale)
        agent.begin(at)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random data fit no model
            for step in steps:
                agent.plan(at)
                agent.learn(at, step)
        choices.append(at.memory["choices"].mean())
    assert choices == sorted(choices, reverse=True)
    assert choices[0] > choices[-1] == 1


def test_it_is_chosen_anew_only_when_clearly_contradicted_and_then_the_most_promising_allowed():
    world = labelled_river(4)
    agent, loop = LOOP(scale=0.05), AverageReward(LOOP(scale=0.05), copies=10, points=400)
    state = loop.start(world, 400, 1)
    chosen = 0
    for _ in range(400):
        loop.advance(state)
        state.points += 1
        at, memory = loop._account(state), state.memory
        excess, before = consistency(memory["losses"]), memory["current"].copy()
        beta = agent.radius(at)
        agent.plan(at)
        own = excess[np.arange(10), before]
        np.testing.assert_array_equal(memory["current"][own < 4 * beta], before[own < 4 * beta])
        for run in np.flatnonzero(own >= 4 * beta):
            allowed = excess[run] <= beta
            assert allowed[memory["current"][run]]
            assert world.hypotheses.gain[memory["current"][run]] == world.hypotheses.gain[allowed].max()
            chosen += 1
    assert chosen > 3
    assert chosen < 400


def test_where_nothing_is_random_it_eliminates_versions():
    """Every model of a ring walks either way at each place; a step rules out all that say otherwise, and no others."""
    n = 4
    labels = np.array(list(np.ndindex(*(2,) * n)))
    P = np.zeros((len(labels), n, 2, n))
    place = np.arange(n)
    for model, label in enumerate(labels):
        P[model, place, label] = np.eye(n)[(place + 1) % n]
        P[model, place, 1 - label] = np.eye(n)[(place - 1) % n]
    R = np.tile(np.array([0.0, 0.2, 0.5, 1.0])[None, :, None], (len(labels), 1, 2))
    world = EndlessMDP("ring", P, R, told=True)
    loop, state, _ = played(LOOP(scale=1e-6), world, 1, copies=8, points=1)
    for _ in range(6):
        at, before = state.stream.at.copy(), state.memory["losses"].copy()
        action = loop.result(state)[np.arange(8), at]
        reward = state.stream.step(action)
        loop.agent.learn(loop._account(state), Step(at, action, reward, state.stream.at))
        surviving = loop.agent.surviving(loop._account(state))
        for run in range(8):
            says = P[:, at[run], action[run], state.stream.at[run]] == 1
            was = consistency(before[run : run + 1])[0] <= loop.agent.radius(loop._account(state))
            # a model that errs is ruled out, unless its own values are the same either way
            wrong = world.hypotheses.values[:, (at[run] + 1) % n] != pytest.approx(
                world.hypotheses.values[:, (at[run] - 1) % n]
            )
            np.testing.assert_array_equal(surviving[run], was & (says | ~np.broadcast_to(wrong, says.shape)))


def test_values_with_their_backups_are_explored_as_the_models_are():
    world = labelled_river(3)
    known = world.hypotheses
    backups = known.R[None] + np.einsum("gsaz,fz->fgsa", known.P, known.values) - known.gain[:, None, None, None]
    values = Hypotheses.of_values(known.Q, known.gain, backups.reshape(-1, 3, 2))
    _, by_models, one = played(LOOP(), world, 400, copies=4)
    _, by_values, two = played(LOOP(hypotheses=values), world, 400, copies=4)
    # a target of another hypothesis may explain noise by chance, so the runs need not be the same
    assert two.extras["mistakes"] < one.extras["mistakes"] + 15
    assert (consistency(by_values.memory["losses"])[0] >= -1e-9).all()
    assert by_models.memory["losses"].shape == (4, 16, 16)
    assert by_values.memory["losses"].shape == (4, 16, 16 + 256)


def test_without_its_backups_among_the_targets_the_truth_is_not_cleared_of_noise():
    """Why the auxiliary class matters: the loss of a true value-based hypothesis is the noise of its values."""
    world = labelled_river(3)
    known = world.hypotheses
    bare = Hypotheses.of_values(known.Q, known.gain)
    loop, state, _ = played(LOOP(hypotheses=bare), world, 300, copies=5)
    truth = state.stream.truth
    losses = state.memory["losses"][np.arange(5), truth, truth]
    # a copy that stays at the mouth of the river sees no noise
    assert (losses > 10 * loop.agent.radius(loop._account(state))).sum() >= 4


def test_optimism_finds_the_treasure_and_belief_does_not():
    world = labelled_river(5)
    made = {
        name: played(agent, world, 1200, copies=8)[2].extras
        for name, agent in {
            "loop": LOOP(),
            "eager": LOOP(lazy=False),
            "greedy": LeastSquaresGreedy(),
            "chance": LeastSquaresGreedy(epsilon=0.05),
            "q": DiscountedQ(),
        }.items()
    }
    assert made["loop"]["mistakes"] < 0.25 * made["greedy"]["mistakes"]
    assert made["loop"]["mistakes"] < 0.25 * made["chance"]["mistakes"]
    assert made["loop"]["mistakes"] < 0.25 * made["q"]["mistakes"]
    assert made["loop"]["choices"] < 0.01 * made["eager"]["choices"]


def test_a_class_without_the_truth_is_said_so_and_the_run_goes_on():
    """One false hypothesis, and targets among which is what the true world makes of it."""
    world = labelled_river(3)
    known = world.hypotheses
    backups = known.R + known.P @ known.values[0] - known.gain[0]
    false = Hypotheses.of_values(known.Q[:1], known.gain[:1], backups)
    with pytest.warns(UserWarning, match="the data contradict every hypothesis, so the truth is not in the class"):
        _, state, point = played(LOOP(hypotheses=false), world, 200)
    assert math.isfinite(point.score)
    assert (state.memory["current"] == 0).all()
    assert point.extras["empty"] > 0


def test_ties_of_the_greedy_one_are_broken_at_random_and_what_is_kept_is_kept():
    world = labelled_river(4)
    at = Account(500, 4, 2, (0.0, 1.0), 9, 0, np.random.default_rng(0), hypotheses=world.hypotheses)
    agent = LeastSquaresGreedy()
    agent.begin(at)
    agent.plan(at)
    first = at.memory["current"].copy()
    assert len(set(first)) == 32
    agent.plan(at)
    np.testing.assert_array_equal(at.memory["current"], first)


def test_discounted_q_learning_is_the_rule_written_out():
    rng, agent = np.random.default_rng(0), DiscountedQ(gamma=0.9, rate=0.2)
    at = Account(2, 3, 2, (0.0, 1.0), 9, 0, np.random.default_rng(0))
    agent.begin(at)
    values = np.zeros((2, 3, 2))
    for _ in range(20):
        step = Step(rng.integers(3, size=2), rng.integers(2, size=2), rng.random(2), rng.integers(3, size=2))
        agent.learn(at, step)
        for run in range(2):
            s, a = step.states[run], step.actions[run]
            target = step.rewards[run] + 0.9 * values[run, step.following[run]].max()
            values[run, s, a] += 0.2 * (target - values[run, s, a])
    np.testing.assert_allclose(at.memory["values"], values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LOOP(scale=0), "loop: scale must be positive"),
        (lambda: LOOP(delta=1), r"delta lie in \(0, 1\)"),
        (lambda: LeastSquaresGreedy(epsilon=2), "least-squares-greedy: epsilon is a share"),
        (lambda: DiscountedQ(gamma=1), "discounted-q: gamma must be in"),
        (lambda: played(LOOP(), endless_river(3), 5), "loop: the world is not told to be of a class of hypotheses"),
        (lambda: played(LeastSquaresGreedy(), endless_river(3), 5), "least-squares-greedy: the world is not told"),
        (
            lambda: played(LOOP(hypotheses=labelled_river(4).hypotheses), endless_river(3), 5),
            "hypotheses of 4 states and 2 actions do not fit a world of 3 and 2",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
