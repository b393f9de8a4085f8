"""What a person sees while a race or a single run goes on: bars with speed and time left, or a line now and then.

Only watches: what runs neither waits for it nor needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from rich import progress as bars
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fewer.core.curve import Curve, Point
from fewer.page import number
from fewer.race.engine import Counted, Measured, Planned, Started
from fewer.race.outcome import Run

_SHOWN = 30
"""Lines of the live table at most; runs that are over make room first."""


_STEADY = 3
"""Different counts since a point after which a run is seen to count as it goes; others count all samples of a point at once,
before they learn from them."""

OVER = ("done", "failed", "stopped")
"""Statuses of runs that nothing more happens to."""


class Progress:
    """Pass an instance as ``on_event`` to :func:`fewer.race.race`, inside a ``with``.

    On a terminal a live table shows every run with a bar, its current score, samples per second and the time left, and below
    it what is watched of the runs that are being made; elsewhere (a file, a log) a line is printed when a run ends.  Between
    the points of a curve the bar moves where the race tells what is counted (``race(..., counted=True)``).

    Parameters
    ----------
    console : rich Console
        Where to draw.
    budget : int
        Of each run.
    """

    def __init__(self, console: Console, budget: int) -> None:
        self._console, self._budget = console, budget
        self._runs: dict[tuple[str, int], Run] = {}
        self._watched: dict[str, tuple[str, ...]] = {}
        self._counts: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._began = time.monotonic()
        self._kept = 0
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: Any, run: Run) -> None:
        """Take note of an event."""
        if isinstance(event, Planned):
            self._watched[run.entry] = event.watched
        if isinstance(event, Counted):
            counts = self._counts.setdefault((run.entry, run.seed), [])
            counts[_STEADY - 1 :] = [(time.monotonic(), event.spent)]
            return
        if isinstance(event, Started | Measured):
            self._counts.pop((run.entry, run.seed), None)
        before = self._runs.get((run.entry, run.seed))
        self._runs[run.entry, run.seed] = run
        if before is None:
            self._kept += self._samples(run)  # from an earlier start: it tells nothing about the speed of this one
        if self._console.is_terminal or before is None or run.status == before.status:
            return
        if run.status in OVER:
            over = sum(each.status in OVER for each in self._runs.values())
            said = f"{run.status}: {run.error}"
            if run.curve and run.status == "done":
                measured = (f"{name} {number(value)}" for name, value in self._measures(run).items())
                said = ", ".join([f"score {run.curve.final:.4g}", *measured])
            self._console.print(
                f"[{over}/{len(self._runs)}] {run.entry}, seed {run.seed}: {said}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _measures(self, run: Run) -> dict[str, float]:
        """What is watched of a run, as far as its last point has it."""
        measured = run.curve.points[-1].extras if run.curve else {}
        return {name: measured[name] for name in self._watched.get(run.entry, ()) if name in measured}

    def _samples(self, run: Run) -> int:
        """What a run has spent: at its last point, or since then where it counts as it goes."""
        last = run.curve.points[-1].spent if run.curve else 0
        counts = self._counts.get((run.entry, run.seed), [])
        return (
            max(last, min(counts[-1][1], self._budget)) if run.status == "running" and len(counts) == _STEADY else last
        )

    def _speed(self, run: Run) -> float | None:
        """Samples per second: between the last two points, before these as they were counted."""
        if run.status != "running":
            return None
        counts = self._counts.get((run.entry, run.seed), [])
        if run.curve or len(counts) < _STEADY:
            return speed(run.curve) if run.curve else None
        (began, first), (now, spent) = counts[0], counts[-1]
        return (spent - first) / (now - began) if now > began else None

    def _draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("run", "seed", "", "samples", "per second", "left", "score"):
            table.add_column(name, justify="left" if name in ("run", "") else "right")
        order = {"running": 0, "waiting": 1, "failed": 2, "stopped": 3, "done": 4}
        runs = sorted(self._runs.values(), key=lambda run: order[run.status])[:_SHOWN]
        for run in sorted(runs, key=lambda run: (run.seed, list(self._runs).index((run.entry, run.seed)))):
            done = self._budget if run.status == "done" else self._samples(run)
            style = {"failed": "red", "waiting": "dim", "stopped": "dim"}.get(run.status, "")
            score = f"{run.curve.final:.4g}" if run.curve else ("failed" if run.status == "failed" else "")
            bar = ProgressBar(total=self._budget, completed=done, width=24)
            rate = self._speed(run)
            left = _clock((self._budget - done) / rate) if rate else ""
            pace = f"{rate:.3g}" if rate else ""
            table.add_row(Text(run.entry, style), str(run.seed), bar, str(self._samples(run)), pace, left, score)
        return Group(table, *self._watch(runs), Text(self._summary(), "dim"))

    def _watch(self, runs: list[Run]) -> list[RenderableType]:
        """A table of the runs that are being made, with a column for each measure that any of them has."""
        measured = [(run, found) for run in runs if run.status == "running" and (found := self._measures(run))]
        names = list(dict.fromkeys(name for _, found in measured for name in found))
        if not names:
            return []
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("run", "seed", *names):
            table.add_column(Text(name), justify="left" if name == "run" else "right")
        for run, found in measured:
            numbers = [number(found[name]) if name in found else "" for name in names]
            table.add_row(Text(run.entry), str(run.seed), *numbers)
        return [Text(), table]

    def _summary(self) -> str:
        over = sum(run.status in OVER for run in self._runs.values())
        total = self._budget * len(self._runs)
        spent = sum(self._budget if run.status in OVER else self._samples(run) for run in self._runs.values())
        elapsed = time.monotonic() - self._began
        rate = (spent - self._kept) / elapsed if elapsed > 1 else 0
        left = f", about {_clock((total - spent) / rate)} left" if rate > 0 and spent < total else ""
        return f"{over} of {len(self._runs)} runs over, {_clock(elapsed)} gone{left}"


def speed(curve: Curve) -> float | None:
    """Samples per second between the last two points, by the seconds that they say; None where they say none.

    Examples
    --------
    >>> speed(Curve((Point(10, 0.1, {"seconds": 4.0}), Point(40, 0.2, {"seconds": 10.0}))))
    5.0
    """
    last = curve.points[-1]
    before = curve.points[-2] if len(curve) > 1 else Point(0, 0.0, {"seconds": 0.0})
    seconds = last.extras.get("seconds", 0.0) - before.extras.get("seconds", 0.0)
    return (last.spent - before.spent) / seconds if seconds > 0 else None


class RunProgress:
    """A bar for one run in this process, with its steps per second and the time left.

    It looks at the run four times a second, so that it moves between the points of the curve, too.  Where there is no
    terminal, call it with each new curve: a line is printed for its last point.

    Parameters
    ----------
    console : rich Console
        Where to draw.
    goal : int
        Samples at which the run will be over.
    unit : str
        What is counted, ``"environment steps"``.
    spent : callable
        Says how many have been spent.
    """

    def __init__(self, console: Console, goal: int, unit: str, spent: Callable[[], int]) -> None:
        self._console, self._goal, self._unit = console, goal, unit
        self._bar = _Bar(console, goal, unit, spent)

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, curve: Curve) -> None:
        """Say how far the run is."""
        last, rate = curve.points[-1], speed(curve)
        if self._console.is_terminal:
            self._bar.say(f"score {last.score:.4g}")
            return
        left = max(0, self._goal - last.spent)
        pace = f", {rate:.3g} a second, {_clock(left / rate)} left" if rate else ""
        said = f"{last.spent} of {self._goal} {self._unit}{pace}: score {last.score:.4g}"
        self._console.print(said, highlight=False, markup=False, soft_wrap=True)


class _Bar(bars.Progress):
    def __init__(self, console: Console, goal: int, unit: str, spent: Callable[[], int]) -> None:
        shown = (
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn(unit),
            _Speed(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[score]}"),
        )
        super().__init__(*shown, console=console, refresh_per_second=4)
        self._spent = spent
        self._run = self.add_task("", total=goal, score="")

    def say(self, score: str) -> None:
        self.update(self._run, score=score)

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.tasks:  # rich draws once before there is anything
            self.update(self._run, completed=min(self._spent(), self.tasks[0].total or 0))
        return super().get_renderables()


class _Speed(bars.ProgressColumn):
    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed:.3g} a second" if task.speed else "", style="progress.data.speed")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
