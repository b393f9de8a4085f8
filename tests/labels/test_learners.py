from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from fewer.core.errors import FewerError
from fewer.labels.learners import (
    Constant,
    Estimator,
    FittedNetwork,
    Logistic,
    Network,
    boosting,
    descend,
    forest,
    leave_dropout_on,
    mlp,
    ramp,
    soft_cross_entropy,
    tree,
)
from fewer.labels.loop import EXPERT, Examples, Round
from fewer.models.classifier import MLP, ConvNet

CLASSES = 4


def rows(count=40, width=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)).astype(np.float32)


def round_of(x, seed=0, index=0, teacher=None):
    none = np.zeros(0, dtype=np.int64)
    every = np.arange(len(x))
    return Round(index, CLASSES, x, none, none, every, np.random.default_rng(0), seed, teacher=teacher)


def examples_of(at, target, weight=None):
    target = np.asarray(target, dtype=np.float32)
    weight = np.ones(len(at)) if weight is None else np.asarray(weight)
    return Examples(np.asarray(at), target, weight.astype(np.float32), np.full(len(at), EXPERT))


def hard(at, labels):
    return Examples.hard(np.asarray(at), np.asarray(labels, dtype=np.int64), CLASSES)


def soft(count, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), size=count).astype(np.float32)


# --- scikit-learn's -----------------------------------------------------------------------------


def test_soft_targets_are_weighted_copies_of_their_row():
    x, target = rows(), soft(40)
    model = Logistic(max_iter=1000).fit(examples_of(range(40), target), round_of(x))
    copies = np.repeat(x, CLASSES, axis=0)
    labels = np.tile(np.arange(CLASSES), 40)
    theirs = LogisticRegression(max_iter=1000).fit(copies, labels, sample_weight=target.ravel())
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(x), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(lambda times: sum(map(bool, times)) > 3))
def test_a_weight_is_so_many_rows(times):
    x, labels = rows(12), np.arange(12) % 3
    repeated = np.repeat(np.arange(12), times)
    if len(np.unique(labels[repeated])) < 2:
        return
    weighted = Estimator(GaussianNB()).fit(examples_of(range(12), np.eye(CLASSES)[labels], times), round_of(x))
    copied = Estimator(GaussianNB()).fit(hard(repeated, labels[repeated]), round_of(x))
    np.testing.assert_allclose(weighted.predict_proba(x), copied.predict_proba(x), atol=1e-4)


