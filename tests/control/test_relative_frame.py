"""Frames: the algebra of transforms, and that what is seen does not depend on where everything was put."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.control.relative_frame import (
    adjoint,
    inverse,
    planar_inverse,
    planar_product,
    pose,
    quaternion,
    relative_frame,
    rotation,
    to_base,
    to_tool,
    transform,
    turned,
)
from fewer.core.errors import FewerError

SEEDS = st.integers(0, 2**31)


def poses(seed, count=1):
    return transform(np.random.default_rng(seed).standard_normal((count, 7)))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_rotations_are_rotations_and_quaternions_lead_back(seed):
    matrix = rotation(np.random.default_rng(seed).standard_normal((5, 4)))
    assert matrix @ np.swapaxes(matrix, -1, -2) == pytest.approx(np.broadcast_to(np.eye(3), (5, 3, 3)), abs=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert rotation(quaternion(matrix)) == pytest.approx(matrix, abs=1e-9)
    assert (quaternion(matrix)[:, 3] >= 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_have_quaternions_too(axis):
    half = np.diag(np.where(np.arange(3) == axis, 1.0, -1.0))
    assert np.abs(quaternion(half)) == pytest.approx(np.eye(4)[axis])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_inverse_and_adjoint_are_homomorphisms(seed):
    one, two = poses(seed), poses(seed + 1)
    assert inverse(one) @ one == pytest.approx(np.eye(4)[None], abs=1e-9)
    assert adjoint(one @ two) == pytest.approx(adjoint(one) @ adjoint(two), abs=1e-9)
    action = np.random.default_rng(seed).standard_normal((1, 6))
    assert to_tool(to_base(action, one), one) == pytest.approx(action, abs=1e-9)
    assert transform(pose(one)) == pytest.approx(one, abs=1e-9)


def test_the_adjoint_of_nothing_and_of_a_shift():
    assert adjoint(np.eye(4)).tolist() == np.eye(6).tolist()
    shifted = np.eye(4)
    shifted[:3, 3] = 1, 0, 0
    # turning about a tool at x = 1 moves the base's origin downwards
    assert to_base(np.array([0, 0, 0, 0, 0, 1.0]), shifted).tolist() == [0, -1, 0, 0, 0, 1]


def test_a_twist_seen_from_two_frames_moves_the_tool_alike():
    """exp of the tool's twist on the right is exp of the base's on the left, to first order."""
    tool, action, small = poses(3)[0], np.random.default_rng(0).standard_normal(6), 1e-6

    def moved(twist):
        v, w = twist[:3], twist[3:]
        made = np.eye(4)
        made[:3, :3] += small * np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
        made[:3, 3] = small * v
        return made

    assert moved(to_base(action, tool)) @ tool == pytest.approx(tool @ moved(action), abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_planar_poses_form_the_same_group(seed):
    one, two, three = np.random.default_rng(seed).standard_normal((3, 4, 3))
    assert planar_product(planar_inverse(one), one) == pytest.approx(0, abs=1e-9)
    left, right = planar_product(planar_product(one, two), three), planar_product(one, planar_product(two, three))
    assert left == pytest.approx(right, abs=1e-9)
    flat = np.zeros((4, 7))
    flat[:, :2], flat[:, 5], flat[:, 6] = one[:, :2], np.sin(one[:, 2] / 2), np.cos(one[:, 2] / 2)
    assert transform(flat)[:, :2, :2] @ two[:, :2, None] == pytest.approx(turned(two[:, :2], one[:, 2])[..., None])


class Arm(gymnasium.Env):
    """A tool that moves as it is told, with twists of the base's frame, from a start that the whole room is turned by."""

    def __init__(self, room=None, nested=True, actions=7):
        self.room = np.eye(4) if room is None else room
        state = {"tcp_pose": Box(-np.inf, np.inf, (7,)), "tcp_vel": Box(-np.inf, np.inf, (6,))}
        self.nested = nested
        self.observation_space = Dict({"state": Dict(state), "image": Box(0, 1, (2,))} if nested else state)
        self.action_space = Box(-1, 1, (actions,))

    def reset(self, *, seed=None, options=None):
        self.tool = self.room @ transform(np.array([0.3, 0.1, 0.2, 0.1, 0.2, 0.3, 0.9]))
        return self._seen(np.zeros(6)), {}

    def step(self, action):
        self.done = np.asarray(action, dtype=np.float64)
        v, w = 0.1 * self.done[:3], 0.1 * self.done[3:6]
        cross = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
        step = np.eye(4)
        step[:3, :3] += cross
        step[:3, 3] = v
        u, _, vh = np.linalg.svd((step @ self.tool)[:3, :3])
        self.tool = step @ self.tool
        self.tool[:3, :3] = u @ vh
        return self._seen(self.done[:6]), 0.0, False, False, {"intervene_action": self.done.copy()}

    def _seen(self, twist):
        state = {"tcp_pose": pose(self.tool).astype(np.float32), "tcp_vel": twist.astype(np.float32)}
        return {"state": state, "image": np.ones(2)} if self.nested else state


def played(room, nested=True):
    arm = Arm(room, nested)
    wrapped = relative_frame(arm)
    seen, _ = wrapped.reset(seed=0)
    rows, rng = [seen], np.random.default_rng(1)
    for _ in range(5):
        action = rng.uniform(-1, 1, 7)
        seen, *_, info = wrapped.step(action)
        assert info["intervene_action"] == pytest.approx(action, abs=1e-5)
        assert arm.done[6] == pytest.approx(action[6])
        rows.append(seen)
    return rows


@pytest.mark.parametrize("nested", [True, False])
def test_where_everything_was_put_is_not_seen(nested):
    plain, moved = played(np.eye(4), nested), played(poses(5)[0], nested)
    for one, two in zip(plain, moved, strict=True):
        for key in ("tcp_pose", "tcp_vel"):
            first, second = (row["state"][key] if nested else row[key] for row in (one, two))
            assert first == pytest.approx(second, abs=1e-4)
    start = plain[0]["state"] if nested else plain[0]
    assert start["tcp_pose"] == pytest.approx([0, 0, 0, 0, 0, 0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "arm", "message"),
    [
        ({"pose_key": "pose"}, Arm(), "part 'pose' is not among"),
        ({"velocity_key": "tcp_pose"}, Arm(), r"has shape \(7,\); 6 numbers"),
        ({}, Arm(actions=3), "a twist of six numbers"),
    ],
)
def test_errors(options, arm, message):
    with pytest.raises(FewerError, match=message):
        relative_frame(arm, **options)


def test_the_velocity_may_be_missing():
    arm = Arm(nested=False)
    del arm.observation_space.spaces["tcp_vel"]
    seen, _ = relative_frame(arm, velocity_key=None).reset()
    assert seen["tcp_pose"] == pytest.approx([0, 0, 0, 0, 0, 0, 1], abs=1e-6)
