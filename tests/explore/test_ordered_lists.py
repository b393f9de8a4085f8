from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.explore.ordered_lists import all_lists, best_list, least_value, list_value

EDGES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def plain_value(chosen, u, w, w0):
    """What happens to someone who looks down the list, step by step."""
    value, unclicked = 0.0, 1.0
    for item in chosen:
        value += unclicked * u[item] * w[item]
        unclicked *= 1 - u[item]
    return value + unclicked * w0


@st.composite
def cases(draw):
    items = draw(st.integers(1, 5))
    u, w = (np.array(draw(st.lists(EDGES, min_size=items, max_size=items))) for _ in range(2))
    return u, w, draw(EDGES), draw(st.integers(0, 6))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_best_list_is_the_best_of_all_ordered_lists(case):
    u, w, w0, length = case
    value, chosen = best_list(u, w, w0, length)
    tried = [
        plain_value(each, u, w, w0)
        for size in range(min(length, len(u)) + 1)
        for each in itertools.permutations(range(len(u)), size)
    ]
    assert value == pytest.approx(max(tried))
    kept = [int(item) for item in chosen if item >= 0]
    assert len(set(kept)) == len(kept)
    assert plain_value(kept, u, w, w0) == pytest.approx(value)
    assert all(w[item] > w0 for item in kept), "an item worth no more than nothing is left out"
    assert (np.diff(w[kept]) <= 0).all()
    assert len(chosen) == length
    assert kept == chosen[: len(kept)].tolist()


def test_cases_do_not_see_one_another():
    rng = np.random.default_rng(0)
    u, w, w0 = rng.random((3, 4, 6)), rng.random((3, 4, 6)), rng.random((3, 4))
    values, lists = best_list(u, w, w0, 3)
    assert values.shape == (3, 4)
    assert lists.shape == (3, 4, 3)
    for case in itertools.product(range(3), range(4)):
        value, chosen = best_list(u[case], w[case], w0[case], 3)
        assert values[case] == value
        assert lists[case].tolist() == chosen.tolist()
    np.testing.assert_allclose(list_value(lists, u, w, w0), values)


@given(st.integers(0, 10_000))
def test_more_attraction_or_more_worth_never_lowers_the_optimum(seed):
    rng = np.random.default_rng(seed)
    u, w, w0 = rng.random(5), rng.random(5), rng.random()
    before, _ = best_list(u, w, w0, 2)
    item = rng.integers(5)
    more_u, more_w = u.copy(), w.copy()
    more_u[item] = min(1, u[item] + rng.random())
    more_w[item] += rng.random()
    assert best_list(more_u, w, w0, 2)[0] >= before - 1e-12
    assert best_list(u, more_w, w0, 2)[0] >= before - 1e-12


@given(st.integers(0, 10_000))
def test_the_least_value_is_the_least_over_all_corners(seed):
    rng = np.random.default_rng(seed)
    low = rng.random(4) * 0.5
    high, w, w0 = low + rng.random(4) * 0.5, rng.random(4), rng.random()
    chosen = rng.permutation(4)[:3]
    corners = [
        list_value(chosen, np.where(np.array(each), high, low), w, w0) for each in itertools.product((0, 1), repeat=4)
    ]
    assert least_value(chosen, low, high, w, w0) == pytest.approx(min(corners))


def test_a_list_of_two_hundred_items_is_as_good_as_its_parts():
    rng = np.random.default_rng(0)
    u, w = rng.random(200), rng.random(200)
    long, chosen = best_list(u, w, 0.0, 10)
    assert (chosen >= 0).sum() == 10
    assert long >= best_list(u, w, 0.0, 9)[0] >= best_list(u[:100], w[:100], 0.0, 9)[0]


def test_all_lists_are_all():
    assert len(all_lists(8, 3)) == 401
    assert len({tuple(each) for each in all_lists(5, 3).tolist()}) == 1 + 5 + 20 + 60
    assert all_lists(2, 4).shape == (5, 4)


@pytest.mark.parametrize(
    ("u", "w", "length"),
    [([1.2], [1.0], 1), ([-0.1], [1.0], 1), ([0.5], [np.nan], 1), ([np.nan], [1.0], 1), ([0.5], [1.0], -1)],
)
def test_what_is_no_probability_is_refused(u, w, length):
    with pytest.raises(FewerError, match=r"give probabilities in \[0, 1\]"):
        best_list(np.array(u), np.array(w), 0.0, length)
