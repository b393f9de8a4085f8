"""Read-outs: against slow versions, what they refuse, what an encoder may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fewer.core.errors import FewerError
from fewer.pretrain.readout import KNN, LinearProbe, embed, judged, probe
from fewer.tasks.representation import Probe


def blobs(rows=60, classes=3, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    centres = np.random.default_rng(9).normal(size=(classes, 5))
    return centres[y] + spread * rng.normal(size=(rows, 5)), y


def slow_knn(x, y, test_x, k, temperature):
    said = []
    for row in test_x:
        cosines = [row @ other / (np.linalg.norm(row) * np.linalg.norm(other)) for other in x]
        votes = {}
        for place in sorted(range(len(x)), key=lambda place: -cosines[place])[:k]:
            votes[y[place]] = votes.get(y[place], 0) + math.exp(cosines[place] / temperature)
        said.append(max(votes, key=votes.get))
    return np.array(said)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (20, 1.0), (500, 0.2)])
def test_neighbours_vote_as_in_a_plain_loop(k, temperature):
    (x, y), (test_x, test_y) = blobs(), blobs(30, seed=1)
    expected = np.mean(slow_knn(x, y, test_x, k, temperature) == test_y)
    assert KNN(k, temperature).score(x, y, test_x, test_y) == pytest.approx(expected)


def test_neighbours_do_not_care_for_lengths():
    (x, y), (test_x, test_y) = blobs(), blobs(30, seed=1)
    lengths = np.random.default_rng(2).uniform(0.1, 9, (60, 1))
    assert KNN().score(x * lengths, y, test_x, test_y) == KNN().score(x, y, test_x, test_y)


def test_classes_that_only_the_test_knows_are_never_said():
    assert KNN(k=1).score(np.eye(2), np.array([0, 1]), np.eye(2), np.array([5, 1])) == 0.5


def test_the_linear_probe_is_logistic_regression_on_standardised_features():
    (x, y), (test_x, test_y) = blobs(), blobs(200, seed=1)
    scale = np.array([1, 10, 0.1, 5, 3.0])
    mean, deviation = x[:50].mean(0), x[:50].std(0)
    peer = LogisticRegression(C=0.5, max_iter=300).fit((x[:50] - mean) / deviation, y[:50])
    expected = peer.score((test_x - mean) / deviation, test_y)
    assert LinearProbe(c=0.5, rows=50).score(x * scale, y, test_x * scale, test_y) == pytest.approx(expected, abs=0.01)


def test_an_encoder_is_in_evaluation_while_it_embeds_and_as_it_was_afterwards():
    network = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.9)).train()
    x = blobs()[0]
    assert np.allclose(embed(network, x), embed(network, x, block=7), atol=1e-6)
    assert network.training
    with torch.inference_mode():
        expected = network[0](torch.from_numpy(x.astype(np.float32)))
    assert np.allclose(embed(network, x), expected, atol=1e-6)


def test_features_of_any_shape_become_vectors_and_functions_will_do():
    assert embed(lambda rows: rows.reshape(len(rows), 2, 3), np.ones((4, 6))).shape == (4, 6)
    assert embed(lambda rows: rows.sum(1), np.ones((4, 6))).tolist() == [[6.0]] * 4


@pytest.mark.parametrize(
    ("encoder", "x", "message"),
    [
        (nn.Linear(2, 2), np.zeros((0, 2)), "there are no rows"),
        (lambda rows: rows[:1], np.zeros((3, 2)), r"3 rows gave features of shape \(1, 2\)"),
        (lambda rows: rows + np.nan, np.zeros((3, 2)), "all finite: False"),
    ],
)
def test_encoders_that_do_not_give_one_finite_vector_each_are_refused(encoder, x, message):
    with pytest.raises(FewerError, match=message):
        embed(encoder, x)


def test_probe_judges_any_encoder():
    (x, y), (test_x, test_y) = blobs(spread=0.1), blobs(30, seed=1, spread=0.1)
    assert probe(nn.Identity(), x, y, test_x, test_y) == 1.0
    assert probe(lambda rows: np.ones((len(rows), 1)), x, y, test_x, test_y, LinearProbe()) < 0.7


def test_several_kinds_of_labels_are_judged_apart_and_in_the_mean():
    (x, y), (test_x, test_y) = blobs(spread=0.1), blobs(30, seed=1, spread=0.1)
    kinds = (Probe("true", x, y, test_x, test_y), Probe("mad", x, y, test_x, (test_y + 1) % 3))
    found = judged(nn.Identity(), kinds, {"knn": KNN(), "linear": LinearProbe()})
    assert found == {"knn": 0.5, "linear": 0.5, "knn true": 1, "knn mad": 0, "linear true": 1, "linear mad": 0}
    assert judged(nn.Identity(), kinds[:1], {"knn": KNN()}) == {"knn": 1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN(k=0), "k must be at least 1"),
        (lambda: KNN(temperature=0), "temperature above 0"),
        (lambda: LinearProbe(c=0), "c must be above 0"),
        (lambda: LinearProbe(rows=1), "rows at least 2"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()
