"""Sentences to tokens: known words, spelt words, what is cut and what is refused."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.pretrain.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

WORDS = Vocabulary(["a red circle", "a blue circle", "a red square"], context=10)


def test_words_that_occur_twice_have_a_token_and_others_are_spelt():
    tokens = WORDS(["a red circle", "blue"]).tolist()
    assert tokens[0] == [START, WORDS.words["a"], WORDS.words["red"], WORDS.words["circle"], END, PAD]
    assert tokens[1] == [START, *(WORDS.letters[letter] for letter in "blue"), END]
    assert WORDS.words.keys() == {"a", "red", "circle"}
    assert max(map(max, tokens)) < WORDS.size


def test_a_word_of_one_letter_is_not_that_letter():
    assert WORDS.words["a"] != WORDS.letters["a"]


def test_letters_that_never_occurred_are_unknown():
    assert WORDS(["z!"]).tolist() == [[START, UNKNOWN, UNKNOWN, END]]


def test_case_and_spaces_do_not_matter_and_an_empty_text_is_start_and_end():
    assert WORDS(["  A\tRED "]).tolist() == WORDS(["a red"]).tolist()
    assert WORDS([""]).tolist() == [[START, END]]


def test_what_is_too_long_keeps_its_end_and_is_said_once():
    words = Vocabulary(["a b a b"], context=4)
    with pytest.warns(UserWarning, match="texts of up to 8 tokens are cut to 4"):
        tokens = words(["a b a b a b", "a"])
    assert tokens.tolist() == [
        [START, words.words["a"], words.words["b"], END],
        [START, words.words["a"], END, PAD],
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words(["a b a b a b"])


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_text_has_one_end_and_tokens_in_range(texts):
    words = Vocabulary(["some words some words"], context=64)
    tokens = words(texts)
    assert ((tokens == END).sum(1) == 1).all()
    assert ((tokens >= 0) & (tokens < words.size)).all()
    assert tokens.shape == (len(texts), tokens.shape[1])


def test_errors():
    with pytest.raises(FewerError, match="'a b a b' takes 6 tokens and the text tower reads 5"):
        Vocabulary(["a b a b"], context=5)(["a", "a b a b"], whole=True)
    with pytest.raises(FewerError, match="a context of 2 holds no word"):
        Vocabulary(["a"], context=2)
    with pytest.raises(FewerError, match="there is no word in the texts"):
        Vocabulary(["  ", ""])
