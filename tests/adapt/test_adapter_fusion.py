"""AdapterFusion: written out by hand, the mean without a query, its start, counts and gradients."""

from __future__ import annotations

import pytest
import torch
from tests.adapt.adapters import LAYERS, WIDTH, encoder, sources

from fewer.adapt.adapter_fusion import AdapterFusion, fusion_parameters
from fewer.adapt.bottleneck_adapter import built_in_compositions
from fewer.adapt.meter import trainable
from fewer.adapt.source_adapters import AdapterSoup
from fewer.models.optimisers import parameter_groups


def fused():
    torch.manual_seed(1)
    return AdapterFusion(sources()).attach(encoder()).eval()


def test_by_hand():
    """Keys and values of every task, as they are defined."""
    composed = built_in_compositions(fused())[0].double()
    for each in (composed.query, composed.query_bias, composed.key, composed.key_bias, composed.value):
        each.data.normal_()
    x = torch.randn(4, 5, WIDTH, dtype=torch.float64)
    outputs = composed.adapters.outputs(x)
    query, key = x @ composed.query.T + composed.query_bias, outputs @ composed.key.T + composed.key_bias
    value = outputs @ (composed.start + composed.value).T
    weights = (query[..., None, :] * key).sum(-1).softmax(-1)
    torch.testing.assert_close(composed.attention(x, outputs), weights)
    torch.testing.assert_close(composed.added(x), (weights[..., None] * value).sum(-2))


def test_without_a_query_and_with_the_identity_as_value_it_is_the_mean():
    model = fused()
    for each in built_in_compositions(model):
        each.query.data.zero_()
        each.start.copy_(torch.eye(WIDTH))
    tokens = model.tokens(["a b c", "d"])
    torch.testing.assert_close(model(tokens), AdapterSoup(sources()).attach(encoder())(tokens), rtol=1e-5, atol=1e-6)


def test_the_start():
    composed = built_in_compositions(fused())[0]
    expected = torch.full((WIDTH, WIDTH), 1e-6).fill_diagonal_(1.0)
    assert torch.equal((composed.start + composed.value).detach(), expected)
    assert not composed.query_bias.any()
    assert float(composed.key.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_parameters():
    model = fused()
    assert trainable(model) == fusion_parameters(WIDTH, LAYERS) == 2 * (3 * 16 * 16 + 2 * 16)
    model(model.tokens(["a b"])).square().sum().backward()
    moved = {name.split("built_in.")[1] for name, each in model.named_parameters() if each.grad is not None}
    assert moved == {"query", "query_bias", "key", "key_bias", "value"}
    groups = [group for group in parameter_groups(model) if group.get("lr") == 5e-5]
    assert sorted((len(group["params"]), group["weight_decay"]) for group in groups) == [
        (2, 0.01),
        (8, 0.0),
    ]  # of two layers


def test_scores_are_dropped_while_training():
    composed = built_in_compositions(fused())[0]
    composed.key_bias.data.fill_(50.0)
    composed.query_bias.data.fill_(1.0)
    x = torch.randn(200, WIDTH)
    outputs = composed.adapters.outputs(x)
    still = composed.attention(x, outputs)
    torch.manual_seed(0)
    composed.train()
    # a score that is dropped is zero, and these are far above it
    assert 0.05 < float((composed.attention(x, outputs) < still / 10).float().mean()) < 0.2
