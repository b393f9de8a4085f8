"""SeTa: its reductions, the path of its window on losses made for it, its counts, its errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fewer.core.errors import FewerError
from fewer.data.loop import AllRows, Epoch
from fewer.data.seta import SeTa
from fewer.data.subsets import DynamicRandom, random_part

NONE = np.full(100, np.nan)


def epoch(index, losses, epochs=32, seed=0):
    losses = np.asarray(losses, dtype=np.float32)
    return Epoch(index, epochs, len(losses), losses, np.random.default_rng(seed + 100 * index))


def blobs(groups, each):
    """Losses of ``groups`` well separated levels, shuffled; and the level of each row."""
    rng = np.random.default_rng(0)
    level = rng.permutation(np.repeat(np.arange(groups), each))
    return (level + 0.1 * rng.random(len(level))).astype(np.float32), level


# --- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 5, 31])
def test_one_group_is_a_random_part_and_without_drop_full_training_to_the_bit(index):
    losses = np.random.default_rng(1).random(100)
    part = SeTa(drop=0.3, groups=1, window=1).select(epoch(index, losses))
    assert np.array_equal(part.rows, DynamicRandom(0.7).select(epoch(index, losses)).rows)
    everything = SeTa(drop=0, groups=1, window=1).select(epoch(index, losses))
    assert np.array_equal(everything.rows, AllRows().select(epoch(index, losses)).rows)


def test_a_window_over_all_groups_is_a_random_part():
    losses = np.random.default_rng(1).random(100)
    chosen = SeTa(drop=0.3, groups=5, window=1).select(epoch(3, losses))
    assert np.array_equal(chosen.rows, DynamicRandom(0.7).select(epoch(3, losses)).rows)


# --- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "window", "path"),
    [
        (5, 0.6, {1: (1, 4), 2: (2, 5), 3: (0, 3), 4: (1, 4), 5: (2, 5), 6: (0, 3)}),
        (5, 0.9, {1: (1, 5), 2: (0, 4), 3: (1, 5)}),  # round(4.5) is 4
        (4, 0.25, {1: (1, 2), 2: (2, 3), 3: (3, 4), 4: (0, 1)}),
        (10, 0.5, {1: (1, 6), 5: (5, 10), 6: (0, 5)}),
    ],
)
def test_the_window_slides_from_easy_to_hard_and_starts_over(groups, window, path):
    losses, level = blobs(groups, 12)
    for index, (first, stop) in path.items():
        at = epoch(index, losses)
        chosen = SeTa(drop=0, groups=groups, window=window).select(at)
        assert sorted(chosen.rows.tolist()) == np.flatnonzero((level >= first) & (level < stop)).tolist()
        assert at.report == {"window_start": first}


def test_it_picks_what_scikit_learn_would_have_picked():
    losses = np.random.default_rng(2).exponential(size=3000).astype(np.float32)
    chosen = SeTa(drop=0.2).select(epoch(2, losses))
    dropped = random_part(epoch(2, losses).rng, 3000, 0.8)
    peer = KMeans(5, n_init=10, random_state=0).fit(losses[dropped][:, None])
    order = np.argsort(peer.cluster_centers_.ravel())
    expected = np.flatnonzero(dropped)[np.isin(peer.labels_, order[2:])]
    both = len(set(expected.tolist()) & set(chosen.rows.tolist()))
    assert both > 0.99 * max(len(expected), len(chosen.rows))


def test_the_drop_comes_before_the_clusters():
    losses, _ = blobs(5, 40)
    kept = set(np.flatnonzero(random_part(epoch(1, losses).rng, 200, 0.7)).tolist())
    chosen = SeTa(drop=0.3).select(epoch(1, losses))
    assert set(chosen.rows.tolist()) < kept


def test_in_the_first_epoch_only_the_drop_counts():
    chosen = SeTa(drop=0.1).select(epoch(0, NONE))
    assert len(set(chosen.rows.tolist())) == len(chosen.rows) == 90
    assert chosen.weights is None


def test_at_the_end_only_the_drop_remains():
    losses, _ = blobs(5, 20)
    counts = [len(SeTa(drop=0.1).select(epoch(index, losses)).rows) for index in range(32)]
    assert counts[28:] == [90] * 4  # 0.875 * 32 = 28 epochs with a window
    assert max(counts[1:28]) < 65


def test_the_share_of_visits_saved_is_that_of_the_formula():
    losses, _ = blobs(5, 200)
    visits = [len(SeTa(drop=0.1, anneal=1).select(epoch(index, losses)).rows) for index in range(31)]
    assert visits[0] == 900
    assert np.mean(visits[1:]) / 1000 == pytest.approx(0.9 * 3 / 5, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 300),
    st.floats(0, 0.6),
    st.integers(1, 6),
    st.floats(0.3, 1),
    st.integers(0, 31),
    st.integers(0, 99),
)
def test_counts_and_order_hold_for_any_losses(rows, drop, groups, window, index, seed):
    rng = np.random.default_rng(seed)
    losses = np.where(rng.random(rows) < 0.2, np.nan, rng.integers(1, 9, rows) * rng.random())
    before = losses.astype(np.float32)
    at = epoch(index, losses, seed=seed)
    if round(window * groups) < 1:
        return
    sampler = SeTa(drop=drop, groups=groups, window=window)
    chosen = sampler.select(at).rows
    most = int((1 - drop) * rows + 1e-9)
    assert 0 < len(chosen) <= most
    assert len(np.unique(chosen)) == len(chosen)
    if index + 1 > 28 or index == 0:
        assert len(chosen) == most
    assert np.array_equal(chosen, sampler.select(epoch(index, losses, seed=seed)).rows)
    assert np.array_equal(at.losses, before, equal_nan=True)


# --- losses that do not cluster --------------------------------------------------------------------------------------


def test_rows_never_visited_count_as_loss_three():
    losses = np.concatenate([np.full(60, np.nan), np.linspace(0, 0.1, 60), np.linspace(9, 9.1, 60)])
    middle = SeTa(drop=0, groups=3, window=0.33).select(epoch(1, losses))
    assert sorted(middle.rows.tolist()) == list(range(60))
    hardest = SeTa(drop=0, groups=3, window=0.33, unseen=20).select(epoch(2, losses))
    assert sorted(hardest.rows.tolist()) == list(range(60))


def test_infinite_losses_do_no_harm():
    losses = np.r_[np.linspace(0, 1, 50), np.inf, np.nan]
    assert len(SeTa().select(epoch(1, losses)).rows) > 10


@pytest.mark.parametrize("losses", [np.zeros(100), np.repeat([0.0, 5.0], [80, 20])])
def test_fewer_levels_than_groups_are_cut_into_equal_parts_of_their_order(losses):
    easy = SeTa(drop=0, groups=5, window=0.6).select(epoch(3, losses)).rows
    assert len(easy) == 60
    assert losses[easy].max() == 0
    hard = SeTa(drop=0, groups=5, window=0.2).select(epoch(4, losses)).rows
    assert len(hard) == 20
    assert losses[hard].min() == losses.max()


def test_ties_that_are_cut_are_cut_at_random():
    picks = [frozenset(SeTa(drop=0).select(epoch(1, np.zeros(100), seed=seed)).rows.tolist()) for seed in range(3)]
    assert len(set(picks)) == 3


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"drop": 1.0}, "drop must lie in"),
        ({"drop": -0.1}, "drop must lie in"),
        ({"anneal": 1.1}, "anneal in"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"window": 0.0}, "window in"),
        ({"window": 1.2}, "window in"),
        ({"groups": 5, "window": 0.1}, "rounds to no group; widen the window or make more groups"),
    ],
)
def test_impossible_numbers_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        SeTa(**bad)


def test_more_groups_than_rows_are_refused():
    with pytest.raises(FewerError, match=r"20 groups need more rows than the 18 that drop=0\.1 leaves of 20"):
        SeTa(groups=20).select(epoch(0, np.full(20, np.nan)))
