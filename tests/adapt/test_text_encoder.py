"""The text encoder: equal to transformers' BERT, blind to padding, and learning hidden words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.adapt.text_encoder import TextEncoder, learn_masked_words, masked
from fewer.core.errors import FewerError
from fewer.pretrain.vocabulary import END, PAD, START, UNKNOWN, Vocabulary


def encoder(pooled="first", **settings):
    torch.manual_seed(0)
    return TextEncoder(Vocabulary(["a b c d e f"], context=10, least=1), 16, 2, 2, pooled=pooled, **settings).eval()


def test_it_equals_bert():
    transformers = pytest.importorskip("transformers")
    mine = encoder()
    config = transformers.BertConfig(
        vocab_size=mine.words.size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=10, type_vocab_size=1,
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    nn.init.zeros_(theirs.embeddings.token_type_embeddings.weight)
    for each in mine.parameters():
        each.data += 0.1 * torch.randn_like(each)
    missing, unexpected = theirs.load_state_dict(mine.state_dict(), strict=False)
    assert not unexpected
    assert missing == ["embeddings.token_type_embeddings.weight"]
    tokens = mine.tokens(["a b", "f e d c b a"])
    expected = theirs(tokens, attention_mask=(tokens != PAD).long()).last_hidden_state
    torch.testing.assert_close(mine.hidden(tokens)[tokens != PAD], expected[tokens != PAD])
    torch.testing.assert_close(mine(tokens), expected[:, 0])


@pytest.mark.parametrize("pooled", ["first", "mean"])
def test_padding_does_not_matter(pooled):
    mine = encoder(pooled)
    tokens = mine.tokens(["a b c"])
    padded = torch.cat([tokens, torch.full((1, 4), PAD)], 1)
    torch.testing.assert_close(mine(padded), mine(tokens))


def test_masks():
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(UNKNOWN + 1, 50, (400, 30), generator=rng)
    tokens[:, 0], tokens[:, -2], tokens[:, -1] = START, END, PAD
    shown, asked = masked(tokens, 50, 0.3, rng)
    assert not asked[:, [0, -2, -1]].any()
    assert asked[:, 1:-2].float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(shown[~asked], tokens[~asked])
    assert (shown[asked] == UNKNOWN).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (shown[asked] == tokens[asked]).float().mean() == pytest.approx(0.1 + 0.1 / 46, abs=0.02)
    assert int(shown.max()) < 50


def learned(steps):
    mine = encoder()
    tokens = mine.tokens(["a b", "c d", "e f"] * 4)
    return learn_masked_words(mine, tokens, steps=steps, batch=32, lr=3e-3, share=0.3, seed=1), mine


def test_it_learns_words_that_follow_from_others():
    loss, mine = learned(250)
    assert loss < 0.8  # log 3 = 1.1 nats would be knowing each word's place alone
    assert not mine.training


def test_equal_seeds_learn_alike():
    (first, one), (second, other) = learned(5), learned(5)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: encoder("last"), "pooled 'last'"),
        (lambda: TextEncoder(Vocabulary(["a"], least=1), 10, 1, 3), "10 channels cannot be shared by 3 heads"),
        (lambda: encoder()(torch.ones(1, 11, dtype=torch.int64)), "texts of 11 tokens, and it reads 10"),
        (lambda: learn_masked_words(encoder(), torch.zeros(0, 4, dtype=torch.int64)), "texts must be 1 or more"),
        (lambda: learn_masked_words(encoder(), torch.ones(2, 4, dtype=torch.int64), share=0), "share in"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()
