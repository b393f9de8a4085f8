"""The learner: it learns to learn, says the caller's labels, keeps its weights, and refuses what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.incontext.boolean_icl import InContextLearner
from fewer.incontext.function_families import Boolean, GeneratedFunctions, correct
from fewer.incontext.loop import LearnToLearn, frozen
from fewer.incontext.networks import GRU, Around, Transformer
from fewer.models.optimisers import AdamW

FAMILY = Boolean("majority", dimension=5, points=12)
SMALL = Transformer(16, 2, 2)


@pytest.fixture(scope="module")
def learner():
    return InContextLearner(FAMILY, SMALL, AdamW(3e-3, 0.0), batch=16).fit(steps=20)


def literal(rng):
    """A function that is one place of the point."""
    place = int(rng.integers(3))
    return (lambda x: x[:, place]), None


@pytest.fixture(scope="module")
def trained():
    """Trained until it reads which of three places it is."""
    family = GeneratedFunctions(literal, dimension=3, points=10)
    return InContextLearner(family, Transformer(32, 2, 4), AdamW(3e-3, 0.0), batch=32).fit(steps=400, points=1)


def test_it_learns_a_new_function_from_examples(trained):
    curve = trained.score_curve(["null", "nearest neighbour"], count=500)
    assert curve["network"][0] < 0.85  # knowing nothing, the majority of the places is right three times in four
    assert curve["network"][-1] > 0.94
    assert curve["network"][-1] > curve["nearest neighbour"][-1] + 0.03
    rng = np.random.default_rng(0)
    right = []
    for at in range(60):
        x, place = rng.integers(2, size=(9, 3)), at % 3
        said = trained.predict(x, np.where(x[:, place], "yes", "no"), np.eye(3, dtype=int), classes=("no", "yes"))
        right.append((said == "yes") == np.eye(3, dtype=bool)[place])
    assert np.mean(right) > 0.85


def test_each_query_is_answered_by_itself(learner):
    x = np.random.default_rng(0).integers(2, size=(6, 5))
    y = [0, 1, 1, 0, 1, 0]
    whole = learner.predict_proba(x, y, x)
    for at in range(6):
        np.testing.assert_allclose(learner.predict_proba(x, y, x[at : at + 1])[0], whole[at], atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1)
    assert np.array_equal(learner.predict(x, y, x), (whole[:, 1] > 0.5).astype(int))


def test_it_says_what_the_family_s_prompt_would_have_said(learner):
    drawn = FAMILY.draw(20, torch_generator(0, "here"))
    right = correct(frozen(learner.network_), drawn)[:, -1]
    for x, y, expected in zip(drawn.x.numpy(), drawn.y.numpy(), right.tolist(), strict=True):
        said = learner.predict(x[:-1], y[:-1], x[-1:], classes=(-1.0, 1.0))
        assert (said[0] == y[-1]) == bool(expected)


def test_labels_and_points_of_any_spelling_are_the_same(learner):
    x = np.random.default_rng(0).integers(2, size=(6, 5))
    y = np.array([0, 1, 1, 0, 1, 0])
    said = learner.predict(x, y, x)
    assert learner.predict(2 * x - 1, 2 * y - 1, x > 0).tolist() == (2 * said - 1).tolist()
    assert learner.predict(x, np.where(y, "b", "a"), x).tolist() == np.where(said, "b", "a").tolist()
    assert (
        learner.predict(x, np.where(y, "a", "b"), x, classes=("b", "a")).tolist() == np.where(said, "a", "b").tolist()
    )
    assert learner.predict(np.zeros((0, 5)), [], x).shape == (6,)


def test_curves_are_those_of_the_learners(learner):
    curves = learner.score_curve(count=300)
    assert list(curves) == ["network", "null", "nearest neighbour", "averaging", "perceptron"]
    drawn = FAMILY.draw(300, torch_generator(0, "unseen functions"))
    np.testing.assert_allclose(curves["null"], (drawn.y < 0).float().mean(0))
    taught = InContextLearner(Boolean("conjunction", dimension=5, points=12), SMALL, batch=8).fit(steps=1)
    assert taught.score_curve(["elimination"], count=200, teaching=True)["elimination"][-1] == 1


def test_it_trains_as_the_loop_does(learner):
    loop = LearnToLearn(network=SMALL, optimiser=AdamW(3e-3, 0.0), schedule=_schedule(), batch=16, points=10)
    learned = loop.learn(FAMILY, 320, 0)
    assert [point.score for point in learned.curve] == [point.score for point in learner.curve_]
    same = InContextLearner.from_network(learned.result, SMALL, FAMILY)
    x = np.random.default_rng(0).integers(2, size=(6, 5))
    assert np.array_equal(same.predict_proba(x, [0, 1] * 3, x), learner.predict_proba(x, [0, 1] * 3, x))


def _schedule():
    from fewer.models.optimisers import Cosine

    return Cosine(warmup=0.1)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SMALL, GRU(8)])
def test_weights_are_kept_to_the_bit(tmp_path, network):
    made = InContextLearner(FAMILY, network, batch=8).fit(steps=2)
    file = tmp_path / "weights.safetensors"
    made.save(file)
    again = InContextLearner.load(file)
    assert again.network == network
    assert again.family.fingerprint() == FAMILY.fingerprint()
    x = np.random.default_rng(0).integers(2, size=(6, 5))
    assert np.array_equal(again.predict_proba(x, [0, 1] * 3, x), made.predict_proba(x, [0, 1] * 3, x))
    assert np.array_equal(again.score_curve(count=50)["network"], made.score_curve(count=50)["network"])


def test_weights_of_one_s_own_need_what_is_one_s_own(tmp_path):
    family, network = GeneratedFunctions(literal, dimension=3, points=8), Around(nn.Linear(6, 6), 6)
    made = InContextLearner(family, network, batch=4).fit(steps=1)
    file = tmp_path / "weights.safetensors"
    made.save(file)
    with pytest.raises(FewerError, match="weights of your own architecture; say which, network="):
        InContextLearner.load(file)
    again = InContextLearner.load(file, network=network)
    assert again.predict([[0, 1, 1]], [1], [[0, 1, 0]]).shape == (1,)
    with pytest.raises(FewerError, match="trained on functions of your own; load them with family="):
        again.score_curve()
    assert "network" in InContextLearner.load(file, family, network).score_curve(["null"], count=5)


# --- errors ----------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(2, size=(3, 5))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X, [0, 1, 2], X), "labels must be of two classes; given 3"),
        ((X / 2, [0, 1, 1], X), "points must be 0 and 1, or -1 and 1; 0.5 is among them"),
        ((X, [0, 1, 1], X[:, :4]), r"points must be an array \(points, 5\); given \(3, 4\)"),
        ((X, [0, 1], X), "2 points were asked for; given 3"),
        ((X, ["a", "a", "a"], X), "say what the other one is"),
        ((np.ones((12, 5)), [0, 1] * 6, X), "12 examples and a query are more than the 12 points .* give at most 11"),
        ((X, [0, 1, 1], X[:0]), "there is no query"),
        ((X, [0, np.nan, 1.0], X), "labels must be of two classes"),
    ],
)
def test_what_cannot_be_asked_is_refused(learner, inputs, message):
    with pytest.raises(FewerError, match=message):
        learner.predict(*inputs)


def test_who_is_not_trained_says_so(tmp_path):
    for call in (
        lambda: InContextLearner().predict(X, [0, 1, 1], X),
        lambda: InContextLearner().score_curve(),
        lambda: InContextLearner().save(tmp_path / "x"),
    ):
        with pytest.raises(FewerError, match="not trained; call fit, or load weights"):
            call()
    with pytest.raises(FewerError, match="at least one step is needed; 0 was given"):
        InContextLearner().fit(0)


@pytest.mark.slow
def test_trained_longer_it_nears_elimination():
    family = Boolean("conjunction", dimension=5, points=20)
    learned = InContextLearner(family, Transformer(32, 2, 4), AdamW(3e-3, 0.0), batch=32).fit(steps=600)
    curves = learned.score_curve(count=1000)
    assert curves["network"][15:].mean() > curves["nearest neighbour"][15:].mean()
