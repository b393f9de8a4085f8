"""What the race report and the claims board share: a template, an embedded chart, and the colours of its lines.

The look is in ``page.css``, the behaviour in ``page.js`` (theme, sorting) and ``curves.js`` (charts), beside this file.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from fewer.core.curve import Curve
from fewer.core.stats import band

POINTS = 150  # points drawn per line at most: more than a screen can show, and a page would grow with them
ICON = (  # a square of the accent colour
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Cpath fill='%232b3fbf' d='M1 1h6v6H1z'/%3E%3C/svg%3E"
)


def asset(name: str) -> str:
    """Give the text of a file beside this one: ``"page.css"``."""
    return files("fewer").joinpath(name).read_text(encoding="utf-8")


def fill(name: str, **values: str) -> str:
    """Fill the ``$names`` of a template beside this file; the values are HTML already."""
    return Template(asset(name)).substitute(values, icon=ICON)


def palette() -> list[str]:
    """Colours of the lines on white, in order; the first is the baseline's.

    Examples
    --------
    >>> len(palette())
    8
    """
    return re.findall(r"--line-\d: light-dark\((#\w{6})", asset("page.css"))


def embedded(data: Any) -> str:
    r"""Write data as a JSON script element that no text inside it can close.

    Examples
    --------
    >>> embedded({"name": "</script>"})
    '<script type="application/json">{"name":"\\u003c/script\\u003e"}</script>'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json">{text}</script>'


def figure(
    curves: Mapping[str, Sequence[Curve]], metric: str, unit: str, target: float | None = None, caption: str = ""
) -> str:
    """Write an interactive chart of learning curves.

    Parameters
    ----------
    curves : mapping of str to sequence of Curve
        Curves by entry, one per run; an entry without curves keeps its colour and has no line.
    metric, unit : str
        Names of the axes.
    target : float, optional
        A score to draw a line at.
    caption : str
        HTML below it.

    Returns
    -------
    str
        HTML, empty if there is no curve.
    """
    series = [
        {"name": name, "colour": place, **line(runs)} for place, (name, runs) in enumerate(curves.items()) if runs
    ]
    if not series:
        return ""
    data = embedded({"metric": metric, "unit": unit, "target": target, "series": series})
    shown = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="curves">{data}<noscript><p>The curves are drawn by a script.</p></noscript>{shown}</figure>'


def line(curves: Sequence[Curve]) -> dict[str, list[float] | None]:
    """Give the mean curve with its band as JSON holds it: ``x``, ``mean``, ``low`` and ``high`` (None for one run)."""
    grid, mean, low, high = band(curves, thinned(curves))
    has_band = bool(np.isfinite(low).all())
    return {
        "x": grid.tolist(),
        "mean": rounded(mean),
        "low": rounded(low) if has_band else None,
        "high": rounded(high) if has_band else None,
    }


def thinned(curves: Sequence[Curve]) -> np.ndarray | None:
    """Choose points of the curves to draw: None, which is all of them, unless they are too many."""
    first, last = max(curve.points[0].spent for curve in curves), min(curve.points[-1].spent for curve in curves)
    points = sorted({point.spent for curve in curves for point in curve if first <= point.spent <= last})
    if len(points) <= POINTS:
        return None
    return np.array(points, dtype=float)[np.linspace(0, len(points) - 1, POINTS).round().astype(int)]


def rounded(values: np.ndarray) -> list[float]:
    """Keep five significant digits: a page is read, not computed with."""
    return [float(f"{value:.5g}") for value in values]


def number(value: float | None) -> str:
    """Write a number for reading, a dash where there is none.

    Examples
    --------
    >>> number(0.123456), number(12345.6), number(None)
    ('0.1235', '12,346', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def race_command(task: str, specs: Sequence[str], budget: int, seeds: Sequence[int], *more: str) -> str:
    """Write the command that runs a race, quoted for a shell.

    Examples
    --------
    >>> race_command("mnist5k", ["random", "hast + pcoreset"], 300, [0, 1, 2])
    "fewer race mnist5k -m random -m 'hast + pcoreset' --budget 300 --seeds 3"
    """
    first = seeds[0] if seeds else 0
    if list(seeds) == list(range(first, first + len(seeds))):
        which = [str(len(seeds)), *(["--first-seed", str(first)] if first else [])]
    else:
        which = [",".join(map(str, seeds))]
    entries = [word for spec in specs for word in ("-m", spec)]
    return shlex.join(["fewer", "race", task, *entries, "--budget", str(budget), "--seeds", *which, *more])


def code(text: str) -> str:
    """Write a line of code or a command; it may be broken between options, not within one."""
    marked = re.sub(r"--[a-z-]+( [^ ]+)?", r'<span class="option">\g<0></span>', escape(text))
    return f"<pre><code>{marked}</code></pre>"


def facts(pairs: Mapping[str, str]) -> str:
    """Write names and values as a description list, leaving out those without a value."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items() if value
    )
    return f'<dl class="facts">{shown}</dl>'
