from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fewer.race import race
from fewer.race.engine import LocalEngine
from fewer.race.outcome import Outcome

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # for workers too, which get our path: they import the toy
    sys.path.insert(0, HERE)


@pytest.fixture
def hill(tmp_path: Path) -> str:
    """The spec of a toy task of its own."""
    file = tmp_path / "hill"
    file.write_bytes(b"steep")
    return f"hill({str(file)!r})"


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[], list[tuple[float, int, int, int]]]:
    """Every round that was begun on the toy task: drift, seed, round, process."""

    def read() -> list[tuple[float, int, int, int]]:
        log = tmp_path / "hill.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(float(drift), int(seed), int(step), int(pid)) for drift, seed, step, pid in map(str.split, lines)]

    return read


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    """Two workers that stay for the whole session: starting one takes seconds."""
    with LocalEngine(workers=2) as made:
        yield made


@pytest.fixture
def run(hill: str, engine: LocalEngine, tmp_path: Path) -> Callable[..., Outcome]:
    """Race on the toy task in a store of this test."""

    def start(
        entries: Any = ("walk(drift=0.1)", "walk(drift=0.2)"), budget: int = 4, seeds: Any = 2, **rest: Any
    ) -> Outcome:
        given = {"engine": engine, "store": tmp_path / "races.db", "compose": "toy", **rest}
        return race(given.pop("task", hill), entries, budget, seeds, **given)

    return start
