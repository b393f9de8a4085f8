"""Hyena and state spaces: the formula written out, causality, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.incontext.boolean_icl import InContextLearner
from fewer.incontext.function_families import Boolean
from fewer.incontext.long_filters import Hyena, HyenaLayer, ImplicitFilters, StateSpace
from fewer.incontext.loop import Prompts, frozen
from fewer.models.optimisers import AdamW


def test_hyena_is_its_formula():
    """Each gate and filter with sums over the past, written out."""
    torch.manual_seed(0)
    length, width, order = 7, 3, 2
    layer = HyenaLayer(width, order, length).double()
    x = torch.randn(2, length, width, dtype=torch.float64)
    mapped = torch.nn.functional.pad(layer.project(x), (0, 0, 2, 0))
    weight, bias = layer.short.weight[:, 0], layer.short.bias
    assert bias is not None
    mixed = torch.stack([(mapped[:, at : at + 3] * weight.T).sum(1) + bias for at in range(length)], 1)
    z, *gates = mixed.split(width, -1)
    filters = layer.filters(length)
    for which, gate in enumerate(gates):
        filtered = torch.zeros_like(z)
        for at in range(length):
            for lag in range(at + 1):
                filtered[:, at] += filters[which, :, lag] * z[:, at - lag]
        z = gate * (filtered + layer.skip[which] * z)
    torch.testing.assert_close(layer(x), layer.out(z), atol=1e-9, rtol=1e-9)


def test_filters_fade_over_the_length_they_were_made_for():
    torch.manual_seed(0)
    filters = ImplicitFilters(2, 5, 50)
    taps = filters(400)
    assert taps.shape == (2, 5, 400)
    assert torch.equal(filters(30), taps[..., :30])  # the formula does not depend on how much of it is asked for
    window = (-filters.rates * torch.arange(400) / 50).exp()
    assert window[0, 75].item() == pytest.approx(0.01, rel=1e-4)
    assert window[-1, 15].item() == pytest.approx(0.01, rel=1e-4)
    assert taps[..., :10].abs().mean() > 4 * taps[..., 100:].abs().mean()


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    layer = HyenaLayer(2, 2, 4).double()
    assert torch.autograd.gradcheck(layer, torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("network", [Hyena(12, 2, 2), StateSpace(12, 2, 4)])
def test_prompts_longer_than_those_it_was_made_for_can_be_read(network):
    torch.manual_seed(0)
    model = network.build(3, 2, 6)
    tokens = torch.randn(4, 15, 3)
    whole = frozen(model)(Prompts(tokens, tokens))
    part = frozen(model)(Prompts(tokens[:, :6], tokens))
    assert whole.shape == (4, 15, 2)
    torch.testing.assert_close(whole[:, :6], part, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", [Hyena(16, 1, 2), StateSpace(16, 2, 8)])
def test_they_learn(network):
    family = Boolean("majority", dimension=4, points=10)
    learned = InContextLearner(family, network, AdamW(5e-3, 0.0), batch=32).fit(steps=80, points=2)
    assert learned.curve_.final > learned.curve_.points[-1].extras["null"] + 0.03


def test_errors():
    with pytest.raises(FewerError, match="hyena: width, layers and order must be at least 1"):
        Hyena(order=0)
    with pytest.raises(FewerError, match="state-space: width, layers and modes must be at least 1"):
        StateSpace(modes=0)
