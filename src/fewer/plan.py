"""How many more samples until a target: learning curves continued, a sentence, and a picture.

The chance that a curve has reached its target by x samples is taken from the chance that a measurement
there does, which the extrapolation gives; since the curves it knows rise, that chance never falls again.
Several curves are runs of one thing: each is continued, and all count equally.  Whether the bands hold what
they promise is measured in the claim of :mod:`fewer.incontext.lc_pfn`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.incontext.extrapolation import UNIT, Continuation, LearningCurveExtrapolator, ScoreRange

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = (0.5, 0.8, 0.95)
"""Of the intervals that are told and drawn."""

FURTHER = 4
"""Without a horizon, curves are followed to so many times the samples they have."""


@dataclass(frozen=True)
class Plan:
    """When a target is reached, as far as can be told.

    Parameters
    ----------
    curves : tuple of Curve
        What was measured.
    target, horizon : float
        The score asked for, and the number of samples up to which the curves are followed.
    metric, unit : str
        What scores and samples are.
    later : Continuation
        The scores from here to the horizon, all curves together.
    reached : float array (queries,)
        Chance that the target is reached by each number of samples of ``later.at``.
    already : int, default 0
        How many of the curves have reached it.
    """

    curves: tuple[Curve, ...]
    target: float
    horizon: float
    metric: str
    unit: str
    later: Continuation
    reached: Float[np.ndarray, " queries"]
    already: int = 0

    @property
    def spent(self) -> int:
        """Samples of the longest curve."""
        return max(curve.points[-1].spent for curve in self.curves)

    @property
    def never(self) -> float:
        """Chance that the target is not reached within the horizon."""
        return float(1 - self.reached[-1])

    @property
    def chances(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Numbers of samples, from those of the longest curve on, and the chance that the target is reached by each."""
        now = self.already / len(self.curves)
        return np.append(self.spent, self.later.at), np.append(now, self.reached)

    def samples(self, chance: float = 0.5) -> float:
        """Samples in all by which the target is reached with this chance; infinite if that is beyond the horizon."""
        at, chances = self.chances
        place = int(np.searchsorted(chances, chance))
        if place == len(at):
            return math.inf
        if place == 0:
            return float(self.spent)
        before, after = chances[place - 1], chances[place]
        return float(at[place - 1] + (chance - before) / (after - before) * (at[place] - at[place - 1]))

    def interval(self, level: float) -> tuple[float, float]:
        """Between which numbers of samples the target is reached with this chance; the upper one may be infinite."""
        return self.samples(0.5 - level / 2), self.samples(0.5 + level / 2)

    def sentence(self) -> str:
        """All of it in words."""
        middle, end = self.samples(), f"{_count(self.horizon)} {self.unit}"
        if math.isfinite(middle):
            said = (
                f"{self.metric} reaches {self.target:g} after about {_count(middle)} {self.unit}, "
                f"{_count(middle - self.spent)} more than the {_count(self.spent)} so far ({self._levels(self._between)}); "
                f"the chance that it does not within {end} is {_percent(self.never)}."
            )
        else:
            doubt = "hardly reaches" if self.never > 0.9 else "probably does not reach"
            early = self.samples(0.025)
            soonest = f", at the soonest after {_count(early)} {self.unit} (2.5 %)" if math.isfinite(early) else ""
            said = (
                f"{self.metric} {doubt} {self.target:g} within {end}: the chance that it does is "
                f"{_percent(1 - self.never)}{soonest}. After {end} it is at about {self._score(0.5):.3g} "
                f"({self._levels(self._scores)})."
            )
        return said + self._several()

    def _several(self) -> str:
        count = len(self.curves)
        if count == 1:
            return ""
        there = f"; {self.already} of them {'is' if self.already == 1 else 'are'} there already" if self.already else ""
        return f" The {count} curves count equally{there}."

    def _levels(self, between: Callable[[float], str]) -> str:
        first, *others = (f"{100 * level:.0f} % {{}}{between(level)}" for level in LEVELS)
        return ", ".join([first.format("interval "), *(each.format("") for each in others)])

    def _scores(self, level: float) -> str:
        return f"{self._score(0.5 - level / 2):.3g} to {self._score(0.5 + level / 2):.3g}"

    def _score(self, chance: float) -> float:
        return float(self.later.quantile(chance)[-1])

    def _between(self, level: float) -> str:
        low, high = self.interval(level)
        return f"{_count(low)} to {_count(high) if math.isfinite(high) else f'more than {_count(self.horizon)}'}"


