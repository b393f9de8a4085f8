"""Turning layers: what is found, what is counted, and what happens to a model when a layer cannot be made."""

from __future__ import annotations

import torch
from torch import nn

from fewer.models.causal_lm import CausalLM
from fewer.nets.linears import Dense, replace_linears, to_dense_
from fewer.nets.low_rank import LowRank, LowRankLinear
from fewer.nets.relora import ReLoRA


def test_dense_leaves_all_as_it_is_and_counts_the_same_layers():
    network = CausalLM(width=32, layers=2, heads=2).build(50)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    done = Dense().replace(network, 0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert done.parameters_before == done.parameters_after == 2 * (4 * 32**2 + 3 * 32 * 96)
    assert done.layers == LowRank(rank=4).replace(network, 0).layers
    assert Dense(["nothing"]).replace(network, 0).layers == ()


def test_bias_and_fixed_numbers_are_counted_apart():
    model = nn.ModuleDict({"mlp": nn.Linear(16, 12)})
    done = ReLoRA(rank=2).replace(model, 0)
    assert (done.parameters_before, done.parameters_after) == (16 * 12 + 12, 2 * (16 + 12) + 12)
    assert done.fixed_bytes == 4 * 16 * 12


def test_a_factory_is_told_name_shape_and_place():
    seen = []

    def make(place):
        seen.append((place.name, place.in_features, place.out_features, place.bias, place.device.type, place.dtype))
        return nn.Identity()

    model = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5, bias=False))}).to(torch.bfloat16)
    replace_linears(model, make)
    assert seen == [
        ("mlp.0", 3, 4, True, "cpu", torch.bfloat16),
        ("mlp.1", 4, 5, False, "cpu", torch.bfloat16),
    ]
    assert isinstance(model["mlp"][1], nn.Identity)


def test_layers_of_every_kind_are_turned_back():
    model = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 9)), "attn": nn.Linear(9, 8)})
    LowRank(rank=2, initial="random", target_modules=["mlp"]).replace(model, 0)
    ReLoRA(rank=2, target_modules=["attn"]).replace(model, 0)
    x = torch.randn(3, 16)
    before = model["attn"](model["mlp"](x))
    assert to_dense_(model) == 3
    assert not any(isinstance(each, LowRankLinear) for each in model.modules())
    torch.testing.assert_close(model["attn"](model["mlp"](x)), before)
