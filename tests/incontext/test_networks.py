"""Networks that read prompts: reading on equals reading at once, and a backbone of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.incontext.long_filters import Hyena, StateSpace
from fewer.incontext.loop import Prompts, Reader, frozen
from fewer.incontext.networks import GRU, LSTM, Around, Transformer
from fewer.incontext.retention import RetNet

ALL = [Transformer(16, 2, 4), LSTM(8), GRU(8), RetNet(16, 2, 2)]
FILTERS = [Hyena(12, 2, 3), StateSpace(12, 2, 4)]


class Means(nn.Module):
    """The mean of what was read so far."""

    def forward(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


@pytest.mark.parametrize("network", [*ALL, *FILTERS, Around(Means(), 6)])
def test_reading_on_equals_reading_at_once(network):
    model = network.build(3, 2, 9)
    tokens = torch.randn(4, 9, 3)
    whole = frozen(model)(Prompts(tokens, tokens))
    read = Reader(frozen(model))
    parts = [read(part) for part in tokens.split([4, 1, 2, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


def test_any_function_of_prompts_can_be_read_on():
    read = Reader(lambda prompts: prompts.tokens.cumsum(1))
    tokens = torch.randn(2, 5, 3)
    parts = [read(tokens[:, :2]), read(tokens[:, 2:3]), read(tokens[:, 3:])]
    torch.testing.assert_close(torch.cat(parts, 1), tokens.cumsum(1))


@pytest.mark.parametrize("network", [*ALL, *FILTERS, Around(Means(), 6)])
def test_an_output_knows_nothing_of_later_tokens_or_other_prompts(network):
    model = network.build(3, 2, 9)
    tokens = torch.randn(4, 9, 3)
    before = frozen(model)(Prompts(tokens, tokens))
    changed = tokens.clone()
    changed[:, 6:] += 1
    changed[1] += 1
    after = frozen(model)(Prompts(changed, tokens))
    torch.testing.assert_close(after[0, :6], before[0, :6])
    assert not torch.allclose(after[0, 6:], before[0, 6:])


def test_retention_in_parallel_is_the_recurrence_of_the_formula():
    """One head against the sum, written out with complex rotations."""
    torch.manual_seed(0)
    block = RetNet(8, 1, 2).build(3, 1, 6).blocks[0].double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    query, key, value = block.query_key_value(block.before_retention(x)).chunk(3, -1)
    seen = torch.zeros(1, 6, 8, dtype=torch.float64)
    for head, decay in enumerate((1 - 2.0**-5, 1 - 2.0**-6)):
        part = slice(4 * head, 4 * head + 4)
        for at in range(6):
            for earlier in range(at + 1):
                pairs = [
                    torch.view_as_complex(each.unflatten(-1, (2, 2)))
                    for each in (query[0, at, part], key[0, earlier, part])
                ]
                turned = torch.polar(torch.ones(2).double(), (at - earlier) * block.turn.double())
                weight = (pairs[0] * turned * pairs[1].conj()).real.sum() / 2
                seen[0, at, part] += weight * decay ** (at - earlier) * value[0, earlier, part]
    merged = nn.functional.group_norm(seen[0], 2)[None]
    expected = x + block.out(nn.functional.silu(block.gate(block.before_retention(x))) * merged)
    expected = expected + block.mlp(block.before_mlp(expected))
    torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-5)


def test_gradients_of_retention_are_those_of_differences():
    torch.manual_seed(0)
    block = RetNet(4, 1, 1).build(2, 1, 3).blocks[0].double()
    assert torch.autograd.gradcheck(block, torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))


def test_a_backbone_is_copied_and_trained():
    backbone = nn.Linear(6, 6)
    made = Around(backbone, 6).build(3, 2, 9)
    assert made.backbone is not backbone
    assert torch.equal(made.backbone.weight, backbone.weight)
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_errors():
    with pytest.raises(FewerError, match="gru: width and layers"):
        GRU(0)
    with pytest.raises(FewerError, match="multiple of twice the heads"):
        RetNet(12, 1, 4)
    with pytest.raises(FewerError, match=r"yours made \(2, 3, 5\) of \(2, 3, 6\)"):
        Around(nn.Linear(6, 5), 6).build(3, 1, 9)(torch.zeros(2, 3, 3))
    with pytest.raises(FewerError, match="yours made tuple"):
        Around(nn.GRU(6, 6, batch_first=True), 6).build(3, 1, 9)(torch.zeros(2, 3, 3))
    for network in (GRU(8), RetNet(8, 1, 1), *FILTERS, Around(nn.Identity(), 4)):
        with pytest.raises(FewerError, match="reads from left to right"):
            network.build(2, 1, 5)(torch.zeros(1, 3, 2), observed=2)
    model = Transformer(8, 1, 1).build(2, 1, 5)
    read = Reader(frozen(model))
    read(torch.zeros(1, 4, 2))
    with pytest.raises(FewerError, match="a prompt of 6 tokens is longer than the 5"):
        read(torch.zeros(1, 2, 2))
