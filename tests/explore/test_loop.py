"""The loop, and one template for every agent that the catalogue knows."""

from __future__ import annotations

import numpy as np
import pytest

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.greedy_agents import CertaintyEquivalence, QLearning
from fewer.explore.loop import Account, Episode, Exploration
from fewer.explore.planning import backward_induction, greedy
from fewer.explore.psrl import PSRL
from fewer.explore.ucbvi import UCBVI
from fewer.explore.worlds import deepsea, random_mdp, riverswim

LOOP = "fewer.explore.loop:Exploration"
NAMES = [name for name, part in catalogue.fillings().items() if LOOP in part.loops and part.slots == ("agent",)]


@pytest.fixture(params=NAMES)
def agent(request):
    return compose.loop(request.param).agent


def test_the_baselines_are_named():
    assert set(NAMES) >= {"ucbvi", "psrl", "certainty-equivalence", "q-learning"}


def account(runs=2, states=3, actions=2, horizon=4):
    return Account(runs, states, actions, horizon, (0.0, 1.0), 10, 0, np.random.default_rng(0))


def test_a_policy_is_a_distribution_for_every_step_and_state(agent):
    world = random_mdp(4, 3, 5)
    loop = Exploration(agent=agent, copies=3, points=2)
    state = loop.start(world, 10, seed=0)
    for _ in range(2):
        policy = loop.result(state)
        assert policy.shape == (3, 5, 4, 3)
        assert (policy >= 0).all()
        assert policy.sum(axis=-1) == pytest.approx(1)
        loop.advance(state)


