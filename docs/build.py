"""Write the pages that are made from results: the speed table and the board, which is the front page."""

from __future__ import annotations

import json
from pathlib import Path

from fewer import board, catalogue
from fewer.claim import load_results
from fewer.core.files import write_atomically

ROOT = Path(__file__).parents[1]


def speed() -> str:
    """The measured speeds as Markdown."""
    lines = [
        "# Speed",
        "",
        "Each row was measured against the named peer on the same work in one run, by `make bench`. The limit is what",
        "the machine itself sets. All numbers are medians, on the machine named above each table.",
        "",
    ]
    for path in sorted((ROOT / "results" / "bench").glob("*.json")):
        result = json.loads(path.read_text())
        lines += [f"## {result['title'][0].upper()}{result['title'][1:]}", ""]
        threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
        lines += [f"{result['machine']}, {threads}, torch {result['torch']}, {result['date']}.", ""]
        lines += ["| what | ours | peer | times | limit |", "|---|---:|---:|---:|---:|"]
        for row in result["rows"]:
            peer = f"{row['peer']:.3g} {row['unit']} ({row['peer_name']})" if row.get("peer") is not None else ""
            ratio = row.get("ratio")
            times = "" if ratio is None else f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"
            limit = row.get("limit")
            shown = f"{limit:.3g} {row['unit']}" if isinstance(limit, int | float) else str(limit or "")
            if row.get("limit_is"):
                shown += f" ({row['limit_is']})"
            lines.append(f"| {row['what']} | {row['ours']:.3g} {row['unit']} | {peer} | {times} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def working_papers() -> str:
    """The papers that work with their verdicts, as the README shows them."""
    results = load_results(ROOT / "results" / "claims")
    lines = ["| paper | short of | what it does | its claim here |", "|---|---|---|---|"]
    for slug, paper in catalogue.papers().items():
        if paper.fills:
            title = f"[`{slug}`](https://arxiv.org/abs/{paper.arxiv})"
            lines.append(f"| {title} | {paper.short_of} | {paper.idea} | {board.verdict(paper, results)} |")
    return "\n".join(lines)


def with_papers(readme: str) -> str:
    """The README with its table made anew."""
    head, _, rest = readme.partition("<!-- board -->")
    _, _, tail = rest.partition("<!-- /board -->")
    return f"{head}<!-- board -->\n{working_papers()}\n<!-- /board -->{tail}"


if __name__ == "__main__":
    write_atomically(ROOT / "README.md", with_papers((ROOT / "README.md").read_text(encoding="utf-8")).encode())
    write_atomically(ROOT / "docs" / "speed.md", speed().encode())
    results = load_results(ROOT / "results" / "claims")
    board.write_site(ROOT / "site", catalogue.papers(), results, guide="docs/index.html")
