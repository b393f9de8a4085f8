from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.loop import Lesson
from fewer.demos.residual_policy import ResidualImitation, ResidualPolicy
from fewer.demos.slot_world import slot_insertion

TASK = slot_insertion(3)
QUICK = ResidualImitation(env_steps=120, copies=3, hidden=(16,), batch=8, train_ratio=0.2)


class Base:
    def plan(self, observations):
        return np.full((len(observations), 4, 2), 0.5)


def lesson(play=TASK.play, given=None):
    given = TASK.demonstrations(0) if given is None else given
    return Lesson(given, -np.ones(2), np.ones(2), play, 0, np.random.default_rng(0))


def test_it_starts_as_the_base_policy_and_stays_within_its_bound():
    given = TASK.demonstrations(0)
    policy = ResidualPolicy(QUICK, Base(), given, -torch.ones(2), torch.ones(2))
    policy.begin(5, np.random.default_rng(0))
    np.testing.assert_allclose(policy.act(given.observations[:5]), 0.5, atol=1e-6)
    torch.nn.init.constant_(policy.network[-1].bias, 50.0)
    policy.begin(1, np.random.default_rng(0))
    np.testing.assert_allclose(policy.act(given.observations[0]), [0.7, 0.7], atol=1e-5)


def test_it_learns_within_its_steps_and_repeats_itself():
    steps = []

    def play(copies):
        inner = TASK.play(copies)
        step = inner.step
        inner.step = lambda actions: (steps.append(1), step(actions))[1]
        return inner

    one, other = QUICK.improve(lesson(play), Base()), QUICK.improve(lesson(), Base())
    assert len(steps) <= 120 / 1
    last = one.network[-1].weight
    assert (last != 0).any()
    assert torch.equal(last, other.network[-1].weight)


def test_what_it_cannot_do_is_said():
    with pytest.raises(FewerError, match=r"a SimpleNamespace has no plan\(observations\)"):
        QUICK.improve(lesson(), SimpleNamespace())
    images = Demonstrations(np.zeros((9, 16, 16, 3)), np.zeros((9, 2)), [0, 9])
    with pytest.raises(FewerError, match="observations must be numbers"):
        QUICK.improve(lesson(given=images), Base())
    with pytest.raises(FewerError, match="counts and learning rates must be positive"):
        ResidualImitation(batch=0)
    with pytest.raises(FewerError, match=r"warm_up, gamma and tau lie in \[0, 1\]"):
        ResidualImitation(gamma=2)
    with pytest.raises(Diverged, match="the critics' loss became nan; lower the learning rate"):
        ResidualImitation(env_steps=120, copies=3, hidden=(8,), batch=8, lr=1e38).improve(lesson(), Base())
