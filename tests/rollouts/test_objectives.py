"""Objectives against plain Python, closed forms and known reductions."""

from __future__ import annotations

import math

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.rollouts.bapo import Balanced
from fewer.rollouts.experience import sequence_mean, token_mean
from fewer.rollouts.objectives import Clipped, Objective, PolicyGradient, clipped_surrogate, divergence, ratios


def plain(ratio, advantage, low, high, dual):
    """The surrogate of one token, as it is written down."""
    value = min(ratio * advantage, min(max(ratio, low), high) * advantage)
    return max(value, dual * advantage) if dual is not None and advantage < 0 else value


@pytest.mark.parametrize("dual", [None, 3.0])
def test_the_clipped_surrogate_of_each_token(dual):
    draws = torch.Generator().manual_seed(0)
    ratio = torch.rand(20, 5, generator=draws, dtype=torch.float64) * 5
    advantages = torch.randn(20, 5, generator=draws, dtype=torch.float64)
    found = clipped_surrogate(ratio, advantages, 0.8, 1.28, dual)
    expected = [
        [plain(one, other, 0.8, 1.28, dual) for one, other in zip(*rows, strict=True)]
        for rows in zip(ratio.tolist(), advantages.tolist(), strict=True)
    ]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_where_nothing_has_changed_the_gradient_is_that_of_reinforce():
    draws = torch.Generator().manual_seed(1)
    logps = torch.randn(4, 6, generator=draws, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(4, 6, generator=draws, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(each.losses(logps, logps.detach(), advantages, None).sum(), logps)[0]
        for each in (Clipped(), PolicyGradient())
    ]
    assert torch.allclose(*gradients)
    assert torch.allclose(gradients[0], -advantages)


def test_beyond_the_bounds_there_is_no_gradient():
    logps = torch.log(torch.tensor([[1.5, 0.5, 1.5, 0.5]], dtype=torch.float64)).requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0]], dtype=torch.float64)
    losses = Clipped(0.8, 1.2).losses(logps, torch.zeros(1, 4, dtype=torch.float64), advantages, None)
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert gradient.tolist() == [[0.0, 0.0, pytest.approx(1.5), pytest.approx(-0.5)]]


def test_estimators_of_the_divergence_agree_with_it_on_average():
    policy, other = (torch.tensor(each, dtype=torch.float64) for each in ((0.5, 0.3, 0.2), (0.4, 0.4, 0.2)))
    true = float((policy * (policy / other).log()).sum())
    for kind in ("k1", "k3"):
        mean = float((policy * divergence(policy.log()[None], other.log()[None], kind)[0]).sum())
        assert mean == pytest.approx(true)
    assert bool((divergence(policy.log()[None], other.log()[None], "k3") >= 0).all())
    k2 = divergence(policy.log()[None], other.log()[None], "k2")[0]
    assert k2.tolist() == pytest.approx([math.log(a / b) ** 2 / 2 for a, b in zip(policy, other, strict=True)])
    with pytest.raises(FewerError, match="kind is 'k4'; choose k1, k2 or k3"):
        divergence(policy.log()[None], other.log()[None], "k4")


def test_the_pull_to_the_first_model_is_added():
    logps, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
    reference, advantages = torch.tensor([[-1.2, -2.5]]), torch.zeros(1, 2)
    assert torch.allclose(Clipped(kl=0.5).losses(logps, old, advantages, reference), 0.5 * divergence(logps, reference))
    assert Clipped(kl=0.5).reference
    assert not Clipped().reference


@pytest.mark.parametrize("objective", [Clipped(), Clipped(0.5, 3.0, dual=3.0), PolicyGradient(), Balanced()])
def test_tokens_without_advantage_have_no_loss_and_no_gradient_where_the_objective_says_so(objective):
    draws = torch.Generator().manual_seed(0)
    logps, old = (-30 * torch.rand(8, 5, generator=draws) for _ in range(2))
    advantages = torch.randn(8, 5, generator=draws)
    advantages[2:5] = 0
    logps.requires_grad_()
    assert not objective.everywhere
    if objective.fits:
        fitted, noted = objective.fitted(logps, old, advantages, torch.ones(8, 5).bool())
        some = advantages.any(1)
        assert noted == pytest.approx(objective.fitted(logps[some], old[some], advantages[some], some[some, None])[1])
        assert not fitted.everywhere
    losses = objective.losses(logps, old, advantages, None)
    losses.sum().backward()
    assert logps.grad is not None
    assert not losses[2:5].any()
    assert not logps.grad[2:5].any()
    assert logps.grad[[0, 1, 5, 6, 7]].any()


def test_objectives_may_learn_from_all_tokens_where_nothing_else_is_known():
    assert Clipped(kl=0.1).everywhere

    class Sharpened(Clipped):
        def losses(self, logps, old, advantages, reference):
            return super().losses(logps, old, advantages, reference) + 0.01 * logps

    class Regularised(PolicyGradient):
        def losses(self, logps, old, advantages, reference):
            return super().losses(logps, old, advantages, reference) + 0.01 * logps

    class Own(Objective):
        def losses(self, logps, old, advantages, reference):
            return -logps

    for objective in (Sharpened(), Regularised(), Own()):
        assert objective.everywhere


@pytest.mark.parametrize("bounds", [{"low": 1.1}, {"high": 0.9}, {"low": -0.1}, {"kl": -1.0}])
def test_bounds_that_make_no_sense_are_refused(bounds):
    with pytest.raises(FewerError, match="low <= 1 <= high and kl >= 0"):
        Clipped(**bounds)


def test_ratios_stay_finite():
    assert torch.isfinite(ratios(torch.tensor([[500.0, -500.0]]), torch.zeros(1, 2))).all()


def test_means_leave_out_what_is_masked():
    values, mask = torch.tensor([[1.0, 2.0, math.nan], [4.0, math.inf, 0.0], [math.nan] * 3]), torch.zeros(3, 3).bool()
    mask[0, :2] = mask[1, 0] = True
    assert token_mean(values, mask).item() == pytest.approx(7 / 3)
    assert sequence_mean(values, mask).item() == pytest.approx((1.5 + 4) / 2)
    assert token_mean(values, torch.zeros(3, 3).bool()) == sequence_mean(values, torch.zeros(3, 3).bool()) == 0
