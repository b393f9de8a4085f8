"""Opening pools: the same numbers and labels whatever the file, and every complaint in one line."""

from __future__ import annotations

import csv
import os
import tempfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels import on_disk, pool_tables
from fewer.labels.pool_files import open_pool


def write(path, x=None, p=None, labels=None, **others):
    """Write the same pool to any kind of file."""
    if path.suffix == ".npy":
        np.save(path, x)
        return path
    if path.suffix == ".npz":
        arrays = {"x": x, "p": p, "label": labels, **others}
        np.savez_compressed(path, **{name: np.asarray(array) for name, array in arrays.items() if array is not None})
        return path
    columns = {name: list(values) for name, values in others.items()}
    columns |= {f"f{i}": x[:, i] for i in range(x.shape[1])} if x is not None else {}
    columns |= {f"p_{i}": p[:, i] for i in range(p.shape[1])} if p is not None else {}
    columns |= {"label": list(labels)} if labels is not None else {}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=7)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(columns)
            csv.writer(file).writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many parts out of few rows."""
    monkeypatch.setattr(pool_tables, "BYTES", 512)
    monkeypatch.setattr(on_disk, "BYTES", 512)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def standardised(x):
    return (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)


class TestNumbers:
    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
    def test_features_probabilities_and_labels(self, kind, tmp_path, rng):
        x, p = rng.normal(3, 2, size=(60, 4)), rng.dirichlet(np.ones(3), size=60).astype(np.float32)
        labels = np.array(["", "dog", "cat", " "] * 15)
        pool = open_pool(write(tmp_path / f"a.{kind}", x, p, labels, id=np.arange(60)))
        np.testing.assert_allclose(pool.features, x if kind == "npz" else standardised(x), atol=1e-5)
        np.testing.assert_allclose(pool.probabilities, p, atol=1e-7)
        assert pool.classes == ("0", "1", "2")
        assert [pool.names[code] if code >= 0 else "" for code in pool.labels] == [name.strip() for name in labels]
        assert pool.rows == 60
        assert pool.columns.others == ("id",)

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @pytest.mark.filterwarnings("error")
    def test_a_constant_column_and_far_away_numbers(self, kind, tmp_path, rng):
        x = np.stack([np.full(50, 0.1), 1e6 + np.arange(50.0), rng.normal(size=50) * 1e-3], axis=1)
        pool = open_pool(write(tmp_path / f"a.{kind}", x))
        assert np.abs(pool.features[:, 0]).max() < 1e-6
        np.testing.assert_allclose(pool.features[:, 1:], standardised(x)[:, 1:], rtol=1e-3, atol=1e-3)

    def test_lists_keep_their_own_scale(self, tmp_path, rng):
        vectors, age = rng.normal(5, 2, size=(40, 3)), rng.normal(50, 10, size=40)
        pq.write_table(pa.table({"age": age, "vector": vectors.tolist()}), tmp_path / "a.parquet")
        pool = open_pool(tmp_path / "a.parquet")
        expected = np.concatenate([standardised(age)[:, None], vectors], axis=1)
        np.testing.assert_allclose(pool.features, expected, atol=1e-5)

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
    @pytest.mark.parametrize("suffix", ["npz", "npy"])
    def test_arrays_of_any_kind_and_shape(self, suffix, kind, order, tmp_path, rng):
        x = np.asarray(rng.integers(0, 2, size=(30, 2, 5)), dtype=kind, order=order)
        pool = open_pool(write(tmp_path / f"a.{suffix}", x))
        np.testing.assert_array_equal(pool.features, x.astype(np.float32) / np.float32(255 if kind == np.uint8 else 1))
        assert pool.features.dtype == np.float32

    @pytest.mark.parametrize("labels", [[1, -1, 0, -1], [1.0, np.nan, 0.0, np.nan], [b"1", b"", b"0", b""]])
    def test_blank_labels_of_arrays(self, labels, tmp_path):
        pool = open_pool(write(tmp_path / "a.npz", np.eye(4), labels=labels))
        assert [(pool.names[code] if code >= 0 else "") for code in pool.labels] == ["1", "", "0", ""]

    @pytest.mark.parametrize("labels", [["a", None, "b", ""], [1, None, 0, None], [1.0, float("nan"), 0.0, None]])
    def test_blank_labels_of_tables(self, labels, tmp_path):
        pq.write_table(pa.table({"x": [1, 2, 3, 4], "label": labels}), tmp_path / "a.parquet")
        assert (open_pool(tmp_path / "a.parquet").labels >= 0).tolist() == [True, False, True, False]

    def test_an_npy_file_of_probabilities(self, tmp_path):
        path = write(tmp_path / "a.npy", np.eye(3, dtype=np.float32))
        assert open_pool(path).probabilities is None
        assert open_pool(path, probabilities="yes").features is None
        assert open_pool(path, probabilities="yes").classes == ("0", "1", "2")

    def test_named_arrays(self, tmp_path):
        path = write(tmp_path / "a.npz", embeddings=np.eye(3), chances=np.eye(3), y=np.array([0, -1, 1]))
        pool = open_pool(path, features="embeddings", probabilities="chances", label="y")
        assert str(pool.columns) == "features embeddings; probabilities chances"
        assert pool.labels.tolist() == [0, -1, 1]

    def test_what_would_be_unpickled_is_left_alone(self, tmp_path):
        path = write(tmp_path / "a.npz", np.eye(2), notes=np.array([{}, {}]), empty=np.zeros((0, 2)), one=np.array(3))
        assert open_pool(path).columns.others == ("one",)

    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
    def test_nothing_is_left_on_disk(self, kind, tmp_path, monkeypatch, rng):
        path = write(tmp_path / f"a.{kind}", rng.normal(size=(30, 3)))
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        pool = open_pool(path)
        assert os.listdir(tmp_path / "temporary") == []
        assert pool.features.shape == (30, 3)


class TestTake:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        kind=st.sampled_from(["csv", "parquet", "npz", "npy"]),
        rows=st.integers(1, 60),
        seed=st.integers(0, 99),
        text=st.sampled_from(["a", "ü,;", 'q"', "two\nlines", " 007", "NA", ""]),
    )
    def test_the_very_rows_come_back(self, kind, rows, seed, text, tmp_path):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(rows, 2))
        others = {} if kind == "npy" else {"id": [f"{i:03d}" for i in range(rows)], "text": [text + "x"] * rows}
        pool = open_pool(write(tmp_path / f"a.{kind}", x, **others))
        wanted = rng.permutation(rows)[: rng.integers(1, rows + 1)]
        taken = pool.take(wanted).to_pydict()
        for name, values in others.items():
            assert taken[name] == [values[i] for i in wanted]
        for row, i in enumerate(wanted):
            if kind in ("csv", "parquet"):
                assert [float(taken["f0"][row]), float(taken["f1"][row])] == x[i].tolist()
            else:
                assert taken["x" if kind == "npz" else "array"][row] == x[i].tolist()

    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
    def test_as_arrays(self, kind, tmp_path, rng):
        x, p = rng.normal(size=(20, 3)).astype(np.float32), np.full((20, 2), 0.5, dtype=np.float32)
        path = write(tmp_path / f"a.{kind}", x, p, n_id=np.arange(20), name=[f"ü{i}.png" for i in range(20)])
        wanted = np.array([7, 3, 19])
        arrays = open_pool(path).take_arrays(wanted)
        np.testing.assert_array_equal(arrays["x" if kind == "npz" else "features"], x[wanted])
        np.testing.assert_array_equal(arrays["p" if kind == "npz" else "probabilities"], p[wanted])
        assert arrays["n_id"].tolist() == [7, 3, 19]
        assert arrays["name"].tolist() == ["ü7.png", "ü3.png", "ü19.png"]

    def test_arrays_keep_their_type_and_shape(self, tmp_path, rng):
        x = rng.integers(0, 255, size=(9, 2, 3, 4)).astype(np.uint8)
        arrays = open_pool(write(tmp_path / "a.npz", x, scale=np.array(2.0), names=np.array(["a", "b"]))).take_arrays(
            np.array([8, 0])
        )
        assert list(arrays) == ["x"]
        np.testing.assert_array_equal(arrays["x"], x[[8, 0]])
        assert arrays["x"].dtype == np.uint8


def damaged(path, rng):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = rng.bytes(40)
    path.write_bytes(bytes(data))
    return path


class TestComplaints:
    def complains(self, says, path, **given):
        with pytest.raises(FewerError, match=says) as error:
            open_pool(path, **given)
        assert "\n" not in str(error.value)

    def test_missing_and_foreign_files(self, tmp_path):
        self.complains("there is no file", tmp_path / "a.csv")
        self.complains("there is no file", tmp_path / "a.npz")
        self.complains("cannot read .*xlsx: a pool is a .csv, .parquet, .npz, .npy file", tmp_path / "a.xlsx")

    @pytest.mark.parametrize("kind", ["parquet", "npz", "npy"])
    def test_damaged_files(self, kind, tmp_path, rng):
        path = write(tmp_path / f"a.{kind}", rng.normal(size=(50, 4)))
        path.write_bytes(path.read_bytes()[:-300])
        self.complains("cannot read", path)
        path.write_bytes(b"")
        self.complains("cannot read", path)

    def test_a_damaged_archive(self, tmp_path, rng):
        self.complains("cannot read", damaged(write(tmp_path / "a.npz", rng.normal(size=(50, 4))), rng))

    def test_an_archive_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("readme.txt", "no array")
        self.complains("cannot read", tmp_path / "a.npz")

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "npy"])
    @pytest.mark.filterwarnings("error")
    def test_no_finite_number(self, kind, value, tmp_path):
        x = np.ones((50, 3))
        x[33, 1] = value
        says = "column 'f1' has no number, or none that is finite, in row 33" if kind[0] in "cp" else "row 33 "
        self.complains(says, write(tmp_path / f"a.{kind}", x))

    def test_a_word_far_down(self, tmp_path, rng):
        path = write(tmp_path / "a.csv", rng.normal(size=(100, 3)))
        with path.open("a") as file:
            file.write("1,oops,3\n")
        self.complains(r"column 'f1' holds 'oops' in row 100 \(the first is 0\), which is no number", path)

    @pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
    def test_no_distribution(self, kind, tmp_path):
        p = np.full((50, 2), 0.5)
        p[40] = 0.3, 0.3
        given = {"probabilities": "p" if kind == "npz" else "p_*"}
        self.complains("row 40 is not a probability distribution", write(tmp_path / f"a.{kind}", p=p), **given)

    def test_ragged_lists(self, tmp_path):
        pq.write_table(pa.table({"v": [[1.0, 2.0]] * 20 + [[1.0]] * 20}), tmp_path / "a.parquet", row_group_size=20)
        self.complains("rows of shape", tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("arrays", "given", "says"),
        [
            ({"z": np.eye(2)}, {}, "holds z; name one with --features"),
            ({"x": np.eye(2)}, {"features": "y"}, "no array 'y'"),
            ({"x": np.eye(2), "p": np.full((3, 2), 0.5)}, {}, "arrays have 2 and 3 rows"),
            ({"x": np.eye(2), "label": np.arange(5)}, {}, "arrays have 2 and 5 rows"),
            ({"x": np.arange(3)}, {}, "of two dimensions or more"),
            ({"x": np.array([["a"]])}, {}, "a pool is an array of numbers"),
            ({"p": np.full((2, 2, 2), 0.5)}, {}, "one column a class"),
            ({"x": np.eye(2), "label": np.eye(2)}, {}, "labels are one a row"),
        ],
    )
    def test_arrays_that_make_no_pool(self, arrays, given, says, tmp_path):
        np.savez(tmp_path / "a.npz", **arrays)
        self.complains(says, tmp_path / "a.npz", **given)

    def test_pickles_are_not_opened(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[{}]]), allow_pickle=True)
        self.complains("cannot read", tmp_path / "a.npy")
