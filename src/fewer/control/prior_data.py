"""Prior data: what somebody else did in the environment, and batches of which a share comes from it.

References
----------
Ball et al., "Efficient Online Reinforcement Learning with Offline Data", ICML 2023, arXiv:2302.02948.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewer.control.environments import Environment
from fewer.control.frame_replay import memory_for
from fewer.control.loop import OffPolicyState, Source, Stateless
from fewer.control.replay import Batch, Replay
from fewer.core.errors import FewerError
from fewer.core.seeding import derive
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import load

EPISODES = 16
"""Demonstrations with images that are turned into rows at a time."""


def given_demonstrations(environment: Environment, demos: str | None, seed: int) -> Demonstrations:
    """From a file, or else those that the task has.

    Parameters
    ----------
    environment : Environment
        The task.
    demos : str, optional
        A file, a folder, or the id of a Minari data set.
    seed : int
        Of the run; a generated task gives other demonstrations for another seed.

    Raises
    ------
    FewerError
        If there are none.
    """
    return environment.demonstrations(derive(seed, "demonstrations")) if demos is None else load(demos)


def as_memory(demonstrations: Demonstrations, environment: Environment) -> Replay:
    """Remember all transitions of some demonstrations.

    Parameters
    ----------
    demonstrations : Demonstrations
        With rewards; actions in the environment's own units.
    environment : Environment
        Where they are from.

    Raises
    ------
    FewerError
        If they are of another environment, or say nothing of rewards.
    """
    # pictures become large as rows of numbers, so not all of them at once
    count = len(demonstrations)
    each = count if environment.observed is None else EPISODES
    memory: Replay | None = None
    for begin in range(0, count, each):
        part = demonstrations if each == count else demonstrations.keep(np.arange(begin, min(begin + each, count)))
        batch = environment.transitions(part)
        if memory is None:
            memory = memory_for(environment, len(batch) if each == count else demonstrations.steps)
        memory.add(batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues == 0)
    assert memory is not None
    return memory


@dataclass(frozen=True)
class Symmetric:
    """A fixed share of every batch from prior data, the rest from what was experienced.

    Parameters
    ----------
    demos : str, optional
        Where the prior data are: a file, a folder, or the id of a Minari data set; by default the task's own.
    share : float, default 0.5
        Of each batch, from prior data.
    """

    demos: str | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise FewerError(f"symmetric: the share of prior data is {self.share}; give more than 0 and at most 1")

    def build(self, state: OffPolicyState) -> Source:
        """Load the prior data."""
        prior = as_memory(given_demonstrations(state.task, self.demos, state.seed), state.task)
        return SymmetricSource(state.replay, prior, self.share)


class SymmetricSource(Stateless):
    """What :class:`Symmetric` builds.

    Parameters
    ----------
    online, prior : Replay
        What was experienced, and what was given.
    share : float
        Of each batch, from ``prior``.
    """

    def __init__(self, online: Replay, prior: Replay, share: float) -> None:
        self.online, self.prior, self.share = online, prior, share

    def draw(self, count: int) -> Batch:
        """Draw; the rows of prior data come last."""
        given = round(count * self.share)
        if given == count:
            return self.prior.sample(count)
        return (
            Batch.join(self.online.sample(count - given), self.prior.sample(given))
            if given
            else self.online.sample(count)
        )
