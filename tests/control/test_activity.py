"""Counting active units: closed forms, pooling, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewer.control.activity import FAUMonitor
from fewer.control.critics import QEnsemble
from fewer.core.errors import FewerError


def counted(network, *inputs, **options):
    monitor = FAUMonitor(network, **options)
    with monitor, torch.no_grad():
        network(*inputs)
    return monitor


def test_half_of_a_fresh_layer_is_active():
    torch.manual_seed(0)
    layer = nn.Linear(20, 500, bias=False)
    share = counted(nn.Sequential(layer, nn.ReLU()), torch.randn(400, 20)).average()
    # units are what is independent here: half of them for each sample
    assert share == pytest.approx(0.5, abs=3 / 500**0.5)


@pytest.mark.parametrize(("bias", "share"), [(-1e3, 0.0), (1e3, 1.0)])
def test_all_dead_and_all_active(bias, share):
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    nn.init.constant_(network[0].bias, bias)
    assert counted(network, torch.randn(5, 3)).average() == share


def test_zero_is_not_active():
    assert counted(nn.Sequential(nn.ReLU()), torch.zeros(4, 2)).average() == 0


def test_layers_count_with_their_widths():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.ReLU(), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.one(x).sum() + self.two(-x[:, :1].repeat(1, 30)).sum()

    # ten active of ten, none of thirty
    monitor = counted(Two(), torch.ones(7, 10))
    assert monitor.average() == pytest.approx(10 / 40)
    assert monitor.seen == 7 * 40


def test_the_average_is_over_all_passes_since_the_reset():
    network = nn.Sequential(nn.ReLU())
    monitor = FAUMonitor(network)
    with monitor:
        network(torch.ones(1, 4))
        network(-torch.ones(3, 4))
    network(torch.ones(100, 4))  # nobody watches
    assert monitor.average() == pytest.approx(0.25)
    monitor.reset()
    with pytest.raises(FewerError, match="no forward pass was made"):
        monitor.average()


def test_it_agrees_with_a_plain_count():
    torch.manual_seed(0)
    critic = QEnsemble(3, 2, members=2, hidden=(16, 8))
    seen, done = torch.randn(50, 3), torch.randn(50, 2)
    x, active, units = torch.cat([seen, done], 1)[:, None], 0, 0
    for layer in critic.layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            active, units = active + int((x > 0).sum()), units + x.numel()
    assert counted(critic, seen, done).average() == pytest.approx(active / units)
    assert units == 50 * 2 * (16 + 8)


def test_it_changes_nothing_and_leaves_nothing_behind():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    before = network(x)
    monitor = FAUMonitor(network)
    with monitor:
        during = network(x)
        assert network[1]._forward_hooks
    assert torch.equal(before, during)
    assert not network[1]._forward_hooks
    with pytest.raises(RuntimeError), monitor:
        network(torch.zeros(2, 7))
    assert not network[1]._forward_hooks
    copy.deepcopy(network)


def test_gradients_pass_through():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with FAUMonitor(network):
        network(torch.ones(2, 3)).sum().backward()
    assert network[0].weight.grad is not None


def test_it_goes_on_from_what_was_counted():
    network = nn.Sequential(nn.ReLU())
    first, second = counted(network, torch.ones(2, 3)), FAUMonitor(network)
    second.load_state_dict(first.state_dict())
    with second:
        network(-torch.ones(2, 3))
    assert second.average() == 0.5


def test_soft_units_need_a_threshold():
    network = nn.Sequential(nn.Linear(2, 4), nn.GELU())
    with pytest.raises(FewerError, match=r"GELU unit is never silent.*threshold"):
        FAUMonitor(network, layers=(nn.GELU,))
    assert 0 <= counted(network, torch.randn(9, 2), layers=(nn.GELU,), threshold=0.1).average() <= 1
    with pytest.raises(FewerError, match="threshold is nan"):
        FAUMonitor(network, layers=(nn.GELU,), threshold=float("nan"))


def test_a_network_without_rectifiers_is_refused():
    with pytest.raises(FewerError, match=r"has no ReLU or ReLU6 module.*its parts are Linear, Tanh"):
        FAUMonitor(nn.Sequential(nn.Linear(2, 4), nn.Tanh()))
