"""SIRI's schedule of lengths."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.siri import SIRI, InterleavedCompression

SHAPES = ("cosine", "stair", "stair-cosine")


def test_the_cosine_at_quarters_of_a_cycle():
    lengths = InterleavedCompression(8192, 16384, cycle=640)
    assert [lengths.cap(step, 16384) for step in (0, 160, 320, 480, 640, 960)] == [
        16384,
        12288,
        8192,
        12288,
        16384,
        8192,
    ]
    assert lengths.cap(100, 16384) == round(12288 + 4096 * math.cos(2 * math.pi * 100 / 640))


def test_the_stair_has_two_steps():
    lengths = InterleavedCompression(10, 30, cycle=10, shape="stair")
    assert [lengths.cap(step, 30) for step in range(12)] == [10] * 5 + [30] * 5 + [10] * 2


def test_the_stair_cosine_has_plateaus_and_no_jumps():
    lengths = InterleavedCompression(0 + 1, 1001, cycle=8000, shape="stair-cosine")
    caps = [lengths.cap(step, 1001) for step in range(8001)]
    assert set(caps[:1000]) == set(caps[7000:]) == {1001}
    assert set(caps[3000:5000]) == {1}
    assert max(abs(one - other) for one, other in itertools.pairwise(caps)) <= 2
    assert caps[2000] == caps[6000] == 501


@given(st.sampled_from(SHAPES), st.integers(2, 50), st.integers(0, 500), st.integers(1, 20), st.integers(1, 30))
def test_lengths_stay_between_the_bounds_and_repeat(shape, cycle, step, least, more):
    lengths = InterleavedCompression(least, cycle=cycle, shape=shape)
    cap = lengths.cap(step, least + more)
    assert least <= cap <= least + more
    assert lengths.cap(step + cycle, least + more) == cap


def test_without_most_it_is_the_tasks_and_without_least_half_of_that():
    assert InterleavedCompression(10).cap(0, 77) == 77
    assert [InterleavedCompression(cycle=4).cap(step, 30) for step in range(5)] == [30, 22, 15, 22, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 10, "most": 10}, "below most; given least=10, most=10"),
        ({"least": 0}, "least must be at least 1"),
        ({"least": 1, "cycle": 1}, "a cycle has two steps or more; given cycle=1"),
        ({"least": 1, "shape": "saw"}, "choose cosine, stair or stair-cosine"),
    ],
)
def test_errors(options, message):
    with pytest.raises(FewerError, match=message):
        SIRI(**options)


def test_a_schedule_beyond_the_task_is_refused():
    with pytest.raises(FewerError, match="from 10 to 40 tokens were asked for, and the task allows 30"):
        InterleavedCompression(10, 40).cap(0, 30)
    with pytest.raises(FewerError, match="the task allows 30"):
        InterleavedCompression(30).cap(0, 30)
