"""Probes of attention: on weights made so that the answer is known."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.incontext.attention_probes import attention, nearest_neighbour_score, prefix_matching_score
from fewer.incontext.boolean_functions import sample
from fewer.incontext.loop import Prompts, frozen
from fewer.incontext.networks import LSTM, Transformer


def network(heads=2, layers=2, length=40):
    torch.manual_seed(0)
    return Transformer(8, layers, heads).build(6, 1, length)


def test_attention_is_what_the_network_used():
    """Values weighed by the maps give what the blocks give."""
    model = network()
    tokens = torch.randn(3, 10, 6)
    maps = attention(model, tokens)
    assert maps.shape == (2, 3, 2, 10, 10)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 2, 10))
    assert (maps.triu(1) == 0).all()
    x = model.read_in(tokens) + model.positions[:10]
    for block, weights in zip(model.blocks, maps, strict=True):
        value = block.query_key_value(block.before_attention(x))[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
        x = x + block.out((weights @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.before_mlp(x))
    outputs = model.read_out(model.norm(x))
    torch.testing.assert_close(outputs, frozen(model)(Prompts(tokens, tokens)))


def test_uniform_attention_has_the_score_of_chance():
    model = network(heads=1, layers=1)
    torch.nn.init.zeros_(model.blocks[0].query_key_value.weight)
    drawn = sample("majority", 30, 12, 6, torch.Generator().manual_seed(0))
    similar = drawn.x @ drawn.x.mT
    shares = []
    for of in similar:
        for at in range(1, 12):
            nearest = of[at, :at].max()
            if (of[at, :at] == nearest).sum() == 1:
                shares.append(1 / (2 * at + 1))
    assert nearest_neighbour_score(model, drawn.x, drawn.y).item() == pytest.approx(sum(shares) / len(shares), rel=1e-5)
    expected = sum(1 / (at + 1) for at in range(5, 9)) / 4
    assert prefix_matching_score(model, 6, 5).item() == pytest.approx(expected, rel=1e-5)


def test_a_head_that_looks_back_by_a_fixed_distance_is_found():
    """Attention made of positions alone: each token looks at the one four before it, which followed the last repeat."""
    model = network(heads=1, layers=1, length=10)
    block = model.blocks[0]
    width = 24
    model = Transformer(width, 1, 1).build(6, 1, 10)
    block = model.blocks[0]
    torch.nn.init.zeros_(model.read_in.weight)
    torch.nn.init.zeros_(model.read_in.bias)
    with torch.no_grad():
        model.positions.zero_()
        model.positions[:, :10] = torch.eye(10)
        mixing = torch.zeros(3 * width, width)
        for at in range(10):
            mixing[at, at] = 30  # a query says where it is
            if at + 4 < 10:
                mixing[width + at + 4, at] = 30  # a key says where it wants to be seen from
        block.query_key_value.weight.copy_(mixing)
    assert prefix_matching_score(model, 6, 5).item() > 0.95


def test_errors():
    with pytest.raises(FewerError, match="from what Transformer builds; this is a Recurrent"):
        attention(LSTM(4).build(3, 1, 5), torch.zeros(1, 2, 3))
    with pytest.raises(FewerError, match="no point has a nearest neighbour of its own"):
        nearest_neighbour_score(network(), torch.ones(1, 1, 6), torch.ones(1, 1))
    with pytest.raises(FewerError, match="no successor to look for"):
        prefix_matching_score(network(), 6, 1)
