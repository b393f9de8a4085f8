from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewer import plan as plans
from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.incontext.bar_distribution import BarDistribution
from fewer.incontext.extrapolation import Continuation, LearningCurveExtrapolator, ScoreRange


def rising(points: int = 12, step: int = 10, top: float = 0.95) -> Curve:
    return Curve.of((step * k, top - 0.6 / k) for k in range(1, points + 1))


def made(chances: list[float], horizon: float = 100.0) -> plans.Plan:
    """A plan from chances at 60, 70 … of which everything can be told by hand."""
    at = np.linspace(60, horizon, len(chances))
    later = Continuation(at, torch.zeros(len(at), 4), BarDistribution(torch.linspace(0, 1, 5)), ScoreRange())
    return plans.Plan((rising(5),), 0.95, horizon, "accuracy", "labels", later, np.array(chances))


def test_samples_are_where_the_chance_is_crossed():
    found = made([0.0, 0.2, 0.6, 0.8, 0.9])
    assert found.spent == 50
    assert found.samples(0.5) == pytest.approx(70 + 10 * 0.3 / 0.4)
    assert found.samples(0.1) == pytest.approx(65)
    assert found.interval(0.5) == pytest.approx((70 + 10 * 0.05 / 0.4, 87.5))
    assert found.interval(0.95)[1] == math.inf
    assert found.never == pytest.approx(0.1)


def test_what_is_said_when_it_is_reached_and_when_it_hardly_is():
    said = made([0.0, 0.2, 0.6, 0.8, 0.9]).sentence()
    assert said == (
        "accuracy reaches 0.95 after about 78 labels, 28 more than the 50 so far (50 % interval 71 to 88, "
        "80 % 65 to 100, 95 % 61 to more than 100); the chance that it does not within 100 labels is 10 %."
    )
    said = made([0.0, 0.0, 0.1, 0.1, 0.2]).sentence()
    assert said == (
        "accuracy probably does not reach 0.95 within 100 labels: the chance that it does is 20 %, at the soonest after "
        "72 labels (2.5 %). After 100 labels it is at about 0.5 (50 % interval 0.25 to 0.75, 80 % 0 to 1, 95 % 0 to 1)."
    )
    said = made([0.0] * 5).sentence()
    assert said.startswith(
        "accuracy hardly reaches 0.95 within 100 labels: the chance that it does is below 1 %. After "
    )


def test_what_is_said_of_several_curves():
    one = made([0.0, 0.2, 0.6, 0.8, 0.9])
    assert replace(one, curves=one.curves * 3).sentence().endswith("is 10 %. The 3 curves count equally.")
    two = replace(one, curves=one.curves * 4, already=1, reached=np.array([0.3, 0.4, 0.6, 0.8, 0.9]))
    assert two.sentence().endswith("The 4 curves count equally; 1 of them is there already.")
    assert two.samples(0.1) == two.spent
    assert two.samples(0.25) == two.spent
    assert two.samples(0.275) == pytest.approx(55)


@pytest.mark.parametrize(
    ("samples", "text"), [(0, "0"), (0.4, "0"), (7.2, "7"), (999.6, "1,000"), (1234, "1,230"), (98765432, "98,800,000")]
)
def test_counts_have_three_digits(samples, text):
    assert plans._count(samples) == text


def test_a_curve_whose_end_is_known():
    """A curve of the prior with little noise: the truth is inside the 95 % interval, and the scale does not matter."""
    curve = Curve.of((10 * k, 0.95 - 0.6 / k) for k in range(1, 13))
    found = plans.plan([curve], 0.92, horizon=600)
    low, high = found.interval(0.95)
    assert low <= 200 <= high  # 0.95 - 0.6 / k reaches it at k = 20
    assert (np.diff(found.reached) >= 0).all()
    thousandfold = Curve.of((10_000 * k, 95 - 60 / k) for k in range(1, 13))
    again = plans.plan([thousandfold], 92, horizon=600_000, scores=ScoreRange(0, 100))
    assert again.samples() == pytest.approx(1000 * found.samples(), rel=1e-3)
    loss = Curve.of((10 * k, 0.05 + 0.6 / k) for k in range(1, 13))
    down = plans.plan([loss], 0.08, horizon=600, scores=ScoreRange(lower_is_better=True))
    assert down.samples() == pytest.approx(found.samples(), rel=1e-2)


def test_a_target_beyond_reach():
    found = plans.plan([rising(40, top=0.7)], 0.95)
    assert found.never > 0.95
    assert found.samples() == math.inf
    assert found.horizon == 1600


def test_several_curves_count_equally():
    one, two = rising(12), rising(8, top=0.85)
    both = plans.plan([one, two], 0.92, horizon=600)
    ships, at = LearningCurveExtrapolator.load(), both.later.at
    alone = [ships.predict(each, at, horizon=600) for each in (one, two)]
    expected = np.mean([np.maximum.accumulate(each.chance_of(0.92)) for each in alone], axis=0)
    assert both.reached == pytest.approx(expected, abs=1e-5)
    assert both.later.mean == pytest.approx(np.mean([each.mean for each in alone], axis=0), abs=1e-4)
    assert both.spent == 120


