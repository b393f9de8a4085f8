"""Agents driven step by step learn what they learn in the loops, and say what is out of order."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore import LOOP, MEX, PSRL, UCBVI, UCRL2
from fewer.explore.driven import EndlessAgent, EpisodicAgent
from fewer.explore.worlds import riverswim


@pytest.mark.parametrize("agent", [UCBVI(scale=0.02), PSRL(), MEX(steps=5)])
def test_a_driven_agent_finds_the_way_up_the_river(agent):
    world, rng = riverswim(4, horizon=10), np.random.default_rng(0)
    driven = EpisodicAgent(agent, world.states, world.actions, world.horizon, episodes=150)
    for _ in range(150):
        at = 0
        driven.reset(at)
        for _ in range(world.horizon):
            action = driven.act()
            reward, at = float(world.R[at, action]), int(rng.choice(4, p=world.P[at, action]))
            driven.observe(reward, at)
    assert float(world.value(driven.policy()[None])[0]) > 0.9 * world.optimum


def test_what_it_learns_is_what_came_of_its_actions():
    driven = EpisodicAgent(UCBVI(), states=3, actions=2, horizon=4)
    driven.reset(0)
    actions = []
    for state in (1, 2, 0, 0):
        actions.append(driven.act())
        driven.observe(0.5, state)
    seen = driven._account.memory["next"][0]
    expected = np.zeros((3, 2, 3))
    for before, action, after in zip((0, 1, 2, 0), actions, (1, 2, 0, 0), strict=True):
        expected[before, action, after] += 1
    assert np.array_equal(seen, expected)
    assert driven._account.played == 1


def test_an_episode_that_ends_early_stays_where_it_ended():
    driven = EpisodicAgent(UCBVI(), states=2, actions=1, horizon=3)
    driven.reset(0)
    driven.act()
    driven.observe(1.0, 1, over=True)
    assert driven._account.memory["next"][0, 1, 0, 1] == 2
    # and one that was left open counts as well, as far as it is known
    driven.reset(0)
    driven.act()
    driven.observe(0.0, 0)
    driven.act()
    driven.reset(0)
    assert driven._account.played == 2


def test_a_stream_without_end():
    rng = np.random.default_rng(0)
    driven = EndlessAgent(UCRL2(scale=0.001), states=2, actions=2, steps=2000)
    at, paid = 0, 0.0
    driven.reset(at)
    for step in range(2000):
        action = driven.act()
        at = int(rng.random() < (0.9 if action else 0.1))
        driven.observe(float(at), at)
        paid += at * (step >= 1000)
    assert paid > 800


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda agent: agent.act(), "call reset"),
        (lambda agent: agent.observe(0.0, 0), r"call act\(\) first"),
        (lambda agent: agent.reset(2), "there is no state 2; there are 2"),
        (lambda agent: (agent.reset(0), agent.act(), agent.act()), "call observe"),
        (lambda agent: (agent.reset(0), agent.act(), agent.observe(2.0, 0)), r"the reward 2.0 is outside of \[0, 1\]"),
        (lambda agent: (agent.reset(0), agent.act(), agent.observe(float("nan"), 0)), "the reward nan is outside"),
    ],
)
@pytest.mark.parametrize("kind", ["episodic", "endless"])
def test_what_is_out_of_order(kind, wrong, message):
    agent = EpisodicAgent(UCBVI(), 2, 2, 3) if kind == "episodic" else EndlessAgent(UCRL2(), 2, 2)
    with pytest.raises(FewerError, match=message):
        wrong(agent)


def test_sizes_that_cannot_be():
    with pytest.raises(FewerError, match="must be at least 1"):
        EpisodicAgent(UCBVI(), 0, 2, 3)
    with pytest.raises(FewerError, match="rewards a range"):
        EndlessAgent(UCRL2(), 2, 2, rewards=(1.0, 1.0))
    with pytest.raises(FewerError):
        EndlessAgent(LOOP(), 2, 2)  # it needs hypotheses
