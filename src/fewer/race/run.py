"""A race: entries side by side on one task and one budget, each with the same seeds.

The driver, which is whoever calls :func:`race`, checks the request, hands the runs that are missing
to an engine and writes down what it hears.  It measures nothing itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import fewer
from fewer.core.curve import Curve
from fewer.core.errors import FewerError, nearest
from fewer.core.files import fingerprint
from fewer.core.loop import Loop, Task
from fewer.core.spec import canonical
from fewer.race.engine import (
    Counted,
    Engine,
    Event,
    Failed,
    Finished,
    Job,
    LocalEngine,
    Measured,
    Planned,
    Showed,
    Started,
    Stopped,
)
from fewer.race.logs import RunFolders
from fewer.race.outcome import Outcome, Run
from fewer.race.store import Differs, Store

if TYPE_CHECKING:
    from fewer.incontext.extrapolation import StopHopeless

STORE = ".fewer/races.db"
"""Where races are kept unless another file is named; under the current folder."""


def race(
    task: str,
    entries: Sequence[str] | Mapping[str, str],
    budget: int,
    seeds: int | Sequence[int] = 5,
    *,
    engine: str | Engine = "local",
    store: str | os.PathLike[str] | None = None,
    first_seed: int = 0,
    address: str | None = None,
    on_event: Callable[[Event, Run], None] | None = None,
    fresh: bool = False,
    hopeless: StopHopeless | None = None,
    compose: str = "fewer.compose",
    video: str | os.PathLike[str] | None = None,
    counted: bool = False,
) -> Outcome:
    """Run every entry with every seed, except what the store has already.

    Stopped at any moment and by any means, a race that is started again goes on where it was: each
    run from its last point, to the bit.  A run that raises, diverges or loses its worker is recorded
    with its error, stops no other, and is tried again when the race is next started.

    Parameters
    ----------
    task : str
        The task's spec, ``"digits"``.
    entries : sequence of str, or mapping of str to str
        Specs, or labels and their specs; the first is the baseline.
    budget : int
        Samples that each run may spend, in the unit of the entries' loop.
    seeds : int or sequence of int, default 5
        How many, or which.
    engine : {"local", "ray"} or Engine, default "local"
        Who makes the runs.  An engine that is given stays open for the next race.
    store : path, optional
        Where it is kept, ``".fewer/races.db"`` by default; ``":memory:"`` keeps nothing.
    first_seed : int, default 0
        The first of the seeds, where their number is given.
    address : str, optional
        Of the Ray cluster; one is started on this machine by default.
    on_event : callable, optional
        Called as ``on_event(event, run)`` with what happened and how that run now stands.  First
        comes one ``Planned`` for each run of the race, with what the store has of it.
    fresh : bool, default False
        Forget what the store has of these runs, and run them all.
    hopeless : StopHopeless, optional
        Stop a run that will hardly end above the best of the others: the best final score of those that
        are done, or the best score so far of those that run.  Which runs are stopped depends on which
        are made first.  They keep their points and the reason, are left out of what is told of finished
        runs, and are taken up again when the race is started without this.
    compose : str, default "fewer.compose"
        A module with ``loop(spec)`` and ``task(spec)``: your own, to race what is not in the library.  It may
        have :func:`fewer.compose.together` too.
    video : path, optional
        A folder: for each run, a film of an evaluation episode at each point that is made.  What the store has already
        is not played again.
    counted : bool, default False
        Tell ``on_event`` between points, too, how many samples a run has spent (:class:`fewer.race.engine.Counted`); Ray's
        workers do not.

    Returns
    -------
    Outcome
        All runs, done or failed.

    Raises
    ------
    FewerError
        If the request cannot run, which is found out before anything starts and names the entry; or
        if the store cannot be opened or written.

    Examples
    --------
    >>> outcome = race("digits", ["random", "margin"], budget=30, seeds=2, store=":memory:")
    >>> [point.spent for point in outcome.curves("margin")[0]]
    [10, 20, 30]
    """
    planned, data, watched = _plan(task, entries, budget, _seeds(seeds, first_seed), compose, video is not None)
    films = RunFolders(Path(video).absolute()) if video is not None else None
    with contextlib.ExitStack() as opened:
        stored = opened.enter_context(Store(store if store is not None else STORE, write=True))
        hashes = [_hash(planned, run, data, compose) for run in planned.runs]
        name = stored.begin(planned, hashes)
        if fresh:
            stored.forget(hashes)
        runs = stored.runs(name)
        tell = on_event or (lambda event, run: None)
        for run, of in runs.items():
            tell(Planned(run, watched[of.entry]), of)
        jobs = [
            Job(
                run,
                planned.entries[of.entry],
                planned.task,
                data,
                budget,
                of.seed,
                stored.checkpoint(run),
                compose,
                films.of(of.entry, of.seed) if films is not None else None,
                counted,
            )
            for run, of in runs.items()
            if of.status != "done" and not (of.status == "stopped" and hopeless)
        ]
        if jobs:
            if isinstance(engine, str):
                engine = opened.enter_context(contextlib.closing(_engine(engine, address)))
            events = opened.enter_context(contextlib.closing(engine.run(jobs)))
            _follow(events, runs, stored, tell, hopeless, engine.stop)
        return stored.outcome(name)


def _follow(
    events: Iterator[Event],
    runs: dict[str, Run],
    store: Store,
    tell: Callable[[Event, Run], None],
    hopeless: StopHopeless | None,
    stop: Callable[[str], None],
) -> None:
    """Write down what happens, then tell it: what is shown is never lost."""
    refused = set()
    reasons: dict[str, str] = {}
    for event in events:
        run = event.run
        if run in refused:
            continue
        if isinstance(event, Measured):
            try:
                if not store.record(run, event.point):
                    continue
            except Differs as error:
                refused.add(run)
                event = Failed(run, str(error), "")
        match event:
            case Started():
                store.start(run)
                runs[run] = replace(runs[run], status="running", error=None)
            case Measured(_, point):
                curve = runs[run].curve
                curve = Curve((*(curve.points if curve is not None else ()), point))
                runs[run] = replace(runs[run], curve=curve, seconds=point.extras.get("seconds", 0.0))
                if hopeless is not None and run not in reasons and (reason := _reason(hopeless, run, runs)):
                    reasons[run] = reason
                    stop(run)
            case Counted():
                pass  # only told: nothing is lost with it
            case Showed(_, samples):
                store.show(run, samples)
                runs[run] = runs[run].showing(samples)
            case Finished():
                store.finish(run)
                runs[run] = replace(runs[run], status="done")
            case Failed(_, error, traceback):
                store.fail(run, error, traceback)
                runs[run] = replace(runs[run], status="failed", error=error)
            case Stopped():
                store.stop(run, reasons[run])
                runs[run] = replace(runs[run], status="stopped", error=reasons[run])
        tell(event, runs[run])


def _reason(hopeless: StopHopeless, run: str, runs: dict[str, Run]) -> str | None:
    """Why a run should be stopped, or None."""
    others = [
        (each.curve.final, each)
        for name, each in runs.items()
        if name != run and each.curve is not None and each.status in ("running", "done")
    ]
    curve = runs[run].curve
    if curve is None or not others:
        return None
    best, leader = max(others, key=lambda pair: pair[0])
    if not hopeless(curve, best):
        return None
    return (
        f"at {curve.points[-1].spent} of {hopeless.horizon:g} its score was {curve.final:.4g} and its chance to end above "
        f"{best:.4g} ({leader.entry}, seed {leader.seed}) {hopeless.chance(curve, best):.2%}"
    )


# --- checking the request ----------------------------------------------------------------------


def _plan(
    task: str,
    entries: Sequence[str] | Mapping[str, str],
    budget: int,
    seeds: tuple[int, ...],
    compose: str,
    filmed: bool = False,
) -> tuple[Outcome, str, dict[str, tuple[str, ...]]]:
    """Check everything; give the race with all its runs waiting, the data's fingerprint, and what is watched of each entry."""
    if budget < 1:
        raise FewerError(f"the budget is {budget}; give one sample or more")
    specs = _entries(entries)
    task = canonical(task)
    builder = importlib.import_module(compose)
    made: Task = builder.task(task)
    if hasattr(builder, "together"):
        specs = _entries(dict(zip(specs, builder.together(list(specs.values()), made), strict=True)))
    loops: dict[str, Loop] = {}
    for label, spec in specs.items():
        try:
            loops[label] = builder.loop(spec)
            loops[label].check(made, budget)
            if filmed:
                loops[label].check_film(made)
        except FewerError as error:
            raise FewerError(f"entry {label}: {error}") from error
    units = {loop.unit for loop in loops.values()}
    if len(units) > 1:
        counted = ", ".join(f"{label} ({loop.unit})" for label, loop in loops.items())
        raise FewerError(f"these entries spend different things and cannot share a budget: {counted}; race them apart")
    runs = tuple(Run(label, seed, "waiting") for seed in seeds for label in specs)  # all entries advance seed by seed
    watched = {label: loop.watched for label, loop in loops.items()}
    return Outcome(task, made.metric, units.pop(), budget, seeds, specs, runs), made.fingerprint(), watched


