from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewer.core import intervals
from fewer.core.errors import FewerError
from fewer.core.intervals import (
    Interval,
    bootstrap,
    iqm,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_ratio,
    probability_of_improvement,
)

finite = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
some_runs = arrays(float, st.integers(2, 9), elements=finite)
quick = settings(max_examples=40, deadline=None)


def ends(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def overall_mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def rliable() -> Iterator[Any]:
    """The peer's library; of ``arch`` it needs one module, while the whole package fails to import with pandas 3."""
    pytest.importorskip("rliable")
    found = importlib.util.find_spec("arch")
    if found is None:
        pytest.skip("rliable.library needs arch")
    package = types.ModuleType("arch")
    package.__path__ = list(found.submodule_search_locations or [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "arch", package)
        yield importlib.import_module("rliable.library")


# --- how an interval reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.8123, 0.8012, 0.8234), "0.812 [0.801, 0.823]"),
        (Interval(142.3, 120.0, 180.4), "142 [120, 180]"),
        (Interval(1234567.0, 1200000.0, 1300000.0), "1234567 [1200000, 1300000]"),
        (Interval(2e-6, 1e-6, 3e-6), "0.0000020 [0.0000010, 0.0000030]"),
        (Interval(0.5, 0.5, 0.5), "0.500 [0.500, 0.500]"),
        (Interval(0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
        (Interval(0.812, -math.inf, math.inf), "0.812 [-inf, inf]"),
        (Interval(142.0, 120.0, math.inf), "142 [120, inf]"),
    ],
)
def test_an_interval_is_written_to_the_precision_it_has(interval: Interval, text: str) -> None:
    assert str(interval) == text


# --- interquartile mean ----------------------------------------------------------------------------------------------


def test_iqm_closed_forms() -> None:
    assert iqm([0.0, 1.0, 2.0, 90.0]) == 1.5
    assert iqm([7.0]) == 7.0
    assert iqm([1.0, 5.0]) == 3.0  # too few to drop any
    assert iqm(np.arange(8).reshape(4, 2)) == 3.5
    assert iqm(np.arange(24).reshape(3, 4, 2)).tolist() == [3.5, 11.5, 19.5]


@given(arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=finite))
def test_iqm_agrees_with_scipy_and_the_peer(scores: np.ndarray) -> None:
    expected = scipy.stats.trim_mean(scores.ravel(), 0.25)
    assert iqm(scores) == pytest.approx(expected, abs=1e-9)
    assert iqm(np.stack([scores, 2 * scores])) == pytest.approx([expected, 2 * expected], abs=1e-9)
    metrics = pytest.importorskip("rliable.metrics")
    assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-9)


@given(some_runs, st.floats(-10, 10), finite, st.randoms())
def test_iqm_order_affine_and_monotone(values: np.ndarray, scale: float, shift: float, random: Any) -> None:
    shuffled = values.tolist()
    random.shuffle(shuffled)
    assert iqm(shuffled) == pytest.approx(iqm(values), abs=1e-9)
    assert iqm(scale * values + shift) == pytest.approx(scale * iqm(values) + shift, abs=1e-6)
    assert values.min() - 1e-9 <= iqm(values) <= values.max() + 1e-9
    higher = values.copy()
    higher[0] += 1.0
    assert iqm(higher) >= iqm(values) - 1e-9


# --- stratified bootstrap --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["iqm", "mean"])
def test_bootstrap_agrees_with_the_peer(rliable: Any, statistic: str) -> None:
    metrics = pytest.importorskip("rliable.metrics")
    theirs = {"iqm": metrics.aggregate_iqm, "mean": metrics.aggregate_mean}[statistic]
    scores = np.random.default_rng(1).gamma(3.0, size=(10, 4)) * [1.0, 2.0, 0.5, 4.0]  # strata differ in spread
    np.random.seed(0)  # the peer draws from the global state
    point, interval = rliable.get_interval_estimates({"x": scores}, lambda x: np.array([theirs(x)]), reps=4000)
    ours = bootstrap(scores, {"iqm": iqm, "mean": overall_mean}[statistic])
    width = ours.high - ours.low
    assert ours.estimate == pytest.approx(point["x"][0])
    # the standard error of a 2.5 % quantile from 4000 resamples is 1.7 % of the width of the interval
    assert [ours.low, ours.high] == pytest.approx(interval["x"][:, 0], abs=0.07 * width)


