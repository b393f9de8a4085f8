"""The query strategies: each against a slow version, and a template that every filling of the slot must pass."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.labels import k_centre, queries
from fewer.labels.learners import FittedNetwork, Network
from fewer.labels.loop import Examples, Round
from fewer.labels.pcoreset import PCoreSet
from fewer.labels.queries import (
    BADGE,
    ClassBalanced,
    Entropy,
    KCentre,
    LeastConfidence,
    Margin,
    Random,
    entropy,
    highest,
    least_confidence,
    margin,
)
from fewer.models.classifier import MLP

LOOP = "fewer.labels.loop:ActiveLearning"
CLASSES = 4


def _strategies():
    """Whatever the catalogue has for the slot, by name; the ones of this room also where it does not know them yet."""
    found = {"class-balanced": ClassBalanced(), "pcoreset": PCoreSet()}
    for name, part in catalogue.fillings().items():
        if LOOP in part.loops and part.slots == ("query",):
            found[name] = compose.loop(name).query
    return found


STRATEGIES = _strategies()


@functools.cache
def _world():
    """A pool of 90 rows and a small network fitted to ten of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 6)).astype(np.float32)
    y = (x[:, :2] > 0) @ np.array([1, 2])
    order = rng.permutation(90)
    labelled, unlabelled = order[:10], np.sort(order[15:])  # five rows are neither: somebody cheap labelled them
    opinion = (3 * np.eye(CLASSES)[y] + rng.normal(size=(90, CLASSES))).astype(np.float32)
    moment = Round(1, CLASSES, x, labelled, y[labelled], unlabelled, rng, seed=5, opinion=opinion)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Network(MLP((8,)), steps=30).fit(Examples.hard(labelled, y[labelled], CLASSES), moment)
    return moment, model, model.predict_proba(x), model.embed(x)


def moment(seed: int = 0, **changes) -> Round:
    """A round as the loop would make it; equal seeds give equal randomness."""
    bare, model, probabilities, features = _world()

    def refit(examples: Examples, start: object = None) -> FittedNetwork:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Network(MLP((8,)), steps=5).fit(examples, bare)

    fresh = {
        "rng": np.random.default_rng(seed),
        "memory": {},
        "report": {},
        "model": model,
        "refit": refit,
        "given_probabilities": probabilities.copy(),
        "given_features": features.copy(),
    }
    return replace(bare, **{**fresh, **changes})


# --- the template ------------------------------------------------------------------------------


@pytest.fixture(params=sorted(STRATEGIES))
def query(request):
    return STRATEGIES[request.param]


@pytest.mark.parametrize("count", [1, 7, 40])
def test_gives_as_many_different_unlabelled_rows_as_asked(query, count):
    now = moment()
    chosen = np.asarray(query.choose(now, count))
    assert chosen.shape == (count,)
    assert chosen.dtype.kind == "i"
    assert len(np.unique(chosen)) == count
    assert np.isin(chosen, now.unlabelled).all()


def test_all_asked_is_all_given(query):
    now = moment()
    chosen = query.choose(now, len(now.unlabelled))
    assert np.array_equal(np.sort(chosen), now.unlabelled)


def test_same_seed_same_answer(query):
    assert np.array_equal(query.choose(moment(3), 12), query.choose(moment(3), 12))


def test_blocks_are_only_a_matter_of_memory(query, monkeypatch):
    whole = query.choose(moment(), 15)
    monkeypatch.setattr(queries, "BLOCK", 7)
    monkeypatch.setattr(queries.blocks, "__defaults__", (7,))
    monkeypatch.setattr(k_centre, "BLOCK_BYTES", 4 * (256 + 8) * 7)
    monkeypatch.setattr(k_centre, "GROUP", 5)
    assert np.array_equal(query.choose(moment(), 15), whole)


