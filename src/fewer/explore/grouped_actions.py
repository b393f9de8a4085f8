"""Groups of actions in any Gymnasium environment: an agent chooses a group, and a uniform member of it is played.

Actions are numbered: those of a Discrete space as they are, those of a MultiDiscrete one or of a Box cut into bins as
the cells of a grid, the last axis fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fewer.core.errors import FewerError, need
from fewer.core.seeding import generator
from fewer.explore.groupings import ActionGrouping

need("gymnasium", extra="control", what="GroupedActions")
import gymnasium  # noqa: E402


@dataclass(frozen=True, eq=False)
class NumberedActions:
    """The actions of a space by number.

    Parameters
    ----------
    axes : tuple of arrays
        What can be chosen on each axis of the space.
    shape : tuple of int
        Of an action, as the environment takes it; empty for a single number.
    dtype : numpy dtype
        Of an action.

    Examples
    --------
    >>> numbered = NumberedActions.of(gymnasium.spaces.Box(-1.0, 1.0, (2,)), bins=2)
    >>> numbered.count, numbered.action(1)
    (4, array([-0.5,  0.5], dtype=float32))
    """

    axes: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(cls, space: gymnasium.Space, bins: int = 8) -> NumberedActions:
        """Number the actions of a space.

        Parameters
        ----------
        space : Discrete, MultiDiscrete or bounded Box
            What an environment takes.
        bins : int, default 8
            How many each axis of a Box is cut into; the middle of a bin stands for it.

        Raises
        ------
        FewerError
            If the space is of another kind, or has no bounds.
        """
        if isinstance(space, gymnasium.spaces.Discrete):
            return cls((np.arange(space.n) + space.start,), (), space.dtype)
        if isinstance(space, gymnasium.spaces.MultiDiscrete):
            axes = tuple(
                np.arange(n) + first for n, first in zip(space.nvec.ravel(), np.ravel(space.start), strict=True)
            )
            return cls(axes, space.nvec.shape, space.dtype)
        if not isinstance(space, gymnasium.spaces.Box) or not space.is_bounded():
            raise FewerError(f"GroupedActions needs Discrete, MultiDiscrete or bounded Box actions; these are {space}")
        if bins < 1:
            raise FewerError(f"GroupedActions: bins must be at least 1; {bins} was given")
        middles = (np.arange(bins) + 0.5) / bins
        low, high = space.low.ravel().astype(float), space.high.ravel().astype(float)
        return cls(tuple(a + (b - a) * middles for a, b in zip(low, high, strict=True)), space.shape, space.dtype)

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(len(axis) for axis in self.axes)

    @property
    def features(self) -> Float[np.ndarray, "actions axes"]:
        """Where each action lies, all axes from 0 to 1: what actions can be merged by."""
        scaled = [np.linspace(0, 1, len(axis)) for axis in self.axes]
        return np.stack(np.meshgrid(*scaled, indexing="ij"), axis=-1).reshape(-1, len(self.axes))

    def action(self, number: int) -> Any:
        """The action of a number, as the environment takes it."""
        place = np.unravel_index(number, [len(axis) for axis in self.axes])
        chosen = [axis[index] for axis, index in zip(self.axes, place, strict=True)]
        return np.array(chosen, dtype=self.dtype).reshape(self.shape)[()]


class GroupedActions(gymnasium.ActionWrapper, gymnasium.utils.RecordConstructorArgs):
    """Show an agent groups in place of actions: its action space is ``Discrete`` with one number for each group.

    An action that the environment says is not possible now (``info["action_mask"]``) is not played; which groups have a
    possible member is then said in the same place.

    Parameters
    ----------
    env : gymnasium.Env
        With Discrete, MultiDiscrete or bounded Box actions.
    grouping : ActionGrouping
        Of its actions, as :class:`NumberedActions` numbers them.  With a row for each state, observations must be
        Discrete.
    bins : int, default 8
        See :meth:`NumberedActions.of`.
    seed : int, default 0
        Decides which members are played; a reset with a seed decides anew.

    Raises
    ------
    FewerError
        If the grouping does not fit the environment, or a group is chosen that has no possible member.

    Examples
    --------
    >>> env = gymnasium.make("Pendulum-v1")
    >>> grouping = ActionGrouping([0, 0, 1, 1, 2, 2])  # of six torques: left, about nothing, right
    >>> grouped = GroupedActions(env, grouping, bins=6)
    >>> grouped.action_space, bool(abs(grouped.action(1)[0]) < 0.7)
    (Discrete(3), True)
    """

    def __init__(self, env: gymnasium.Env, grouping: ActionGrouping, bins: int = 8, seed: int = 0) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, grouping=grouping, bins=bins, seed=seed)
        gymnasium.ActionWrapper.__init__(self, env)
        self.numbered = NumberedActions.of(env.action_space, bins)
        states = len(grouping.labels)
        self._first, seen = 0, env.observation_space
        if states > 1:
            if not isinstance(seen, gymnasium.spaces.Discrete):
                raise FewerError(
                    f"GroupedActions: a partition for each state needs Discrete observations; these are {seen}"
                )
            states, self._first = int(seen.n), int(seen.start)
        grouping.check(states, self.numbered.count, "GroupedActions")
        self.grouping = grouping
        self.action_space = gymnasium.spaces.Discrete(grouping.groups)
        self._rng = generator(seed, "members")
        self._state, self._mask = 0, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        if seed is not None:
            self._rng = generator(seed, "members")
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._look(observation, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play a member of a group."""
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return observation, reward, terminated, truncated, self._look(observation, info)

    def action(self, action: Any) -> Any:
        """A uniform possible member of a group, as the environment takes it."""
        if self._mask is None:
            number = self.grouping.sample_member(np.asarray(action), self._rng, self._state)
        else:
            members = np.flatnonzero(
                (self.grouping.to_group(np.arange(len(self._mask)), self._state) == action) & self._mask
            )
            if not len(members):
                raise FewerError(
                    f"GroupedActions: no action of group {action} is possible now; choose among those of "
                    'info["action_mask"]'
                )
            number = self._rng.choice(members)
        return self.numbered.action(int(number))

    def _look(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if len(self.grouping.labels) > 1:
            self._state = int(observation) - self._first
        mask = info.get("action_mask")
        self._mask = None if mask is None else np.asarray(mask).astype(bool).ravel()
        if self._mask is not None and self._mask.size != self.numbered.count:
            raise FewerError(
                f'GroupedActions: info["action_mask"] has {self._mask.size} entries, and there are {self.numbered.count} '
                "actions"
            )
        possible = self._possible()
        return info if possible is None else {**info, "action_mask": possible.astype(np.int8)}

    def _possible(self) -> Bool[np.ndarray, " groups"] | None:
        """Which groups have a member that is possible now; None if nothing limits them."""
        labels = self.grouping.labels[self._state]
        if self._mask is None and (len(self.grouping.labels) == 1 or self.grouping.members.size[0, self._state].all()):
            return None
        there = labels >= 0 if self._mask is None else (labels >= 0) & self._mask
        return np.bincount(labels[there], minlength=self.grouping.groups) > 0
