from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels.hast import HAST, neighbour_votes, rarity_weights
from fewer.labels.learners import Logistic, mlp
from fewer.labels.loop import PSEUDO, ActiveLearning, Round
from fewer.labels.queries import Margin, Random
from fewer.tasks.classification import Classification


def round_of(probabilities, features, labelled=(), labels=(), seed=0, index=0):
    """A round in which the model's view is given, and all rows but the labelled ones may be asked for."""
    probabilities = np.asarray(probabilities, dtype=np.float32)
    labelled = np.array(labelled, dtype=np.int64)
    return Round(
        index=index,
        classes=probabilities.shape[1],
        x=np.asarray(features, dtype=np.float32),
        labelled=labelled,
        labels=np.array(labels, dtype=np.int64),
        unlabelled=np.setdiff1d(np.arange(len(probabilities)), labelled),
        rng=np.random.default_rng(0),
        seed=seed,
        given_probabilities=probabilities,
        given_features=np.asarray(features, dtype=np.float32),
    )


def sure_of(labels, classes=2, confidence=0.8):
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[labels] == 1, confidence, rest)


def two_clusters(size=20, seed=0):
    """Two narrow cones, far apart."""
    rng = np.random.default_rng(seed)
    centres = np.repeat([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]], size, axis=0)
    return centres + rng.normal(scale=0.2, size=centres.shape), np.repeat([0, 1], size)


def blobs(rows=240, classes=3, seed=0, test=90):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    x = rng.normal(size=(rows, 6)) + 3 * np.eye(6)[y]
    return Classification("blobs", x.astype(np.float32), y, tuple(map(str, range(classes))), test=test)


# --- alpha --------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_alpha_of_balanced_classes_is_five_exactly(classes):
    assert (rarity_weights(np.arange(7 * classes) % classes, classes) == 5.0).all()


def test_alpha_rounds_the_average_down():
    # five rows of two classes: the average is 2, not 2.5, and so the smaller class is of average size
    weights = rarity_weights(np.array([0, 0, 0, 1, 1]), classes=2)
    np.testing.assert_allclose(weights, [10 / (1 + math.exp(1 / 3))] * 3 + [5.0, 5.0])


def test_alpha_of_a_class_that_has_all_tends_to_its_limit():
    weight = rarity_weights(np.zeros(10**6, dtype=int), classes=10**6)[0]
    assert 10 / (1 + math.e) < weight < 10 / (1 + math.e) + 1e-5
    assert weight > 2.68


def test_alpha_of_a_rare_class_tends_to_ten():
    weights = rarity_weights(np.repeat([0, 1], [1000, 1]), classes=2)
    assert weights[-1] == pytest.approx(10)


def test_alpha_counts_classes_without_a_row_in_the_average():
    labels = np.array([0, 0, 1, 1])
    assert (rarity_weights(labels, classes=2) == 5).all()
    assert (rarity_weights(labels, classes=4) < 5).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80))
def test_alpha_falls_with_the_size_of_the_class_and_stays_in_its_bounds(labels):
    labels = np.array(labels)
    weights, size = rarity_weights(labels, classes=5), np.bincount(labels, minlength=5)[labels]
    assert ((weights > 10 / (1 + math.e) - 1e-9) & (weights < 10)).all()
    order = np.argsort(size)
    assert (np.diff(weights[order]) <= 1e-12).all()
    expected = [10 / (1 + math.exp(-(int(len(labels) / 5) - n) / n)) for n in size.tolist()]
    np.testing.assert_allclose(weights, expected)


# --- votes --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 30), voters=st.integers(1, 9), classes=st.integers(2, 5))
def test_votes_are_those_of_plain_counting(seed, rows, voters, classes):
    rng = np.random.default_rng(seed)
    labels, neighbours = rng.integers(classes, size=rows), rng.integers(rows, size=(rows, voters))
    vote, agreement = neighbour_votes(labels, neighbours, classes)
    for row in range(rows):
        ballots = [int(labels[voter]) for voter in neighbours[row]]
        counts = [ballots.count(label) for label in range(classes)]
        assert vote[row] == counts.index(max(counts))
        assert agreement[row] == max(counts) / voters


@pytest.mark.parametrize(("supporters", "accepted"), [(7, False), (8, True)])
def test_fourteen_vote_and_the_row_itself_does_not(supporters, accepted):
    # the first row's 14 neighbours, nearest first, and a fifteenth that would tip the scales
    features = np.array([[1.0, 0.01 * i] for i in range(16)])
    labels = np.array([0] + [0] * supporters + [1] * (14 - supporters) + [0])
    extra = HAST().label(round_of(sure_of(labels), features))
    assert (extra is not None and 0 in extra.rows) is accepted


