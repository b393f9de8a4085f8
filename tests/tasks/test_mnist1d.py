from __future__ import annotations

import random

import numpy as np
import pytest

from fewer.tasks import mnist1d as module
from fewer.tasks.mnist1d import mnist1d

pytest.importorskip("mnist1d.data")


def test_shapes_and_scale():
    task = mnist1d()
    assert task.x.shape == (4800, 1, 40)
    assert task.x.dtype == np.float32
    split = task.split(0)
    assert (split.x.shape, split.test_x.shape) == ((500, 1, 40), (1200, 1, 40))
    assert task.held_out is not None
    whole = np.concatenate([task.x, task.held_out[0]])
    assert whole.mean() == pytest.approx(0, abs=1e-4)
    assert whole.std() == pytest.approx(1, abs=1e-4)
    assert np.bincount(np.concatenate([task.y, task.held_out[1]])).tolist() == [600] * 10


def test_rows_are_drawn_anew_for_each_seed_and_the_test_set_stays():
    first, second = mnist1d().split(0), mnist1d().split(1)
    assert not np.array_equal(first.x, second.x)
    assert np.array_equal(first.test_x, second.test_x)
    assert len(mnist1d(rows=None).split(0).x) == 4800


def test_the_signals_do_not_depend_on_the_global_streams_nor_touch_them():
    def made_after(seed: int) -> tuple[str, float, float]:
        mnist1d.cache_clear()
        module._signals.cache_clear()
        random.seed(seed)
        np.random.seed(seed)
        return mnist1d().fingerprint(), random.random(), np.random.random()

    first, second = made_after(1), made_after(2)
    assert first[0] == second[0]
    assert first[1] != second[1]  # the generator seeds both streams with one number; it must not show
    np.random.seed(1)
    assert first[2] == np.random.random()
    assert mnist1d(rows=100).fingerprint() != first[0]
