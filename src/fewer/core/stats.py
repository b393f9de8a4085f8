"""What can be said of many learning curves together, with intervals.

What concerns plain numbers (the interquartile mean, differences and ratios over paired seeds, the probability of
improvement) is made in :mod:`fewer.core.intervals`, whose notes say how the intervals are made and how often they hold
the truth; it can be had from here as well.  Neither module needs more than NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.special import ndtri

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.core.intervals import (
    Interval,
    bootstrap,
    iqm,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_ratio,
    probability_of_improvement,
    tail_of,
)

__all__ = [
    "Interval",
    "SamplesToTarget",
    "area",
    "band",
    "bootstrap",
    "final",
    "iqm",
    "mean_interval",
    "paired_difference",
    "paired_ratio",
    "probability_of_improvement",
    "samples_to_target",
]


@dataclass(frozen=True, slots=True)
class SamplesToTarget:
    """The median number of samples to a target, over runs of which some may never have reached it.

    Parameters
    ----------
    estimate, low, high : float
        Median and interval; infinite where too few runs reached the target.
    reached, runs : int
        How many runs reached the target, and how many there are.
    followed : float
        The most samples after which a run reached the target or was given up.

    Examples
    --------
    >>> print(SamplesToTarget(142.0, 120.0, 180.0, reached=5, runs=5, followed=180.0))
    142 [120, 180]
    >>> print(SamplesToTarget(float("inf"), 210.0, float("inf"), reached=2, runs=5, followed=300.0))
    > 300 (2 of 5 runs reached it)
    """

    estimate: float
    low: float
    high: float
    reached: int
    runs: int
    followed: float

    @property
    def share(self) -> float:
        """The share of runs that reached the target."""
        return self.reached / self.runs

    def __str__(self) -> str:
        if math.isinf(self.estimate):
            return f"> {self.followed:.0f} ({self.reached} of {self.runs} runs reached it)"
        return str(Interval(self.estimate, self.low, self.high))


def samples_to_target(curves: Sequence[Curve], target: float, *, level: float = 0.95) -> SamplesToTarget:
    """Median number of samples to a target, where runs that never reach it count for what they tell.

    A run that ends below the target is censored at its last point.  The median is that of Kaplan and Meier; its
    interval, of Brookmeyer and Crowley, holds every number of samples at which the log-log interval of the share still
    below the target holds one half.  Measured coverage, made for 95 %: 0.94 to 0.98 at 5 to 20 runs, censored or not.

    Parameters
    ----------
    curves : sequence of Curve
        One per run.  A curve that starts at the target counts with its first point.
    target : float
    level : float, default 0.95

    Returns
    -------
    SamplesToTarget
        The estimate is infinite if not more than half are seen to reach the target; ``low`` is then at most where the
        last run ended.  The extremes of n runs hold the median with probability ``1 - 2 ** (1 - n)`` only: where that
        misses more than twice as often as asked, with fewer than five runs at 95 %, the interval is 0 to infinity.

    Raises
    ------
    FewerError
        If there is no curve, or a score or the target is NaN or infinite.

    References
    ----------
    E. L. Kaplan, P. Meier, "Nonparametric Estimation from Incomplete Observations", JASA 53(282), 1958.
    R. Brookmeyer, J. Crowley, "A Confidence Interval for the Median Survival Time", Biometrics 38(1), 1982.

    Examples
    --------
    >>> curves = [Curve.of([(0, 0.0), (100, top)]) for top in (0.80, 0.82, 0.9, 0.95, 1.0)]
    >>> print(samples_to_target(curves, 0.72))
    80 [72, 90]
    >>> print(samples_to_target(curves, 0.92))
    > 100 (2 of 5 runs reached it)
    """
    _check_curves(curves, "samples_to_target")
    if not math.isfinite(target):
        raise FewerError(f"samples_to_target needs a finite target, but {target} was given")
    tail = tail_of(level)
    times = np.array([curve.samples_to(target) for curve in curves])
    reached = np.isfinite(times)
    times = np.where(reached, times, [float(curve.points[-1].spent) for curve in curves])
    runs, followed = len(times), float(times.max())
    at, share, variance = _kaplan_meier(times, reached)
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.exp(ndtri(1 - tail) * np.sqrt(variance) / -np.log(share))
    # where nobody is left below the target, the interval of that share is the point zero
    low_share, high_share = (np.where(share > 0, share**exponent, 0.0) for exponent in (power, 1 / power))

    def first(where: Bool[np.ndarray, " events"], otherwise: float) -> float:
        return float(at[where.argmax()]) if where.any() else otherwise

    # like any median, midway where exactly half lie below; the slack is for shares such as 2/3 * 3/4
    estimate = (first(share < 0.5 + 1e-9, math.inf) + first(share < 0.5 - 1e-9, math.inf)) / 2
    low, high = first(low_share <= 0.5, followed), first(high_share < 0.5, math.inf)
    if 2.0 ** (1 - runs) > 4 * tail:
        low, high = 0.0, math.inf
    return SamplesToTarget(estimate, low, high, int(reached.sum()), runs, followed)


def area(curves: Sequence[Curve], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over runs of the mean score over the range of samples that all curves share.

    That is the area under each curve divided by its width, in the score's own unit, with the interval of
    :func:`mean_interval`.

    Raises
    ------
    FewerError
        If the curves share no range, there is none, or a score is NaN or infinite.

    Examples
    --------
    >>> print(area([Curve.of([(10, 0.5), (20, top), (30, top)]) for top in (0.70, 0.72, 0.74, 0.71, 0.73)]))
    0.665 [0.651, 0.679]
    """
    grid, scores = _on_grid(curves, "area")
    width = grid[-1] - grid[0]
    means = np.trapezoid(scores, grid, axis=1) / width if width else scores[:, 0]
    return mean_interval(means, level=level, resamples=resamples, seed=seed)


