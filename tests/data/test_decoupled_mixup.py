"""Decoupled mixup: closed forms, reductions, gradients, and the loss written out class by class."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.data.decoupled_mixup import DecoupledMixup, DecoupledMixupSigmoid
from fewer.data.loop import CrossEntropy, Target


def pair(a, b, ratio=0.5):
    return Target(torch.tensor([a]), torch.tensor([b]), torch.tensor([ratio], dtype=torch.float64))


def drawn(seed, rows=9, classes=5):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    first, second = torch.randint(classes, (2, rows), generator=generator)
    ratio = torch.rand(rows, generator=generator, dtype=torch.float64)
    ratio[:2] = torch.tensor([0.0, 1.0])
    return logits, Target(first, second, ratio)


def written_out(z, a, b, u, eta, mode, t, threshold):
    """One row, one class at a time."""
    whole = sum(math.exp(value) for value in z)
    loss = -u * math.log(math.exp(z[a]) / whole) - (1 - u) * math.log(math.exp(z[b]) / whole)
    if a == b or u in (0.0, 1.0):
        return loss
    for own, other, share, smaller in ((a, b, u, u < 0.5), (b, a, 1 - u, u >= 0.5)):
        if mode == "both" or (mode == "less") == smaller:
            rest = sum(math.exp(value) for c, value in enumerate(z) if c != other)
            weight = 1.0 if share >= threshold else (share / threshold) ** t
            loss -= eta * weight * math.log(math.exp(z[own]) / rest)
    return loss


# --- softmax ---------------------------------------------------------------------------------------------------------


def test_three_equal_logits_give_the_closed_form():
    zero = torch.zeros(1, 3, dtype=torch.float64)
    plain, both = (DecoupledMixup(eta=eta, t=0)(zero, pair(0, 1)).item() for eta in (0, 1))
    assert plain == pytest.approx(math.log(3))
    assert both - plain == pytest.approx(2 * math.log(2))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0, 3),
    st.sampled_from(["both", "less", "more"]),
    st.sampled_from([0, 0.5, 1, 2]),
    st.sampled_from([0.3, 0.5, 1.0]),
)
def test_it_is_the_loss_of_the_paper(seed, eta, mode, t, threshold):
    logits, target = drawn(seed)
    loss = DecoupledMixup(eta, mode, t, threshold)(logits, target)
    rows = zip(logits.tolist(), target.first.tolist(), target.second.tolist(), target.ratio.tolist(), strict=True)
    expected = [written_out(*row, eta, mode, t, threshold) for row in rows]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_without_the_term_it_is_cross_entropy_with_the_soft_label():
    logits, target = drawn(0)
    torch.testing.assert_close(DecoupledMixup(eta=0)(logits, target), CrossEntropy()(logits, target))


def test_unmixed_rows_have_cross_entropy():
    logits, target = drawn(0)
    plain = nn.CrossEntropyLoss(reduction="none")(logits, target.first)
    for labels in (target.first, Target.plain(target.first), Target(target.first, target.first.clone(), target.ratio)):
        torch.testing.assert_close(DecoupledMixup(eta=1)(logits, labels), plain)
    ones = Target(target.first, target.second, torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(DecoupledMixup(eta=1, t=0)(logits, ones), plain)


def test_with_two_classes_the_term_is_zero_and_a_warning_says_so():
    logits, target = drawn(0, classes=2)
    with pytest.warns(UserWarning, match="with 2 classes nothing is left to compete"):
        loss = DecoupledMixup(eta=5)(logits, target)
    torch.testing.assert_close(loss, CrossEntropy()(logits, target))


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, target = drawn(1)
    criterion = DecoupledMixup(eta=1)
    torch.testing.assert_close(criterion(logits + 7, target), criterion(logits, target))


def test_the_term_of_one_class_does_not_depend_on_the_other():
    logits, _ = drawn(2)
    logits.requires_grad_()
    target = Target(torch.zeros(9, dtype=torch.long), torch.ones(9, dtype=torch.long), torch.full((9,), 0.7).double())
    major = DecoupledMixup(eta=1, mode="more")(logits, target) - DecoupledMixup(eta=0)(logits, target)
    (gradient,) = torch.autograd.grad(major.sum(), logits)
    assert gradient[:, 1].abs().max() < 1e-12
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 2:] > 0).all()


def test_gradients_are_those_of_finite_differences():
    logits, target = drawn(3)
    logits.requires_grad_()
    for criterion in (
        DecoupledMixup(eta=1, t=0.5, threshold=0.7),
        DecoupledMixup(mode="less"),
        DecoupledMixupSigmoid(),
    ):
        assert torch.autograd.gradcheck(lambda z, criterion=criterion: criterion(z, target), logits)


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0, 5.0]], requires_grad=True)
    loss = DecoupledMixup(eta=1, t=0)(logits, pair(0, 1, 0.6))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    # removing the winner leaves class 3 against class 1
    assert loss.item() == pytest.approx(0.4 * 2e4 + (1e4 + 5), rel=1e-4)


def test_confidence_in_both_classes_is_rewarded_where_they_competed_before():
    both = torch.tensor([[9.0, 9.0, 0.0, 0.0]])
    term = DecoupledMixup(eta=1)(both, pair(0, 1)) - DecoupledMixup(eta=0)(both, pair(0, 1))
    assert term.item() < 1e-3
    assert CrossEntropy()(both, pair(0, 1)).item() > 0.69


@pytest.mark.parametrize("t", [0, 0.5, 2])
def test_asymmetric_the_second_class_is_weighted_by_its_share_as_it_is(t):
    logits, target = drawn(5)
    plain = DecoupledMixup(eta=0)(logits, target)
    ours, both = (
        DecoupledMixup(eta=2, t=t, threshold=0.8, asymmetric=asymmetric)(logits, target) - plain
        for asymmetric in (True, False)
    )
    assert not torch.allclose(ours, both)
    only_first = DecoupledMixup(eta=2, t=t, threshold=0.8, mode="more", asymmetric=True)(logits, target) - plain
    major = target.ratio >= 0.5
    symmetric = DecoupledMixup(eta=2, t=t, threshold=0.8, mode="more")(logits, target) - plain
    torch.testing.assert_close(only_first[major], symmetric[major])
    # of the other rows only the guessed class is asked for: its weight is its share, so the term is that of t = 1
    by_share = DecoupledMixup(eta=2, t=1, mode="more")(logits, target) - plain
    torch.testing.assert_close(only_first[~major], by_share[~major])


# --- sigmoid ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 2), st.floats(0.1, 1))
def test_rescaled_targets_lie_between_zero_and_one_and_rise_with_the_share(share, t, threshold):
    criterion = DecoupledMixupSigmoid(t, threshold)
    hot = criterion.two_hot(pair(0, 2, share), 4)[0].tolist()
    assert hot[1] == hot[3] == 0
    assert 0 <= hot[0] <= 1
    assert 0 < hot[0] + hot[2] <= 2
    if share >= threshold:
        assert hot[0] == 1
    if share == 0:
        assert hot == [0, 0, 1, 0]
    more = criterion.two_hot(pair(0, 2, min(1.0, share + 0.1)), 4)[0]
    assert more[0] >= hot[0] - 1e-12


def test_without_rescaling_both_classes_are_fully_there():
    assert DecoupledMixupSigmoid(t=0).two_hot(pair(0, 2, 0.1), 4).tolist() == [[1, 0, 1, 0]]
    assert DecoupledMixupSigmoid().two_hot(pair(1, 1, 0.3), 3).tolist() == [[0, 1, 0]]


def test_asymmetric_the_second_target_is_its_share():
    criterion = DecoupledMixupSigmoid(asymmetric=True)
    assert criterion.two_hot(pair(0, 2, 0.6), 4)[0].tolist() == pytest.approx([0.75, 0, 0.4, 0])
    assert criterion.two_hot(pair(1, 1, 0.6), 3).tolist() == [[0, 1, 0]]


def test_the_sigmoid_loss_is_binary_cross_entropy_over_classes():
    logits, target = drawn(4)
    hot = DecoupledMixupSigmoid().two_hot(target, 5)
    expected = -(hot * logits.sigmoid().log() + (1 - hot) * (1 - logits.sigmoid()).log()).mean(dim=1)
    torch.testing.assert_close(DecoupledMixupSigmoid()(logits, target), expected)
    labels = target.first
    one_hot = nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(
        DecoupledMixupSigmoid()(logits, labels),
        nn.BCEWithLogitsLoss(reduction="none")(logits, one_hot).mean(dim=1),
    )


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "bad", "message"),
    [
        (DecoupledMixup, {"eta": -0.1}, "eta is a weight of at least 0; -0.1 was given"),
        (DecoupledMixup, {"eta": math.inf}, "eta is a weight"),
        (DecoupledMixup, {"mode": "most"}, "unknown mode 'most'; choose both, less or more"),
        (DecoupledMixup, {"t": -1}, "t must be at least 0"),
        (DecoupledMixup, {"threshold": 0}, "threshold in"),
        (DecoupledMixupSigmoid, {"t": -1}, "decoupled-mixup-sigmoid: t must be at least 0"),
        (DecoupledMixupSigmoid, {"threshold": 1.1}, "threshold in"),
    ],
)
def test_impossible_numbers_are_refused(make, bad, message):
    with pytest.raises(FewerError, match=message):
        make(**bad)


@pytest.mark.parametrize("criterion", [DecoupledMixup(), DecoupledMixupSigmoid()])
def test_what_has_no_loss_is_refused(criterion):
    with pytest.raises(FewerError, match="an empty batch has no loss"):
        criterion(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(FewerError, match="not soft labels"):
        criterion(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(FewerError, match="one whole number a row"):
        criterion(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))


def test_three_classes_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DecoupledMixup()(torch.zeros(1, 3), pair(0, 1))
