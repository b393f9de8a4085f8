from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.browser import Open, chromium, pages
from tests.race.outcomes import SEEDS, made, mixed, stopped

from fewer.core.curve import Curve
from fewer.race import report
from fewer.race.outcome import Outcome, Run


@pytest.fixture
def outcome() -> Outcome:
    return mixed()


# --- words -------------------------------------------------------------------------------------


def test_sentence_sorts_by_need_and_names_failures(outcome: Outcome) -> None:
    said = report.sentence(outcome, 0.75)
    assert re.fullmatch(
        r"To reach 0.75 accuracy on digits: hast needs \d+ labels \(too few runs\), "
        r"margin \d+ \(\d+ to \d+\), random more than 100 \(0 of 5 runs reached it\)\. "
        r"Runs that failed and are left out: 1 of 5 of hast, 5 of 5 of lost\.",
        said,
    )


def test_sentence_says_what_its_first_interval_is() -> None:
    assert re.search(
        r"margin needs \d+ labels \(95 % interval \d+ to \d+\)", report.sentence(made({"margin": 0.8}), 0.75)
    )


def test_sentence_never_calls_a_count_of_runs_an_interval() -> None:
    said = report.sentence(made({"random": 0.7}), 0.9)
    assert said == "To reach 0.9 accuracy on digits: random needs more than 100 labels (0 of 5 runs reached it)."


def test_sentence_tells_of_runs_that_missed_the_target() -> None:
    said = report.sentence(made({"random": 0.7}), 0.71)
    assert re.search(r"needs \d+ labels \(95 % interval \d+ (to \d+|or more); 4 of 5 runs reached it\)\.", said)


def test_sentence_without_target_gives_final_scores(outcome: Outcome) -> None:
    said = report.sentence(outcome)
    assert said.startswith("With 100 labels on digits: hast ends at 0.91")
    assert "accuracy (95 % interval 0." in said
    assert "margin at 0.820 (" in said


def test_one_run_has_no_interval() -> None:
    outcome = Outcome("t", "m", "u", 9, (0,), {"a": "a"}, (Run("a", 0, "done", Curve.of([(0, 0.0), (9, 1.0)])),))
    assert report.sentence(outcome) == "With 9 u on t: a ends at 1.00 m."
    assert report.sentence(outcome, 0.5) == "To reach 0.5 m on t: a needs 4 u (too few runs)."


def test_sentence_of_an_unfinished_and_of_a_failed_race() -> None:
    waiting = dataclasses.replace(made({"a": 0.7}), runs=tuple(Run("a", seed, "waiting") for seed in SEEDS))
    assert report.sentence(waiting) == "Runs on digits not finished yet: 5 of 5."
    assert report.sentence(made({"a": 0.7}, {"a": SEEDS})) == "All 5 runs on digits failed."
    assert report.sentence(dataclasses.replace(waiting, runs=())) == "There is no run on digits."


def test_stopped_runs_are_named_everywhere_and_left_out(tmp_path: Path) -> None:
    outcome = stopped()
    said = report.sentence(outcome)
    assert said.endswith("Runs that were stopped as hopeless and are left out: 2 of 5 of random.")
    assert "not finished yet" not in said
    assert "3 done, 2 stopped" in report.as_markdown(outcome)
    rows = {row.entry: row for row in report.table(outcome)}
    assert (rows["random"].done, rows["random"].stopped, rows["margin"].stopped) == (3, 2, 0)
    report.html(outcome, tmp_path / "race.html")
    text = (tmp_path / "race.html").read_text()
    assert "Runs that were stopped" in text
    assert text.count("its chance to end above 0.84 (margin, seed 4) 0.12%") == 2
    assert "Runs that failed" not in text


