from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.core.samples import Sample, Samples
from fewer.race.outcome import Outcome, Run
from fewer.race.store import Differs, Store

ENTRIES = {"base": "random", "ours": "margin"}
SEEDS = (3, 1)
RUNS = tuple(Run(label, seed, "waiting") for seed in SEEDS for label in ENTRIES)
HASHES = ("base-3", "ours-3", "base-1", "ours-1")
PLANNED = Outcome("digits", "accuracy", "labels", 30, SEEDS, ENTRIES, RUNS)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "races.db", write=True) as opened:
        yield opened


def test_a_race_comes_back_as_it_was_planned(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    assert store.outcome(race) == PLANNED
    assert tuple(store.runs(race)) == HASHES
    assert store.begin(PLANNED, HASHES) == race
    assert len(store.races()) == 1


def test_the_life_of_a_run(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    first, second = Point(10, 0.5, {"seconds": 1.5}), Point(20, 0.7, {"seconds": 3.0, "parameters": 7.0})
    store.start("ours-1")
    assert store.record("ours-1", first)
    assert store.runs(race)["ours-1"] == Run("ours", 1, "waiting", Curve((first,)), None, 1.5)
    store.fail("ours-1", "RuntimeError: no", "Traceback: no")
    assert store.runs(race)["ours-1"] == Run("ours", 1, "failed", Curve((first,)), "RuntimeError: no", 1.5)
    assert store.traceback(race, "ours", 1) == "Traceback: no"
    store.start("ours-1")
    assert store.runs(race)["ours-1"].error is None
    assert store.traceback(race, "ours", 1) == ""
    assert not store.record("ours-1", first)
    assert store.record("ours-1", second)
    store.finish("ours-1")
    outcome = store.outcome(race)
    assert outcome.of("ours")[0] == Run("ours", 1, "done", Curve((first, second)), None, 3.0)
    assert outcome.curves("ours") == [Curve((first, second))]
    assert [run for run in outcome.runs if run.entry == "base"] == [RUNS[0], RUNS[2]]


def test_a_stopped_run_keeps_its_points_and_can_be_taken_up(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    store.record("ours-1", Point(10, 0.5))
    store.stop("ours-1", "hopeless")
    assert store.runs(race)["ours-1"] == Run("ours", 1, "stopped", Curve((Point(10, 0.5),)), "hopeless")
    assert store.outcome(race).stopped == (store.runs(race)["ours-1"],)
    assert (store.races()[0].done, store.races()[0].failed) == (0, 0)
    store.start("ours-1")
    assert store.runs(race)["ours-1"].error is None
    store.stop("ours-1", "hopeless")
    store.forget(["ours-1"])
    assert store.runs(race)["ours-1"] == Run("ours", 1, "waiting")


def test_traceback_of_a_run_that_is_not_there(store: Store) -> None:
    assert store.traceback(store.begin(PLANNED, HASHES), "base", 99) == ""


@given(
    points=st.dictionaries(
        st.integers(1, 10**15),
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False).map(lambda score: score + 0.0),  # SQLite has no -0.0
            st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=50, deadline=None)
def test_points_keep_their_bits(points: dict[int, tuple[float, dict[str, float]]]) -> None:
    with Store(":memory:", write=True) as store:
        race = store.begin(PLANNED, HASHES)
        given_points = tuple(Point(spent, *rest) for spent, rest in sorted(points.items()))
        for point in given_points:
            assert store.record("base-3", point)
        for point in given_points:
            assert not store.record("base-3", point)
        curve = store.runs(race)["base-3"].curve
        assert curve is not None
        assert curve.points == given_points
        assert [point.score.hex() for point in curve] == [point.score.hex() for point in given_points]


def test_the_same_run_does_not_score_otherwise(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    store.record("base-3", Point(10, 0.5, {"seconds": 1.0}))
    assert not store.record("base-3", Point(10, 0.5, {"seconds": 2.0}))  # a redone step may take longer
    with pytest.raises(Differs, match=r"it scored 0.6 at 10, where it had scored 0.5 at 10 when .* afresh \(--fresh\)"):
        store.record("base-3", Point(10, 0.6))
    with pytest.raises(Differs, match=r"it scored 0.5 at 5, where it had scored 0.5 at 10"):
        store.record("base-3", Point(5, 0.5))
    assert store.runs(race)["base-3"].curve == Curve((Point(10, 0.5, {"seconds": 1.0}),))


def test_races_share_their_runs_and_readers_list_them(store: Store, tmp_path: Path) -> None:
    small = Outcome("digits", "accuracy", "labels", 30, (3,), {"ours": "margin"}, (Run("ours", 3, "waiting"),))
    first, second = store.begin(small, ["ours-3"]), store.begin(PLANNED, HASHES)
    assert first != second
    store.record("ours-3", Point(30, 0.9))
    store.finish("ours-3")
    store.fail("base-1", "no", "")
    with Store(tmp_path / "races.db") as reader:
        newest, oldest = reader.races()
        assert (newest.id, newest.done, newest.failed, newest.seeds) == (second, 1, 1, SEEDS)
        assert (oldest.id, oldest.done, oldest.failed, dict(oldest.entries)) == (first, 1, 0, {"ours": "margin"})
        assert (oldest.task, oldest.metric, oldest.unit, oldest.budget) == ("digits", "accuracy", "labels", 30)
        assert oldest.created <= newest.created
        assert reader.outcome(second).of("ours")[1].status == "done"
        with pytest.raises(FewerError, match="readonly"):
            reader.finish("base-3")


def test_a_race_is_found_by_the_beginning_of_its_name(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    assert store.outcome(race[:6]).task == "digits"
    with pytest.raises(FewerError, match=r"races.db: no race begins with 'xyz'; list the races"):
        store.outcome("xyz")
    store.begin(PLANNED, [f"{run}-other" for run in HASHES])
    with pytest.raises(FewerError, match="2 races begin with ''; list the races"):
        store.outcome("")


def test_what_is_forgotten_is_as_new(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    for run in ("base-3", "base-1"):
        store.record(run, Point(10, 0.5))
        store.fail(run, "no", "at all")
    _touch(store, "base-3", "base-1")
    store.forget(["base-3"])
    assert store.runs(race)["base-3"] == RUNS[0]
    assert store.runs(race)["base-1"].status == "failed"
    assert _checkpoints(store) == ["base-1.safetensors"]
    assert store.record("base-3", Point(10, 0.25))


def test_a_checkpoint_goes_when_its_run_is_done(store: Store) -> None:
    store.begin(PLANNED, HASHES)
    assert store.checkpoint("base-3") == store.path.absolute().parent / "races.db.checkpoints" / "base-3.safetensors"
    _touch(store, "base-3", "ours-3")
    store.fail("ours-3", "no", "")
    store.finish("base-3")
    assert _checkpoints(store) == ["ours-3.safetensors"]


def test_the_run_is_durably_done_before_its_checkpoint_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    race = store.begin(PLANNED, HASHES)
    seen = []

    def look(file: Path) -> None:
        with Store(store.path) as reader:
            seen.append((file.stem, reader.runs(race)["base-3"].status))

    monkeypatch.setattr(store, "_remove", look)
    store.finish("base-3")
    assert seen == [("base-3", "done")]


def test_a_driver_clears_away_what_a_killed_one_left(tmp_path: Path) -> None:
    with Store(tmp_path / "races.db", write=True) as store:
        store.begin(PLANNED, HASHES)
        store.finish("base-3")
        _touch(store, "base-3", "ours-3")
        (tmp_path / "races.db.checkpoints" / ".ours-3.safetensors.abc.part").touch()
    Store(tmp_path / "races.db").close()
    assert len(_checkpoints(store)) == 3
    Store(tmp_path / "races.db", write=True).close()
    assert _checkpoints(store) == ["ours-3.safetensors"]


def test_points_belong_to_runs(store: Store) -> None:
    with pytest.raises(FewerError, match="FOREIGN KEY constraint failed"):
        store.record("nobody", Point(10, 0.5))


def test_a_full_disk_names_the_store_and_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    race = store.begin(PLANNED, HASHES)
    store.record("base-3", Point(10, 0.5))

    class Full:
        in_transaction = False  # SQLite rolls back by itself here

        def execute(self, statement: str, *_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store._file, "connection", Full())
        with pytest.raises(FewerError, match=r"^store of races .*races.db: database or disk is full; make room"):
            store.record("base-3", Point(20, 0.6))
    assert store.record("base-3", Point(20, 0.6))
    assert [point.spent for point in store.runs(race)["base-3"].curve or ()] == [10, 20]


def test_a_store_in_memory_keeps_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(":memory:", write=True) as store:
        store.begin(PLANNED, HASHES)
        assert store.checkpoint("base-3") is None
        store.finish("base-3")
    assert not list(tmp_path.iterdir())


def _touch(store: Store, *runs: str) -> None:
    for run in runs:
        file = store.checkpoint(run)
        assert file is not None
        file.parent.mkdir(exist_ok=True)
        file.touch()


def _checkpoints(store: Store) -> list[str]:
    assert store.checkpoints is not None
    return sorted(file.name for file in store.checkpoints.iterdir())


def made(spent: int) -> Samples:
    return Samples(spent, (Sample("a prompt", f"\x1b after {spent} \ud800", 0.5), Sample("", "", float("nan"))))


def spent(store: Store, race: str) -> list[int]:
    return [each.spent for each in store.runs(race)["ours-1"].samples]


def test_the_first_and_the_last_samples_are_kept(store: Store) -> None:
    race = store.begin(PLANNED, HASHES)
    kept = []
    for at in (0, 10, 20, 20, 30):
        store.show("ours-1", made(at))
        kept.append(spent(store, race))
    assert kept == [[0], [0, 10], [0, 20], [0, 20], [0, 30]]
    first, last = store.runs(race)["ours-1"].samples
    assert (first.rows[0], last.rows[0]) == (made(0).rows[0], made(30).rows[0])
    assert store.runs(race)["base-1"].samples == ()
    store.show("ours-1", made(0))  # it begins anew
    assert spent(store, race) == [0]
    store.forget(["ours-1"])
    assert spent(store, race) == []


def test_a_store_from_before_there_were_samples(tmp_path: Path) -> None:
    with Store(tmp_path / "old.db", write=True) as store:
        race = store.begin(PLANNED, HASHES)
        store.record("ours-1", Point(10, 0.5))
    with sqlite3.connect(tmp_path / "old.db") as db:
        db.execute("DROP TABLE samples")
    with Store(tmp_path / "old.db") as reader:
        assert reader.runs(race)["ours-1"].samples == ()
    with Store(tmp_path / "old.db", write=True) as store:
        store.show("ours-1", made(10))
        assert spent(store, race) == [10]
