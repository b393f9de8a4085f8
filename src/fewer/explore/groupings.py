"""Partitions of a set of actions: what belongs to which group, families of coarser and coarser ones, and plain choices.

A partition may differ from state to state, and a state may lack some actions.  Where groups are learned about, each
sample is of a member drawn uniformly; what a group does is then what playing a uniform member of it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from fewer.explore.generative import Account


@dataclass(frozen=True, eq=False)
class Members:
    """Who is in which group, for many runs at once.

    Parameters
    ----------
    labels : int array (runs or 1, states or 1, actions)
        Group of each action, -1 where a state does not have the action; an axis of length 1 stands for all.
    groups : int
        How many groups there are; some may be empty in some states.
    """

    labels: Int[np.ndarray, "runs states actions"]
    groups: int

    @cached_property
    def size(self) -> Int[np.ndarray, "runs states groups"]:
        """How many members each group has."""
        runs, states, _ = self.labels.shape
        # one bin more than groups, in front, for the actions that a state does not have
        place = np.arange(runs * states).reshape(runs, states, 1) * (self.groups + 1) + self.labels + 1
        counted = np.bincount(place.ravel(), minlength=runs * states * (self.groups + 1))
        return counted.reshape(runs, states, -1)[..., 1:]

    @cached_property
    def _order(self) -> tuple[Int[np.ndarray, "runs states actions"], Int[np.ndarray, "runs states groups"]]:
        order = np.argsort(self.labels, axis=-1, kind="stable")
        absent = (self.labels < 0).sum(axis=-1, keepdims=True)
        return order, absent + self.size.cumsum(axis=-1) - self.size

    def of(self, states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"]) -> Int[np.ndarray, "runs n"]:
        """Group of each action."""
        return self.labels.reshape(-1)[self._row(states) * self.labels.shape[-1] + actions]

    def draw(
        self, states: Int[np.ndarray, "runs n"], groups: Int[np.ndarray, "runs n"], rng: np.random.Generator
    ) -> Int[np.ndarray, "runs n"]:
        """A uniform member of each group; the groups must not be empty."""
        row = self._row(states)
        order, first = (each.reshape(-1) for each in self._order)
        cell = row * self.groups + groups
        place = (rng.random(states.shape) * self.size.reshape(-1)[cell]).astype(np.int64)
        return order[row * self.labels.shape[-1] + first[cell] + place]

    def play(self, chosen: Int[np.ndarray, "runs states"]) -> Float[np.ndarray, "runs states actions"]:
        """The policy that plays a uniform member of the chosen group of each state."""
        member = self.labels == chosen[..., None]
        return member / member.sum(axis=-1, keepdims=True)

    def _row(self, states: Int[np.ndarray, "runs n"]) -> Int[np.ndarray, "runs n"]:
        """Which of all rows of labels, whether or not runs and states share them."""
        runs, rows, _ = self.labels.shape
        run = np.arange(len(states))[:, None] % runs * rows
        return run + states if rows > 1 else run


@dataclass(frozen=True, eq=False)
class ActionGrouping:
    """A partition of the actions into groups, the same for all states or one for each.

    Parameters
    ----------
    labels : int array (actions,) or (states, actions)
        Group of each action, numbered from 0; -1 where a state does not have the action.

    Raises
    ------
    FewerError
        If a group number is left out (an empty group), an action is in no group, or a state has no action.

    Examples
    --------
    >>> grouping = ActionGrouping([0, 0, 1, 1, 1])
    >>> grouping.groups, grouping.to_group(3).item()
    (2, 1)
    >>> grouping.sample_member(0, np.random.default_rng(0)).item() in (0, 1)
    True
    """

    labels: Shaped[Any, "..."]

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim not in (1, 2) or 0 in labels.shape:
            raise FewerError(
                f"grouping: labels must be (actions,) or (states, actions) and not empty; their shape is {labels.shape}"
            )
        if not (np.issubdtype(labels.dtype, np.number) and np.array_equal(labels, labels // 1)):
            raise FewerError(f"grouping: labels must be whole numbers, one for each action; given {labels.dtype} ones")
        labels = np.atleast_2d(labels).astype(np.int64)
        if labels.min() < -1:
            raise FewerError(f"grouping: labels must be group numbers from 0, or -1; {labels.min()} was given")
        none = (labels < 0).all(axis=1)
        if none.any():
            raise FewerError(f"grouping: state {int(none.argmax())} has no action; each state needs one")
        nowhere = (labels < 0).all(axis=0)
        if nowhere.any():
            raise FewerError(
                f"grouping: action {int(nowhere.argmax())} is in no group ({int(nowhere.sum())} such actions); "
                "a partition covers all actions"
            )
        empty = np.setdiff1d(np.arange(labels.max() + 1), labels)
        if len(empty):
            raise FewerError(
                f"grouping: group {empty[0]} of {labels.max() + 1} is empty; number the groups without gaps"
            )
        object.__setattr__(self, "labels", labels)

    @classmethod
    def of(cls, names: Sequence[Any]) -> ActionGrouping:
        """Make groups of equal names.

        Examples
        --------
        >>> ActionGrouping.of(["left", "right", "left"]).labels.tolist()
        [[0, 1, 0]]
        """
        return cls(np.unique(np.asarray(names), return_inverse=True)[1])

    @property
    def actions(self) -> int:
        """How many actions there are."""
        return self.labels.shape[1]

    @cached_property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.labels.max()) + 1

    @cached_property
    def members(self) -> Members:
        """The same, for many runs at once."""
        return Members(self.labels[None], self.groups)

    @cached_property
    def shared(self) -> float:
        """Which share of the pairs of a state and an action has company in its group."""
        return float((self.members.size[self.members.size > 1]).sum() / self.members.size.sum())

    def check(self, states: int, actions: int, what: str) -> None:
        """Refuse a world of other sizes.

        Raises
        ------
        FewerError
            If the partition is of another number of actions, or has a row for each of another number of states.
        """
        if self.actions != actions or len(self.labels) not in (1, states):
            raise FewerError(
                f"{what}: the grouping is of {self.actions} actions"
                + (f" in {len(self.labels)} states" if len(self.labels) > 1 else "")
                + f", and there are {actions} actions in {states} states"
            )

    def to_group(self, actions: Any, states: Any = 0) -> Int[np.ndarray, "..."]:
        """Group of each action in its state; -1 if the state does not have it.

        Raises
        ------
        FewerError
            If there is no such action or state.
        """
        actions = _checked(actions, self.actions, "actions")
        return self.labels[self._rows(states), actions]

    def sample_member(self, groups: Any, rng: np.random.Generator, states: Any = 0) -> Int[np.ndarray, "..."]:
        """A uniform member of each group.

        Raises
        ------
        FewerError
            If there is no such group or state, or the group has no member in that state.
        """
        groups, states = np.broadcast_arrays(_checked(groups, self.groups, "groups"), self._rows(states))
        empty = self.members.size[0, states, groups] == 0
        if empty.any():
            raise FewerError(f"grouping: group {groups[empty][0]} has no member in state {states[empty][0]}")
        return self.members.draw(states.reshape(1, -1), groups.reshape(1, -1), rng).reshape(groups.shape)

    def _rows(self, states: Any) -> Int[np.ndarray, "..."]:
        if len(self.labels) == 1:  # the same in all states
            return np.zeros_like(np.asarray(states))
        return _checked(states, len(self.labels), "states")

    def allowed(self, mask: Bool[np.ndarray, "states actions"]) -> ActionGrouping:
        """The same groups, without the actions that a state does not have.

        Parameters
        ----------
        mask : bool array (states, actions)
            Whether a state has an action.
        """
        if mask.shape[1] != self.actions or len(self.labels) not in (1, len(mask)):
            raise FewerError(
                f"grouping: the mask is {mask.shape}, but the partition is of {self.actions} actions"
                + (f" in {len(self.labels)} states" if len(self.labels) > 1 else "")
            )
        labels = np.where(mask, self.labels, -1)
        none = (labels < 0).all(axis=1)
        if none.any():
            raise FewerError(f"grouping: the mask leaves state {int(none.argmax())} without an action")
        # groups that are left nowhere are dropped, so that no number stands for an empty group
        _, renumbered = np.unique(labels, return_inverse=True)
        return _unchecked(renumbered.reshape(labels.shape) - (labels.min() < 0))


def _checked(given: Any, count: int, what: str) -> Int[np.ndarray, "..."]:
    given = np.asarray(given)
    if not (np.issubdtype(given.dtype, np.integer) and ((given >= 0) & (given < count)).all()):
        raise FewerError(f"grouping: {what} are whole numbers from 0 to {count - 1}; {given} was given")
    return given


def _unchecked(labels: Int[np.ndarray, "states actions"]) -> ActionGrouping:
    """A partition of what is left under a mask, which may lack an action everywhere."""
    made = object.__new__(ActionGrouping)
    object.__setattr__(made, "labels", labels)
    return made


# --- families --------------------------------------------------------------------------------------------------------


def neighbours(actions: int, groups: int) -> ActionGrouping:
    """Groups of neighbouring action numbers, of sizes that differ by one at most.

    Examples
    --------
    >>> neighbours(7, 3).labels.tolist()
    [[0, 0, 0, 1, 1, 2, 2]]
    """
    if not 1 <= groups <= actions:
        raise FewerError(f"grouping: {actions} actions make 1 to {actions} groups; {groups} were asked for")
    return ActionGrouping(np.arange(actions) * groups // actions)


def halved(actions: int, levels: Sequence[int] = ()) -> tuple[ActionGrouping, ...]:
    """Partitions of neighbouring action numbers, from coarse to fine.

    Parameters
    ----------
    actions : int
        How many.
    levels : sequence of int, optional
        Numbers of groups; by default 1, 2, 4 and so on, and all, which are nested.

    Examples
    --------
    >>> [each.labels.tolist()[0] for each in halved(3)]
    [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    """
    return tuple(neighbours(actions, groups) for groups in _checked_levels(levels, actions, actions))


def merged(features: Float[Any, "actions dimensions"], levels: Sequence[int] = ()) -> tuple[ActionGrouping, ...]:
    """Nested partitions, by merging the two groups that spread least together, again and again (Ward's method).

    Of more than 4,096 actions so many clusters are made first, by k-means, and those are merged; there may be fewer where
    features are equal, and levels between that and all actions then have as many groups as there are clusters.

    Parameters
    ----------
    features : float array (actions, dimensions) or (states, actions, dimensions)
        What is known of each action; with an axis of states, each state gets its own partition.
    levels : sequence of int, optional
        Numbers of groups; by default 1, 2, 4 and so on, and all.

    Returns
    -------
    tuple of ActionGrouping
        From coarse to fine; each one splits groups of the one before.

    Raises
    ------
    FewerError
        If features are missing or of the wrong shape, or the levels are not between 1 and all.

    Examples
    --------
    >>> [each.labels.tolist()[0] for each in merged([[0.0], [0.1], [5.0]])]
    [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    """
    table = np.asarray(features, dtype=float)
    if table.ndim not in (2, 3) or 0 in table.shape:
        raise FewerError(
            f"grouping: features must be (actions, dimensions) or (states, actions, dimensions) and not empty; "
            f"their shape is {table.shape}"
        )
    if not np.isfinite(table).all():
        action = np.argwhere(~np.isfinite(table))[0][-2]
        raise FewerError(
            f"grouping: the features of action {action} are not all finite; fill in or drop what is missing"
        )
    actions = table.shape[-2]
    wanted = _checked_levels(levels, actions, min(actions, _MOST))
    found = [_merged(each, wanted) for each in table.reshape(-1, *table.shape[-2:])]
    return tuple(ActionGrouping(np.stack([labels[level] for labels in found])) for level in range(len(wanted)))


_MOST = 4096  # actions of which all pairs are compared: their distances take 67 MB


def _merged(table: Float[np.ndarray, "actions dimensions"], wanted: Sequence[int]) -> list[Int[np.ndarray, " actions"]]:
    from scipy.cluster.hierarchy import cut_tree, linkage

    actions, cluster = len(table), np.arange(len(table))
    if actions > _MOST:
        from sklearn.cluster import MiniBatchKMeans

        made = MiniBatchKMeans(_MOST, max_iter=20, random_state=0).fit(table)
        used, cluster = np.unique(made.predict(table), return_inverse=True)
        table = np.asarray(made.cluster_centers_)[used]
    below = [groups for groups in wanted if groups < len(table)]
    cut = cut_tree(linkage(table, "ward"), n_clusters=below)[cluster] if below else np.zeros((actions, 0), dtype=int)
    return [*cut.T, *(np.arange(actions) if groups == actions else cluster for groups in wanted[len(below) :])]


def _checked_levels(levels: Sequence[int], actions: int, most: int) -> tuple[int, ...]:
    """Numbers of groups in increasing order, or the usual ones where none are given."""
    usual = {2**power for power in range(actions.bit_length()) if 2**power < most} | {actions}
    wanted = tuple(sorted(set(levels) or usual))
    if wanted[0] < 1 or wanted[-1] > actions:
        raise FewerError(f"grouping: {actions} actions make 1 to {actions} groups; levels {tuple(levels)} were given")
    return wanted


# --- plain choices ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ungrouped:
    """Every action is a group of its own."""

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for all copies."""
        return [ActionGrouping(np.arange(account.actions))]


@dataclass(frozen=True)
class OneGroup:
    """All actions are alike: nothing is to be learned, and any action is played."""

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for all copies."""
        return [ActionGrouping(np.zeros(account.actions, dtype=np.int64))]


@dataclass(frozen=True)
class NeighbourGroups:
    """Neighbouring action numbers are alike, as the bins of a discretised axis are.

    Parameters
    ----------
    groups : int, default 8
        How many.
    """

    groups: int = 8

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for all copies."""
        return [neighbours(account.actions, self.groups)]


@dataclass(frozen=True)
class RandomGroups:
    """Groups drawn at random, of sizes that differ by one at most.

    Parameters
    ----------
    groups : int, default 8
        How many.
    """

    groups: int = 8

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for each copy."""
        plain = neighbours(account.actions, self.groups).labels[0]
        return [ActionGrouping(each) for each in account.rng.permuted(np.tile(plain, (account.runs, 1)), axis=1)]


@dataclass(frozen=True)
class GivenGroups:
    """A partition that is known.

    Parameters
    ----------
    labels : sequence of int, optional
        The group of each action; with a sequence for each state, in that state.  By default the partition that the task
        brings.
    """

    labels: tuple[Any, ...] | list[Any] | None = None

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for all copies."""
        if self.labels is not None:
            return [ActionGrouping(np.asarray(self.labels))]
        if account.groups is None:
            raise FewerError(
                "given-groups: this task brings no partition; give labels=, or add groups to the task's file"
            )
        return [account.groups]
