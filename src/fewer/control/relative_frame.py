"""Observations and actions in the frame of a robot's own tool, so that what is learned holds wherever the target was put.

A pose is a homogeneous transform T = [R p; 0 1] from the tool's frame to the base's; a twist is (v, w), a velocity and a turning,
each of three numbers.  With T_0 the pose at the beginning of an episode::

    observed pose       T_0^-1 T
    observed twist      Ad(T)^-1 (v, w)          of the base's frame, seen in the tool's
    action carried out  Ad(T) a                   of the tool's frame, in the base's

    Ad(T) = [R  [p]x R; 0  R],   [p]x q = p x q

Turning and shifting everything, tool and target, by the same transform leaves observations unchanged and turns the action
carried out along with it.

References
----------
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError, need

if TYPE_CHECKING:
    import gymnasium

Transform = Float[np.ndarray, "*batch 4 4"]
Quaternion = Float[np.ndarray, "*batch 4"]


def rotation(quaternion: Quaternion) -> Float[np.ndarray, "*batch 3 3"]:
    """Turn quaternions (x, y, z, w) into matrices; they need not be normalised.

    Examples
    --------
    >>> rotation(np.array([0.0, 0.0, 1.0, 1.0])).round(6).tolist()
    [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    x, y, z, w = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion(matrix: Float[np.ndarray, "*batch 3 3"]) -> Quaternion:
    """Turn matrices into unit quaternions (x, y, z, w) with w at least 0: the inverse of :func:`rotation`."""
    # the outer product of the quaternion with itself, of which the largest column is well conditioned
    m = np.asarray(matrix, dtype=np.float64)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    outer = np.empty((*m.shape[:-2], 4, 4))
    for i in range(3):
        for j in range(3):
            outer[..., i, j] = m[..., i, j] + m[..., j, i] + (1 - trace if i == j else 0)
    skew = [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]]
    for i in range(3):
        outer[..., i, 3] = outer[..., 3, i] = skew[i]
    outer[..., 3, 3] = 1 + trace
    best = np.diagonal(outer, axis1=-2, axis2=-1).argmax(-1)
    found = np.take_along_axis(outer, best[..., None, None], axis=-1)[..., 0]
    found = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return np.where(found[..., 3:] < 0, -found, found)


def transform(pose: Float[np.ndarray, "*batch 7"]) -> Transform:
    """Turn a position and a quaternion (x, y, z, w) into a transform."""
    made = np.zeros((*pose.shape[:-1], 4, 4))
    made[..., :3, :3], made[..., :3, 3], made[..., 3, 3] = rotation(pose[..., 3:]), pose[..., :3], 1
    return made


def pose(transformed: Transform) -> Float[np.ndarray, "*batch 7"]:
    """Turn a transform into a position and a quaternion (x, y, z, w)."""
    return np.concatenate([transformed[..., :3, 3], quaternion(transformed[..., :3, :3])], axis=-1)


def inverse(transformed: Transform) -> Transform:
    """Invert a transform, exactly a transform again."""
    made = np.zeros_like(transformed)
    turn = np.swapaxes(transformed[..., :3, :3], -1, -2)
    made[..., :3, :3], made[..., 3, 3] = turn, 1
    made[..., :3, 3] = -(turn @ transformed[..., :3, 3, None])[..., 0]
    return made


def adjoint(transformed: Transform) -> Float[np.ndarray, "*batch 6 6"]:
    """How a twist (v, w) of the tool's frame looks in the base's.

    Examples
    --------
    >>> bool((adjoint(np.eye(4)) == np.eye(6)).all())
    True
    """
    turn, place = transformed[..., :3, :3], transformed[..., :3, 3]
    cross = np.zeros((*place.shape[:-1], 3, 3))
    x, y, z = place[..., 0], place[..., 1], place[..., 2]
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -z, y, -x
    cross[..., 1, 0], cross[..., 2, 0], cross[..., 2, 1] = z, -y, x
    made = np.zeros((*place.shape[:-1], 6, 6))
    made[..., :3, :3] = made[..., 3:, 3:] = turn
    made[..., :3, 3:] = cross @ turn
    return made


def to_base(action: Float[np.ndarray, "*batch 6"], tool: Transform) -> Float[np.ndarray, "*batch 6"]:
    """Turn a twist of the tool's frame into one of the base's."""
    return (adjoint(tool) @ action[..., None])[..., 0]


