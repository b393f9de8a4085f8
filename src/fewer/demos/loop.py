"""Imitation: demonstrations are bought, chosen from, cloned, and what was learned acts in the user's environment.

The loop owns the demonstrations, the budget and the scoring: the same starts and the same noise for every entry of a race
with the same seed.  Subsets are nested, and equal for all entries, so curves differ by the fillings alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float, Int

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations
from fewer.demos.rollouts import Outcome, Play, Policy, Step, rollout
from fewer.nets.rows import growing


class ImitationTask(Task):
    """An environment with demonstrations of how to act in it.

    Attributes
    ----------
    pool : int
        Demonstrated episodes that can be had.
    metric : {"success rate", "mean return"}
        What the score is.
    """

    pool: int

    @abstractmethod
    def demonstrations(self, seed: int) -> Demonstrations:
        """All demonstrations that can be had, in the order in which they are bought."""

    @abstractmethod
    def play(self, copies: int) -> Play:
        """Copies of the environment to act in."""

    def score(self, outcome: Outcome) -> float:
        """The score of some episodes."""
        return float((outcome.successes if self.metric == "success rate" else outcome.returns).mean())


@dataclass
class Lesson:
    """What a slot is called with.

    Parameters
    ----------
    demonstrations : Demonstrations
        Those at hand: bought so far, and for all but the curation also chosen.
    low, high : float array (*action)
        Bounds of actions.
    play : callable
        ``play(copies)`` makes copies of the environment for who learns by acting; every step in them is counted.
    seed : int
        For everything random.
    rng : numpy Generator
        The same, as a generator.
    report : dict of str to float
        Counters for the point's ``extras``.
    """

    demonstrations: Demonstrations
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    play: Callable[[int], Play]
    seed: int
    rng: np.random.Generator
    report: dict[str, float] = field(default_factory=dict)


class Curation(Protocol):
    """Which demonstrations to learn from."""

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """Numbers of the episodes to keep."""
        ...


class Imitator(Protocol):
    """How a policy is learned from demonstrations."""

    def imitate(self, lesson: Lesson) -> Policy:
        """Learn a policy."""
        ...


class Planner(Protocol):
    """What is put around, or made of, the policy that was learned by imitation."""

    def improve(self, lesson: Lesson, policy: Policy) -> Policy:
        """Give the policy that acts in the end."""
        ...


@dataclass(frozen=True)
class KeepAll:
    """Every demonstration."""

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """All of them."""
        return np.arange(len(lesson.demonstrations))


def _default() -> Imitator:
    from fewer.demos.behaviour_cloning import BehaviourCloning

    return BehaviourCloning()


class _Counted:
    """An environment whose steps are entered in the ledger."""

    def __init__(self, play: Play, ledger: Ledger) -> None:
        self.inner, self.ledger = play, ledger
        self.copies, self.horizon, self.low, self.high = play.copies, play.horizon, play.low, play.high

    def reset(self, seed: int) -> Observations:
        self.over = np.zeros(self.copies, dtype=bool)
        return self.inner.reset(seed)

    def step(self, actions: np.ndarray) -> Step:
        after = self.inner.step(actions)
        self.ledger.add("environment_steps", int((~self.over).sum()))
        self.over = self.over | after.terminated | after.truncated
        return after


@dataclass
class ImitationState(State):
    """The demonstrations, how many of them at each point, and the policy of the last one."""

    task: ImitationTask = field(kw_only=True)
    demonstrations: Demonstrations = field(kw_only=True)
    sizes: tuple[int, ...] = field(kw_only=True)
    policy: Policy | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Imitation(Loop[ImitationTask, ImitationState]):
    """A policy is learned anew from ever more demonstrations; the curve is how well it acts against their number.

    What a point has ``spent`` are the episodes that were demonstrated, whether they were kept or not.

    Parameters
    ----------
    curation : Curation, default KeepAll()
        Which of them to learn from.
    imitator : Imitator, default BehaviourCloning()
        How.
    planner : Planner, optional
        What is put around the policy.
    first : int, default 5
        Demonstrations of the first point.
    points : int, default 4
        How many points the curve has, at most; demonstrations grow by the same factor from point to point.
    episodes : int, default 100
        How many the policy is scored by.

    Examples
    --------
    >>> from fewer.demos.behaviour_cloning import BehaviourCloning
    >>> from fewer.demos.point_worlds import two_gates
    >>> loop = Imitation(imitator=BehaviourCloning(steps=20), points=2, episodes=10)
    >>> learned = loop.learn(two_gates(demonstrations=10, system_noise=0.4), budget=10)
    >>> [point.spent for point in learned.curve]
    [5, 10]
    """

    unit: ClassVar[str] = "demonstrations"
    accepts: ClassVar[type[Task]] = ImitationTask

    curation: Curation = field(default_factory=KeepAll)
    imitator: Imitator = field(default_factory=_default)
    planner: Planner | None = None
    first: int = 5
    points: int = 4
    episodes: int = 100

    def __post_init__(self) -> None:
        if min(self.first, self.points, self.episodes) < 1:
            raise FewerError(
                f"first, points and episodes must be at least 1; they are {self.first}, {self.points} and {self.episodes}"
            )

    def least(self, task: ImitationTask) -> int:
        """The demonstrations of the first point."""
        return self.first

    def check(self, task: Task, budget: int) -> None:
        """Refuse a task with too few demonstrations."""
        super().check(task, budget)
        assert isinstance(task, ImitationTask)
        if task.pool < self.first:
            raise FewerError(
                f"{task.name}: {task.pool} demonstrations can be had and the first point takes {self.first}; lower first="
            )

    def start(self, task: ImitationTask, budget: int, seed: int) -> ImitationState:
        """Get the demonstrations."""
        demonstrations = task.demonstrations(seed)
        sizes = growing(self.first, min(budget, len(demonstrations)), self.points)
        return ImitationState(
            budget, seed, Ledger({"demonstrations": 1.0}), task=task, demonstrations=demonstrations, sizes=sizes
        )

    def advance(self, state: ImitationState) -> Point:
        """Learn from the next number of demonstrations, and score."""
        count = state.sizes[state.points]
        state.ledger.add("demonstrations", count - state.ledger["demonstrations"])
        state.exhausted = state.points + 1 == len(state.sizes)
        state.policy, report = self._learn(state, count)
        outcome = rollout(state.task.play(self.episodes), state.policy, derive(state.seed, "evaluation"))
        extras = {
            "success_rate": float(outcome.successes.mean()),
            "mean_return": float(outcome.returns.mean()),
            "mean_length": float(outcome.lengths.mean()),
            **report,
        }
        return Point(state.ledger.spent, state.task.score(outcome), extras)

    def result(self, state: ImitationState) -> Policy:
        """The policy of the last point."""
        if (
            state.policy is None
        ):  # a resumed run has the demonstrations and not the policy; learned alike, it is the same
            ledger, state.ledger = state.ledger, Ledger({})
            state.policy, _ = self._learn(state, state.sizes[state.points - 1])
            state.ledger = ledger
        return state.policy

    def _learn(self, state: ImitationState, count: int) -> tuple[Policy, dict[str, float]]:
        bounds = state.task.play(1)

        def lesson(part: str, demonstrations: Demonstrations, report: dict[str, float]) -> Lesson:
            return Lesson(
                demonstrations,
                bounds.low,
                bounds.high,
                lambda copies: _Counted(state.task.play(copies), state.ledger),
                derive(state.seed, part),
                generator(state.seed, part),
                report,
            )

        before, report = state.ledger["environment_steps"], {}
        bought = state.demonstrations.keep(np.arange(count))
        kept = np.asarray(self.curation.choose(lesson("curation", bought, report)))
        if not len(kept):
            raise FewerError(
                f"{type(self.curation).__name__} keeps none of {count} demonstrations; let it keep more, or buy more"
            )
        chosen = bought.keep(kept)
        policy = self.imitator.imitate(lesson("imitator", chosen, report))
        if self.planner is not None:
            policy = self.planner.improve(lesson("planner", chosen, report), policy)
        report |= {"kept": float(len(chosen)), "steps": float(chosen.steps)}
        acted: Any = state.ledger["environment_steps"] - before
        return policy, report | ({"environment_steps": float(acted)} if acted else {})
