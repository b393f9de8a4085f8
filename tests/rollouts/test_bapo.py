"""BAPO: the share of positive tokens, the search for bounds, and its reductions."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.bapo import BAPO, Balanced, positive_share
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.objectives import Clipped, clipped_surrogate, ratios


def batch(seed, rows=6, new=7, positive=0.5, moved=0.8):
    draws = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, new, generator=draws, dtype=torch.float64) * 2
    logps = old + moved * torch.randn(rows, new, generator=draws, dtype=torch.float64)
    sign = torch.where(torch.rand(rows, 1, generator=draws, dtype=torch.float64) < positive, 1.0, -1.0)
    advantages = sign * (0.2 + torch.rand(rows, 1, generator=draws, dtype=torch.float64)).expand(rows, new)
    mask = torch.rand(rows, new, generator=draws) < 0.8
    mask[0, 0] = True
    return logps, old, advantages, mask


def plain_share(logps, old, advantages, mask, low, high):
    """Token by token, as it is written down."""
    positive = total = 0.0
    for place in itertools.product(*map(range, mask.shape)):
        if mask[place]:
            ratio, advantage = float((logps - old)[place].exp()), float(advantages[place])
            value = min(ratio * advantage, min(max(ratio, low), high) * advantage)
            size = float(old[place].exp()) * abs(value)
            total += size
            positive += size if advantage > 0 else 0.0
    return positive / total


@given(st.integers(0, 10**6), st.sampled_from([(0.6, 1.2), (0.8, 1.28), (0.9, 3.0)]))
def test_the_share_is_the_one_that_is_written_down(seed, bounds):
    logps, old, advantages, mask = batch(seed, rows=3, new=4)
    found = positive_share(ratios(logps, old), advantages, old, mask, *bounds)
    assert found == pytest.approx(plain_share(logps, old, advantages, mask, *bounds))


def test_two_tokens_by_hand():
    half, mask = torch.full((1, 2), 0.5).log(), torch.ones(1, 2, dtype=torch.bool)
    advantages = torch.tensor([[1.0, -1.0]])
    assert positive_share(torch.tensor([[2.0, 1.0]]), advantages, half, mask, 0.6, 1.2) == pytest.approx(0.6 / 1.1)
    for high in (1.2, 2.0, 3.0):  # the upper bound matters above it only
        assert positive_share(torch.tensor([[0.2, 1.0]]), advantages, half, mask, 0.6, high) == pytest.approx(1 / 6)


@given(st.integers(0, 10**6))
def test_the_search_goes_up_first_and_stops_as_soon_as_the_target_is_reached(seed):
    logps, old, advantages, mask = batch(seed, positive=0.3)
    objective = Balanced(target=0.5)
    ratio = ratios(logps, old)
    low, high, share = objective.bounds(ratio, advantages, old, mask)
    assert 0.6 <= low <= 0.9 + 1e-9
    assert 1.2 <= high <= 3.0 + 1e-9
    # the path that the paper describes, in full
    path = [(0.6, 1.2 + 0.05 * step) for step in range(37)] + [(0.6 + 0.02 * step, 3.0) for step in range(1, 16)]
    shares = [positive_share(ratio, advantages, old, mask, *each) for each in path]
    if not bool((mask & (advantages > 0)).any()):
        assert (low, high) == (0.6, 1.2)
        return
    reached = next((place for place, each in enumerate(shares) if each >= 0.5), len(path) - 1)
    assert (low, high) == (pytest.approx(path[reached][0]), pytest.approx(path[reached][1]))
    assert share == pytest.approx(shares[reached])
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(shares[:37]))  # raising the upper bound helps


def test_the_order_and_the_measure_of_the_published_code():
    logps, old, advantages, mask = batch(0, positive=0.3)
    objective = Balanced(1.0, (0.8, 0.95), (1.2, 2.0), (0.05, 0.1), variant="repo")
    ratio = ratios(logps, old)

    def share(low, high):
        sizes = torch.where(mask, clipped_surrogate(ratio, advantages, low, high).abs(), 0.0)
        return float(sizes[advantages > 0].sum() / sizes[advantages < 0].sum())

    path = [(0.8, 1.2), (0.85, 1.2), (0.9, 1.2), (0.95, 1.2)] + [(0.95, 1.2 + 0.1 * step) for step in range(1, 9)]
    reached = next((each for each in path if share(*each) >= 1.0), path[-1])
    assert objective.bounds(ratio, advantages, old, mask)[:2] == (pytest.approx(reached[0]), pytest.approx(reached[1]))
    fitted, _ = objective.fitted(logps, old, advantages, mask)
    assert isinstance(fitted, Clipped)
    assert fitted.dual == 3.0


def test_all_positive_and_all_negative():
    logps, old, advantages, mask = batch(1)
    ratio = ratios(logps, old)
    assert Balanced().bounds(ratio, advantages.abs(), old, mask) == (0.6, 1.2, 1.0)
    assert Balanced().bounds(ratio, -advantages.abs(), old, mask) == (0.6, 1.2, 0.0)


def test_with_bounds_that_cannot_move_it_is_the_clipped_surrogate():
    logps, old, advantages, _mask = batch(2)
    logps.requires_grad_()
    still = Balanced(0.99, (0.8, 0.8), (1.2, 1.2))
    losses = [each.losses(logps, old, advantages, None) for each in (still, Clipped(0.8, 1.2))]
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(each.sum(), logps)[0] for each in losses]
    assert torch.equal(*gradients)


def test_unlikely_bad_tokens_have_no_gradient():
    logps, old, advantages, mask = batch(3)
    logps.requires_grad_()
    fitted, noted = Balanced(0.9).fitted(logps, old, advantages, mask)
    (gradient,) = torch.autograd.grad(fitted.losses(logps, old, advantages, None).sum(), logps)
    out = (advantages < 0) & (ratios(logps, old) < noted["clip low"])
    assert bool(out.any())
    assert bool((gradient[out] == 0).all())
    assert bool((gradient[(advantages < 0) & ~out] != 0).all())


def test_what_is_noted():
    logps, old, advantages, mask = batch(4)
    _, noted = Balanced().fitted(logps, old, advantages, mask)
    assert set(noted) == {"clip low", "clip high", "positive share"}
    assert PostTraining(**BAPO()).epochs == 2
    assert PostTraining(**BAPO()).parts == 4
    assert Balanced().fits
    assert not Balanced().reference


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: BAPO(target=1.0), "the target is a share between 0 and 1; it is 1.0"),
        (lambda: BAPO(low=(0.9, 0.6)), "bounds are raised"),
        (lambda: BAPO(high=(0.9, 2.0)), "bounds are raised"),
        (lambda: BAPO(steps=(0.0, 0.1)), "by positive steps"),
        (lambda: BAPO(variant="mine"), "choose paper or repo"),
        (lambda: Balanced().fitted(*batch(0)[:3], torch.zeros(6, 7).bool()), "no token of the batch"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def test_log_probabilities_that_are_not_finite_are_named():
    logps, old, advantages, mask = batch(5)
    mask[:] = True
    logps[3, 2] = torch.nan
    with pytest.raises(FewerError, match="row 3 are not finite"):
        Balanced().fitted(logps, old, advantages, mask)
    mask[3, 2] = False
    Balanced().fitted(logps, old, advantages, mask)