def to_tool(twist: Float[np.ndarray, "*batch 6"], tool: Transform) -> Float[np.ndarray, "*batch 6"]:
    """Turn a twist of the base's frame into one of the tool's: the inverse of :func:`to_base`."""
    return (adjoint(inverse(tool)) @ twist[..., None])[..., 0]


# --- the same in the plane -----------------------------------------------------------------------

Planar = Float[np.ndarray, "copies 3"]
"""Poses (x, y, angle)."""


def turned(
    vectors: Float[np.ndarray, "copies 2"], angle: Float[np.ndarray, " copies"]
) -> Float[np.ndarray, "copies 2"]:
    """Turn vectors by angles in radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)


def planar_product(first: Planar, second: Planar) -> Planar:
    """Where something is that ``first`` sees at ``second``."""
    return np.concatenate([first[:, :2] + turned(second[:, :2], first[:, 2]), first[:, 2:] + second[:, 2:]], axis=1)


def planar_inverse(poses: Planar) -> Planar:
    """Where the origin is, as seen from these poses."""
    return np.concatenate([turned(-poses[:, :2], -poses[:, 2]), -poses[:, 2:]], axis=1)


# --- a Gymnasium wrapper -------------------------------------------------------------------------


def relative_frame(
    environment: gymnasium.Env, pose_key: str = "tcp_pose", velocity_key: str | None = "tcp_vel"
) -> gymnasium.Wrapper:
    """Wrap an environment of a robot arm so that it observes and acts in its tool's frame.

    Parameters
    ----------
    environment : gymnasium.Env
        Whose observation is a Dict with the tool's pose (seven numbers: position and quaternion x, y, z, w), directly or in its
        part ``"state"``, and whose action is a twist of the base's frame (six numbers; more, such as a gripper's, are passed on
        as they are).
    pose_key : str, default "tcp_pose"
        Name of the pose.
    velocity_key : str, optional
        Name of the velocity, a twist of the base's frame.

    Raises
    ------
    FewerError
        If a part is missing or of another size, or an action has fewer than six numbers.

    Notes
    -----
    Where ``info["intervene_action"]`` holds what a person did instead, it is turned into the tool's frame.
    """
    gymnasium = need("gymnasium", extra="control", what="relative_frame")
    space: Any = environment.observation_space
    spaces = getattr(space, "spaces", {})
    nested = "state" in spaces and hasattr(spaces["state"], "spaces")
    parts = spaces["state"].spaces if nested else spaces
    for key, size in ((pose_key, 7), (velocity_key, 6)):
        if key is not None and (key not in parts or parts[key].shape != (size,)):
            found = f"has shape {parts[key].shape}" if key in parts else f"is not among {', '.join(parts) or 'nothing'}"
            raise FewerError(f"relative_frame: the observation's part {key!r} {found}; {size} numbers are needed")
    actions: Any = environment.action_space
    if getattr(actions, "shape", None) is None or len(actions.shape) != 1 or actions.shape[0] < 6:
        raise FewerError(f"relative_frame: actions are {actions}; a twist of six numbers is needed first")

    class RelativeFrame(gymnasium.Wrapper):
        """What :func:`relative_frame` makes."""

        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            """Begin an episode; its first pose is the origin."""
            seen, info = self.env.reset(**options)
            self.tool = transform(np.asarray(self._state(seen)[pose_key], dtype=np.float64))
            self.origin = inverse(self.tool)
            return self._seen(seen), info

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            """Act in the tool's frame."""
            own = np.array(action, dtype=np.float64)
            own[:6] = to_base(own[:6], self.tool)
            before = self.tool
            seen, reward, terminated, truncated, info = self.env.step(own.astype(actions.dtype))
            if "intervene_action" in info:
                done = np.array(info["intervene_action"], dtype=np.float64)
                done[:6] = to_tool(done[:6], before)
                info = {**info, "intervene_action": done}
            self.tool = transform(np.asarray(self._state(seen)[pose_key], dtype=np.float64))
            return self._seen(seen), reward, terminated, truncated, info

        def _state(self, seen: Mapping[str, Any]) -> Mapping[str, Any]:
            return seen["state"] if nested else seen

        def _seen(self, seen: Mapping[str, Any]) -> dict[str, Any]:
            state = dict(self._state(seen))
            state[pose_key] = pose(self.origin @ self.tool).astype(np.float32)
            if velocity_key is not None:
                state[velocity_key] = to_tool(np.asarray(state[velocity_key], dtype=np.float64), self.tool).astype(
                    np.float32
                )
            return {**seen, "state": state} if nested else state

    return RelativeFrame(environment)