def test_what_the_round_holds_stays_as_it_was(query):
    now = moment()
    before = [np.array(part) for part in (now.x, now.probabilities, now.features, now.unlabelled, now.labelled)]
    query.choose(now, 9)
    after = [now.x, now.probabilities, now.features, now.unlabelled, now.labelled]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_memory_maps_are_as_good_as_arrays(query, tmp_path):
    now = moment()
    mapped = {}
    for name, array in (("x", now.x), ("probabilities", now.probabilities), ("features", now.features)):
        np.save(tmp_path / f"{name}.npy", array)
        mapped[name if name == "x" else f"given_{name}"] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    assert np.array_equal(query.choose(moment(**mapped), 15), query.choose(moment(), 15))


@pytest.mark.parametrize("wrong", [np.nan, -0.5, 7.0])
def test_a_row_that_is_no_distribution_is_named_or_not_looked_at(query, wrong):
    row = int(moment().unlabelled[20])
    spoilt = moment().probabilities
    spoilt[row, 1] = wrong
    try:
        chosen = query.choose(moment(given_probabilities=spoilt), 6)
    except FewerError as error:
        assert f"row {row} " in str(error)  # noqa: PT017 (both outcomes are right)
    else:
        assert np.array_equal(chosen, query.choose(moment(), 6))


# --- each against a slow version ---------------------------------------------------------------


def slow_uncertainty(probabilities, name):
    p = sorted((float(each) for each in probabilities), reverse=True)
    if name == "least_confident":
        return 1 - p[0]
    return p[1] - p[0] if name == "margin_sampling" else -sum(each * math.log(each) for each in p if each > 0)


UNCERTAINTY = {
    "least_confident": (LeastConfidence(), least_confidence),
    "margin_sampling": (Margin(), margin),
    "entropy": (Entropy(), entropy),
}


@pytest.mark.parametrize("name", sorted(UNCERTAINTY))
def test_uncertainty_ranks_as_the_definition_does(name):
    strategy, _ = UNCERTAINTY[name]
    now = moment()
    ranked = sorted(now.unlabelled, key=lambda row: -slow_uncertainty(now.probabilities[row], name))
    assert strategy.choose(now, 20).tolist() == ranked[:20]


@pytest.mark.parametrize("name", sorted(UNCERTAINTY))
def test_uncertainty_agrees_with_scikit_activeml(name):
    peer = pytest.importorskip("skactiveml.pool")
    probabilities = moment().probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    theirs = peer.uncertainty_scores(probabilities, method=name)
    if name == "margin_sampling":
        theirs = theirs - 1  # they count a tie as 1, we as 0
    assert np.allclose(UNCERTAINTY[name][1](probabilities), theirs, atol=1e-6)


