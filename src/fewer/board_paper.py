"""A paper's page on the claims board: what it does, what was claimed, what was measured, how to use it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any
from urllib.parse import urlencode

from fewer import __version__, page
from fewer.catalogue import Paper
from fewer.core.curve import Curve
from fewer.core.stats import mean_interval

MADE = f"Made by fewer {__version__}. This site needs no network."


def paper_page(
    paper: Paper, papers: Mapping[str, Paper], answer: str, claims: Sequence[Mapping[str, Any]], guide: str = ""
) -> str:
    """Write the page.

    Parameters
    ----------
    paper : Paper
        Whose page it is.
    papers : mapping of str to Paper
        All that have a page, to link to those that compose with it.
    answer : str
        Its verdict on the board.
    claims : sequence of dict
        Its measured claims, as :func:`fewer.claim.evaluate` makes them; may be empty.
    guide : str
        HTML of the link to the documentation, if there is one.

    Returns
    -------
    str
        HTML.
    """
    if claims:
        shown = f"<h2>What was claimed, and what was measured</h2>{''.join(map(_claim, claims))}"
    elif answer == "planned":
        shown = '<p class="soft">Planned: there is no code behind this paper yet.</p>'
    else:
        shown = f'<p class="soft">Its claim is not measured yet; <code>fewer claim {paper.slug}</code> does it.</p>'
    related = "".join(
        f'<li><a class="slug" href="{slug}.html">{slug}</a><span class="idea">{escape(papers[slug].idea)}</span></li>'
        for slug in paper.composes_with
        if slug in papers
    )
    return page.fill(
        "paper.html",
        slug=paper.slug,
        title=escape(paper.title),
        idea=escape(paper.idea),
        arxiv=escape(paper.arxiv),
        short_of=escape(paper.short_of),
        scarce=urlencode({"scarce": paper.short_of}),
        room=escape(paper.room),
        published=published(paper),
        verdict=badge(answer),
        claims=shown,
        use=_use(paper, claims),
        related=f'<h2>Composes with</h2><ul class="related">{related}</ul>' if related else "",
        made=MADE,
        guide=guide,
    )


def css_class(answer: str) -> str:
    """Name the style of a verdict: ``"does-not-hold"``."""
    return answer.replace(" ", "-")


def badge(answer: str) -> str:
    """Write a verdict with its sign, which the style sheet draws."""
    return f'<span class="verdict {css_class(answer)}">{escape(answer)}</span>'


def published(paper: Paper) -> str:
    """Write the month of publication, or the year where only that is known."""
    shown = f"{date.fromisoformat(paper.published):%B %Y}" if len(paper.published) == 10 else paper.published
    return f'<time datetime="{paper.published}">{shown}</time>'


def _use(paper: Paper, claims: Sequence[Mapping[str, Any]]) -> str:
    """How to import it, race it and check it; nothing for a planned paper."""
    if paper.fills is None:
        return ""
    module, _, name = paper.fills.partition(":")
    blocks = {"In Python": f"from {module} import {name}"}
    raced = next((claim for claim in claims if claim["entries"]), None)
    if raced:
        specs = list(raced["entries"].values())
        blocks["In a race"] = page.race_command(raced["task"], specs, raced["budget"], raced["seeds"])
    elif paper.slots:
        blocks["In a race"] = f"fewer race TASK -m {paper.slug} --budget NUMBER --seeds 5"
    blocks["Its claim, on your machine"] = f"fewer claim {paper.slug}"
    shown = (f"<h3>{title}</h3>{page.code(text)}" for title, text in blocks.items())
    return f"<h2>Use it</h2>{''.join(shown)}"


def _claim(claim: Mapping[str, Any]) -> str:
    conditions = "".join(
        f'<tr><th scope="row">{escape(each["text"])}</th><td data-name="verdict">{badge(each["verdict"])}</td>'
        f'<td class="number" data-name="measured">{page.number(each["estimate"])}</td>'
        f'<td class="number" data-name="95 % interval">{_between(each["low"], each["high"])}</td></tr>'
        for each in claim["conditions"]
    )
    curves = {
        label: [Curve.of((spent, score) for spent, score in run) for run in runs]
        for label, runs in claim["curves"].items()
    }
    caption = f"{escape(claim['task'])}: mean over {len(claim['seeds'])} seeds, with 95 % bands."
    note = f'<p class="note">{escape(claim["note"])}</p>' if claim["note"] else ""
    return (
        f'<section class="claim {css_class(claim["verdict"])}"><p class="says">{escape(claim["says"])}</p>'
        f"<p>{badge(claim['verdict'])}</p>{note}"
        '<table class="cards"><thead><tr><th scope="col">It holds if</th><th scope="col">verdict</th>'
        '<th scope="col" class="number">measured</th><th scope="col" class="number">95 % interval</th></tr></thead>'
        f"<tbody>{conditions}</tbody></table>"
        f"{page.figure(curves, claim['metric'], claim['unit'], caption=caption)}{_measures(claim)}{_facts(claim)}</section>"
    )


def _between(low: float | None, high: float | None) -> str:
    """Write an interval; an end that is missing was infinite."""
    if low is None and high is None:
        return "–"
    if low is None:
        return f"up to {page.number(high)}"
    return f"{page.number(low)} or more" if high is None else f"{page.number(low)} to {page.number(high)}"


def _measures(claim: Mapping[str, Any]) -> str:
    if not claim["measures"]:
        return ""
    rows = []
    for name, values in claim["measures"].items():
        known = [value for value in values if value is not None and math.isfinite(value)]
        mean = mean_interval(known) if known else None
        between = _between(mean.low, mean.high) if mean and math.isfinite(mean.high - mean.low) else "–"
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            f'<td class="number" data-name="mean">{page.number(mean and mean.estimate)}</td>'
            f'<td class="number" data-name="95 % interval">{between}</td>'
            f'<td data-name="by seed"><span class="soft">{" · ".join(map(page.number, values))}</span></td></tr>'
        )
    return (
        '<table class="cards"><thead><tr><th scope="col">Measured</th><th scope="col" class="number">mean</th>'
        '<th scope="col" class="number">95 % interval</th><th scope="col">by seed</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _facts(claim: Mapping[str, Any]) -> str:
    seeds = claim["seeds"]
    return page.facts(
        {
            "Task": claim["task"],
            "Budget": f"{claim['budget']:,} {claim['unit']} per run" if claim["budget"] else "",
            "Seeds": f"{len(seeds)} ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else ", ".join(map(str, seeds)),
            "Measured": claim["date"],
            "Took": f"{claim['seconds']:,.0f} s",
            "Versions": f"fewer {claim['fewer']}, Python {claim['python']}, torch {claim['torch']}",
            "Machine": claim["machine"],
        }
    )
