from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from fewer.core.errors import FewerError
from fewer.explore.kl_to_prior import KLToPrior, strength_for
from fewer.explore.soft_planning import divergence, soft_choice


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def test_it_is_the_price_of_the_tabular_planner(prior):
    observations, logits = torch.randn(6, 3), torch.randn(6, 4)
    price = KLToPrior(prior, strength=0.3)
    expected = 0.3 * divergence(
        logits.softmax(-1).double().numpy(), prior(observations).softmax(-1).detach().double().numpy()
    )
    np.testing.assert_allclose(price(logits, observations).numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(price(Categorical(logits=logits), observations), price(logits, observations))


def test_soft_values_and_policies_are_the_tabular_ones(prior):
    observations, values = torch.randn(6, 3), torch.randn(6, 4)
    price = KLToPrior(prior, strength=0.5)
    chances = prior(observations).softmax(-1).detach().numpy()
    value, policy = soft_choice(values.numpy(), chances, 0.5)
    np.testing.assert_allclose(price.soft_values(values, observations), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(price.soft_policy(values, observations), policy, rtol=1e-5, atol=1e-6)


def test_penalties_of_actions_are_the_price_on_average():
    prior = lambda observations: Independent(Normal(observations, 1.0), 1)  # noqa: E731
    policy = Independent(Normal(torch.ones(40_000, 2) * 0.5, torch.full((40_000, 2), 0.7)), 1)
    price, observations = KLToPrior(prior, 2.0), torch.zeros(40_000, 2)
    actions = policy.sample()
    assert price.penalty(policy.log_prob(actions), actions, observations).mean().item() == pytest.approx(
        price(policy, observations)[0].item(), abs=0.03
    )


def test_the_policy_is_trained_and_the_prior_is_not(prior):
    observations, logits = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    prior = prior.double()
    logits.requires_grad_()
    price = KLToPrior(prior, 0.7)
    assert torch.autograd.gradcheck(lambda each: price(each, observations), (logits,))
    price(logits, observations).sum().backward()
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_a_reparameterised_actor_feels_the_prior_through_its_actions():
    mean = torch.zeros(5, 1, requires_grad=True)
    price = KLToPrior(lambda observations: Independent(Normal(observations, 1.0), 1), 1.0)
    policy = Independent(Normal(mean, 0.1), 1)
    actions = policy.rsample()
    price.penalty(policy.log_prob(actions), actions, torch.full((5, 1), 3.0)).sum().backward()
    assert (mean.grad < -2).all()  # pulled towards 3


def test_training_with_it_ends_at_the_soft_policy(prior):
    observations, values = torch.randn(1, 3), torch.tensor([[1.0, 0.0, 0.5, -1.0]])
    price, logits = KLToPrior(prior, 0.5), torch.zeros(1, 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        loss = price(logits, observations).sum() - (logits.softmax(-1) * values).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(logits.softmax(-1).detach(), price.soft_policy(values, observations), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KLToPrior(nn.Linear(1, 1), 0), "strength must be positive and finite"),
        (lambda: KLToPrior(nn.Linear(1, 1), float("nan")), "strength must be positive and finite"),
        (
            lambda: KLToPrior(lambda seen: torch.tensor([[0.0, -torch.inf]]), 1)(torch.zeros(1, 2), torch.zeros(1)),
            "gives some action no probability",
        ),
        (
            lambda: KLToPrior(lambda seen: Normal(seen, 1.0), 1).soft_values(torch.zeros(1, 2), torch.zeros(1)),
            "soft values need numbered actions; the prior is a Normal",
        ),
        (lambda: strength_for(0), "at least one demonstration"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
