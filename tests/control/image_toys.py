"""Small environments that show pictures, for the tests of this room."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from fewer.control.environments import GymEnvironment

SIDE = 16


def spot(place, channels_first=False):
    """A bright spot on black, at a place in [-1, 1]^2."""
    across = np.linspace(-1, 1, SIDE)
    bright = np.exp(-((across[:, None] - place[0]) ** 2 + (across - place[1]) ** 2) / 0.05)
    image = np.repeat((255 * bright).astype(np.uint8)[..., None], 3, axis=2)
    return np.ascontiguousarray(image.transpose(2, 0, 1)) if channels_first else image


class Spot(gymnasium.Env):
    """Say where the spot is: an action pays minus its squared distance from it, and the spot goes elsewhere."""

    def __init__(self, steps=4, kind="image", cut=None):
        image = Box(0, 255, (3, SIDE, SIDE) if kind == "channels first" else (SIDE, SIDE, 3), np.uint8)
        both = Dict({"camera": image, "arm": Box(-9, 9, (2,), np.float32), "wrist": image})
        self.observation_space = both if kind == "dict" else image
        self.action_space = Box(-1, 1, (2,), np.float32)
        self.steps, self.kind, self.cut = steps, kind, cut

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def _seen(self):
        self.place = self.np_random.uniform(-0.8, 0.8, 2)
        image = spot(self.place, self.kind == "channels first")
        if self.kind != "dict":
            return image
        return {"camera": image, "arm": np.full(2, self.time, np.float32), "wrist": 255 - image}

    def step(self, action):
        self.time += 1
        reward = -float(((action - self.place) ** 2).sum())
        return self._seen(), reward, self.time >= self.steps, self.cut is not None and self.time >= self.cut, {}


def spot_task(stack=1, **options):
    return GymEnvironment(f"spot({options}, {stack})", lambda: Spot(**options), stack=stack)
