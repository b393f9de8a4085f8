"""What runs made, beside each other: at first and at last, for the terminal and for the page.

Texts are readable already when they come here (see :mod:`fewer.core.samples`); markup in them is shown, not obeyed.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fewer.core.samples import Sample, Samples, readable
from fewer.page import number
from fewer.race.outcome import Outcome, Run

if TYPE_CHECKING:
    from rich.table import Table

IN_TERMINAL = 3
"""Rows of each entry that a terminal shows; the page shows all."""


def chosen(outcome: Outcome) -> list[Run]:
    """The run of each entry whose samples are shown: the first that has some from both ends, or else any.

    Entries that show nothing are left out.
    """
    runs = [max(outcome.of(entry), key=lambda run: len(run.samples), default=None) for entry in outcome.entries]
    return [run for run in runs if run is not None and run.samples]


def beside(samples: tuple[Samples, ...]) -> list[tuple[str, list[Sample | None]]]:
    """What was asked, each thing once, and what came at each moment; None where it was not asked.

    Examples
    --------
    >>> first = Samples(0, (Sample("1 + 1", "3", 0.0),))
    >>> last = Samples(9, (Sample("1 + 1", "2", 1.0), Sample("2 + 2", "4", 1.0)))
    >>> [(asked, [each and each.made for each in made]) for asked, made in beside((first, last))]
    [('1 + 1', ['3', '2']), ('2 + 2', [None, '4'])]
    """
    at = [{row.asked: row for row in each.rows} for each in samples]
    return [(asked, [each.get(asked) for each in at]) for asked in dict.fromkeys(name for each in at for name in each)]


def _when(samples: Samples, unit: str) -> str:
    return f"after {samples.spent:,} {unit}" if samples.spent else "at first"


def as_text(outcome: Outcome) -> Table | None:
    """Make a table for a terminal, with a few rows of each entry; None where nothing is shown."""
    from rich.table import Table
    from rich.text import Text

    def cell(sample: Sample | None) -> Text:
        if sample is None:
            return Text()
        made = Text(_short(sample.made)) if sample.made else Text("nothing", "dim italic")
        return made.append(f"\nscore {number(sample.score)}", "dim")

    runs = chosen(outcome)
    if not runs:
        return None
    table = Table(title=Text(f"{outcome.task}: what was made of it"), show_lines=True)
    for name in ("entry", "asked", "at first", "at last"):
        table.add_column(name, overflow="fold", ratio=None if name == "entry" else 1)
    for run in runs:
        for asked, made in beside(run.samples)[:IN_TERMINAL]:
            cells = [cell(each) for each in made]
            if len(cells) == 1 and run.samples[0].spent:
                cells.insert(0, Text())
            table.add_row(Text(run.entry, "bold").append(f"\nseed {run.seed}", "dim"), Text(_short(asked)), *cells)
    return table


def _short(text: str) -> str:
    return readable(text, most=240, lines=8)


def as_html(outcome: Outcome) -> str:
    """Write a section of the page; empty where nothing is shown."""
    colour = {entry: place % 8 for place, entry in enumerate(outcome.entries)}
    parts = []
    for run in chosen(outcome):
        heads = "".join(f'<th scope="col">{escape(_when(each, outcome.unit))}</th>' for each in run.samples)
        rows = []
        for asked, made in beside(run.samples):
            cells = "".join(
                f'<td data-name="{escape(_when(at, outcome.unit))}">{_made(each)}</td>'
                for at, each in zip(run.samples, made, strict=True)
            )
            rows.append(f'<tr><th scope="row"><pre>{escape(asked)}</pre></th>{cells}</tr>')
        parts.append(
            f'<h3><span class="swatch c{colour[run.entry]}"></span>{escape(run.entry)}, seed {run.seed}</h3>'
            f'<table class="made"><thead><tr><th scope="col">asked</th>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>"
        )
    if not parts:
        return ""
    says = (
        "What one run of each entry was asked, and what it made of that before it had learned and in the end, each with its "
        "score. Characters that cannot be shown are written as codes, and long texts are cut in the middle."
    )
    return f"<h2>What they made</h2><p>{says}</p>{''.join(parts)}"


def _made(sample: Sample | None) -> str:
    if sample is None:
        return ""
    text = f"<pre>{escape(sample.made)}</pre>" if sample.made else '<p class="soft">nothing</p>'
    return f'{text}<span class="soft">score {number(sample.score)}</span>'
