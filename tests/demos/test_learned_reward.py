from __future__ import annotations

import torch

from fewer.demos.learned_reward import LearnedReward, moment_loss


def test_it_pays_nothing_at_first():
    assert (LearnedReward(3, (8,))(torch.randn(5, 3)) == 0).all()


def test_equal_batches_are_told_apart_by_nobody():
    torch.manual_seed(0)
    reward, rows = (
        torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Flatten(0)),
        torch.randn(6, 3),
    )
    # without a penalty nothing moves at all
    moment_loss(reward, rows, rows, penalty=0.0).backward()
    assert all(each.grad.abs().max() < 1e-7 for each in reward.parameters())


def test_the_loss_of_a_linear_reward_in_closed_form():
    weight = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    demonstrated = torch.randn(7, 2, dtype=torch.float64)
    acted = torch.randn(7, 2, dtype=torch.float64)

    def loss(weight):
        return moment_loss(
            lambda f: f @ weight, demonstrated, acted, share=torch.full((7, 1), 0.3, dtype=torch.float64)
        )

    expected = (acted.mean(0) - demonstrated.mean(0)) @ weight + 10 * (weight.norm() - 0.4) ** 2
    torch.testing.assert_close(loss(weight), expected)
    torch.autograd.gradcheck(loss, (weight,))


def test_the_penalty_looks_between_the_two():
    torch.manual_seed(0)
    seen = []

    def reward(features):
        seen.append(features)
        return features[:, 0]

    demonstrated, acted, share = torch.randn(4, 2), torch.randn(4, 2), torch.rand(4, 1)
    moment_loss(reward, demonstrated, acted, share=share)
    torch.testing.assert_close(seen[0][-4:], share * demonstrated + (1 - share) * acted)


def test_experts_are_paid_more_and_the_slope_stays_near_its_target():
    torch.manual_seed(0)
    reward = LearnedReward(2, (32, 32))
    optimiser = torch.optim.Adam(reward.parameters(), lr=1e-2)
    for _ in range(200):
        demonstrated, acted = torch.randn(64, 2) + 2, torch.randn(64, 2) - 2
        loss = moment_loss(reward, demonstrated, acted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ahead = torch.randn(500, 2) + 2
    apart = reward(ahead).mean() - reward(ahead - 4).mean()
    assert apart > 0.3
    middle = (torch.rand(200, 2) * 2 - 1).requires_grad_()
    (slope,) = torch.autograd.grad(reward(middle).sum(), middle)
    assert slope.norm(dim=1).mean() < 0.8
