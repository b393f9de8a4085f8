"""Direct networks: linear maps written out, levels, stacks of any layer, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.nets.direct_forecasts import Direct, DLinear, LayerStack, NLinear, root_mean_square, s4d_stack
from fewer.nets.long_conv import LongConv
from fewer.nets.spacetime_layers import CompanionSSM


@pytest.mark.parametrize("architecture", [NLinear(), DLinear(5), s4d_stack(channels=4, blocks=1)])
def test_a_shift_of_the_window_shifts_the_forecast(architecture):
    torch.manual_seed(0)
    network = architecture.build(20, 6).double().eval()
    window = torch.randn(3, 20, dtype=torch.float64)
    assert network(window, 6).shape == (3, 6)
    assert torch.allclose(network(window + 7, 6), network(window, 6) + 7)


def test_nlinear_is_its_formula():
    network = NLinear().build(5, 3)
    window = torch.randn(2, 5)
    last = window[:, -1:]
    assert torch.allclose(network(window, 3), network.body(window - last) + last)
    assert sum(parameter.numel() for parameter in network.parameters()) == 5 * 3 + 3


def test_dlinear_is_its_formula():
    network = DLinear(3).build(6, 2).double()
    window = torch.randn(1, 6, dtype=torch.float64)
    x = (window - window.mean())[0].tolist()
    ends = [x[0], *x, x[-1]]
    trend = torch.tensor([[sum(ends[i : i + 3]) / 3 for i in range(6)]], dtype=torch.float64)
    expected = network.body.trend(trend) + network.body.rest(window - window.mean() - trend) + window.mean()
    assert torch.allclose(network(window, 2), expected)


def test_any_layer_can_be_stacked_and_is_made_for_the_lag():
    asked = []

    def layer(channels, length):
        asked.append((channels, length))
        return CompanionSSM(channels, kernel_dim=3)

    network = LayerStack(layer, channels=6, blocks=2, dropout=0.0).build(30, 4)
    assert asked == [(6, 30)] * 2
    window = torch.randn(2, 30)
    u = (window - window.mean(dim=1, keepdim=True))[..., None].expand(-1, -1, 6)
    for block in network.body.blocks:
        y = block.layer(u)
        u = u + y + block.mix(y)
    expected = network.body.head(u[:, -1]) + window.mean(dim=1, keepdim=True)
    assert torch.allclose(network(window, 4), expected, atol=1e-5)


def test_long_convolutions_are_such_a_layer():
    network = LayerStack(LongConv, channels=4, blocks=1).build(12, 5)
    assert isinstance(network.body.blocks[0].layer, LongConv)
    assert network(torch.randn(2, 12), 5).shape == (2, 5)


def test_the_loss_is_the_root_of_the_mean_square():
    network = Direct(nn.Identity(), level="last")
    assert network.loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 6.0]])) == pytest.approx(8**0.5)


def test_where_nothing_differs_the_root_has_a_gradient_of_zero():
    one = torch.ones(3, requires_grad=True)
    root_mean_square(one, torch.ones(3)).backward()
    assert torch.equal(one.grad, torch.zeros(3))
    assert root_mean_square(torch.zeros(0), torch.zeros(0)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DLinear(4), "needs an odd window of at least 1; 4 was given"),
        (lambda: LayerStack(channels=0), r"channels and blocks must be at least 1 and dropout in \[0, 1\)"),
        (lambda: LayerStack(dropout=1.0), "they are 128, 2 and 1.0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