def test_a_resumed_run_is_the_same_to_the_bit(agent, tmp_path):
    world, loop = riverswim(4, 6), Exploration(agent=agent, copies=2, points=4)
    whole = [(point.spent, point.score, point.extras["regret"]) for point in loop.run(world, 20, 5)]
    run = loop.run(world, 20, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [
        (point.spent, point.score, point.extras["regret"])
        for point in loop.run(world, 20, 5, checkpoint=tmp_path / "state")
    ]
    assert again == whole
    assert [spent for spent, _, _ in whole] == [5, 10, 15, 20]


def test_regret_grows_by_what_each_policy_gives_away(agent):
    world = random_mdp(4, 2, 3)
    points = list(Exploration(agent=agent, copies=3, points=10).run(world, 10, 0))
    regret = np.diff([0, *(point.extras["regret"] for point in points)])
    assert regret == pytest.approx([world.optimum - point.score for point in points])
    assert (regret >= -1e-9).all()


def test_who_explores_finds_the_end_of_the_river_and_who_does_not_stays_at_its_mouth():
    river = riverswim(6, horizon=20)
    regret = {
        name: Exploration(agent=agent, copies=10).learn(river, 200, 0).curve.points[-1].extras["regret"]
        for name, agent in {
            "ucbvi": UCBVI(scale=0.02),
            "psrl": PSRL(),
            "greedy": CertaintyEquivalence(0),
            "epsilon": CertaintyEquivalence(0.1),
            "q": QLearning(0.1),
        }.items()
    }
    nothing = 200 * river.optimum
    assert max(regret["ucbvi"], regret["psrl"]) < 0.2 * nothing
    assert min(regret["greedy"], regret["epsilon"], regret["q"]) > 0.8 * nothing


@pytest.mark.parametrize("by_step", [False, True])
def test_counts_are_those_of_a_plain_loop(by_step):
    rng = np.random.default_rng(0)
    at = account()
    counts.begin(at, by_step)
    expected = np.zeros_like(at.memory["next"])
    paid = np.zeros_like(at.memory["reward"])
    for _ in range(5):
        episode = Episode(rng.integers(3, size=(2, 5)), rng.integers(2, size=(2, 4)), rng.random((2, 4)))
        counts.add(at.memory, episode)
        for run in range(2):
            for step in range(4):
                place = (run, *((step,) if by_step else ()), episode.states[run, step], episode.actions[run, step])
                expected[(*place, episode.states[run, step + 1])] += 1
                paid[place] += episode.rewards[run, step]
    np.testing.assert_array_equal(at.memory["next"], expected)
    np.testing.assert_allclose(at.memory["reward"], paid)
    P, R = counts.model(at.memory, at)
    assert P.sum(axis=-1) == pytest.approx(1)
    assert counts.visits(at.memory).sum() == 40
    assert ((R >= 0) & (R <= 1)).all()


def test_rewards_that_are_told_are_taken_as_they_are():
    """Nothing that was paid counts, nor how often: only transitions are learned."""
    river = riverswim(3, horizon=4, told=True)
    best = greedy(backward_induction(river.P[None], river.R[None], 4)[1])
    at = Account(1, 3, 2, 4, river.rewards, 10, 0, np.random.default_rng(0), pays=river.pays)
    for agent in (UCBVI(scale=1e-9), UCBVI(scale=1e-9, recommends="empirical"), PSRL()):
        agent.begin(at)
        at.memory["next"] += 1e12 * river.P
        at.memory["reward"] += np.random.default_rng(1).random((1, 3, 2)) * 1e12
        np.testing.assert_array_equal(counts.model(at.memory, at)[1][0], river.R)
        np.testing.assert_array_equal(agent.plan(at), best)
        np.testing.assert_array_equal(getattr(agent, "recommend", agent.plan)(at), best)
    at.pays = None
    assert (UCBVI(scale=1e-9)._optimistic(at) != best).any()


def test_plans_are_made_anew_when_episodes_have_grown_by_a_factor():
    agent, at, planned = UCBVI(replan=1.5), account(), []
    agent.begin(at)
    before = None
    for played in range(20):
        at.played = played
        policy = agent.plan(at)
        if policy is not before:
            planned.append(played)
        before = policy
    assert planned == [0, 1, 2, 3, 5, 8, 12, 18]


def test_q_learning_is_the_rule_written_out():
    rng, agent, at = np.random.default_rng(0), QLearning(), account()
    agent.begin(at)
    values, times = np.zeros((2, 4, 3, 2)), np.zeros((2, 4, 3, 2))
    for _ in range(6):
        episode = Episode(rng.integers(3, size=(2, 5)), rng.integers(2, size=(2, 4)), rng.random((2, 4)))
        agent.learn(at, episode)
        for run in range(2):
            for step in (3, 2, 1, 0):
                s, a = episode.states[run, step], episode.actions[run, step]
                times[run, step, s, a] += 1
                rate = 5 / (4 + times[run, step, s, a])
                following = values[run, step + 1, episode.states[run, step + 1]].max() if step < 3 else 0
                values[run, step, s, a] += rate * (episode.rewards[run, step] + following - values[run, step, s, a])
    np.testing.assert_allclose(at.memory["values"], values)


def test_a_gymnasium_world_has_returns_and_no_regret():
    pytest.importorskip("gymnasium")
    point = list(
        Exploration(agent=PSRL(), points=2).run(compose.task("gym-tabular('FrozenLake-v1', horizon=10)"), 4, 0)
    )[-1]
    assert "regret" not in point.extras
    assert 0 <= point.score <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UCBVI(bonus="x"), "unknown bonus 'x'"),
        (lambda: UCBVI(delta=0), "delta lie in"),
        (lambda: PSRL(prior=0), "prior is a pseudo-count above 0"),
        (lambda: CertaintyEquivalence(2), "certainty-equivalence: epsilon is a share"),
        (lambda: QLearning(-1), "q-learning: epsilon is a share"),
        (lambda: Exploration(copies=0), "copies and points must be at least 1"),
        (
            lambda: Exploration().run(compose.task("digits"), 5, 0),
            "runs on a Episodic task; digits is a Classification",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_the_deep_sea_needs_a_plan():
    found = Exploration(agent=QLearning(0, optimistic=True), copies=5).learn(deepsea(6), 200, 0)
    lost = Exploration(agent=QLearning(0.1), copies=5).learn(deepsea(6), 200, 0)
    assert found.curve.final > 0.9 > 0.5 > lost.curve.final
