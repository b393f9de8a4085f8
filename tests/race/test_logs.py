from __future__ import annotations

import csv
import sys

import pytest

from fewer import curve_files
from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError, MissingPackage
from fewer.event_files import scalars
from fewer.race import LocalEngine, race
from fewer.race.engine import Finished, Measured
from fewer.race.logs import CurveLog, RaceLogs, as_csv
from fewer.race.outcome import Run

POINTS = (
    Point(10, 0.1 + 0.2, {"seconds": 1.5}),
    Point(20, -1e-300, {"seconds": 2.5, "late": 1 / 3}),
    Point(30, 0.75, {"late": 7.0, "seconds": 3.5}),
)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_every_number_to_the_bit(tmp_path):
    with CurveLog(tmp_path / "curve.csv") as log:
        for count in (0, 1, 2, 2, 3):
            log.write(POINTS[:count])
    read = rows(tmp_path / "curve.csv")
    assert [(int(row["samples"]), float(row["score"])) for row in read] == [
        (point.spent, point.score) for point in POINTS
    ]
    assert [{name: float(row[name]) for name in point.extras} for row, point in zip(read, POINTS, strict=True)] == [
        dict(point.extras) for point in POINTS
    ]
    assert read[0]["late"] == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "curve.csv"]  # no event file was asked for
    assert curve_files.read(tmp_path / "curve.csv").curves[0].final == 0.75


def test_a_table_without_points_has_its_head():
    assert as_csv([]) == "samples,score\n"


def test_tensorboard_reads_what_was_written(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with CurveLog(tmp_path) as log:
        log.write(POINTS[:1])
        log.write(POINTS)
    (tmp_path / "events.out.tfevents.1.other").write_bytes(b"")
    with CurveLog(tmp_path) as log:  # the run was started again: nothing is there twice
        log.write(POINTS)
    assert len(list(tmp_path.glob("*tfevents*"))) == 2
    found = accumulators.EventAccumulator(str(tmp_path))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["late", "score", "seconds"]
    assert [(each.step, each.value) for each in found.Scalars("score")] == [
        (point.spent, pytest.approx(point.score)) for point in POINTS
    ]
    assert [each.step for each in found.Scalars("late")] == [20, 30]
    ours = next(tmp_path.glob("*.fewer"))
    assert scalars(ours)["seconds"] == {10: 1.5, 20: 2.5, 30: 3.5}


def test_a_missing_tensorboard_is_said_and_the_table_does_without(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingPackage, match=r"needs the package tensorboard.*fewer\[tensorboard\]"):
        CurveLog(tmp_path)
    with pytest.raises(MissingPackage, match="needs the package tensorboard"):
        RaceLogs(tmp_path)
    CurveLog(tmp_path / "x.csv").close()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FewerError, match="cannot write"):
        CurveLog(tmp_path / "file" / "x.csv")


def test_a_race_logs_each_run_and_what_it_had_before(tmp_path):
    asked = {"task": "digits", "entries": ["margin"], "budget": 30, "store": tmp_path / "r.db"}
    with LocalEngine(workers=1) as engine, RaceLogs(tmp_path / "logs") as logs:
        race(**asked, seeds=1, engine=engine)
        outcome = race(**asked, seeds=2, engine=engine, on_event=logs)
    for seed, curve in zip((0, 1), outcome.curves("margin"), strict=True):
        folder = tmp_path / "logs" / "margin" / f"seed-{seed}"
        assert [(int(row["samples"]), float(row["score"])) for row in rows(folder / "progress.csv")] == [
            (point.spent, point.score) for point in curve
        ]
        assert "seconds" in rows(folder / "progress.csv")[0]
        assert list(scalars(folder)["score"]) == [point.spent for point in curve]


def test_labels_become_folders_that_differ(tmp_path):
    labels = ["a(b='x/y') + c", "a(b='x:y') + c", "..", "z" * 300]
    with RaceLogs(tmp_path) as logs:
        for label in labels:
            run = Run(label, 0, "running", curve=Curve(POINTS[:1]))
            logs(Measured("r", POINTS[0]), run)
            logs(Finished("r"), Run(label, 0, "done", curve=Curve(POINTS)))
    tables = sorted(tmp_path.rglob("progress.csv"))
    assert len(tables) == len(labels)
    assert all(path.parents[2] == tmp_path for path in tables)
    assert all(len(rows(path)) == 3 for path in tables)
