"""The arms that predict captions: their losses and scores against plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.pretrain.caption_prediction import BagOfWords, CaptionWriter, WordByWord, WordsOccurring
from fewer.tasks.scenes import scenes

TEXTS = ["a red circle", "this is a blue bar", "the cyan ring"]


@pytest.fixture
def pairing():
    return scenes(test=4).pairing(0)


def built(description, pairing):
    torch.manual_seed(0)
    return description.build(scenes(test=4), pairing).eval()


def test_a_bag_counts_each_word_once_and_nothing_else(pairing):
    network = built(BagOfWords(), pairing)
    words = network.vocabulary.words
    bags = network.bags(["a red red circle", "a"])
    assert bags[0].nonzero().flatten().tolist() == sorted(words[word] for word in ("a", "red", "circle"))
    assert bags[1].nonzero().flatten().tolist() == [words["a"]]


def test_a_bags_loss_and_scores(pairing):
    network = built(BagOfWords(), pairing)
    images, texts = pairing.draw(4)
    said, bags, _ = network(images, texts)
    chance = said.double().sigmoid()
    expected = -(bags * chance.log() + (1 - bags) * (1 - chance).log()).sum(1)
    assert torch.allclose(WordsOccurring()(said, bags).double(), expected, atol=1e-4)
    words = network.vocabulary.words
    expected = chance[0].log()[[words[word] for word in TEXTS[0].split()]].sum()
    assert network.scores(images, TEXTS)[0, 0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_writers_loss_and_scores(pairing):
    network = built(CaptionWriter(), pairing)
    images, _ = pairing.draw(2)
    scores = network.scores(images, TEXTS)
    for row in range(2):
        for column, text in enumerate(TEXTS):
            tokens = network.vocabulary([text])
            logs = network.written(network.encoder(images[row : row + 1]), tokens).log_softmax(2)
            expected = sum(logs[0, place, token] for place, token in enumerate(tokens[0]))
            assert scores[row, column].item() == pytest.approx(expected.item(), rel=1e-4)
    said, tokens, _ = network(images, TEXTS[:2])
    losses = WordByWord()(said, tokens)
    assert torch.allclose(losses, -torch.stack([scores[0, 0], scores[1, 1]]), atol=1e-3)


def test_a_writer_sees_the_image_and_only_the_words_before(pairing):
    network = built(CaptionWriter(), pairing)
    features = network.encoder(pairing.draw(1)[0]).detach()
    tokens = network.vocabulary(["a red circle", "a red ring"])
    both = network.written(features.expand(2, -1), tokens)
    assert torch.allclose(both[0, :4], both[1, :4], atol=1e-5)  # start, a, red, and the word that is said next
    assert not torch.allclose(both[0, 4], both[1, 4], atol=1e-3)
    assert not torch.allclose(network.written(features + 1, tokens[:1]), both[:1], atol=1e-3)


@pytest.mark.parametrize("description", [BagOfWords(), CaptionWriter()])
def test_gradients_reach_the_image_tower(description, pairing):
    network = built(description, pairing).train()
    images, texts = pairing.draw(4)
    first, second, _ = network(images, texts)
    loss = WordsOccurring() if isinstance(description, BagOfWords) else WordByWord()
    loss(first, second).mean().backward()
    assert all(each.grad is not None for each in network.encoder.parameters())
    assert any(isinstance(each, nn.Conv2d) for each in network.encoder.modules())
