"""Low-rank updates: the identity at first, merged exactly, equal to peft's, kept off layers that are too small."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.adapt.built_in import merged
from fewer.adapt.low_rank_adapter import LoRA
from fewer.core.errors import FewerError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5, bias=False), nn.Linear(5, 2)).double()


def test_it_begins_as_the_identity_and_merges():
    model, x = network().requires_grad_(False), torch.randn(4, 6, dtype=torch.float64)
    before = model(x)
    adapted = LoRA(rank=2, alpha=3).attach(model)
    assert torch.equal(adapted(x), before)
    new = {name: each for name, each in adapted.named_parameters() if each.requires_grad}
    assert sum(each.numel() for each in new.values()) == 2 * (6 + 8) + 2 * (
        8 + 5
    )  # the last is no larger than the rank
    for each in new.values():
        each.data.normal_()
    plain = merged(adapted)
    torch.testing.assert_close(plain(x), adapted(x))
    weight = model[0].weight + 1.5 * adapted[0].built_in.low_rank.B @ adapted[0].built_in.low_rank.A
    torch.testing.assert_close(plain[0].weight, weight)


def test_it_equals_peft():
    peft = pytest.importorskip("peft")
    x = torch.randn(4, 6, dtype=torch.float64)
    mine = LoRA(rank=2, alpha=3).attach(network().requires_grad_(False))
    theirs = peft.get_peft_model(network(), peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2"])).double()
    for place in ("0", "2"):
        layer = theirs.base_model.model.get_submodule(place)
        low_rank = mine.get_submodule(place).built_in.low_rank
        low_rank.A.data.normal_()
        low_rank.B.data.normal_()
        layer.lora_A["default"].weight.data = low_rank.A.data.clone()
        layer.lora_B["default"].weight.data = low_rank.B.data.clone()
    torch.testing.assert_close(mine(x), theirs(x))


def test_errors():
    with pytest.raises(FewerError, match="rank is 0"):
        LoRA(rank=0)
    with pytest.raises(FewerError, match="no layer of the model can be adapted"):
        LoRA(rank=8).attach(nn.Sequential(nn.Linear(8, 8)))
