from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.data.infobatch import InfoBatch
from fewer.data.loop import AllRows, Epoch


def epoch(losses, index=1, seed=0, epochs=8):
    losses = np.asarray(losses, dtype=np.float32)
    return Epoch(index, epochs, len(losses), losses, np.random.default_rng(seed))


def test_rows_of_high_loss_are_kept_with_weight_one_and_low_ones_dropped_or_doubled():
    losses = np.array([0.1] * 500 + [5.0] * 100)
    chosen = InfoBatch(drop=0.5).select(epoch(losses))
    low = chosen.rows < 500
    assert set(range(500, 600)) <= set(chosen.rows.tolist())
    assert set(chosen.weights[~low]) == {1.0}
    assert set(chosen.weights[low]) == {2.0}
    assert 200 < low.sum() < 300
    assert len(set(chosen.rows.tolist())) == len(chosen.rows)


def test_the_expected_sum_is_that_over_all_rows():
    rng = np.random.default_rng(1)
    losses, gradients = rng.exponential(size=60), rng.normal(size=(60, 3))
    draws = np.array(
        [
            chosen.weights @ gradients[chosen.rows]
            for seed in range(2000)
            for chosen in [InfoBatch(0.3).select(epoch(losses, seed=seed))]
        ]
    )
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - gradients.sum(axis=0)) < 3 * error).all()
    assert (error > 0).all()


def test_nothing_is_dropped_in_the_first_epoch_nor_in_the_last_ones():
    unseen = np.full(40, np.nan)
    for losses, index in ((unseen, 0), (np.arange(40.0), 7)):
        chosen = InfoBatch(anneal=0.875).select(epoch(losses, index))
        assert np.array_equal(chosen.rows, AllRows().select(epoch(losses, index)).rows)
        assert set(chosen.weights) == {1.0}
    assert len(InfoBatch(anneal=0.875).select(epoch(np.arange(40.0), 6)).rows) < 40


def test_rows_never_visited_count_as_hard():
    losses = [np.nan] * 50 + [0.5] * 50
    chosen = InfoBatch(drop=0.9).select(epoch(losses))
    assert set(range(50)) <= set(chosen.rows.tolist())
    assert (chosen.rows >= 50).sum() < 20


def test_without_drop_it_is_full_training():
    losses = np.arange(30.0)
    chosen = InfoBatch(drop=0).select(epoch(losses))
    assert sorted(chosen.rows.tolist()) == list(range(30))
    assert set(chosen.weights) == {1.0}


@pytest.mark.parametrize("bad", [{"drop": 1.0}, {"drop": -0.1}, {"anneal": 1.5}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(FewerError, match="infobatch: drop must lie in"):
        InfoBatch(**bad)
