"""Tasks of control: environments with continuous actions, several copies of each played at once.

Every episode is started with a seed of its own.  So a run that is resumed brings an environment back to
where it stood by starting the episode again and repeating its actions, and two methods are evaluated
from the same starts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int

from fewer.control.observed import Observed, Part
from fewer.control.stacking import StackedWorlds
from fewer.control.transitions import transitions
from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import derive

if TYPE_CHECKING:
    import gymnasium

    from fewer.control.replay import Batch
    from fewer.demos.demonstrations import Demonstrations


@dataclass(frozen=True)
class Step:
    """What one action of each copy led to.

    Parameters
    ----------
    observations : float array (copies, observations)
        The true successors, also where an episode ended.
    rewards : float array (copies,)
        What it paid.
    terminated, truncated : bool array (copies,)
        Whether the episode ended by itself, or at a time limit.
    success : bool array (copies,)
        Whether the environment calls this a success (``info["success"]`` or ``info["is_success"]``).
    taken : int array (copies,)
        Environment steps that it took: 1, 0 in a copy whose episode was over, and more where one action stands for several.
    done : float array (copies, actions), optional
        What was done in place of the actions asked for, in [-1, 1], where somebody intervened
        (``info["intervene_action"]``).
    """

    observations: Float32[np.ndarray, "copies observations"]
    rewards: Float[np.ndarray, " copies"]
    terminated: Bool[np.ndarray, " copies"]
    truncated: Bool[np.ndarray, " copies"]
    success: Bool[np.ndarray, " copies"]
    taken: Int[np.ndarray, " copies"]
    done: Float[np.ndarray, "copies actions"] | None = None


class Worlds(Protocol):
    """Copies of an environment, with actions in [-1, 1]."""

    copies: int

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Start an episode in the named copies, each with its seed; give their observations, in the order of the names."""
        ...

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """Act in all copies."""
        ...

    def close(self) -> None:
        """Free what they hold."""
        ...


Act = Callable[[Float32[np.ndarray, "copies observations"]], Float[np.ndarray, "copies actions"]]
"""A policy: observations to actions in [-1, 1]."""


class Environment(Task):
    """A task of control.

    Attributes
    ----------
    metric : {"mean return", "success rate"}
        What the score is.
    observation_size, action_size : int
        Numbers in an observation and in an action.
    observed : Observed, optional
        Where images lie in an observation; None where there are none.
    low, high : float array (actions,)
        Bounds of the environment's own actions, to which [-1, 1] is scaled.
    longest : int
        Environment steps that one action takes at most; 1 unless one action stands for several.
    """

    observation_size: int
    action_size: int
    observed: Observed | None = None
    low: Float[np.ndarray, " actions"]
    high: Float[np.ndarray, " actions"]
    longest: int = 1

    @abstractmethod
    def make(self, copies: int) -> Worlds:
        """Make copies to play in."""

    def demonstrations(self, seed: int) -> Demonstrations:
        """What somebody who knows the task did in it.

        Raises
        ------
        FewerError
            If the task has none.
        """
        raise FewerError(f"{self.name} has no demonstrations; give them as demos='file.npz'")

    def transitions(self, demonstrations: Demonstrations, discount: float | None = None) -> Batch:
        """Demonstrations as transitions in the units of this room, see :func:`fewer.control.transitions.transitions`."""
        return transitions(demonstrations, self, discount=discount)

    def random_actions(self, copies: int) -> Float[torch.Tensor, "copies actions"]:
        """What is tried before anything is known, from torch's global generator."""
        return torch.rand(copies, self.action_size) * 2 - 1

    def evaluate(self, act: Act, episodes: int, seed: int) -> tuple[float, dict[str, float]]:
        """Play episodes from starts that depend on the seed alone.

        Parameters
        ----------
        act : callable
            The policy.
        episodes : int
            How many.
        seed : int
            Equal seeds give equal starts.

        Returns
        -------
        score : float
            Mean return, or the share of episodes with a success, by ``metric``.
        measures : dict
            ``return``, ``length`` and ``success``, means over episodes.
        """
        worlds = self.make(episodes)
        try:
            observations = worlds.reset({copy: derive(seed, "start", copy) for copy in range(episodes)})
            gained, length = np.zeros(episodes), np.zeros(episodes)
            success, going = np.zeros(episodes, dtype=bool), np.ones(episodes, dtype=bool)
            while going.any():
                step = worlds.step(act(observations))
                gained += np.where(going, step.rewards, 0)
                length += step.taken
                success |= going & step.success
                going &= ~(step.terminated | step.truncated)
                observations = step.observations
        finally:
            worlds.close()
        measures = {"return": gained.mean(), "length": length.mean(), "success": success.mean()}
        return float(measures["success" if self.metric == "success rate" else "return"]), {
            name: float(value) for name, value in measures.items()
        }


