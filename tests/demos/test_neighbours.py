"""The search is exact, whatever the points look like and however small the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.demos import neighbours
from fewer.demos.neighbours import Leaves, nearest, pairs_within


def clouds():
    rng = np.random.default_rng(0)
    time = np.linspace(0, 9, 400)[:, None]
    return {
        "noise": rng.normal(size=(400, 3)),
        "paths": np.sin(time * [1.0, 2.0, 3.0, 5.0]) + 0.01 * rng.normal(size=(400, 4)),
        "wide": rng.normal(size=(400, 40)),
        "few": rng.normal(size=(7, 2)),
        "same": np.zeros((300, 2)),
        "twice": np.repeat(rng.normal(size=(200, 2)), 2, axis=0),
        "nowhere": np.zeros((300, 0)),
        "far": 1e6 + rng.normal(size=(600, 2)),
    }


CLOUDS = clouds()


def distances(points):
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


@pytest.fixture(params=CLOUDS)
def points(request):
    return CLOUDS[request.param]


@pytest.fixture(params=[64 * 2**20, 20_000])
def blocks(request, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", request.param)


@pytest.mark.parametrize("few", [0, neighbours.FEW])
@pytest.mark.parametrize("groups", [None, 5])
def test_the_nearest_are_those_of_brute_force(points, blocks, groups, few, monkeypatch):
    monkeypatch.setattr(neighbours, "FEW", few)
    group = np.arange(len(points)) if groups is None else np.arange(len(points)) % groups
    every = distances(points)
    every[group[:, None] == group] = np.inf
    found, who = nearest(Leaves.of(points), 5, groups=None if groups is None else group)
    expected = np.sort(every, axis=1)[:, :5]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    known = who >= 0
    np.testing.assert_array_equal(known, np.isfinite(expected))
    rows = np.repeat(np.arange(len(points))[:, None], 5, axis=1)
    np.testing.assert_allclose(every[rows[known], who[known]], found[known], atol=1e-6)


def test_some_points_may_ask(points):
    queries = np.arange(len(points))[::3]
    every, _ = nearest(Leaves.of(points), 4)
    some, _ = nearest(Leaves.of(points), 4, queries)
    np.testing.assert_allclose(some, every[queries], atol=1e-6)


@pytest.mark.parametrize("radius", [1e-9, 0.3, 2.0])
def test_pairs_are_those_of_brute_force_in_their_order(points, blocks, radius):
    expected = {tuple(pair) for pair in np.argwhere(distances(points) <= radius)}
    found, asked = [], []
    for some, which, other in pairs_within(Leaves.of(points), radius):
        assert (np.diff(which) >= 0).all()
        assert (np.diff(other)[np.diff(which) == 0] > 0).all()
        asked += some.tolist()
        found += list(zip(some[which].tolist(), other.tolist(), strict=True))
    assert sorted(asked) == list(range(len(points)))
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_leaves_are_a_partition_within_their_boxes(count, width, seed):
    points = np.random.default_rng(seed).normal(size=(count * 20, width))
    leaves = Leaves.of(points)
    assert sorted(leaves.order.tolist()) == list(range(len(points)))
    for number in range(len(leaves)):
        inside = points[leaves.leaf(number)]
        assert 1 <= len(inside) <= neighbours.LEAF
        assert (inside >= leaves.low[number]).all()
        assert (inside <= leaves.high[number]).all()
    gaps = leaves.gap(leaves.low[0], leaves.high[0])
    assert gaps[0] == 0
    for number in range(len(leaves)):
        apart = points[leaves.leaf(0)][:, None] - points[leaves.leaf(number)][None]
        assert gaps[number] <= (apart**2).sum(axis=-1).min() + 1e-12


def test_it_agrees_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.neighbors")
    points = CLOUDS["paths"]
    expected, _ = sklearn.NearestNeighbors(n_neighbors=10).fit(points).kneighbors()
    np.testing.assert_allclose(nearest(Leaves.of(points), 10)[0], expected, atol=1e-9)
