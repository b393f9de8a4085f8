from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError

scores = st.floats(-1e3, 1e3, allow_nan=False).map(lambda score: round(score, 6))


@st.composite
def curves(draw: st.DrawFn, min_size: int = 1) -> Curve:
    spent = sorted(draw(st.sets(st.integers(0, 10_000), min_size=min_size, max_size=12)))
    return Curve.of([(one, draw(scores)) for one in spent])


def columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [point.spent for point in curve], [point.score for point in curve]


def test_a_point_goes_to_json_and_back() -> None:
    point = Point(10, 0.5, {"seconds": 1.5})
    assert Point(**json.loads(json.dumps(point.as_dict()))) == point
    assert Point(10, 0.5).as_dict() == {"spent": 10, "score": 0.5, "extras": {}}


def test_points_and_curves_cannot_be_changed_and_share_no_extras() -> None:
    point = Point(1, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.score = 1.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Curve((point,)).points = ()  # type: ignore[misc]
    assert Point(1, 0.0).extras is not Point(1, 0.0).extras


def test_a_curve_is_the_sequence_of_its_points() -> None:
    curve = Curve.of([(10, 0.5), (20, 0.7)])
    assert len(curve) == 2
    assert list(curve) == [Point(10, 0.5), Point(20, 0.7)]
    assert curve.final == 0.7


def test_of_takes_any_numbers() -> None:
    curve = Curve.of(zip(np.array([1, 2]), np.array([0.5, 1.0], dtype=np.float32), strict=True))
    assert [(type(point.spent), type(point.score)) for point in curve] == [(int, float)] * 2


def test_an_empty_curve_is_an_error() -> None:
    with pytest.raises(FewerError, match="at least one point; none was given"):
        Curve(())


@pytest.mark.parametrize("pairs", [[(10, 0.5), (10, 0.6)], [(10, 0.5), (20, 0.6), (15, 0.7)]])
def test_samples_must_increase(pairs: list[tuple[int, float]]) -> None:
    with pytest.raises(FewerError, match=rf"{pairs[-1][0]} follows {pairs[-2][0]}; sort the points"):
        Curve.of(pairs)


@pytest.mark.parametrize("spent", [9, 31, 9.999, -math.inf, math.nan])
def test_at_does_not_extrapolate(spent: float) -> None:
    with pytest.raises(FewerError, match="from 10 to 30 samples"):
        Curve.of([(10, 0.5), (30, 0.8)]).at(spent)


def test_closed_forms_on_a_straight_line() -> None:
    line = Curve.of([(x, 0.01 * x) for x in (0, 10, 40, 100)])
    assert line.at(25) == pytest.approx(0.25)
    assert line.area() == pytest.approx(0.5)  # the mean of 0 … 1
    assert line.samples_to(0.25) == pytest.approx(25)
    assert line.samples_to(1.0) == pytest.approx(100)
    assert line.samples_to(1.0 + 1e-9) == math.inf


def test_area_weighs_by_samples_not_by_points() -> None:
    dense_start = Curve.of([(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0), (5, 1.0), (105, 1.0)])
    assert dense_start.area() == pytest.approx((0.5 + 100) / 105)


def test_a_curve_of_one_point() -> None:
    curve = Curve.of([(10, 0.5)])
    assert (curve.area(), curve.final, curve.at(10)) == (0.5, 0.5, 0.5)
    assert (curve.samples_to(0.5), curve.samples_to(0.6)) == (10.0, math.inf)


def test_samples_to_is_the_first_time_even_if_the_curve_falls_again() -> None:
    curve = Curve.of([(0, 0.0), (10, 0.8), (20, 0.2), (30, 0.9)])
    assert curve.samples_to(0.4) == pytest.approx(5)
    assert curve.samples_to(0.85) == pytest.approx(20 + 10 * 0.65 / 0.7)


def test_samples_to_a_target_met_at_the_start_is_the_start() -> None:
    assert Curve.of([(10, 0.5), (20, 0.1)]).samples_to(-math.inf) == 10.0
    assert Curve.of([(10, 0.5), (20, 0.1)]).samples_to(0.5) == 10.0


@given(curves(), st.floats(0, 1))
def test_at_agrees_with_numpy(curve: Curve, share: float) -> None:
    spent, values = columns(curve)
    where = spent[0] + share * (spent[-1] - spent[0])
    where = min(max(where, spent[0]), spent[-1])
    assert curve.at(where) == pytest.approx(float(np.interp(where, spent, values)), abs=1e-9)
    assert [curve.at(one) for one in spent] == pytest.approx(values, abs=1e-9)


@given(curves(min_size=2))
def test_area_agrees_with_numpy_and_lies_among_the_scores(curve: Curve) -> None:
    spent, values = columns(curve)
    assert curve.area() == pytest.approx(float(np.trapezoid(values, spent)) / (spent[-1] - spent[0]), abs=1e-9)
    assert min(values) - 1e-9 <= curve.area() <= max(values) + 1e-9


@given(curves(min_size=2), scores)
def test_samples_to_lands_on_the_target_and_not_before(curve: Curve, target: float) -> None:
    spent, values = columns(curve)
    found = curve.samples_to(target)
    if found == math.inf:
        assert max(values) < target
    else:
        assert curve.at(min(found, spent[-1])) >= target - 1e-6
        assert all(score < target for one, score in zip(spent, values, strict=True) if one < found - 1e-6)


@given(curves(), scores, scores)
def test_a_higher_target_never_takes_fewer_samples(curve: Curve, one: float, other: float) -> None:
    assert curve.samples_to(min(one, other)) <= curve.samples_to(max(one, other))


@given(curves(), st.floats(0.1, 10), st.floats(-10, 10))
def test_affine_scores(curve: Curve, scale: float, shift: float) -> None:
    moved = Curve.of([(point.spent, scale * point.score + shift) for point in curve])
    assert moved.area() == pytest.approx(scale * curve.area() + shift, abs=1e-6)
    assert moved.final == pytest.approx(scale * curve.final + shift, abs=1e-6)


@given(curves(min_size=2), st.data())
def test_a_point_on_the_line_between_two_changes_nothing(curve: Curve, data: st.DataObject) -> None:
    spent, _ = columns(curve)
    where = data.draw(st.integers(spent[0], spent[-1]))
    finer = (
        Curve.of(sorted({(point.spent, point.score) for point in curve} | {(where, curve.at(where))}))
        if where not in spent
        else curve
    )
    assert finer.area() == pytest.approx(curve.area(), abs=1e-9)
    middle = (spent[0] + spent[-1]) / 2
    assert finer.at(middle) == pytest.approx(curve.at(middle), abs=1e-9)
