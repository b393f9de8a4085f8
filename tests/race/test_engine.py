from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
import toy
from toy import alone, environment

from fewer.core.errors import FewerError
from fewer.race import worker
from fewer.race.engine import Counted, Event, Failed, Finished, Job, LocalEngine, Measured, Started, Stopped, work

Begun = Callable[[], list[tuple[float, int, int, int]]]


def job(hill: str, entry: str = "walk", seed: int = 0, budget: int = 4, run: str = "", **rest: object) -> Job:
    data = toy.task(hill).fingerprint()
    given = {"data": data, **rest}
    return Job(run or f"{entry} {seed}", entry, hill, budget=budget, seed=seed, compose="toy", **given)


def scores(events: list[Event], run: str) -> list[tuple[int, float]]:
    return [(each.point.spent, each.point.score) for each in events if isinstance(each, Measured) and each.run == run]


def last(events: list[Event], run: str) -> Event:
    return [each for each in events if each.run == run][-1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: set[int], within: float = 5) -> bool:
    end = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


# --- one run -----------------------------------------------------------------------------------


def test_work_tells_what_happens(hill: str) -> None:
    events = list(work(job(hill, run="r")))
    assert [type(each) for each in events] == [Started, *[Measured] * 4, Finished]
    assert scores(events, "r") == alone(hill)
    assert all(
        type(value) is float for each in events if isinstance(each, Measured) for value in each.point.extras.values()
    )
    assert pickle.loads(pickle.dumps(events)) == events


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("raise", "RuntimeError: the sky is falling"),
        ("leave", "SystemExit: 4"),
        ("diverge", "the score became nan after 3 steps; lower the learning rate"),
        ("extra", "ValueError: could not convert string to float: 'round'"),
        ("quiet", "KeyError"),
    ],
)
def test_whatever_a_run_does_is_told_in_one_line(hill: str, then: str, error: str) -> None:
    *_, failed = work(job(hill, f"walk(then={then!r})", run="r"))
    assert isinstance(failed, Failed)
    assert failed.error == error
    assert failed.traceback.startswith("Traceback") or then == "extra"
    assert "toy.py" in failed.traceback or then in ("diverge", "extra")


def test_a_run_goes_on_from_its_checkpoint(hill: str, tmp_path: Path, begun: Begun) -> None:
    checkpoint = tmp_path / "state"
    events = work(job(hill, run="r", checkpoint=checkpoint))
    seen = [next(events) for _ in range(3)]
    events.close()
    assert scores(seen, "r") == alone(hill)[:2]
    before = len(begun())
    assert scores(list(work(job(hill, run="r", checkpoint=checkpoint))), "r") == alone(hill)
    assert [step for _, _, step, _ in begun()[before : before + 2]] == [3, 4]


def test_other_data_than_the_race_was_started_with(hill: str) -> None:
    *_, failed = work(job(hill, data="0123"))
    assert isinstance(failed, Failed)
    assert failed.error.startswith(f"the data of {hill} is not what the race was started with; start it again")


# --- a worker, in this process -----------------------------------------------------------------


def test_a_worker_makes_runs_until_it_is_told_to_end(hill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()

    def leave(status: int) -> None:
        ended.put(status)
        threading.Event().wait()  # what is left of it is a thread that does nothing

    monkeypatch.setattr(worker.os, "_exit", leave)
    monkeypatch.setattr(worker, "die_with_parent", lambda parent: None)
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda count: None)  # can be set once in a process
    ours, theirs = Pipe()
    thread = threading.Thread(target=worker.main, args=(os.dup(theirs.fileno()), os.getpid(), torch.get_num_threads()))
    thread.start()
    theirs.close()
    for run in ("a", "b"):
        ours.send(job(hill, run=run))
        events = [ours.recv() for _ in range(6)]
        assert scores(events, run) == alone(hill)
        assert isinstance(events[-1], Finished)
    ours.send(job(hill, "walk(pause=0.05)", run="c", budget=100))
    ours.send("c")
    while not isinstance(event := ours.recv(), Stopped):
        assert isinstance(event, Started | Measured)
    ours.send(None)
    thread.join(5)
    assert not thread.is_alive()
    ours.close()
    assert ended.get(timeout=5) == 0


