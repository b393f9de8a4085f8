from __future__ import annotations

import numpy as np
from tests.control.image_toys import SIDE, spot_task

from fewer.control.stacking import StackedWorlds


def test_the_last_frames_are_seen_and_the_first_is_repeated():
    one, three = spot_task(steps=9, kind="dict"), spot_task(stack=3, steps=9, kind="dict")
    plain, stacked = one.make(2), three.make(2)
    assert isinstance(stacked, StackedWorlds)
    pixels = SIDE * SIDE * 3
    frames = []
    for seen in (plain.reset({0: 1, 1: 2}), *(plain.step(np.zeros((2, 2))).observations for _ in range(4))):
        frames.append(seen)
    found = [stacked.reset({0: 1, 1: 2}), *(stacked.step(np.zeros((2, 2))).observations for _ in range(4))]
    for step, seen in enumerate(found):
        assert seen.shape == (2, three.observation_size)
        assert np.array_equal(seen[:, :2], frames[step][:, :2])  # what is no image is there once
        for name, begin in (("camera", 0), ("wrist", 1)):
            camera = seen[:, 2 + begin * 3 * pixels :][:, : 3 * pixels].reshape(2, 3, pixels)
            for back in range(3):
                other = frames[max(0, step - back)][:, 2 + begin * pixels :][:, :pixels]
                assert np.array_equal(camera[:, 2 - back], other), name


def test_a_copy_that_begins_anew_forgets_and_the_other_does_not():
    worlds = spot_task(stack=2, steps=9).make(2)
    worlds.reset({0: 1, 1: 2})
    step = worlds.step(np.zeros((2, 2))).observations.copy()
    again = worlds.reset({0: 5})
    half = again.shape[1] // 2
    assert np.array_equal(again[0, :half], again[0, half:])
    after = worlds.step(np.zeros((2, 2))).observations
    assert np.array_equal(after[1, :half], step[1, half:])
    assert np.array_equal(after[0, :half], again[0, half:])


def test_a_copy_whose_episode_is_over_stays():
    worlds = spot_task(stack=2, steps=1).make(1)
    worlds.reset({0: 1})
    last = worlds.step(np.zeros((1, 2))).observations
    assert np.array_equal(worlds.step(np.zeros((1, 2))).observations, last)
