"""An agent as a user of Stable-Baselines3 expects it: learn, predict, save, load; any method of the room inside.

An agent is one run of an off-policy loop with an open end: its points lie a fixed number of steps apart, and each call of
``learn`` goes on to the next ones.  So learning a and then b steps is learning a + b, to the bit.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fewer.control.descriptions import describe, rebuild
from fewer.control.environments import Environment, GymEnvironment, gym
from fewer.control.loop import BestKnown, OffPolicy, OffPolicyState
from fewer.control.recording import record
from fewer.control.trained import Form, Scaled, TrainedPolicy
from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import derive
from fewer.core.spec import parse_one

if TYPE_CHECKING:
    import gymnasium

_POINTS = 10**9
"""Of the run, whose end is never reached."""


class Agent:
    """Learn to act in an environment with any method of this room.

    Parameters
    ----------
    env : str, gymnasium.Env, callable or Environment
        ``"Pendulum-v1"``, the spec of a task such as ``"dock-2d(radius=0.05)"``, an environment, which is copied for
        evaluation, a function that makes one, or a task that was built.
    method : str, mapping or OffPolicy, default "sac"
        A spec as in a race, ``"serl(demos='hopper.npz') + adaptive-rr"``, a filling such as ``SERL(demos="hopper.npz")``, or
        a loop.
    seed : int, default 0
        Of everything random.
    eval_freq : int, optional
        Steps from one evaluation to the next; by default so many that the first call of :meth:`learn` has as many as the loop
        has ``points``, which are twenty.  Learning stops at evaluations only.
    **options
        The loop's own fields, such as ``batch``, ``capacity``, ``discount``, ``learning_starts`` and ``episodes``, the last
        being those of an evaluation.

    Notes
    -----
    The run is that of ``loop.learn(task, budget, seed)``, except in what depends on the budget: memory holds ``capacity``
    transitions from the beginning, and an exploration that asks how much of the run is over is told that it has just begun.

    Raises
    ------
    FewerError
        If the environment's spaces do not fit, the method is none of off-policy control, or an option is unknown.

    Examples
    --------
    >>> agent = Agent("Pendulum-v1", "sac(hidden=(16,))", batch=16, episodes=1, eval_freq=60).learn(120)
    >>> action, _ = agent.predict(np.zeros(3), deterministic=True)
    >>> action.shape, [point.spent for point in agent.learn(60).curve]
    ((1,), [60, 120, 180])
    """

    def __init__(
        self,
        env: str | Environment | gymnasium.Env | Callable[[], gymnasium.Env],
        method: str | Mapping[str, Any] | OffPolicy = "sac",
        *,
        seed: int = 0,
        eval_freq: int | None = None,
        **options: Any,
    ) -> None:
        if eval_freq is not None and eval_freq < 1:
            raise FewerError(f"agent: eval_freq is the steps between evaluations; it is {eval_freq}")
        self.loop = _loop(method, options)
        self.env: Environment | None = _environment(env)
        self.method = method if isinstance(method, str) else repr(self.loop)
        self.seed, self.eval_freq = seed, eval_freq
        self._start()

    def _start(self) -> None:
        self._points: list[Point] = []
        self._run: Iterator[Point] | None = None
        self._box: dict[str, OffPolicyState] = {}
        self._goal = 0
        self._checkpoint: Path | None = None
        self._loaded: TrainedPolicy | None = None
        self._loaded_map: Any = None

    # --- learning --------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        *,
        log: str | os.PathLike[str] | None = None,
        progress_bar: bool = False,
        video: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        reset_num_timesteps: bool = False,
    ) -> Agent:
        """Learn so many steps more, up to the evaluation that ends them.

        Parameters
        ----------
        total_timesteps : int
            Steps of the environment (of the gradient, in the loop ``offline``).
        log : path, optional
            A folder for ``progress.csv`` and TensorBoard's event file, or a name that ends in ``.csv`` for the table alone;
            with all that the points of the curve say.
        progress_bar : bool, default False
            Show steps, steps per second and the time left; where there is no terminal, a line at each evaluation.
        video : path, optional
            A folder for a film of one evaluation episode at each evaluation.
        checkpoint : path, optional
            A file for the whole state, at each evaluation.  Where it is there already, learning goes on from it to the bit:
            the same script, started again after it was stopped, does what is missing.  For one that is to learn longer
            than before give ``eval_freq``.
        reset_num_timesteps : bool, default False
            For interchangeability: steps are always counted through.

        Returns
        -------
        Agent
            Itself.

        Raises
        ------
        FewerError
            If nothing can be learned in so few steps, the agent was loaded from a file or its run was broken off, the
            checkpoint is another run's, or something cannot be written.
        Diverged
            If a network becomes NaN.
        """
        from rich.console import Console

        from fewer.race.logs import CurveLog
        from fewer.race.progress import RunProgress

        if self._loaded is not None:
            raise FewerError(
                "agent: a loaded policy has no memory to learn from; give learn() a checkpoint to go on from later"
            )
        if reset_num_timesteps:
            raise FewerError("agent: steps are counted through all calls of learn; make another Agent to begin anew")
        if total_timesteps < 1:
            raise FewerError(f"agent: {total_timesteps} steps teach nothing; give 1 or more")
        with contextlib.ExitStack() as opened:
            logged = None if log is None else opened.enter_context(CurveLog(log))
            run = self._begin(total_timesteps, checkpoint)
            self._goal += total_timesteps
            shown = None
            if progress_bar:
                progress = RunProgress(Console(stderr=True), self._goal, self.loop.unit, lambda: self.num_timesteps)
                shown = opened.enter_context(progress)
            if logged is not None:
                logged.write(self._points)
            # a run that was taken up gives its earlier points first
            while self.num_timesteps < self._goal or len(self._points) < self._box["state"].points:
                point = next(run, None)
                if point is None:
                    raise FewerError(
                        "agent: its run was broken off within a step; begin again, from a checkpoint if there is one"
                    )
                self._points.append(point)
                if logged is not None:
                    logged.write(self._points)
                if shown is not None:
                    shown(self.curve)
                if video is not None and len(self._points) == self._box["state"].points:
                    self.record(Path(video) / f"{point.spent:09d}")
        return self

    def _begin(self, total: int, checkpoint: str | os.PathLike[str] | None) -> Iterator[Point]:
        assert self.env is not None
        place = None if checkpoint is None else Path(checkpoint)
        if self._run is not None:
            if place is not None and place != self._checkpoint:
                kept = f"is kept in {self._checkpoint}" if self._checkpoint is not None else "is not kept"
                raise FewerError(
                    f"agent: its state {kept} since the first call of learn, which decides that; given {place}"
                )
            return self._run
        every = self.eval_freq or -(-total // self.loop.points)
        self.loop.check(self.env, every * _POINTS)
        run = dataclasses.replace(self.loop, points=_POINTS)
        self._checkpoint = place
        self._run = run._points(self.env, every * _POINTS, self.seed, place, self._box)
        return self._run

    @property
    def num_timesteps(self) -> int:
        """Steps so far."""
        if self._loaded is not None:
            return int(self._loaded.about.get("steps", 0))
        return self._box["state"].ledger.spent if self._box else 0

    @property
    def curve(self) -> Curve:
        """All evaluations so far."""
        self._learned()
        return Curve(tuple(self._points))

    def _learned(self) -> None:
        if not self._points:
            raise FewerError("agent: nothing was learned here yet; call learn(total_timesteps) first")

    # --- what was learned ------------------------------------------------------------------------

    @property
    def policy(self) -> TrainedPolicy:
        """The policy as it stands; it goes on learning with the agent."""
        if self._loaded is not None:
            return self._loaded
        self._learned()
        return TrainedPolicy.of(self._box["state"])

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Float[np.ndarray, "..."], None]:
        """Choose actions, as Stable-Baselines3's models do.

        Parameters
        ----------
        observation : array (observations,) or (batch, observations), or a mapping of arrays
            What is seen; the parts of a mapping are put side by side in the order of their names.
        state, episode_start
            For interchangeability; the policy has no memory.
        deterministic : bool, default False
            Take the best known action instead of drawing one.

        Returns
        -------
        action : float array (actions,) or (batch, actions)
            In the environment's units; with an action map, what it takes, such as a chunk of actions.
        state : None
        """
        return self.policy.predict(observation, state, episode_start, deterministic)

    def evaluate(self, episodes: int = 10, seed: int | None = None) -> dict[str, float]:
        """Play episodes without chance in the policy.

        Parameters
        ----------
        episodes : int, default 10
            How many.
        seed : int, optional
            Equal seeds give equal starts; by default they are those of the curve.

        Returns
        -------
        dict
            ``score``, which is what the curve shows, ``return``, ``length`` and ``success``, means over the episodes.
        """
        if episodes < 1:
            raise FewerError(f"agent: {episodes} episodes measure nothing; give 1 or more")
        task, policy = self._task(), BestKnown(self.policy.actor)
        score, measures = task.evaluate(policy, episodes, derive(self.seed, "evaluation") if seed is None else seed)
        return {"score": score, **measures}

    def record(self, path: str | os.PathLike[str], episodes: int = 1, seed: int | None = None) -> Path:
        """Film evaluation episodes.

        Parameters
        ----------
        path : path
            A file that ends in ``.mp4`` (which needs the extra ``video``) or ``.gif``; without an ending it becomes what is
            possible.
        episodes : int, default 1
            How many, one after another.
        seed : int, optional
            Equal seeds give equal starts.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        FewerError
            If the environment does not render.
        """
        start = derive(self.seed, "film") if seed is None else seed
        return record(self._task(), BestKnown(self.policy.actor), path, episodes, start)

    def _task(self) -> Environment:
        """The environment that the policy acts in."""
        if self._loaded is None:
            self._learned()
            return self._box["state"].task
        if self.env is None:
            raise FewerError("agent: it was loaded without an environment; give one: Agent.load(path, env)")
        return self.env if self._loaded_map is None else self._loaded_map.wrap(self.env)

    # --- files -----------------------------------------------------------------------------------

    def policy_module(self) -> Scaled:
        """A torch module of observations to the best known actions, in the environment's units."""
        return self.policy.module()

    def export(self, path: str | os.PathLike[str], form: Form = "torchscript") -> None:
        """Write the policy for use without this library.

        Parameters
        ----------
        path : path
            The file.
        form : {"torchscript", "export"}
            For ``torch.jit.load``, or for ``torch.export.load``.

        Raises
        ------
        FewerError
            If even the policy's best known action is drawn by chance.
        """
        self.policy.export(path, form)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as one file that says how it is built and was learned; memory is not in it.

        Parameters
        ----------
        path : path
            The file, in the safetensors format; its header is JSON.

        Raises
        ------
        FewerError
            If what was learned lies in the environment's action map, or networks were changed while learning.
        """
        policy, about = self.policy, dict(self.policy.about)
        if self._loaded is None:
            assert self.env is not None
            mapped = self.loop.action_map
            if hasattr(mapped, "initialise"):
                raise FewerError(
                    "agent: its actions are noise for a policy that lies in the action map, which a file does not hold; take "
                    "dsrl, whose policy has both"
                )
            about = {
                "method": self.method,
                "env": self.env.name,
                "seed": self.seed,
                "steps": self.num_timesteps,
                "score": self._points[-1].score,
                "action map": describe(mapped),
            }
        policy.save(path, about)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: str | Environment | gymnasium.Env | Callable[[], gymnasium.Env] | None = None,
    ) -> Agent:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        env : optional
            As for a new agent; needed for :meth:`evaluate` and :meth:`record` only.

        Returns
        -------
        Agent
            It predicts and does not learn.

        Raises
        ------
        FewerError
            If the file is no saved policy, or the environment has other spaces.
        """
        policy = TrainedPolicy.load(path)
        made = cls.__new__(cls)
        made._start()
        made.method = str(policy.about.get("method", "unknown"))
        made.seed, made.eval_freq = int(policy.about.get("seed", 0)), None
        made.env = None if env is None else _environment(env)
        made._loaded, made._loaded_map = policy, rebuild(policy.about.get("action map"))
        if made.env is not None:
            task = made._task()
            there, here = (task.observation_size, task.action_size), (policy.observations, len(policy.low))
            if there != here:
                raise FewerError(
                    f"{path} was learned with {here[0]} numbers in an observation and {here[1]} in an action; {task.name} has "
                    f"{there[0]} and {there[1]}"
                )
        return made


