"""What a loop yields: points, and the learning curve they make.

A curve knows its own arithmetic (area, score at a budget, samples to a target).  What can be said
of many curves together, with intervals, lives in :mod:`fewer.core.stats`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fewer.core.errors import FewerError


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of a run.

    Parameters
    ----------
    spent : int
        Samples used so far, in the unit of the loop (labels, environment steps, sample visits …).
    score : float
        The task's score; higher is better.
    extras : mapping of str to float
        Anything else that was measured: parameters, peak_bytes, seconds, samples_seen …

    Examples
    --------
    >>> Point(10, 0.5, {"seconds": 1.5}).score
    0.5
    """

    spent: int
    score: float
    extras: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give the point as JSON can hold it."""
        return {"spent": self.spent, "score": self.score, "extras": dict(self.extras)}


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores against samples spent, for one run; points in increasing order of ``spent``.

    Between two points the score is taken to be linear.

    Parameters
    ----------
    points : tuple of Point
        At least one, ``spent`` strictly increasing.

    Raises
    ------
    FewerError
        If there is no point, or ``spent`` does not increase.

    Examples
    --------
    >>> curve = Curve.of([(10, 0.5), (20, 0.7), (30, 0.8)])
    >>> round(curve.area(), 3)
    0.675
    >>> curve.samples_to(0.6)
    15.0
    >>> curve.samples_to(0.9)
    inf
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise FewerError("a curve needs at least one point; none was given")
        for before, after in pairwise(self.points):
            if after.spent <= before.spent:
                raise FewerError(
                    f"a curve's samples must increase, but {after.spent} follows {before.spent}; "
                    "sort the points and keep one per number of samples"
                )

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Curve:
        """Make a curve from ``(spent, score)`` pairs."""
        return cls(tuple(Point(int(spent), float(score)) for spent, score in pairs))

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def final(self) -> float:
        """The score of the last point."""
        return self.points[-1].score

    def at(self, spent: float) -> float:
        """Score after ``spent`` samples, linear between points.

        Raises
        ------
        FewerError
            Outside the curve's range: this is a measurement, not an extrapolation.
        """
        first, last = self.points[0].spent, self.points[-1].spent
        if not first <= spent <= last:
            raise FewerError(f"the curve runs from {first} to {last} samples; {spent:g} is outside it")
        for before, after in pairwise(self.points):
            if spent <= after.spent:
                share = (spent - before.spent) / (after.spent - before.spent)
                return before.score + share * (after.score - before.score)
        return self.points[-1].score  # a curve of one point

    def area(self) -> float:
        """Mean score over the range of samples: the trapezoidal area divided by its width.

        In the score's own unit, so that curves of equal range can be compared and read.
        """
        if len(self.points) == 1:
            return self.points[0].score
        total = 0.0
        for before, after in pairwise(self.points):
            total += 0.5 * (before.score + after.score) * (after.spent - before.spent)
        return total / (self.points[-1].spent - self.points[0].spent)

    def samples_to(self, target: float) -> float:
        """Samples at which the curve first reaches ``target``; ``inf`` if it never does.

        A curve that starts at or above the target answers its first point's ``spent``: it may have
        needed fewer, but not more.
        """
        if self.points[0].score >= target:
            return float(self.points[0].spent)
        for before, after in pairwise(self.points):
            if after.score >= target:
                share = (target - before.score) / (after.score - before.score)
                return before.spent + share * (after.spent - before.spent)
        return math.inf
