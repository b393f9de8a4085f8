from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.control.peg_world import PegTask, peg_slot_2d
from fewer.control.pegs import DEEP, HORIZON
from fewer.control.relative_frame import planar_inverse, planar_product
from fewer.core.errors import FewerError


@pytest.mark.parametrize("frame", ["relative", "absolute"])
@pytest.mark.parametrize("goal", ["insert", "withdraw"])
def test_demonstrations_succeed_and_repeat(frame, goal):
    task = PegTask(6, frame, 0.2, 0.0, goal)
    shown = task.demonstrations(1)
    assert len(shown) == 6
    assert shown.successes.all()
    assert shown.rewards.sum() == 6
    assert shown.fingerprint() == task.demonstrations(1).fingerprint() != task.demonstrations(2).fingerprint()
    assert np.abs(shown.actions).max() <= 1
    # the world is what it was: the same actions from the same place lead to the same success
    assert shown.lengths.max() <= HORIZON


def test_examples_of_success_are_just_those():
    good, bad = peg_slot_2d().outcomes(0, count=30)
    assert (good.shape, bad.shape) == ((30, 10), (150, 10))

    def deep(seen):
        tool, slot = (
            np.concatenate([rows[:, :2] * 5, np.arctan2(rows[:, 2:3], rows[:, 3:4])], 1)
            for rows in (seen[:, :4].astype(float), seen[:, 4:8].astype(float))
        )
        return planar_product(planar_inverse(slot), tool)[:, 1]

    assert (deep(good) > DEEP - 1e-4).all()
    assert (deep(bad) < DEEP + 1e-4).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demonstrations": 0}, "at least one demonstration"),
        ({"frame": "table"}, "frame is 'relative' or 'absolute'"),
        ({"clearance": 0.0}, "clearance must be positive"),
        ({"turn": math.nan}, "the turn a number"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(FewerError, match=message):
        peg_slot_2d(**settings)


def test_more_errors():
    with pytest.raises(FewerError, match="goal is 'insert' or 'withdraw'"):
        PegTask(1, "relative", 0.2, 0.0, "lift")
    with pytest.raises(FewerError, match="hardly ever succeeds"):
        peg_slot_2d(clearance=1e-9).demonstrations(0)


def test_the_fingerprint_names_the_settings():
    prints = {
        PegTask(20, frame, clearance, turn, goal).fingerprint()
        for frame in ("relative", "absolute")
        for clearance in (0.2, 0.3)
        for turn in (0.0, 90.0)
        for goal in ("insert", "withdraw")
    }
    assert len(prints) == 16
