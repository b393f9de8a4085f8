"""Whole episodes that somebody else played in a finite world, for agents that learn from them before their first own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from fewer.explore.worlds import Episodic


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Episodes as arrays; all runs may share one set (length 1 in the first axis).

    Parameters
    ----------
    states : int array (runs, episodes, horizon + 1)
        The last one is the state after the last action; -1 where it is not known.
    actions : int array (runs, episodes, horizon)
        What was done; -1 from where an episode was over.
    rewards : float array (runs, episodes, horizon)
        What it paid; 0 where it was over.
    """

    states: Int[np.ndarray, "runs episodes horizon+1"]
    actions: Int[np.ndarray, "runs episodes horizon"]
    rewards: Float[np.ndarray, "runs episodes horizon"]

    def __post_init__(self) -> None:
        shape = self.actions.shape
        if len(shape) != 3 or self.rewards.shape != shape or self.states.shape != (*shape[:2], shape[2] + 1):
            raise FewerError(
                "trajectories: actions and rewards must be (runs, episodes, horizon) and states one longer; they are "
                f"{shape}, {self.rewards.shape} and {self.states.shape}"
            )
        if not np.isfinite(self.rewards).all():
            raise FewerError("trajectories: a reward is NaN or infinite; leave that episode out")

    def __len__(self) -> int:
        return self.actions.shape[1]

    def check(self, world: Episodic) -> None:
        """Say what cannot be of a world.

        Parameters
        ----------
        world : Episodic
            In which they are said to have been played.

        Raises
        ------
        FewerError
            If they are longer or shorter than the world's episodes, or have other states, actions or rewards.
        """
        if self.actions.shape[2] != world.horizon:
            raise FewerError(
                f"{world.name}: demonstrations have {self.actions.shape[2]} steps and the horizon is {world.horizon}; cut "
                "them, or fill up actions with -1"
            )
        place = self.played
        for what, values, count in (
            ("state", self.states[..., :-1][place], world.states),
            ("state", self.states[self.states != -1], world.states),
            ("action", self.actions[place], world.actions),
        ):
            wrong = values[(values < 0) | (values >= count)]
            if len(wrong):
                raise FewerError(
                    f"{world.name}: demonstrations have the {what} {wrong[0]}; the world has {count}, counted from 0"
                )
        low, high = world.rewards
        wrong = self.rewards[place & ((self.rewards < low) | (self.rewards > high)) & (self.rewards != 0)]
        if len(wrong):  # 0 is also what stands where a file does not tell rewards
            raise FewerError(
                f"{world.name}: demonstrations have the reward {wrong[0]:g}, outside the declared [{low:g}, {high:g}]; "
                "rescale them, or declare another range"
            )

    @property
    def played(self) -> Bool[np.ndarray, "runs episodes horizon"]:
        """Where something was done."""
        return self.actions >= 0


@dataclass(frozen=True, eq=False)
class Expert:
    """Somebody who plays some episodes before an agent begins, other ones for each run.

    Parameters
    ----------
    policy : float array (horizon, states, actions)
        What the expert does.
    episodes : int
        How many are shown.
    """

    policy: Float[np.ndarray, "horizon states actions"]
    episodes: int

    def check(self, world: Episodic) -> None:
        """Say what cannot be of a world."""
        shape = (world.horizon, world.states, world.actions)
        if self.policy.shape != shape:
            raise FewerError(
                f"{world.name}: the expert's policy must be (horizon, states, actions), {shape}; it is {self.policy.shape}"
            )
        if not (self.policy >= 0).all() or not np.allclose(self.policy.sum(axis=-1), 1) or self.episodes < 0:
            raise FewerError(
                f"{world.name}: the expert's policy must be probabilities of actions, and the number of episodes not negative"
            )


