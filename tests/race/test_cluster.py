from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy

from fewer.core.errors import FewerError, MissingPackage
from fewer.race import race
from fewer.race.cluster import RayEngine
from fewer.race.engine import Event, Failed, Finished, Job, LocalEngine, Measured, Started, Stopped
from fewer.race.outcome import Outcome, Run

Begun = Callable[[], list[tuple[float, int, int, int]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayEngine]:
    """A cluster of two workers on this machine; starting it takes many seconds."""
    pytest.importorskip("ray")
    with RayEngine() as engine:
        yield engine


def without_seconds(outcome: Outcome) -> list[tuple]:
    return [
        (run.entry, run.seed, run.status, [(point.spent, point.score) for point in run.curve or ()])
        for run in outcome.runs
    ]


def test_a_cluster_gives_what_this_machine_gives(cluster: RayEngine, engine: LocalEngine, hill: str) -> None:
    entries = {"a": "walk(drift=0.1)", "b": "walk(drift=0.2)", "c": "walk(then='raise')"}
    outcomes = {
        name: race(hill, entries, 5, 2, compose="toy", store=":memory:", engine=chosen)
        for name, chosen in {"ray": cluster, "local": engine}.items()
    }
    assert without_seconds(outcomes["ray"]) == without_seconds(outcomes["local"])
    assert [run.error for run in outcomes["ray"].runs] == [run.error for run in outcomes["local"].runs]
    points = [point for run in outcomes["ray"].runs for point in run.curve or ()]
    assert {(point.extras["threads"], point.extras["variable"]) for point in points} == {(1.0, 1.0)}


def test_a_run_whose_worker_dies_is_taken_up_once(cluster: RayEngine, hill: str, tmp_path: Path, begun: Begun) -> None:
    told: list[tuple[Event, Run]] = []
    outcome = race(
        hill,
        ["walk(drift=0.1, then='crash')", "walk(drift=0.2, then='kill')", "walk(drift=0.3)"],
        4,
        1,
        compose="toy",
        store=tmp_path / "races.db",
        engine=cluster,
        on_event=lambda event, run: told.append((event, run)),
    )
    assert [run.status for run in outcome.runs] == ["done", "failed", "done"]
    assert outcome.runs[1].error == "its Ray worker died twice (WorkerCrashedError); start the race again to go on"
    starts = [run.entry for event, run in told if isinstance(event, Started)]
    assert sorted(starts) == sorted([*outcome.entries, *list(outcome.entries)[:2]])
    rounds = [(drift, step) for drift, _, step, _ in begun()]
    for drift, steps in {0.1: [1, 2, 3, 3, 4], 0.2: [1, 2, 3, 3], 0.3: [1, 2, 3, 4]}.items():
        assert [step for each, step in rounds if each == drift] == steps  # from its checkpoint
    assert sum(isinstance(event, Failed) for event, _ in told) == 1


def test_a_race_on_a_cluster_that_is_there_leaves_it_there(cluster: RayEngine, hill: str) -> None:
    import ray

    outcome = race(hill, ["walk"], 2, 1, compose="toy", store=":memory:", engine="ray")
    assert [run.status for run in outcome.runs] == ["done"]
    assert ray.is_initialized()


def test_closing_the_iterator_stops_what_runs(cluster: RayEngine, hill: str) -> None:
    def stop(event: Event, run: Run) -> None:
        if isinstance(event, Started):
            raise KeyboardInterrupt

    entries = ["walk(pause=0.1)", "walk(pause=0.2)"]
    with pytest.raises(KeyboardInterrupt):
        race(hill, entries, 3000, 1, compose="toy", store=":memory:", engine=cluster, on_event=stop)
    # were they not stopped, both places would be taken for minutes
    outcome = race(hill, ["walk"], 2, 1, compose="toy", store=":memory:", engine=cluster)
    assert [run.status for run in outcome.runs] == ["done"]


def test_a_run_can_be_asked_to_end_early(cluster: RayEngine, hill: str) -> None:
    data = toy.task(hill).fingerprint()
    jobs = [
        Job("long", "walk(pause=0.05)", hill, data, 2000, 0, compose="toy"),
        Job("short", "walk", hill, data, 3, 0, compose="toy"),
    ]
    ended = {}
    for event in cluster.run(jobs):
        if event.run == "long" and isinstance(event, Measured):
            cluster.stop("long")
        ended[event.run] = type(event)
    cluster.stop("long")  # it is over
    assert ended == {"long": Stopped, "short": Finished}
    assert not cluster._making
    assert not cluster._unwanted


# --- what cannot be ----------------------------------------------------------------------------


def test_engines_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FewerError, match="an engine needs a worker at least; 0 were given"):
        RayEngine(workers=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"--engine ray needs the package ray.* pip install 'fewer\[scale\]'"):
        RayEngine()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Ray was asked for; it finds no cluster."""
    calls: list[Any] = []

    def init(address: str, **settings: Any) -> None:
        calls.append((address, settings))
        raise ConnectionError("Could not find any\nrunning Ray instance")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr("fewer.race.cluster.need", lambda *_, **__: ray)
    return calls


def test_no_cluster_to_be_found(asked: list[Any]) -> None:
    with pytest.raises(
        FewerError, match=r"^no Ray cluster at auto \(Could not find any running .*\); give auto or host"
    ):
        RayEngine("auto")
    ((address, settings),) = asked
    assert address == "auto"
    assert "num_cpus" not in settings  # it is somebody else's
    assert (settings["include_dashboard"], settings["log_to_driver"]) == (False, False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://host:10001", "it is not of the form host:port"),
        ("host", "it is not of the form host:port"),
    ],
)
def test_addresses_out_of_reach(asked: list[Any], address: str, message: str) -> None:
    with pytest.raises(FewerError, match=rf"^no Ray cluster at {address} \(.*{message}\); give auto or host:6379, on"):
        RayEngine(address)
    assert not asked
