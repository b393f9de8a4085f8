"""What a race yields: the runs of every entry, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewer.core.curve import Curve

Status = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Run:
    """One entry with one seed.

    Parameters
    ----------
    entry : str
        The entry's label.
    seed : int
        Its seed.
    status : {"waiting", "running", "done", "failed", "stopped"}
        Where it stands; "stopped" before its budget was spent, because it was hopeless.
    curve : Curve, optional
        What it has measured so far; None before the first point.
    error : str, optional
        Why it failed or was stopped, in one line.
    seconds : float
        Time spent advancing.
    """

    entry: str
    seed: int
    status: Status
    curve: Curve | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A race with all its runs.

    Parameters
    ----------
    task : str
        The task's spec.
    metric, unit : str
        What the score is, and what the budget counts: ``"accuracy"``, ``"labels"``.
    budget : int
        Samples each run may spend.
    seeds : tuple of int
        The seeds every entry runs with; runs of equal seed are paired.
    entries : mapping of str to str
        Label to spec, in the order asked for; the first is the baseline.
    runs : tuple of Run
        One for each entry and seed.
    """

    task: str
    metric: str
    unit: str
    budget: int
    seeds: tuple[int, ...]
    entries: Mapping[str, str]
    runs: tuple[Run, ...]

    def of(self, entry: str) -> tuple[Run, ...]:
        """The runs of one entry, by seed."""
        return tuple(sorted((run for run in self.runs if run.entry == entry), key=lambda run: run.seed))

    def curves(self, entry: str) -> list[Curve]:
        """The finished curves of one entry, by seed."""
        return [run.curve for run in self.of(entry) if run.status == "done" and run.curve is not None]

    @property
    def failed(self) -> tuple[Run, ...]:
        """The runs that raised."""
        return tuple(run for run in self.runs if run.status == "failed")

    @property
    def stopped(self) -> tuple[Run, ...]:
        """The runs that were stopped as hopeless."""
        return tuple(run for run in self.runs if run.status == "stopped")
