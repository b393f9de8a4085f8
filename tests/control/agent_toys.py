"""Small agents, for the tests of what is around them."""

from __future__ import annotations

import numpy as np
import torch
from tests.control.toys import target

from fewer.control import Agent

SMALL = {"batch": 8, "episodes": 2, "learning_starts": 8}
METHOD = "sac(hidden=(8,))"
SEEN = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


def agent(env=None, method=METHOD, **options):
    return Agent(env or target(steps=3), method, **{"eval_freq": 20, **SMALL, **options})


def told(points):
    return [(p.spent, p.score, {k: v for k, v in p.extras.items() if k != "seconds"}) for p in points]


def same(one, other):
    """Whether two agents have learned the same and say the same, to the bit."""
    said = []
    for each in (one, other):
        torch.manual_seed(0)  # some draw even their best known action
        said.append(each.predict(SEEN, deterministic=True)[0])
    return told(one.curve) == told(other.curve) and np.array_equal(*said) and one.num_timesteps == other.num_timesteps