def test_bootstrap_of_one_task_agrees_with_scipy() -> None:
    scores = np.random.default_rng(2).exponential(size=12)
    theirs = scipy.stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=3)
    ours = bootstrap(scores, overall_mean, resamples=20_000)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert [ours.low, ours.high] == pytest.approx(list(theirs.confidence_interval), abs=0.03 * width)


def test_bootstrap_draws_runs_within_tasks() -> None:
    # runs within a task are equal: nothing varies, unless runs wandered from task to task
    same = np.tile([0.1, 0.5, 0.9], (5, 1))
    assert ends(bootstrap(same, overall_mean)) == pytest.approx([0.5, 0.5, 0.5])
    # two tasks that cancel when the same runs are drawn for both do not cancel when drawn independently
    mirrored = np.stack([np.arange(6.0), -np.arange(6.0)], axis=1)
    assert bootstrap(mirrored, overall_mean).high > 0.5


def test_bootstrap_of_two_runs_is_exact_enumeration() -> None:
    # the four resamples of (0, 1) have means 0, 1/2, 1/2, 1: the 30 % and the 20 % quantile of the mean are known
    assert ends(bootstrap([0.0, 1.0], overall_mean, level=0.4)) == pytest.approx([0.5, 0.5, 0.5])
    assert ends(bootstrap([0.0, 1.0], overall_mean, level=0.6)) == pytest.approx([0.5, 0.0, 1.0])


@quick
@given(arrays(float, st.tuples(st.integers(2, 6), st.integers(1, 3)), elements=finite), st.randoms(), finite)
def test_bootstrap_order_affine_and_level(scores: np.ndarray, random: Any, shift: float) -> None:
    interval = bootstrap(scores, resamples=500)
    order = list(range(len(scores)))
    random.shuffle(order)
    assert ends(bootstrap(scores[order], resamples=500)) == pytest.approx(ends(interval), abs=1e-9)
    moved = bootstrap(2 * scores + shift, resamples=500)
    assert ends(moved) == pytest.approx([2 * end + shift for end in ends(interval)], abs=1e-6)
    wider = bootstrap(scores, resamples=500, level=0.99)
    assert wider.low <= interval.low <= interval.high <= wider.high


def test_bootstrap_is_reproducible_and_takes_its_seed() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 2))
    assert bootstrap(scores) == bootstrap(scores, seed=0)
    assert bootstrap(scores) != bootstrap(scores, seed=1)


def test_one_run_bounds_nothing() -> None:
    assert ends(bootstrap([[0.1, 0.3]], overall_mean)) == pytest.approx([0.2, -math.inf, math.inf])
    assert ends(mean_interval([0.3])) == [0.3, -math.inf, math.inf]
    assert ends(paired_difference([0.3], [0.1])) == pytest.approx([0.2, -math.inf, math.inf])
    assert ends(paired_ratio([3.0], [2.0])) == pytest.approx([1.5, 0.0, math.inf])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(4).normal(size=(6, 3))
    whole = bootstrap(scores, resamples=999), paired_difference(scores[:, 0], scores[:, 1], resamples=999)
    monkeypatch.setattr(intervals, "BLOCK", 100)
    assert (bootstrap(scores, resamples=999), paired_difference(scores[:, 0], scores[:, 1], resamples=999)) == whole


# --- means, paired differences, ratios -------------------------------------------------------------------------------


def all_resampled_means(values: np.ndarray) -> np.ndarray:
    """Every resample, enumerated in plain Python."""
    return np.array([np.mean(drawn) for drawn in product(values.tolist(), repeat=len(values))])