@pytest.mark.parametrize("learner", [Logistic(), boosting(), forest(trees=10), tree(), Estimator(GaussianNB())])
def test_classes_without_examples_get_nothing(learner):
    x = rows()
    proba = learner.fit(hard(range(40), np.arange(40) % 2 * 2), round_of(x)).predict_proba(x)
    assert proba.shape == (40, CLASSES)
    assert (proba[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_one_class_is_all_that_one_class_teaches():
    x = rows()
    model = Logistic().fit(hard([1, 2], [3, 3]), round_of(x))
    assert model == Constant(3, CLASSES)
    np.testing.assert_array_equal(model.predict_proba(x), np.tile([0, 0, 0, 1], (40, 1)))
    np.testing.assert_array_equal(model.embed(x), x)


def test_what_weighs_nothing_is_not_there():
    x = rows()
    with_ = examples_of(range(40), np.eye(CLASSES)[np.arange(40) % 4], np.arange(40) % 4 < 2)
    without = hard([i for i in range(40) if i % 4 < 2], [i % 4 for i in range(40) if i % 4 < 2])
    one, other = (Logistic().fit(examples, round_of(x)).predict_proba(x) for examples in (with_, without))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert (one[:, 2:] == 0).all()


def test_features_are_the_inputs_as_vectors():
    images = rows().reshape(40, 1, 5, 1)
    model = Logistic().fit(hard(range(40), np.arange(40) % 2), round_of(images))
    np.testing.assert_array_equal(model.embed(images), images.reshape(40, 5))
    assert model.predict_proba(images).shape == (40, CLASSES)


def test_randomness_comes_from_the_runs_seed():
    x = rows()

    def proba(seed):
        learner = Estimator(RandomForestClassifier(5))
        return learner.fit(hard(range(40), np.arange(40) % 3), round_of(x, seed)).predict_proba(x)

    np.testing.assert_array_equal(proba(0), proba(0))
    assert not np.array_equal(proba(0), proba(1))


def test_the_given_estimator_is_left_unfitted():
    estimator = LogisticRegression()
    Estimator(estimator).fit(hard(range(40), np.arange(40) % 2), round_of(rows()))
    assert not hasattr(estimator, "coef_")


# --- networks -----------------------------------------------------------------------------------


def network_fit(learner, examples, x, start=None, torch_seed=0, **round):
    torch.manual_seed(torch_seed)
    return learner.fit(examples, round_of(x, **round), start)


def test_soft_cross_entropy_of_hard_targets_is_torchs():
    logits, labels = torch.randn(9, CLASSES), torch.arange(9) % CLASSES
    mine = soft_cross_entropy(logits, torch.nn.functional.one_hot(labels, CLASSES).float())
    torch.testing.assert_close(mine, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_soft_cross_entropy_is_the_expectation_over_the_target():
    logits, target = torch.randn(9, CLASSES), torch.from_numpy(soft(9))
    each = torch.stack([soft_cross_entropy(logits, torch.eye(CLASSES)[[label] * 9]) for label in range(CLASSES)], dim=1)
    torch.testing.assert_close(soft_cross_entropy(logits, target), (each * target).sum(dim=1))


def test_soft_cross_entropy_pulls_probabilities_to_the_target():
    logits = torch.randn(3, CLASSES, requires_grad=True)
    target = torch.from_numpy(soft(3))
    soft_cross_entropy(logits, target).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(dim=1) - target)


def test_a_network_learns_soft_targets():
    x, target = rows(width=5), soft(40)
    model = network_fit(mlp(hidden=(64,), steps=600), examples_of(range(40), target), x)
    gap = np.abs(model.predict_proba(x) - target)
    assert gap.mean() < 0.1
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, atol=1e-5)


def test_equal_weights_of_any_size_are_no_weights_to_a_network():
    x, target = rows(), soft(40)
    plain, scaled = (
        network_fit(mlp(steps=10), examples_of(range(40), target, np.full(40, weight)), x).predict_proba(x)
        for weight in (1.0, 8.0)
    )
    np.testing.assert_array_equal(plain, scaled)


def test_a_network_minds_weights():
    x = np.zeros((2, 3), dtype=np.float32)  # one place, two opinions
    examples = examples_of([0, 1], np.eye(CLASSES)[[0, 1]], [3.0, 1.0])
    model = network_fit(mlp(hidden=(8,), steps=400, lr=0.01), examples, x)
    np.testing.assert_allclose(model.predict_proba(x)[0, :2], [0.75, 0.25], atol=0.08)


def test_networks_of_equal_seeds_are_equal():
    x, examples = rows(), hard(range(40), np.arange(40) % CLASSES)
    one, same, other_draws, other_round, other_start = (
        network_fit(mlp(steps=5), examples, x, **settings).predict_proba(x)
        for settings in ({}, {}, {"seed": 1}, {"index": 1}, {"torch_seed": 1})
    )
    np.testing.assert_array_equal(one, same)
    for other in (other_draws, other_round, other_start):
        assert not np.array_equal(one, other)


def test_a_network_goes_on_from_a_copy():
    x, examples = rows(), hard(range(40), np.arange(40) % CLASSES)
    first = network_fit(mlp(steps=50), examples, x)
    before = first.predict_proba(x)
    still = network_fit(mlp(steps=1, lr=1e-12), examples, x, start=first, torch_seed=9)
    np.testing.assert_allclose(still.predict_proba(x), before, atol=1e-6)
    network_fit(mlp(steps=50, lr=0.1), examples, x, start=first)
    np.testing.assert_array_equal(first.predict_proba(x), before)


def test_the_learning_rate_rises_and_falls_in_straight_lines():
    rates = [ramp(step, steps=100, warm_up=0.1) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], np.arange(90, -1, -1) / 90)
    assert all(0 < ramp(step, steps) <= 1 for steps in (1, 2, 5) for step in range(steps))


def test_descent_goes_by_the_ramp_and_gives_the_last_loss():
    network, target = torch.nn.Linear(3, 1), torch.ones(8, 1)
    x = torch.from_numpy(rows(8, 3))
    before = float(torch.nn.functional.mse_loss(network(x), target).detach())
    seen = []

    def loss(step):
        seen.append(step)
        return torch.nn.functional.mse_loss(network(x), target)

    last = descend(network, loss, steps=30, lr=0.1)
    assert seen == list(range(30))
    assert network.training
    assert float(last) < before
    assert not last.requires_grad


