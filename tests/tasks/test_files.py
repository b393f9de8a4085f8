from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from fewer.compose import task as compose
from fewer.core.errors import FewerError
from fewer.tasks.files import csv, parquet
from fewer.tasks.regression import Regression

GOOD = "a,b,t\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(GOOD)
    return path


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    bunch = load_breast_cancer(as_frame=True)
    return bunch.frame.assign(target=[str(bunch.target_names[label]) for label in bunch.target])


@pytest.mark.parametrize("kind", ["csv", "gz", "semicolons", "parquet"])
def test_a_table_comes_back_to_the_bit(tmp_path, cancer, kind):
    if kind == "parquet":
        cancer.to_parquet(tmp_path / "c.parquet")
        task = parquet(str(tmp_path / "c.parquet"), "target")
    else:
        name, separator = ("c.csv.gz" if kind == "gz" else "c.csv"), (";" if kind == "semicolons" else ",")
        cancer.to_csv(tmp_path / name, sep=separator, index=False)
        task = csv(str(tmp_path / name), "target", separator=separator)
    bunch = load_breast_cancer()
    assert np.array_equal(task.x, bunch.data.astype(np.float32))
    assert task.classes == ("benign", "malignant")  # sorted
    assert np.array_equal(task.y, 1 - bunch.target)
    assert task.standardise


def test_arguments_reach_the_task(file):
    task = csv(str(file), "t", test=2, metric="macro-f1", drop="a")
    assert (task.name, task.test, task.metric, task.x.shape) == ("mine.csv", 2, "macro-f1", (4, 1))


def test_it_can_be_written_in_a_spec(file):
    task = compose(f"csv({str(file)!r}, target='t', drop=['a'])")
    assert task.fingerprint() == csv(str(file), "t", drop=["a"]).fingerprint()
    with pytest.raises(FewerError, match="does not fit; csv takes"):
        compose(f"csv({str(file)!r}, goal='t')")


def test_the_fingerprint_follows_the_data_and_the_arguments(file):
    before = csv(str(file), "t").fingerprint()
    assert csv(str(file), "t").fingerprint() == before
    assert csv(str(file), "t", features="a").fingerprint() != before
    assert csv(str(file), "t", test=2).fingerprint() != before
    file.write_text(GOOD.replace("7,8", "7,9"))
    assert csv(str(file), "t").fingerprint() != before
    file.write_text(GOOD)
    assert csv(str(file), "t").fingerprint() == before


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\n\n"),
        GOOD.replace(",", " , ").replace(" , x", ",x").replace(" , y", ",y").replace("a , b , t", "a,b,t"),
        "a,b,t\n" + GOOD.replace("\n", ",\n").split("\n", 1)[1],
    ],
    ids=["byte-order mark", "carriage returns", "blank lines", "spaces", "trailing commas"],
)
def test_harmless_differences_make_no_difference(file, text):
    expected = csv(str(file), "t").fingerprint()
    file.write_text(text)
    assert csv(str(file), "t").fingerprint() == expected


def test_a_class_may_be_called_none(file):
    file.write_text(GOOD.replace("x", "None"))
    assert csv(str(file), "t").classes == ("None", "y")


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "null"])
def test_gaps_are_named_or_filled(file, gap):
    file.write_text(GOOD.replace("3,4", f"{gap},4"))
    with pytest.raises(FewerError, match=r"^mine\.csv: column 'a' has no value in data row 2; .*impute='median'"):
        csv(str(file), "t")
    assert csv(str(file), "t", impute="median").x[:, 0].tolist() == [1, 5, 5, 7]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "mine.csv is empty"),
        ("\n\n", "mine.csv is empty"),
        ("a,b,t\n", "mine.csv: there are no rows"),
        ("a,a,t\n1,2,x\n", "more than one column is called 'a'; rename them"),
        (",a,t\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n", r"a column has no name.*drop=\['Unnamed: 0'\]"),
        (GOOD.replace("3,4", "3,four"), "column 'b' holds 'four' in data row 2, which is no number; list it in categ"),
        (GOOD.replace("3,4", "inf,4"), "column 'a' is infinite or too large in data row 2"),
        (GOOD.replace("3,4,y", "3,4,y,9"), "Expected 3 fields in line 3, saw 4"),
        (GOOD.replace("1,2,x", "1,2,x,9"), "a line has more values than there are column names"),
        (GOOD.replace("3,4,y", "3,4"), r"1 of 4 rows have no label in column 't' \(data row 2\)"),
        (GOOD.replace("3,4,y", '3,4,"y'), "cannot be read as CSV"),
        (GOOD.replace("x", "y"), r"hold only one \(y\)"),
        (GOOD.replace("5,6,x\n", "5,6,y\n"), r"class 'x' has one row only \(data row 1\)"),
        (GOOD.encode("utf-16"), r"mine.csv is not UTF-8 text \(byte 0xff\)"),
        (GOOD.replace("x", "ü").encode("latin-1"), r"mine.csv is not UTF-8 text \(byte 0xfc\)"),
        (GOOD.replace(",", ";"), "no column 't'; .*separator="),
    ],
)
def test_bad_files_are_refused_in_one_line(file, data, message):
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(FewerError, match=message) as caught:
        csv(str(file), "t")
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_addresses(file):
    for read in (csv, parquet):
        for path in (file.parent / "no.csv", file.parent, "https://example.org/data.csv"):
            with pytest.raises(FewerError, match="no file at"):
                read(str(path), "t")


