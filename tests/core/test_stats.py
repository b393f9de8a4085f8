from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core import stats
from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.core.intervals import mean_interval
from fewer.core.stats import area, band, final, samples_to_target

quick = settings(max_examples=40, deadline=None)


def reaching(times: Sequence[float], censored: Sequence[bool]) -> list[Curve]:
    """Curves that reach 1 after so many samples (at least 1), or end there without."""
    return [
        Curve.of([(0, 0.0), (int(time), 0.5 if gave_up else 1.0)])
        for time, gave_up in zip(times, censored, strict=True)
    ]


def noisy_curves(runs: int, seed: int = 0) -> list[Curve]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(runs):
        spent = np.sort(generator.choice(np.arange(1, 200), size=8, replace=False))
        spent = np.concatenate([[0], spent, [200 + generator.integers(50)]])
        made.append(Curve.of(zip(spent, 1 - np.exp(-spent / 80) + 0.05 * generator.normal(size=10), strict=True)))
    return made


def test_needs_no_torch() -> None:
    code = "import sys, fewer.core.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_it_names_is_there() -> None:
    assert all(hasattr(stats, name) for name in stats.__all__)


# --- samples to a target ---------------------------------------------------------------------------------------------


def test_without_censoring_it_is_the_median() -> None:
    odd = samples_to_target(reaching([50, 10, 40, 20, 30], [False] * 5), 1.0)
    assert (odd.estimate, odd.low, odd.high) == (30, 10, 50)
    assert (odd.reached, odd.runs, odd.share, str(odd)) == (5, 5, 1.0, "30 [10, 50]")
    even = samples_to_target(reaching([10, 20, 30, 40, 50, 60], [False] * 6), 1.0)
    assert even.estimate == 35


def test_runs_that_never_reach_it_count() -> None:
    # the share below the target is 4/5 after 10, 4/5 * 2/3 after 30 and 4/5 * 2/3 * 1/2 after 40: half is passed there
    found = samples_to_target(reaching([10, 20, 30, 40, 50], [False, True, False, False, True]), 1.0)
    assert (found.estimate, found.reached, found.share) == (40, 3, 0.6)
    # to leave the two out, or to take them for successes, would answer 30
    assert np.median([10, 30, 40]) == np.median([10, 20, 30, 40, 50]) == 30


def test_a_median_that_is_not_reached() -> None:
    found = samples_to_target(reaching([120, 300, 200, 300, 300], [False, True, False, True, True]), 1.0)
    assert (found.estimate, found.low, found.high, found.share) == (math.inf, 120, math.inf, 0.4)
    assert str(found) == "> 300 (2 of 5 runs reached it)"


def test_nobody_reaches_it() -> None:
    found = samples_to_target(reaching([100, 250, 300, 200, 150, 90], [True] * 6), 1.0)
    assert (found.estimate, found.low, found.high, found.reached) == (math.inf, 300, math.inf, 0)
    assert str(found) == "> 300 (0 of 6 runs reached it)"


def test_exactly_half_is_not_yet_a_median() -> None:
    found = samples_to_target(reaching([10, 20, 30, 100, 100, 100], [False] * 3 + [True] * 3), 1.0)
    assert (found.estimate, found.low, found.high) == (math.inf, 10, math.inf)


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_fewer_than_five_runs_bound_nothing(runs: int) -> None:
    found = samples_to_target(reaching([10, 20, 30, 40][:runs], [False] * runs), 1.0)
    assert (found.estimate, found.low, found.high) == (np.median([10, 20, 30, 40][:runs]), 0, math.inf)
    assert samples_to_target(reaching([10, 20, 30, 40], [False] * 4), 1.0, level=0.8).high == 40


def test_a_curve_that_starts_at_the_target_counts_with_its_start() -> None:
    curves = [Curve.of([(10 * (i + 1), 0.9), (100, 1.0)]) for i in range(5)]
    assert samples_to_target(curves, 0.5).estimate == 30


experiments = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=5, max_size=20)


@pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
@quick
@given(experiments)
def test_it_agrees_with_scipys_survival_function(runs: list[tuple[int, bool]]) -> None:
    times = np.array([float(time) for time, _ in runs])
    gave_up = np.array([flag for _, flag in runs])
    at, share, _ = stats._kaplan_meier(times, ~gave_up)
    peer = scipy.stats.ecdf(scipy.stats.CensoredData(times[~gave_up], right=times[gave_up])).sf
    assert share == pytest.approx(peer.evaluate(at), abs=1e-12)
    if gave_up.all():
        return
    # where scipy's log-log interval of the share first reaches down to one half, and where it first lies below
    limits = peer.confidence_interval(0.95, method="log-log")
    zero = share < 1e-12  # there scipy's interval is undefined
    low_share = np.where(zero, 0, limits.low.evaluate(at))
    high_share = np.where(zero, 0, limits.high.evaluate(at))
    found = samples_to_target(reaching(times.tolist(), gave_up.tolist()), 1.0)
    assert found.low == next((time for time, low in zip(at, low_share, strict=True) if low <= 0.5), times.max())
    assert found.high == next((time for time, high in zip(at, high_share, strict=True) if high < 0.5), math.inf)
    assert found.low <= found.estimate <= found.high


@quick
@given(experiments, st.randoms(), st.integers(2, 5))
def test_order_scale_and_giving_up_later(runs: list[tuple[int, bool]], random: Any, scale: int) -> None:
    times, gave_up = [time for time, _ in runs], [flag for _, flag in runs]
    found = samples_to_target(reaching(times, gave_up), 1.0)
    shuffled = list(runs)
    random.shuffle(shuffled)
    assert samples_to_target(reaching([t for t, _ in shuffled], [f for _, f in shuffled]), 1.0) == found
    scaled = samples_to_target(reaching([scale * time for time in times], gave_up), 1.0)
    assert (scaled.estimate, scaled.low, scaled.high) == (scale * found.estimate, scale * found.low, scale * found.high)
    later = [time + 5 * flag for time, flag in runs]  # a run that is followed longer, in vain, cannot lower the median
    assert samples_to_target(reaching(later, gave_up), 1.0).estimate >= found.estimate


@pytest.mark.parametrize("runs", [5, 8, 10])
@pytest.mark.parametrize("budget", [10_000, 1_000])
def test_coverage_of_the_median(runs: int, budget: int) -> None:
    generator = np.random.default_rng(runs)
    truth = 1000 * math.log(2)  # the median of an exponential law; at the smaller budget 37 % are censored
    held = []
    for _ in range(1500):
        times = 1 + 1000 * generator.exponential(size=runs)
        curves = reaching(np.minimum(times, budget).tolist(), (times > budget).tolist())
        found = samples_to_target(curves, 1.0)
        held.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(held) <= 0.99


# --- area, final score, band -----------------------------------------------------------------------------------------


def test_area_and_final_of_curves_on_one_grid_are_those_of_each() -> None:
    curves = [Curve.of([(10, 0.5), (20, top), (40, top + 0.1)]) for top in (0.70, 0.72, 0.74, 0.71, 0.73)]
    assert area(curves) == mean_interval([curve.area() for curve in curves])
    assert final(curves) == mean_interval([curve.final for curve in curves])
    assert final(curves).estimate == pytest.approx(0.82)


def test_area_is_taken_over_what_all_share() -> None:
    short = Curve.of([(10, 0.0), (30, 1.0)])
    long = Curve.of([(0, -5.0), (20, 0.5), (100, 0.5)])
    # over 10 … 30: the short curve's mean is 1/2; the long one rises from -2.25 to 0.5 until 20, and stays
    assert area([short, long]).estimate == pytest.approx((0.5 + ((-2.25 + 0.5) / 2 + 0.5) / 2) / 2)


def test_area_over_a_single_shared_point_is_the_score_there() -> None:
    assert area([Curve.of([(0, 0.0), (10, 0.4)]), Curve.of([(10, 0.6), (20, 1.0)])]).estimate == pytest.approx(0.5)