def test_text_table_shows_every_entry_and_survives_markup(outcome: Outcome) -> None:
    odd = dataclasses.replace(made({"[red]a[/]": 0.7, "b": 0.8}))
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.as_text(odd, 0.75))
    console.print(report.as_text(outcome, 0.75))
    text = console.export_text()
    assert "[red]a[/]" in text
    assert "labels to 0.75" in text
    assert "4 done, 1 failed" in text
    assert re.search(r"lost .*–.*–.*–.*–.*0 done, 5 failed", text)


def test_markdown_has_as_many_cells_in_every_line() -> None:
    text = report.as_markdown(made({"a|b": 0.7, "c": 0.8}), 0.75)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert r"a\|b" in text


def test_command_quotes_for_the_shell() -> None:
    outcome = Outcome("csv('my file.csv')", "accuracy", "labels", 50, (2, 3), {"x": "hast + pcoreset"}, ())
    assert report.command(outcome, 0.8) == (
        "fewer race 'csv('\"'\"'my file.csv'\"'\"')' -m 'hast + pcoreset' --budget 50 --seeds 2 --first-seed 2 "
        "--target 0.8 --report race.html"
    )


# --- the page ----------------------------------------------------------------------------------


def embedded(file: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', file.read_text(), re.S)
    return json.loads(text)


def test_page_is_one_small_file_with_nothing_from_elsewhere(tmp_path: Path) -> None:
    outcome = made({f"entry {i}": 0.6 + i / 50 for i in range(8)})
    report.html(outcome, tmp_path / "race.html", 0.75)
    text = (tmp_path / "race.html").read_text()
    assert len(text.encode()) < 200_000
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "@import" not in text
    assert "url(" not in text.replace("url(#$", "")


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    curves = [Curve.of((n, n / 5000 + seed / 100) for n in range(5001)) for seed in SEEDS]
    runs = tuple(Run("a", seed, "done", curve) for seed, curve in enumerate(curves))
    report.html(Outcome("t", "m", "u", 5000, SEEDS, {"a": "a"}, runs), tmp_path / "race.html")
    (series,) = embedded(tmp_path / "race.html")["series"]
    assert len(series["x"]) <= 150
    assert (series["x"][0], series["x"][-1]) == (0, 5000)
    assert series["mean"][-1] == pytest.approx(1.02)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!--\u2028"
    outcome = dataclasses.replace(made({bad: 0.8, "b": 0.7}, {"b": (1,)}), task="<b>&task", unit="</script>")
    report.html(outcome, tmp_path / "race.html", 0.75)
    assert embedded(tmp_path / "race.html")["series"][0]["name"] == bad
    text = (tmp_path / "race.html").read_text()
    assert "<script>alert" not in text
    assert "<b>" not in text
    assert "<went>" not in text


@pytest.fixture(scope="module")
def program() -> Any:
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(program: Any) -> Any:
    with pages(program) as opened:
        yield opened


@pytest.fixture
def file(outcome: Outcome, tmp_path: Path) -> Path:
    report.html(outcome, tmp_path / "race.html", 0.75)
    return tmp_path / "race.html"


@pytest.mark.browser
def test_bad_names_are_shown_as_text(open_page: Open, tmp_path: Path) -> None:
    bad = "</script><img src=x onerror=alert(1)>"
    report.html(made({bad: 0.8, "b": 0.7}), tmp_path / "race.html", 0.75)
    page = open_page(tmp_path / "race.html")
    assert bad in page.locator(".legend button").first.inner_text()
    assert page.locator("main img").count() == 0


@pytest.mark.browser
def test_headers_sort_by_click_and_by_key_with_missing_values_last(open_page: Open, file: Path) -> None:
    page = open_page(file)

    def entries() -> list[str]:
        return [text.split("\n")[0] for text in page.locator("table.sortable tbody th").all_inner_texts()]

    header = page.locator("table.sortable th", has_text="mean accuracy")
    assert page.locator("th[aria-sort]").inner_text().startswith("labels to 0.75")
    assert entries() == ["hast", "margin", "random", "lost"]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert entries() == ["hast", "margin", "random", "lost"]
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert entries() == ["random", "margin", "hast", "lost"]
    page.locator("table.sortable th button", has_text="entry").click()
    assert page.locator("th[aria-sort]").count() == 1
    assert entries() == ["hast", "lost", "margin", "random"]
    header.locator("button").click()
    assert entries() == ["hast", "margin", "random", "lost"]


@pytest.mark.browser
def test_hover_reads_the_curves(open_page: Open, file: Path) -> None:
    page = open_page(file)
    plot, tip = page.locator("svg.plot"), page.locator(".tip")
    assert tip.is_hidden()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    assert tip.is_visible()
    text = tip.inner_text()
    assert re.match(r"\d+ labels", text)
    assert text.index("hast") < text.index("margin") < text.index("random")  # as the scores are
    spent = int(text.split()[0])
    assert f"{0.5 + 0.32 * spent / 100:.3f}" in tip.locator("tr", has_text="margin").inner_text()
    assert " to " in tip.locator("tr", has_text="margin").inner_text()
    page.mouse.move(box["x"], box["y"] - 60)
    assert tip.is_hidden()


@pytest.mark.browser
def test_arrow_keys_read_the_curves_too(open_page: Open, file: Path) -> None:
    page = open_page(file)
    page.locator("svg.plot").focus()
    page.keyboard.press("End")
    assert page.locator(".tip").inner_text().startswith("100 labels")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".tip").inner_text().startswith("90 labels")
    page.keyboard.press("Escape")
    assert page.locator(".tip").is_hidden()


