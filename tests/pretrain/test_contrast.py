"""Contrastive losses: against naive formulas, their gradients, what they keep, what leaves them alone, their errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.pretrain.contrast import InfoNCE, checked_temperature, logits

NEGATIVES = ["both views", "other view"]


def views(rows=7, width=5, seed=0, dtype=torch.float64):
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, width, generator=drawn, dtype=dtype) for _ in range(2))


def naive(first, second, temperature, negatives):
    """Pair and others, one number at a time."""
    first, second = (each / each.norm(dim=1, keepdim=True) for each in (first, second))
    rows = len(first)
    pair, others = torch.zeros(rows, dtype=first.dtype), torch.zeros(2, rows, dtype=first.dtype)
    for i in range(rows):
        pair[i] = first[i] @ second[i] / temperature
        for direction, (one, other) in enumerate(((first, second), (second, first))):
            told_apart = [other[j] for j in range(rows) if j != i]
            if negatives == "both views":
                told_apart += [one[j] for j in range(rows) if j != i]
            others[direction, i] = torch.stack([(one[i] @ each / temperature).exp() for each in told_apart]).sum().log()
    return pair, others


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("block", [1, 3, 512])
def test_logits_are_those_of_the_formula(negatives, block):
    first, second = views()
    found, expected = logits(first, second, 0.3, negatives, block), naive(first, second, 0.3, negatives)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_infonce_is_cross_entropy_over_all_other_views():
    first, second = views(dtype=torch.float64)
    both = nn.functional.normalize(torch.cat([first, second]), dim=1)
    table = (both @ both.T / 0.2).fill_diagonal_(-torch.inf)
    each = nn.functional.cross_entropy(table, torch.arange(14).roll(7), reduction="none").view(2, 7)
    assert torch.allclose(InfoNCE(0.2)(first, second), each.mean(0), atol=1e-12)


def test_infonce_of_the_other_view_is_the_symmetric_cross_entropy_of_two_towers():
    first, second = views()
    table = nn.functional.normalize(first, dim=1) @ nn.functional.normalize(second, dim=1).T / 0.2
    each = [nn.functional.cross_entropy(side, torch.arange(7), reduction="none") for side in (table, table.T)]
    assert torch.allclose(InfoNCE(0.2, "other view")(first, second), sum(each) / 2, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_closed_forms_of_two_towers(scale):
    """Orthonormal and aligned: log(1 + (n - 1) e^-k); all the same: log n."""
    loss = InfoNCE(1 / scale, "other view")
    aligned = loss(torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64))
    assert torch.allclose(aligned, torch.log1p(5 * torch.exp(torch.tensor(-scale, dtype=torch.float64))))
    same = loss(torch.ones(6, 3), torch.ones(6, 3))
    assert torch.allclose(same, torch.full((6,), np.log(6), dtype=same.dtype), atol=1e-5)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_also_of_a_learned_temperature(negatives):
    first, second = views(rows=5, width=3)
    temperature = torch.tensor(0.4, dtype=torch.float64)

    def both(first, second, temperature):
        pair, others = logits(first, second, temperature, negatives, block=2)
        return pair, others

    assert torch.autograd.gradcheck(both, [each.requires_grad_() for each in (first, second, temperature)])


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients_are_those_of_the_naive_formula(negatives):
    first, second = (each.requires_grad_() for each in views())
    pair, others = naive(first, second, 0.3, negatives)
    expected = torch.autograd.grad(nn.functional.softplus(others - pair).mean(), (first, second))
    found = torch.autograd.grad(InfoNCE(0.3, negatives)(first, second).mean(), (first, second))
    assert all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in zip(found, expected, strict=True))


def test_what_is_kept_for_the_way_back_grows_with_rows_not_with_their_square():
    def kept(rows):
        first, second = (each.requires_grad_() for each in views(rows, 16, dtype=torch.float32))
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (numbers.append(x.numel()), x)[1], lambda x: x):
            InfoNCE()(first, second).mean()
        return sum(numbers)

    assert kept(1024) < 4.1 * kept(256)
    assert kept(1024) < 1024 * 1024 / 4


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 1000), st.sampled_from(NEGATIVES))
def test_neither_order_nor_rotation_nor_length_nor_the_views_names_matter(rows, width, seed, negatives):
    first, second = views(rows, width, seed)
    loss = InfoNCE(0.2, negatives)
    expected = loss(first, second)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows))
    assert torch.allclose(loss(first[order], second[order]), expected[order], atol=1e-10)
    rotation, _ = torch.linalg.qr(views(width, width, seed + 1)[0])
    assert torch.allclose(loss(first @ rotation, second @ rotation), expected, atol=1e-9)
    assert torch.allclose(loss(second, first), expected, atol=1e-10)
    assert torch.allclose(loss(3 * first, 0.1 * second), expected, atol=1e-10)


def test_a_loss_that_leaves_negatives_open_takes_those_of_the_towers_and_a_choice_stands():
    first, second = views()
    for asked in NEGATIVES:
        assert torch.equal(InfoNCE()(first, second, None, asked), InfoNCE(negatives=asked)(first, second))
    assert torch.equal(InfoNCE()(first, second), InfoNCE(negatives="both views")(first, second))
    chosen = InfoNCE(negatives="other view")
    assert torch.equal(chosen(first, second, None, "both views"), chosen(first, second))


def test_a_learned_temperature_stands_for_the_loss_own():
    first, second = views()
    given_one = InfoNCE(0.1)(first, second, torch.tensor(0.5, dtype=torch.float64))
    assert torch.allclose(given_one, InfoNCE(0.5)(first, second))


def test_far_logits_do_not_overflow():
    first, second = views(dtype=torch.float32)
    assert torch.isfinite(InfoNCE(1e-3)(first, second)).all()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.ones(1, 4), torch.ones(1, 4), "a batch of 1 has nothing to tell it apart from"),
        (torch.ones(0, 4), torch.ones(0, 4), "a batch of 0"),
        (torch.ones(3, 4), torch.ones(3, 5), r"one shape; given \(3, 4\) and \(3, 5\)"),
        (torch.ones(3, 4), torch.ones(2, 4), "one shape"),
        (torch.ones(3), torch.ones(3), "two matrices"),
        (torch.full((3, 4), torch.nan), torch.ones(3, 4), "NaN or infinity"),
        (torch.ones(3, 4), torch.full((3, 4), torch.inf), "NaN or infinity"),
    ],
)
def test_views_that_cannot_be_compared_are_refused(first, second, message):
    with pytest.raises(FewerError, match=message):
        InfoNCE()(first, second)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(FewerError, match="the temperature is 0; give a number above 0"):
        checked_temperature(0)
    with pytest.raises(FewerError, match="negatives is 'both views' or 'other view'; it is 'none'"):
        InfoNCE(negatives="none")
    with pytest.raises(FewerError, match="it is 'mine'"):
        logits(*views(), 0.1, "mine")
    assert "temperature=0.1" in repr(InfoNCE())
