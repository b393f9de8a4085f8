"""The plain ways to choose."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos.curation import RandomSubset, StateEntropy, SuccessOnly
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.loop import Lesson


def lesson(states, successes=None, seed=0):
    """Episodes of two steps, each at one place."""
    seen = np.repeat(np.asarray(states, dtype=float)[:, None], 2, axis=0)
    given = Demonstrations(
        seen, np.zeros((len(seen), 1)), np.arange(0, len(seen) + 1, 2), successes=successes, name="toy"
    )
    return Lesson(given, -np.ones(1), np.ones(1), None, seed, np.random.default_rng(seed))


def test_a_random_subset_is_of_the_size_asked_for_and_of_any_episodes():
    kept = [RandomSubset(0.3).choose(lesson(range(10), seed=seed)) for seed in range(40)]
    assert all(len(each) == 3 for each in kept)
    assert set(np.concatenate(kept)) == set(range(10))


def test_only_successes():
    assert SuccessOnly().choose(lesson(range(3), [True, False, True])).tolist() == [0, 2]
    with pytest.raises(FewerError, match="toy does not say which episodes succeeded"):
        SuccessOnly().choose(lesson(range(3)))
    with pytest.raises(FewerError, match="none of 3 demonstrations succeeded"):
        SuccessOnly().choose(lesson(range(3), [False] * 3))


def test_state_entropy_takes_one_of_each_place_before_a_second_of_any():
    places = [0, 0, 0, 0, 10, 0, 20, 0]
    kept = StateEntropy(frac=3 / 8, cells=3).choose(lesson(places))
    assert sorted(places[each] for each in kept) == [0, 10, 20]


def test_state_entropy_takes_the_episode_that_raises_it_most_each_time():
    rng = np.random.default_rng(0)
    made = lesson(rng.normal(size=12))
    cells = 4
    kept = StateEntropy(frac=0.5, cells=cells).choose(made)
    assert len(kept) == 6
    whole = StateEntropy(frac=1.0, cells=cells).choose(made)
    assert whole.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomSubset(0), "random-subset: frac is 0"),
        (lambda: StateEntropy(1.5), "state-entropy: frac is 1.5"),
        (lambda: StateEntropy(cells=1), "cells must be at least 2; it is 1"),
        (lambda: StateEntropy().choose(lesson([1, 1, 1])), "no observation of toy ever changes"),
    ],
)
def test_what_cannot_be_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()
