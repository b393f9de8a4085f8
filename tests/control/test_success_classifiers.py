"""Examples of success, from demonstrations and from a task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer.control.peg_world import peg_slot_2d
from fewer.control.success_classifiers import outcomes
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shown(tmp_path, successes, final=True, width=2):
    episodes = [
        {
            "observations": np.full((4 if final else 3, width), float(number)),
            "actions": np.zeros((3, 1)),
            "success": success,
        }
        for number, success in enumerate(successes)
    ]
    file = tmp_path / "shown.npz"
    write_npz(file, Demonstrations.of_episodes(episodes))
    return str(file)


def test_examples_from_demonstrations(tmp_path):
    good, bad = outcomes(target(), shown(tmp_path, [True, False, True]), 0)
    assert good[:, 0].tolist() == [0, 2]
    assert len(bad) == 9


def test_where_nobody_says_what_was_a_success_it_is_an_end_by_itself(tmp_path):
    demonstrations = Demonstrations(
        np.arange(6.0)[:, None].repeat(2, axis=1),
        np.zeros((6, 1)),
        offsets=[0, 2, 4, 6],
        final_observations=np.array([[10.0, 10], [11, 11], [12, 12]]),
        terminations=np.array([False, True, False, False, False, True]),
    )
    write_npz(tmp_path / "ends.npz", demonstrations)
    good, _ = outcomes(target(), str(tmp_path / "ends.npz"), 0)
    assert good[:, 0].tolist() == [10, 12]


def test_a_tasks_own_examples_depend_on_the_seed():
    task = peg_slot_2d()
    assert torch.equal(outcomes(task, None, 1)[0], outcomes(task, None, 1)[0])
    assert not torch.equal(outcomes(task, None, 1)[0], outcomes(task, None, 2)[0])


def test_errors(tmp_path):
    with pytest.raises(FewerError, match="no demonstration is a success"):
        outcomes(target(), shown(tmp_path, [False, False]), 0)
    with pytest.raises(FewerError, match="last action is missing"):
        outcomes(target(), shown(tmp_path, [True], final=False), 0)
    with pytest.raises(FewerError, match="observations have 3 numbers"):
        outcomes(target(), shown(tmp_path, [True], width=3), 0)
