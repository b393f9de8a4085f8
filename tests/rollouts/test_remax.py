"""ReMax: an unbiased gradient whose variance is the closed form, on a bandit that can be enumerated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.rollouts.experience import token_mean
from fewer.rollouts.objectives import PolicyGradient
from fewer.rollouts.remax import GreedyBaseline, ReMax, ScoredSums, discounts

ARMS = 5


def bandit(seed=0):
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(ARMS, generator=draws, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(ARMS, generator=draws, dtype=torch.float64)


def experience(mask, greedy, logps=None, reference=None):
    return SimpleNamespace(mask=mask, greedy=greedy, sampled=SimpleNamespace(logps=logps), reference=reference)


def gradient_of(logits, arm, rewards, greedy):
    """Gradient of the loss where one arm was drawn."""
    logps = torch.log_softmax(logits, 0)[arm].view(1, 1)
    mask = torch.ones(1, 1, dtype=torch.bool)
    advantages = GreedyBaseline()(rewards[arm].view(1, 1), experience(mask, greedy))
    loss = token_mean(PolicyGradient().losses(logps, logps, advantages, None), mask)
    return torch.autograd.grad(loss, logits)[0]


def test_the_mean_gradient_is_that_of_the_expected_reward_and_the_variance_the_closed_form():
    logits, rewards = bandit()
    probabilities = torch.softmax(logits, 0)
    greedy = rewards[probabilities.argmax()].view(1)
    each = torch.stack([gradient_of(logits, arm, rewards, greedy) for arm in range(ARMS)])
    mean = (probabilities[:, None] * each).sum(0)
    (true,) = torch.autograd.grad((probabilities * rewards).sum(), logits, retain_graph=True)
    assert torch.allclose(mean, -true)
    variance = float((probabilities * each.square().sum(1)).sum() - mean.square().sum())
    score = torch.eye(ARMS, dtype=torch.float64) - probabilities
    closed = (probabilities * score.square().sum(1) * (rewards - greedy).square()).sum() - true.square().sum()
    assert variance == pytest.approx(float(closed))


def test_the_greedy_completion_itself_teaches_nothing_and_offsets_cancel():
    logits, rewards = bandit(1)
    best = int(logits.argmax())
    assert bool((gradient_of(logits, best, rewards, rewards[best].view(1)) == 0).all())
    for arm in range(ARMS):
        plain = gradient_of(logits, arm, rewards, rewards[best].view(1))
        assert torch.allclose(plain, gradient_of(logits, arm, rewards + 0.7, rewards[best].view(1) + 0.7))


def test_differences_are_kept_within_bounds():
    advantage = GreedyBaseline(most=2.0)
    assert advantage.differences(torch.tensor([[9.0, 1.5, -9.0]]), torch.tensor([1.0])).tolist() == [[2.0, 0.5, -2.0]]
    scaled = GreedyBaseline(standardise=True).differences(torch.tensor([[1.0], [3.0]]), torch.zeros(2))
    assert scaled.flatten().tolist() == pytest.approx([1.0, 3.0], abs=1e-4)


def test_discounts_count_backwards_from_the_last_token():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert discounts(mask, 0.9).flatten().tolist() == pytest.approx([0.729, 0.81, 0.9, 0.9, 0, 0])
    assert torch.equal(discounts(mask, 1.0), mask.float())


def test_each_token_has_its_share_of_the_pull():
    mask = torch.tensor([[True, True], [True, False]])
    logps, reference = -torch.rand(2, 2), -torch.rand(2, 2)
    given = experience(mask, torch.tensor([0.0]), logps, reference)
    found = GreedyBaseline(beta=0.5, gamma=0.9)(torch.tensor([[1.0, -2.0]]), given)
    away = 0.5 * (logps - reference)
    assert torch.allclose(
        found, torch.tensor([[0.81 - away[0, 0], 0.9 - away[0, 1]], [-1.8 - away[1, 0], 0.0]]), atol=1e-6
    )
    assert GreedyBaseline(beta=0.5).reference
    assert not GreedyBaseline().reference
    assert GreedyBaseline().greedy


def test_the_pull_alone_goes_down_the_divergence():
    """Over all arms, the gradient is that of beta KL(policy, reference)."""
    logits, _ = bandit(2)
    other = torch.log_softmax(torch.arange(ARMS, dtype=torch.float64), 0)
    logps = torch.log_softmax(logits, 0)
    mask = torch.ones(ARMS, 1, dtype=torch.bool)
    given = experience(mask, torch.zeros(ARMS, dtype=torch.float64), logps[:, None], other[:, None])
    with torch.no_grad():
        advantages = GreedyBaseline(beta=0.3)(torch.zeros(ARMS, 1, dtype=torch.float64), given)
    losses = PolicyGradient().losses(logps[:, None], logps[:, None], advantages, None)[:, 0]
    (found,) = torch.autograd.grad((logps.exp().detach() * losses).sum(), logits, retain_graph=True)
    (true,) = torch.autograd.grad(0.3 * (logps.exp() * (logps - other)).sum(), logits)
    assert torch.allclose(found, true)


@pytest.mark.parametrize("options", [{"beta": -0.1}, {"gamma": 0.0}, {"gamma": 1.1}])
def test_errors(options):
    with pytest.raises(FewerError, match="beta >= 0, gamma in"):
        ReMax(**options)


def test_scores_say_what_is_right_whatever_a_prompt_is_worth():
    task = ScoredSums(spread=5.0)
    problems = task.training(0)[:50]
    worth = [task.worth(problem) for problem in problems]
    assert min(worth) < -2
    assert max(worth) > 2
    for problem in problems:
        good, bad = (task.verify(said, problem) for said in (f"A{problem.answer}", "A"))
        assert good - bad == pytest.approx(1)
        assert task.correct(good, problem)
        assert not task.correct(bad, problem)
    assert ScoredSums().verify("A", problems[0]) == 1
