"""Verdicts and steps, for the tests of learned rewards."""

from __future__ import annotations

import numpy as np
from torch import nn

from fewer.control.environments import Step

SMALL = {"hidden": (8, 8)}


class Above(nn.Module):
    """Success is a first number above a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def success(self, observations):
        return observations[:, 0] > self.bound


def step_of(first, **flags):
    count = len(first)
    fields = {name: np.array(flags.get(name, [False] * count)) for name in ("terminated", "truncated", "success")}
    seen = np.array(first, dtype=np.float32)[:, None]
    return Step(seen, np.full(count, 7.0), taken=np.ones(count, dtype=np.int64), **fields)