@pytest.mark.parametrize("runs", [2, 3, 4, 5])
def test_the_stretched_interval_agrees_with_full_enumeration(runs: int) -> None:
    values = np.random.default_rng(3).exponential(size=runs)
    factor = math.sqrt(runs / (runs - 1)) * scipy.stats.t.ppf(0.975, runs - 1) / scipy.stats.norm.ppf(0.975)
    # with few runs the quantiles jump, so it is their probability that is allowed the noise of the resampling
    quantiles = np.quantile(all_resampled_means(values), [0.022, 0.028, 0.972, 0.978], method="inverted_cdf")
    from_low, to_low, from_high, to_high = values.mean() + factor * (quantiles - values.mean())
    ours = mean_interval(values, resamples=40_000)
    assert ours.estimate == pytest.approx(values.mean())
    assert from_low - 1e-9 <= ours.low <= to_low + 1e-9
    assert from_high - 1e-9 <= ours.high <= to_high + 1e-9


def test_the_stretched_interval_becomes_students_with_many_runs() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, size=300)
    expected = scipy.stats.t.interval(0.95, 299, values.mean(), scipy.stats.sem(values))
    ours = mean_interval(values, resamples=40_000)
    assert [ours.low, ours.high] == pytest.approx(expected, abs=0.03 * (expected[1] - expected[0]))


def test_equal_differences_give_an_interval_of_no_width() -> None:
    assert ends(paired_difference([0.1] * 7, [0.0] * 7)) == [0.1, 0.1, 0.1]
    assert ends(paired_difference([0.4, 0.6, 0.8], [0.4, 0.6, 0.8])) == [0.0, 0.0, 0.0]
    assert ends(paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])) == pytest.approx([2.0, 2.0, 2.0])


def test_pairing_removes_what_a_seed_does_to_both_sides() -> None:
    generator = np.random.default_rng(6)
    seeds, noise = 10 * generator.normal(size=8), 0.1 * generator.normal(size=8)
    interval = paired_difference(seeds + 1 + noise, seeds)
    assert 0.8 < interval.low < interval.high < 1.2
    ratio = paired_ratio(np.exp(seeds / 5 + noise) * 3, np.exp(seeds / 5))
    assert 2.5 < ratio.low < ratio.high < 3.5


@quick
@given(some_runs, st.randoms(), st.floats(0.1, 10), finite)
def test_mean_interval_order_sign_affine_and_level(values: np.ndarray, random: Any, scale: float, shift: float) -> None:
    interval = mean_interval(values, resamples=500)
    assert interval.low <= interval.estimate + 1e-9
    assert interval.estimate <= interval.high + 1e-9
    shuffled = values.tolist()
    random.shuffle(shuffled)
    assert ends(mean_interval(shuffled, resamples=500)) == pytest.approx(ends(interval), abs=1e-6)
    zero = np.zeros_like(values)
    mirrored = paired_difference(zero, values, resamples=500)
    assert [mirrored.estimate, mirrored.high, mirrored.low] == pytest.approx([-end for end in ends(interval)], abs=1e-6)
    moved = mean_interval(scale * values + shift, resamples=500)
    assert ends(moved) == pytest.approx([scale * end + shift for end in ends(interval)], abs=1e-4)
    wider = mean_interval(values, resamples=500, level=0.99)
    assert wider.low <= interval.low + 1e-9
    assert wider.high >= interval.high - 1e-9


@quick
@given(
    arrays(
        float, st.tuples(st.integers(2, 8), st.just(2)), elements=st.floats(0.1, 10).map(lambda value: round(value, 3))
    ),
    st.floats(0.1, 10),
)
def test_paired_ratio_estimate_order_of_ends_and_scale(pairs: np.ndarray, scale: float) -> None:
    a, b = pairs.T
    interval = paired_ratio(a, b)
    assert interval.estimate == pytest.approx(a.mean() / b.mean())
    assert 0 <= interval.low <= interval.estimate * (1 + 1e-9)
    assert interval.high >= interval.estimate * (1 - 1e-9)
    assert ends(paired_ratio(scale * a, b)) == pytest.approx([scale * end for end in ends(interval)], rel=1e-6)


def test_paired_ratio_the_other_way_round_is_the_reciprocal() -> None:
    a, b = np.random.default_rng(13).gamma(4.0, size=(2, 10))
    there, back = np.log(ends(paired_ratio(a, b))), np.log(ends(paired_ratio(b, a)))
    assert -back[[0, 2, 1]] == pytest.approx(there, abs=0.05 * (there[2] - there[1]))


