"""Frames stacked: the last few images as one observation, so that what moves can be seen to move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from fewer.control.observed import Observed

if TYPE_CHECKING:
    from fewer.control.environments import Step, Worlds
    from fewer.demos.demonstrations import Demonstrations


class StackedWorlds:
    """Copies whose observations hold the last frames of each image; at the beginning of an episode, the first one repeated.

    Parameters
    ----------
    inner : Worlds
        The copies, of which an observation holds one frame.
    observed : Observed
        With the stack.
    """

    def __init__(self, inner: Worlds, observed: Observed) -> None:
        self.inner, self.copies, self.observed = inner, inner.copies, observed
        self._single = replace(observed, stack=1)
        self._past = torch.zeros(self.copies, observed.stack, observed.pixels, dtype=torch.uint8)

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Start episodes."""
        rows = torch.from_numpy(self.inner.reset(seeds))
        chosen = list(seeds)
        self._past[chosen] = self._single.frames(rows)
        return self._stacked(rows, self._past[chosen])

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """Act in all copies; the oldest frame goes in those whose episode goes on."""
        step = self.inner.step(actions)
        rows, going = torch.from_numpy(step.observations), torch.from_numpy(step.taken > 0)
        moved = torch.cat([self._past[:, 1:], self._single.frames(rows)], dim=1)
        self._past = torch.where(going[:, None, None], moved, self._past)
        return replace(step, observations=self._stacked(rows, self._past))

    def _stacked(self, rows: torch.Tensor, frames: torch.Tensor) -> Float32[np.ndarray, "copies observations"]:
        return self.observed.join(self._single.split(rows)[0], frames).numpy()

    def close(self) -> None:
        """Free what they hold."""
        self.inner.close()


class StackedDemonstrations:
    """Demonstrations of which each observation shows one frame, seen as copies with stacked frames would have seen them.

    Parameters
    ----------
    demonstrations : Demonstrations
        With one frame of each image.
    rows : float array (steps, observations)
        Their observations, flat.
    observed : Observed
        With the stack.
    """

    def __init__(
        self, demonstrations: Demonstrations, rows: Float32[np.ndarray, "steps observations"], observed: Observed
    ) -> None:
        self.observed, self._single = observed, replace(observed, stack=1)
        self._rows = torch.from_numpy(rows)
        self._frames = self._single.frames(self._rows)[:, 0]
        self._begin = demonstrations.offsets[demonstrations.episode_of_step()]

    def at(self, steps: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "n observations"]:
        """What is seen at some steps."""
        return self._joined(self._rows[torch.from_numpy(steps)], self._past(steps, self.observed.stack))

    def after(
        self, steps: Int[np.ndarray, " n"], following: Float32[np.ndarray, "n observations"]
    ) -> Float32[np.ndarray, "n observations"]:
        """What is seen after some steps, of which the newest frames are in ``following``."""
        rows = torch.from_numpy(following)
        past = self._past(steps, self.observed.stack - 1)
        return self._joined(rows, torch.cat([past, self._single.frames(rows)], dim=1))

    def _past(self, steps: Int[np.ndarray, " n"], count: int) -> torch.Tensor:
        """The last frames up to some steps; at the beginning of an episode, the first one repeated."""
        back = steps[:, None] + np.arange(1 - count, 1)
        return self._frames[torch.from_numpy(np.maximum(back, self._begin[steps, None]))]

    def _joined(self, rows: torch.Tensor, frames: torch.Tensor) -> Float32[np.ndarray, "n observations"]:
        return self.observed.join(self._single.split(rows)[0], frames).numpy()