def test_blocks_change_nothing_and_the_head_sees_the_features():
    x = rows(100)
    model = network_fit(mlp(steps=5), hard(range(40), np.arange(40) % CLASSES), x)
    small = FittedNetwork(model.network, block=7)
    np.testing.assert_allclose(small.predict_proba(x), model.predict_proba(x), atol=1e-6)
    features = torch.from_numpy(model.embed(x))
    with torch.no_grad():
        proba = model.network.head(features).softmax(dim=1).numpy()
    np.testing.assert_allclose(model.predict_proba(x), proba, atol=1e-6)
    assert model.predict_proba(x[:0]).shape == (0, CLASSES)


def test_convolutions_take_images():
    images = rows(40, 64).reshape(40, 1, 8, 8)
    learner = Network(ConvNet((4,)), steps=3)
    model = network_fit(learner, hard(range(40), np.arange(40) % CLASSES), images)
    assert model.embed(images).shape == (40, 64)


# --- dropout ------------------------------------------------------------------------------------


def test_passes_with_dropout_scatter_around_a_mean():
    x = rows()
    model = network_fit(mlp(dropout=0.3, steps=80), hard(range(40), np.arange(40) % CLASSES), x)
    state = torch.get_rng_state()
    drawn = model.sample_proba(x, 200, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn.shape == (200, 40, CLASSES)
    np.testing.assert_allclose(drawn.sum(axis=2), 1, atol=1e-5)
    assert drawn.std(axis=0).max() > 0.05
    np.testing.assert_array_equal(drawn[:3], model.sample_proba(x, 3, seed=0))
    assert not np.array_equal(drawn[:3], model.sample_proba(x, 3, seed=1))
    # dropped units are made up for by the others, so the mean of many passes is near the usual prediction
    assert np.abs(drawn.mean(axis=0) - model.predict_proba(x)).max() < 0.25


def test_after_passes_with_dropout_predictions_are_as_before():
    x = rows()
    model = network_fit(mlp(dropout=0.3, steps=5), hard(range(40), np.arange(40) % CLASSES), x)
    before = model.predict_proba(x)
    model.sample_proba(x, 2, seed=0)
    np.testing.assert_array_equal(model.predict_proba(x), before)


def test_only_dropout_is_left_on():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Dropout(0.0)).eval()
    leave_dropout_on(network)
    assert [module.training for module in network] == [False, True, False]


# --- errors -------------------------------------------------------------------------------------


def texts():
    return np.array(["a", "b"] * 20, dtype=object)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Logistic().fit(hard([0, 1], [0, 1]), round_of(texts())),
            "needs numbers and the rows are texts; give features, or use a text learner",
        ),
        (
            lambda: Logistic().fit(hard([0, 1], [0, 1]), round_of(rows(), teacher=soft(40))),
            "LogisticRegression cannot learn from a teacher; use a learner that distils, such as activekd",
        ),
        (
            lambda: mlp().fit(hard([0, 1], [0, 1]), round_of(rows(), teacher=soft(40))),
            "mlp cannot learn from a teacher",
        ),
        (lambda: mlp().fit(hard([], []), round_of(rows())), "cannot be fitted to no examples; buy labels first"),
        (
            lambda: mlp().fit(hard([0, 1], [0, 1]), round_of(rows()), Constant(0, CLASSES)),
            "can only go on from a network, not from Constant",
        ),
        (
            lambda: mlp(steps=1).fit(hard([0, 1], [0, 1]), round_of(rows())).sample_proba(rows(), 2, 0),
            r"the learner drops nothing; try mlp\(dropout=0.2\)",
        ),
        (lambda: mlp(hidden=()), "hidden must hold positive sizes"),
        (lambda: MLP((4,), dropout=1.0), r"dropout lie in \[0, 1\)"),
    ],
)
def test_errors_say_what_would_do(call, message):
    with pytest.raises(FewerError, match=message):
        call()


def test_constants_of_entropy():
    # the loss of a uniform guess is the logarithm of the number of classes
    loss = soft_cross_entropy(torch.zeros(1, CLASSES), torch.full((1, CLASSES), 1 / CLASSES))
    assert float(loss) == pytest.approx(math.log(CLASSES))
