"""What moves, what it touches and what is seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.control.peg_world import PegTask, peg_slot_2d
from fewer.control.pegs import BOTTOM, DEEP, HORIZON, LENGTH, WIDTH, Pegs
from fewer.control.relative_frame import planar_inverse, planar_product


def seen_from_slot(worlds):
    return planar_product(planar_inverse(worlds.slot), worlds.tool)


def test_touching_equals_a_dense_check_of_points():
    """Points of the tool's outline in the block, or points of the block's corners in the tool."""
    rng = np.random.default_rng(0)
    worlds = Pegs(1, "relative", 0.4)
    poses = np.stack([rng.uniform(-1.5, 1.5, 4000), rng.uniform(-1, 2.3, 4000), rng.uniform(-0.5, 0.5, 4000)], 1)
    along = np.linspace(-1, 1, 81) * WIDTH / 2
    back = -np.linspace(0, LENGTH, 241)
    tip = np.stack([along, np.zeros(81)], 1)
    sides = [np.stack([np.full(241, side * WIDTH / 2), back], 1) for side in (-1, 1)]
    outline = np.concatenate([tip, *sides])
    cosine, sine = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    turn = np.stack([np.stack([cosine, -sine], 1), np.stack([sine, cosine], 1)], 1)
    points = poses[:, None, :2] + np.einsum("nij,pj->npi", turn, outline)
    depth = 0.02  # points that only graze are left to rounding
    inside = (points[..., 1] > depth) & (np.abs(points[..., 0]) > worlds.half_slot + depth)
    inside |= points[..., 1] > BOTTOM + depth
    found = worlds.touches(poses)
    assert found[inside.any(1)].all()
    grazing = (points[..., 1] > -depth) & (np.abs(points[..., 0]) > worlds.half_slot - depth)
    grazing |= points[..., 1] > BOTTOM - depth
    assert not found[~grazing.any(1)].any()
    assert 0.1 < found.mean() < 0.9


def test_no_motion_leads_into_the_block():
    task = peg_slot_2d(clearance=0.3)
    worlds, rng = task.make(200), np.random.default_rng(1)
    worlds.reset({each: each for each in range(200)})
    for _ in range(40):
        worlds.step(rng.uniform(-1, 1, (200, 3)) + np.array([0, 0.5, 0]))
        assert not worlds.touches(seen_from_slot(worlds)).any()


def test_free_motion_is_what_was_asked_for():
    for frame, angle in (("relative", None), ("absolute", 0.0)):
        worlds = Pegs(1, frame, 0.2)
        worlds.reset({0: 3})
        before = worlds.tool[0].copy()
        worlds.step(np.array([[0.5, -1.0, 0.25]]))
        heading = before[2] if angle is None else angle
        expected = [
            math.cos(heading) * 1.0 + math.sin(heading) * 2.0,
            math.sin(heading) * 1.0 - math.cos(heading) * 2.0,
            0.25 * math.radians(6),
        ]
        assert worlds.tool[0] - before == pytest.approx(expected, abs=1e-9)


def test_walls_cancel_what_leads_into_them_and_no_more():
    worlds = Pegs(1, "absolute", 0.2)
    worlds.reset({0: 0})
    worlds.slot[0] = 0
    worlds.place(0, np.array([2.0, -0.1, 0.0]))
    worlds.step(np.array([[0.2, 1.0, 0.0]]))  # against the face: it slides along
    assert worlds.tool[0] == pytest.approx([2.4, -0.1, 0])
    worlds.place(0, np.array([0.0, 0.5, 0.0]))
    worlds.step(np.array([[1.0, 0.25, 0.0]]))  # in the slot it does not leave to the side
    assert worlds.tool[0] == pytest.approx([0.0, 1.0, 0.0])
    worlds.step(np.array([[0.0, 0.0, 1.0]]))  # and turns only as far as there is room
    assert 0 < worlds.tool[0, 2] < math.radians(6)
    assert not worlds.over[0]


def test_success_pays_once_and_ends():
    worlds = Pegs(2, "absolute", 0.2)
    worlds.reset({0: 0, 1: 1})
    worlds.slot[:] = 0
    worlds.place(0, np.array([0.0, DEEP - 0.1, 0.0]))
    worlds.place(1, np.array([0.0, -5.0, 0.0]))
    step = worlds.step(np.array([[0, 0.1, 0], [0, 0, 0]]))
    assert step.rewards.tolist() == [1, 0]
    assert step.terminated.tolist() == step.success.tolist() == [True, False]
    assert step.taken.tolist() == [1, 1]
    again = worlds.step(np.zeros((2, 3)))
    assert (again.rewards.tolist(), again.taken.tolist()) == ([0, 0], [0, 1])
    for _ in range(HORIZON - 2):
        last = worlds.step(np.zeros((2, 3)))
    assert last.truncated.tolist() == [False, True]


def test_turning_the_table_is_not_seen_in_the_relative_frame():
    rng = np.random.default_rng(0)
    plain, moved = Pegs(5, "relative", 0.2), Pegs(5, "relative", 0.2, turn=1.1)
    absolute = Pegs(5, "absolute", 0.2, turn=1.1)
    seeds = {each: each for each in range(5)}
    assert plain.reset(seeds) == pytest.approx(moved.reset(seeds), abs=1e-5)
    assert np.abs(plain.reset(seeds) - absolute.reset(seeds)).max() > 0.5
    for _ in range(20):
        actions = rng.uniform(-1, 1, (5, 3))
        one, two = plain.step(actions), moved.step(actions)
        assert one.observations == pytest.approx(two.observations, abs=1e-4)
    assert np.abs(plain.tool - moved.tool).max() > 0.5


def test_the_way_back_ends_where_the_other_begins():
    back = PegTask(2, "relative", 0.2, 0.0, "withdraw").make(1)
    back.reset({0: 0})
    assert not back.touches(seen_from_slot(back)).any()
    steps = [back.step(np.array([[0.0, -1.0, 0.0]])) for _ in range(4)]
    assert [bool(step.success[0]) for step in steps] == [False, False, False, True]
