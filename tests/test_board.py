from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.browser import Open, chromium, pages

from fewer import board, catalogue
from fewer.catalogue import Paper
from fewer.core.errors import FewerError

CLAIM: dict[str, Any] = {
    "says": "Covering probabilities takes fewer labels than covering features.",
    "verdict": "holds",
    "conditions": [
        {"text": "area: a is above b", "verdict": "holds", "estimate": 0.034, "low": 0.012, "high": 0.0553},
        {"text": "spent: a < b", "verdict": "unclear", "estimate": None, "low": None, "high": None},
    ],
    "task": "digits",
    "metric": "accuracy",
    "unit": "labels",
    "budget": 100,
    "seeds": [0, 1, 2],
    "entries": {"b": "activekd + coreset", "a": "activekd + pcoreset"},
    "curves": {
        name: [[[spent, 0.5 + top * spent / 100 + seed / 100] for spent in range(0, 101, 10)] for seed in range(3)]
        for name, top in {"b": 0.3, "a": 0.4}.items()
    },
    "measures": {},
    "note": "The paper's task is <larger>.",
    "tiny": False,
    "fewer": "0.1.0",
    "python": "3.11.9",
    "torch": "2.9.0",
    "machine": "2 cores, x86_64",
    "date": "2025-11-24",
    "seconds": 113.2,
}
MEASURED = {
    **CLAIM,
    "verdict": "does not hold",
    "task": "",
    "metric": "",
    "unit": "",
    "budget": 0,
    "entries": {},
    "curves": {},
    "measures": {"bytes of a": [100.0, 110.0, 120.0], "bytes of b": [None, 7.0, 7.0]},
    "note": "",
}


def working(slug: str) -> Paper:
    paper = catalogue.papers()[slug]
    name = slug.replace("-", "_")
    return dataclasses.replace(
        paper, fills=f"fewer.{paper.room}.{name}:Thing", loop=f"fewer.{paper.room}.loop:Loop", slot="query"
    )


# every paper planned but these, whatever works by now
PLANNED = {
    slug: dataclasses.replace(paper, fills=None, loop=None, slot=None) for slug, paper in catalogue.papers().items()
}
PAPERS = {**PLANNED, **{slug: working(slug) for slug in ("pcoreset", "tabm", "hast", "adaptive-rr")}}
RESULTS = {
    "pcoreset": {"paper": "pcoreset", "verdict": "holds", "claims": [CLAIM]},
    "tabm": {"paper": "tabm", "verdict": "does not hold", "claims": [MEASURED, CLAIM]},
    "adaptive-rr": {"paper": "adaptive-rr", "verdict": "unclear", "claims": [{**CLAIM, "verdict": "unclear"}]},
}


def test_verdicts() -> None:
    answers = {
        slug: board.verdict(PAPERS[slug], RESULTS) for slug in ("pcoreset", "tabm", "adaptive-rr", "hast", "drm")
    }
    assert list(answers.values()) == ["holds", "does not hold", "unclear", "not measured", "planned"]


def test_text_and_markdown_have_every_paper_with_its_verdict() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board.as_text(PAPERS, RESULTS))
    text = console.export_text()
    markdown = board.as_markdown(PAPERS, RESULTS)
    for slug in PAPERS:
        assert re.search(rf"│ {slug} ", text)
        assert f"[{slug}](https://arxiv.org/abs/{PAPERS[slug].arxiv})" in markdown
    counts = f"{len(PAPERS)} papers: 1 holds, 1 does not hold, 1 unclear, 1 not measured, {len(PAPERS) - 4} planned"
    assert counts in text
    assert counts in markdown
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")} == {5}


def test_result_without_a_paper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FewerError, match="result for 'pcorset', which is no paper; did you mean pcoreset"):
        board.write_site(tmp_path, PAPERS, {"pcorset": RESULTS["pcoreset"]})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    board.write_site(folder, PAPERS, RESULTS)
    return folder