def test_a_worker_dies_with_its_driver() -> None:
    grandchild = "import os, time; from fewer.race.worker import die_with_parent; die_with_parent(os.getppid());"
    child = (
        f"import subprocess, sys; process = subprocess.Popen([sys.executable, '-c', {grandchild!r}"
        " + 'print(os.getpid(), flush=True); time.sleep(600)']); process.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
        process.wait()
        assert gone({pid})


def test_a_worker_whose_driver_is_gone_already_ends_at_once() -> None:
    code = "from fewer.race.worker import die_with_parent; die_with_parent(1); print('lives on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (1, "")


# --- workers -----------------------------------------------------------------------------------


def test_all_jobs_are_run_the_first_ones_first(engine: LocalEngine, hill: str, begun: Begun) -> None:
    jobs = [job(hill, f"walk(drift={drift})", seed) for seed in range(4) for drift in (0.1, 0.2)]
    events = list(engine.run(jobs))
    for each in jobs:
        assert scores(events, each.run) == alone(hill, each.entry, each.seed)
        assert isinstance(last(events, each.run), Finished)
    rounds = [each for each in begun() if each[-1] != os.getpid()]
    assert len(rounds) == 4 * len(jobs)
    for process in {pid for *_, pid in rounds}:  # each takes what is next when it is free
        taken = [(seed, drift) for drift, seed, _, pid in rounds if pid == process]
        assert taken == sorted(taken)


def test_no_jobs_no_workers(hill: str) -> None:
    with LocalEngine(workers=3) as engine:
        assert list(engine.run([])) == []
        assert not engine._idle


def test_workers_stay_and_keep_to_their_threads(engine: LocalEngine, hill: str, begun: Begun) -> None:
    for round in range(2):
        events = list(engine.run([job(hill, seed=seed, run=f"{round} {seed}") for seed in range(2)]))
        points = [each.point for each in events if isinstance(each, Measured)]
        assert {(point.extras["threads"], point.extras["variable"]) for point in points} == {(1.0, 1.0)}
    assert len({pid for *_, pid in begun()}) <= 2
    with LocalEngine(workers=1, threads=2) as other:
        events = list(other.run([job(hill, run="r")]))
        point = next(each.point for each in events if isinstance(each, Measured))
        assert (point.extras["threads"], point.extras["variable"]) == (2.0, 2.0)
        assert other._idle
    assert not other._idle
    assert gone({begun()[-1][-1]}, within=0)


DEATHS = {
    "kill": "its worker died with signal 9 (SIGKILL); out of memory, perhaps; start the race again to go on",
    "exit": "its worker ended with exit status 3; start the race again to go on",
    "crash": "its worker died with signal 6 (SIGABRT); start the race again to go on",
    "orphan": "its worker ended with exit status 3; start the race again to go on",
}


def test_a_worker_that_dies_takes_its_own_run_only(
    engine: LocalEngine, hill: str, begun: Begun, tmp_path: Path
) -> None:
    entries = [f"walk(then={then!r})" for then in ("", *DEATHS, "raise")]
    after = job(hill, "walk(then='crash')", run="after")  # it crashes once
    events = list(engine.run([*(job(hill, entry, run=entry) for entry in entries), after]))
    for then, error in DEATHS.items():
        failed = last(events, f"walk(then={then!r})")
        assert isinstance(failed, Failed), then
        assert failed.error.startswith(error)
        assert ("Fatal Python error: Aborted" in failed.traceback) == (then == "crash")
        assert scores(events, failed.run) == alone(hill)[:2]
    for run in ("walk(then='')", "after"):
        assert scores(events, run) == alone(hill)
        assert isinstance(last(events, run), Finished)
    orphan = int((tmp_path / "hill.orphan").read_text())
    remain = {each.process.pid for each in engine._idle} | {os.getpid()}
    assert gone({orphan, *(pid for *_, pid in begun())} - remain)


def test_closing_the_iterator_stops_what_runs(engine: LocalEngine, hill: str, begun: Begun) -> None:
    events = engine.run([job(hill, "walk(pause=0.1)", budget=1000)])
    while not isinstance(next(events), Measured):
        pass
    events.close()
    steps = len(begun())
    assert gone({pid for *_, pid in begun()}, within=0)
    time.sleep(0.2)
    assert len(begun()) == steps


def test_a_run_can_be_asked_to_end_early(engine: LocalEngine, hill: str, begun: Begun) -> None:
    events = []
    for event in engine.run([job(hill, "walk(pause=0.02)", budget=500, run="long"), job(hill, run="short")]):
        events.append(event)
        if event.run == "long" and isinstance(event, Measured):
            engine.stop("long")  # again and again, which is once
    engine.stop("long")  # it is over
    engine.stop("nobody")
    assert last(events, "long") == Stopped("long")
    assert isinstance(last(events, "short"), Finished)
    assert 1 <= len(scores(events, "long")) < 500
    assert not engine._making
    workers = {each.process.pid for each in engine._idle}
    again = list(engine.run([job(hill, budget=4, run="long")]))  # the same name is not stopped for ever
    assert isinstance(again[-1], Finished)
    assert {pid for *_, pid in begun()} <= workers


def test_samples_are_counted_between_points_where_one_asks(engine: LocalEngine, hill: str) -> None:
    entry = "stroll(pause=0.12)"
    jobs = [job(hill, entry, budget=20, run="asked", counted=True), job(hill, entry, budget=20, run="plain")]
    events = list(engine.run(jobs))
    counts = [each.spent for each in events if isinstance(each, Counted)]
    assert {each.run for each in events if isinstance(each, Counted)} == {"asked"}
    assert counts == sorted(set(counts))  # only where something has changed
    assert len([each for each in counts if 0 < each < 10]) >= 2  # a point takes 1.2 seconds
    assert len(counts) <= 12  # four times a second for 2.4 seconds
    assert scores(events, "asked") == scores(events, "plain") == alone(hill, entry, budget=20)
    own = [each for each in events if each.run == "asked"]
    assert isinstance(own[0], Started)
    assert isinstance(own[-1], Finished)
    again = list(engine.run([job(hill, "walk(pause=0.3)", run="next")]))  # nothing is told of the run before
    assert {each.run for each in again} == {"next"}
    assert not any(isinstance(each, Counted) for each in again)


def test_nothing_is_counted_behind_the_last_event_of_a_run() -> None:
    ours, theirs = Pipe()
    counter = worker.Counter(theirs, every=0.01)
    state = toy.loop("walk").start(toy.task("hill('nowhere')"), 9, 0)
    counter.watch("r", state)
    assert ours.recv() == Counted("r", 0)
    state.ledger.add("steps", 2)
    assert ours.recv() == Counted("r", 2)
    counter.send(Finished("r"), last=True)
    state.ledger.add("steps", 2)
    assert ours.recv() == Finished("r")
    assert not ours.poll(0.1)
    counter.watch("s", state)
    assert ours.recv() == Counted("s", 4)
    ours.close()
    state.ledger.add("steps", 1)
    time.sleep(0.05)  # the thread goes on without a driver
    assert counter._thread is not None
    assert counter._thread.is_alive()


def test_a_worker_that_died_while_idle_is_replaced(engine: LocalEngine, hill: str) -> None:
    list(engine.run([job(hill)]))
    died = engine._idle[-1]
    died.process.kill()
    died.process.wait()
    died.take(job(hill, run="r"))  # as if it had died between the question and the job
    assert died.hear() == Failed("r", f"{DEATHS['kill']} from the last point", "")
    events = list(engine.run([job(hill)]))
    assert isinstance(events[-1], Finished)
    assert died not in engine._idle


def test_engines_that_cannot_be(monkeypatch: pytest.MonkeyPatch, hill: str) -> None:
    with pytest.raises(FewerError, match="a worker and a thread at least; 0 and 1 were given"):
        LocalEngine(workers=0)
    with pytest.raises(FewerError, match="a worker and a thread at least; None and 0 were given"):
        LocalEngine(threads=0)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FewerError, match="cannot start a worker: No such file or directory; ask for fewer than 7"):
        list(LocalEngine(workers=7).run([job(hill)]))


def test_by_default_there_is_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 12)
    assert LocalEngine().workers == 12
    assert LocalEngine(threads=5).workers == 2
    assert LocalEngine(threads=50).workers == 1
