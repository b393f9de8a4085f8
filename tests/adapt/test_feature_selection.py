"""Feature selection: the penalty by hand, what is kept, all of it kept, copies of places, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fewer.adapt.feature_selection import (
    GroupLasso,
    GroupLassoHead,
    KeptHead,
    group_lasso,
    group_norms,
    kept_places,
    rare_classes,
    selecting_head,
)
from fewer.core.errors import Diverged, FewerError


def rows(count=60, width=10, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=rng)
    return x, (x[:, 2] > 0).long() + (x[:, 7] > 0).long()


def test_the_loss_is_cross_entropy_and_the_sum_of_norms():
    x, y = rows()
    head = GroupLassoHead(rare_classes(10, 3), 0.2)
    by_hand = functional.cross_entropy(head.linear(x), y)
    by_hand = by_hand + 0.2 * sum(head.linear.weight[:, j].norm() for j in range(10))
    assert torch.allclose(head.loss(x, y, None).mean(), by_hand, atol=1e-5)
    with torch.no_grad():
        head.linear.weight.zero_()
    head.loss(x, y, None).mean().backward()
    assert torch.isfinite(head.linear.weight.grad).all()


def test_classes_begin_rare():
    said = rare_classes(400, 5)
    assert torch.allclose(said.bias.sigmoid(), torch.full((5,), 0.01))
    assert float(said.weight.detach().std()) == pytest.approx((2 / 5) ** 0.5, rel=0.1)


def test_features_that_matter_are_kept_and_few_of_them_are_enough():
    x, y = rows(200)
    head = selecting_head(x, y, 3, 0.2, penalty=0.05, steps=150)
    assert head.places.tolist() == [2, 7]
    assert head.linear.weight.shape == (3, 2)
    assert (head.logits(x)[:, 0].argmax(1) == y).float().mean() > 0.8
    strong, weak = (group_norms(group_lasso(x, y, 3, penalty, 150)).detach() for penalty in (0.1, 0.0))
    assert strong[[0, 1, 3]].median() < 0.01 < weak[[0, 1, 3]].min()
    assert strong[[2, 7]].min() > 0.2


def test_all_kept_is_a_plain_head():
    x, y = rows()
    head = selecting_head(x, y, 3, 1.0, steps=20, seed=3)
    assert torch.equal(head.logits(x)[:, 0], group_lasso(x, y, 3, 0.0, 20, seed=3)(x))


def test_places_are_saved_with_the_head():
    head = KeptHead(rare_classes(2, 3), torch.tensor([1, 4]))
    assert "places" in head.state_dict()
    assert all(each.requires_grad for each in head.parameters())
    with pytest.raises(FewerError, match="knows only the classes it has learned"):
        head.logits(torch.zeros(1, 5), ("other",))


@given(st.integers(1, 300), st.integers(1, 100))
def test_as_many_as_the_share_says_in_their_order(width, percent):
    places = kept_places(torch.rand(width), percent / 100)
    assert len(places) == max(1, percent * width // 100)
    assert places.tolist() == sorted(set(places.tolist()))


def test_a_share_is_taken_as_it_is_written():
    assert len(kept_places(torch.rand(100), 0.29)) == 29
    assert len(kept_places(torch.rand(3), 0.01)) == 1


def test_equal_seeds_equal_heads():
    x, y = rows()
    assert torch.equal(group_lasso(x, y, 3, steps=3).weight, group_lasso(x, y, 3, steps=3).weight)
    assert not torch.equal(group_lasso(x, y, 3, steps=3).weight, group_lasso(x, y, 3, steps=3, seed=1).weight)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_shares_out_of_range(fraction):
    with pytest.raises(FewerError, match="give more than 0 and at most 1"):
        kept_places(torch.rand(4), fraction)


def test_errors():
    x, y = rows()
    with pytest.raises(FewerError, match="the penalty must not be negative"):
        group_lasso(x, y, 3, penalty=-1.0)
    with pytest.raises(FewerError, match="60 rows and 5 classes"):
        group_lasso(x, y[:5], 3)
    with pytest.raises(FewerError, match="group lasso: the penalty is nan"):
        GroupLasso(float("nan"))
    with pytest.raises(Diverged, match="lower the learning rate"):
        group_lasso(x * float("inf"), y, 3, steps=2)