def collect(
    world: Episodic,
    policy: Float[np.ndarray, "#runs horizon states actions"],
    episodes: int,
    runs: int,
    rng: np.random.Generator,
) -> Trajectories:
    """Play a policy in a world.

    Parameters
    ----------
    world : Episodic
        Where.
    policy : float array (runs, horizon, states, actions)
        One for all runs where the first axis has length 1.
    episodes : int
        How many for each run.
    runs : int
        Runs.
    rng : numpy Generator
        Of the world and of the actions.

    Examples
    --------
    >>> from fewer.explore.worlds import riverswim
    >>> right = np.broadcast_to(np.eye(2)[1], (1, 20, 6, 2))
    >>> collect(riverswim(), right, episodes=3, runs=2, rng=np.random.default_rng(0)).actions.shape
    (2, 3, 20)
    """
    from fewer.explore.loop import play_episode

    if episodes == 0:
        shape = (runs, 0, world.horizon)
        return Trajectories(np.zeros((runs, 0, world.horizon + 1), int), np.zeros(shape, int), np.zeros(shape))
    # all episodes of all runs at once, as copies of their own
    each = np.repeat(np.broadcast_to(policy, (runs, *policy.shape[1:])), episodes, axis=0)
    played = play_episode(world.play(runs * episodes, rng), each, world.horizon, rng)
    split = [array.reshape(runs, episodes, -1) for array in (played.states, played.actions, played.rewards)]
    return Trajectories(*split)


def read(path: str | os.PathLike[str], states: int, actions: int, horizon: int, end: int | None = None) -> Trajectories:
    """Demonstrations of numbered states and actions, from any file that :func:`fewer.demos.files.load` understands.

    Parameters
    ----------
    path : path
        NPZ, HDF5, or a Minari data set.
    states, actions, horizon : int
        Sizes of the world they were made in.
    end : int, optional
        The state that stands for whatever comes after the world has ended an episode.

    Raises
    ------
    FewerError
        If observations or actions are not numbers of states and actions, an episode is longer than the horizon, or
        nothing says where an episode led.
    """
    from fewer.demos.demonstrations import parts
    from fewer.demos.files import load

    given = load(path)
    seen = parts(given.observations)
    if len(seen) != 1:
        raise FewerError(f"{given.name}: observations have the parts {', '.join(seen)}; a finite world has one number")
    column = next(iter(seen.values())).reshape(given.steps, -1)
    if column.shape[1] != 1 or not np.array_equal(column, np.round(column)):
        raise FewerError(
            f"{given.name}: observations must be numbers of states; they are {seen[next(iter(seen))].shape[1:]}"
        )
    if not given.discrete:
        raise FewerError(f"{given.name}: actions must be numbers of actions; they are real")
    at, done = column[:, 0].astype(np.int64), given.actions.reshape(-1).astype(np.int64)
    for what, values, count in (("state", at, states), ("action", done, actions)):
        if values.min() < 0 or values.max() >= count:
            wrong = values[(values < 0) | (values >= count)][0]
            raise FewerError(f"{given.name}: there is no {what} {wrong}; the world has {count}, counted from 0")
    if given.lengths.max() > horizon:
        episode = int(given.lengths.argmax())
        raise FewerError(
            f"{given.name}: episode {episode} has {given.lengths[episode]} steps and the horizon is {horizon}; cut it, or "
            "lengthen the horizon"
        )
    step = np.arange(given.steps) - np.repeat(given.offsets[:-1], given.lengths)
    place = (given.episode_of_step(), step)
    visited = np.zeros((len(given), horizon + 1), dtype=np.int64)
    acted = np.full((len(given), horizon), -1, dtype=np.int64)
    paid = np.zeros((len(given), horizon))
    visited[place], acted[place] = at, done
    if given.rewards is not None:
        paid[place] = given.rewards
    following, known = given.next_observations(np.arange(given.steps))
    following = np.array(next(iter(parts(following).values()))).reshape(-1).astype(np.int64)
    following[~known] = -1  # where the last action led is not said: nothing is learned of it but that it was taken
    if end is not None and given.terminations is not None:
        following[given.terminations] = end
    visited[place[0], step + 1] = following
    # an episode that is over stays where it ended
    for later in range(1, horizon + 1):
        visited[:, later] = np.where(given.lengths < later, visited[:, later - 1], visited[:, later])
    return Trajectories(visited[None], acted[None], paid[None])
