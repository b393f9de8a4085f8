"""What a person sees while a race runs: a line for each run, or a line as each run ends.

Only watches: the race neither waits for it nor needs it.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fewer.race.outcome import Run

_SHOWN = 30
"""Lines of the live table at most; runs that are over make room first."""


OVER = ("done", "failed", "stopped")
"""Statuses of runs that nothing more happens to."""


class Progress:
    """Pass an instance as ``on_event`` to :func:`fewer.race.race`, inside a ``with``.

    On a terminal a live table shows every run with a bar and its current score, and the time left;
    elsewhere (a file, a log) a line is printed when a run ends.

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
        before = self._runs.get((run.entry, run.seed))
        self._runs[run.entry, run.seed] = run
        if before is None:
            self._kept += self._samples(run)  # from an earlier start: it tells nothing about the speed of this one
        if self._console.is_terminal or before is None or run.status == before.status:
            return
        if run.status in OVER:
            over = sum(each.status in OVER for each in self._runs.values())
            said = (
                f"score {run.curve.final:.4g}" if run.curve and run.status == "done" else f"{run.status}: {run.error}"
            )
            self._console.print(
                f"[{over}/{len(self._runs)}] {run.entry}, seed {run.seed}: {said}", highlight=False, markup=False
            )

    def _samples(self, run: Run) -> int:
        return run.curve.points[-1].spent if run.curve else 0

    def _draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("run", "seed", "", "samples", "score"):
            table.add_column(name, justify="right" if name in ("seed", "samples", "score") else "left")
        order = {"running": 0, "waiting": 1, "failed": 2, "stopped": 3, "done": 4}
        runs = sorted(self._runs.values(), key=lambda run: order[run.status])[:_SHOWN]
        for run in sorted(runs, key=lambda run: (run.seed, list(self._runs).index((run.entry, run.seed)))):
            done = self._budget if run.status == "done" else self._samples(run)
            style = {"failed": "red", "waiting": "dim", "stopped": "dim"}.get(run.status, "")
            score = f"{run.curve.final:.4g}" if run.curve else ("failed" if run.status == "failed" else "")
            bar = ProgressBar(total=self._budget, completed=done, width=24)
            table.add_row(Text(run.entry, style), str(run.seed), bar, str(self._samples(run)), score)
        return Group(table, Text(self._summary(), "dim"))

    def _summary(self) -> str:
        over = sum(run.status in OVER for run in self._runs.values())
        total = self._budget * len(self._runs)
        spent = sum(self._budget if run.status in OVER else self._samples(run) for run in self._runs.values())
        elapsed = time.monotonic() - self._began
        rate = (spent - self._kept) / elapsed if elapsed > 1 else 0
        left = f", about {_clock((total - spent) / rate)} left" if rate > 0 and spent < total else ""
        return f"{over} of {len(self._runs)} runs over, {_clock(elapsed)} gone{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
