"""What came out of a race: a table, a sentence, a figure and a page, all made from its :class:`Outcome`.

Nothing is run here.  Runs that failed are left out of every number, and everything here says how many they were.
"""

from __future__ import annotations

import math
import os
import re
from html import escape
from typing import TYPE_CHECKING

from fewer import __version__, page
from fewer.core.stats import Interval, SamplesToTarget
from fewer.race import made
from fewer.race.outcome import Outcome, Run
from fewer.race.plot import plot
from fewer.race.summary import Row, ranked, table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Row", "as_markdown", "as_text", "command", "html", "plot", "sentence", "table"]

# --- in words ----------------------------------------------------------------------------------


def sentence(outcome: Outcome, target: float | None = None) -> str:
    """Say what came out: who needs the fewest samples to the target or, without one, who ends highest.

    Examples
    --------
    >>> from fewer.core.curve import Curve
    >>> from fewer.race.outcome import Run
    >>> runs = [
    ...     Run(entry, seed, "done", Curve.of([(0, 0.5), (100, top + seed / 100)]))
    ...     for entry, top in {"random": 0.7, "margin": 0.8}.items()
    ...     for seed in range(5)
    ... ]
    >>> entries = {"random": "random", "margin": "margin"}
    >>> race = Outcome("digits", "accuracy", "labels", 100, tuple(range(5)), entries, tuple(runs))
    >>> print(sentence(race, 0.73))
    To reach 0.73 accuracy on digits: margin needs 72 labels (95 % interval 68 to 77), random more than 100 (2 of 5 runs
    reached it).
    """
    rows = ranked(table(outcome, target))
    if target is not None:
        start, first, later = f"To reach {target:g} {outcome.metric}", f"needs {{}} {outcome.unit}", "{}"
    else:
        start, first, later = f"With {outcome.budget} {outcome.unit}", f"ends at {{}} {outcome.metric}", "at {}"
    said = []
    for row in (row for row in rows if row.done):
        number, between = _samples(row.samples) if target is not None else _interval(row.final)
        if not said and re.match(r"\S+ (to|or) ", between):  # the first one says what the numbers are
            between = f"95 % interval {between}"
        words = (later if said else first).format(number.replace("> ", "more than "))
        said.append(f"{row.entry} {words}" + (f" ({between})" if between else ""))
    sentences = [f"{start} on {outcome.task}: {', '.join(said)}."] if said else []
    failed, unfinished = len(outcome.failed), sum(run.status in ("waiting", "running") for run in outcome.runs)
    if failed and failed == len(outcome.runs):
        sentences.append(f"All {failed} runs on {outcome.task} failed.")
    elif failed:
        which = ", ".join(f"{row.failed} of {row.runs} of {row.entry}" for row in rows if row.failed)
        sentences.append(f"Runs that failed and are left out: {which}.")
    if outcome.stopped:
        which = ", ".join(f"{row.stopped} of {row.runs} of {row.entry}" for row in rows if row.stopped)
        sentences.append(f"Runs that were stopped as hopeless and are left out: {which}.")
    if unfinished:
        sentences.append(f"Runs on {outcome.task} not finished yet: {unfinished} of {len(outcome.runs)}.")
    return " ".join(sentences) or f"There is no run on {outcome.task}."


# --- cells -------------------------------------------------------------------------------------


def _interval(interval: Interval | None) -> tuple[str, str]:
    """Number and interval as texts, in the digits that the interval's width supports."""
    if interval is None:
        return "–", ""
    number, _, between = str(interval).partition(" [")
    bounded = math.isfinite(interval.high - interval.low)
    return number, between.rstrip("]").replace(", ", " to ") if bounded else ""


def _samples(samples: SamplesToTarget | None) -> tuple[str, str]:
    if samples is None:
        return "–", ""
    if math.isinf(samples.estimate):
        return f"> {samples.followed:.0f}", _reached(samples)
    if math.isfinite(samples.high):
        between = f"{samples.low:.0f} to {samples.high:.0f}"
    elif samples.low > 0:
        between = f"{samples.low:.0f} or more"
    else:
        between = "too few runs"
    missed = samples.reached < samples.runs
    return f"{samples.estimate:.0f}", between + (f"; {_reached(samples)}" if missed else "")