@pytest.mark.browser
def test_legend_takes_entries_out_and_puts_them_back(open_page: Open, file: Path) -> None:
    page = open_page(file)
    lines = page.locator("svg.plot .line")
    assert lines.count() == 3  # the fourth entry has no curve
    button = page.locator(".legend button", has_text="margin")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert lines.count() == 2
    for each in page.locator('.legend button[aria-pressed="true"]').all_inner_texts():
        page.locator(".legend button", has_text=each).click()
    assert "No entry is shown" in page.locator("svg.plot").text_content()
    button.click()
    assert lines.count() == 1


@pytest.mark.browser
def test_target_has_its_line(open_page: Open, file: Path) -> None:
    assert open_page(file).locator("text.target-label").text_content() == "target 0.75"


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.browser
def test_dark_follows_the_system_and_the_toggle_and_paper_is_light(open_page: Open, file: Path) -> None:
    light = open_page(file).evaluate(BACKGROUND)
    page = open_page(file, dark=True)
    dark = page.evaluate(BACKGROUND)
    assert light != dark
    page.locator("button.theme").click()
    assert page.evaluate(BACKGROUND) == light
    page.reload()
    assert page.evaluate(BACKGROUND) == light  # it is remembered
    page.locator("button.theme").click()
    assert page.evaluate(BACKGROUND) == dark
    page.emulate_media(media="print")
    assert page.evaluate(BACKGROUND) == light


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 375, 768])
def test_no_page_is_wider_than_its_screen(open_page: Open, tmp_path: Path, width: int) -> None:
    name = "a-very-long-entry-name(with_arguments=123456789, and_more='of them')"
    report.html(made({name: 0.8, "b": 0.7}, {"b": (1,)}), tmp_path / "race.html", 0.75)
    page = open_page(tmp_path / "race.html", width=width)
    box = page.locator("svg.plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50)
    assert page.locator(".tip").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_a_race_in_which_all_failed_still_has_a_page(open_page: Open, tmp_path: Path) -> None:
    report.html(made({"a": 0.7, "b": 0.8}, {"a": SEEDS, "b": SEEDS}), tmp_path / "race.html", 0.75)
    page = open_page(tmp_path / "race.html")
    text = page.locator("main").inner_text()
    assert "All 10 runs on digits failed." in text
    assert "there are no curves to draw" in text
    assert "Diverged: seed 3 <went> wrong" in text
    assert page.locator("svg.plot").count() == 0
