"""Learning curves as a figure for a paper: mean lines with their bands, named at their ends."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import textwrap
from collections.abc import Iterator, Sequence
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
    from matplotlib.figure import Figure

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
WIDTH = 27  # characters of a line of a name: the axes keep half of the figure's width and more
LINES = 18  # of names that fit one above the other beside the axes
TALL = 4.0  # inches: room for as many names in a legend as ROWS says
ROWS = 15


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
    with figure_for(path, TALL * max(1.0, len(outcome.entries) / ROWS)) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel(outcome.unit)
        (title,) = shortened([f"{outcome.metric} on {outcome.task}"], 72, 2)
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        shown = {entry: outcome.curves(entry) for entry in outcome.entries if outcome.curves(entry)}
        if shown:
            _draw(axes, outcome, target)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no run has finished", ha="center", va="center", transform=axes.transAxes)
        missing = [entry for entry in outcome.entries if entry not in shown]
        if shown and missing:
            (said,) = shortened([f"no finished run: {', '.join(shortened(missing, 60, 1))}"], 110, 3)
            figure.supxlabel(said, fontsize=8, color="#625d55", x=0.01, ha="left")


@contextlib.contextmanager
def figure_for(path: str | os.PathLike[str], height: float) -> Iterator[Figure]:
    """A figure in the style of this house, 6.8 inches wide, which is written to a file when it has been drawn.

    Parameters
    ----------
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    height : float
        In inches.

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
        figure = Figure(figsize=(6.8, height), layout="constrained")  # without pyplot: no global state, safe in threads
        yield figure
        figure.savefig(buffer, format=kind[1:], dpi=200, metadata=FORMATS[kind])
    write_atomically(path, buffer.getvalue())


def shortened(names: Sequence[str], width: int = WIDTH, lines: int = 3) -> list[str]:
    """Break names into lines, and leave out of those that are too long what is least needed to tell them apart.

    First what all names begin with is left out, then the middle; names that are equal now get their place in front.

    Parameters
    ----------
    names : sequence of str
        Such as entries of a race; different ones.
    width : int, default 27
        Characters of a line.
    lines : int, default 3
        At most.

    Returns
    -------
    list of str
        With line breaks, escaped for matplotlib.

    Examples
    --------
    >>> shortened(["margin", "pcoreset(temperature=0.5) + hast(rounds=3)"], 20, 1)
    ['margin', 'pcoreset(…(rounds=3)']
    >>> shortened(["drm + scalearn(dropout=0.1)", "drm + scalearn(dropout=0.2)"], 24, 1)
    ['…scalearn(dropout=0.1)', '…scalearn(dropout=0.2)']
    """
    alike = len(list(itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))))
    shared = names[0][:alike].rfind(" ") + 1 if len(names) > 1 else 0
    whole = [f"…{each[shared:]}" if shared and not _fits(each, width, lines) else each for each in names]
    found = [_cut(each, width, lines) for each in whole]
    twice = {each for each in found if found.count(each) > 1}
    for place, each in enumerate(found):
        if each in twice:
            found[place] = _cut(whole[place], width, lines, f"{place + 1}:")
    return ["\n".join(textwrap.wrap(each, width)).replace("$", r"\$") for each in found]


def _cut(name: str, width: int, lines: int, mark: str = "") -> str:
    """A name that fits, behind a mark, without its middle if need be."""
    short, kept = mark + name, width * lines
    while not _fits(short, width, lines):
        kept -= 1
        short = f"{mark}{name[: kept // 2].rstrip()}…{name[-(kept - kept // 2) :].lstrip()}"
    return short


def _fits(name: str, width: int, lines: int) -> bool:
    return len(textwrap.wrap(name, width)) <= lines


def _draw(axes: Axes, outcome: Outcome, target: float | None) -> None:
    colours = page.palette()
    drawn = [entry for entry in outcome.entries if outcome.curves(entry)]
    names = dict(zip(drawn, shortened(drawn, lines=min(3, max(1, LINES // len(drawn)))), strict=True))
    ends: list[dict[str, Any]] = []
    edges: list[float] = []
    means: list[float] = [] if target is None else [target]
    for place, entry in enumerate(outcome.entries):
        curves = outcome.curves(entry)
        if not curves:
            continue
        grid, mean, low, high = band(curves, page.thinned(curves))
        colour, style = colours[place % 8], "-" if place % 16 < 8 else (0, (4, 2))
        axes.plot(grid, mean, color=colour, linestyle=style, label=names[entry], marker="o" if len(grid) == 1 else None)
        axes.fill_between(grid, low, high, color=colour, alpha=0.14, linewidth=0)
        ends.append({"name": names[entry], "colour": colour, "x": grid[-1], "y": mean[-1]})
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
    ends.sort(key=lambda end: end["y"])
    places = [end["y"] for end in ends]
    # names of several lines are written closer than lines of different names
    halves = [(0.0275 + 0.021 * end["name"].count("\n")) * (high - low) for end in ends]
    for _ in range(60):
        for i in range(1, len(places)):
            overlap = halves[i - 1] + halves[i] - (places[i] - places[i - 1])
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
