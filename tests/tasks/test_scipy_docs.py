from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy

from fewer.core.errors import FewerError
from fewer.tasks.scipy_docs import PACKAGES, PINNED, documents, prose, scipy_docs, texts_fingerprint


def test_the_texts_are_clean_and_different():
    texts, labels = documents()
    assert len(texts) == len(labels)
    assert all(text.replace(" ", "").isascii() and text.replace(" ", "").isalpha() for text in texts)
    assert all(text == text.lower() and len(text.split()) >= 6 for text in texts)
    assert len({text[:80] for text in texts}) == len(texts)
    counts = np.bincount(labels, minlength=len(PACKAGES))
    assert 1300 < len(texts) < 1700
    assert counts.min() > 30


def test_prose_ends_where_the_parameters_begin():
    assert prose("A 2-D sum.\n\n  Parameters \n ------\n x") == "a d sum"
    assert prose("Parameters of a model are kept.") == "parameters of a model are kept"
    assert prose("Old.\n\n.. deprecated:: 1.2\n\n Use `b`, `a`.") == "old"


@pytest.mark.skipif(scipy.__version__ not in PINNED, reason="the texts follow scipy's version")
def test_the_texts_are_those_that_were_published_with():
    assert texts_fingerprint() == PINNED[scipy.__version__]


def test_the_texts_are_the_same_in_every_process():
    program = "from fewer.tasks.scipy_docs import texts_fingerprint as f; print(f())"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == texts_fingerprint()


def test_vectors_and_texts_are_of_the_same_rows():
    vectors, texts = scipy_docs(), scipy_docs(features="text")
    assert vectors.x.shape == (len(texts.x), 128)
    assert vectors.x.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors.x, axis=1), 1, atol=1e-5)
    assert texts.x.dtype == object
    assert np.array_equal(vectors.y, texts.y)
    split = vectors.split(0)
    assert len(split.test_x) == 400
    assert np.array_equal(split.y, texts.split(0).y)
    assert vectors.fingerprint() != texts.fingerprint()


def test_a_linear_model_tells_the_packages_apart():
    from sklearn.linear_model import LogisticRegression

    task = scipy_docs()
    split = task.split(0)
    model = LogisticRegression(C=10, max_iter=1000).fit(split.x, split.y)
    assert task.score(split.test_y, model.predict(split.test_x)) > 0.75


def test_unknown_features():
    with pytest.raises(FewerError, match="unknown features 'bert'; choose 'svd' or 'text'"):
        scipy_docs(features="bert")  # pyright: ignore[reportArgumentType]


def test_without_docstrings_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    documents.cache_clear()
    scipy_docs.cache_clear()
    with pytest.raises(FewerError, match=r"without docstrings \(-OO\)"):
        scipy_docs()
