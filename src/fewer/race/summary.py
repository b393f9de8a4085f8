"""A race in numbers: one row per entry, with an interval on each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.core.stats import Interval, SamplesToTarget, area, final, probability_of_improvement, samples_to_target
from fewer.race.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """What a race says of one entry.

    Parameters
    ----------
    entry, spec : str
        Its label, and what it ran.
    samples : SamplesToTarget, optional
        Samples to the target; None without a target or without a finished run, as for all that follow.
    area : Interval, optional
        Mean score over the range of samples that all finished runs of the race share.
    final : Interval, optional
        Score of the last point.
    improvement : Interval, optional
        Probability that a run of this entry has a larger area than a run of the baseline; None for the baseline.
    done, failed, stopped, runs : int
        How many runs finished, how many failed, how many were stopped as hopeless, and how many there are.
    seconds : float
        Time that all its runs took together.
    """

    entry: str
    spec: str
    samples: SamplesToTarget | None
    area: Interval | None
    final: Interval | None
    improvement: Interval | None
    done: int
    failed: int
    stopped: int
    runs: int
    seconds: float


def table(outcome: Outcome, target: float | None = None) -> list[Row]:
    """Summarise a race, entry by entry, in the order in which they were given.

    Parameters
    ----------
    outcome : Outcome
        The race; it need not be over.
    target : float, optional
        Score for which to count the samples.

    Returns
    -------
    list of Row
        The baseline first.

    Raises
    ------
    FewerError
        If the target is not a finite number.
    """
    if target is not None and not math.isfinite(target):
        raise FewerError(f"the target is {target}; give a score that a run can reach")
    shared = _shared_range(outcome)
    baseline = next(iter(outcome.entries))
    rows = []
    for entry, spec in outcome.entries.items():
        runs, curves = outcome.of(entry), outcome.curves(entry)
        parts = shared[entry]
        rows.append(
            Row(
                entry=entry,
                spec=spec,
                samples=samples_to_target(curves, target) if curves and target is not None else None,
                area=area(parts) if parts else None,
                final=final(curves) if curves else None,
                improvement=probability_of_improvement(_areas(parts), _areas(shared[baseline]))
                if entry != baseline and parts and shared[baseline]
                else None,
                done=len(curves),
                failed=sum(run.status == "failed" for run in runs),
                stopped=sum(run.status == "stopped" for run in runs),
                runs=len(runs),
                seconds=sum(run.seconds for run in runs),
            )
        )
    return rows


def _areas(curves: list[Curve]) -> list[float]:
    return [curve.area() for curve in curves]


def _shared_range(outcome: Outcome) -> dict[str, list[Curve]]:
    """Cut all finished curves to the range of samples that they share, without which areas cannot be compared."""
    curves = {entry: outcome.curves(entry) for entry in outcome.entries}
    every = [curve for runs in curves.values() for curve in runs]
    first = max((curve.points[0].spent for curve in every), default=0)
    last = min((curve.points[-1].spent for curve in every), default=0)
    if first > last:
        return {entry: [] for entry in curves}
    return {entry: [_cut(curve, first, last) for curve in runs] for entry, runs in curves.items()}


def _cut(curve: Curve, first: int, last: int) -> Curve:
    within = [(point.spent, point.score) for point in curve if first < point.spent < last]
    ends = [(spent, curve.at(spent)) for spent in sorted({first, last})]
    return Curve.of([*ends[:1], *within, *ends[1:]])


def ranked(rows: list[Row]) -> list[Row]:
    """Sort by samples to the target or, where there is none, by final score; those without a finished run last."""

    def key(row: Row) -> tuple[float, ...]:
        end = -row.final.estimate if row.final else math.inf
        return (row.samples.estimate, -row.samples.share, end) if row.samples else (math.inf, 0.0, end)

    return sorted(rows, key=key)