def final(curves: Sequence[Curve], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over runs of the last score, with the interval and the errors of :func:`area`."""
    _check_curves(curves, "final")
    return mean_interval([curve.final for curve in curves], level=level, resamples=resamples, seed=seed)


def band(
    curves: Sequence[Curve],
    grid: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean learning curve with the interval of :func:`area` at each point, for plotting.

    Parameters
    ----------
    curves : sequence of Curve
        One per run; between two points a curve is linear.
    grid : array of shape (points,), optional
        Samples at which to take the mean, within the range that all curves share; by default every point of every
        curve that lies in it.
    level, resamples, seed
        As in :func:`bootstrap`.

    Returns
    -------
    grid, mean, low, high : array of shape (points,)
        ``low`` and ``high`` are NaN for one run: there is no band to draw.

    Raises
    ------
    FewerError
        If the curves share no range or the grid leaves it, there is no curve, or a score is NaN or infinite.

    Examples
    --------
    >>> grid, mean, low, high = band([Curve.of([(10, 0.5), (20, top)]) for top in (0.70, 0.72, 0.74)])
    >>> grid.tolist(), mean.round(2).tolist()
    ([10.0, 20.0], [0.5, 0.72])
    """
    points, scores = _on_grid(curves, "band", grid)
    ends = mean_intervals(scores, level=level, resamples=resamples, seed=seed)
    mean, low, high = np.where(np.isfinite(ends), ends, np.nan)
    return points, mean, low, high


def _kaplan_meier(
    times: Float[np.ndarray, " runs"], reached: Bool[np.ndarray, " runs"]
) -> tuple[Float[np.ndarray, " events"], Float[np.ndarray, " events"], Float[np.ndarray, " events"]]:
    """Times at which runs reached the target, the share still below it just after, Greenwood's variance of its log."""
    at, events = np.unique(times[reached], return_counts=True)
    at_risk = (times >= at[:, None]).sum(axis=1)  # a run given up at just this time still counts
    with np.errstate(divide="ignore"):
        return at, np.cumprod(1 - events / at_risk), np.cumsum(events / (at_risk * (at_risk - events)))


def _check_curves(curves: Sequence[Curve], what: str) -> None:
    if isinstance(curves, Curve) or not len(curves):
        raise FewerError(
            f"{what} takes a list of curves, one per run; {'one curve' if len(curves) else 'none'} was given"
        )
    for run, curve in enumerate(curves):
        for point in curve:
            if not math.isfinite(point.score):
                raise FewerError(
                    f"{what}: the score of run {run} after {point.spent} samples is {point.score}; "
                    "score a failed run as a failure, or report it apart"
                )


def _on_grid(
    curves: Sequence[Curve], what: str, grid: ArrayLike | None = None
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "runs points"]]:
    """Scores of all curves at the same numbers of samples: by default all their points within the common range."""
    _check_curves(curves, what)
    spent = [np.array([point.spent for point in curve], dtype=float) for curve in curves]
    first, last = max(one[0] for one in spent), min(one[-1] for one in spent)
    if first > last:
        raise FewerError(
            f"{what}: the curves share no range; one ends at {last:.0f}, another starts at {first:.0f} samples"
        )
    points = np.unique(np.concatenate(spent)) if grid is None else np.asarray(grid, dtype=float)
    within = (points >= first) & (points <= last)
    if grid is None:
        points = points[within]
    elif points.ndim != 1 or not points.size or not within.all():
        raise FewerError(f"{what}: the grid must list samples from {first:.0f} to {last:.0f}, where all curves are")
    # Curve.at, for all points at once
    return points, np.stack([np.interp(points, x, [p.score for p in c]) for x, c in zip(spent, curves, strict=True)])