def test_mean_intervals_treats_each_column_by_itself() -> None:
    values = np.sort(np.random.default_rng(7).normal(size=(6, 3)), axis=0)
    together = mean_intervals(values)
    for column in range(3):
        assert together[:, column] == pytest.approx(ends(mean_interval(values[:, column])))


# --- coverage: how often an interval made for 95 % holds the truth ----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "runs", "least", "most"),
    [
        ("normal", 3, 0.92, 0.98),
        ("normal", 5, 0.93, 0.97),
        ("normal", 8, 0.93, 0.97),
        ("normal", 10, 0.93, 0.97),
        ("exponential", 5, 0.86, 0.92),
        ("exponential", 8, 0.88, 0.94),
        ("exponential", 10, 0.88, 0.94),
        ("difference of exponentials", 8, 0.93, 0.98),
    ],
)
def test_coverage_of_a_mean(kind: str, runs: int, least: float, most: float) -> None:
    generator = np.random.default_rng(8)
    size = (runs, 3000)  # each column is one experiment; the standard error of the coverage is 0.004
    values = {
        "normal": lambda: generator.normal(size=size),
        "exponential": lambda: generator.exponential(size=size) - 1,
        "difference of exponentials": lambda: generator.exponential(size=size) - generator.exponential(size=size),
    }[kind]()
    _, low, high = mean_intervals(values, resamples=2000)
    assert least <= np.mean((low <= 0) & (high >= 0)) <= most


def test_coverage_of_the_plain_percentile_interval_is_why_it_is_not_used_for_few_seeds() -> None:
    generator = np.random.default_rng(9)
    held = [
        (interval := bootstrap(generator.normal(size=5), overall_mean, resamples=1000)).low <= 0 <= interval.high
        for _ in range(500)
    ]
    assert 0.78 <= np.mean(held) <= 0.89


@pytest.mark.parametrize("runs", [5, 8, 10])
def test_coverage_of_a_ratio(runs: int) -> None:
    generator = np.random.default_rng(10)
    held = []
    for _ in range(800):
        seeds = generator.normal(size=runs)  # what a seed does to both sides
        a, b = (np.exp(0.3 * (seeds + generator.normal(size=runs))) for _ in range(2))
        interval = paired_ratio(a, 2 * b, resamples=1000)
        held.append(interval.low <= 0.5 <= interval.high)
    assert 0.91 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("distance", [0.0, 1.5, 3.0])
def test_coverage_of_the_probability_of_improvement(distance: float) -> None:
    generator = np.random.default_rng(11)
    truth = scipy.stats.norm.cdf(distance / math.sqrt(2))
    held = []
    for _ in range(400):
        a, b = generator.normal(distance, size=(8, 2)), generator.normal(size=(8, 2))
        interval = probability_of_improvement(a, b, resamples=1000)
        held.append(interval.low <= truth <= interval.high)
    assert np.mean(held) >= 0.90  # far less at a distance of 3 without the bound for sides that win everything


# --- probability of improvement --------------------------------------------------------------------------------------


def test_probability_of_improvement_closed_forms() -> None:
    assert probability_of_improvement([2, 3], [0, 1]).estimate == 1.0
    assert probability_of_improvement([0, 1], [2, 3]).estimate == 0.0
    assert probability_of_improvement([1, 1, 1], [1, 1]).estimate == 0.5
    assert probability_of_improvement([1, 2], [1, 0]).estimate == (0.5 + 1 + 1 + 1) / 4
    # tasks are averaged, and compared within themselves only
    assert probability_of_improvement([[1, 100], [1, 100]], [[0, 200], [0, 200]]).estimate == 0.5


