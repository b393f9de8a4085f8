"""The base of every room's loop, and of every task.

A loop is a frozen dataclass whose fields are its slots, each with the baseline as its default.  It
knows how to start (build the state) and how to advance (spend samples until the next point of the
curve).  Everything else is written once, here: checking the request, drawing the line at the
budget, saving between points, resuming to the bit, and stopping at NaN.

A loop prints nothing, draws nothing and writes no file but its checkpoint; whoever iterates over
:meth:`Loop.run` does that.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from fewer.core import checkpoint as checkpoints
from fewer.core.curve import Curve, Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.files import fingerprint
from fewer.core.ledger import Ledger
from fewer.core.samples import Sample, Samples, Show
from fewer.core.seeding import derive


class Task(ABC):
    """What a run is measured on: data or a world, and a score where higher is better.

    Attributes
    ----------
    name : str
        As the user wrote it, ``"mnist5k"``.
    metric : str
        What the score is, ``"accuracy"``.
    """

    name: str
    metric: str

    @abstractmethod
    def fingerprint(self) -> str:
        """Name what is in the task: two tasks of equal fingerprint give equal results.

        A race stores its runs under this name, so a changed file is never taken for the old one.
        """


@dataclass
class State:
    """A run at one moment.

    Subclasses add networks, buffers and generators, and list in ``saved`` the fields that change
    while the loop advances.  A field is saved by its ``state_dict`` if it has one, else as it is
    (see :func:`fewer.core.checkpoint.save` for what that may be).

    Parameters
    ----------
    budget : int
        Samples that may be spent, in the loop's unit.
    seed : int
        The run's seed; named streams are derived from it.
    ledger : Ledger
        What has been spent.
    points : int
        How many points have been yielded.
    exhausted : bool
        True when no more samples can be spent although the budget is not used up.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    budget: int
    seed: int
    ledger: Ledger
    points: int = field(default=0, kw_only=True)
    exhausted: bool = field(default=False, kw_only=True)

    @property
    def spent(self) -> int:
        """Samples that have been spent, in the loop's unit; moves between points, too, where the loop counts as it goes."""
        return self.ledger.spent

    def state_dict(self) -> dict[str, Any]:
        """Collect what a resumed run needs, as a tree that a checkpoint can hold."""
        tree: dict[str, Any] = {
            "points": self.points,
            "exhausted": self.exhausted,
            "ledger": dict(self.ledger.counts),
        }
        for name in self.saved:
            value = getattr(self, name)
            tree[name] = value.state_dict() if hasattr(value, "state_dict") else value
        return tree

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where another state of the same loop, task, budget and seed stood."""
        self.points = tree["points"]
        self.exhausted = tree["exhausted"]
        self.ledger.counts = dict(tree["ledger"])
        for name in self.saved:
            value = getattr(self, name)
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(tree[name])
            else:
                setattr(self, name, tree[name])


@dataclass(frozen=True, slots=True)
class Learned:
    """What :meth:`Loop.learn` returns.

    Parameters
    ----------
    curve : Curve
        The learning curve.
    result : object
        What was learned: a model, a policy, a chosen set.
    ledger : Ledger
        What it cost.
    """

    curve: Curve
    result: Any
    ledger: Ledger


T = TypeVar("T", bound=Task)
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Loop(ABC, Generic[T, S]):
    """One way of learning, with named slots.

    Subclasses are frozen dataclasses; their fields are the slots and the loop's own numbers.

    Attributes
    ----------
    unit : str
        What the budget counts, ``"labels"``.
    accepts : type of Task, or tuple of them
        The kinds of task this loop runs on.
    watched : tuple of str
        Measures beside the score that people look at while a run goes on; names of a point's extras.
    """

    unit: ClassVar[str]
    accepts: ClassVar[type[Task] | tuple[type[Task], ...]]
    watched: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def start(self, task: T, budget: int, seed: int) -> S:
        """Build the state: networks, buffers, optimisers, generators, ledger.  Spends nothing."""

    @abstractmethod
    def advance(self, state: S) -> Point:
        """Spend samples until the next point of the curve, and measure it there."""

    def result(self, state: S) -> Any:
        """Give what has been learned so far, as an object its ecosystem understands."""
        raise FewerError(f"{type(self).__name__} learns nothing that could be handed on")

    def receive(self, state: S, artefact: Any) -> None:
        """Begin from what an earlier stage learned (see :class:`Stages`).

        Whatever this changes must be part of ``state.state_dict()``, so that a resumed run needs
        the earlier stage no more.
        """
        raise FewerError(f"{type(self).__name__} cannot begin from an earlier stage; use it as the first one")

    def samples(self, state: S) -> Sequence[Sample]:
        """Give a few things that are made with what has been learned so far, for people to look at; none by default.

        Nothing of the state may change.
        """
        return ()

    def film(self, state: S, path: Path) -> None:
        """Film what has been learned so far; see :meth:`check_film`."""
        raise FewerError(f"{type(self).__name__} has nothing to be filmed")

    def check_film(self, task: T) -> None:
        """Refuse a film, before anything is built.

        Raises
        ------
        FewerError
            If nothing moves in what this loop learns, or the task cannot show it.
        """
        raise FewerError(f"{type(self).__name__} has nothing to be filmed; leave the video out")

    def resume(self, state: S, tree: dict[str, Any]) -> None:
        """Bring a freshly started state to where a saved one stood."""
        state.load_state_dict(tree)

    def least(self, task: T) -> int:
        """Samples needed before there is a first point."""
        return 1

    def check(self, task: Task, budget: int) -> None:
        """Refuse a request that cannot run, before anything is built.

        Raises
        ------
        FewerError
            If the task is of another kind, or the budget is below the first point.
        """
        if not isinstance(task, self.accepts):
            kinds = self.accepts if isinstance(self.accepts, tuple) else (self.accepts,)
            named = " or ".join(kind.__name__ for kind in kinds)
            given = task.name if hasattr(task, "name") else repr(task)
            raise FewerError(f"{type(self).__name__} runs on a {named} task; {given} is a {type(task).__name__}")
        least = self.least(task)  # pyright: ignore[reportArgumentType]
        if budget < least:
            raise FewerError(
                f"a budget of {budget} {self.unit} is below the first round, which takes {least}; "
                f"raise --budget to {least} or more, or make the first round smaller"
            )

    def run(
        self,
        task: T,
        budget: int,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        video: str | os.PathLike[str] | None = None,
        show: Show | None = None,
        watch: Callable[[State], None] | None = None,
    ) -> Iterator[Point]:
        """Run to the budget, a point at a time.

        Parameters
        ----------
        task : Task
            What to learn.
        budget : int
            Samples that may be spent, in ``self.unit``.
        seed : int
            Everything random is derived from it.
        checkpoint : path, optional
            Where to save the state after each point.  If the file is there already, the run goes on
            from it, to the bit; its earlier points are yielded again first, so that the iterator
            always gives the whole curve.
        video : path, optional
            A folder for a film at each point that is made, where the loop can be filmed.
        show : callable, optional
            Called with :meth:`samples` when the run begins or goes on, and at each point that is made, before it is yielded;
            not where there are none.
        watch : callable, optional
            Called with the state when the run begins or goes on, for who wants to look at ``state.spent`` meanwhile.

        Yields
        ------
        Point
            With increasing ``spent``.  ``extras["seconds"]`` is the time spent advancing so far.

        Raises
        ------
        FewerError
            If the request cannot run (at the call, not at the first point).
        Diverged
            If a score is NaN or infinite.
        """
        self.check(task, budget)
        if video is not None:
            self.check_film(task)
        places = [Path(place) if place is not None else None for place in (checkpoint, video)]
        return self._points(task, budget, seed, places[0], {}, places[1], show=show, watch=watch)

    def learn(self, task: T, budget: int, seed: int = 0) -> Learned:
        """Run to the budget and return the curve together with what was learned."""
        self.check(task, budget)
        box: dict[str, S] = {}
        points = tuple(self._points(task, budget, seed, None, box))
        return Learned(Curve(points), self.result(box["state"]), box["state"].ledger)

    def _points(
        self,
        task: T,
        budget: int,
        seed: int,
        checkpoint: Path | None,
        box: dict[str, S],
        video: Path | None = None,
        begun: tuple[Sequence[Point], dict[str, Any]] | None = None,
        show: Show | None = None,
        watch: Callable[[State], None] | None = None,
    ) -> Iterator[Point]:
        """All points; ``begun`` has those of an earlier run and its state, to go on from where no checkpoint is there yet."""
        with own_randomness(seed, "start"):
            state = self.start(task, budget, seed)
        box["state"] = state
        points: list[Point] = []
        who = fingerprint(repr(self), task.fingerprint(), str(budget), str(seed))
        if checkpoint is not None and checkpoint.exists():
            saved = checkpoints.load(checkpoint)
            if saved["run"] != who:
                raise FewerError(f"{checkpoint} belongs to another run; give each run its own file, or remove this one")
            points = [Point(**point) for point in saved["curve"]]
            self.resume(state, saved["state"])
        elif begun is not None:
            points = list(begun[0])
            self.resume(state, begun[1])
        yield from points
        if watch is not None:
            watch(state)
        self._show(state, show)
        seconds = points[-1].extras.get("seconds", 0.0) if points else 0.0
        while state.ledger.spent < budget and not state.exhausted:
            began = time.perf_counter()
            with own_randomness(seed, "advance", state.points):
                point = self.advance(state)
            seconds += time.perf_counter() - began
            self._judge(point, points[-1].spent if points else 0, budget)
            state.points += 1
            points.append(Point(point.spent, point.score, {**point.extras, "seconds": seconds}))
            self._show(state, show)
            if video is not None:  # before the checkpoint, so that a run that is killed has none too few
                with own_randomness(seed, "film", state.points):
                    self.film(state, video / f"{point.spent:09d}")
            if checkpoint is not None:
                curve = [each.as_dict() for each in points]
                checkpoints.save(checkpoint, {"run": who, "curve": curve, "state": state.state_dict()})
            yield points[-1]

    def _show(self, state: S, show: Show | None) -> None:
        if show is None:
            return
        with own_randomness(state.seed, "samples", state.points):
            rows = tuple(self.samples(state))
        if rows:
            show(Samples(state.ledger.spent, rows))

    def _judge(self, point: Point, before: int, budget: int) -> None:
        if not math.isfinite(point.score):
            raise Diverged(f"the score became {point.score} after {point.spent} {self.unit}; lower the learning rate")
        if point.spent > budget:
            raise FewerError(f"{type(self).__name__} spent {point.spent} of {budget} {self.unit}: the loop overdrew")
        if point.spent <= before:
            raise FewerError(f"{type(self).__name__} made a point at {point.spent} {self.unit} without spending any")


@contextlib.contextmanager
def own_randomness(seed: int, *names: str | int) -> Iterator[None]:
    """Give a step its own global random streams, and the caller's back afterwards.

    Third-party code (dropout, weight initialisation, scikit-learn) draws from the global
    generators.  Seeding them anew for each step makes a resumed run equal to an uninterrupted one
    without saving them.
    """
    state = np.random.get_state()  # noqa: NPY002 (the legacy global stream is what others draw from)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *names))
        np.random.seed(derive(seed, *names) % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


@dataclass(frozen=True)
class Stage:
    """One part of a method that goes in steps: teacher then student, offline then online.

    Parameters
    ----------
    name : str
        ``"teacher"``.
    loop : Loop
        What is run in this stage.
    share : float
        Of the whole budget, in (0, 1]; the shares of all stages sum to one.
    """

    name: str
    loop: Loop[Any, Any]
    share: float


@dataclass
class StagesState(State):
    """Which stage is running, and that stage's own state."""

    task: Task = field(kw_only=True)
    stage: int = field(kw_only=True)
    inner: State = field(kw_only=True)
    before: int = field(default=0, kw_only=True)

    @property
    def spent(self) -> int:
        """What all stages have spent."""
        return self.before + self.inner.spent

    def state_dict(self) -> dict[str, Any]:
        """Save the running stage; the earlier ones live on in what it received."""
        return {**super().state_dict(), "stage": self.stage, "before": self.before, "inner": self.inner.state_dict()}


