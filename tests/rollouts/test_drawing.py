"""Drawing: the value whose share of the running sums a number falls into, also where there are too many to add up one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.rollouts.drawing import BLOCK, chosen

MANY = 16 * BLOCK


@pytest.mark.parametrize("many", [5, MANY - 1, MANY, MANY + 3, 2 * MANY + BLOCK - 1])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.99))
def test_each_number_falls_into_the_share_of_what_is_drawn(many, seed, share):
    rng = np.random.default_rng(seed)
    weights = rng.gamma(0.1, size=(3, many)).astype(np.float32)
    weights[rng.random(weights.shape) < share] = 0
    weights[:, rng.integers(many)] = 1
    numbers = rng.random(3)
    places = chosen(torch.from_numpy(weights), torch.from_numpy(numbers)).numpy()
    rows = np.arange(3)
    assert (weights[rows, places] > 0).all()
    sums = weights.cumsum(1, dtype=np.float64)
    share_of = sums / sums[:, -1:]
    before = share_of[rows, places] - weights[rows, places] / sums[:, -1]
    assert (before <= numbers + 1e-5).all()
    assert (numbers <= share_of[rows, places] + 1e-5).all()


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, MANY, MANY + 2])
def test_what_has_all_the_weight_is_drawn_by_every_number(place):
    weights = torch.zeros(3, MANY + 3)
    weights[:, place] = 1e-20
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert chosen(weights, numbers).tolist() == [place] * 3


def test_many_draws_come_as_often_as_they_weigh():
    weights = torch.zeros(MANY)
    weights[[3, BLOCK + 1, MANY - 1]] = torch.tensor([1.0, 2.0, 5.0])
    numbers = torch.from_numpy((np.arange(800) + 0.5) / 800)
    places = chosen(weights.expand(800, -1), numbers)
    assert [int((places == place).sum()) for place in (3, BLOCK + 1, MANY - 1)] == [100, 200, 500]
