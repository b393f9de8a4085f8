from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.incontext.bar_distribution import BarDistribution
from fewer.incontext.extrapolation import Continuation, LearningCurveExtrapolator, ScoreRange, StopHopeless
from fewer.incontext.prior_fitted_network import PriorFitted


@pytest.fixture(scope="module")
def ships() -> LearningCurveExtrapolator:
    return LearningCurveExtrapolator.load()


@pytest.fixture(scope="module")
def untrained() -> LearningCurveExtrapolator:
    torch.manual_seed(0)
    return LearningCurveExtrapolator(
        PriorFitted(8, 1, 2).build(2, 20, 0), BarDistribution(torch.linspace(0, 1, 21)), 100
    )


def rising(points: int, step: int = 1, top: float = 0.9) -> Curve:
    return Curve.of((step * k, top - 0.5 / k) for k in range(1, points + 1))


# --- ranges ------------------------------------------------------------------------------------

RANGES = st.sampled_from(
    [
        ScoreRange(),
        ScoreRange(0, 100),
        ScoreRange(-3, 5, lower_is_better=True),
        ScoreRange(0, math.inf, typical=(0, 2.3), lower_is_better=True),
        ScoreRange(-math.inf, math.inf, typical=(-20, 300)),
        ScoreRange(-math.inf, 0, typical=(-9, -1)),
        ScoreRange(0, 10, typical=(1, 3)),
    ]
)


@settings(max_examples=200, deadline=None)
@given(RANGES, st.floats(0, 1), st.floats(0, 1))
def test_ranges_are_undone_and_better_stays_better(scores, one, two):
    low, high = scores.typical or (scores.low, scores.high)
    one, two = low + one * (high - low), low + two * (high - low)
    unit = scores.to_unit(np.array([one, two]))
    assert ((unit >= -1e-9) & (unit <= 1 + 1e-9)).all()
    assert scores.from_unit(unit) == pytest.approx([one, two], abs=1e-6 * (high - low))
    if abs(one - two) > 1e-6 * (high - low):
        assert (unit[0] > unit[1]) == ((one > two) != scores.lower_is_better)


def test_bounds_come_to_zero_and_one_and_what_is_outside_comes_back_inside():
    for scores in (ScoreRange(2, 4), ScoreRange(0, 10, typical=(1, 3))):
        assert scores.to_unit(np.array([scores.low, scores.high])) == pytest.approx([0, 1])
        assert scores.from_unit(np.array([-0.3, 1.2])) == pytest.approx([scores.low, scores.high])
    endless = ScoreRange(0, math.inf, typical=(0, 1))
    assert endless.to_unit(np.array([0, 1e9])) == pytest.approx([0, 1])
    assert endless.from_unit(np.array([0.0, 1.0])).tolist() == [0, math.inf]


@pytest.mark.parametrize(
    "scores",
    [
        ScoreRange(0, 1, typical=(0, 1)),
        ScoreRange(0, math.inf, typical=(0.5, 2.0), lower_is_better=True),
        ScoreRange(-math.inf, math.inf, typical=(-1.0, 3.0)),
        ScoreRange(-math.inf, 4.0, typical=(-1.0, 3.0)),
    ],
)
def test_bent_ranges_are_those_of_the_authors(scores):
    utils = pytest.importorskip("lcpfn.utils")
    assert scores.typical is not None
    low, high = (torch.tensor(float(each), dtype=torch.float64) for each in (scores.low, scores.high))
    there, back = utils.pfn_normalize(low, high, *scores.typical, minimize=scores.lower_is_better)
    x = np.linspace(*scores.typical, 9)
    unit = scores.to_unit(x)
    assert unit == pytest.approx(there(torch.from_numpy(x)).numpy(), abs=1e-12)
    assert scores.from_unit(unit) == pytest.approx(back(torch.from_numpy(unit)).numpy(), abs=1e-9)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((1, 0), "lower bound must be below"),
        ((0, math.inf), "with an infinite bound, say where scores typically lie"),
        ((0, 1, (0.5, 2.0)), "typical range must be finite and lie within 0 to 1"),
        ((math.nan, 1), "lower bound must be below"),
    ],
)
def test_ranges_that_cannot_be(given_, message):
    with pytest.raises(FewerError, match=message):
        ScoreRange(*given_)


# --- the frame of the network ------------------------------------------------------------------


def test_points_are_put_on_the_scale_of_the_horizon(untrained):
    x, y = untrained.frame(Curve.of([(20, 0.1), (50, 0.2), (90, 0.4)]), 1000, ScoreRange())
    assert x.tolist() == pytest.approx([2, 5, 9])
    assert y.tolist() == pytest.approx([0.1, 0.2, 0.4])
    assert untrained.frame([0.1, 0.2], 100, ScoreRange())[0].tolist() == [1, 2]


def test_early_and_crowded_points_are_thinned(untrained):
    curve = Curve.of((k, 0.5 + k / 10_000) for k in range(1, 3001))
    x, y = untrained.frame(curve, 10_000, ScoreRange())
    assert len(x) <= 31
    assert x.min() >= 1
    assert len(set(np.round(x))) == len(x)
    assert (x[-1], y[-1]) == (30, 0.8)  # the last one is always there


def test_queries_by_default_go_to_the_horizon(untrained):
    said = untrained.predict(rising(10, 5), horizon=200)
    assert said.at[0] > 50
    assert said.at[-1] == 200
    assert np.diff(said.at) == pytest.approx(2)
    assert len(untrained.predict(rising(99)).at) == 1