def _reached(samples: SamplesToTarget) -> str:
    return f"{samples.reached} of {samples.runs} runs reached it"


def _runs(row: Row) -> str:
    waiting = row.runs - row.done - row.failed - row.stopped
    others = {"failed": row.failed, "stopped": row.stopped, "to come": waiting}
    return ", ".join([f"{row.done} done", *(f"{count} {what}" for what, count in others.items() if count)])


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


Cell = tuple[str, str, float | None]
"""Number, interval, and what to sort by."""


def _columns(outcome: Outcome, target: float | None) -> list[str]:
    first = [f"{outcome.unit} to {target:g}"] if target is not None else []
    baseline = next(iter(outcome.entries))
    return [*first, f"mean {outcome.metric}", f"final {outcome.metric}", f"P(better than {baseline})", "runs", "time"]


def _cells(row: Row, target: float | None) -> list[Cell]:
    first: list[Cell] = [(*_samples(row.samples), row.samples.estimate if row.samples else None)]
    scores: list[Cell] = [
        (*_interval(each), each.estimate if each else None) for each in (row.area, row.final, row.improvement)
    ]
    return [
        *(first if target is not None else []),
        *scores,
        (_runs(row), "", row.done),
        (_time(row.seconds), "", row.seconds),
    ]


# --- on the terminal and in a README -----------------------------------------------------------


