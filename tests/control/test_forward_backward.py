from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.control.baselines import sac
from fewer.control.forward_backward import ForwardBackward, Linked
from fewer.control.loop import OffPolicy
from fewer.control.peg_scene import peg_there_and_back
from fewer.control.reward_classifiers import RewardClassifier
from fewer.control.serl import SERL
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness

TASK = peg_there_and_back(demonstrations=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def agent(**settings):
    return OffPolicy(**(sac(hidden=(8,)) | {"batch": 8, "learning_starts": 10, "episodes": 2} | settings))


def test_each_begins_where_the_other_has_ended():
    loop = ForwardBackward(agent(), agent(), points=1)
    with own_randomness(0, "start"):
        state = loop.start(TASK, 400, 0)
    tool, turns = [], []
    with own_randomness(0, "steps"):
        for _ in range(120):
            before = state.scenes[state.turn].tool.copy()
            tool.append((before, state.turn))
            turns.append(state.turn)
            loop._step(state)
    assert (
        turns == [0] * 50 + [1] * 50 + [0] * 20
    )  # with this seed nobody succeeds by chance, so each has its fifty steps
    assert state.switches == 2
    # the tool is never put back: a step moves it by at most its stride
    places = np.concatenate([each[:, :2] for each, _ in tool])
    assert np.abs(np.diff(places, axis=0)).max() < 3
    assert [each.ledger.spent for each in state.agents] == [70, 50]
    assert state.ledger.spent == 120
    assert state.agents[0].updates == 60
    assert [len(each) for each in state.reached] == [1, 1]
    # what was remembered as the successor of a last step is not what came after the other's episode
    rows = state.agents[0].replay.take(torch.tensor([49, 50]))
    assert not torch.equal(rows.next_observations[0], rows.observations[1])
    assert rows.observations[1, :4].tolist() == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert bool((rows.continues == 1).all())


def test_returns_are_means_over_the_last_ten_episodes():
    loop = ForwardBackward(agent(), agent(), points=1)
    with own_randomness(0, "start"):
        state = loop.start(TASK, 400, 0)
    state.reached = [[float(each) for each in range(10)], [2.0]]
    for _ in range(50):
        loop._step(state)
    assert state.reached == [[*map(float, range(1, 10)), 0.0], [2.0]]  # nobody succeeds by chance


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    loop = ForwardBackward(agent(), agent(), points=4)
    whole = [(p.spent, p.score, p.extras["switches"]) for p in loop.run(TASK, 230, 5)]
    run = loop.run(TASK, 230, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [(p.spent, p.score, p.extras["switches"]) for p in loop.run(TASK, 230, 5, checkpoint=tmp_path / "state")]
    assert again == whole
    with own_randomness(5, "start"):
        one, two = loop.start(TASK, 230, 5), loop.start(TASK, 230, 5)
    for _ in range(70):
        loop._step(one)
    loop.resume(two, copy.deepcopy(one.state_dict()))
    for state in (one, two):
        with own_randomness(5, "then"):
            for _ in range(60):
                loop._step(state)
    for mine, other in zip(one.agents, two.agents, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.actor.parameters(), other.actor.parameters(), strict=True))
        held = torch.arange(len(mine.replay))
        assert len(other.replay) == len(held)
        for name, values in vars(mine.replay.take(held)).items():
            assert name == "returns" or torch.equal(values, getattr(other.replay.take(held), name))


def test_with_the_whole_stack_on_either_side():
    filling = SERL(hidden=(8,), members=2, reward="classifier", reward_steps=3, learning_starts=20)
    side = OffPolicy(**filling, batch=8, episodes=2)
    learned = ForwardBackward(side, side, points=2).learn(TASK, 120)
    assert [point.spent for point in learned.curve] == [60, 120]
    assert {"backward", "switches", "success"} <= set(learned.curve.points[-1].extras)
    there, back = learned.result
    assert there.predict(np.zeros(10), deterministic=True)[0].shape == (3,)
    assert back.predict(np.zeros((2, 10)))[0].shape == (2, 3)


def test_linked_tasks_offer_what_the_task_does():
    scene, _ = TASK.link(0)
    linked = Linked(TASK.forward, scene)
    assert len(linked.demonstrations(0)) == 4
    assert linked.outcomes(0, count=3)[0].shape == (3, 10)
    assert linked.fingerprint() == TASK.forward.fingerprint()
    assert linked.make(1) is scene
    with pytest.raises(FewerError, match="one scene, and 2 copies"):
        linked.make(2)
    with pytest.raises(AttributeError):
        _ = linked.nothing


def test_errors():
    with pytest.raises(FewerError, match="copies must be 1"):
        ForwardBackward(agent(copies=2), agent())
    with pytest.raises(FewerError, match="runs on a ThereAndBack task"):
        ForwardBackward(agent(), agent()).learn(compose.task("peg-slot-2d"), 100)
    assert RewardClassifier().steps == 100
