"""PCoreSet: the order by hand, against the textbook algorithm, and what must not matter to it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels import queries
from fewer.labels.loop import ActiveLearning
from fewer.labels.pcoreset import PCoreSet, _Watched, claim, covering_radius, measure_covering, pcoreset
from fewer.tasks.digits import digits


def simplex(rows: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), size=rows).astype(np.float32)


def slow(pool, labelled, count):
    """Row by row, and distance by distance, in float64."""
    covered = [np.asarray(row, dtype=np.float64) for row in labelled]
    chosen = []
    for _ in range(count):
        nearest = [
            -1.0 if row in chosen else min(np.sqrt(((pool[row] - other) ** 2).sum()) for other in covered)
            for row in range(len(pool))
        ]
        chosen.append(int(np.argmax(nearest)))
        covered.append(np.asarray(pool[chosen[-1]], dtype=np.float64))
    return chosen


def test_order_on_a_simplex_by_hand():
    pool = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0.3, 0.3], [0.5, 0.5, 0]])
    # from (1, 0, 0) both other corners are sqrt(2) away: the lower row first, then the other; then the edge between
    # the first two (.71 from both) before the middle (.73 from the first, .82 from the others)
    assert pcoreset(pool, labelled=pool[:1], count=2).tolist() == [1, 2]
    assert pcoreset(pool, labelled=pool[:1], count=4).tolist() == [1, 2, 3, 4]


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 5), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_chooses_as_the_definition_does(seed, classes, labelled, count):
    pool = simplex(40, classes, seed)
    known = simplex(labelled, classes, seed + 1)
    if classes == 2:  # on a line, halves of one gap tie up to rounding
        count = min(count, 1)
    assert pcoreset(pool, known, count).tolist() == slow(pool, known, count)


def test_names_of_the_classes_do_not_matter():
    pool, known = simplex(50, 5), simplex(4, 5, seed=1)
    chosen = pcoreset(pool, known, 12)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert np.array_equal(pcoreset(pool[:, order], known[:, order], 12), chosen)


def test_a_row_and_its_double_are_not_both_chosen_while_there_is_another():
    pool = simplex(20, 4)
    double = np.vstack([pool, pool])
    chosen = pcoreset(double, simplex(3, 4, seed=1), 20)
    assert sorted(chosen.tolist()) == list(range(20))


def test_radius_is_at_most_twice_the_best_possible():
    for seed in range(8):
        pool = simplex(12, 3, seed)
        best = min(covering_radius(pool, pool[list(some)]) for some in itertools.combinations(range(12), 3))
        chosen = pcoreset(pool, pool[:0], 3)
        assert covering_radius(pool, pool[chosen]) <= 2 * best + 1e-6


def test_without_labels_the_first_is_farthest_from_uniform():
    pool = np.array([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]])
    assert pcoreset(pool, np.zeros((0, 3)), 1).tolist() == [3]
    # and not from the mean of the pool, which these many rows draw to their corner
    crowd = np.vstack([np.tile([[0.02, 0.96, 0.02]], (50, 1)), [[0.5, 0.2, 0.3]]])
    assert pcoreset(crowd, np.zeros((0, 3)), 1).tolist() == [0]


def test_candidates_are_row_numbers_of_the_pool():
    pool, known = simplex(60, 4), simplex(2, 4, seed=1)
    some = np.arange(1, 60, 2)
    chosen = pcoreset(pool, known, 9, candidates=some)
    assert np.array_equal(chosen, some[pcoreset(pool[some], known, 9)])


def test_a_row_that_is_no_distribution_is_named():
    pool, known = simplex(30, 3), simplex(2, 3, seed=1)
    for value, sum_ in ((np.nan, "nan"), (9.0, "9")):
        wrong = pool.copy()
        wrong[17] = 0
        wrong[17, 1] = value
        with pytest.raises(FewerError, match=rf"row 17 is not a probability distribution \(it sums to {sum_}"):
            pcoreset(wrong, known, 3)
        with pytest.raises(FewerError, match="row 17 "):
            pcoreset(wrong, known, 3, candidates=np.array([3, 17, 20]))
        with pytest.raises(FewerError, match="among the labelled, row 17 "):
            pcoreset(pool, wrong, 3)


def test_rows_within_the_tolerance_pass():
    pool = simplex(30, 3) * np.float32(1.0009)
    assert len(pcoreset(pool, pool[:2], 3)) == 3


def test_the_row_is_named_across_blocks(monkeypatch):
    monkeypatch.setattr(queries.blocks, "__defaults__", (7,))
    wrong = simplex(30, 3)
    wrong[17] = np.nan
    with pytest.raises(FewerError, match="row 17 "):
        pcoreset(wrong, simplex(2, 3, seed=1), 3)


def test_too_many_rows_and_tables_that_do_not_fit():
    with pytest.raises(FewerError, match="31 rows were asked for but there are 30"):
        pcoreset(simplex(30, 3), simplex(2, 3), 31)
    with pytest.raises(FewerError, match="two tables with a column for each class"):
        pcoreset(simplex(30, 3), simplex(2, 4), 3)
    with pytest.raises(FewerError, match="two tables with a column for each class"):
        pcoreset(simplex(30, 3), np.zeros(0), 3)


def test_covering_radius_by_hand():
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    slowly = max(min(np.linalg.norm(point - centre) for centre in points[:4]) for point in points)
    assert covering_radius(points, points[:4]) == pytest.approx(slowly, rel=1e-5)
    assert covering_radius(points, points) == pytest.approx(0, abs=1e-3)
    with pytest.raises(FewerError, match="50 rows and 0 centres"):
        covering_radius(points, points[:0])


class Watching(PCoreSet):
    """PCoreSet that keeps the last round it saw."""

    def choose(self, round, count):
        seen[:] = [round, super().choose(round, count)]
        return seen[1]


seen: list = []


def test_in_the_loop_it_covers_predictions_not_labels():
    # with the default learner: no teacher is needed
    for _ in ActiveLearning(query=Watching(), balanced=True).run(digits(), budget=20, seed=0):
        pass
    now, chosen = seen
    predicted = now.model.predict_proba(now.x)
    expected = slow(predicted[now.unlabelled], predicted[now.labelled], 10)
    assert chosen.tolist() == now.unlabelled[expected].tolist()


def test_the_claims_say_what_is_measured():
    race, mechanism = claim
    assert len(race.entries) == 12
    assert len(race.small().entries) == 12
    assert mechanism.measure is measure_covering


def test_the_radius_is_noted_after_each_choice():
    radii: list[float] = []
    _, *later = list(ActiveLearning(query=_Watched(Watching(), radii)).run(digits(), budget=30, seed=0))
    now, chosen = seen
    assert len(radii) == len(later) == 2
    covered = now.probabilities[[*now.labelled, *chosen]]
    assert radii[1] == covering_radius(now.probabilities, covered)
