"""Sentences to tokens: the words of a training set, and letters for all other words."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from fewer.core.errors import FewerError

_PIECE = re.compile(r"\w+|[^\w\s]")
PAD, START, END, UNKNOWN = range(4)


class Tokenizer(Protocol):
    """Texts to tokens.

    Attributes
    ----------
    size : int
        How many different tokens there are.
    context : int
        Tokens of the longest text, start and end counted.
    end : int
        The token at which a text ends, and at which its features are read.
    """

    size: int
    context: int
    end: int

    def __call__(self, texts: Sequence[str], *, whole: bool = False) -> Int[Tensor, "texts length"]:
        """Tokens, filled up behind the end to the longest of these texts.

        What is too long is cut, with the end kept, after a warning; with ``whole`` it is refused.
        """
        ...


class Vocabulary:
    """Words that occur in a training set, and letters of which all others are spelt.

    Parameters
    ----------
    texts : sequence of str
        What words are taken from, in lower case.
    context : int, default 32
        Tokens of the longest text, start and end counted.
    least : int, default 2
        How often a word must occur to have a token of its own: by those that have none, letters are learned.

    Examples
    --------
    >>> words = Vocabulary(["a red circle", "a blue circle"], context=12)
    >>> words(["a circle", "Red!"]).tolist()
    [[1, 4, 5, 2, 0, 0], [1, 13, 10, 9, 3, 2]]
    """

    def __init__(self, texts: Sequence[str], context: int = 32, least: int = 2) -> None:
        if context < 3:
            raise FewerError(f"vocabulary: a context of {context} holds no word between start and end; give 3 or more")
        counts = Counter(piece for text in texts for piece in _PIECE.findall(text.lower()))
        if not counts:
            raise FewerError("vocabulary: there is no word in the texts; give captions that say something")
        known = sorted(word for word, count in counts.items() if count >= least)
        letters = sorted({letter for word in counts for letter in word})
        self.words = {word: place for place, word in enumerate(known, UNKNOWN + 1)}
        self.letters = {letter: place for place, letter in enumerate(letters, UNKNOWN + 1 + len(known))}
        self.size, self.context, self.end = UNKNOWN + 1 + len(known) + len(letters), context, END
        self._warned = False

    def __call__(self, texts: Sequence[str], *, whole: bool = False) -> Int[Tensor, "texts length"]:
        """Tokens of texts (see :class:`Tokenizer`)."""
        rows = [self._tokens(text) for text in texts]
        longest = max((len(row) for row in rows), default=0) + 2
        if longest > self.context:
            if whole:
                text = max(zip(rows, texts, strict=True), key=lambda each: len(each[0]))[1]
                raise FewerError(
                    f"{text!r} takes {longest} tokens and the text tower reads {self.context}; shorten it or build the tower "
                    "with a larger context"
                )
            if not self._warned:
                warnings.warn(f"texts of up to {longest} tokens are cut to {self.context}", stacklevel=2)
                self._warned = True
        length = min(longest, self.context)
        found = torch.full((len(rows), length), PAD)
        for place, row in enumerate(rows):
            kept = [START, *row[: length - 2], END]
            found[place, : len(kept)] = torch.tensor(kept)
        return found

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = []
        for piece in _PIECE.findall(text.lower()):
            if piece in self.words:
                found.append(self.words[piece])
            else:
                found += [self.letters.get(letter, UNKNOWN) for letter in piece]
        return found
