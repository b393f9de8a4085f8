"""k-means of values: against the exact optimum of small sets, scikit-learn's on large ones, and its own promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fewer.core.errors import FewerError
from fewer.data import clusters
from fewer.data.clusters import kmeans


def squares(values):
    return float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0


def inertia(values, found):
    return sum(squares(values[found.within(values, i, i + 1)].astype(np.float64)) for i in range(len(found)))


def optimum(values, count):
    """The least inertia: every way to cut the sorted values."""
    values = np.sort(values).astype(np.float64)
    cuts = itertools.combinations(range(1, len(values)), count - 1)
    return min(sum(squares(part) for part in np.split(values, list(cut))) for cut in cuts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 50, width=32), min_size=1, max_size=11), st.integers(1, 4))
def test_small_sets_are_cut_as_well_as_can_be(values, count):
    values = np.array(values, dtype=np.float32)
    found = kmeans(values, count)
    best = optimum(values, min(count, len(np.unique(values))))
    # a bound is exact to one part in 1,024 of the range, and so are values that share a cell
    assert inertia(values, found) <= best + 1e-5 * len(values) * float(values.max() - values.min()) ** 2 + 1e-6


MADE = {
    "lognormal": lambda rng: rng.lognormal(-2, 1.5, 20_000),
    "exponential": lambda rng: rng.exponential(size=20_000),
    "normal": lambda rng: rng.normal(size=20_000),
    "two heaps": lambda rng: np.concatenate([rng.normal(0, 0.01, 15_000) ** 2, rng.normal(3, 1, 5_000)]),
    "ties": lambda rng: rng.integers(0, 30, 20_000),
}


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("name", MADE)
def test_large_sets_are_cut_no_worse_than_by_the_best_of_ten_runs_of_scikit_learn(name, count):
    values = MADE[name](np.random.default_rng(0)).astype(np.float32)
    found = kmeans(values, count)
    peer = KMeans(count, n_init=10, random_state=0).fit(values[:, None])
    assert inertia(values, found) <= 1.001 * inertia_of(values, peer.labels_)


def inertia_of(values, labels):
    return sum(squares(values[labels == label].astype(np.float64)) for label in np.unique(labels))


def test_well_separated_blobs_are_found_exactly_with_their_means_and_counts():
    rng = np.random.default_rng(0)
    blobs = [centre + 0.1 * rng.random(count) for centre, count in ((1, 50), (4, 20), (9, 300), (20, 5))]
    values = rng.permutation(np.concatenate(blobs)).astype(np.float32)
    found = kmeans(values, 4)
    assert found.counts.tolist() == [50, 20, 300, 5]
    assert found.means == pytest.approx([blob.mean() for blob in blobs], rel=1e-5)
    for first, stop in itertools.combinations(range(5), 2):
        centre = np.floor(values)
        expected = np.isin(centre, [1, 4, 9, 20][first:stop])
        assert np.array_equal(found.within(values, first, stop), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_clusters_share_the_values_out_in_order(seed, count):
    rng = np.random.default_rng(seed)
    values = (rng.exponential(size=700) * 10.0 ** rng.integers(-20, 20) - rng.integers(2)).astype(np.float32)
    found = kmeans(values, count)
    parts = [values[found.within(values, i, i + 1)] for i in range(len(found))]
    assert sum(map(len, parts)) == len(values)
    assert [len(part) for part in parts] == found.counts.tolist()
    assert all(low.max() < high.min() for low, high in itertools.pairwise(parts))
    assert (np.diff(found.means) > 0).all()


def test_every_value_is_nearest_to_its_own_mean_but_for_those_that_share_a_cell_with_a_bound():
    values = np.random.default_rng(0).lognormal(size=50_000).astype(np.float32)
    found = kmeans(values, 6)
    nearest = np.abs(values[:, None] - found.means).argmin(axis=1)
    own = np.argmax([found.within(values, i, i + 1) for i in range(6)], axis=0)
    between = (found.means[1:] + found.means[:-1]) / 2
    to_bound = np.abs(values[:, None] / between - 1).min(axis=1)
    assert (own == nearest)[to_bound > 2 / 1024].all()
    assert (own == nearest).mean() > 0.999


@pytest.mark.parametrize("values", [[3.0, 3.0, 3.0], [0.0, 3.0, 0.0], [2.0]])
def test_fewer_values_than_clusters_make_fewer_clusters(values):
    found = kmeans(np.array(values), 5)
    assert found.means.tolist() == sorted(set(values))


def test_one_cell_that_holds_nearly_everything_leaves_bounds_for_the_rest():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(100_000), rng.lognormal(-8, 2, 800), [1e9]]).astype(np.float32)
    found = kmeans(values, 5)
    assert len(found) == 5
    assert (found.counts > 0).all()
    assert found.counts[-1] == 1


def test_blocks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    whole = kmeans(values, 5)
    monkeypatch.setattr(clusters, "BLOCK", 777)
    pieces = kmeans(values, 5)
    assert np.array_equal(whole.edges, pieces.edges)
    assert np.array_equal(whole.counts, pieces.counts)


def test_values_outside_those_that_were_clustered_belong_to_the_ends():
    found = kmeans(np.array([1.0, 1.1, 5.0, 5.1]), 2)
    assert found.within(np.array([-3.0, 1.0, 99.0], dtype=np.float32), 0, 1).tolist() == [True, True, False]
    assert found.within(np.array([-3.0, 1.0, 99.0], dtype=np.float32), 1, 2).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("values", "count", "message"),
    [
        ([], 2, "2 clusters of 0 values"),
        ([1.0], 0, "0 clusters of 1 values"),
        ([1.0, np.nan], 2, "must be finite"),
        ([1.0, np.inf], 2, "must be finite"),
        ([-3e38, 3e38], 2, "must be finite"),
    ],
)
def test_what_cannot_be_clustered_is_refused(values, count, message):
    with pytest.raises(FewerError, match=message):
        kmeans(np.array(values), count)
