"""A data set in place of a task: every batch from it, and nothing to play."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.control.dock_world import dock_2d
from fewer.control.offline import Offline
from fewer.control.offline_baselines import td3_bc
from fewer.control.prior_data import as_memory
from fewer.control.recorded_data import FromData, Recorded
from fewer.core.errors import FewerError


def test_every_row_is_a_given_one_and_networks_have_its_sizes():
    task = dock_2d(demonstrations=4)
    memory = as_memory(task.demonstrations(0), task)
    data = Recorded("docks", 2, 2, -np.ones(2), np.ones(2))
    state = Offline(**td3_bc(hidden=(8,)) | {"sampler": FromData(memory)}, batch=8).start(data, 10, 0)
    known = {row.numpy().tobytes() for row in memory.take(torch.arange(len(memory))).actions}
    drawn = state.source.draw(100).actions
    assert drawn.shape == (100, 2)
    assert all(row.numpy().tobytes() in known for row in drawn)
    assert len({row.numpy().tobytes() for row in drawn}) > 10


def test_it_cannot_be_played_or_raced():
    data = Recorded("docks", 2, 2, -np.ones(2), np.ones(2))
    with pytest.raises(FewerError, match="docks: these are data, in which nothing can be played"):
        data.make(1)
    with pytest.raises(FewerError, match="docks: data alone are no task"):
        data.fingerprint()
