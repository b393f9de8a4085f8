"""The memory of an annotation, and the tables that come back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.labels.annotation import Annotation, resume, returned
from fewer.labels.pool_files import open_pool


@pytest.fixture
def begun():
    annotation = Annotation("/pool.csv", "margin", None, "p_*", "label", 3)
    annotation.asked = np.array([4, 2, 9])
    return annotation


def table(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


class TestReturned:
    @pytest.mark.parametrize(
        "text",
        [
            "row,label\n4,cat\n2,\n9,3.0\n",
            "row;note;label\n4;a,b;cat\n2;x;NA\n9;;3\n",
            '"label","row"\n"cat ","4"\n"nan","2"\n"3","9"\n',
            "row,rank,label\n4.0,1,cat\n2.0,2,\n9.0,3,3\n,,\n",
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_tables_as_spreadsheets_write_them(self, text, encoding, tmp_path):
        assert returned(table(tmp_path / "a.csv", text, encoding), "label") == [(4, "cat"), (9, "3")]

    @pytest.mark.parametrize("labels", [["cat", None, "3"], ["cat", "", "3.0"]])
    def test_parquet(self, labels, tmp_path):
        pq.write_table(pa.table({"row": [4, 2, 9], "y": labels}), tmp_path / "a.parquet")
        assert returned(tmp_path / "a.parquet", "y") == [(4, "cat"), (9, "3")]

    def test_numpy(self, tmp_path):
        np.savez(tmp_path / "a.npz", row=np.array([4, 2, 9]), label=np.array([1.0, np.nan, 3.0]))
        assert returned(tmp_path / "a.npz", "label") == [(4, "1"), (9, "3")]

    @pytest.mark.parametrize(
        ("name", "text", "says"),
        [
            ("a.xlsx", "", "cannot read labels from .*; save them as CSV in UTF-8"),
            ("b.csv", None, "there is no file"),
            ("a.csv", "", "no column names"),
            ("a.csv", "id,label\n1,cat\n", "no column 'row'"),
            ("a.csv", "row,lable\n1,cat\n", r"no column 'label' \(did you mean lable\?\)"),
            ("a.csv", "row,label\nx,cat\n", "'x' is no row number"),
            ("a.csv", "row,label\n,cat\n", "'' is no row number"),
            ("a.csv", "row,label\n-1,cat\n", "'-1' is no row number"),
            ("a.csv", "row,label\n1\n", "cannot read"),
        ],
    )
    def test_complaints(self, name, text, says, tmp_path):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(FewerError, match=says):
            returned(tmp_path / name, "label")


class TestTakeBack:
    def test_labels_skips_and_corrections(self, begun, tmp_path):
        begun.take_back(table(tmp_path / "a.csv", "row,label\n4,cat\n2,\n"))
        begun.take_back(table(tmp_path / "b.csv", "row,label\n9,dog\n4,cow\n2,\n"))
        assert begun.labels == {4: "cow", 9: "dog"}
        begun.take_back(table(tmp_path / "a.csv", "row,label\n4,\n2,cat\n"))
        assert begun.labels == {4: "cow", 9: "dog", 2: "cat"}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("row,label\n5,cat\n", "row 5 was never asked for"),
            ("row,label\n4,cat\n4,dog\n", "row 4 is labelled both 'cat' and 'dog'"),
        ],
    )
    def test_complaints_change_nothing(self, begun, text, says, tmp_path):
        with pytest.raises(FewerError, match=says):
            begun.take_back(table(tmp_path / "a.csv", text))
        assert begun.labels == {}


class TestState:
    def resumed(self, state, **given):
        names = ("pool", "method", "features", "probabilities", "label", "seed")
        return resume(state, *(given.get(name) for name in names))

    def test_everything_comes_back(self, begun, tmp_path):
        begun.labels = {4: "käse", 9: "3"}
        begun.memory = {"query": np.arange(3)}
        begun.save(tmp_path / "s")
        back = self.resumed(tmp_path / "s")
        assert {**vars(back), "asked": back.asked.tolist(), "memory": back.memory["query"].tolist()} == {
            **vars(begun),
            "asked": [4, 2, 9],
            "memory": [0, 1, 2],
        }

    def test_pool_and_method_may_change(self, begun, tmp_path):
        begun.save(tmp_path / "s")
        back = self.resumed(tmp_path / "s", pool="/elsewhere.csv", method="entropy", probabilities="p_*", seed=3)
        assert (back.pool, back.method) == ("/elsewhere.csv", "entropy")

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"seed": 4}, "were begun with seed 3, not 4; leave --seed out"),
            ({"label": "y"}, "were begun with label 'label', not 'y'"),
            ({"features": "f_*"}, "were begun with features None"),
            ({"probabilities": "q_*"}, r"were begun with probabilities 'p_\*'"),
        ],
    )
    def test_the_rest_stays(self, begun, given, says, tmp_path):
        begun.save(tmp_path / "s")
        with pytest.raises(FewerError, match=says):
            self.resumed(tmp_path / "s", **given)

    def test_other_files(self, begun, tmp_path):
        (tmp_path / "s").write_bytes(b"x" * 100)
        with pytest.raises(FewerError, match="is damaged") as error:
            self.resumed(tmp_path / "s")
        assert "\n" not in str(error.value)
        begun.save(tmp_path / "s")
        (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-8])
        with pytest.raises(FewerError, match="is damaged"):
            self.resumed(tmp_path / "s")
        for tree in ({"run": "x"}, [1]):
            checkpoint.save(tmp_path / "s", tree)
            with pytest.raises(FewerError, match="is no state of 'fewer select'"):
                self.resumed(tmp_path / "s")


def test_a_pool_is_recognised_by_its_numbers(begun, tmp_path):
    pool = table(tmp_path / "a.csv", "id,x\na,1\nb,2\n")
    begun.recognise(open_pool(pool))
    moved = table(tmp_path / "b.csv", "id,x,label\nc,1.0,cat\nd,2.0,\n")
    begun.recognise(open_pool(moved))
    with pytest.raises(FewerError, match="does not hold the numbers that the rounds were begun with"):
        begun.recognise(open_pool(table(tmp_path / "a.csv", "id,x\na,1\nb,2\nc,3\n")))