def test_each_paper_has_its_page_and_every_link_leads_somewhere(site: Path) -> None:
    assert {file.stem for file in site.glob("*.html")} == {"index", *PAPERS}
    for file in site.glob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]*)"', file.read_text()):
            if link.startswith("data:"):
                continue
            if link.startswith("https:"):
                assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link)
            else:
                assert (site / link.split("#")[0]).is_file(), link


def test_pages_use_nothing_that_their_security_policy_forbids(site: Path) -> None:
    for file in site.glob("*.html"):
        text = file.read_text()
        assert "default-src 'none'" in text
        assert not re.search(r"<[^>]* (style|on\w+)=", text)


@pytest.fixture(scope="module")
def program() -> Any:
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(program: Any) -> Any:
    with pages(program) as opened:
        yield opened


def shown(page: Any) -> list[str]:
    return page.locator(".paper:visible").evaluate_all("papers => papers.map((paper) => paper.dataset.slug)")


@pytest.mark.browser
def test_search_as_one_types_wants_every_word(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    assert sorted(shown(page)) == sorted(PAPERS)
    search = page.locator("#search")
    search.press_sequentially("polic")
    some = shown(page)
    assert 0 < len(some) < len(PAPERS)
    for slug in some:
        paper = PAPERS[slug]
        assert "polic" in f"{slug} {paper.title} {paper.idea} {paper.room} {paper.short_of}".lower()
    search.press_sequentially("y CLONE")
    fewer = shown(page)
    assert set(fewer) < set(some)
    assert "demo-regularized" in fewer
    assert page.locator("[role=status]").inner_text() == f"{len(fewer)} of {len(PAPERS)} papers"
    search.fill("labels pcoreset")  # a room or a shortage counts as a word as well
    assert shown(page) == ["pcoreset"]


@pytest.mark.browser
def test_nothing_found_says_so_and_can_be_undone(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    page.locator("#search").fill("zzzz")
    assert page.locator(".none").is_visible()
    assert page.locator(".group:visible").count() == 0
    page.locator("#clear").click()
    assert page.locator(".none").is_hidden()
    assert len(shown(page)) == len(PAPERS)
    assert page.url.endswith("index.html")


@pytest.mark.browser
def test_filters_narrow_and_join(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    labels = page.locator("button[data-value=labels]")
    labels.click()
    assert set(shown(page)) == {slug for slug, paper in PAPERS.items() if paper.short_of == "labels"}
    page.locator("#state").select_option("works")
    assert set(shown(page)) == {"pcoreset", "hast"}
    page.locator('button[data-value="holds"]').click()
    assert shown(page) == ["pcoreset"]
    assert labels.get_attribute("aria-pressed") == "true"
    labels.click()
    assert labels.get_attribute("aria-pressed") == "false"
    page.locator('button[data-value="does not hold"]').click()
    assert shown(page) == ["tabm"]


@pytest.mark.browser
def test_sorting(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    assert page.locator(".group:visible").count() == 14
    page.locator("#sort").select_option("date")
    assert page.locator(".group:visible").count() == 0
    dates = [PAPERS[slug].published for slug in shown(page)]
    assert dates == sorted(dates, reverse=True)
    page.locator("#sort").select_option("name")
    assert shown(page) == sorted(PAPERS)
    page.locator("#sort").select_option("")
    assert page.locator(".group:visible").count() == 14


@pytest.mark.browser
def test_a_view_can_be_linked(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    page.locator("#search").fill("the policy")
    page.locator('button[data-value="environment steps"]').click()
    page.locator("#sort").select_option("date")
    page.locator("#state").select_option("planned")
    found, fragment = shown(page), "#" + page.url.partition("#")[2]
    assert found
    other = open_page(site / "index.html", fragment)
    assert shown(other) == found
    assert other.locator("#search").input_value() == "the policy"
    assert other.locator("#sort").input_value() == "date"
    assert other.locator("#state").input_value() == "planned"
    assert other.locator('button[data-value="environment steps"]').get_attribute("aria-pressed") == "true"
    other.evaluate("location.hash = '#q=pcoreset'")
    other.wait_for_function("document.querySelector('#search').value === 'pcoreset'")
    assert "pcoreset" in shown(other)


@pytest.mark.browser
def test_an_address_from_anybody_changes_the_view_and_nothing_else(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html", "#sort=constructor&verdict=<img>&q=%3Cimg%20src=x%3E&other=1")
    assert shown(page) == []
    assert page.locator("img").count() == 0
    page.locator("#clear").click()
    assert len(shown(page)) == len(PAPERS)
    assert page.locator("#sort").input_value() == ""


@pytest.mark.browser
def test_slash_goes_to_the_search(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html")
    page.keyboard.press("/")
    page.keyboard.type("a/b")
    assert page.locator("#search").input_value() == "a/b"


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "pcoreset", "tabm", "drm"])
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_no_page_is_wider_than_its_screen(open_page: Open, site: Path, name: str, width: int) -> None:
    page = open_page(site / f"{name}.html", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_dark_is_kept_from_page_to_page(open_page: Open, site: Path) -> None:
    page = open_page(site / "index.html", dark=True)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("button.theme").click()
    light = page.evaluate(background)
    assert light != dark
    page.locator(".paper a", has_text="pcoreset").click()
    assert page.locator("h1").inner_text() == PAPERS["pcoreset"].title
    assert page.evaluate(background) == light


@pytest.mark.browser
def test_page_of_a_measured_paper(open_page: Open, site: Path) -> None:
    page = open_page(site / "pcoreset.html")
    text = page.locator("main").inner_text()
    for part in (
        CLAIM["says"],
        "The paper's task is <larger>.",
        "0.012 to 0.0553",
        "spent: a < b",
        "from fewer.labels.pcoreset import Thing",
        "fewer race digits -m 'activekd + coreset' -m 'activekd + pcoreset' --budget 100 --seeds 3",
        "fewer claim pcoreset",
        "2025-11-24",
    ):
        assert part in text, part
    link = page.locator("a", has_text="arXiv:2506.00910")
    assert link.get_attribute("href") == "https://arxiv.org/abs/2506.00910"
    assert page.locator("svg.plot .line").count() == 2
    page.locator("svg.plot").focus()
    page.keyboard.press("End")
    assert page.locator(".tip tr").first.inner_text().split()[:2] == ["a", "0.910"]


@pytest.mark.browser
def test_page_of_a_paper_with_measures_and_two_claims(open_page: Open, site: Path) -> None:
    page = open_page(site / "tabm.html")
    assert page.locator("section.claim").count() == 2
    assert page.locator("section.claim .verdict").first.inner_text() == "does not hold"
    rows = page.locator("section.claim").first.locator("tr", has_text="bytes of")
    assert [part for part in rows.first.inner_text().split("\t") if part][:2] == ["bytes of a", "110"]
    assert "100 · 110 · 120" in rows.first.inner_text()
    assert "– · 7 · 7" in rows.nth(1).inner_text()
    assert page.locator("section.claim").first.locator("svg.plot").count() == 0


@pytest.mark.browser
def test_pages_of_unmeasured_and_planned_papers(open_page: Open, site: Path) -> None:
    assert "not measured yet; fewer claim hast does it" in open_page(site / "hast.html").locator("main").inner_text()
    page = open_page(site / "drm.html")
    assert "Planned: there is no code behind this paper yet." in page.locator("main").inner_text()
    assert page.locator("h2", has_text="Use it").count() == 0
    page.locator(".related a", has_text="spg").click()
    assert page.locator("h1").inner_text() == PAPERS["spg"].title


def test_the_documentation_is_linked_where_there_is_some(tmp_path):
    papers = catalogue.papers()
    board.write_site(tmp_path / "with", papers, {}, guide="docs/index.html")
    board.write_site(tmp_path / "without", papers, {})
    for name in ("index.html", "pcoreset.html"):
        assert 'href="docs/index.html"' in (tmp_path / "with" / name).read_text()
        assert "docs/index.html" not in (tmp_path / "without" / name).read_text()
