from __future__ import annotations

import math

import pytest
from tests.race.outcomes import SEEDS, made, mixed, rising

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.core.stats import area, final, probability_of_improvement, samples_to_target
from fewer.race import report
from fewer.race.outcome import Outcome, Run


@pytest.fixture
def outcome() -> Outcome:
    return mixed()


def test_rows_are_in_the_order_given_and_count_runs(outcome: Outcome) -> None:
    rows = report.table(outcome, 0.75)
    assert [row.entry for row in rows] == ["random", "margin", "hast", "lost"]
    assert [(row.done, row.failed, row.runs) for row in rows] == [(5, 0, 5), (5, 0, 5), (4, 1, 5), (0, 5, 5)]
    assert [row.seconds for row in rows] == [10.0, 10.0, 9.0, 5.0]


def test_numbers_are_those_of_the_statistics(outcome: Outcome) -> None:
    rows = {row.entry: row for row in report.table(outcome, 0.75)}
    curves = outcome.curves("margin")
    assert rows["margin"].samples == samples_to_target(curves, 0.75)
    assert rows["margin"].area == area(curves)
    assert rows["margin"].final == final(curves)
    areas = [[curve.area() for curve in outcome.curves(entry)] for entry in ("margin", "random")]
    assert rows["margin"].improvement == probability_of_improvement(*areas)


def test_baseline_is_not_compared_with_itself_and_lost_entries_have_no_numbers(outcome: Outcome) -> None:
    rows = {row.entry: row for row in report.table(outcome, 0.75)}
    assert rows["random"].improvement is None
    lost = rows["lost"]
    assert (lost.samples, lost.area, lost.final, lost.improvement) == (None, None, None, None)


def test_nothing_can_be_better_than_a_baseline_that_failed() -> None:
    rows = report.table(made({"random": 0.7, "margin": 0.8}, {"random": SEEDS}))
    assert [row.improvement for row in rows] == [None, None]
    assert rows[1].area is not None


def test_without_a_target_there_are_no_samples(outcome: Outcome) -> None:
    assert all(row.samples is None for row in report.table(outcome))


@pytest.mark.parametrize("target", [math.nan, math.inf])
def test_target_must_be_a_number(outcome: Outcome, target: float) -> None:
    with pytest.raises(FewerError, match="the target is"):
        report.table(outcome, target)


def test_areas_are_taken_over_the_range_that_all_entries_share() -> None:
    """The late starter has the same curve, and must not look better for leaving out the poor beginning."""
    late = [Curve(curve.points[5:]) for curve in (rising(0.8, seed) for seed in SEEDS)]
    runs = [Run("whole", seed, "done", rising(0.8, seed)) for seed in SEEDS]
    runs += [Run("late", seed, "done", curve) for seed, curve in zip(SEEDS, late, strict=True)]
    whole, second = report.table(Outcome("t", "m", "u", 100, SEEDS, {"whole": "a", "late": "b"}, tuple(runs)))
    assert whole.area is not None
    assert second.area is not None
    assert whole.area.estimate == pytest.approx(second.area.estimate)
    assert whole.area.estimate == pytest.approx(sum(curve.area() for curve in late) / 5)
    assert second.improvement is not None
    assert second.improvement.estimate == 0.5


def test_no_shared_range_means_no_areas_but_still_final_scores() -> None:
    runs = (Run("a", 0, "done", Curve.of([(0, 0.1), (10, 0.2)])), Run("b", 0, "done", Curve.of([(20, 0.3), (30, 0.4)])))
    rows = report.table(Outcome("t", "m", "u", 30, (0,), {"a": "a", "b": "b"}, runs))
    assert [row.area for row in rows] == [None, None]
    assert [row.final and row.final.estimate for row in rows] == [0.2, 0.4]
