"""A classifier that learns while the policy does: its loss, how it is kept smooth, and when rewards are said."""

from __future__ import annotations

import math

import pytest
import torch
from tests.control.reward_toys import SMALL, Above, step_of
from torch import nn
from torch.nn import functional

from fewer.control.baselines import sac
from fewer.control.loop import OffPolicy
from fewer.control.peg_world import peg_slot_2d
from fewer.control.replay import Batch
from fewer.control.vice import VICE, gradient_penalty, vice_loss
from fewer.core.errors import FewerError


def test_a_linear_logit_of_slope_one_is_not_punished_and_another_is():
    for weight, expected in ((1.0, 0.0), (3.0, 4.0), (0.0, 1.0)):
        head = nn.Linear(4, 1)
        with torch.no_grad():
            head.weight.zero_()
            head.weight[0, 2] = weight
        assert float(gradient_penalty(head, torch.randn(10, 4)).detach()) == pytest.approx(expected, abs=3e-3)


def test_vice_loss_equals_a_plain_version():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    goals, others = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        found = vice_loss(head, goals, others, penalty=10.0)
        torch.manual_seed(1)
        order, share = torch.randperm(8), torch.rand(8)
        place = torch.rand(4, 1)
    finally:
        torch.set_default_dtype(default)
    rows, labels = torch.cat([goals, others]), [0.9] * 4 + [0.1] * 4
    mixed = [share[i] * rows[i] + (1 - share[i]) * rows[order[i]] for i in range(8)]

    def entropy(logit, label):
        p = 1 / (1 + math.exp(-logit))
        return -label * math.log(p) - (1 - label) * math.log(1 - p)

    total = 0.0
    for i in range(8):
        logit = float(head(mixed[i]).detach())
        m = float(share[i])
        total += m * entropy(logit, labels[i]) + (1 - m) * entropy(logit, labels[int(order[i])])
    slopes = 0.0
    for i in range(4):
        between = (place[i] * mixed[i] + (1 - place[i]) * mixed[i + 4]).detach().requires_grad_()
        (slope,) = torch.autograd.grad(head(between).sum(), between)
        slopes += (math.sqrt(float(slope.square().sum()) + 1e-6) - 1) ** 2
    assert float(found.detach()) == pytest.approx(total / 8 + 10 * slopes / 4, abs=1e-5)


def test_the_penalty_reaches_the_weights():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    rows = torch.randn(6, 3).double()

    def penalty(*parameters):
        def called(x):
            return torch.func.functional_call(
                head, dict(zip(dict(head.named_parameters()), parameters, strict=True)), x
            )

        torch.manual_seed(2)
        return gradient_penalty(called, rows)

    given = tuple(each.detach().clone().requires_grad_() for each in head.parameters())
    assert torch.autograd.gradcheck(penalty, given, atol=1e-4)


def test_vice_says_rewards_when_they_are_drawn_and_learns():
    task = peg_slot_2d(demonstrations=4)
    loop = OffPolicy(**sac(**SMALL), reward=VICE(batch=8, hidden=8, every=2), batch=8, learning_starts=5, episodes=1)
    torch.manual_seed(0)
    state = loop.start(task, 60, 0)
    for _ in range(10):
        loop._learn(state, loop._act(state))
    judge = state.judge
    assert judge.steps == 10
    moments = judge.optimiser.state_dict()["state"][0]["step"]
    assert int(moments) == 5
    good = judge.goals[:4]
    batch = Batch(good, torch.zeros(4, 3), torch.full((4,), 9.0), good, torch.ones(4))
    judge.classifier.success = lambda rows: torch.tensor([True, False, True, False])
    assert judge.relabel(batch).rewards.tolist() == [1, 0, 1, 0]
    same = step_of([1.0])
    assert judge.judge(same) is same


def test_vice_looks_at_where_an_action_led():
    """Not at where it was done."""
    task = peg_slot_2d(demonstrations=4)
    loop = OffPolicy(**sac(**SMALL), reward=VICE(batch=8, hidden=8), batch=8, episodes=1)
    judge = loop.start(task, 60, 0).judge
    judge.classifier = Above(0.5)
    before, after = torch.zeros(3, 10), torch.zeros(3, 10)
    before[0, 0] = after[1, 0] = 1
    batch = Batch(before, torch.zeros(3, 3), torch.full((3,), 9.0), after, torch.ones(3))
    assert judge.relabel(batch).rewards.tolist() == [0, 1, 0]


def test_labels_are_smoothed():
    """With a huge margin the best logit of an unmixed goal is that of 0.9."""
    logit = torch.tensor(math.log(0.9 / 0.1), requires_grad=True)
    (slope,) = torch.autograd.grad(functional.binary_cross_entropy_with_logits(logit, torch.tensor(0.9)), logit)
    assert float(slope) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)

    class Constant(nn.Module):
        def forward(self, x):
            return logit.expand(len(x), 1) + 0 * x[:, :1]

    (slope,) = torch.autograd.grad(vice_loss(Constant(), torch.zeros(50, 2), torch.zeros(0, 2), 0.0), logit)
    assert float(slope) == pytest.approx(0, abs=1e-6)


def test_a_negative_penalty():
    with pytest.raises(FewerError, match="penalty not negative"):
        VICE(penalty=-1.0)
