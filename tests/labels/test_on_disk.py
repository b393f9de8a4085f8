"""Arrays in temporary files that nobody sees."""

from __future__ import annotations

import errno
import os
import tempfile

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.labels import on_disk
from fewer.labels.on_disk import OnDisk, parts


@pytest.mark.filterwarnings("error")
def test_parts_come_back_as_one_array(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = np.random.default_rng(0).normal(size=(50, 3, 2))
    array = OnDisk()
    for part in np.split(whole, [7, 7, 30]):
        array.write(part)
    mapped = array.mapped()
    assert os.listdir(tmp_path) == []  # no name, so nothing to clean up
    np.testing.assert_array_equal(mapped, whole.astype(np.float32))
    assert torch.from_numpy(mapped).shape == (50, 3, 2)  # and torch has nothing to warn of


def test_rows_of_another_shape(tmp_path):
    array = OnDisk()
    array.write(np.zeros((2, 3)))
    with pytest.raises(FewerError, match=r"rows of shape \(4,\) follow rows of shape \(3,\)"):
        array.write(np.zeros((2, 4)))


def test_no_room_is_said(monkeypatch):
    array = OnDisk()

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array, "file", Full())
    with pytest.raises(FewerError, match="no room for the numbers of the pool; set TMPDIR"):
        array.write(np.zeros((1, 1)))


def test_parts_cover_an_array_in_copies(monkeypatch):
    monkeypatch.setattr(on_disk, "BYTES", 100)
    array = np.arange(60, dtype=np.float32).reshape(20, 3)
    array.flags.writeable = False
    found = list(parts(array))
    assert [first for first, _ in found] == [0, 8, 16]
    np.testing.assert_array_equal(np.concatenate([part for _, part in found]), array)
    assert all(part.flags.writeable and part.nbytes <= 100 for _, part in found)
    assert list(parts(array[:0])) == []
