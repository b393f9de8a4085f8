"""Steps in the backward pass: the same weights as steps after it, and gradients that are gone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import set_rate
from fewer.nets.galore import GaLore
from fewer.nets.per_layer_updates import AdamWInBackward, step_in_backward
from fewer.nets.sltrain import SparsePlusLowRank

TOKENS = torch.arange(20).view(2, 10)
MAKERS = {
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "galore": lambda parameters: GaLore(rank=2, refresh=2).make(parameters),
}


def network():
    torch.manual_seed(0)
    made = CausalLM(width=16, layers=1, heads=2, tied=True).build(30)
    SparsePlusLowRank.replace(made, rank=3, density=0.1)
    return made


def train(model, optimiser, steps=5):
    for step in range(steps):
        set_rate(optimiser, 1 / (1 + step))
        optimiser.zero_grad()
        model(TOKENS).square().mean().backward()
        optimiser.step()
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@pytest.mark.parametrize("name", MAKERS)
def test_the_weights_are_those_of_steps_after_the_backward_pass(name):
    plain, inside = network(), network()
    optimiser = MAKERS[name](inside.parameters())
    step_in_backward(optimiser)
    torch.testing.assert_close(train(plain, MAKERS[name](plain.parameters())), train(inside, optimiser))
    assert all(each.grad is None for each in inside.parameters())


def test_gradients_never_exist_together():
    model, alive = network(), []
    step_in_backward(torch.optim.Adam(model.parameters()))
    for each in model.parameters():
        each.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(other.grad is not None for other in model.parameters()))
        )
    model(TOKENS).square().mean().backward()
    assert len(alive) == len(list(model.parameters()))
    assert set(alive) == {0}


def test_groups_keep_their_settings_and_a_loaded_state_is_used():
    def make(model):
        split = list(model.parameters())
        return torch.optim.AdamW(
            [{"params": split[:2], "lr": 0.05}, {"params": split[2:], "weight_decay": 0.5}], lr=0.01
        )

    plain, inside = network(), network()
    optimiser = make(inside)
    step_in_backward(optimiser)
    after = make(plain)
    train(plain, after, 3)
    train(inside, optimiser, 3)
    optimiser.load_state_dict(copy.deepcopy(after.state_dict()))  # torch would share the tensors
    torch.testing.assert_close(train(plain, after, 2), train(inside, optimiser, 2))


def test_each_gradient_is_clipped_by_itself_and_handles_take_it_back():
    layer = nn.Linear(3, 2)
    before = [each.detach().clone() for each in layer.parameters()]
    handles = step_in_backward(torch.optim.SGD(layer.parameters(), lr=1.0), clip=0.5)
    (1000 * layer(torch.ones(1, 3))).sum().backward()
    for each, old in zip(layer.parameters(), before, strict=True):
        assert float((each.detach() - old).norm()) == pytest.approx(0.5, rel=1e-3)
    for handle in handles:
        handle.remove()
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None


def test_frozen_parameters_are_left_alone():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert len(step_in_backward(torch.optim.SGD(layer.parameters(), lr=1.0))) == 1


def test_the_filling_makes_adamw_with_its_hooks():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimiser = AdamWInBackward(lr=0.1, weight_decay=0.0).make(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1)
    assert optimiser.param_groups[0]["lr"] == 0.1


def test_a_wrong_clip_is_refused():
    with pytest.raises(FewerError, match="clip is -1; give the greatest norm"):
        step_in_backward(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), clip=-1)