def _hash(race: Outcome, run: Run, data: str, compose: str) -> str:
    """Name a run by what decides its result."""
    parts = (race.entries[run.entry], race.task, data, str(race.budget), str(run.seed), compose, fewer.__version__)
    return fingerprint("run", *parts)


def _entries(entries: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(entries, str):
        raise FewerError(f"entries is the text {entries!r}; give a list of specs: [{entries!r}]")
    if not entries:
        raise FewerError("no entry was given; name one method or more")
    named = isinstance(entries, Mapping)
    labels: dict[str, str] = {}
    for label, text in entries.items() if named else ((text, text) for text in entries):
        spec = canonical(text)
        if spec in labels:
            raise FewerError(f"the entries {labels[spec]!r} and {label!r} are the same, {spec}; keep one of them")
        labels[spec] = label
    return {label if named else spec: spec for spec, label in labels.items()}


def _seeds(seeds: int | Sequence[int], first: int) -> tuple[int, ...]:
    chosen = tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(map(int, seeds))
    if not chosen:
        raise FewerError(f"seeds is {seeds}; give one or more")
    twice = sorted({seed for seed in chosen if chosen.count(seed) > 1})
    if twice:
        raise FewerError(f"seed {twice[0]} is given twice; runs of equal seed are the same run")
    return chosen


def _engine(name: str, address: str | None) -> Engine:
    if name == "local":
        return LocalEngine()
    if name == "ray":
        from fewer.race.cluster import RayEngine

        return RayEngine(address)
    raise FewerError(f"unknown engine {name!r}; {nearest(name, ['local', 'ray'])}")
