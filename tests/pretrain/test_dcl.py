"""The decoupled loss: its identity with InfoNCE, its gradients, its weights, its limits, its place in the loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer import compose
from fewer.core.errors import FewerError
from fewer.pretrain.contrast import InfoNCE, logits
from fewer.pretrain.dcl import DecoupledContrastiveLoss, coupling
from fewer.pretrain.dcl import _gradient_error as gradient_error
from fewer.tasks.digits import digits

NEGATIVES = ["both views", "other view"]


def views(rows=7, width=5, seed=0, noise=1.0):
    drawn = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, width, generator=drawn, dtype=torch.float64)
    return first, first + noise * torch.randn(rows, width, generator=drawn, dtype=torch.float64)


def published(first, second, temperature=0.1, sigma=None):
    """The published formula as it is usually written: a table, both diagonals masked, a mean over both directions."""
    first, second = (nn.functional.normalize(each, dim=1) for each in (first, second))
    found = []
    for one, other in ((first, second), (second, first)):
        cross, own = one @ other.T / temperature, one @ one.T / temperature
        positive = -torch.diag(cross)
        if sigma is not None:
            agreement = (one * other).sum(1)
            positive = positive * (2 - len(one) * torch.softmax(agreement / sigma, dim=0)).detach()
        table = torch.cat([own, cross], dim=1).masked_fill(
            torch.eye(len(one), dtype=torch.bool).repeat(1, 2), -torch.inf
        )
        found.append(positive + torch.logsumexp(table, dim=1))
    return sum(found) / 2


@pytest.mark.parametrize("sigma", [None, 0.5, 2.0])
def test_it_is_the_published_formula(sigma):
    first, second = (each.requires_grad_() for each in views())
    loss = DecoupledContrastiveLoss(0.2, **({} if sigma is None else {"weight": "vmf", "sigma": sigma}))
    expected = published(first, second, 0.2, sigma)
    assert torch.allclose(loss(first, second), expected, atol=1e-12)
    ours = torch.autograd.grad(loss(first, second).sum(), (first, second))
    theirs = torch.autograd.grad(expected.sum(), (first, second))
    assert all(torch.allclose(mine, other, atol=1e-11) for mine, other in zip(ours, theirs, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 999), st.sampled_from(NEGATIVES))
def test_infonce_less_the_decoupled_loss_is_minus_log_q(rows, width, seed, negatives):
    first, second = views(rows, width, seed)
    q = coupling(first, second, 0.3, negatives)
    difference = InfoNCE(0.3, negatives)(first, second) - DecoupledContrastiveLoss(0.3, negatives=negatives)(
        first, second
    )
    assert torch.allclose(difference, -q.log().mean(0), atol=1e-10)
    assert ((q > 0) & (q < 1)).all()


def test_infonces_gradient_is_q_times_the_decoupled_one():
    assert all(gradient_error(seed) < 1e-12 for seed in range(3))


@pytest.mark.parametrize("weight", [None, "vmf"])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradients(weight, negatives):
    loss = DecoupledContrastiveLoss(weight=None, negatives=negatives, temperature=0.4)
    assert torch.autograd.gradcheck(loss, [each.requires_grad_() for each in views(5, 3)])


def test_with_many_rows_nothing_is_left_to_decouple():
    few, many = (coupling(*views(rows, 16, noise=0.5), 0.5).mean() for rows in (4, 1024))
    assert few < 0.85
    assert many > 0.99
    first, second = (each.requires_grad_() for each in views(1024, 16, noise=0.5))
    one, other = (
        torch.autograd.grad(loss(first, second).mean(), first)[0]
        for loss in (InfoNCE(0.5), DecoupledContrastiveLoss(0.5))
    )
    assert nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999


def test_weights_have_mean_one_favour_what_is_less_alike_and_vanish_with_a_wide_sigma():
    first, second = views(noise=1.5)
    cosines = nn.functional.cosine_similarity(first, second)
    plain = DecoupledContrastiveLoss(1.0)(first, second)
    weighted = DecoupledContrastiveLoss(1.0, weight="vmf")(first, second)
    weights = 1 - (weighted - plain) / cosines
    assert weights.mean() == pytest.approx(1)
    assert torch.equal(weights.argsort(), (-cosines).argsort())
    wide = DecoupledContrastiveLoss(1.0, weight="vmf", sigma=1e9)(first, second)
    assert torch.allclose(wide, plain, atol=1e-7)


def test_weights_are_not_differentiated():
    first, second = (each.requires_grad_() for each in views())
    pair, others = logits(first, second, 0.1)
    weights = (2 - 7 * torch.softmax(nn.functional.cosine_similarity(first, second) / 0.5, 0)).detach()
    expected = torch.autograd.grad((others.mean(0) - weights * pair).sum(), first)[0]
    loss = DecoupledContrastiveLoss(weight="vmf")(first, second)
    assert torch.allclose(torch.autograd.grad(loss.sum(), first)[0], expected)


def test_weights_know_a_learned_temperature():
    first, second = views()
    given_one = DecoupledContrastiveLoss(0.1, weight="vmf")(first, second, torch.tensor(0.7, dtype=torch.float64))
    assert torch.allclose(given_one, DecoupledContrastiveLoss(0.7, weight="vmf")(first, second))


def test_views_may_be_swapped_and_turned():
    first, second = views()
    rotation, _ = torch.linalg.qr(views(5, 5, seed=3)[0])
    loss = DecoupledContrastiveLoss(weight="vmf")
    expected = loss(first, second)
    assert torch.allclose(loss(second, first), expected)
    assert torch.allclose(loss(first @ rotation, second @ rotation), expected)


def test_it_may_be_negative():
    first = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert (DecoupledContrastiveLoss()(first, first) < 0).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0}, "the temperature is 0"),
        ({"weight": "mine"}, "weight is 'vmf' or left out; it is 'mine'"),
        ({"sigma": 0}, "sigma is 0; give a number above 0"),
        ({"negatives": "all"}, "negatives is 'both views' or 'other view'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        DecoupledContrastiveLoss(**bad)


def test_a_batch_of_one_is_refused():
    with pytest.raises(FewerError, match="a batch of 1"):
        DecoupledContrastiveLoss()(torch.ones(1, 3), torch.ones(1, 3))


def test_it_is_raced_by_its_name():
    loop = compose.loop("dcl(temperature=0.2, weight='vmf') + contrastive(batch=32, points=1)")
    assert (loop.objective.temperature, loop.objective.weight) == (0.2, "vmf")
    curve = loop.learn(digits(), budget=256).curve
    assert 0 < curve.final <= 1
    assert "vmf" in repr(loop.objective)