@given(
    arrays(float, st.tuples(st.integers(1, 7), st.just(3)), elements=st.integers(0, 9).map(float)),
    arrays(float, st.tuples(st.integers(1, 7), st.just(3)), elements=st.integers(0, 9).map(float)),
)
@quick
def test_probability_of_improvement_agrees_with_scipy_and_the_peer(a: np.ndarray, b: np.ndarray) -> None:
    ours = probability_of_improvement(a, b, resamples=200)
    per_task = [scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(a.T, b.T, strict=True)]
    assert ours.estimate == pytest.approx(np.mean(per_task))
    metrics = pytest.importorskip("rliable.metrics")
    assert ours.estimate == pytest.approx(metrics.probability_of_improvement(a, b))
    assert 0 <= ours.low <= ours.estimate <= ours.high <= 1
    assert probability_of_improvement(b, a, resamples=200).estimate == pytest.approx(1 - ours.estimate)
    assert probability_of_improvement(np.exp(a), np.exp(b), resamples=200) == ours  # ranks are all that counts
    assert probability_of_improvement(a[::-1], b[::-1], resamples=200) == ours


def test_probability_of_improvement_interval_agrees_with_the_peer(rliable: Any) -> None:
    generator = np.random.default_rng(12)
    a, b = generator.normal(0.3, size=(12, 3)), generator.normal(size=(9, 3))

    def share_of_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # no ties here; the peer's own calls scipy each time
        return np.array([np.mean(x[:, None] > y[None])])

    np.random.seed(0)
    _, theirs = rliable.get_interval_estimates({"x": [a, b]}, share_of_wins, reps=4000)
    ours = probability_of_improvement(a, b)
    assert [ours.low, ours.high] == pytest.approx(theirs["x"][:, 0], abs=0.07 * (ours.high - ours.low))


def test_winning_everything_is_no_certainty() -> None:
    five = probability_of_improvement(np.arange(5) + 10, np.arange(5))
    assert ends(five) == pytest.approx([1.0, 0.025 ** (1 / 5), 1.0])
    assert probability_of_improvement(np.arange(5), np.arange(5) + 10).high == pytest.approx(1 - 0.025 ** (1 / 5))
    # the bound is exact: an a that wins with this probability, and else loses to all, wins five times in five at 2.5 %
    assert five.low**5 == pytest.approx(0.025)
    assert probability_of_improvement([1.0], [0.0]).low == pytest.approx(0.025)
    many = probability_of_improvement(np.ones((10, 5)), np.zeros((10, 5)))
    assert many.low == pytest.approx(0.025 ** (1 / 50))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([]), r"shape \(0,\) were given"),
        (lambda: iqm([[]]), r"shape \(1, 0\)"),
        (lambda: bootstrap(np.array(3.0)), r"shape \(\) were given; give \(runs,\) or \(runs, tasks\)"),
        (lambda: bootstrap(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda: bootstrap([[0.1, 0.2], [0.3]]), "no array of numbers"),
        (lambda: bootstrap(["a", "b"]), "no array of numbers"),
        (lambda: bootstrap([[0.1, 0.2], [0.3, math.nan]]), "run 1 on task 1 is nan"),
        (lambda: mean_interval([0.1, 0.2, -math.inf]), "run 2 on task 0 is -inf"),
        (lambda: iqm([math.nan]), "iqm: the score of run 0"),
        (lambda: bootstrap([0.1, 0.2], np.mean), r"made shape \(\) of one resample of shape \(1, 2, 1\)"),
        (lambda: bootstrap([0.1, 0.2], level=95.0), "level 95"),
        (lambda: bootstrap([0.1, 0.2], resamples=0), "from 0 resamples"),
        (lambda: mean_interval(np.zeros((3, 2))), r"one number per run, but shape \(3, 2\)"),
        (lambda: paired_difference([1, 2, 3], [1, 2]), r"shapes \(3,\) and \(2,\) do not pair"),
        (lambda: paired_difference(np.zeros((3, 2)), np.zeros((3, 2))), r"shapes \(3, 2\) and \(3, 2\) do not pair"),
        (lambda: paired_ratio([1.0, 2.0], [0.0, 1.0]), "positive values, but 0 was given; use paired_difference"),
        (lambda: paired_ratio([1.0, -2.0], [3.0, 1.0]), "but -2 was given"),
        (lambda: probability_of_improvement(np.zeros((3, 2)), np.zeros((3, 4))), "2 and 4 tasks do not compare"),
    ],
)
def test_errors_say_what_was_wrong_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(FewerError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