class GymWorlds:
    """Copies of a Gymnasium environment, stepped one after another in this process.

    Parameters
    ----------
    environments : sequence of gymnasium.Env
        With observations that are a Box or a Dict of them, and bounded Box actions.
    """

    def __init__(self, environments: Sequence[gymnasium.Env]) -> None:
        self.environments = list(environments)
        self.copies = len(self.environments)
        space: Any = self.environments[0].action_space
        self._middle = ((space.high + space.low) / 2).ravel().astype(np.float64)
        self._half = ((space.high - space.low) / 2).ravel().astype(np.float64)
        self._space = space
        self._over = np.ones(self.copies, dtype=bool)
        size = sum(map(_size, _boxes(self.environments[0].observation_space).values()))
        self._last = np.zeros((self.copies, size), dtype=np.float32)
        self._steps = np.zeros(self.copies, dtype=np.int64)

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Start episodes."""
        for copy, seed in seeds.items():
            observation, _ = self.environments[copy].reset(seed=seed % 2**31)
            self._last[copy] = self._checked(observation, 0.0, copy)
            self._over[copy] = False
            self._steps[copy] = 0
        return self._last[list(seeds)]

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """Act in all copies; those whose episode is over stay as they are and pay nothing."""
        rewards, terminated, truncated, success = np.zeros(self.copies), *np.zeros((3, self.copies), dtype=bool)
        taken = np.zeros(self.copies, dtype=np.int64)
        own = self._middle + self._half * np.clip(actions, -1, 1)
        instead: np.ndarray | None = None
        for copy, environment in enumerate(self.environments):
            if self._over[copy]:
                terminated[copy] = True
                continue
            action = own[copy].reshape(self._space.shape).astype(self._space.dtype)
            observation, reward, ended, cut, info = environment.step(action)
            self._steps[copy] += 1
            taken[copy] = 1
            self._last[copy] = self._checked(observation, float(reward), copy)
            rewards[copy], terminated[copy], truncated[copy] = float(reward), ended, cut
            success[copy] = bool(info.get("success", info.get("is_success", False)))
            self._over[copy] = ended or cut
            if "intervene_action" in info:
                if instead is None:
                    instead = np.clip(actions, -1, 1)
                given = np.asarray(info["intervene_action"], dtype=np.float64).ravel()
                instead[copy] = np.clip((given - self._middle) / self._half, -1, 1)
        return Step(self._last.copy(), rewards, terminated, truncated, success, taken, instead)

    def close(self) -> None:
        """Close the environments."""
        for environment in self.environments:
            environment.close()

    def _checked(self, observation: Any, reward: float, copy: int) -> Float32[np.ndarray, " observations"]:
        if isinstance(observation, Mapping):
            observation = np.concatenate([np.ravel(observation[name]) for name in sorted(observation)])
        flat = np.asarray(observation, dtype=np.float32).ravel()
        if not (np.isfinite(flat).all() and np.isfinite(reward)):
            what = "observation" if np.isfinite(reward) else "reward"
            environment = self.environments[copy]
            name = environment.spec.id if environment.spec is not None else type(environment).__name__
            raise FewerError(
                f"{name}: the {what} is not finite at step {self._steps[copy]} of an episode of copy {copy}; mend the "
                "environment, or wrap it so that it ends the episode there"
            )
        return flat


@dataclass(frozen=True)
class GymEnvironment(Environment):
    """An environment of Gymnasium, by its name or from a function that makes it.

    Parameters
    ----------
    name : str
        As the user wrote it.
    create : callable
        Makes one copy.
    metric : {"mean return", "success rate"}
        The score; an episode is a success if ``info["success"]`` or ``info["is_success"]`` was true in it.
    stack : int, default 1
        Frames of each image in an observation.
    """

    name: str  # pyright: ignore[reportIncompatibleVariableOverride]
    create: Callable[[], gymnasium.Env]
    metric: str = "mean return"  # pyright: ignore[reportIncompatibleVariableOverride]
    stack: int = 1

    def __post_init__(self) -> None:
        if self.metric not in ("mean return", "success rate"):
            raise FewerError(f"{self.name}: unknown metric {self.metric!r}; choose 'mean return' or 'success rate'")
        environment = self.create()
        try:
            box = need("gymnasium", extra="control", what=self.name).spaces.Box
            seen: Any = environment.observation_space
            done: Any = environment.action_space
            if not isinstance(done, box):
                raise FewerError(
                    f"{self.name}: its actions are {done}, and this room needs a Box of numbers; wrap the environment, or "
                    "see the room explore for discrete worlds"
                )
            if not (np.isfinite(done.low).all() and np.isfinite(done.high).all() and (done.low < done.high).all()):
                raise FewerError(
                    f"{self.name}: its actions are not bounded ({done}); wrap it in gymnasium.wrappers.RescaleAction or "
                    "ClipAction with bounds that make sense"
                )
            boxes = _boxes(seen)
            if wrong := [space for space in boxes.values() if not isinstance(space, box)] or ([] if boxes else [seen]):
                raise FewerError(
                    f"{self.name}: its observations are {seen}, with a {type(wrong[0]).__name__} in them, and a Box of "
                    "numbers or bytes, or a Dict of them, is needed; wrap it in gymnasium.wrappers.FlattenObservation"
                )
            # bytes with two axes or more are an image
            parts = [
                Part(space.shape, image=space.dtype == np.uint8 and len(space.shape) in (2, 3))
                for space in boxes.values()
            ]
            observed = Observed(tuple(parts), self.stack)
            object.__setattr__(self, "observation_size", observed.size)
            object.__setattr__(self, "observed", observed if observed.images else None)
            object.__setattr__(self, "action_size", _size(done))
            object.__setattr__(self, "low", done.low.ravel().astype(np.float64))
            object.__setattr__(self, "high", done.high.ravel().astype(np.float64))
        finally:
            environment.close()

    def fingerprint(self) -> str:
        """By the name and the version of Gymnasium."""
        import gymnasium

        return fingerprint("gym", self.name, self.metric, gymnasium.__version__)

    def make(self, copies: int) -> Worlds:
        """Make copies."""
        worlds = GymWorlds([self.create() for _ in range(copies)])
        return worlds if self.observed is None or self.stack == 1 else StackedWorlds(worlds, self.observed)


def gym(
    id: str,
    metric: str = "mean return",
    horizon: int | None = None,
    observations: Sequence[str] | None = None,
    stack: int = 1,
    **options: Any,
) -> GymEnvironment:
    """Any Gymnasium environment with observations of numbers or images and bounded Box actions.

    An image is a Box of bytes (``uint8``) with three axes, or with two where it is grey; its channels are the last axis, or the
    first where that is evident, being the shortest.

    Parameters
    ----------
    id : str
        ``"Pendulum-v1"``, ``"HalfCheetah-v5"``, or ``"module:Name-v0"`` for one that a module of yours registers.
    metric : {"mean return", "success rate"}
        The score.
    horizon : int, optional
        The most steps of an episode; by default what the environment is registered with.
    observations : sequence of str, optional
        Which parts of a Dict observation to take; by default all.  They are put side by side, in
        the order of their names.
    stack : int, default 1
        How many of the last frames an observation shows of each image.
    **options
        For ``gymnasium.make``.

    Examples
    --------
    >>> task = gym("Pendulum-v1")
    >>> task.observation_size, task.action_size, task.high.tolist()
    (3, 1, [2.0])
    """
    gymnasium = need("gymnasium", extra="control", what=f"the environment {id}")
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error as error:
        raise FewerError(f"gym: {id} is unknown to Gymnasium ({error}); see gymnasium.registry for names") from error
    if horizon is not None and horizon < 1:
        raise FewerError(f"gym: horizon is the most steps of an episode; it is {horizon}")

    def create() -> gymnasium.Env:
        limits = {} if horizon is None else {"max_episode_steps": horizon}
        try:
            environment = gymnasium.make(id, **limits, **options)
        except Exception as error:  # whatever a package of environments raises when something of it is missing
            raise FewerError(f"gym: {id} could not be made: {error}") from error
        space = environment.observation_space
        if not isinstance(space, gymnasium.spaces.Dict):
            if observations is not None:
                raise FewerError(f"gym: {id} observes one array, which has no parts; leave observations= out")
            return environment
        named = sorted(space if observations is None else observations)
        missing = [name for name in named if name not in space.spaces]
        if missing:
            raise FewerError(f"gym: an observation of {id} has no part {missing[0]!r}; it has {', '.join(space)}")
        if len(named) == len(space.spaces):
            return environment
        chosen = gymnasium.spaces.Dict([(name, space[name]) for name in named])
        return gymnasium.wrappers.TransformObservation(
            environment, lambda seen: {name: seen[name] for name in named}, chosen
        )

    settings = {
        "metric": metric,
        "horizon": horizon,
        "observations": observations,
        "stack": None if stack == 1 else stack,
    }
    said = [f"{name}={value!r}" for name, value in settings.items() if value not in (None, "mean return")]
    said += [f"{name}={value!r}" for name, value in sorted(options.items())]
    return GymEnvironment(f"gym({', '.join([repr(id), *said])})", create, metric, stack)


def _boxes(space: Any) -> dict[str, Any]:
    """The parts of a space of observations, in the order in which they lie in a row."""
    if isinstance(getattr(space, "spaces", None), Mapping):
        return {name: space[name] for name in sorted(space.spaces)}
    return {"": space}


def _size(space: Any) -> int:
    return int(np.prod(space.shape))
