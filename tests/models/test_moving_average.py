from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.models.moving_average import follow


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 99))
def test_the_average_is_that_of_the_formula(momenta, seed):
    average, network = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = average.weight.detach().clone()
    generator = torch.Generator().manual_seed(seed)
    for momentum in momenta:
        with torch.no_grad():
            network.weight.copy_(torch.randn(2, 3, generator=generator))
        follow(average, network, 1 - momentum)
        expected = momentum * expected + (1 - momentum) * network.weight.detach()
    assert torch.allclose(average.weight, expected, atol=1e-5)


def test_running_statistics_are_averaged_and_counts_copied():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network(torch.randn(8, 2) + 3)
    follow(average, network, 0.25, statistics=True)
    assert torch.allclose(average.running_mean, network.running_mean / 4)
    assert torch.allclose(average.running_var, 0.75 + network.running_var / 4)
    assert average.num_batches_tracked == 1


def test_an_average_may_keep_its_own_statistics():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network(torch.randn(8, 2) + 3)
    nn.init.constant_(network.weight, 3.0)
    follow(average, network, 0.5)
    assert average.running_mean.tolist() == [0, 0]
    assert average.num_batches_tracked == 0
    assert average.weight.tolist() == [2, 2]
