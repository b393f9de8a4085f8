from __future__ import annotations

import numpy as np
import pytest

from fewer.control.dock_world import DOCK, dock_2d
from fewer.core.errors import FewerError


def test_half_of_the_demonstrations_go_to_either_dock():
    demonstrations = dock_2d().demonstrations(0)
    last = demonstrations.final_observations
    near = [int((np.linalg.norm(last - dock, axis=1) < 0.25).sum()) for dock in (DOCK, DOCK * [-1, 1])]
    assert near == [150, 150]
    assert demonstrations.successes.sum() == 150
    # who comes to the dock that counts has arrived, the others stay until the time is over
    assert set(demonstrations.lengths[~demonstrations.successes]) == {40}
    assert demonstrations.lengths[demonstrations.successes].max() < 40


def test_precision_makes_imitation_rarely_hit():
    assert 0.05 < dock_2d(radius=0.05, miss=0.1).demonstrations(0).successes.mean() < 0.3


def test_a_step_costs_a_quarter_until_the_dock_is_reached():
    worlds = dock_2d().make(2)
    worlds.reset({0: 0, 1: 1})
    worlds.position[:] = [[0.7, 0.65], [0.7, 0.0]]
    step = worlds.step(np.array([[0.0, 1.0], [9.0, 0.0]]))
    assert step.rewards.tolist() == [0, -0.25]
    assert step.terminated.tolist() == [True, False]
    assert step.observations[1] == pytest.approx([0.78, 0.0])  # actions are bounded
    again = worlds.step(np.ones((2, 2)))
    assert (again.rewards[0], again.taken[0]) == (0, 0)
    assert again.observations[0] == pytest.approx(step.observations[0])


def test_the_time_limit_is_no_end():
    worlds = dock_2d().make(1)
    worlds.reset({0: 0})
    steps = [worlds.step(np.zeros((1, 2))) for _ in range(40)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 39 + [True]
    assert not any(step.terminated[0] for step in steps)


def test_seeds_decide():
    task = dock_2d(demonstrations=6)
    assert task.demonstrations(1).fingerprint() == task.demonstrations(1).fingerprint()
    assert task.demonstrations(1).fingerprint() != task.demonstrations(2).fingerprint()
    assert dock_2d(radius=0.1).fingerprint() != dock_2d().fingerprint()
    worlds = task.make(2)
    first = worlds.reset({0: 7, 1: 8})
    assert np.array_equal(worlds.reset({1: 7}), first[:1])


@pytest.mark.parametrize(
    ("wrong", "message"), [({"demonstrations": 1}, "at least two"), ({"radius": 0}, "radius"), ({"speed": 2}, "speed")]
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(FewerError, match=message):
        dock_2d(**wrong)
