from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.optimisers import SGD, AdamW, Constant, Cosine, parameter_groups, set_rate

SHARES = st.floats(0, 1)


@given(SHARES, st.floats(0, 0.9), SHARES)
def test_a_cosine_stays_between_its_floor_and_the_peak(progress, warmup, floor):
    factor = Cosine(warmup, floor).factor(progress)
    assert 0 <= factor <= 1
    if progress >= warmup:
        assert factor >= floor - 1e-12


@given(SHARES)
def test_a_cosine_without_options_is_half_a_cosine(progress):
    assert Cosine().factor(progress) == pytest.approx((1 + math.cos(math.pi * progress)) / 2)


def test_a_cosine_rises_in_a_line_and_then_ends_at_its_floor():
    schedule = Cosine(warmup=0.25, floor=0.1)
    assert [schedule.factor(each) for each in (0, 0.125, 0.25)] == [0, 0.5, 1]
    assert schedule.factor(0.625) == pytest.approx(0.55)
    assert schedule.factor(1) == schedule.factor(1.5) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"warmup": -0.1}, {"floor": 1.1}])
def test_a_cosine_out_of_range_is_refused(wrong):
    with pytest.raises(FewerError, match="warmup must lie in"):
        Cosine(**wrong)


def test_rates_are_shares_of_the_first_rate_of_each_group():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": [second], "lr": 0.01}])
    for share in (0.5, 0.1, 1.0):
        set_rate(optimiser, share)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.2 * share, 0.01 * share])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1, 0.9, 0.01), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        (AdamW(0.01, 0.1), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
    ],
)
def test_they_are_torchs_own(ours, theirs):
    ends = []
    for make in (ours.make, theirs):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimiser = make([parameter])
        for _ in range(5):
            optimiser.zero_grad()
            parameter.pow(2).sum().backward()
            optimiser.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(*ends)


def test_constant():
    assert {Constant().factor(each / 4) for each in range(5)} == {1.0}


class Slow(nn.Linear):
    def own_groups(self):
        return [{"params": [self.weight], "lr": 0.001, "weight_decay": 0.0}]


def test_without_wishes_all_parameters_are_one_group_in_their_order():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    (group,) = parameter_groups(network)
    assert list(group) == ["params"]
    assert [id(each) for each in group["params"]] == [id(each) for each in network.parameters()]


def test_a_layer_inside_a_network_has_its_own_rate_and_decay_and_the_schedule_scales_both_rates():
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(Slow(3, 3), nn.ReLU()), Slow(3, 1))
    optimiser = AdamW(0.01, weight_decay=0.1).make(parameter_groups(network))
    rest, slow = optimiser.param_groups
    assert (rest["lr"], rest["weight_decay"], slow["lr"], slow["weight_decay"]) == (0.01, 0.1, 0.001, 0.0)
    assert {id(each) for each in slow["params"]} == {id(network[1][0].weight), id(network[2].weight)}
    assert len(rest["params"]) + len(slow["params"]) == len(list(network.parameters()))
    set_rate(optimiser, 0.5)
    assert (rest["lr"], slow["lr"]) == (0.005, 0.0005)


def test_a_shared_weight_is_moved_once():
    layer = Slow(2, 2)
    other = Slow(2, 2)
    other.weight = layer.weight
    groups = parameter_groups(nn.ModuleList([layer, other]))
    assert [len(group["params"]) for group in groups] == [2, 1]
    SGD().make(groups)
