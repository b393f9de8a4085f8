"""Small environments for the tests of this room."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box

from fewer.control.environments import GymEnvironment
from fewer.control.replay import Batch


class Target(gymnasium.Env):
    """One step or several; an action pays minus its squared distance from what is wanted, here 0.5 everywhere."""

    def __init__(self, steps=1, cut=None, broken=None, low=-1.0, high=1.0):
        self.observation_space = Box(-1, 1, (2,), np.float32)
        self.action_space = Box(np.float32(low), np.float32(high), (1,), np.float32)
        self.steps, self.cut, self.broken = steps, cut, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        self.time += 1
        self.seen = (0.5 * self.seen + 0.1 * self.np_random.standard_normal(2)).astype(np.float32).clip(-1, 1)
        reward = -float((action[0] - 0.5) ** 2)
        if self.broken == "reward" and self.time == 3:
            reward = float("nan")
        if self.broken == "observation" and self.time == 3:
            self.seen = np.full(2, np.nan, dtype=np.float32)
        ended = self.time >= self.steps
        return self.seen, reward, ended, self.cut is not None and self.time >= self.cut, {"is_success": reward > -0.01}


def target(metric="mean return", **options):
    return GymEnvironment(f"target({options})", lambda: Target(**options), metric)


def batch_of(observations, actions=None):
    """A batch of which only observations, and perhaps actions, matter."""
    nothing = torch.zeros(len(observations))
    return Batch(observations, nothing[:, None] if actions is None else actions, nothing, observations, nothing)
