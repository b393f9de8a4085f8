from __future__ import annotations

import pytest
from tests.test_event_files import event, simple, write

from fewer import curve_files
from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.race.outcome import Outcome, Run
from fewer.race.store import Store


def pairs(measured):
    return [[(point.spent, point.score) for point in curve] for curve in measured.curves]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("samples,score\n10,0.5\n20,0.75\n", None),
        ("10,0.5\n20,0.75\n", None),
        ("\ufeffa,b\r\n10,0.5\r\n\r\n20,0.75\r\n", None),
        ("time,Accuracy,Epoch\n1,0.5,10\n2,0.75,20\n", None),
        ("epoch,accuracy,other\n10,0.1,0.5\n20,0.2,0.75\n", ("epoch", "other")),
        ("step,score,loss\n10,0.5,3\n15,,2\n20,0.75,1\n", None),
    ],
)
def test_csv_files_as_people_write_them(tmp_path, text, columns):
    file = tmp_path / "curve.csv"
    file.write_text(text, encoding="utf-8")
    assert pairs(curve_files.read(file, columns=columns)) == [[(10, 0.5), (20, 0.75)]]


def test_a_column_of_runs_gives_a_curve_each(tmp_path):
    file = tmp_path / "curves.csv"
    file.write_text("run,labels,accuracy\na,10,0.5\nb,10,0.25\na,20,0.75\n")
    measured = curve_files.read(file)
    assert pairs(measured) == [[(10, 0.5), (20, 0.75)], [(10, 0.25)]]
    assert (measured.metric, measured.unit) == ("accuracy", "labels")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", None, "is empty"),
        ("samples,score\n", None, "has no row with a score"),
        ("a,b,c\n1,2,3\n", None, "has the columns a, b, c; say which are the samples and the score: --columns A,B"),
        ("a,b\n1,2\n", ("a", "d"), "has no column 'd'"),
        ("samples,score\n1,0.5,3\n", None, "row 1 has 3 cells, the first line has 2"),
        ("samples,score\n1,high\n", None, "row 1 has '1' samples and score 'high'"),
        ("samples,score\n1,nan\n", None, "scores finite ones"),
        ("samples,score\n1.5,0.5\n", None, "samples must be whole numbers"),
        ("samples,score\n20,0.5\n10,0.6\n", None, "curve.csv: a curve's samples must increase, but 10 follows 20"),
        ("run,samples,score\nb,1,0.5\nb,1,0.6\n", None, "curve.csv, run b: a curve's samples must increase"),
    ],
)
def test_csv_files_that_are_no_curves(tmp_path, text, columns, message):
    file = tmp_path / "curve.csv"
    file.write_text(text)
    with pytest.raises(FewerError, match=message):
        curve_files.read(file, columns=columns)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FewerError, match="there is no file"):
        curve_files.read(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(FewerError, match="cannot be read as CSV"):
        curve_files.read(tmp_path / "bytes.csv")


def test_event_files_are_found_in_folders(tmp_path):
    for run, values in {"a": (0.5, 0.75), "b": (0.25, 0.5)}.items():
        write(tmp_path / run / "events.out.tfevents.1", *(event(k, simple("acc", v)) for k, v in enumerate(values)))
    measured = curve_files.read(tmp_path)
    assert pairs(measured) == [[(0, 0.5), (1, 0.75)], [(0, 0.25), (1, 0.5)]]
    assert (measured.metric, measured.unit) == ("acc", "steps")
    assert pairs(curve_files.read(tmp_path / "a" / "events.out.tfevents.1")) == [[(0, 0.5), (1, 0.75)]]
    with pytest.raises(FewerError, match="has no scalar 'accuracy'"):
        curve_files.read(tmp_path, tag="accuracy")
    write(tmp_path / "a" / "events.out.tfevents.2", event(1, simple("loss", 1.0)))
    with pytest.raises(FewerError, match="has the scalars acc, loss; say which one: --tag NAME"):
        curve_files.read(tmp_path)
    assert pairs(curve_files.read(tmp_path, tag="loss")) == [[(1, 1.0)]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FewerError, match="there is no event file in"):
        curve_files.read(tmp_path / "empty")


def test_a_store_of_races(tmp_path):
    path = tmp_path / "races.db"
    runs = tuple(Run(entry, seed, "waiting") for seed in (0, 1) for entry in ("base", "ours"))
    planned = Outcome("digits", "accuracy", "labels", 30, (0, 1), {"base": "random", "ours": "margin"}, runs)
    with Store(path, write=True) as store:
        race = store.begin(planned, ["b0", "o0", "b1", "o1"])
        store.record("o0", Point(10, 0.5))
        store.record("o0", Point(20, 0.75))
        store.finish("o0")
        store.record("o1", Point(10, 0.25))
    measured = curve_files.read(path, entry="ours")
    assert pairs(measured) == [[(10, 0.5), (20, 0.75)], [(10, 0.25)]]
    assert (measured.metric, measured.unit) == ("accuracy", "labels")
    assert pairs(curve_files.read(path, entry="ours", race=race[:4])) == pairs(measured)
    for given, message in {
        (None, None): r"has several entries; say whose curves: --entry NAME \(base, ours\)",
        ("our", None): "has no entry 'our'; did you mean ours",
        ("base", None): "no run of base has a point yet",
        ("ours", "zz"): "no race begins with 'zz'",
    }.items():
        with pytest.raises(FewerError, match=message):
            curve_files.read(path, entry=given[0], race=given[1])
