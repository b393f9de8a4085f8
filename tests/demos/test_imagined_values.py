from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fewer.demos.imagined_values import ValueEnsemble, lambda_returns, value_loss


@settings(deadline=None)
@given(st.integers(1, 6), st.floats(0, 1))
def test_returns_are_those_of_the_naive_sum(time, mix):
    torch.manual_seed(time)
    rewards, discounts, values = torch.randn(time), torch.rand(time), torch.randn(time + 1)
    found = lambda_returns(rewards, discounts, values, mix)

    def slow(t):
        if t == time:
            return values[time]
        return rewards[t] + discounts[t] * ((1 - mix) * values[t + 1] + mix * slow(t + 1))

    for t in range(time):
        torch.testing.assert_close(found[t], slow(t))


def test_the_two_ends_of_lambda():
    torch.manual_seed(0)
    rewards, discounts, values = torch.randn(5, 3), torch.full((5, 3), 0.9), torch.randn(6, 3)
    torch.testing.assert_close(lambda_returns(rewards, discounts, values, 0.0), rewards + 0.9 * values[1:])
    whole = sum(0.9**t * rewards[t] for t in range(5)) + 0.9**5 * values[5]
    torch.testing.assert_close(lambda_returns(rewards, discounts, values, 1.0)[0], whole)


def test_members_are_computed_as_they_would_be_one_by_one():
    torch.manual_seed(0)
    ensemble = ValueEnsemble(4, (8, 6), members=3)
    for each in ensemble.parameters():
        torch.nn.init.normal_(each)
    x = torch.randn(5, 7, 4)
    found = ensemble(x)
    assert found.shape == (3, 5, 7)
    for m in range(3):
        y = x
        for layer in ensemble.layers[:-1]:
            y = functional.silu(
                functional.layer_norm(y @ layer.weight[m] + layer.bias[m], layer.bias.shape[1:], eps=1e-3)
            )
        last = ensemble.layers[-1]
        torch.testing.assert_close(found[m], (y @ last.weight[m] + last.bias[m])[..., 0], atol=1e-4, rtol=1e-4)


def test_at_first_all_say_nothing():
    assert (ValueEnsemble(4, (8,))(torch.randn(6, 4)) == 0).all()


def test_the_loss_is_weighted_by_what_goes_on_and_pulls_towards_the_slow_copies():
    torch.manual_seed(0)
    ensemble = ValueEnsemble(3, (8,), members=2)
    torch.nn.init.normal_(ensemble.layers[-1].weight)
    slow = copy.deepcopy(ensemble)
    torch.nn.init.normal_(slow.layers[-1].weight)
    states, rewards, discounts = torch.randn(4, 5, 3), torch.randn(4, 5), torch.rand(4, 5)
    loss = value_loss(ensemble, slow, states, rewards, discounts, mix=0.8)
    values = ensemble(states)
    targets = lambda_returns(rewards[:3], discounts[:3], values.mean(0), 0.8)  # of two members both are drawn
    weight = torch.stack([torch.ones(5), discounts[0], discounts[0] * discounts[1]])
    expected = 0.0
    for member in values:
        near = slow(states[:3]).mean(0)
        expected = expected + (weight * 0.5 * ((member[:3] - targets.detach()) ** 2 + (member[:3] - near) ** 2)).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(each.grad is None for each in slow.parameters())


@pytest.mark.parametrize("stops", [False, True])
def test_values_are_learned_in_a_world_of_one_state(stops):
    torch.manual_seed(0)
    ensemble = ValueEnsemble(2, (16,), members=5)
    slow = copy.deepcopy(ensemble)
    optimiser = torch.optim.Adam(ensemble.parameters(), lr=3e-2)
    states, rewards = torch.ones(8, 4, 2), torch.ones(8, 4)
    states[..., 1] = torch.rand(4)
    discounts = torch.full((8, 4), 0.0 if stops else 0.5)
    for _ in range(200):
        loss = value_loss(ensemble, slow, states, rewards, discounts)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slow.load_state_dict(ensemble.state_dict())
    torch.testing.assert_close(ensemble(states).mean(), torch.tensor(1.0 if stops else 2.0), atol=0.1, rtol=0)
