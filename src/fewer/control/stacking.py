"""Frames stacked: the last few images as one observation, so that what moves can be seen to move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32

from fewer.control.observed import Observed

if TYPE_CHECKING:
    from fewer.control.environments import Step, Worlds


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
