"""Learning curves as a figure for a paper: mean lines with their bands, named at their ends."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewer import page
from fewer.core.errors import FewerError
from fewer.core.files import write_atomically
from fewer.core.stats import band
from fewer.race.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}  # no dates: same race, same file
STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#625d55",
    "axes.labelcolor": "#625d55",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3ded4",
    "grid.linewidth": 0.8,
    "text.color": "#1d1b18",
    "xtick.color": "#625d55",
    "ytick.color": "#625d55",
    "ytick.left": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "fewer",
}
NAMED = 12  # more names than this do not fit beside the axes


def plot(outcome: Outcome, path: str | os.PathLike[str], target: float | None = None) -> None:
    """Draw the learning curves of a race with their 95 % bands.

    Parameters
    ----------
    outcome : Outcome
        The race; entries without a finished run are left out and named below.
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    target : float, optional
        A score to draw a line at.

    Raises
    ------
    FewerError
        If the file is to be of another kind or cannot be written.
    """
    kind = Path(path).suffix.lower()
    if kind not in FORMATS:
        raise FewerError(f"cannot draw {path}: {kind or 'a file without suffix'} is unknown; use .png, .svg or .pdf")
    from matplotlib import rc_context  # slow to load, and only needed here
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(6.8, 4.0), layout="constrained")  # without pyplot: no global state, safe in threads
        axes = figure.add_subplot()
        axes.set_xlabel(outcome.unit)
        axes.set_title(f"{outcome.metric} on {outcome.task}", loc="left", fontsize=10.5, fontweight="bold")
        shown = {entry: outcome.curves(entry) for entry in outcome.entries if outcome.curves(entry)}
        if shown:
            _draw(axes, outcome, target)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no run has finished", ha="center", va="center", transform=axes.transAxes)
        missing = [entry for entry in outcome.entries if entry not in shown]
        if shown and missing:
            figure.supxlabel(f"no finished run: {', '.join(missing)}", fontsize=8, color="#625d55", x=0.01, ha="left")
        figure.savefig(buffer, format=kind[1:], dpi=200, metadata=FORMATS[kind])
    write_atomically(path, buffer.getvalue())


def _draw(axes: Axes, outcome: Outcome, target: float | None) -> None:
    colours = page.palette()
    ends: list[dict[str, Any]] = []
    edges: list[float] = []
    means: list[float] = [] if target is None else [target]
    for place, entry in enumerate(outcome.entries):
        curves = outcome.curves(entry)
        if not curves:
            continue
        grid, mean, low, high = band(curves, page.thinned(curves))
        colour, style = colours[place % 8], "-" if place % 16 < 8 else (0, (4, 2))
        axes.plot(grid, mean, color=colour, linestyle=style, label=entry, marker="o" if len(grid) == 1 else None)
        axes.fill_between(grid, low, high, color=colour, alpha=0.14, linewidth=0)
        ends.append({"name": entry, "colour": colour, "x": grid[-1], "y": mean[-1]})
        means.extend(mean)
        edges.extend(np.concatenate([low, high])[np.isfinite(np.concatenate([low, high]))])
    # a band over two or three runs can be many times as tall as the curves: show no more than half as much again
    bottom, top = min(means), max(means)
    room = 0.5 * (top - bottom)
    bottom, top = max(min([bottom, *edges]), bottom - room), min(max([top, *edges]), top + room)
    space = 0.04 * (top - bottom) or 0.1 * abs(top) or 1.0
    axes.set_ylim(bottom - space, top + space)
    axes.margins(x=0.01)
    if target is not None:
        axes.axhline(target, color="#1d1b18", linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        axes.annotate(
            f"target {target:g}",
            (0, target),
            (4, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=8.5,
        )
    if len(ends) > NAMED:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5)
    else:
        _name(axes, ends)


def _name(axes: Axes, ends: list[dict[str, Any]]) -> None:
    """Write each entry beside the end of its line, moved up or down where names would overlap."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    ends.sort(key=lambda end: end["y"])
    places = [end["y"] for end in ends]
    for _ in range(60):
        for i in range(1, len(places)):
            overlap = gap - (places[i] - places[i - 1])
            if overlap > 0:
                places[i - 1], places[i] = places[i - 1] - overlap / 2, places[i] + overlap / 2
        places = [min(max(place, low), high) for place in places]
    right = axes.get_xlim()[1]
    for end, place in zip(ends, places, strict=True):
        axes.annotate(
            end["name"],
            (end["x"], end["y"]),
            (right + 0.035 * (right - axes.get_xlim()[0]), place),
            textcoords="data",
            va="center",
            fontweight="bold",
            color=end["colour"],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end["colour"],
                "linewidth": 0.7,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
