"""The worlds: walls stop, gates let through, experts know the way, and tasks are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.demos.point_worlds import Obstacle, TwoGates, obstacle, two_gates
from fewer.demos.rollouts import rollout


def test_a_wall_is_passed_at_its_gate_only():
    world = TwoGates()
    before = np.array([[-0.5, 0.45], [-0.5, 0.0], [-0.3, 0.9], [-0.5, 0.2], [0.3, -0.45], [0.3, 0.45], [0.0, 0.0]])
    after = np.array([[-0.3, 0.45], [-0.3, 0.0], [-0.5, 0.9], [-0.3, 0.8], [0.5, -0.45], [0.5, 0.45], [0.1, 0.3]])
    # crosses at y = 0.5 although it begins and ends outside; back through a wall is hit as well
    assert world.blocked(before, after).tolist() == [False, True, True, False, False, True, False]
    assert world.reached(np.array([[1.1, 0.0], [1.0, 0.1], [1.1, 0.13]])).tolist() == [True, True, False]


def test_the_disc_is_hit_inside_and_the_goal_is_round():
    world = Obstacle()
    after = np.array([[0.0, 0.34], [0.0, 0.36], [0.3, 0.3]])
    assert world.blocked(after, after).tolist() == [True, False, False]
    assert world.reached(np.array([[1.0, 0.11], [1.1, 0.1]])).tolist() == [True, False]


@pytest.mark.parametrize("world", [TwoGates(), TwoGates(0.4), Obstacle(), Obstacle(0.4, below=0.5)])
def test_experts_know_the_way(world):
    outcome = rollout(world.play(200), world.expert(), 0)
    assert outcome.successes.mean() > 0.97
    assert outcome.returns.tolist() == outcome.successes.astype(float).tolist()
    assert 40 < outcome.lengths.mean() < 120


def test_the_share_that_goes_below_is_exact():
    world = Obstacle(below=0.3)
    found = rollout(world.play(50), world.expert(), 0, record=True).demonstrations
    lowest = np.minimum.reduceat(found.observations[:, 1], found.offsets[:-1])
    assert (lowest < -0.3).sum() == 15


def test_tasks_have_demonstrations_of_their_own_for_each_seed():
    task = two_gates(demonstrations=7, system_noise=0.4, test_noise=0.2)
    assert (len(task.demonstrations(0)), task.pool, task.metric) == (7, 7, "success rate")
    assert task.demonstrations(0).fingerprint() == task.demonstrations(0).fingerprint()
    assert task.demonstrations(0).fingerprint() != task.demonstrations(1).fingerprint()
    assert task.fingerprint() != two_gates(demonstrations=7, system_noise=0.4).fingerprint()
    assert task.play(3).world.system_noise == 0.2
    assert compose.task("obstacle(below=0.3)").world == Obstacle(below=0.3)
    assert compose.task("two-gates").name == "two-gates"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoGates(-1), "a world's noise is a standard deviation; it is -1"),
        (lambda: Obstacle(below=2), r"must lie in \[0, 1\]; it is 2"),
        (lambda: two_gates(0), "demonstrations must be at least 1 and noise not negative; they are 0"),
        (lambda: obstacle(test_noise=-1), "0.0 and -1"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
