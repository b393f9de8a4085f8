"""What a race yields: the runs of every entry, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError, nearest
from fewer.core.samples import Samples

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
    samples : tuple of Samples
        What it made at first and what it made last; one where these are the same, none where it shows nothing.
    """

    entry: str
    seed: int
    status: Status
    curve: Curve | None = None
    error: str | None = None
    seconds: float = 0.0
    samples: tuple[Samples, ...] = ()

    def showing(self, samples: Samples) -> Run:
        """The same run, of which the last samples are these."""
        first = [each for each in self.samples[:1] if each.spent < samples.spent]
        return replace(self, samples=(*first, samples))


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

    def measured(self, name: str) -> Outcome:
        """The same race with another of its measures in the place of the score, to be drawn.

        Parameters
        ----------
        name : str
            Of what loops write beside the score: ``"regret"``, ``"seconds"``.  Points without it are left out.

        Raises
        ------
        FewerError
            If no point of any run has it.
        """
        known = {key: None for run in self.runs if run.curve is not None for point in run.curve for key in point.extras}
        if name not in known:
            raise FewerError(f"no run of this race has measured {name!r}; {nearest(name, known, 6)}")
        runs = []
        for run in self.runs:
            points = [] if run.curve is None else [each for each in run.curve if name in each.extras]
            drawn = [Point(each.spent, each.extras[name], each.extras) for each in points]
            runs.append(replace(run, curve=Curve(tuple(drawn)) if drawn else None))
        return replace(self, metric=name.replace("_", " "), runs=tuple(runs))

    @property
    def failed(self) -> tuple[Run, ...]:
        """The runs that raised."""
        return tuple(run for run in self.runs if run.status == "failed")

    @property
    def stopped(self) -> tuple[Run, ...]:
        """The runs that were stopped as hopeless."""
        return tuple(run for run in self.runs if run.status == "stopped")