def test_area_agrees_with_a_slow_integral() -> None:
    curves = noisy_curves(6)
    grid = np.arange(1 + min(curve.points[-1].spent for curve in curves))  # every shared point of a curve is on it
    slow = [np.trapezoid([curve.at(spent) for spent in grid.tolist()], grid) / grid[-1] for curve in curves]
    assert area(curves).estimate == pytest.approx(np.mean(slow))


def test_band_is_the_mean_of_the_curves_with_its_interval() -> None:
    curves = noisy_curves(5)
    grid, mean, low, high = band(curves)
    last = min(curve.points[-1].spent for curve in curves)
    assert grid.tolist() == sorted({point.spent for curve in curves for point in curve if point.spent <= last})
    for index in (0, len(grid) // 2, len(grid) - 1):
        scores = [curve.at(grid[index]) for curve in curves]
        alone = mean_interval(scores)
        assert mean[index] == pytest.approx(alone.estimate)
        width = alone.high - alone.low  # runs are drawn in another order: equal up to the noise of the resampling
        assert [low[index], high[index]] == pytest.approx([alone.low, alone.high], abs=0.1 * width)
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_band_takes_a_grid_and_long_curves_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = noisy_curves(5)
    asked = [0.0, 12.5, 100.0]
    grid, mean, low, high = band(curves, asked)
    assert grid.tolist() == asked
    assert mean == pytest.approx([np.mean([curve.at(spent) for curve in curves]) for spent in asked])
    monkeypatch.setattr("fewer.core.intervals.BLOCK", 10_000)
    blocked = band(curves, asked)
    assert blocked[1] == pytest.approx(mean)
    assert blocked[2] == pytest.approx(low, abs=0.1 * np.max(high - low))


def test_band_of_one_run_has_no_width_to_draw() -> None:
    _, mean, low, high = band([Curve.of([(0, 0.1), (10, 0.2)])])
    assert mean.tolist() == [0.1, 0.2]
    assert np.isnan([low, high]).all()


@quick
@given(st.randoms(), st.floats(0.1, 10), st.floats(-10, 10), st.integers(2, 7))
def test_order_and_affine_scores(random: Any, scale: float, shift: float, runs: int) -> None:
    curves = noisy_curves(runs, seed=runs)
    moved = [Curve.of([(p.spent, scale * p.score + shift) for p in curve]) for curve in curves]
    random.shuffle(moved)
    for what in (area, final):
        one, other = what(curves, resamples=500), what(moved, resamples=500)
        expected = [scale * end + shift for end in (one.estimate, one.low, one.high)]
        assert [other.estimate, other.low, other.high] == pytest.approx(expected, abs=1e-6)


# --- errors ----------------------------------------------------------------------------------------------------------

good = Curve.of([(0, 0.1), (10, 0.2)])
broken = Curve.of([(0, 0.1), (10, math.nan)])


@pytest.mark.parametrize("what", [area, final, band, lambda curves: samples_to_target(curves, 0.5)])
@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "takes a list of curves, one per run; none was given"),
        (good, "one curve was given"),
        ([good, broken], "score of run 1 after 10 samples is nan"),
    ],
)
def test_errors_of_every_summary(what: Callable[..., Any], curves: Any, message: str) -> None:
    with pytest.raises(FewerError, match=message) as caught:
        what(curves)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: area([good, Curve.of([(20, 0.1)])]), "share no range; one ends at 10, another starts at 20 samples"),
        (lambda: band([good], [0, 11]), "samples from 0 to 10"),
        (lambda: band([good], []), "samples from 0 to 10"),
        (lambda: band([good], [math.nan]), "samples from 0 to 10"),
        (lambda: samples_to_target([good], math.nan), "finite target, but nan"),
        (lambda: samples_to_target([good], 0.5, level=1.0), "level 1 "),
        (lambda: area([good], resamples=0), "from 0 resamples"),
    ],
)
def test_errors_say_what_was_wrong_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(FewerError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