@dataclass(frozen=True)
class Stages(Loop[Task, StagesState]):
    """Loops one after another on one task and one budget, each beginning from what the last one learned.

    Parameters
    ----------
    stages : tuple of Stage
        In order.

    Raises
    ------
    FewerError
        If there is none, the shares do not sum to one, or the stages count different units.
    """

    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages:
            raise FewerError("Stages needs at least one stage; none was given")
        total = sum(stage.share for stage in self.stages)
        if any(stage.share <= 0 for stage in self.stages) or abs(total - 1) > 1e-9:
            raise FewerError(f"the shares of the stages must be positive and sum to 1; they sum to {total:g}")
        units = {stage.loop.unit for stage in self.stages}
        if len(units) > 1:
            raise FewerError(f"stages must spend the same unit; these spend {' and '.join(sorted(units))}")

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What all stages count."""
        return self.stages[0].loop.unit

    @property
    def watched(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is watched of any stage."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.loop.watched))

    def check(self, task: Task, budget: int) -> None:
        """Refuse a budget that leaves some stage without its first round."""
        for index, stage in enumerate(self.stages):
            stage.loop.check(task, self._allowance(budget, index))

    def start(self, task: Task, budget: int, seed: int) -> StagesState:
        """Start the first stage."""
        inner = self.stages[0].loop.start(task, self._allowance(budget, 0), derive(seed, "stage", 0))
        return StagesState(budget, seed, Ledger({"samples": 1.0}), task=task, stage=0, inner=inner)

    def advance(self, state: StagesState) -> Point:
        """Advance the running stage, handing over to the next one where it has spent its share."""
        if state.inner.ledger.spent >= state.inner.budget or state.inner.exhausted:
            artefact = self.stages[state.stage].loop.result(state.inner)
            state.before += state.inner.ledger.spent
            self._enter(state, state.stage + 1)
            self.stages[state.stage].loop.receive(state.inner, artefact)
        loop = self.stages[state.stage].loop
        point = loop.advance(state.inner)
        state.inner.points += 1
        spent = state.before + point.spent
        state.ledger.add("samples", spent - state.ledger["samples"])
        done = state.inner.ledger.spent >= state.inner.budget or state.inner.exhausted
        state.exhausted = done and state.stage == len(self.stages) - 1
        return Point(spent, point.score, {**point.extras, "stage": float(state.stage)})

    def result(self, state: StagesState) -> Any:
        """What the running stage has learned."""
        return self.stages[state.stage].loop.result(state.inner)

    def samples(self, state: StagesState) -> Sequence[Sample]:
        """Those of the running stage."""
        return self.stages[state.stage].loop.samples(state.inner)

    def resume(self, state: StagesState, tree: dict[str, Any]) -> None:
        """Rebuild the stage that was running, then load its state."""
        super().resume(state, tree)
        if tree["stage"] != state.stage:
            self._enter(state, tree["stage"])
        state.before = tree["before"]
        state.inner.load_state_dict(tree["inner"])

    def _enter(self, state: StagesState, index: int) -> None:
        seed = derive(state.seed, "stage", index)
        state.inner = self.stages[index].loop.start(state.task, self._allowance(state.budget, index), seed)
        state.stage = index

    def _allowance(self, budget: int, index: int) -> int:
        # rounding the running sums, not the parts, so that the parts sum to the budget exactly
        upto = [round(budget * sum(stage.share for stage in self.stages[:i])) for i in (index, index + 1)]
        return upto[1] - upto[0]