def as_text(outcome: Outcome, target: float | None = None) -> Table:
    """Make the table for a terminal: something that ``rich`` prints as wide as the terminal is."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(f"{outcome.task}: {outcome.budget} {outcome.unit}, {len(outcome.seeds)} seeds"))
    made.add_column("entry", overflow="fold")
    for name in _columns(outcome, target):
        made.add_column(Text(name), justify="right")
    for row in ranked(table(outcome, target)):
        texts = [
            Text(number).append(f"\n{between}" if between else "", "dim") for number, between, _ in _cells(row, target)
        ]
        made.add_row(Text(row.entry, "red" if not row.done and row.failed else "bold"), *texts)
    return made


def as_markdown(outcome: Outcome, target: float | None = None) -> str:
    """Write the table in Markdown, under its sentence."""
    names = ["entry", *_columns(outcome, target)]
    rows = [
        [row.entry, *(f"{number} ({between})" if between else number for number, between, _ in _cells(row, target))]
        for row in ranked(table(outcome, target))
    ]
    clean = [[cell.replace("|", r"\|").replace("\n", " ") for cell in cells] for cells in [names, *rows]]
    lines = [f"| {' | '.join(cells)} |" for cells in clean]
    return "\n".join(
        [sentence(outcome, target), "", lines[0], "|---" + "|---:" * (len(names) - 1) + "|", *lines[1:], ""]
    )


def command(outcome: Outcome, target: float | None = None) -> str:
    """Write the command that runs this race."""
    more = [] if target is None else ["--target", f"{target:g}"]
    specs = list(outcome.entries.values())
    return page.race_command(outcome.task, specs, outcome.budget, outcome.seeds, *more, "--report", "race.html")


# --- in the browser ----------------------------------------------------------------------------


def html(outcome: Outcome, path: str | os.PathLike[str], target: float | None = None) -> None:
    """Write a page that opens offline: sentence, sortable table, interactive curves, failures, what was made, and the command.

    Parameters
    ----------
    outcome : Outcome
        The race; it need not be over.
    path : path
        The file to write; everything the page needs is in it.
    target : float, optional
        Score for which to count the samples.

    Raises
    ------
    FewerError
        If the file cannot be written, or the target is not a finite number.
    """
    from fewer.core.checkpoint import write_atomically  # loaded here: torch comes with it

    curves = {entry: outcome.curves(entry) for entry in outcome.entries}
    facts = {
        "Task": outcome.task,
        "Score": outcome.metric,
        "Budget": f"{outcome.budget:,} {outcome.unit} per run",
        "Seeds": ", ".join(map(str, outcome.seeds)),
        "Baseline": next(iter(outcome.entries)),
        "Made with": f"fewer {__version__}",
    }
    caption = f"Mean over runs; the bands hold the mean with 95 % confidence at each number of {escape(outcome.unit)}."
    drawn = page.figure(curves, outcome.metric, outcome.unit, target, caption)
    filled = page.fill(
        "race/report.html",
        css=page.asset("page.css"),
        js=page.asset("page.js") + page.asset("curves.js"),
        title=escape(outcome.task),
        sentence=escape(sentence(outcome, target)),
        facts=page.facts(facts),
        curves=drawn or '<p class="soft">No run has finished, so there are no curves to draw.</p>',
        table=_table(outcome, target),
        failures=_failures(outcome) + _stopped(outcome),
        made=made.as_html(outcome),
        command=page.code(command(outcome, target)),
    )
    write_atomically(path, filled.encode())


def _table(outcome: Outcome, target: float | None) -> str:
    names = _columns(outcome, target)
    sorted_by = names[0] if target is not None else f"final {outcome.metric}"
    headers = []
    for name in names:
        # of time and samples, little is good: the first click sorts the best to the top
        first = "ascending" if name == "time" or " to " in name else "descending"
        now = f' aria-sort="{first}"' if name == sorted_by else ""
        headers.append(
            f'<th scope="col" class="number" data-kind="number" data-first="{first}"{now}>{escape(name)}</th>'
        )
    colour = {entry: place % 8 for place, entry in enumerate(outcome.entries)}
    rows = []
    for row in ranked(table(outcome, target)):
        spec = f'<br><span class="soft slug">{escape(row.spec)}</span>' if row.spec != row.entry else ""
        cells = [
            f'<th scope="row" data-value="{escape(row.entry)}"><span class="swatch c{colour[row.entry]}"></span>'
            f"<span>{escape(row.entry)}{spec}</span></th>"
        ]
        for name, (number, between, value) in zip(names, _cells(row, target), strict=True):
            range_ = f'<span class="between">{escape(between)}</span>' if between else ""
            cells.append(
                f'<td class="number" data-name="{escape(name)}" data-value="{"" if value is None else value}">'
                f"<span>{escape(number)}{range_}</span></td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<table class="sortable cards"><caption class="unseen">Results by entry</caption><thead><tr>'
        f'<th scope="col" data-kind="text">entry</th>{"".join(headers)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _failures(outcome: Outcome) -> str:
    if not outcome.failed:
        return ""
    return _list(
        "Runs that failed",
        f"{len(outcome.failed)} of {len(outcome.runs)} runs failed. They are left out of every number above, so an "
        "entry that fails often may look better here than it is.",
        "error",
        outcome.failed,
    )


def _stopped(outcome: Outcome) -> str:
    if not outcome.stopped:
        return ""
    return _list(
        "Runs that were stopped",
        f"{len(outcome.stopped)} of {len(outcome.runs)} runs were stopped because they would hardly have ended above "
        "the best one. They are left out of every number above, so an entry that is stopped often looks better here "
        "than it is.",
        "decision",
        outcome.stopped,
    )


def _list(title: str, says: str, what: str, runs: tuple[Run, ...]) -> str:
    items = "".join(
        f"<tr><th scope='row'>{escape(run.entry)}</th><td class='number' data-name='seed'>{run.seed}</td>"
        f"<td data-name='{what}'><span>{escape(run.error or 'no message')}</span></td></tr>"
        for run in runs
    )
    return (
        f'<h2>{title}</h2><p>{says}</p><table class="cards"><thead><tr><th scope="col">entry</th>'
        f'<th scope="col" class="number">seed</th><th scope="col">{what}</th></tr></thead><tbody>{items}</tbody></table>'
    )