# --- what is accepted ---------------------------------------------------------------------------


def test_all_of_two_consistent_clusters_is_accepted():
    features, labels = two_clusters()
    extra = HAST().label(round_of(sure_of(labels), features))
    np.testing.assert_array_equal(extra.rows, np.arange(40))
    np.testing.assert_array_equal(extra.labels, labels)
    assert (extra.source == PSEUDO).all()
    np.testing.assert_allclose(extra.weight, 0.5)  # beta 0.1 times alpha 5


def test_a_row_that_its_neighbours_outvote_is_rejected():
    features, labels = two_clusters()
    labels[3] = 1
    extra = HAST().label(round_of(sure_of(labels), features))
    np.testing.assert_array_equal(extra.rows, np.delete(np.arange(40), 3))


def test_confidence_must_be_exceeded():
    features, labels = two_clusters()
    probabilities = sure_of(labels)
    probabilities[5] = [0.5, 0.5]
    probabilities[6] = [0.51, 0.49]
    extra = HAST().label(round_of(probabilities, features))
    assert 5 not in extra.rows
    assert 6 in extra.rows


def test_nothing_accepted_is_none():
    features, labels = two_clusters()
    assert HAST(confidence=1.0).label(round_of(sure_of(labels), features)) is None
    assert HAST(agreement=1.0).label(round_of(sure_of(labels), features)) is None


def test_labels_do_not_vote():
    features, labels = two_clusters(size=20)
    # 14 rows of the first cluster are labelled and predicted as the other class
    labelled, known = np.arange(14), np.repeat([0, 1], 7)
    view = sure_of(labels)
    view[labelled] = [0.01, 0.99]
    # left there are 6 rows of class 0, whose 14 neighbours are the other 5 and 9 of the second cluster
    assert set(HAST().label(round_of(view, features, labelled, known)).rows.tolist()) == set(range(20, 40))
    # with 5 voters they would all be of the second class, were labels asked
    assert set(HAST(k=6).label(round_of(view, features, labelled, known)).rows.tolist()) == set(range(14, 40))


