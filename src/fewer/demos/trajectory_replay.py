"""Memory of whole episodes that stretches of them are drawn from, the oldest forgotten first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Observations, parts, unparts
from fewer.demos.observation_tensors import ObservationTensors


@dataclass(frozen=True)
class Trajectory:
    """One episode, with what the base policy would have done at each step.

    Parameters
    ----------
    observations : array (n + 1, ...), or a dict of arrays
        From the first to the final one.
    actions : float array (n, action)
        What was done, in [-1, 1].
    plans : float array (n + 1, chunk, action)
        What the base policy would do from there, in [-1, 1].
    terminated : bool
        Whether the world ended it.
    """

    observations: Observations
    actions: Float[np.ndarray, "n action"]
    plans: Float[np.ndarray, "n+1 chunk action"]
    terminated: bool

    def __len__(self) -> int:
        return len(self.actions)


class Sequences(NamedTuple):
    """Stretches of episodes, one after another where one ends.

    Parameters
    ----------
    numbers : float tensor (batch, length, width)
        What is seen.
    images : mapping of str to float tensor (batch, length, channels, height, width)
        Likewise.
    actions : float tensor (batch, length, action)
        What was done before, in [-1, 1]; not looked at where an episode begins.
    first : bool tensor (batch, length)
        Where an episode begins.
    goes_on : bool tensor (batch, length)
        False where the world has ended the episode.
    plans : float tensor (batch, length, chunk, action)
        What the base policy would do from there.
    """

    numbers: Float[Tensor, "batch length width"]
    images: Mapping[str, Tensor]
    actions: Float[Tensor, "batch length action"]
    first: Bool[Tensor, "batch length"]
    goes_on: Bool[Tensor, "batch length"]
    plans: Float[Tensor, "batch length chunk action"]


class TrajectoryReplay:
    """Some episodes.

    Parameters
    ----------
    seen : ObservationTensors
        What is seen.
    capacity : int, optional
        The most steps that are kept; whole episodes are forgotten.
    """

    def __init__(self, seen: ObservationTensors, capacity: int | None = None) -> None:
        self.seen, self.capacity = seen, capacity
        self.trajectories: list[Trajectory] = []
        self._rows = None

    @property
    def steps(self) -> int:
        """Steps that are kept."""
        return sum(map(len, self.trajectories))

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Remember more episodes."""
        self.trajectories = [*self.trajectories, *trajectories]
        if self.capacity is not None:
            steps = self.steps
            while len(self.trajectories) > 1 and steps > self.capacity:
                steps -= len(self.trajectories.pop(0))
        self._rows = None

    def draw(self, batch: int, length: int, stream: torch.Generator, device: torch.device | str = "cpu") -> Sequences:
        """Stretches that begin anywhere; where an episode ends, the next one follows."""
        if not self.trajectories:
            raise FewerError("replay: there is no episode to draw from; act first")
        self._rows = self._rows or self._joined()
        observations, actions, plans, first, goes_on = self._rows
        start = torch.randint(len(first), (batch, 1), generator=stream)
        rows = ((start + torch.arange(length)) % len(first)).flatten()
        numbers, images = self.seen({key: array[rows.numpy()] for key, array in observations.items()}, device)

        def shaped(tensor: Tensor) -> Tensor:
            return tensor.to(device).unflatten(0, (batch, length))

        return Sequences(
            shaped(numbers),
            {key: shaped(image) for key, image in images.items()},
            *(shaped(each[rows]) for each in (actions, first, goes_on, plans)),
        )

    def _joined(self) -> tuple[dict[str, np.ndarray], Tensor, Tensor, Tensor, Tensor]:
        every = self.trajectories
        keys = parts(every[0].observations)
        observations = {key: np.concatenate([parts(each.observations)[key] for each in every]) for key in keys}
        # the action of a row is the one that led there
        actions = [np.concatenate([np.zeros_like(each.plans[:1, 0]), each.actions]) for each in every]
        ends = np.cumsum([len(each) + 1 for each in every])
        first, goes_on = np.zeros(ends[-1], dtype=bool), np.ones(ends[-1], dtype=bool)
        first[np.concatenate([[0], ends[:-1]])] = True
        goes_on[ends - 1] = [not each.terminated for each in every]
        plans = np.concatenate([each.plans for each in every])
        tensors = [
            torch.from_numpy(np.ascontiguousarray(each)) for each in (np.concatenate(actions), plans, first, goes_on)
        ]
        return observations, tensors[0].float(), tensors[1].float(), tensors[2], tensors[3]


def side_by_side(trajectories: Sequence[Observations], time: int) -> Observations:
    """What is seen at one time of several episodes, the last observation where one is over.

    Examples
    --------
    >>> side_by_side([np.arange(3.0), np.arange(10.0, 12.0)], 2)
    array([ 2., 11.])
    """
    given = [parts(each) for each in trajectories]
    return unparts({key: np.stack([each[key][min(time, len(each[key]) - 1)] for each in given]) for key in given[0]})
