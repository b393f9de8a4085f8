"""Greedy k-centre against the textbook algorithm in float64, and against all possible choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels import k_centre
from fewer.labels.k_centre import k_centre_greedy


def slow(points, count, centres=None, candidates=None, metric="euclidean", origin=None):
    """The textbook algorithm: one distance at a time, in float64."""
    rows = list(range(len(points)) if candidates is None else candidates)

    def prepare(vector):
        vector = np.asarray(vector, dtype=np.float64)
        length = np.sqrt((vector**2).sum())
        return vector / length if metric == "cosine" and length > 0 else vector

    place = {row: prepare(points[row]) for row in rows}
    chosen = []
    covered = [] if centres is None else [prepare(centre) for centre in centres]
    while len(chosen) < count:
        reference = covered
        if not reference:
            mean = np.mean([place[row] for row in rows], axis=0)
            reference = [mean if origin is None else prepare(origin)]
        best, farthest = -1, -1.0
        for row in rows:
            if row in chosen:
                continue
            nearest = min(((place[row] - other) ** 2).sum() for other in reference)
            if nearest > farthest:
                best, farthest = row, nearest
        chosen.append(best)
        covered.append(place[best])
    return chosen


def radius(points, centres):
    return max(min(np.linalg.norm(point - centre) for centre in centres) for point in points)


@pytest.fixture(params=["whole", "small group", "small blocks", "both small"])
def cut(request, monkeypatch):
    """Every way through the code: one group or several, one block or many."""
    if request.param in ("small group", "both small"):
        monkeypatch.setattr(k_centre, "GROUP", 3)
    if request.param in ("small blocks", "both small"):
        monkeypatch.setattr(k_centre, "BLOCK_BYTES", 4 * (256 + 5) * 7)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("with_centres", [True, False])
@pytest.mark.parametrize("with_candidates", [True, False])
@pytest.mark.usefixtures("cut")
def test_chooses_as_the_textbook_does(metric, with_centres, with_candidates):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(80, 5)).astype(np.float32) + 2
    centres = rng.normal(size=(4, 5)).astype(np.float32) if with_centres else None
    candidates = np.flatnonzero(rng.random(80) < 0.6) if with_candidates else None
    chosen = k_centre_greedy(points, 25, centres=centres, candidates=candidates, metric=metric)
    assert chosen.tolist() == slow(points, 25, centres, candidates, metric)


@given(
    grid=st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=14),
    centres=st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=3),
    share=st.floats(0, 1),
    group=st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_ties_and_duplicates_are_settled_as_the_textbook_does(grid, centres, share, group):
    # on a small grid almost everything is a tie; the pool's mean is kept at 0 so that float32 is exact
    points = np.array([*grid, *[(-a, -b) for a, b in grid]], dtype=np.float32)
    count = round(share * len(points))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_centre, "GROUP", group)
        chosen = k_centre_greedy(points, count, centres=np.array(centres, dtype=np.float32))
    assert chosen.tolist() == slow(points, count, centres)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_covers_at_least_as_well_with_every_row_more(seed, count):
    points = np.random.default_rng(seed).normal(size=(12, 2)).astype(np.float32)
    chosen = k_centre_greedy(points, count)
    assert len(set(chosen.tolist())) == count
    radii = [radius(points, points[chosen[:k]]) for k in range(1, count + 1)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(radii))


@pytest.mark.parametrize("seed", range(10))
def test_covering_radius_is_at_most_twice_the_best_possible(seed):
    points = np.random.default_rng(seed).random(size=(12, 2)).astype(np.float32)
    best = min(radius(points, points[list(some)]) for some in itertools.combinations(range(12), 3))
    assert radius(points, points[k_centre_greedy(points, 3)]) <= 2 * best + 1e-6


def test_without_centres_the_first_is_farthest_from_the_mean_or_from_an_origin():
    line = np.array([[0.0], [1.0], [2.0], [9.0]], dtype=np.float32)
    assert k_centre_greedy(line, 2).tolist() == [3, 0]
    assert k_centre_greedy(line, 2, origin=np.array([9.0], dtype=np.float32)).tolist() == [0, 3]


def test_ties_go_to_the_lowest_row():
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=np.float32)
    assert k_centre_greedy(square, 4, centres=np.zeros((1, 2), dtype=np.float32)).tolist() == [0, 1, 2, 3]
    assert k_centre_greedy(square, 4, centres=square[:1]).tolist() == [3, 1, 2, 0]


@pytest.mark.usefixtures("cut")
def test_a_duplicate_waits_until_nothing_else_is_left():
    points = np.array([[5.0], [5.0], [3.0], [3.0], [0.0]], dtype=np.float32)
    chosen = k_centre_greedy(points, 5, centres=np.zeros((1, 1), dtype=np.float32))
    assert chosen.tolist() == [0, 2, 1, 3, 4]


def test_cosine_sees_directions_only_and_takes_a_zero_row():
    points = np.array([[1, 0], [100, 0], [0, 0.01], [0, 0]], dtype=np.float32)
    assert k_centre_greedy(points, 1, centres=points[:1], metric="cosine").tolist() == [2]
    assert sorted(k_centre_greedy(points, 4, metric="cosine").tolist()) == [0, 1, 2, 3]


def test_moving_all_rows_far_away_changes_nothing():
    rng = np.random.default_rng(3)
    points = rng.integers(-1024, 1024, size=(60, 4)).astype(np.float32) / 1024  # exact at both places
    near = k_centre_greedy(points, 20, centres=points[:2])
    assert k_centre_greedy(points + 1024, 20, centres=points[:2] + 1024).tolist() == near.tolist()


@pytest.mark.usefixtures("cut")
def test_a_memory_map_gives_what_the_array_gives(tmp_path):
    points = np.random.default_rng(1).normal(size=(70, 5)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    some = np.arange(0, 70, 3)
    assert np.array_equal(k_centre_greedy(mapped, 9), k_centre_greedy(points, 9))
    assert np.array_equal(k_centre_greedy(mapped, 9, candidates=some), k_centre_greedy(points, 9, candidates=some))


def test_none_and_all_may_be_asked_for():
    points = np.random.default_rng(2).normal(size=(9, 2)).astype(np.float32)
    assert k_centre_greedy(points, 0).tolist() == []
    assert sorted(k_centre_greedy(points, 9).tolist()) == list(range(9))
    assert sorted(k_centre_greedy(points, 3, candidates=np.array([2, 5, 7])).tolist()) == [2, 5, 7]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("cut")
def test_a_row_that_is_not_finite_is_named(value):
    points = np.zeros((30, 5), dtype=np.float32)
    points[23, 2] = value
    with pytest.raises(FewerError, match="row 23 holds NaN or infinity"):
        k_centre_greedy(points, 2)
    with pytest.raises(FewerError, match="row 23 holds NaN or infinity"):
        k_centre_greedy(points, 2, candidates=np.array([1, 4, 23]))
    assert len(k_centre_greedy(points, 2, candidates=np.arange(20))) == 2


def test_more_rows_than_there_are_is_an_error():
    with pytest.raises(FewerError, match="4 rows were asked for but there are 3"):
        k_centre_greedy(np.zeros((3, 2), dtype=np.float32), 4)
    with pytest.raises(FewerError, match="3 rows were asked for but there are 2"):
        k_centre_greedy(np.zeros((3, 2), dtype=np.float32), 3, candidates=np.array([0, 2]))


def test_shapes_that_do_not_fit_are_an_error():
    with pytest.raises(FewerError, match="equal width"):
        k_centre_greedy(np.zeros((3, 2), dtype=np.float32), 1, centres=np.zeros((1, 3), dtype=np.float32))
    with pytest.raises(FewerError, match="equal width"):
        k_centre_greedy(np.zeros(3, dtype=np.float32), 1)


def test_an_unknown_metric_is_an_error():
    with pytest.raises(FewerError, match="choose euclidean or cosine"):
        k_centre_greedy(np.zeros((3, 2), dtype=np.float32), 1, metric="manhattan")  # pyright: ignore[reportArgumentType]


def test_agrees_with_scikit_activeml():
    peer = pytest.importorskip("skactiveml.pool._core_set")
    rng = np.random.default_rng(4)
    points = rng.normal(size=(120, 6)).astype(np.float32)
    labels = np.where(np.arange(120) < 5, 0.0, np.nan)
    chosen, _ = peer.k_greedy_center(points, labels, batch_size=30, random_state=np.random.RandomState(0))
    ours = k_centre_greedy(points, 30, centres=points[:5], candidates=np.arange(5, 120))
    assert ours.tolist() == chosen.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_centre_that_is_not_finite_is_named(value):
    centres = np.zeros((4, 2), dtype=np.float32)
    centres[2, 1] = value
    with pytest.raises(FewerError, match="centre 2 holds NaN or infinity"):
        k_centre_greedy(np.ones((3, 2), dtype=np.float32), 1, centres=centres)


@pytest.mark.filterwarnings("error")
def test_a_memory_map_gives_no_warning(tmp_path):
    np.save(tmp_path / "points.npy", np.eye(5, dtype=np.float32))
    k_centre_greedy(np.load(tmp_path / "points.npy", mmap_mode="r"), 3)
