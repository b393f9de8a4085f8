from __future__ import annotations

import numpy as np
import pytest
from tests.control.toys import target

from fewer.control.action_chunks import ActionChunks
from fewer.control.dock_world import dock_2d
from fewer.core.errors import FewerError


def test_a_chunk_is_its_actions_one_after_another():
    chunked, plain = ActionChunks(3).wrap(target(steps=9)).make(2), target(steps=9).make(2)
    assert np.array_equal(chunked.reset({0: 4, 1: 5}), plain.reset({0: 4, 1: 5}))
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, (2, 3))
        step = chunked.step(actions)
        singles = [plain.step(actions[:, [number]]) for number in range(3)]
        assert step.rewards == pytest.approx(sum(single.rewards for single in singles))
        assert np.array_equal(step.observations, singles[-1].observations)
        assert step.taken.tolist() == [3, 3]
    assert step.terminated.all()


def test_an_episode_ends_within_a_chunk():
    """Nothing after the end is paid, counted or seen; copies that go on are not held up."""
    task = dock_2d(radius=0.2)
    chunked = ActionChunks(4).wrap(task).make(2)
    chunked.reset({0: 0, 1: 1})
    chunked.inner.position[:] = [[0.7, 0.5], [0.0, 0.0]]
    step = chunked.step(np.tile([0.0, 1.0], (2, 4)))
    assert step.terminated.tolist() == [True, False]
    assert step.success.tolist() == [True, False]
    assert step.taken.tolist() == [2, 4]
    assert step.rewards.tolist() == [-0.25, -1.0]
    assert step.observations == pytest.approx(np.array([[0.7, 0.66], [0.0, 0.32]]), abs=1e-6)
    again = chunked.step(np.zeros((2, 8)))
    assert again.taken.tolist() == [0, 4]
    assert again.terminated.tolist() == [True, False]


def test_sizes_bounds_and_name():
    inner = target(low=-2.0, high=4.0)
    chunked = ActionChunks(2).wrap(inner)
    assert (chunked.observation_size, chunked.action_size, chunked.longest) == (2, 2, 2)
    assert chunked.low.tolist() == [-2, -2]
    assert chunked.high.tolist() == [4, 4]
    assert chunked.fingerprint() != ActionChunks(3).wrap(inner).fingerprint()
    with pytest.raises(FewerError, match="a chunk of 0 steps"):
        ActionChunks(0)


def test_demonstrations_are_cut_into_chunks_from_each_step():
    task = dock_2d(demonstrations=6)
    demonstrations = task.demonstrations(0)
    batch = ActionChunks(4).wrap(task).transitions(demonstrations)
    assert len(batch) == demonstrations.steps
    for row in (0, 3, demonstrations.offsets[1] - 2):
        end = next(offset for offset in demonstrations.offsets if offset > row)
        steps = [min(row + ahead, end - 1) for ahead in range(4)]
        assert batch.actions[row].numpy() == pytest.approx(demonstrations.actions[steps].ravel(), abs=1e-6)
        assert float(batch.rewards[row]) == pytest.approx(demonstrations.rewards[row : min(row + 4, end)].sum())