def test_uncertainty_at_its_ends():
    ends = np.array([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    assert least_confidence(ends).tolist() == [0, 0.75, 0.5]
    assert margin(ends).tolist() == [-1, 0, 0]
    assert np.allclose(entropy(ends), [0, np.log(4), np.log(2)])


def test_uncertainty_of_one_class_is_an_error():
    with pytest.raises(FewerError, match="at least two classes"):
        Margin().choose(moment(given_probabilities=np.ones((90, 1), dtype=np.float32)), 3)


@given(st.lists(st.integers(-3, 3), max_size=30), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_highest_sorts_and_settles_ties_by_position(scores, share):
    count = round(share * len(scores))
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert highest(np.array(scores, dtype=np.float32), count).tolist() == expected


def test_random_takes_every_row_equally_often():
    now = moment()
    drawn = np.concatenate([Random().choose(now, 15) for _ in range(1000)])
    counts = np.array([np.count_nonzero(drawn == row) for row in now.unlabelled])
    expected = 15_000 / len(now.unlabelled)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < len(counts) + 5 * math.sqrt(2 * len(counts))  # mean and five deviations of its distribution


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_k_centre_covers_the_features_not_yet_covered(metric):
    now = moment()
    place = np.asarray(now.features, dtype=np.float64)
    if metric == "cosine":
        place = place / np.linalg.norm(place, axis=1, keepdims=True)
    chosen: list[int] = []
    for _ in range(8):
        covered = place[[*now.labelled, *chosen]]
        distance = {row: np.linalg.norm(covered - place[row], axis=1).min() for row in now.unlabelled}
        chosen.append(max(distance, key=distance.__getitem__))
    assert KCentre(metric).choose(now, 8).tolist() == chosen


def gradient_embeddings(now: Round) -> np.ndarray:
    """What BADGE never forms: the gradient of the last layer if the predicted class were true, by autograd."""
    model = now.model
    assert isinstance(model, FittedNetwork)
    head = model.network.head
    features = torch.from_numpy(now.features)
    rows = []
    for feature in features:
        head.zero_grad()
        logits = head(feature)
        torch.nn.functional.cross_entropy(logits[None], logits.argmax()[None]).backward()
        assert head.weight.grad is not None
        rows.append(head.weight.grad.flatten().double().numpy().copy())
    return np.array(rows)


@pytest.mark.parametrize("seed", range(5))
def test_badge_is_k_means_seeding_on_gradient_embeddings(seed):
    now = moment(seed)
    embedding = gradient_embeddings(now)[now.unlabelled]
    draws = np.random.default_rng(seed)
    chosen = [int((embedding**2).sum(axis=1).argmax())]
    while len(chosen) < 12:
        nearest = ((embedding[:, None] - embedding[None, chosen]) ** 2).sum(axis=2).min(axis=1)
        nearest[chosen] = 0
        chosen.append(int(draws.choice(len(embedding), p=nearest / nearest.sum())))
    assert BADGE().choose(now, 12).tolist() == now.unlabelled[chosen].tolist()


def test_badge_goes_on_where_all_gradients_are_equal():
    certain = np.tile(np.eye(CLASSES, dtype=np.float32)[0], (90, 1))
    chosen = BADGE().choose(moment(given_probabilities=certain), 9)
    assert len(np.unique(chosen)) == 9


def slow_shares(predicted, labels, count):
    """How many rows of each predicted class are to be drawn, one class at a time."""
    have = {label: labels.count(label) for label in sorted(set(predicted))}
    total = sum(1 / (n + 1) for n in have.values())
    quota = {label: math.floor(count / (n + 1) / total + 1e-9) for label, n in have.items()}
    for label in sorted(have, key=lambda label: (have[label], label))[: count - sum(quota.values())]:
        quota[label] += 1
    return quota


@given(
    predicted=st.lists(st.integers(0, CLASSES - 1), min_size=90, max_size=90),
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=10, max_size=10),
    count=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_class_balanced_draws_by_inverse_frequency(predicted, labels, count):
    certain = np.eye(CLASSES, dtype=np.float32)[predicted]
    now = moment(given_probabilities=certain, labels=np.array(labels))
    seen = [predicted[row] for row in now.unlabelled]
    chosen = [predicted[row] for row in ClassBalanced().choose(now, count)]
    for label, wanted in slow_shares(seen, labels, count).items():
        assert chosen.count(label) >= min(wanted, seen.count(label))
    assert len(chosen) == count


def test_class_balanced_fills_up_from_other_classes():
    predicted = np.zeros(90, dtype=int)
    few = moment().unlabelled[:2]
    predicted[few] = 1  # two rows of a class that nobody has labelled
    now = moment(given_probabilities=np.eye(CLASSES, dtype=np.float32)[predicted], labels=np.zeros(10, dtype=int))
    chosen = ClassBalanced().choose(now, 20)
    assert np.isin(few, chosen).all()
    assert len(np.unique(chosen)) == 20


@pytest.mark.parametrize("query", [Margin(), KCentre(), BADGE(), ClassBalanced(), PCoreSet()], ids=repr)
def test_needs_a_model_or_what_a_model_would_say(query):
    with pytest.raises(FewerError, match="this strategy needs"):
        query.choose(moment(model=None, given_probabilities=None, given_features=None), 3)