def test_a_curve_that_has_reached_it_does_not_stand_in_the_way_of_one_that_has_not():
    there, other = rising(12), rising(12, top=0.8)
    found = plans.plan([there, other], 0.88, horizon=600)
    assert found.already == 1
    alone = plans.plan([other], 0.88, horizon=600)
    assert found.reached == pytest.approx(0.5 + alone.reached / 2)
    assert found.samples(0.5) == 120


def test_noise_around_a_level_does_not_count_as_falling():
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = Curve.of((k, 0.8 + 0.01 * rng.normal()) for k in range(1, 31))
        plans.check(curve, ScoreRange())


FALLING = Curve.of((k, 0.9 - 0.02 * k) for k in range(1, 11))


@pytest.mark.parametrize(
    ("curves", "target", "more", "message"),
    [
        ([], 0.9, {}, "there is no curve"),
        ([Curve.of([(10, 0.5)])], 0.9, {}, "plan: the curve has one point; measure at two"),
        ([FALLING], 0.95, {}, "the curve falls, from 0.88 at 1 to 0.7 at 10, and .* for a loss, add --lower-is-better"),
        ([Curve.of([(1, 0.5), (2, 0.4)])], 0.95, {}, "the curve falls"),
        (
            [rising()],
            0.1,
            {"scores": ScoreRange(lower_is_better=True)},
            "the curve rises.* leave out --lower-is-better",
        ),
        ([rising()], 0.83, {}, "the target 0.83 is reached already: the score was 0.83 after 50 samples"),
        (
            [rising()],
            0.79,
            {"unit": "labels"},
            "the target 0.79 is reached already: the score was 0.8 after 40 labels; ask for a better one",
        ),
        ([rising()], 1.5, {}, "the target 1.5 is outside the range 0 to 1"),
        ([rising()], math.nan, {}, "the target nan is outside"),
        ([Curve.of([(1, -50), (2, 0.6)])], 0.9, {}, "a score of -50 is outside the range 0 to 1; give the range"),
        ([rising()], 0.95, {"horizon": 120}, r"the horizon \(120\) must lie beyond the last point \(120\)"),
        ([rising()], 0.95, {"horizon": math.inf}, "the horizon"),
        ([rising()], 0.95, {"horizon": 1e6}, "more than 100 times the samples of the last point"),
    ],
)
def test_requests_that_cannot_be_answered(curves, target, more, message):
    with pytest.raises(FewerError, match=message):
        plans.plan(curves, target, **more)


def test_ranges_of_bounds():
    curve = Curve.of([(1, 2.3), (2, 1.1)])
    assert plans.score_range(0, 1, False, [curve], 0.5) == ScoreRange(0, 1)
    loss = plans.score_range(0, math.inf, True, [curve], 0.5)
    assert loss == ScoreRange(0, math.inf, (0.5, 2.3), True)
    found = plans.plan([Curve.of((k, 0.4 + 2 / k) for k in range(1, 15))], 0.5, scores=loss)
    assert found.samples(0.05) > 14
    # a score or a target that cannot be is not told as a typical one; equal scores have room around them
    assert plans.score_range(0, math.inf, True, [curve], -1).typical == (1.1, 2.3)
    assert plans.score_range(2, math.inf, True, [curve], 2.3).typical == (2, 2.8)


@pytest.mark.parametrize("name", ["plan.png", "plan.svg", "plan.pdf"])
def test_the_picture_is_made_and_is_the_same_each_time(tmp_path, name):
    found = plans.plan([rising(), rising(8)], 0.93, metric="accuracy", unit="labels")
    for folder in ("a", "b"):
        plans.draw(found, tmp_path / folder / name)
    first, second = ((tmp_path / folder / name).read_bytes() for folder in ("a", "b"))
    assert first == second
    assert len(first) > 5000
    with pytest.raises(FewerError, match=r"use .png, .svg or .pdf"):
        plans.draw(found, tmp_path / "plan.gif")


def test_the_picture_says_what_matters(tmp_path):
    found = plans.plan([rising()], 0.93, metric="accuracy", unit="labels")
    plans.draw(found, tmp_path / "plan.svg")
    text = (tmp_path / "plan.svg").read_text()
    for part in (
        "When accuracy reaches 0.93",
        "target 0.93",
        "chance that it is",
        "reached by then",
        "median",
        "50, 80, 95 %",
        "labels",
    ):
        assert part in text, part


def test_another_network_can_be_used():
    ships = LearningCurveExtrapolator.load()
    assert plans.plan([rising()], 0.93, extrapolator=ships).reached[-1] == plans.plan([rising()], 0.93).reached[-1]
