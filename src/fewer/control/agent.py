"""An agent as a user of Stable-Baselines3 expects it: learn, predict, save, load; any method of the room inside.

An agent is one run of an off-policy loop with an open end: its points lie a fixed number of steps apart, and each call of
``learn`` goes on to the next ones.  So learning a and then b steps is learning a + b, to the bit; and so it is where a file lies
between them that holds the memory, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fewer.control import agent_files
from fewer.control.agent_files import Begun
from fewer.control.agent_inputs import environment_of, loop_of, whole
from fewer.control.descriptions import describe, rebuild
from fewer.control.environments import Environment
from fewer.control.exported import Form
from fewer.control.loop import BestKnown, OffPolicy
from fewer.control.open_run import OpenRun
from fewer.control.recording import check_renders, record
from fewer.control.trained import Scaled, TrainedPolicy
from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.core.files import segments_of
from fewer.core.seeding import derive

if TYPE_CHECKING:
    import gymnasium


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
        if eval_freq is not None:
            eval_freq = whole(eval_freq)
            if eval_freq is None or eval_freq < 1:
                raise FewerError(f"agent: eval_freq is the steps between evaluations; it is {eval_freq}")
        if not isinstance(seed, int | np.integer):
            raise FewerError(f"agent: the seed is a whole number, from which all chance follows; it is {seed!r}")
        self._loop: OffPolicy | None = loop_of(method, options)
        self.env: Environment | None = environment_of(env)
        self.method = method if isinstance(method, str) else repr(self.loop)
        self.seed, self.eval_freq = seed, eval_freq
        self._run: OpenRun | None = None
        # until it learns on: what a file had, and where its memory lies
        self._loaded: TrainedPolicy | None = None
        self._begun: Begun | None = None
        self._folder: Path | None = None

    @property
    def loop(self) -> OffPolicy:
        """The method, as it learns here."""
        if self._loop is None:
            raise FewerError(
                "agent: the file does not say how its method is built, which has parts of your own; give it: "
                "Agent.load(path, env, method)"
            )
        return self._loop

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

        An agent from a file goes on where it was saved, and after an interruption from where that came.

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
            For interchangeability: steps are always counted through, those before a file included.

        Returns
        -------
        Agent
            Itself.

        Raises
        ------
        FewerError
            If nothing can be learned in so few steps, the agent was loaded without an environment or from a file that does
            not fit it, the checkpoint is another run's, or something cannot be written.
        Diverged
            If a network becomes NaN.
        """
        from rich.console import Console

        from fewer.race.logs import CurveLog
        from fewer.race.progress import RunProgress

        if reset_num_timesteps:
            raise FewerError("agent: steps are counted through all calls of learn; make another Agent to begin anew")
        steps = whole(total_timesteps)
        if steps is None or steps < 1:
            raise FewerError(f"agent: {total_timesteps!r} steps teach nothing; give 1 or more")
        if video is not None and self.env is not None:
            check_renders(self.env)
        with contextlib.ExitStack() as opened:
            logged = None if log is None else opened.enter_context(CurveLog(log))
            run = self._going(steps, checkpoint)
            run.ask(steps)
            shown = None
            if progress_bar:
                progress = RunProgress(Console(stderr=True), run.goal, run.loop.unit, lambda: self.num_timesteps)
                shown = opened.enter_context(progress)
            if logged is not None:
                logged.write(run.points)
            for point in run.onwards():
                if logged is not None:
                    logged.write(run.points)
                if shown is not None:
                    shown(self.curve)
                if video is not None and run.newest:
                    self.record(Path(video) / f"{point.spent:09d}")
        return self

    def _going(self, total: int, checkpoint: str | os.PathLike[str] | None) -> OpenRun:
        """The run, which the first call begins."""
        place = None if checkpoint is None else Path(checkpoint)
        if self._run is not None:
            if place is not None and place != self._run.checkpoint:
                kept = f"is kept in {self._run.checkpoint}" if self._run.checkpoint is not None else "is not kept"
                raise FewerError(
                    f"agent: its state {kept} since the first call of learn, which decides that; given {place}"
                )
            return self._run
        if self._loaded is not None and self._begun is None:
            raise FewerError(
                "agent: the file holds a policy alone, and no run to go on with; make another Agent to learn"
            )
        if self.env is None:
            raise FewerError("agent: it was loaded without an environment; give one to learn in: Agent.load(path, env)")
        every = self.eval_freq or -(-total // self.loop.points)
        self._run = OpenRun(self.loop, self.env, every, self.seed, place, self._begun)
        self._loaded = self._begun = None
        self.eval_freq = every
        return self._run

    @property
    def num_timesteps(self) -> int:
        """Steps so far."""
        if self._loaded is not None:
            return int(self._loaded.about.get("steps", 0))
        return self._run.spent if self._run is not None else 0

    @property
    def curve(self) -> Curve:
        """All evaluations so far."""
        return Curve(self._begun.points if self._begun is not None else tuple(self._learned().points))

    def _learned(self) -> OpenRun:
        if self._run is None or not self._run.points:
            raise FewerError("agent: nothing was learned here yet; call learn(total_timesteps) first")
        return self._run

    # --- what was learned ------------------------------------------------------------------------

    @property
    def policy(self) -> TrainedPolicy:
        """The policy as it stands; it goes on learning with the agent."""
        if self._loaded is not None:
            return self._loaded
        return TrainedPolicy.of(self._learned().state)

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
            return self._learned().state.task
        if self.env is None:
            raise FewerError("agent: it was loaded without an environment; give one: Agent.load(path, env)")
        mapped = rebuild(self._loaded.about.get("action map"))
        return self.env if mapped is None else mapped.wrap(self.env)

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

    def save(self, path: str | os.PathLike[str], replay: bool = False) -> None:
        """Write the agent as one file that says how it is built and was learned, so that it predicts and goes on learning.

        Networks, optimisers, counters and the curve are in it, and random streams follow from the seed and the counters.

        Parameters
        ----------
        path : path
            The file, in the safetensors format; its header is JSON.
        replay : bool, default False
            Keep the memory, too, in the folder ``….segments`` beside the file, of which a second save writes only what is
            new.  Then learning on from the file is learning on without it, to the bit.

        Raises
        ------
        FewerError
            If what was learned lies in the environment's action map, or networks were changed while learning.
        """
        policy, about, begun = self.policy, dict(self.policy.about), self._begun
        if self._loaded is None:
            run = self._learned()
            mapped = run.loop.action_map
            if hasattr(mapped, "initialise"):
                raise FewerError(
                    "agent: its actions are noise for a policy that lies in the action map, which a file does not hold; take "
                    "dsrl, whose policy has both"
                )
            about = {
                "method": self.method,
                "env": run.env.name,
                "seed": self.seed,
                "steps": run.spent,
                "score": run.points[-1].score,
                "action map": describe(mapped),
            }
            begun = run.begun()
        begun = None if begun is None else begun.with_memory(replay)
        agent_files.save(path, policy, about, begun)
        if self._begun is not None and segments_of(path) == self._folder:
            self._begun = begun  # its memory lay in the file that was written over

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: str | Environment | gymnasium.Env | Callable[[], gymnasium.Env] | None = None,
        method: str | Mapping[str, Any] | OffPolicy | None = None,
        **options: Any,
    ) -> Agent:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        env : optional
            As for a new agent; needed for all but :meth:`predict`.
        method : optional
            As for a new agent; needed only where parts of it are your own, which the file cannot describe.
        **options
            The loop's own fields where they are to be others from now on, such as ``batch`` or ``learning_starts``.

        Returns
        -------
        Agent
            It predicts, and :meth:`learn` goes on where it was saved, counting steps and evaluations on.

        Notes
        -----
        If memory was saved, going on is as if there had been no file: an episode in progress is brought back by repeating its
        actions.  If not, or in another environment, episodes begin anew.

        Without its memory, the policy first acts unchanged to fill an empty one, for ``learning_starts`` steps or for as many
        as a batch has, if that is more; demonstrations that a method had put there are not put there again.  Learning from a
        few steps at once would spoil what critics know: where values begin to run away, give a longer
        ``learning_starts``, such as 5000.

        Raises
        ------
        FewerError
            If the file is no saved agent, the environment has other spaces, or an option is unknown.
        """
        given = None if method is None else loop_of(method, {})
        task = None if env is None else environment_of(env)
        seeing = given if given is None or task is None else given._seeing(given._mapped(task))
        policy, begun = agent_files.load(path, None if seeing is None else seeing.policy)
        made = cls.__new__(cls)
        made._run = None
        made._loaded, made._begun, made._folder = policy, begun, segments_of(path)
        made.env, made._loop = task, begun.loop if given is None and begun is not None else given
        made.seed, made.eval_freq = int(policy.about.get("seed", 0)), None if begun is None else begun.every
        made.method = str(policy.about.get("method", "unknown"))
        if method is not None:
            made.method = method if isinstance(method, str) else repr(given)
        if options:
            made._loop = loop_of(made.loop, options)
        if begun is not None:
            made._begun = replace(begun, loop=made._loop)
        if made.env is not None:
            task = made._task()
            there, here = (task.observation_size, task.action_size), (policy.observations, len(policy.low))
            if there != here:
                raise FewerError(
                    f"{path} was learned with {here[0]} numbers in an observation and {here[1]} in an action; {task.name} has "
                    f"{there[0]} and {there[1]}"
                )
        return made
