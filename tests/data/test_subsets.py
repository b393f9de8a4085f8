from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.data.loop import AllRows, Epoch
from fewer.data.subsets import DynamicRandom, StaticRandom, random_part, shuffled


def epoch(index=0, rows=50, seed=0, memory=None):
    rng = np.random.default_rng(seed)
    return Epoch(index, 30, rows, np.full(rows, np.nan, np.float32), rng, {} if memory is None else memory)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 5))
def test_a_part_has_the_asked_size(rows, twentieths, seed):
    marked = random_part(np.random.default_rng(seed), rows, twentieths / 20)
    assert marked.shape == (rows,)
    assert marked.sum() == rows * twentieths // 20  # whole numbers, so no rounding is in the test itself


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_every_row_is_as_likely_as_any_other(share):
    rng = np.random.default_rng(0)
    times = sum(random_part(rng, 20, share).astype(int) for _ in range(2000))
    # counts without replacement vary less than chi-square expects: only a skew makes them vary more
    assert scipy.stats.chisquare(times).pvalue > 0.01
    assert times.sum() == 2000 * round(20 * share)


def test_every_order_is_as_likely_as_any_other():
    rng = np.random.default_rng(0)
    marked = np.array([True, False, True, True])
    orders, times = np.unique([shuffled(rng, marked) for _ in range(3000)], axis=0, return_counts=True)
    assert sorted(map(tuple, orders)) == [(0, 2, 3), (0, 3, 2), (2, 0, 3), (2, 3, 0), (3, 0, 2), (3, 2, 0)]
    assert scipy.stats.chisquare(times).pvalue > 0.01


def test_dynamic_random_draws_anew_and_static_random_does_not():
    for sampler, anew in ((DynamicRandom(0.4), True), (StaticRandom(0.4), False)):
        memory = {}
        rng = epoch().rng
        chosen = [
            sampler.select(Epoch(index, 30, 50, np.full(50, np.nan, np.float32), rng, memory)) for index in range(3)
        ]
        assert [len(set(each.rows.tolist())) for each in chosen] == [20, 20, 20]
        assert all(each.weights is None for each in chosen)
        assert (set(chosen[0].rows) != set(chosen[1].rows)) == anew
        assert chosen[0].rows.tolist() != chosen[1].rows.tolist()  # the order is new in both


def test_keeping_everything_is_full_training_to_the_bit():
    assert np.array_equal(DynamicRandom(1.0).select(epoch()).rows, AllRows().select(epoch()).rows)


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, float("nan")])
def test_impossible_shares_are_refused(keep):
    for make in (DynamicRandom, StaticRandom):
        with pytest.raises(FewerError, match="above 0 and up to 1"):
            make(keep)
