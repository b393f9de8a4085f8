"""Real English texts with no download: what scipy's documentation says, by sub-package.

The texts follow the installed scipy; :data:`PINNED` has the fingerprint of those that published
numbers were measured on.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.tasks.classification import Classification
from fewer.tasks.text_features import tfidf

PACKAGES = (
    "stats",
    "special",
    "signal",
    "sparse",
    "interpolate",
    "linalg",
    "optimize",
    "ndimage",
    "spatial",
    "integrate",
    "fft",
)

PINNED = {"1.17.1": "c01876d9a816baf0"}
"""Fingerprint of the texts (:func:`texts_fingerprint`), by version of scipy."""


@functools.lru_cache(maxsize=8)
def scipy_docs(
    features: Literal["svd", "text"] = "svd", rows: int | None = None, test: int | float = 400
) -> Classification:
    """Make the task of telling from a text which of 11 scipy sub-packages it documents.

    About 1,470 texts (39 to 362 a class): the prose before the heading *Parameters* in the docstring
    of each public function, class and method.  It is kept if it has six words and does not begin
    like one that came before.

    Parameters
    ----------
    features : {"svd", "text"}, default "svd"
        ``"svd"``: TF-IDF reduced to 128 dimensions on all texts, no label seen
        (:func:`~fewer.tasks.text_features.tfidf`).  ``"text"``: the texts themselves.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    test : int or float, default 400
        Rows, or share of rows, held out for scoring, anew for each seed.

    Returns
    -------
    Classification
        Scored by macro-F1.

    Raises
    ------
    FewerError
        For unknown features, or if Python runs without docstrings (``-OO``).

    Examples
    --------
    >>> task = scipy_docs()
    >>> task.x.shape[1], task.metric, task.classes[:3]
    (128, 'macro-f1', ('stats', 'special', 'signal'))
    """
    if features not in ("svd", "text"):
        raise FewerError(f"scipy-docs: unknown features {features!r}; choose 'svd' or 'text'")
    texts, labels = documents()
    x = tfidf(texts) if features == "svd" else np.array(texts, dtype=object)
    origin = f"{features} of {texts_fingerprint()}"
    return Classification(
        "scipy-docs", x, np.array(labels), PACKAGES, test=test, rows=rows, metric="macro-f1", origin=origin
    )


@functools.cache
def documents() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Collect the texts, and for each the position of its sub-package in :data:`PACKAGES`."""
    if sys.flags.optimize >= 2:
        raise FewerError("scipy-docs: Python runs without docstrings (-OO); run it without that option")
    texts: dict[str, tuple[str, int]] = {}
    for label, package in enumerate(PACKAGES):
        module = importlib.import_module(f"scipy.{package}")
        for thing in _public(module):
            text = prose(inspect.getdoc(thing) or "")
            if text.count(" ") >= 5:
                texts.setdefault(text[:80], (text, label))
    return tuple(text for text, _ in texts.values()), tuple(label for _, label in texts.values())


def texts_fingerprint() -> str:
    """Hash the texts and their labels, to compare with :data:`PINNED`."""
    texts, labels = documents()
    return fingerprint(*texts, np.array(labels))


def prose(docstring: str) -> str:
    """Keep what comes before the heading *Parameters* and notes on deprecation, in lower-case words.

    Examples
    --------
    >>> prose('''Compute the 2-D FFT.
    ...
    ... Parameters
    ... ----------
    ... x : array''')
    'compute the d fft'
    """
    # notes on deprecation name the arguments in the order of a set, anew in every process
    before = re.split(r"^\s*(?:Parameters\s*$|\.\. deprecated::)", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(re.findall("[a-z]+", before.lower()))


def _public(module: Any) -> Iterator[Any]:
    """What may be called in a module, each class followed by the methods that scipy gives it."""
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        if name.startswith("_") or not callable(thing):
            continue
        yield thing
        if inspect.isclass(thing):
            # what comes from Python itself (a dict's or an exception's methods) says nothing about scipy
            own = [base for base in thing.__mro__ if base.__module__.split(".")[0] == "scipy"]
            members = sorted({member for base in own for member in vars(base) if not member.startswith("_")})
            yield from filter(inspect.isroutine, (getattr(thing, member) for member in members))