@pytest.mark.parametrize(
    ("curve", "more", "message"),
    [
        ([], {}, "one score or more"),
        ([0.1, math.nan], {}, "none of them NaN"),
        ([0.1, 1.2], {}, "a score of 1.2 is outside the range 0 to 1"),
        ([0.1] * 100, {}, r"the horizon \(100\) must lie beyond the last point \(100\)"),
        (rising(3), {"horizon": 301}, "more than 100 times the samples"),
        (rising(3), {"at": [2]}, r"after the last point \(3\) and up to the horizon \(100\); given 2"),
        (rising(3), {"at": [101.0]}, "given 101"),
        (rising(3), {"at": []}, "given none"),
    ],
)
def test_requests_that_cannot_be_answered(untrained, curve, more, message):
    with pytest.raises(FewerError, match=message):
        untrained.predict(curve, **more)


# --- what is said ------------------------------------------------------------------------------


def test_a_continuation_follows_its_bars():
    bars = BarDistribution(torch.tensor([0.0, 0.2, 0.5, 1.0]))
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    said = Continuation(np.array([10.0]), logits, bars, ScoreRange())
    assert said.quantile(0.45)[0] == pytest.approx(0.35, abs=1e-6)
    assert said.chance_of(0.35)[0] == pytest.approx(0.55, abs=1e-6)
    loss = Continuation(np.array([10.0]), logits, bars, ScoreRange(lower_is_better=True))
    assert loss.quantile(0.55)[0] == pytest.approx(0.65, abs=1e-6)
    assert loss.chance_of(0.65)[0] == pytest.approx(0.55, abs=1e-6)
    assert loss.mean[0] == pytest.approx(1 - said.mean[0], abs=1e-6)


def test_a_query_does_not_depend_on_the_others(ships):
    curve = rising(20)
    every = ships.predict(curve, at=[30, 60, 100]).quantile(0.5)
    alone = ships.predict(curve, at=[60]).quantile(0.5)
    assert every[1] == pytest.approx(alone[0], abs=1e-6)


def test_scale_and_direction_do_not_matter(ships):
    curve = rising(20)
    said = ships.predict(curve, at=[60, 100])
    percent = Curve.of((point.spent * 7, 100 * point.score) for point in curve)
    loss = Curve.of((point.spent, 1 - point.score) for point in curve)
    hundredfold = ships.predict(percent, at=[420, 700], horizon=700, scores=ScoreRange(0, 100))
    assert hundredfold.quantile(0.3) == pytest.approx(100 * said.quantile(0.3), abs=1e-3)
    flipped = ships.predict(loss, at=[60, 100], scores=ScoreRange(lower_is_better=True))
    assert flipped.quantile(0.3) == pytest.approx(1 - said.quantile(0.7), abs=1e-5)
    assert flipped.chance_of(0.12) == pytest.approx(said.chance_of(0.88), abs=1e-4)


def test_more_points_and_less_noise_make_it_surer(ships):
    def width(points: int, noise: float) -> float:
        rng = np.random.default_rng(0)
        scores = 0.9 - 0.5 / np.arange(1, points + 1) + noise * rng.normal(size=points)
        said = ships.predict(scores.clip(0, 1), at=[100])
        return float(np.diff([said.quantile(chance)[0] for chance in (0.1, 0.9)])[0])

    assert width(60, 0.002) < width(8, 0.002)
    assert width(60, 0.002) < width(60, 0.05)
    assert width(90, 0.002) < 0.03


def test_chances_fall_with_the_target(ships):
    chances = [ships.chance_to_reach(rising(20), target) for target in np.linspace(0.5, 0.99, 12)]
    assert (np.diff(chances) <= 1e-6).all()
    assert chances[0] > 0.99
    assert chances[-1] < 0.05


# --- stopping ----------------------------------------------------------------------------------


def test_a_run_is_stopped_if_its_chance_is_small(ships):
    rule = StopHopeless(horizon=50, extrapolator=ships)
    curve = rising(20, top=0.6)
    for best in (0.3, 0.58, 0.62, 0.9):
        assert rule(curve, best) == (ships.chance_to_reach(curve, best, horizon=50) < 0.05)
    assert rule(curve, 0.9)
    assert not rule(curve, 0.55)


def test_nobody_is_stopped_without_a_rival_or_with_too_few_points_or_at_the_end(ships):
    rule = StopHopeless(horizon=50, extrapolator=ships)
    assert not rule(rising(20, top=0.6), None)
    assert not rule([0.1, 0.1], 0.9)
    assert not rule([0.1] * 50, 0.9)
    assert StopHopeless(horizon=50, least=2, extrapolator=ships)([0.1, 0.1], 0.99)


def test_nobody_is_stopped_before_the_network_sees_enough(ships):
    """Points crowded in the first hundredths of a long run are no reason to stop it, nor an error."""
    rule = StopHopeless(horizon=100_000, extrapolator=ships)
    crowded = Curve.of((100 * k, 0.1) for k in range(1, 10))
    assert not rule(crowded, 0.99)
    assert not rule(Curve.of((100 * k, 0.1) for k in range(1, 22)), 0.99)  # two hundredths
    assert rule(Curve.of((100 * k, 0.1) for k in range(1, 60)), 0.99)


def test_losses_are_stopped_too(ships):
    rule = StopHopeless(horizon=50, scores=ScoreRange(0, 3, lower_is_better=True), extrapolator=ships)
    losses = [2 + 0.5 / k for k in range(1, 21)]
    assert rule(losses, best=0.3)
    assert not rule(losses, best=2.5)


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": 0.0}, {"least": 0}])
def test_rules_that_cannot_be(wrong):
    with pytest.raises(FewerError, match="confidence must lie in"):
        StopHopeless(horizon=50, **wrong)
