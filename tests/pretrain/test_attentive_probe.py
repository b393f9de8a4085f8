"""The attentive probe: the attention against a slow version, what it can find that means cannot, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder, TokenTransformer
from fewer.pretrain.attentive_probe import AttentivePool, AttentiveProbe, embed_tokens
from fewer.pretrain.masked import MaskedModelling
from fewer.pretrain.readout import LinearProbe
from fewer.tasks.digits import digits
from fewer.tasks.representation import Probe


def test_the_query_attends_as_in_torchs_own_attention():
    torch.manual_seed(0)
    pool, tokens = AttentivePool(8, classes=3, heads=2).double(), torch.randn(4, 5, 8, dtype=torch.float64)
    peer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([pool.ask.weight, pool.offer.weight]))
        peer.in_proj_bias.copy_(torch.cat([pool.ask.bias, pool.offer.bias]))
        peer.out_proj.weight.copy_(pool.project.weight)
        peer.out_proj.bias.copy_(pool.project.bias)
        seen = pool.norm1(tokens)
        found = pool.query + peer(pool.query.expand(4, 1, 8), seen, seen)[0][:, 0]
        expected = pool.classify(found + pool.mlp(pool.norm2(found)))
    assert torch.allclose(pool(tokens), expected)


def test_the_order_of_tokens_does_not_count():
    pool, tokens = AttentivePool(8, classes=3), torch.randn(4, 5, 8)
    assert torch.allclose(pool(tokens), pool(tokens[:, torch.randperm(5)]), atol=1e-6)


def test_it_finds_what_the_mean_of_all_tokens_has_lost():
    # one token in twelve is marked and tells the class, the others tell others
    rng = np.random.default_rng(0)
    y, marked = rng.integers(3, size=600), rng.integers(12, size=600)
    said = rng.integers(3, size=(600, 12))
    said[np.arange(600), marked] = y
    tokens = np.zeros((600, 12, 8))
    np.put_along_axis(tokens, said[..., None], 1.0, axis=2)
    tokens[np.arange(600), marked, 5] = 3
    linear = LinearProbe().score(tokens.mean(1)[:400], y[:400], tokens.mean(1)[400:], y[400:])
    attentive = AttentiveProbe(steps=200, lr=5e-3).score(tokens[:400], y[:400], tokens[400:], y[400:])
    assert attentive > 0.95 > 0.8 > linear


def test_it_reads_out_a_loop_and_leaves_the_callers_randomness_alone():
    method = MaskedModelling(
        TokenTransformer(16, 1, 2, 4), predictor=(16, 1, 2), points=1, readout=AttentiveProbe(steps=20)
    )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    (point,) = method.run(digits(), 96, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert point.score == point.extras["score"]
    assert {"linear", "knn"} <= set(point.extras)
    assert point.score == next(iter(method.run(digits(), 96, 0))).score


def test_tokens_of_an_encoder_are_what_is_judged():
    torch.manual_seed(0)
    encoder = TokenEncoder((1, 8, 8), (4, 4), 16, 1, 2)
    split = digits(rows=200, test=100).split(0)
    known = Probe("digit", split.x, split.y, split.test_x, split.test_y)
    readout = AttentiveProbe(steps=30)
    tokens = [encoder.tokens(torch.from_numpy(x)).detach().numpy() for x in (split.x, split.test_x)]
    assert np.allclose(embed_tokens(encoder, split.x, block=64), tokens[0], atol=1e-5)
    expected = readout.score(tokens[0], split.y, tokens[1], split.test_y)
    assert readout.judge(encoder, known) == pytest.approx(expected, abs=0.02)
    features = tokens[0].mean(1)
    assert 0 <= readout.score(features, split.y, features, split.y) <= 1  # a row is one token


def test_impossible_requests_are_refused():
    with pytest.raises(FewerError, match="steps and batch must be at least 1"):
        AttentiveProbe(steps=0)
    with pytest.raises(FewerError, match="cannot be shared by 3 heads"):
        AttentivePool(8, 2, heads=3)
    with pytest.raises(FewerError, match=r"it looks at tokens, and the encoder gives \(2, 4\)"):
        embed_tokens(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), np.zeros((2, 1, 2, 2)))
    with pytest.raises(FewerError, match="there are no rows"):
        embed_tokens(nn.Identity(), np.zeros((0, 3)))
    x, y = np.full((8, 2, 4), np.nan), np.arange(8) % 2
    with pytest.raises(FewerError, match=r"the loss became nan; lower lr=0\.001"):
        AttentiveProbe(steps=2).score(x, y, x, y)
