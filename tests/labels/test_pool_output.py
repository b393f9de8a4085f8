"""Chosen rows on their way to people: what is in the file, in each kind of file."""

from __future__ import annotations

import csv
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fewer.labels.annotation import returned
from fewer.labels.pool_files import open_pool
from fewer.labels.pool_output import write_rows

ROWS = np.array([2, 0])


@pytest.fixture
def pool_csv(tmp_path):
    text = 'id,name,x,y,label\n007,"a,b",0.10,1,\n008,ü,1e3,2,cat\n009,"two\nlines",3,,\n'
    (tmp_path / "pool.csv").write_text(text)
    return open_pool(tmp_path / "pool.csv", features="x")


@pytest.fixture
def pool_parquet(tmp_path):
    columns = {
        "when": [datetime(2024, 1, day) for day in (1, 2, 3)],
        "v": [[1.0, 2.0]] * 3,
        "x": pa.array([0.1, 0.2, None], pa.float32()),
        "kind": pa.array(["a", "b", None]).dictionary_encode(),
        "row": [7, 8, 9],
        "bytes": [b"\xff", b"a", b"b"],
        "label": pa.array([None, "cat", None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "pool.parquet")
    return open_pool(tmp_path / "pool.parquet", features="v")


def test_csv_to_csv_keeps_the_very_texts(pool_csv, tmp_path):
    assert write_rows(tmp_path / "out.csv", pool_csv, ROWS, "label") == []
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "name", "x", "y", "row", "rank", "label"],
            ["009", "two\nlines", "3", "", "2", "1", ""],
            ["007", "a,b", "0.10", "1", "0", "2", ""],
        ]


def test_csv_to_parquet_has_types(pool_csv, tmp_path):
    write_rows(tmp_path / "out.parquet", pool_csv, ROWS, "label")
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {
        "id": ["009", "007"],
        "name": ["two\nlines", "a,b"],
        "x": [3.0, 0.1],
        "y": [None, 1],
        "row": [2, 0],
        "rank": [1, 2],
        "label": ["", ""],
    }


def test_csv_to_npz(pool_csv, tmp_path):
    write_rows(tmp_path / "out.npz", pool_csv, ROWS, "label")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {
            "id": ["009", "007"],
            "name": ["two\nlines", "a,b"],
            "y": ["", "1"],
            "features": [[3.0], [np.float32(0.1)]],
            "row": [2, 0],
            "rank": [1, 2],
        }


def test_parquet_to_csv_leaves_out_what_csv_cannot_hold(pool_parquet, tmp_path):
    assert write_rows(tmp_path / "out.csv", pool_parquet, ROWS, "label") == ["v", "bytes"]
    frame = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert frame.columns.tolist() == ["when", "x", "kind", "row", "rank", "label"]
    assert frame.loc[1].tolist() == ["2024-01-01 00:00:00.000000", "0.1", "a", "0", "2", ""]
    assert frame.loc[0].tolist() == ["2024-01-03 00:00:00.000000", "", "", "2", "1", ""]


def test_parquet_to_parquet_keeps_types(pool_parquet, tmp_path):
    assert write_rows(tmp_path / "out.parquet", pool_parquet, ROWS, "label") == []
    before, after = pq.read_table(tmp_path / "pool.parquet"), pq.read_table(tmp_path / "out.parquet")
    for name in ("when", "v", "x", "kind", "bytes"):
        assert after.column(name).to_pylist() == before.column(name).take(pa.array(ROWS)).to_pylist()
        assert after.schema.field(name).type == before.schema.field(name).type
    assert after.column("row").to_pylist() == [2, 0]


def test_columns_may_be_called_like_arguments(tmp_path):
    (tmp_path / "pool.csv").write_text("file,allow_pickle,x\na.png,yes,1\nb.png,no,2\n")
    write_rows(tmp_path / "out.npz", open_pool(tmp_path / "pool.csv"), np.array([1]), "label")
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["file"].tolist() == ["b.png"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_arrays_one_dimension_becomes_a_column(kind, tmp_path):
    np.savez(tmp_path / "pool.npz", x=np.arange(12.0).reshape(3, 2, 2), name=np.array(["a", "ü", "c"]))
    unwritten = write_rows(tmp_path / f"out.{kind}", open_pool(tmp_path / "pool.npz"), ROWS, "y")
    assert unwritten == (["x"] if kind == "csv" else [])
    found = pd.read_csv(tmp_path / "out.csv") if kind == "csv" else pd.read_parquet(tmp_path / "out.parquet")
    assert found["name"].tolist() == ["c", "a"]
    if kind == "parquet":
        assert [list(values) for values in found["x"]] == [[8, 9, 10, 11], [0, 1, 2, 3]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_written_comes_back_when_it_is_filled_in(kind, pool_csv, tmp_path):
    path = tmp_path / f"out.{kind}"
    write_rows(path, pool_csv, ROWS, "label")
    frame = pd.read_csv(path, dtype=str) if kind == "csv" else pd.read_parquet(path)
    frame["label"] = ["Käse", None]
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    assert returned(path, "label") == [(2, "Käse")]
