"""Several actions decided at once: the chunk is carried out step by step, whatever is seen meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from fewer.control.environments import Environment, Step, Worlds
from fewer.control.replay import Batch
from fewer.control.transitions import transitions
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.demos.demonstrations import Demonstrations


@dataclass(frozen=True)
class ActionChunks:
    """One decision for several steps.

    What a chunk pays is the plain sum of its steps' rewards; it ends early where its episode does, and the discount counts
    decisions, not steps.

    Parameters
    ----------
    length : int, default 4
        Steps of a chunk.
    """

    length: int = 4

    def __post_init__(self) -> None:
        if self.length < 1:
            raise FewerError(f"action chunks: a chunk of {self.length} steps was asked for; give 1 or more")

    def wrap(self, environment: Environment) -> Environment:
        """Give the environment whose actions are chunks."""
        return ChunkedEnvironment(environment, self.length)


class ChunkedEnvironment(Environment):
    """An environment whose actions are chunks of another's.

    Parameters
    ----------
    inner : Environment
        The other.
    length : int
        Steps of a chunk.
    """

    def __init__(self, inner: Environment, length: int) -> None:
        self.inner, self.length = inner, length
        self.name, self.metric = inner.name, inner.metric
        self.observation_size, self.action_size = inner.observation_size, inner.action_size * length
        self.observed = inner.observed
        self.low, self.high = np.tile(inner.low, length), np.tile(inner.high, length)
        self.longest = inner.longest * length

    def fingerprint(self) -> str:
        """By the inner one and the length."""
        return fingerprint(self.inner.fingerprint(), str(self.length))

    def make(self, copies: int) -> Worlds:
        """Make copies."""
        return ChunkedWorlds(self.inner.make(copies), self.length)

    def demonstrations(self, seed: int) -> Demonstrations:
        """The inner one's, step by step."""
        return self.inner.demonstrations(seed)

    def transitions(self, demonstrations: Demonstrations, discount: float | None = None) -> Batch:
        """A chunk from each step; where the episode ends in it, its last action is repeated."""
        return transitions(demonstrations, self.inner, self.length, discount)


class ChunkedWorlds:
    """Copies in which an action is a chunk of another environment's.

    Parameters
    ----------
    inner : Worlds
        The others.
    length : int
        Steps of a chunk.
    """

    def __init__(self, inner: Worlds, length: int) -> None:
        self.inner, self.length, self.copies = inner, length, inner.copies

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Start episodes."""
        return self.inner.reset(seeds)

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """Carry out a chunk in each copy; one whose episode ends in it waits for the others."""
        chunks = actions.reshape(self.copies, self.length, -1)
        rewards, taken = np.zeros(self.copies), np.zeros(self.copies, dtype=np.int64)
        terminated, truncated, success = np.zeros((3, self.copies), dtype=bool)
        observations = np.empty(0)
        for number in range(self.length):
            step = self.inner.step(chunks[:, number])
            going = ~(terminated | truncated)
            rewards += np.where(going, step.rewards, 0)
            taken += np.where(going, step.taken, 0)
            success |= going & step.success
            terminated, truncated = terminated | (going & step.terminated), truncated | (going & step.truncated)
            # the first observation after an end is what counts, whatever the others still do
            observations = np.where(going[:, None], step.observations, observations) if number else step.observations
            if (terminated | truncated).all():
                break
        return Step(observations, rewards, terminated, truncated, success, taken)

    def close(self) -> None:
        """Free what they hold."""
        self.inner.close()
