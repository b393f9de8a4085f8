from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from fewer.core.errors import FewerError
from fewer.labels.neighbours import nearest_neighbours


def slow(vectors, count, among=None):
    """Every distance in turn, with Python's own sums."""
    unit = [
        row / (np.sqrt(sum(value * value for value in row)) or 1) for row in vectors.tolist() for row in [np.array(row)]
    ]
    other = unit if among is None else [row / np.sqrt((row**2).sum()) for row in among]
    found = []
    for i, mine in enumerate(unit):
        distance = [
            np.inf if among is None and i == j else float(((mine - theirs) ** 2).sum())
            for j, theirs in enumerate(other)
        ]
        found.append(np.argsort(distance, kind="stable")[:count])
    return np.array(found)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40), features=st.integers(2, 9), data=st.data())
def test_equal_to_plain_python(seed, rows, features, data):
    vectors = np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)
    count = data.draw(st.integers(1, rows - 1))
    np.testing.assert_array_equal(nearest_neighbours(vectors, count), slow(vectors.astype(np.float64), count))


def test_equal_to_scikit_learn_by_cosine():
    vectors = np.random.default_rng(0).normal(size=(700, 20)) * np.random.default_rng(1).uniform(0.1, 9, size=(700, 1))
    theirs = NearestNeighbors(n_neighbors=14, metric="cosine").fit(vectors).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest_neighbours(vectors, 14), theirs)


def test_only_direction_counts():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5))
    stretched = vectors * 2.0 ** rng.integers(-8, 9, size=(60, 1))
    np.testing.assert_array_equal(nearest_neighbours(vectors, 7), nearest_neighbours(stretched, 7))


def test_single_precision_inputs_that_are_nearly_parallel_are_told_apart():
    angles = np.arange(40) * 1e-4
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * np.float32(3)
    found = nearest_neighbours(vectors, 1)[:, 0]
    assert np.all(np.abs(found - np.arange(40)) == 1)


def test_no_row_is_its_own_neighbour_not_even_among_its_copies():
    copies = np.ones((30, 4), dtype=np.float32)
    found = nearest_neighbours(copies, 14)
    assert not (found == np.arange(30)[:, None]).any()
    assert all(len(set(row)) == 14 for row in found.tolist())


def test_among_others_a_copy_of_the_row_is_found():
    rng = np.random.default_rng(0)
    others = rng.normal(size=(25, 6))
    np.testing.assert_array_equal(nearest_neighbours(others[5:9] * 3, 1, among=others)[:, 0], [5, 6, 7, 8])
    vectors = rng.normal(size=(9, 6))
    np.testing.assert_array_equal(nearest_neighbours(vectors, 4, among=others), slow(vectors, 4, others))


def test_rows_of_zeros_do_not_spoil_the_others():
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    found = nearest_neighbours(vectors, 1)[:, 0]
    assert found[1:3].tolist() == [2, 1]


def test_blocks_of_rows_change_nothing():
    vectors = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    whole = nearest_neighbours(vectors, 5)
    np.testing.assert_array_equal(nearest_neighbours(vectors[:40], 6, among=vectors)[:, 1:], whole[:40])


@pytest.mark.parametrize(
    ("vectors", "count", "among", "message"),
    [
        (np.ones((4, 2)), 4, None, "4 a row were asked for and there are 3; lower k or add rows"),
        (np.ones((4, 2)), 0, None, "0 a row were asked for"),
        (np.ones((4, 2)), 3, np.ones((2, 2)), "3 a row were asked for and there are 2"),
        (np.ones((4, 2)), 1, np.ones((4, 3)), r"\(4, 2\) and \(4, 3\) must be two tables of equal width"),
        (np.array([[1.0, 2.0], [3.0, np.nan], [1.0, 1.0]]), 1, None, "row 1 holds NaN or infinity"),
    ],
)
def test_errors_say_what_would_do(vectors, count, among, message):
    with pytest.raises(FewerError, match=message):
        nearest_neighbours(vectors, count, among=among)
