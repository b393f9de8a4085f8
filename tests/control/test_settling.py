"""What is raised once, when two looks agree."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.control.settling import SettlingSwitch
from fewer.core.errors import FewerError


def test_it_switches_where_two_looks_agree_and_never_back():
    switch = SettlingSwitch(0.5, 2, tol=0.001)
    ratios = [switch.observe(share) for share in (0.5, 0.40, 0.36, 0.3595)]
    assert ratios == [0.5, 0.5, 0.5, 2]
    assert [switch.observe(share) for share in (0.9, 0.1, 0.1)] == [2, 2, 2]


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    tol=st.floats(1e-6, 0.5),
)
def test_it_switches_at_the_first_pair_within_the_tolerance(shares, tol):
    switch = SettlingSwitch(1, 3, tol)
    ratios = [switch.observe(share) for share in shares]
    pairs = [abs(two - one) <= tol for one, two in pairwise(shares)]
    first = pairs.index(True) + 1 if True in pairs else len(shares)
    assert ratios == [1] * first + [3] * (len(shares) - first)


def test_shares_that_are_no_numbers_stop_it():
    with pytest.raises(FewerError, match="share of active units is nan"):
        SettlingSwitch(1, 2, 0.1).observe(math.nan)
