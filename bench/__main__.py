"""Run benchmarks and keep their numbers in ``results/bench``."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from fewer import __version__
from fewer.core.errors import FewerError, nearest
from fewer.core.files import write_atomically

HERE = Path(__file__).parent
KNOWN = sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem != "measure")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(KNOWN)}; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, and nothing is written.")] = False,
) -> None:
    """Measure, print, and write results/bench/<name>.json."""
    for name in names or KNOWN:
        if name not in KNOWN:
            raise FewerError(f"unknown benchmark {name!r}; {nearest(name, KNOWN)}")
        result = importlib.import_module(f"bench.{name}").run(quick)
        show(result)
        if not quick:
            facts = {
                "name": name,
                "fewer": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            path = HERE.parent / "results" / "bench" / f"{name}.json"
            write_atomically(path, (json.dumps({**facts, **result}, indent=1) + "\n").encode())


def show(result: dict[str, Any]) -> None:
    """Print a result as a table."""
    table = Table(title=result["title"], title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("what", "ours", "peer", "times", "limit of the machine"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in result["rows"]:
        unit = row["unit"]
        peer = f"{row['peer']:.4g} {unit} ({row['peer_name']})" if row.get("peer") is not None else ""
        times = f"{row['ratio']:.1f}" if row.get("ratio") is not None else ""
        limit = row.get("limit")
        shown = f"{limit:.4g} {unit}" if isinstance(limit, int | float) else str(limit or "")
        table.add_row(row["what"], f"{row['ours']:.4g} {unit}", peer, times, shown)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
