"""What runs made, in the terminal and on the page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.browser import chromium, pages
from tests.race.outcomes import made as race_of

from fewer.core.samples import Sample, Samples
from fewer.race import made, report
from fewer.race.outcome import Outcome, Run

FIRST = Samples(0, (Sample("1 + 1 =", "3", 0.0), Sample("2 + 2 =", "", 0.0)))
LAST = Samples(1600, (Sample("1 + 1 =", "2", 1.0), Sample("2 + 2 =", "4", 1.0)))


def showing(**samples: tuple[Samples, ...]) -> Outcome:
    """A race whose first seed of each entry shows something."""
    whole = race_of(dict.fromkeys(samples, 0.7))
    runs = [dataclasses.replace(run, samples=samples[run.entry]) if run.seed == 0 else run for run in whole.runs]
    return dataclasses.replace(whole, runs=tuple(runs))


def text(outcome: Outcome, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(made.as_text(outcome))
    return console.export_text()


def page(outcome: Outcome, folder: Path) -> str:
    report.html(outcome, folder / "race.html")
    return (folder / "race.html").read_text()


def test_a_race_that_shows_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    outcome = race_of({"a": 0.7})
    assert made.as_text(outcome) is None
    assert "What they made" not in page(outcome, tmp_path)


def test_first_and_last_stand_beside_each_other(tmp_path: Path) -> None:
    outcome = showing(grpo=(FIRST, LAST), remax=(FIRST,))
    shown = text(outcome)
    assert re.search(r"grpo +│ 1 \+ 1 = +│ 3 +│ 2 ", shown)
    assert re.search(r"seed 0 +│ +│ score 0 +│ score 1 ", shown)
    assert re.search(r"grpo +│ 2 \+ 2 = +│ nothing +│ 4 ", shown)
    assert re.search(r"remax +│ 1 \+ 1 = +│ 3 +│ +│", shown)
    html = page(outcome, tmp_path)
    assert html.count("after 1,600 labels") == 3  # a head, and for narrow screens each cell
    assert "<pre>1 + 1 =</pre></th>" in html
    assert '<p class="soft">nothing</p><span class="soft">score 0</span>' in html
    assert html.index("grpo, seed 0") < html.index("remax, seed 0")


def test_a_run_that_has_only_what_it_made_last() -> None:
    assert re.search(r"1 \+ 1 = +│ +│ 2 ", text(showing(a=(LAST,))))


def test_the_terminal_shows_a_few_rows_and_short_ones() -> None:
    rows = tuple(Sample(f"question {n}", "word " * 400 + "end", 0.5) for n in range(9))
    shown = text(showing(a=(Samples(5, rows),)), width=80)
    assert "question 2" in shown
    assert "question 3" not in shown
    assert "characters left" in shown
    assert "end" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) < 60


def test_the_run_with_both_ends_is_chosen() -> None:
    outcome = showing(a=(FIRST,), b=())
    runs = [dataclasses.replace(run, samples=(FIRST, LAST)) if run.seed == 3 else run for run in outcome.runs]
    chosen = made.chosen(dataclasses.replace(outcome, runs=tuple(run for run in runs if run.entry == "a")))
    assert [(run.entry, run.seed) for run in chosen] == [("a", 3)]
    assert [(run.entry, run.seed) for run in made.chosen(outcome)] == [("a", 0)]


BAD = Samples(3, (Sample("</pre><script>alert(1)</script>", "<img src=x onerror=alert(1)> [bold]&amp;", 0.25),))


def test_markup_is_text(tmp_path: Path) -> None:
    outcome = showing(a=(BAD,))
    html = page(outcome, tmp_path)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt; [bold]&amp;amp;" in html
    assert "[bold]" in text(outcome)


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 1280])
def test_a_reader_sees_it_whole(tmp_path: Path, width: int) -> None:
    long = Samples(9, (Sample("x" * 500, "y" * 800, 1.0),))
    report.html(showing(a=(BAD, long), b=(FIRST, LAST)), tmp_path / "race.html")
    with chromium() as program, pages(program) as opened:
        seen = opened(tmp_path / "race.html", width=width)
        assert seen.evaluate("document.documentElement.scrollWidth") <= width
        tables = seen.locator("table.made")
        assert "<img src=x onerror=alert(1)> [bold]&amp;" in tables.first.inner_text()
        assert seen.locator("main img").count() == 0
        assert "at first" in tables.last.inner_text()


def test_showing_keeps_the_first_and_the_last() -> None:
    run, kept = Run("a", 0, "running"), []
    for spent in (0, 10, 20, 20, 30):
        run = run.showing(Samples(spent, FIRST.rows))
        kept.append([each.spent for each in run.samples])
    assert kept == [[0], [0, 10], [0, 20], [0, 20], [0, 30]]
    assert [each.spent for each in run.showing(FIRST).samples] == [0]  # it began anew