def test_separators(file):
    for separator in ("", ";;", None):
        with pytest.raises(FewerError, match="give one character"):
            csv(str(file), "t", separator=separator)  # pyright: ignore[reportArgumentType]


def test_damaged_archives(tmp_path):
    packed = gzip.compress(GOOD.encode())
    for name, data in (("c.csv.gz", packed[:-9]), ("d.csv.gz", packed[:14] + bytes(20)), ("e.csv.zip", b"no archive")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FewerError, match=f"{name} cannot be read as CSV"):
            csv(str(tmp_path / name), "t")


def test_parquet_types(tmp_path):
    path = tmp_path / "p.parquet"
    data = pd.DataFrame(
        {
            "flag": [True, False, True, False],
            "kind": pd.Categorical(["u", "v", "u", "v"], categories=["u", "v", "unused"]),
            "count": pd.array([1, 2, None, 4], dtype="Int64"),
            "t": pd.Categorical(["x", "y", "x", "y"]),
        },
        index=[7, 8, 9, 3],
    )
    data.to_parquet(path)
    task = parquet(str(path), "t", impute="median")
    assert task.x.tolist() == [[1, 1, 0, 1], [0, 0, 1, 2], [1, 1, 0, 2], [0, 0, 1, 4]]
    assert task.classes == ("x", "y")
    with pytest.raises(FewerError, match="column 'count' has no value in data row 3"):
        parquet(str(path), "t")


def test_bad_parquet_files(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    path = tmp_path / "p.parquet"
    for data in (b"", b"PAR1 but nothing more", GOOD.encode()):
        path.write_bytes(data)
        with pytest.raises(FewerError, match="cannot be read as Parquet") as caught:
            parquet(str(path), "t")
        assert "\n" not in str(caught.value)
    write_table(pyarrow.table([[1, 2], [3, 4], ["x", "y"]], names=["a", "a", "t"]), path)
    with pytest.raises(FewerError, match="more than one column is called 'a'"):
        parquet(str(path), "t")
    whole = tmp_path / "whole.parquet"
    write_table(pyarrow.table({"a": np.arange(5000), "t": np.arange(5000) % 2}), whole)
    middle = len(whole.read_bytes()) // 3
    whole.write_bytes(whole.read_bytes()[:middle] + bytes(50) + whole.read_bytes()[middle + 50 :])
    with pytest.raises(FewerError, match="cannot be read as Parquet"):
        parquet(str(whole), "t")


PRICES = "size,kind,price\n1,a,1.5\n2,b,2.5\n3,a,4.25\n4,b,5\n5,a,6\n"


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_number_can_be_the_target(tmp_path, format):
    (tmp_path / "prices.csv").write_text(PRICES)
    read = csv
    if format == "parquet":
        pd.read_csv(tmp_path / "prices.csv").to_parquet(tmp_path / "prices.parquet")
        read = parquet
    path = str(tmp_path / f"prices.{format}")
    task = read(path, "price", categorical="kind", kind="regression")
    assert isinstance(task, Regression)
    assert (task.name, task.metric, task.standardise) == (f"prices.{format}", "r2", True)
    assert task.x.tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0], [4, 0, 1], [5, 1, 0]]
    assert task.y.tolist() == [1.5, 2.5, 4.25, 5, 6]
    other = read(path, "price", categorical="kind", kind="regression", metric="-rmse", test=2)
    assert (other.metric, len(other.split(0).test_y)) == ("-rmse", 2)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PRICES, {"kind": "ranking"}, "unknown kind 'ranking'; choose 'classification' or 'regression'"),
        (PRICES, {"metric": "accuracy"}, "unknown metric 'accuracy'; choose r2 or -rmse"),
        (PRICES, {"weak": "size"}, "weak labels are of classes; leave out weak= or kind='regression'"),
        (
            PRICES.replace("2.5", "much"),
            {},
            "column 'price' holds 'much' in data row 2, which is no number; for classes",
        ),
        (PRICES.replace("2.5", ""), {}, "column 'price' has no target in data row 2; drop those rows"),
        (PRICES.replace("2.5", "inf"), {}, "column 'price' is infinite in data row 2"),
        ("size,kind,price\n", {}, "there are no rows"),
        ("size,kind,price\n1,a,3\n2,b,3\n", {}, "the target is 3 in every row, so there is nothing to predict"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(tmp_path, data, options, message):
    (tmp_path / "prices.csv").write_text(data)
    with pytest.raises(FewerError, match=f"^prices.csv: {message}") as caught:
        csv(str(tmp_path / "prices.csv"), "price", **{"kind": "regression", "categorical": "kind", **options})
    assert "\n" not in str(caught.value)


def test_a_target_of_measurements_leads_to_regression(tmp_path):
    (tmp_path / "prices.csv").write_text(PRICES)
    with pytest.raises(FewerError, match=r"holds measurements such as 1.5; .* or say kind='regression'"):
        csv(str(tmp_path / "prices.csv"), "price", categorical="kind")
    with pytest.raises(FewerError, match=r"5 different values in 5 rows; .* or say kind='regression'"):
        csv(str(tmp_path / "prices.csv"), "size", categorical="kind")
