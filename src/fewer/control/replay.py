"""What was experienced, in a ring: the newest transitions are kept, and any of them can be drawn at once.

A transition lies in one row of one matrix, so that drawing a batch is a single gather.  ``terminated`` says
that nothing follows; an episode that was cut off at a time limit is not terminated, and what would have
followed is kept as its successor.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.core.ring import Ring


@dataclass(frozen=True)
class Batch:
    """Transitions that were drawn together.

    Parameters
    ----------
    observations, next_observations : float tensor (batch, observations)
        Before and after the action; the latter is the true successor even where an episode ended there.
    actions : float tensor (batch, actions)
        What was done, in [-1, 1].
    rewards : float tensor (batch,)
        What it paid.
    continues : float tensor (batch,)
        0 where the episode terminated, 1 elsewhere, time limits included.
    returns : float tensor (batch,), optional
        What all that followed paid, discounted, where somebody knows it; minus infinity in rows of which nobody does.
    """

    observations: Float[Tensor, "batch observations"]
    actions: Float[Tensor, "batch actions"]
    rewards: Float[Tensor, " batch"]
    next_observations: Float[Tensor, "batch observations"]
    continues: Float[Tensor, " batch"]
    returns: Float[Tensor, " batch"] | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def join(cls, *batches: Batch) -> Batch:
        """Put batches one after another."""
        if len(batches) == 1:
            return batches[0]
        joined = map(torch.cat, zip(*map(_fields, batches), strict=True))
        if all(batch.returns is None for batch in batches):
            return cls(*joined)
        known = [
            torch.full_like(batch.rewards, -torch.inf) if batch.returns is None else batch.returns for batch in batches
        ]
        return cls(*joined, returns=torch.cat(known))


def _fields(batch: Batch) -> tuple[Tensor, ...]:
    return batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues


class Replay:
    """A ring of transitions with vectors as observations.

    Parameters
    ----------
    capacity : int
        Transitions kept; when it is full, the oldest one makes room.
    observations, actions : int
        Numbers in an observation and in an action.

    Raises
    ------
    FewerError
        If it would not fit into the memory that is free.

    Examples
    --------
    >>> replay = Replay(2, observations=3, actions=1)
    >>> for reward in (1.0, 2.0, 3.0):
    ...     replay.add(torch.zeros(1, 3), torch.zeros(1, 1), torch.tensor([reward]), torch.ones(1, 3), torch.tensor([False]))
    >>> len(replay), sorted(replay.take(torch.tensor([0, 1])).rewards.tolist())
    (2, [2.0, 3.0])
    """

    def __init__(self, capacity: int, observations: int, actions: int) -> None:
        if capacity < 1:
            raise FewerError(f"replay: a capacity of {capacity} holds nothing; give 1 or more")
        self.capacity = capacity
        self.widths = (observations, actions, observations, 1, 1)
        needed, free = 4 * capacity * sum(self.widths), free_memory()
        if needed > free:
            raise FewerError(
                f"replay: {capacity:,} transitions of {sum(self.widths)} numbers take {needed / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} GiB are free; lower the capacity"
            )
        self._ring = Ring(capacity, sum(self.widths))
        self._rows = self._ring.rows

    @property
    def added(self) -> int:
        """Transitions that ever came."""
        return self._ring.added

    def __len__(self) -> int:
        return len(self._ring)

    def add(
        self,
        observations: Float[Tensor, "copies observations"],
        actions: Float[Tensor, "copies actions"],
        rewards: Float[Tensor, " copies"],
        next_observations: Float[Tensor, "copies observations"],
        terminated: Tensor,
    ) -> None:
        """Take in one transition of each copy."""
        rows = torch.cat(
            [observations, actions, next_observations, rewards[:, None], 1 - terminated[:, None].to(rewards.dtype)],
            dim=1,
        )
        self._ring.append(rows)

    def sample(self, count: int) -> Batch:
        """Draw transitions uniformly, with replacement, from torch's global generator."""
        if not self.added:
            raise FewerError("replay: it is empty, so nothing can be drawn; add transitions first")
        return self.take(torch.randint(len(self), (count,)))

    def take(self, places: Int[Tensor, " batch"]) -> Batch:
        """Give the transitions at these places of the ring."""
        rows = self._rows.index_select(0, places)
        observations, actions, successors, rewards, continues = rows.split(self.widths, dim=1)
        return Batch(observations, actions, rewards[:, 0], successors, continues[:, 0])

    def state_dict(self) -> dict[str, Any]:
        """What is held, for a checkpoint."""
        return {"rows": self._ring}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up what was held."""
        self._ring.take_up(tree["rows"])


def free_memory() -> int:
    """Bytes that could be had, as far as the system says so."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            available = next(line for line in file if line.startswith("MemAvailable"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