def plan(
    curves: Sequence[Curve],
    target: float,
    *,
    horizon: float | None = None,
    scores: ScoreRange = UNIT,
    metric: str = "score",
    unit: str = "samples",
    extrapolator: LearningCurveExtrapolator | None = None,
) -> Plan:
    """Continue curves and tell when they reach a target.

    Parameters
    ----------
    curves : sequence of Curve
        Runs of one thing, each with two points or more.  Of many points, one in each hundredth of the
        horizon is used.
    target : float
        The score to reach.
    horizon : float, optional
        Samples up to which to look; by default four times those of the longest curve.
    scores : ScoreRange, default ScoreRange()
        What scores can be; see :func:`score_range`.
    metric, unit : str
        What scores and samples are called.
    extrapolator : LearningCurveExtrapolator, optional
        By default with the weights that come along.

    Returns
    -------
    Plan

    Raises
    ------
    FewerError
        If a curve has one point, falls, or leaves its range; if the target does, or is reached already; if
        the horizon is not beyond the curves.

    Examples
    --------
    >>> seen = Curve.of((10 * k, 0.95 - 0.6 / k) for k in range(1, 13))
    >>> found = plan([seen], 0.92, horizon=600)
    >>> 120 < found.samples() < 400, found.never < 0.5
    (True, True)
    """
    if not curves:
        raise FewerError("plan: there is no curve; give one or more")
    spent = max(curve.points[-1].spent for curve in curves)
    horizon = float(FURTHER * spent if horizon is None else horizon)
    if not (math.isfinite(horizon) and horizon > spent):
        raise FewerError(f"plan: the horizon ({horizon:g}) must lie beyond the last point ({spent}); raise it")
    if not (math.isfinite(target) and scores.low <= target <= scores.high):
        raise FewerError(
            f"plan: the target {target:g} is outside the range {scores.low:g} to {scores.high:g}; change one of them"
        )
    for curve in curves:
        check(curve, scores)
    there = _reached(curves, target, scores)
    first = there[0]
    if first is not None and all(there):
        raise FewerError(
            f"plan: the target {target:g} is reached already: the score was {first.score:g} after {_count(first.spent)} "
            f"{unit}; ask for a better one"
        )
    extrapolator = extrapolator or LearningCurveExtrapolator.load()
    at = extrapolator.grid(spent, horizon)
    each = [extrapolator.predict(curve, at, horizon=horizon, scores=scores) for curve in curves]
    chances = np.mean(
        [
            np.ones(len(at)) if point else np.maximum.accumulate(one.chance_of(target))
            for one, point in zip(each, there, strict=True)
        ],
        axis=0,
    )
    # equal shares of all curves: the mean of the bars' masses
    logits = torch.stack([one.logits.log_softmax(-1) for one in each]).logsumexp(0)
    already = sum(point is not None for point in there)
    return Plan(tuple(curves), target, horizon, metric, unit, replace(each[0], logits=logits), chances, already)


def check(curve: Curve, scores: ScoreRange, name: str = "plan") -> None:
    """Refuse a curve that cannot be continued.

    Parameters
    ----------
    curve : Curve
        What was measured.
    scores : ScoreRange
        What scores can be.
    name : str, default "plan"
        Of the curve, to begin the message with.

    Raises
    ------
    FewerError
        If the curve has one point, leaves its range, or falls: its straight line falls by more than its noise
        explains, and by more than 2 % of the range.
    """
    if len(curve) < 2:
        raise FewerError(f"{name}: the curve has one point; measure at two numbers of samples or more")
    try:
        scores.check(_values(curve))
    except FewerError as error:
        raise FewerError(f"{name}: {error}") from error
    y = scores.to_unit(_values(curve))
    x = np.linspace(-1, 1, len(y))
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / max(len(y) - 2, 1) / float(x @ x))
    if 2 * slope < -0.02 and slope < -2 * error:
        way, advice = ("rises", "leave out") if scores.lower_is_better else ("falls", "for a loss, add")
        first, last = curve.points[0], curve.points[-1]
        raise FewerError(
            f"{name}: the curve {way}, from {first.score:g} at {first.spent} to {last.score:g} at {last.spent}, and the "
            f"extrapolation only knows curves that get better; {advice} --lower-is-better"
        )


