from __future__ import annotations

import math

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.incontext.prior_fitted_network import PriorFitted, PriorFittedNetwork, _ask


def awake(network):
    """Without the zeros it begins with, which would make many a test trivial."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def waved(numbers: torch.Tensor, waves: int) -> torch.Tensor:
    parts = [numbers]
    for function in (torch.sin, torch.cos):
        for column in range(numbers.shape[-1]):
            parts += [function(2 * math.pi * numbers[..., column : column + 1] * 2**k / 4) for k in range(waves)]
    return torch.cat(parts, dim=-1)


def masked(network: PriorFittedNetwork, tokens: torch.Tensor, observed: int) -> torch.Tensor:
    """The same with one square of attention and a mask, in plain steps."""
    length = tokens.shape[1]
    x = network.read_input(waved(tokens[..., :-1], network.waves))
    x[:, :observed] = x[:, :observed] + network.read_value(waved(tokens[:, :observed, -1:], network.waves))
    hidden = torch.full((length, length), -math.inf, dtype=x.dtype)
    hidden[:, :observed] = 0
    hidden.fill_diagonal_(0)
    for block in network.blocks:
        query, key, value = block.query_key_value(x).chunk(3, dim=-1)
        heads = []
        for query_, key_, value_ in zip(
            query.chunk(block.heads, -1), key.chunk(block.heads, -1), value.chunk(block.heads, -1), strict=True
        ):
            scores = query_ @ key_.transpose(1, 2) / math.sqrt(query_.shape[-1]) + hidden
            heads.append(scores.softmax(-1) @ value_)
        x = block.norm_attention(x + block.out(torch.cat(heads, -1)))
        x = block.norm_mlp(x + block.mlp(x))
    return network.read_out(x)[:, observed:]


@pytest.mark.parametrize(("length", "observed", "waves"), [(9, 4, 0), (2, 1, 3), (7, 6, 2), (12, 1, 0)])
def test_it_is_masked_attention_without_the_mask(length, observed, waves):
    network = awake(PriorFitted(12, 3, 2, waves).build(3, 5, 0).double())
    tokens = torch.randn(3, length, 3, dtype=torch.float64)
    torch.testing.assert_close(network(tokens, observed), masked(network, tokens.clone(), observed))


def test_queries_are_alone_and_observations_have_no_order():
    network = awake(PriorFitted(12, 2, 3).build(2, 4, 0).double())
    tokens = torch.randn(2, 10, 2, dtype=torch.float64)
    answers = network(tokens, 6)
    torch.testing.assert_close(network(tokens[:, :8], 6), answers[:, :2])
    shuffled = torch.cat([tokens[:, torch.randperm(6)], tokens[:, 6:]], dim=1)
    torch.testing.assert_close(network(shuffled, 6), answers)
    changed = tokens.clone()
    changed[:, 6:, -1] = 99.0  # a query's value is not read
    changed[:, 7:, 0] += 1
    torch.testing.assert_close(network(changed, 6)[:, :1], answers[:, :1])
    changed[:, 2, -1] += 1
    assert not torch.allclose(network(changed, 6)[:, :1], answers[:, :1])


def test_it_begins_as_norms_of_its_input():
    network = PriorFitted(8, 3, 2).build(2, 3, 0)
    tokens = torch.randn(1, 5, 2)
    x = network.read_input(tokens[:, 3:, :1])
    for _ in range(6):
        x = torch.nn.functional.layer_norm(x, (8,))
    torch.testing.assert_close(network(tokens, 3), network.read_out(x), atol=1e-4, rtol=1e-3)


def test_gradient_of_the_attention():
    torch.manual_seed(0)
    parts = [torch.randn(1, 2, count, 3, dtype=torch.float64, requires_grad=True) for count in (2, 4, 4, 2, 2)]
    assert torch.autograd.gradcheck(_ask, parts)


def test_it_is_what_the_authors_have():
    """With copied weights, against their transformer and its masks."""
    pytest.importorskip("lcpfn")
    from bench.incontext_lc_pfn import copy, peer

    torch.manual_seed(0)
    theirs, ours = peer(16, 3, 2, 7).eval(), PriorFitted(16, 3, 2).build(2, 7, 0)  # their mask is of single precision
    copy(theirs, ours)
    tokens = torch.randn(4, 11, 2)
    x, y = tokens[..., :1].transpose(0, 1), tokens[:, :5, 1].transpose(0, 1)
    with torch.no_grad():
        expected = theirs((x, y), single_eval_pos=5).transpose(0, 1)
    torch.testing.assert_close(ours(tokens, 5), expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_one_clear_line():
    with pytest.raises(FewerError, match="multiple of heads"):
        PriorFitted(10, 1, 3)
    network = PriorFitted(8, 1, 2).build(2, 3, 0)
    for observed, said in ((None, "none"), (0, "0"), (4, "4")):
        with pytest.raises(FewerError, match=f"given 4 tokens of which {said} are observed"):
            network(torch.randn(1, 4, 2), observed)
