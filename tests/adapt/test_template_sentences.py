"""Sentences of the grammar: 120 words, what they say can be read off them, targets by hand, shared and equal starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.adapt import template_sentences
from fewer.adapt.template_sentences import (
    BAD,
    FACTORS,
    GOOD,
    MILD,
    NEGATIONS,
    NOUNS,
    STRONG,
    TARGETS,
    VERBS,
    TemplateSentences,
    answer,
    drawn,
    sentences,
    source_rows,
    vocabulary,
)
from fewer.core.errors import FewerError

SMALL = {"rows": 40, "test": 100, "pretraining": 4, "source_rows": 40, "source_epochs": 1}


def read(text):
    """What a sentence says, by its words."""
    words = set(text.split())
    nouns = {noun + end: (topic, end) for topic, of in enumerate(NOUNS) for noun in of for end in ("", "s")}
    topic, end = next(nouns[word] for word in words if word in nouns)
    past = {form for verb in VERBS for form in verb[1]}
    return {
        "polarity": int(bool(words & set(GOOD))),
        "negation": int(bool(words & set(NEGATIONS))),
        "tense": int(bool(words & past)),
        "number": int(end == "s"),
        "topic": topic,
        "strength": int(bool(words & set(STRONG))),
    }


def test_there_are_120_words_and_each_has_one_meaning():
    words = vocabulary()
    assert len(words.words) == 120
    groups = (GOOD, BAD, STRONG, MILD, NEGATIONS)
    assert sum(map(len, groups)) == len({word for group in groups for word in group})


def test_sentences_say_what_they_shall():
    rng = np.random.default_rng(0)
    factors = drawn(500, rng)
    texts = sentences(factors, rng)
    for index, text in enumerate(texts):
        assert read(text) == {name: each[index] for name, each in factors.items()}
    tokens = vocabulary()(texts, whole=True)
    assert tokens.shape[1] <= 14
    assert int(tokens.max()) <= 3 + 120  # no word is spelt by letters
    assert len(set(texts)) > 490


@pytest.mark.parametrize("target", TARGETS)
def test_targets_by_hand(target):
    rule = {
        "signed": lambda says: (says["polarity"] + says["negation"]) % 2,
        "polite-negative": lambda says: says["strength"] == 0 and (says["polarity"] == 0) == (says["negation"] == 0),
        "past-topic": lambda says: says["topic"] in (0, 1) and says["tense"] == 1,
    }[target]
    task = TemplateSentences(target, **SMALL)
    rows = task.labelled(3)
    words = {place: word for word, place in vocabulary().words.items()}
    for tokens, y in ((rows.x, rows.y), (rows.test_x, rows.test_y)):
        texts = [" ".join(words[each] for each in row if each in words) for row in tokens.tolist()]
        assert [int(rule(read(text))) for text in texts] == y.tolist()
        assert float(y.float().mean()) == 0.5
    factors = drawn(200, np.random.default_rng(0))
    assert set(answer(target, factors).tolist()) == {0, 1}


def test_equal_seeds_are_equal_and_targets_share_the_start(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(
        template_sentences, "learn_masked_words", lambda *args, **named: made.append(named["seed"]) or 0.0
    )
    one, other = TemplateSentences("signed", **SMALL), TemplateSentences("past-topic", **SMALL)
    first, second = one.base(0), other.base(0)
    assert made == [0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert list(first.source_adapters) == list(FACTORS)
    assert repr(first.source_adapters) == repr(second.source_adapters)
    assert repr(one.base(1).source_adapters) != repr(first.source_adapters)
    assert made == [0, 1]
    assert torch.equal(one.labelled(0).x, TemplateSentences("signed", **SMALL).labelled(0).x)
    assert not torch.equal(one.labelled(0).x, one.labelled(1).x)
    assert one.fingerprint() != other.fingerprint()


def test_source_rows_are_of_their_factor():
    texts, y = source_rows("topic", 50, 0)
    assert [read(text)["topic"] for text in texts] == y.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"target": "tense"}, "target is 'tense'; choose signed"), ({"rows": 0}, "give 1 or more of each"),
     ({"source_rows": 5}, "and 20 source rows")],
)  # fmt: skip
def test_errors(settings, message):
    with pytest.raises(FewerError, match=message):
        TemplateSentences(**settings)
