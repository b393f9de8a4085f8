"""The script that swings up the pendulum: it does, chance does not, and its data say what was done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.control.environments import gym
from fewer.control.pendulum_script import EXPERT, RANDOM, pendulum_data, swung_up


def test_what_the_script_and_what_chance_earn():
    task, rng = gym("Pendulum-v1"), np.random.default_rng(0)
    earned = {}
    for name, randomly in (("script", 0.0), ("chance", 1.0)):
        earned[name], _ = task.evaluate(
            lambda seen, randomly=randomly: swung_up(np.asarray(seen), rng, 0.0, randomly).astype(np.float32), 60, 0
        )
    assert earned["script"] == pytest.approx(EXPERT, abs=30)
    assert earned["chance"] == pytest.approx(RANDOM, abs=130)


def test_data_are_episodes_of_it_in_the_worlds_units():
    task = gym("Pendulum-v1")
    data = pendulum_data(task, 3, seed=1)
    assert (len(data), data.steps) == (3, 600)
    assert np.abs(data.actions).max() > 1
    assert np.abs(data.actions).max() <= 2
    assert -1800 < data.rewards.sum() / 3 < -200
    again, other = pendulum_data(task, 3, seed=1), pendulum_data(task, 3, seed=2)
    assert np.array_equal(data.actions, again.actions)
    assert not np.array_equal(data.actions, other.actions)
    rows = task.transitions(data)
    # each step leads to the next; where an episode was cut, to what was seen then, and its value goes on
    assert len(rows) == 600
    assert torch.equal(rows.next_observations[:199], rows.observations[1:200])
    assert bool(rows.continues.all())
