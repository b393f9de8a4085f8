"""A race stopped in the midst, in every way we could think of, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import alone, environment, scores

from fewer.core import checkpoint
from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.race.engine import Event, Measured
from fewer.race.outcome import Outcome, Run
from fewer.race.store import Store

Begun = Callable[[], list[tuple[float, int, int, int]]]


def test_a_race_that_is_interrupted_loses_nothing(run: Callable[..., Outcome], begun: Begun, hill: str) -> None:
    seen: list[int] = []

    def listen(event: Event, of: Run) -> None:
        if isinstance(event, Measured):
            seen.append(of.seed)
            if len(seen) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["walk(pause=0.05)"], budget=6, on_event=listen)
    rounds = len(begun())
    time.sleep(0.2)
    assert len(begun()) == rounds  # nobody works on
    outcome = run(["walk(pause=0.05)"], budget=6)
    assert [scores(each) for each in outcome.runs] == [alone(hill, "walk", seed, 6) for seed in (0, 1)]
    again = Counter((seed, step) for _, seed, step, pid in begun() if pid != os.getpid())
    assert sum(again.values()) <= 12 + 2  # at most the round that each of the two workers was in


def test_a_disk_that_fills_up(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, hill: str) -> None:
    record, count = Store.record, [0]

    def full(store: Store, name: str, point: Point) -> bool:
        count[0] += 1
        if count[0] == 3:
            pages = store._file.connection.execute("PRAGMA page_count").fetchone()[0]
            store._file.connection.execute(f"PRAGMA max_page_count = {pages}")
            point = Point(point.spent, point.score, {"x" * 100_000: 1.0})
        return record(store, name, point)

    monkeypatch.setattr(Store, "record", full)
    with pytest.raises(FewerError, match=r"races.db: database or disk is full; make room and start the race again"):
        run()
    monkeypatch.undo()
    outcome = run()
    assert [scores(each) for each in outcome.runs] == [alone(hill, each.entry, each.seed) for each in outcome.runs]


def test_a_worker_that_is_killed_from_outside(run: Callable[..., Outcome], begun: Begun, hill: str) -> None:
    killed = []

    def listen(event: Event, of: Run) -> None:
        if isinstance(event, Measured) and (of.entry, of.seed) == ("walk(drift=0.2, pause=0.05)", 0) and not killed:
            killed.append(next(pid for drift, seed, _, pid in begun() if (drift, seed) == (0.2, 0)))
            os.kill(killed[0], signal.SIGKILL)

    entries = ["walk(drift=0.1)", "walk(drift=0.2,pause=0.05)"]
    first = run(entries, on_event=listen)
    assert [each.status for each in first.runs] == ["done", "failed", "done", "done"]
    assert (first.failed[0].error or "").startswith("its worker died with signal 9 (SIGKILL)")
    outcome = run(entries)
    assert not outcome.failed
    for each in outcome.runs:
        assert scores(each) == alone(hill, each.entry, each.seed)
    rounds = Counter((drift, seed, step) for drift, seed, step, pid in begun() if pid != os.getpid())
    assert sum(rounds.values()) <= 16 + 1


DRIVER = """
import sys
from fewer.race import LocalEngine, race
race(sys.argv[1], ["walk(drift=0.1, pause=0.04)", "walk(drift=0.2, pause=0.04)"], int(sys.argv[3]), 2,
     store=sys.argv[2], compose="toy", engine=LocalEngine(2))
"""


@pytest.mark.parametrize(("kills", "budget"), [(2, 20), pytest.param(10, 60, marks=pytest.mark.slow)])
def test_kill_9_of_the_driver_loses_nothing_that_was_paid(
    kills: int, budget: int, hill: str, tmp_path: Path, begun: Begun
) -> None:
    rng = random.Random(kills)
    store = tmp_path / "races.db"
    saved: dict[tuple[float, int], int] = {}  # rounds in each run's checkpoint when its driver was killed
    resumed = 0
    for kill in range(kills + 1):
        before = len(begun())
        command = [sys.executable, "-c", DRIVER, hill, str(store), str(budget)]
        driver = subprocess.Popen(command, env=environment())
        if kill < kills:
            # mostly while it works, now and then while it is starting
            while kill % 4 != 3 and len(begun()) == before and driver.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4 if kill % 4 != 3 else 4))
            driver.kill()
            assert driver.wait() == -9, "done before it was killed; the walks are too short"
            assert _orphans_end(driver.pid)
        else:
            assert driver.wait() == 0

        rounds = begun()[before:]
        for drift, seed in {(drift, seed) for drift, seed, *_ in rounds}:
            steps = [step for *who, step, _ in rounds if who == [drift, seed]]
            # each goes on exactly where its last saved round ended, and does none twice
            first = saved.get((drift, seed), 0) + 1
            resumed += first > 1
            assert steps == list(range(first, first + len(steps)))
        if store.exists():
            saved |= _saved_rounds(store)

    assert resumed
    with Store(store) as reader:
        outcome = reader.outcome(reader.races()[0].id)
        kept = reader._file.connection.execute("SELECT run, spent FROM points").fetchall()
    assert [each.status for each in outcome.runs] == ["done"] * 4
    for each in outcome.runs:
        assert scores(each) == alone(hill, each.entry.replace("pause=0.04", "pause=0.0"), each.seed, budget)
    assert len(kept) == len(set(kept)) == 4 * budget
    assert not list((tmp_path / "races.db.checkpoints").iterdir())


def _saved_rounds(store: Path) -> dict[tuple[float, int], int]:
    found = {}
    with Store(store) as reader:
        for name, each in reader.runs(reader.races()[0].id).items():
            file = reader.checkpoint(name)
            drift = float(each.entry[len("walk(drift=") :].split(",")[0])
            if each.status == "done":
                found[drift, each.seed] = reader.races()[0].budget
            elif file is not None and file.exists():
                found[drift, each.seed] = len(checkpoint.load(file)["curve"])
                assert len(scores(each)) <= found[drift, each.seed]  # no point is stored that could be lost
    return found


def _orphans_end(driver: int) -> bool:
    """Wait until no worker of this driver is left (they have its process id among their arguments)."""
    for _ in range(250):
        if not any(b"fewer.race.worker" in words and str(driver).encode() in words for words in _commands()):
            return True
        time.sleep(0.02)
    return False


def _commands() -> list[list[bytes]]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().split(b"\0"))
        except OSError:  # it has just ended
            continue
    return found