def test_equal_to_a_slow_version():
    rng = np.random.default_rng(3)
    features, probabilities = rng.normal(size=(90, 4)), rng.dirichlet([0.4] * 4, size=90)
    probabilities = probabilities.astype(np.float32)
    features += 4 * np.eye(4)[probabilities.argmax(axis=1)]
    labelled = [2, 40, 77]
    extra = HAST(k=8, agreement=0.55, confidence=0.45, beta=0.3).label(
        round_of(probabilities, features, labelled, [0, 1, 2])
    )
    free = [row for row in range(90) if row not in labelled]
    accepted = []
    for row in free:
        distance = {
            other: 1 - features[row] @ features[other] / np.linalg.norm(features[row]) / np.linalg.norm(features[other])
            for other in free
            if other != row
        }
        ballots = [int(probabilities[other].argmax()) for other in sorted(distance, key=distance.__getitem__)[:7]]
        winner = max(range(4), key=ballots.count)
        if (
            winner == probabilities[row].argmax()
            and ballots.count(winner) / 7 > 0.55
            and probabilities[row].max() > 0.45
        ):
            accepted.append(row)
    chosen = [int(probabilities[row].argmax()) for row in accepted]
    weight = [
        0.3 * 10 / (1 + math.exp(-(len(chosen) // 4 - chosen.count(label)) / chosen.count(label))) for label in chosen
    ]
    assert 5 < len(accepted) < 87
    np.testing.assert_array_equal(extra.rows, accepted)
    np.testing.assert_array_equal(extra.labels, chosen)
    np.testing.assert_allclose(extra.weight, weight, rtol=1e-6)


def test_without_alpha_all_weigh_beta():
    features, labels = two_clusters()
    labels[25:] = 0
    extra = HAST(alpha=False, beta=0.25).label(round_of(sure_of(labels), features))
    assert set(extra.weight.tolist()) == {0.25}


# --- few rows, many rows, one class -------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1])
def test_no_neighbour_no_pseudo_label(rows):
    features, labels = two_clusters(2)
    labelled = np.arange(4)[rows:]
    assert HAST().label(round_of(sure_of(labels), features, labelled, labels[labelled])) is None


def test_fewer_rows_than_neighbours_are_enough():
    features, labels = two_clusters(4)
    # each row has 7 others, 3 of its own class: no majority, unless fewer are asked
    assert HAST().label(round_of(sure_of(labels), features)) is None
    assert len(HAST(k=4).label(round_of(sure_of(labels), features))) == 8


def test_a_model_that_knows_one_class_is_not_believed():
    features, labels = two_clusters()
    assert HAST().label(round_of(sure_of(labels), features, [0, 1], [0, 0])) is None
    assert HAST().label(round_of(sure_of(labels), features, [0, 20], [0, 1])) is not None
    assert HAST().label(round_of(sure_of(labels), features)) is not None  # taught by weak labels alone


def test_of_a_large_pool_a_sample_is_looked_at():
    features, labels = two_clusters(60)
    looks = [
        HAST(subsample=50).label(round_of(sure_of(labels), features, seed=seed, index=index))
        for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert all(0 < len(look) <= 50 for look in looks)
    np.testing.assert_array_equal(looks[0].rows, looks[1].rows)
    assert not np.array_equal(looks[0].rows, looks[2].rows)
    assert not np.array_equal(looks[0].rows, looks[3].rows)


def test_the_sample_alone_is_predicted():
    features, labels = two_clusters(60)

    class Spy:
        asked = 0

        def predict_proba(self, x):
            self.asked = max(self.asked, len(x))
            return sure_of((x[:, 1] > x[:, 0]).astype(int)).astype(np.float32)

        def embed(self, x):
            return x

    round = round_of(sure_of(labels), features)
    round.given_probabilities = round.given_features = None
    round.model = Spy()
    assert HAST(subsample=50).label(round) is not None
    assert round.model.asked == 50


# --- in the loop --------------------------------------------------------------------------------


def told(curve):
    return [(point.spent, point.score) for point in curve]


@pytest.mark.parametrize("learner", [Logistic(), mlp(hidden=(16,), steps=20)])
def test_where_nothing_is_accepted_the_run_is_as_without(learner):
    without = ActiveLearning(query=Margin(), learner=learner).learn(blobs(), 40).curve
    strict = ActiveLearning(query=Margin(), learner=learner, pseudo=HAST(confidence=1.0)).learn(blobs(), 40).curve
    assert told(strict) == told(without)
    assert [point.extras["pseudo_labels"] for point in strict] == [0.0] * 4


def test_as_beta_falls_to_nothing_the_learner_is_that_of_the_labels_alone():
    def proba(pseudo):
        made = ActiveLearning(query=Random(), learner=Logistic(max_iter=1000), pseudo=pseudo)
        return made.learn(blobs(), 30).result.predict_proba(blobs().split(0).test_x)

    without = proba(None)
    np.testing.assert_array_equal(proba(HAST(beta=0.0)), without)
    gaps = [np.abs(proba(HAST(beta=beta)) - without).max() for beta in (1e-1, 1e-3, 1e-6)]
    assert gaps[0] > 0.05
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


def test_queries_at_random_are_the_same_with_and_without():
    class Note(Random):
        asked: list = []

        def choose(self, round, count):
            chosen = super().choose(round, count)
            self.asked.append(chosen)
            return chosen

    ActiveLearning(query=Note()).learn(blobs(), 40)
    ActiveLearning(query=Note(), pseudo=HAST(subsample=60)).learn(blobs(), 40)
    without, with_ = Note.asked[:3], Note.asked[3:]
    assert len(with_) == 3
    for one, other in zip(without, with_, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_raises_the_score_on_clusters_that_few_labels_do_not_outline():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = (rng.normal(size=(600, 30)) + 2.2 * np.eye(30)[y]).astype(np.float32)
    task = Classification("cones", x, y, ("0", "1", "2"), test=200)
    gains = []
    for seed in range(5):
        with_, without = (
            ActiveLearning(query=Random(), pseudo=pseudo, initial=12, balanced=True).learn(task, 12, seed).curve.final
            for pseudo in (HAST(beta=1.0), None)
        )
        gains.append(with_ - without)
    assert np.mean(gains) > 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 1}, "k and subsample must be at least 2; they are 1 and 16384"),
        ({"subsample": 0}, "k and subsample must be at least 2"),
        ({"confidence": 1.5}, r"must lie in \[0, 1\]; they are 0.5 and 1.5"),
        ({"agreement": -0.1}, r"must lie in \[0, 1\]"),
        ({"beta": -1.0}, "beta must be a number from 0; it is -1.0"),
        ({"beta": float("nan")}, "beta must be a number from 0; it is nan"),
    ],
)
def test_errors_say_what_would_do(settings, message):
    with pytest.raises(FewerError, match=message):
        HAST(**settings)
