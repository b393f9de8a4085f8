from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.trajectory_replay import Trajectory, TrajectoryReplay, side_by_side

SEEN = ObservationTensors((("", (2,)),))


def episode(number, length, terminated=False):
    """What is seen says which episode and step it is, what is done as well."""
    seen = np.stack([np.full(length + 1, number), np.arange(length + 1)], axis=1).astype(np.float32)
    actions = np.arange(length, dtype=np.float32)[:, None] + 100 * number
    plans = np.broadcast_to(seen[:, None, 1:], (length + 1, 3, 1)).astype(np.float32)
    return Trajectory(seen, actions, plans, terminated)


def test_a_stretch_is_what_happened_and_begins_again_where_an_episode_ends():
    replay = TrajectoryReplay(SEEN)
    replay.add([episode(1, 4, terminated=True), episode(2, 3), episode(3, 6)])
    drawn = replay.draw(500, 9, torch.Generator().manual_seed(0))
    number, time = drawn.numbers[..., 0], drawn.numbers[..., 1]
    # the row after a step is the next one of the episode, or the first one of another
    follows = (number[:, 1:] == number[:, :-1]) & (time[:, 1:] == time[:, :-1] + 1)
    assert (follows | drawn.first[:, 1:]).all()
    assert (drawn.first == (time == 0)).all()
    # an action is the one that led there
    inner = ~drawn.first
    torch.testing.assert_close(drawn.actions[..., 0][inner], (100 * number + time - 1)[inner])
    assert (drawn.goes_on == ~((number == 1) & (time == 4))).all()
    torch.testing.assert_close(drawn.plans[..., 0, 0], time)
    # every row is drawn about as often
    counts = torch.stack([(number == n).sum() for n in (1, 2, 3)]) / number.numel()
    torch.testing.assert_close(counts, torch.tensor([5 / 16, 4 / 16, 7 / 16]), atol=0.03, rtol=0)


def test_stretches_longer_than_all_there_is_go_round():
    replay = TrajectoryReplay(SEEN)
    replay.add([episode(1, 1)])
    drawn = replay.draw(2, 7, torch.Generator().manual_seed(0))
    assert drawn.numbers.shape == (2, 7, 2)
    assert (drawn.first == (drawn.numbers[..., 1] == 0)).all()


def test_the_oldest_episodes_are_forgotten_whole():
    replay = TrajectoryReplay(SEEN, capacity=10)
    replay.add([episode(1, 4), episode(2, 4)])
    replay.add([episode(3, 5)])
    assert [int(each.observations[0, 0]) for each in replay.trajectories] == [2, 3]
    assert replay.steps == 9
    replay.add([episode(4, 50)])
    assert [len(each) for each in replay.trajectories] == [50]  # the last one is kept at any rate


def test_side_by_side_repeats_the_last_of_what_is_over():
    seen = [{"a": np.arange(2.0)}, {"a": np.arange(10.0, 15.0)}]
    assert side_by_side(seen, 3)["a"].tolist() == [1.0, 13.0]


def test_nothing_can_be_drawn_from_nothing():
    with pytest.raises(FewerError, match="replay: there is no episode to draw from; act first"):
        TrajectoryReplay(SEEN).draw(1, 1, torch.Generator())
