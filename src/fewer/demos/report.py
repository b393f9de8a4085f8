"""A report of the quality of demonstrations: its numbers, its table, its picture, and which episodes it would keep."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError, nearest
from fewer.core.files import write_atomically

BETTER: Mapping[str, int] = {
    "action variance": -1,
    "horizon": -1,
    "state similarity": 1,
    "similarity across episodes": 1,
    "transition diversity": 1,
    "action divergence": -1,
}
"""Measures of single episodes, and whether less (-1) or more (1) of them is easier to imitate."""

MEANS: Mapping[str, str] = {
    "episodes": "",
    "steps": "",
    "success rate": "of the demonstrations",
    "horizon": "mean steps of an episode; errors add up over them",
    "horizon of successes": "",
    "action variance": "around what other episodes do nearby; 0 is consistent, {most} is random",
    "between episodes": "how much whole episodes differ, noise taken off: what more data do not repair",
    "state similarity": "share of the states that are near a state; high is narrow",
    "similarity across episodes": "the same among other episodes",
    "transition diversity": "share of the next state that state and action leave open: noise to learn recovery from",
    "action divergence": "squared error of a clone at episodes it has not seen",
    "action divergence over time": "the same, what is early weighing more, as it does in the bound",
    "coverage": "share of the states with a neighbour in another episode",
}


@dataclass(frozen=True)
class Quality:
    """What was measured of one set of demonstrations.

    Parameters
    ----------
    name : str
        Of the set.
    metrics : mapping of str to float
        Each measure of the whole set; NaN where it is not known.
    episodes : mapping of str to float array (episodes,)
        The measures of single episodes.
    transition_variance : float array (width,), optional
        Conditional variance of each dimension of the next state, in its own units.
    notes : tuple of str
        What a reader should know.
    """

    name: str
    metrics: Mapping[str, float]
    episodes: Mapping[str, Float[np.ndarray, " episodes"]]
    transition_variance: Float[np.ndarray, " width"] | None
    notes: tuple[str, ...]

    def ranking(self, by: str = "action variance") -> Int[np.ndarray, " episodes"]:
        """Episodes by one of their measures, the worst first; what is not known stands in the middle.

        Parameters
        ----------
        by : str, default "action variance"
            ``"horizon"``, ``"state similarity"`` …
        """
        return np.argsort(-self._badness(by), kind="stable")

    def keep(self, frac: float, by: str = "action variance") -> Int[np.ndarray, " kept"]:
        """The best episodes, in their order.

        This is this library's: the paper proposes the measures and does not choose by them.

        Parameters
        ----------
        frac : float
            Share to keep, in (0, 1]; rounded up.
        by : str, default "action variance"
            The measure.

        Examples
        --------
        >>> toy = Quality("toy", {}, {"action variance": np.array([0.1, 0.9, 0.2, np.nan])}, None, ())
        >>> toy.keep(0.75), toy.ranking()
        (array([0, 2, 3]), array([1, 2, 3, 0]))
        """
        if not 0 < frac <= 1:
            raise FewerError(f"quality: frac is {frac}; give a share of the episodes to keep, above 0 and at most 1")
        order = self.ranking(by)
        return np.sort(order[len(order) - math.ceil(frac * len(order)) :])

    def stand_out(self, by: str = "action variance") -> Int[np.ndarray, " some"]:
        """Episodes that are far worse than most: beyond the upper quartile by 1.5 times the range between quartiles."""
        bad = self._badness(by)
        low, high = np.quantile(bad, [0.25, 0.75])
        return np.array([each for each in self.ranking(by) if bad[each] > high + 1.5 * (high - low)], dtype=np.int64)

    def _badness(self, by: str) -> Float[np.ndarray, " episodes"]:
        name = by.replace("_", " ")
        if name not in self.episodes:
            raise FewerError(f"quality: episodes have no measure {by!r}; {nearest(name, self.episodes)}")
        values = -BETTER[name] * self.episodes[name]
        known = np.isfinite(values)
        return np.where(known, values, np.median(values[known]) if known.any() else 0.0)


@dataclass(frozen=True)
class QualityReport:
    """What was measured of one set of demonstrations, or of two by the same yardstick.

    Parameters
    ----------
    sets : tuple of Quality
        One or two.
    eps : float or None
        Radius of a neighbourhood; None where cells were used, NaN where there is but one episode.
    actions : int
        Dimensions of an action that change.
    """

    sets: tuple[Quality, ...]
    eps: float | None
    actions: int

    def keep(self, frac: float, by: str = "action variance") -> Int[np.ndarray, " kept"]:
        """The best episodes of the first set (see :meth:`Quality.keep`)."""
        return self.sets[0].keep(frac, by)

    def table(self) -> list[tuple[str, tuple[float, ...], str]]:
        """Measure, its value for each set, and what it means."""
        names = [name for name in MEANS if any(name in each.metrics for each in self.sets)]
        return [
            (
                name,
                tuple(each.metrics.get(name, math.nan) for each in self.sets),
                MEANS[name].format(most=self.actions),
            )
            for name in names
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; what is not known is None."""
        return {
            "eps": _plain(self.eps),
            "sets": [
                {
                    "name": each.name,
                    "metrics": {name: _plain(value) for name, value in each.metrics.items()},
                    "episodes": {name: [_plain(v) for v in values] for name, values in each.episodes.items()},
                    "transition_variance": None
                    if each.transition_variance is None
                    else [_plain(value) for value in each.transition_variance],
                    "stand_out": each.stand_out().tolist(),
                    "notes": list(each.notes),
                }
                for each in self.sets
            ],
        }

    def __str__(self) -> str:
        return self.text()

    def text(self, by: str = "action variance", show: int = 10) -> str:
        """The report for a person: the measures, the worst episodes of the first set, and what to drop.

        Parameters
        ----------
        by : str, default "action variance"
            What episodes are ranked by.
        show : int, default 10
            How many of them are shown.
        """
        rows = [[name, *(_shown(value) for value in values), means] for name, values, means in self.table()]
        head = ["", *(each.name for each in self.sets), ""]
        lines = _aligned([head, *rows])
        if self.eps is not None and np.isfinite(self.eps):
            lines.append(f"near: within {self.eps:.3g} of a state, in standardised units")
        for each in self.sets:
            lines += [f"note{f' ({each.name})' if len(self.sets) > 1 else ''}: {note}" for note in each.notes]
        return "\n".join([*lines, "", *self._ranked(by, show)])

    def _ranked(self, by: str, show: int) -> list[str]:
        first, name = self.sets[0], by.replace("_", " ")
        order, out = first.ranking(by)[:show], first.stand_out(by)
        # a measure that is wanted comes first, then the others
        columns = [name, *(each for each in first.episodes if each != name)]
        head = ["episode", *columns, ""]
        rows = [
            [str(each), *(_shown(float(first.episodes[c][each])) for c in columns), "stands out" if each in out else ""]
            for each in order
        ]
        lines = [f"the worst episodes of {first.name} by {name}:", *_aligned([head, *rows])]
        if not np.isfinite(first.episodes[name]).any():
            return [f"episodes cannot be ranked by {name}: it is not known of any"]
        if len(out):
            shown = ", ".join(map(str, out[:20])) + (" …" if len(out) > 20 else "")
            lines.append(f"to drop: {len(out)} of {len(first.episodes[name])} episodes stand out: {shown}")
        else:
            lines.append(f"to drop: nothing; no episode stands out by {name}")
        return lines

    def plot(self, path: str | os.PathLike[str], by: str = "action variance") -> None:
        """Draw the episodes: their measure by rank, and where states are near one another and yet treated differently.

        Parameters
        ----------
        path : path
            Ends in ``.png``, ``.svg`` or ``.pdf``.
        by : str, default "action variance"
            What episodes are ranked by.

        Raises
        ------
        FewerError
            If the file is to be of another kind or cannot be written.
        """
        from fewer import page
        from fewer.race.plot import FORMATS, STYLE

        kind, name = Path(path).suffix.lower(), by.replace("_", " ")
        if kind not in FORMATS:
            raise FewerError(
                f"cannot draw {path}: {kind or 'a file without suffix'} is unknown; use .png, .svg or .pdf"
            )
        for each in self.sets:
            each.ranking(by)  # an unknown measure is said before anything is drawn
        from matplotlib import rc_context  # slow to load, and only needed here
        from matplotlib.figure import Figure

        buffer = io.BytesIO()
        with rc_context(STYLE):
            figure = Figure(figsize=(8.4, 3.8), layout="constrained")
            left, right = figure.subplots(1, 2)
            figure.suptitle("Quality of demonstrations", x=0.01, ha="left", fontsize=10.5, fontweight="bold")
            colours = page.palette()
            for index, each in enumerate(self.sets):
                colour, label = colours[index + 1], each.name
                values = each.episodes[name][each.ranking(by)]
                left.plot(np.linspace(0, 100, len(values)), values, color=colour, label=label)
                right.scatter(each.episodes["state similarity"], each.episodes[name], s=14, color=colour, linewidth=0)
                for episode in each.stand_out(by)[:8]:
                    at = each.episodes["state similarity"][episode], each.episodes[name][episode]
                    if np.isfinite(at).all():
                        right.annotate(str(episode), at, xytext=(3, 3), textcoords="offset points", fontsize=8)
            left.set_xlabel("episodes, the worst first (%)")
            left.set_ylabel(name)
            left.legend(frameon=False)
            right.set_xlabel("state similarity of an episode (right: where most are)")
            right.locator_params(axis="x", nbins=5)  # small shares have long labels
            figure.savefig(buffer, format=kind[1:], dpi=200, metadata=FORMATS[kind])
        write_atomically(path, buffer.getvalue())


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _shown(value: float) -> str:
    if not np.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.3g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns under one another: the first and the last to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
