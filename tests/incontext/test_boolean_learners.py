"""Learners without training: against scikit-learn, against slow versions, and that each learns its class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

from fewer.core.errors import FewerError
from fewer.incontext.boolean_functions import CLASSES, Parity, sample
from fewer.incontext.boolean_learners import CLASSICAL, LEARNERS, learner


def drawn(name="conjunction", count=40, points=25, dimension=6, seed=0):
    return sample(name, count, points, dimension, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_prediction_knows_nothing_of_its_label_or_later(name):
    examples = drawn("halfspace")
    before = learner(name)(examples.x, examples.y)
    assert before.shape == examples.y.shape
    assert np.isin(before.numpy(), (-1, 0, 1)).all()
    x, y = examples.x.clone(), examples.y.clone()
    y[:, 12:] *= -1
    x[:, 13:] *= -1
    after = learner(name)(x, y)
    assert torch.equal(after[:, :13], before[:, :13])
    alone = learner(name)(examples.x[:1], examples.y[:1])
    assert torch.equal(alone, before[:1])


def test_neighbours_are_those_of_scikit_learn():
    examples = drawn("halfspace", count=8, points=30, dimension=25)
    one, three = (learner(name)(examples.x, examples.y) for name in ("nearest neighbour", "three nearest"))
    compared = 0
    for x, y, first, majority in zip(examples.x.numpy(), examples.y.numpy(), one, three, strict=True):
        for at in range(3, 30):
            distance = np.sort(((x[:at] - x[at]) ** 2).sum(1))
            if distance[0] < distance[1]:
                assert first[at] == KNeighborsClassifier(1).fit(x[:at], y[:at]).predict(x[at : at + 1])[0]
            if at == 3 or distance[2] < distance[3]:
                assert majority[at] == KNeighborsClassifier(3).fit(x[:at], y[:at]).predict(x[at : at + 1])[0]
                compared += 1
    assert compared > 30
    assert (one[:, 0] == 0).all()
    assert (three[:, 0] == 0).all()
    assert torch.equal(three[:, 1], examples.y[:, 0])


def test_averaging_is_one_step_of_linear_regression_from_zero():
    examples = drawn(count=5)
    said = learner("averaging")(examples.x, examples.y)
    for at in (0, 1, 7, 24):
        weights = torch.zeros(5, 6, requires_grad=True)
        error = (examples.x[:, :at] @ weights[..., None]).squeeze(-1) - examples.y[:, :at]
        (0.5 * error.square()).sum().backward()
        step = -weights.grad
        assert torch.equal((step * examples.x[:, at]).sum(-1).sign(), said[:, at])


def test_least_squares_is_that_of_scikit_learn():
    examples = drawn("halfspace", count=6, points=30)
    said = learner("least squares")(examples.x, examples.y)
    for x, y, row in zip(examples.x.numpy(), examples.y.numpy(), said.numpy(), strict=True):
        for at in (20, 29):
            value = LinearRegression().fit(x[:at].astype(float), y[:at]).predict(x[at : at + 1])[0]
            if abs(value) > 1e-6:
                assert row[at] == np.sign(value)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("elimination", ["conjunction", "monotone-conjunction"]),
        ("elimination of disjunctions", ["disjunction", "sparse-disjunction"]),
    ],
)
def test_elimination_errs_on_one_side_only_and_is_right_once_taught(name, classes):
    for each in classes:
        examples = drawn(each, count=300, points=60)
        said = learner(name)(examples.x, examples.y)
        wrong = said != examples.y
        side = -1 if name == "elimination" else 1
        assert (said[wrong] == side).all()
        assert wrong[:, -10:].float().mean() < 0.03
    taught = sample("conjunction", 200, 20, 6, torch.Generator().manual_seed(0), teaching=True)
    right = learner("elimination")(taught.x, taught.y) == taught.y
    after = torch.arange(20) >= taught.taught[:, None]
    assert right[after].all()


def test_gaussian_elimination_solves_a_parity_from_independent_points():
    """The unit vectors and zero determine a parity: all points that follow are right."""
    cube = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
    units = 2 * torch.eye(5) - 1
    x = torch.cat([units, cube])[None].repeat(32, 1, 1)
    concept = Parity(cube > 0)
    y = concept.label(x)
    said = learner("gaussian elimination")(x, y)
    assert torch.equal(said[:, 5:], y[:, 5:])


def test_gaussian_elimination_is_right_wherever_the_point_is_a_sum_of_earlier_ones():
    examples = drawn("parity", count=30, points=16, dimension=7)
    said = learner("gaussian elimination")(examples.x, examples.y)
    for x, y, row in zip(examples.x, examples.y, said, strict=True):
        bits = [sum(int(bit > 0) << at for at, bit in enumerate(point)) for point in x.tolist()]
        span = {0: 0}  # each sum of earlier points, with the parity of their labels
        determined = 0
        for at, (bit, label) in enumerate(zip(bits, y.tolist(), strict=True)):
            if bit in span:
                assert row[at] == 2 * span[bit] - 1
                determined += 1
            else:
                odd = int(label > 0)
                span |= {known ^ bit: value ^ odd for known, value in span.items()}
        assert determined >= 16 - 7


def test_the_perceptron_is_the_textbook_one():
    examples = drawn("majority", count=4)
    said = learner("perceptron")(examples.x, examples.y)
    for x, y, row in zip(examples.x.double().numpy(), examples.y.numpy(), said.numpy(), strict=True):
        weights, bias = np.zeros(6), 0.0
        for point, label, guess in zip(x, y, row, strict=True):
            assert guess == np.sign(weights @ point + bias)
            if guess != label:
                weights, bias = weights + label * point, bias + label


def test_each_class_has_a_learner_that_beats_saying_always_the_same():
    assert set(CLASSICAL) == {*CLASSES, "nearest-neighbour"}
    for name, which in CLASSICAL.items():
        examples = drawn(name, count=400, points=30, dimension=8)
        right = (learner(which)(examples.x, examples.y) == examples.y)[:, 20:].float().mean()
        share = examples.y[:, 20:].gt(0).float().mean()
        assert right > max(share, 1 - share), name


def test_unknown_learners_are_refused():
    with pytest.raises(FewerError, match="unknown learner 'nul'; did you mean null"):
        learner("nul")
