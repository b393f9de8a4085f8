"""Demonstrations as transitions: what one action led to, in the units of this room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fewer.control.replay import Batch
from fewer.control.stacking import StackedDemonstrations
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations, flat

if TYPE_CHECKING:
    from fewer.control.environments import Environment


def transitions(
    demonstrations: Demonstrations, environment: Environment, length: int = 1, discount: float | None = None
) -> Batch:
    """Transitions in the loop's units: actions in [-1, 1], windows of several steps where one action stands for several.

    Parameters
    ----------
    demonstrations : Demonstrations
        With rewards; actions in the environment's own units.  Where the environment stacks frames, single ones are stacked
        alike.
    environment : Environment
        Whose bounds of actions hold for one step.
    length : int, default 1
        Steps of a window; one begins at each step, and where the episode ends in it the last action is repeated.
    discount : float, optional
        For each window; if it is given, the batch's ``returns`` say what the windows from there on paid.  An episode that
        was cut off although each of its steps cost the same is taken to go on like that.

    Raises
    ------
    FewerError
        If shapes do not fit, an action lies out of bounds, rewards are missing, or no transition is complete.
    """
    name = demonstrations.name
    seen = flat(demonstrations.observations)
    stacked = _stacked(demonstrations, seen, environment)
    if stacked is not None:
        seen = stacked.at(np.arange(len(seen)))
    actions = np.asarray(demonstrations.actions, dtype=np.float64).reshape(demonstrations.steps, -1)
    for what, found, wanted in (
        ("observations", seen.shape[1], environment.observation_size),
        ("actions", 0 if demonstrations.discrete else actions.shape[1], environment.action_size),
    ):
        if found != wanted:
            raise FewerError(
                f"{name}: {what} have {found} numbers and those of {environment.name} {wanted}; give its own"
            )
    if demonstrations.rewards is None:
        raise FewerError(f"{name}: it says nothing of rewards, which are learned from here; record them with each step")
    scaled = 2 * (actions - environment.low) / (environment.high - environment.low) - 1
    beyond = np.abs(scaled).max()
    if beyond > 1 + 1e-4:
        row = int(np.abs(scaled).max(1).argmax())
        raise FewerError(
            f"{name}: the action of step {row}, {actions[row].tolist()}, is out of the bounds of {environment.name}, "
            f"{environment.low.tolist()} to {environment.high.tolist()}; rescale or clip it"
        )
    scaled = scaled.clip(-1, 1)
    windows = demonstrations.chunks(length)
    last = windows.index[:, -1]
    following, known = demonstrations.next_observations(last)
    assert demonstrations.terminations is not None
    terminated = demonstrations.terminations[last]
    usable = known | terminated  # what follows an end does not matter
    if not usable.any():
        raise FewerError(f"{name}: no step has a successor; record the observation after each episode's last action")
    rewards = (demonstrations.rewards[windows.index] * windows.mask).sum(1)
    successors = flat(following) if stacked is None else stacked.after(last, flat(following))

    def rows(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[usable], dtype=np.float32))

    return Batch(
        rows(seen),
        rows(scaled[windows.index].reshape(len(scaled), -1)),
        rows(rewards),
        rows(successors),
        rows(~terminated),
        None if discount is None else rows(_returns(demonstrations, rewards, length, discount)),
    )


def _stacked(
    demonstrations: Demonstrations, seen: np.ndarray, environment: Environment
) -> StackedDemonstrations | None:
    """Where the environment shows the last frames of each image, and the demonstrations have single ones."""
    observed = environment.observed
    if observed is None or observed.stack == 1 or seen.shape[1] != replace(observed, stack=1).size:
        return None
    return StackedDemonstrations(demonstrations, seen, observed)


def _returns(demonstrations: Demonstrations, rewards: np.ndarray, length: int, discount: float) -> np.ndarray:
    """What the windows from each step on paid: its own, and those that begin ``length``, 2 ``length``, … steps later."""
    assert demonstrations.rewards is not None
    assert demonstrations.terminations is not None
    returns = np.asarray(rewards, dtype=np.float64).copy()
    for begin, end in zip(demonstrations.offsets[:-1], demonstrations.offsets[1:], strict=True):
        paid = demonstrations.rewards[begin:end]
        if not demonstrations.terminations[end - 1] and paid[0] < 0 and (paid == paid[0]).all():
            returns[begin:end] = length * paid[0] / (1 - discount)
            continue
        for first in range(end - 2 * length, begin - length, -length):
            # windows that begin at neighbouring steps do not overlap in what they add
            here = np.arange(max(first, begin), first + length)
            returns[here] += discount * returns[here + length]
    return returns