def score_range(low: float, high: float, lower_is_better: bool, curves: Sequence[Curve], target: float) -> ScoreRange:
    """Make a range of bounds that may be infinite: typical scores are then those of the curves, and the target.

    Examples
    --------
    >>> score_range(0, math.inf, True, [Curve.of([(1, 2.3), (2, 1.1)])], 0.5).typical
    (0.5, 2.3)
    """
    typical = None
    if not (math.isfinite(low) and math.isfinite(high)):
        every = np.concatenate([*map(_values, curves), [target]])
        every = every[(every >= low) & (every <= high)]  # what is not is refused later, with a message of its own
        bottom, top = (float(every.min()), float(every.max())) if len(every) else (0.0, 0.0)
        typical = (bottom, top) if bottom < top else (max(bottom - 0.5, low), min(top + 0.5, high))
    return ScoreRange(low, high, typical, lower_is_better)


def _values(curve: Curve) -> Float[np.ndarray, " points"]:
    return np.array([point.score for point in curve], dtype=np.float64)


def _reached(curves: Sequence[Curve], target: float, scores: ScoreRange) -> list[Point | None]:
    """The first point of each curve that is at least as good as the target."""
    sign = -1 if scores.lower_is_better else 1
    return [next((point for point in curve if sign * point.score >= sign * target), None) for curve in curves]


def _count(samples: float) -> str:
    """In three digits, which is more than is known."""
    if samples <= 0:
        return "0"
    digits = max(math.floor(math.log10(samples)) - 2, 0)
    return f"{round(samples / 10**digits) * 10**digits:,}"


def _percent(chance: float) -> str:
    return "below 1 %" if chance < 0.01 else "above 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


# --- the picture -------------------------------------------------------------------------------


def draw(found: Plan, path: str | os.PathLike[str]) -> None:
    """Draw what was measured, how it may go on, and when the target is reached.

    Parameters
    ----------
    found : Plan
        The plan.
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    FewerError
        If the file is to be of another kind or cannot be written.
    """
    from fewer.race.plot import figure_for

    with figure_for(path, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        title = f"When {found.metric} reaches {found.target:g}"
        above.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        _draw_scores(above, found)
        _draw_chances(below, found)


def _draw_scores(axes: Axes, found: Plan) -> None:
    """What was measured, and the bands in which it goes on."""
    from fewer import page

    colour, later = page.palette()[1], found.later
    for level in LEVELS:
        low, high = (later.quantile(0.5 + side * level / 2) for side in (-1, 1))
        axes.fill_between(later.at, low, high, color=colour, alpha=0.16, linewidth=0)
    widest = later.quantile(0.5 + LEVELS[-1] / 2)[-1]
    names = f"{', '.join(f'{100 * level:.0f}' for level in LEVELS)} %"
    _name(axes, found, names, widest, "#625d55")
    middle = later.quantile(0.5)
    axes.plot(later.at, middle, color=colour)
    _name(axes, found, "median", middle[-1], colour)
    for curve in found.curves:
        spent, scores = [point.spent for point in curve], [point.score for point in curve]
        axes.plot(spent, scores, color="#1d1b18", marker="o", markersize=2.5 if len(spent) < 60 else 0, linewidth=1.2)
    axes.axhline(found.target, color="#1d1b18", linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
    axes.annotate(
        f"target {found.target:g}",
        (0, found.target),
        (4, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=8.5,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
    )
    axes.set_xlim(0, found.horizon)
    axes.tick_params(bottom=False)


def _draw_chances(axes: Axes, found: Plan) -> None:
    """The chance that the target is reached by each number of samples."""
    from fewer import page

    colour, (at, chances) = page.palette()[1], found.chances
    axes.fill_between(at, 0, 100 * chances, color=colour, alpha=0.16, linewidth=0)
    axes.plot(at, 100 * chances, color=colour)
    middle = found.samples()
    if math.isfinite(middle):
        level = max(50.0, 100 * chances[0])
        axes.plot([middle], [level], marker="o", color="white", markeredgecolor=colour, markersize=6)
        axes.annotate(_count(middle), (middle, level), (-7, 3), textcoords="offset points", ha="right", fontsize=8.5)
    axes.annotate(
        "chance that it is\nreached by then",
        (0, 50),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
    _name(axes, found, _percent(1 - found.never), 100 * chances[-1], colour)
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(found.unit)


def _name(axes: Axes, found: Plan, text: str, y: float, colour: str) -> None:
    axes.annotate(
        text,
        (found.horizon, y),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=colour,
        annotation_clip=False,
    )
