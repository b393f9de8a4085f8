"""The user's environment: anything of Gymnasium with Box actions, and demonstrations of it from a file or a data set.

Without demonstrations it is a task of the room control alone; with them, of both rooms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from fewer.control.environments import Environment, GymEnvironment, Worlds
from fewer.control.environments import gym as plain
from fewer.control.observed import Observed
from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations, parts, select_parts, unparts
from fewer.demos.files import load
from fewer.demos.loop import ImitationTask
from fewer.demos.rollouts import Play, Step

Metric = Literal["success rate", "mean return"]


@dataclass(frozen=True, eq=False)
class GymTask(ImitationTask, Environment):
    """A Gymnasium environment with demonstrations: what is imitated, or what is practised in.

    Parameters
    ----------
    id : str
        As Gymnasium registers it.
    given : Demonstrations
        Of this environment.
    metric : {"success rate", "mean return"}
        The score.
    horizon : int
        The most steps of an episode.
    system_noise : float
        Standard deviation of noise on the actions that the environment gets while policies are scored, in units of half
        the range of an action.
    observations : tuple of str, optional
        Parts of an observation that are taken.
    options : dict
        For ``gymnasium.make``.
    stack : int, default 1
        How many of the last frames are seen of each image, where it is practised in; the demonstrations hold one.
    """

    id: str
    given: Demonstrations
    metric: Metric
    horizon: int
    system_noise: float
    observations: tuple[str, ...] | None
    options: dict[str, Any]
    stack: int = 1

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the user wrote it."""
        return f"gym('{self.id}')"

    @property
    def pool(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Episodes that can be had."""
        return len(self.given)

    @cached_property
    def _print(self) -> str:
        version = need("gymnasium", extra="demos", what="task gym").__version__
        said = (self.metric, self.horizon, self.system_noise, self.observations, sorted(self.options.items()), version)
        said += () if self.stack == 1 else (self.stack,)
        return fingerprint(self.id, repr(said), self.given.fingerprint())

    def fingerprint(self) -> str:
        """Name the environment, its options and the demonstrations."""
        return self._print

    def demonstrations(self, seed: int) -> Demonstrations:
        """The demonstrations in a random order."""
        return self.given.keep(generator(seed, "demonstrations").permutation(len(self.given)))

    @cached_property
    def environment(self) -> GymEnvironment:
        """The same without demonstrations, to be practised in."""
        if self.system_noise:
            raise FewerError(f"{self.name}: system_noise is for scoring what was imitated; leave it out to practise")
        keys = self.observations if self.observations is not None else tuple(parts(self.given.observations))
        return plain(self.id, self.metric, self.horizon, None if keys == ("",) else keys, self.stack, **self.options)

    @property
    def observation_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Numbers in an observation."""
        return self.environment.observation_size

    @property
    def observed(self) -> Observed | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where images lie in it."""
        return self.environment.observed

    @property
    def action_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Numbers in an action."""
        return self.environment.action_size

    @property
    def low(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The least actions."""
        return self.environment.low

    @property
    def high(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The greatest actions."""
        return self.environment.high

    def make(self, copies: int) -> Worlds:
        """Copies to practise in."""
        return self.environment.make(copies)

    def play(self, copies: int) -> Play:
        """Copies to act in as was imitated."""
        if self.stack != 1:
            raise FewerError(f"{self.name}: frames are stacked for practising; leave stack out to imitate")
        return GymPlay(
            self.id,
            copies,
            horizon=self.horizon,
            system_noise=self.system_noise,
            observations=self.observations,
            success=self.metric == "success rate",
            **self.options,
        )


class GymPlay:
    """Copies of a Gymnasium environment with Box actions.

    Parameters
    ----------
    id : str
        As Gymnasium registers it.
    copies : int
        How many.
    horizon : int, optional
        The most steps of an episode; by default what the environment is registered with.
    system_noise : float, default 0
        Standard deviation of noise on the actions that the environment gets and that nobody records, in units of half the
        range of an action.
    observations : sequence of str, optional
        Which parts of a Dict observation to take.
    success : bool, default False
        Refuse an environment that does not say ``info["success"]`` or ``info["is_success"]`` by the end of an episode.
    **options
        For ``gymnasium.make``.

    Raises
    ------
    FewerError
        If it cannot be made, or its spaces are not Box (observations may be Dict of Box).
    """

    def __init__(
        self,
        id: str,
        copies: int,
        *,
        horizon: int | None = None,
        system_noise: float = 0.0,
        observations: tuple[str, ...] | None = None,
        success: bool = False,
        **options: Any,
    ) -> None:
        gymnasium = need("gymnasium", extra="demos", what="task gym")
        try:
            self.made = [gymnasium.make(id, **options) for _ in range(copies)]
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise FewerError(f"gym: cannot make {id!r}: {str(error).strip()}") from error
        self.id, self.copies, self.system_noise, self.keys, self.success = (
            id,
            copies,
            system_noise,
            observations,
            success,
        )
        first, box, dictionary = self.made[0], gymnasium.spaces.Box, gymnasium.spaces.Dict
        if not isinstance(first.action_space, box):
            raise FewerError(f"gym: the actions of {id} are {first.action_space}; imitation here needs Box actions")
        self.space = first.observation_space
        inner = list(self.space.values()) if isinstance(self.space, dictionary) else [self.space]
        if not all(isinstance(each, box) for each in inner):
            raise FewerError(f"gym: the observations of {id} are {self.space}; they must be Box, or a Dict of Box")
        self.low, self.high = first.action_space.low, first.action_space.high
        most = first.spec.max_episode_steps if first.spec is not None else None
        if horizon is None and most is None:
            raise FewerError(f"gym: {id} does not say when an episode is cut off; give horizon=")
        self.horizon = min(each for each in (horizon, most) if each is not None)

    def reset(self, seed: int) -> Observations:
        """Begin an episode in every copy."""
        seeds = generator(seed, "starts").integers(2**31, size=self.copies)
        self.noise, self.time = generator(derive(seed, "noise")), 0
        self.over, self.done, self.told = np.zeros((3, self.copies), dtype=bool)
        self.seen = [env.reset(seed=int(each))[0] for env, each in zip(self.made, seeds, strict=True)]
        return self._stacked()

    def step(self, actions: Float[np.ndarray, "copies ..."]) -> Step:
        """Act once in every copy whose episode goes on."""
        rewards, ended = np.zeros(self.copies), np.zeros((2, self.copies), dtype=bool)
        done = np.asarray(actions, dtype=self.low.dtype)
        if self.system_noise:
            half = np.where(np.isfinite(self.high - self.low), (self.high - self.low) / 2, 1.0)
            shaken = done + self.system_noise * half * self.noise.standard_normal(done.shape)
            done = np.clip(shaken, self.low, self.high).astype(self.low.dtype)
        self.time += 1
        for index, env in enumerate(self.made):
            if self.over[index]:
                continue
            self.seen[index], rewards[index], ended[0, index], cut, info = env.step(done[index])
            ended[1, index] = cut or self.time >= self.horizon
            for key in ("success", "is_success"):
                if key in info:
                    self.told[index] = True
                    self.done[index] |= bool(np.any(info[key]))
        self.over |= ended.any(axis=0)
        if self.success and (self.over & ~self.told & ~self.done).any():
            raise FewerError(
                f"gym: {self.id} says neither info['success'] nor info['is_success']; score by metric='mean return'"
            )
        return Step(self._stacked(), rewards, ended[0], ended[1], self.done.copy())

    def _stacked(self) -> Observations:
        first = self.seen[0]
        if not isinstance(first, dict):
            return np.stack(self.seen)
        arrays = {key: np.stack([each[key] for each in self.seen]) for key in first}
        return select_parts(arrays, self.keys, f"gym: {self.id}")


def gym(
    id: str,
    demos: str | None = None,
    metric: Metric = "mean return",
    horizon: int | None = None,
    system_noise: float = 0.0,
    observations: list[str] | None = None,
    subset: str | None = None,
    stack: int = 1,
    **options: Any,
) -> GymEnvironment | GymTask:
    """A Gymnasium environment with Box actions, and demonstrations of how to act in it where there are any.

    Parameters
    ----------
    id : str
        ``"Pendulum-v1"``.
    demos : str, optional
        Where the demonstrations are: a file, a folder, or the id of a Minari data set (see :func:`fewer.demos.load`).
    metric : {"mean return", "success rate"}
        The score; a success is what the environment says in ``info["success"]`` or ``info["is_success"]``.
    horizon : int, optional
        The most steps of an episode; by default what the environment is registered with.
    system_noise : float, default 0
        Noise on the actions while imitated policies are scored, in units of half the range of an action.
    observations : list of str, optional
        Which parts of a Dict observation to take.
    subset : str, optional
        Of an HDF5 file: the name of a mask.
    stack : int, default 1
        How many of the last frames an observation shows of each image, where it is practised in; demonstrations, which hold
        one frame an observation, are stacked alike.
    **options
        For ``gymnasium.make``.

    Raises
    ------
    FewerError
        If either cannot be had, or the demonstrations are not of this environment.

    Examples
    --------
    >>> gym("Pendulum-v1").name
    "gym('Pendulum-v1')"
    """
    if metric not in ("mean return", "success rate"):
        raise FewerError(f"gym: unknown metric {metric!r}; choose 'mean return' or 'success rate'")
    if not system_noise >= 0:
        raise FewerError(f"gym: system_noise is a standard deviation; it is {system_noise}")
    keys = None if observations is None else tuple(observations)
    if demos is None:
        if system_noise or subset is not None:
            raise FewerError("gym: system_noise and subset are for imitation, which needs demos='file.npz'")
        return plain(id, metric, horizon, keys, stack, **options)
    given = load(demos, observations=keys, subset=subset)
    play = GymPlay(id, 1, horizon=horizon, observations=keys, **options)
    _check_match(given, play)
    task = GymTask(id, given, metric, play.horizon, system_noise, keys, options, stack)
    if stack != 1:
        task.environment  # noqa: B018 (refuses what shows no images)
    return task


def _check_match(given: Demonstrations, play: GymPlay) -> None:
    if given.actions.shape[1:] != play.low.shape or given.discrete:
        kind = "numbered" if given.discrete else f"of shape {given.actions.shape[1:]}"
        raise FewerError(
            f"gym: actions in {given.name} are {kind}, those of {play.id} of shape {play.low.shape}; these are "
            "demonstrations of something else"
        )
    seen, shown = parts(given.observations), parts(unparts(dict(parts(play.reset(0)))))
    wrong = [key for key in {**seen, **shown} if key not in seen or key not in shown]
    if wrong:
        where = play.id if wrong[0] in seen else given.name
        part = repr(wrong[0]) if wrong[0] else "an observation of one array"
        raise FewerError(f"gym: {where} lacks {part}; name the parts that both have with observations=[…]")
    for key, array in seen.items():
        if array.shape[1:] != shown[key].shape[1:]:
            raise FewerError(
                f"gym: observations{f'[{key!r}]' if key else ''} in {given.name} have shape {array.shape[1:]}, those of "
                f"{play.id} {shown[key].shape[1:]}; these are demonstrations of something else"
            )