def _loop(method: str | Mapping[str, Any] | OffPolicy, options: Mapping[str, Any]) -> OffPolicy:
    """The loop that is meant, with these fields changed."""
    if isinstance(method, str):
        from fewer import compose

        made = compose.loop(method)
    elif isinstance(method, Mapping):
        made = OffPolicy(**method)
    else:
        made = method
    if not isinstance(made, OffPolicy):
        raise FewerError(
            f"agent: {method} is learned by {type(made).__name__}; give a method of off-policy control, such as sac"
        )
    known = [field.name for field in dataclasses.fields(made)]
    if unknown := [name for name in options if name not in known]:
        raise FewerError(f"agent: unknown option {unknown[0]!r}; {nearest(unknown[0], known)}")
    return dataclasses.replace(made, **options)


def _environment(env: str | Environment | gymnasium.Env | Callable[[], gymnasium.Env]) -> Environment:
    """The task that is meant."""
    if isinstance(env, Environment):
        return env
    if isinstance(env, str):
        if not _names_a_task(env):
            return gym(env)
        from fewer import compose

        task = compose.task(env)
        if not isinstance(task, Environment):
            raise FewerError(f"agent: {env} is a {type(task).__name__}, in which nobody acts; give an environment")
        return task
    if hasattr(env, "action_space"):
        made: gymnasium.Env = env  # pyright: ignore[reportAssignmentType]
        name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
        return GymEnvironment(name, lambda: _copy(made, name))
    if callable(env):
        return GymEnvironment(getattr(env, "__name__", type(env).__name__), env)
    raise FewerError(f"agent: {env!r} is no environment; give a name, a gymnasium.Env or a function that makes one")


def _names_a_task(text: str) -> bool:
    from fewer import catalogue

    try:
        return parse_one(text).name in catalogue.parts("task")
    except FewerError:  # names of Gymnasium may have colons and slashes in them
        return False


def _copy(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """The same environment again: as it stands, or by its name."""
    import gymnasium

    try:
        return copy.deepcopy(env)
    except Exception as error:  # whatever it holds that cannot be copied
        with contextlib.suppress(Exception):
            if env.spec is not None:
                return gymnasium.make(env.spec)
        raise FewerError(f"agent: {name} cannot be copied ({error}); give a function that makes it") from error
