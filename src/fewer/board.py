"""The claims board: every paper, what it saves, and whether its claim held when it was measured here.

Made from the catalogue and the result files; nothing is measured here.  The site is static and opens from a folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer import page
from fewer.board_paper import MADE, badge, css_class, paper_page, published
from fewer.catalogue import Paper
from fewer.core.errors import FewerError, nearest
from fewer.core.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

VERDICTS = ("holds", "does not hold", "unclear", "not measured", "planned")
ASSETS = ("page.css", "board.css", "page.js", "curves.js", "board.js")
STYLES = {"holds": "green", "does not hold": "red", "unclear": "yellow"}

Papers = Mapping[str, Paper]
Results = Mapping[str, Mapping[str, Any]]
"""Slug to result, as :func:`fewer.claim.load_results` reads them."""


def verdict(paper: Paper, results: Results) -> str:
    """Give one of :data:`VERDICTS`."""
    if paper.slug in results:
        return results[paper.slug]["verdict"]
    return "not measured" if paper.state == "works" else "planned"


def _claims(paper: Paper, results: Results) -> list[Mapping[str, Any]]:
    return results[paper.slug]["claims"] if paper.slug in results else []


def _summary(paper: Paper, results: Results) -> str:
    """What was claimed, or the idea where nothing was measured."""
    return " ".join(claim["says"] for claim in _claims(paper, results)) or paper.idea


# --- on the terminal and in the documentation ----------------------------------------------------


def as_text(papers: Papers, results: Results) -> Table:
    """Make the board for a terminal: something that ``rich`` prints as wide as the terminal is."""
    from rich.table import Table
    from rich.text import Text

    made = Table(caption=counted(papers, results))
    for name in ("paper", "short of", "verdict", "claim, or idea"):
        made.add_column(name, overflow="fold")
    for paper in papers.values():
        answer = verdict(paper, results)
        says = Text(_summary(paper, results), "" if paper.slug in results else "dim")
        made.add_row(Text(paper.slug, "bold"), Text(paper.short_of), Text(answer, STYLES.get(answer, "dim")), says)
    return made


def as_markdown(papers: Papers, results: Results) -> str:
    """Write the board as a Markdown table, with links to arXiv."""
    rows = [
        [
            f"[{paper.slug}](https://arxiv.org/abs/{paper.arxiv})",
            paper.short_of,
            verdict(paper, results),
            _summary(paper, results).replace("|", r"\|"),
        ]
        for paper in papers.values()
    ]
    lines = [f"| {' | '.join(row)} |" for row in [["paper", "short of", "verdict", "claim, or idea"], *rows]]
    return "\n".join([f"{counted(papers, results)}.", "", lines[0], "|---|---|---|---|", *lines[1:], ""])


def counted(papers: Papers, results: Results) -> str:
    """Count the verdicts: ``"3 papers: 1 holds, 2 planned"``."""
    counts = Counter(verdict(paper, results) for paper in papers.values())
    return f"{len(papers)} papers: {', '.join(f'{counts[each]} {each}' for each in VERDICTS if counts[each])}"


# --- as a site -----------------------------------------------------------------------------------


def write_site(folder: str | os.PathLike[str], papers: Papers, results: Results, guide: str | None = None) -> None:
    """Write the board as a static site: ``index.html``, a page per paper, and the files they share.

    Parameters
    ----------
    folder : path
        Where; made if it is missing.
    papers : mapping of str to Paper
        By slug, in the order of the board.
    results : mapping of str to dict
        By slug, as :func:`fewer.claim.load_results` reads them; papers without one are shown as such.
    guide : str, optional
        Where the documentation is, seen from ``folder``; linked from each page.

    Raises
    ------
    FewerError
        If there is a result for a paper that is not listed, or the folder cannot be written.
    """
    for slug in results:
        if slug not in papers:
            raise FewerError(f"there is a result for {slug!r}, which is no paper; {nearest(slug, papers)}")
    files = {name: page.asset(name) for name in ASSETS}
    link = f'<a class="plain" href="{escape(guide)}">Guide</a>' if guide else ""
    files["index.html"] = _front(papers, results, link)
    for slug, paper in papers.items():
        files[f"{slug}.html"] = paper_page(paper, papers, verdict(paper, results), _claims(paper, results), link)
    for name, text in files.items():
        write_atomically(Path(folder) / name, text.encode())


def _front(papers: Papers, results: Results, guide: str) -> str:
    scarce: dict[str, list[Paper]] = {}
    for paper in papers.values():
        scarce.setdefault(paper.short_of, []).append(paper)
    by_size = sorted(scarce, key=lambda name: -len(scarce[name]))
    counts = Counter(verdict(paper, results) for paper in papers.values())
    rows = []
    for short_of in by_size:
        name = escape(short_of)
        many = f"<span>{len(scarce[short_of])}</span>"
        rows.append(f'<li class="group" data-scarce="{name}"><h3>Short of {name}{many}</h3></li>')
        rows.extend(_row(paper, verdict(paper, results)) for paper in scarce[short_of])
    return page.fill(
        "board.html",
        count=str(len(papers)),
        shortages="".join(_shortage(name, scarce[name], results) for name in by_size),
        verdicts="".join(_filter("verdict", each, each, counts[each], _mark(each)) for each in VERDICTS),
        papers="\n".join(rows),
        made=MADE,
        guide=guide,
    )


def _mark(answer: str) -> str:
    return f'<i class="mark-of {css_class(answer)}"></i>'


def _shortage(short_of: str, papers: list[Paper], results: Results) -> str:
    # marks in the order of the verdicts, so that a row reads as a bar
    marks = sorted((verdict(paper, results) for paper in papers), key=VERDICTS.index)
    drawn = f'<span class="marks" aria-hidden="true">{"".join(map(_mark, marks))}</span>'
    return _filter("scarce", short_of, short_of, len(papers), after=drawn)


def _filter(name: str, value: str, text: str, count: int, before: str = "", after: str = "") -> str:
    return (
        f'<button type="button" aria-pressed="false" data-filter="{name}" data-value="{escape(value)}">{before}'
        f'<span>{escape(text)}</span>{after}<span class="count">{count}</span></button>'
    )


def _row(paper: Paper, answer: str) -> str:
    data = {
        "slug": paper.slug,
        "scarce": paper.short_of,
        "room": paper.room,
        "verdict": answer,
        "state": paper.state,
        "published": paper.published,
    }
    attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in data.items())
    return (
        f'<li class="paper" {attributes}><a class="slug" href="{paper.slug}.html">{paper.slug}</a>'
        f'<div class="what"><p class="idea">{escape(paper.idea)}</p>'
        f'<p class="title">{escape(paper.title)} <span class="when">· {published(paper)}</span></p></div>'
        f'<div class="end">{badge(answer)}</div></li>'
    )
