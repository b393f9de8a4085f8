"""Classes of Boolean functions: truth tables, balance, and that a teaching sequence leaves one function."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.incontext.boolean_functions import (
    CLASSES,
    NormalForm,
    Parity,
    Threshold,
    closest_before,
    nearest_neighbour_labels,
    sample,
)

CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
LITERALS = st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labels(concept):
    return concept.label(CUBE[None])[0].tolist()


@settings(max_examples=40, deadline=None)
@given(LITERALS)
def test_conjunctions_and_disjunctions_are_what_they_are_called(literals):
    weights = torch.tensor([literals], dtype=torch.float32)
    size = weights.abs().sum(-1, keepdim=True)
    kept = [(at, literal) for at, literal in enumerate(literals) if literal]
    every = [all(point[at] == literal for at, literal in kept) for point in CUBE.tolist()]
    some = [any(point[at] == literal for at, literal in kept) for point in CUBE.tolist()]
    assert labels(Threshold(weights, size - 1)) == [1.0 if value else -1.0 for value in every]
    assert labels(Threshold(weights, 1 - size)) == [1.0 if value else -1.0 for value in some]


@settings(max_examples=40, deadline=None)
@given(LITERALS, LITERALS, LITERALS)
def test_normal_forms_are_what_they_are_called(first, second, third):
    parts = [first, second, third]
    literals = torch.tensor([parts], dtype=torch.float32)
    for disjunctive, inner, outer in ((True, all, any), (False, any, all)):
        expected = [
            outer(inner(point[at] == literal for at, literal in enumerate(part) if literal) for part in parts)
            for point in CUBE.tolist()
        ]
        assert labels(NormalForm(literals, disjunctive)) == [1.0 if value else -1.0 for value in expected]


def test_parity_counts_the_ones_among_its_members():
    members = torch.tensor([[True, False, True, True]])
    expected = [1.0 if sum(point[at] > 0 for at in (0, 2, 3)) % 2 else -1.0 for point in CUBE.tolist()]
    assert labels(Parity(members)) == expected
    assert labels(Parity(torch.zeros(1, 4, dtype=torch.bool))) == [-1.0] * 16


@pytest.mark.parametrize("name", [*CLASSES, "nearest-neighbour"])
def test_every_class_gives_points_and_labels_of_plus_and_minus_one(name):
    drawn = sample(name, 400, 25, 8, seeded())
    assert drawn.x.shape == (400, 25, 8)
    assert drawn.x.abs().eq(1).all()
    assert drawn.y.abs().eq(1).all()
    assert 0.1 < drawn.y.gt(0).float().mean() < 0.9
    again = sample(name, 400, 25, 8, seeded())
    assert torch.equal(drawn.x, again.x)
    assert torch.equal(drawn.y, again.y)


@pytest.mark.parametrize("name", [*CLASSES, "nearest-neighbour"])
def test_equal_points_of_a_function_have_equal_labels(name):
    drawn = sample(name, 200, 30, 4, seeded(1))
    equal = (drawn.x @ drawn.x.mT) == 4
    assert (drawn.y[:, :, None] == drawn.y[:, None])[equal].all()


def test_the_balance_of_conjunctions_is_that_of_the_formula():
    """A share of 0.3 is made positive; of the others, each literal halves the chance."""
    drawn = sample("conjunction", 4000, 25, 8, seeded())
    expected = 0.3 + 0.7 * (0.7 + 0.3 / 2) ** 8
    assert drawn.y.gt(0).float().mean().item() == pytest.approx(expected, abs=0.01)
    mirrored = sample("disjunction", 4000, 25, 8, seeded(1))
    assert mirrored.y.lt(0).float().mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["conjunction", "monotone-conjunction"])
def test_a_teaching_sequence_leaves_one_conjunction(name):
    """Of all conjunctions over five places, exactly one agrees with the sequence."""
    drawn = sample(name, 60, 20, 5, seeded(), teaching=True)
    values = (0, 1) if name == "monotone-conjunction" else (-1, 0, 1)
    everything = torch.tensor(list(itertools.product(values, repeat=5)), dtype=torch.float32)
    concept = Threshold(everything, everything.abs().sum(-1, keepdim=True) - 1)
    for x, y, taught in zip(drawn.x, drawn.y, drawn.taught.tolist(), strict=True):
        said = concept.label(x[:taught].expand(len(everything), -1, -1))
        agree = (said == y[:taught]).all(-1)
        assert agree.sum() == 1
        assert torch.equal(concept.label(x.expand(len(everything), -1, -1))[agree][0], y)


def test_a_teaching_sequence_leaves_one_sparse_parity():
    drawn = sample("sparse-parity", 40, 20, 6, seeded(), teaching=True)
    assert drawn.taught.tolist() == [2] * 40
    members = torch.tensor([[at in pair for at in range(6)] for pair in itertools.combinations(range(6), 2)])
    for x, y in zip(drawn.x, drawn.y, strict=True):
        said = Parity(members).label(x.expand(len(members), -1, -1))
        agree = (said[:, :2] == y[:2]).all(-1)
        assert agree.sum() == 1
        assert torch.equal(said[agree][0], y)


def test_a_teaching_sequence_of_a_normal_form_shows_each_term():
    drawn = sample("monotone-dnf", 50, 40, 6, seeded(), teaching=True)
    for x, y, taught in zip(drawn.x, drawn.y, drawn.taught.tolist(), strict=True):
        assert taught >= 3
        positive = x[:taught][y[:taught] > 0]
        assert len(positive) >= 3


def test_teaching_comes_first_in_the_order_of_the_places():
    drawn = sample("monotone-conjunction", 200, 20, 6, seeded(), teaching=True)
    size = drawn.taught - 1
    assert (drawn.x[:, 0] > 0).sum(-1).equal(size)
    for x, y, taught in zip(drawn.x, drawn.y, drawn.taught.tolist(), strict=True):
        flipped = (x[1:taught] != x[0]).nonzero()
        assert flipped[:, 0].tolist() == list(range(taught - 1))
        assert flipped[:, 1].tolist() == sorted(flipped[:, 1].tolist())
        assert y[:taught].tolist() == [1.0] + [-1.0] * (taught - 1)


def test_what_does_not_fit_is_cut_off():
    drawn = sample("conjunction", 300, 3, 12, seeded(), teaching=True)
    assert drawn.x.shape == (300, 3, 12)
    assert drawn.taught.max() == 3


def test_nearest_neighbour_labels_follow_the_rule():
    x = sample("parity", 20, 30, 6, seeded()).x
    y = nearest_neighbour_labels(x, seeded(3), first=5)
    for points, said in zip(x, y, strict=True):
        for at in range(5, 30):
            similar = [float(points[at] @ points[earlier]) for earlier in range(at)]
            assert said[at] == said[similar.index(max(similar))]
        for at, earlier in itertools.combinations(range(30), 2):
            if torch.equal(points[at], points[earlier]):
                assert said[at] == said[earlier]


def test_the_closest_is_the_first_of_equals():
    similar = torch.tensor([[[9.0, 1, 1], [1, 9, 1], [1, 1, 9]]])
    assert closest_before(similar).tolist() == [[0, 0, 0]]


def test_errors():
    with pytest.raises(FewerError, match="unknown class 'partiy'; did you mean parity"):
        sample("partiy", 1, 5, 5, seeded())
    with pytest.raises(FewerError, match="no teaching sequence of parity; there is one of conjunction"):
        sample("parity", 1, 5, 5, seeded(), teaching=True)
    with pytest.raises(FewerError, match="needs 4 places or more, the dimension is 3"):
        sample("sparse-disjunction", 1, 5, 3, seeded())
