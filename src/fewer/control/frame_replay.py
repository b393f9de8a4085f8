"""A memory of images that stores each frame once.

A transition of stacked images is two stacks of T frames each, and neighbouring transitions share nearly all of them: kept apart,
each frame would lie in memory 2 T times.  Here frames lie in a ring in the order in which they came, and a transition holds their
numbers; it is put together when it is drawn.  Vectors that are observed beside the images lie with the transition.

Whether a frame is there already is seen by comparing it with those that came last, so whoever adds transitions needs to say
nothing of episodes: an observation that is not the successor of the transition before it begins with new frames.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fewer.control.environments import Environment
from fewer.control.observed import Observed
from fewer.control.replay import Batch, Replay, free_memory
from fewer.core.errors import FewerError
from fewer.core.ring import Ring


class FrameReplay(Replay):
    """A ring of transitions whose observations hold images.

    Parameters
    ----------
    capacity : int
        Transitions kept.
    observed : Observed
        Where images lie in an observation.
    actions : int
        Numbers in an action.
    frames : int, optional
        Frames kept; by default an eighth more than transitions, which is enough for episodes of eight steps or more.  Where
        they do not suffice, the oldest transitions go before there are ``capacity`` of them.

    Raises
    ------
    FewerError
        If it would not fit into memory that is free, or not hold a single transition.

    Examples
    --------
    >>> from fewer.control.observed import Part
    >>> replay = FrameReplay(100, Observed((Part((8, 8, 1), image=True),), stack=3), actions=2)
    >>> for step in range(5):
    ...     before, after = (torch.arange(-2.0, 1).add(step + late).clamp(min=0).repeat_interleave(64)[None] for late in (0, 1))
    ...     replay.add(before, torch.zeros(1, 2), torch.zeros(1), after, torch.tensor([False]))
    >>> len(replay), replay.stored, replay.sample(4).observations.shape
    (5, 6, torch.Size([4, 192]))
    """

    def __init__(self, capacity: int, observed: Observed, actions: int, frames: int | None = None) -> None:
        if not observed.images:
            raise FewerError("frame replay: no part of an observation is an image; take a Replay")
        least = 2 * observed.stack
        length = max(capacity + capacity // 8 + 16, 4 * least) if frames is None else frames
        if length < least:
            raise FewerError(
                f"frame replay: {length} frames hold no transition of {observed.stack} stacked frames; give at least {least}"
            )
        width = 2 * observed.vector + actions + 2
        needed = length * (observed.pixels + 8) + max(capacity, 0) * (4 * width + 8 * least)
        free = free_memory()
        if needed > free:
            raise FewerError(
                f"frame replay: {capacity:,} transitions with frames of {observed.pixels:,} bytes take {needed / 2**30:.1f} "
                f"GiB and {free / 2**30:.1f} GiB are free; lower the capacity"
            )
        super().__init__(capacity, observed.vector, actions)
        self.observed = observed
        self._frames = Ring(length, observed.pixels, dtype=torch.uint8)
        self._numbers = Ring(capacity, least, dtype=torch.long)
        # of each place for a frame, the newest transition that needs what lies there
        self._needed_by = torch.full((length,), -1)
        self._lost = 0  # transitions before this one may miss a frame
        self._last: dict[int, Int[Tensor, " stack"]] = {}  # of each copy, the frames that it saw last

    @property
    def stored(self) -> int:
        """Frames that ever were stored."""
        return self._frames.added

    @property
    def _oldest(self) -> int:
        return max(self._ring.oldest, self._lost)

    def __len__(self) -> int:
        return self.added - self._oldest

    def add(
        self,
        observations: Float[Tensor, "copies observations"],
        actions: Float[Tensor, "copies actions"],
        rewards: Float[Tensor, " copies"],
        next_observations: Float[Tensor, "copies observations"],
        terminated: Tensor,
    ) -> None:
        """Take in one transition of each copy, or transitions one after another."""
        observed = self.observed
        before, after = observed.frames(observations), observed.frames(next_observations)
        vectors, successors = observed.split(observations)[0], observed.split(next_observations)[0]
        newest: Int[Tensor, " stack"] | None = None
        for row in range(len(rewards)):
            known = self._find(before[row], (self._last.get(row), newest))
            numbers = self._store(before[row]) if known is None else known
            # the frames of the transition itself must stay while those of its successor are stored
            self._needed_by[numbers % self._frames.capacity] = self.added
            newest = self._follow(after[row], before[row], numbers)
            self._last[row] = newest
            self._needed_by[newest % self._frames.capacity] = self.added
            self._numbers.append(torch.cat([numbers, newest])[None])
            one = slice(row, row + 1)
            super().add(vectors[one], actions[one], rewards[one], successors[one], terminated[one])

    def _find(
        self, frames: UInt8[Tensor, "stack pixels"], candidates: tuple[Int[Tensor, " stack"] | None, ...]
    ) -> Int[Tensor, " stack"] | None:
        """Where these frames lie already, if that is in one of these places."""
        for numbers in candidates:
            if numbers is not None and torch.equal(self._frames.rows[numbers % self._frames.capacity], frames):
                return numbers
        return None

    def _store(self, frames: UInt8[Tensor, "stack pixels"]) -> Int[Tensor, " stack"]:
        """Store frames, those that repeat the one before them once; gives their numbers."""
        new = torch.ones(len(frames), dtype=torch.bool)
        new[1:] = (frames[1:] != frames[:-1]).any(1)
        first = self.stored
        places = torch.arange(first, first + int(new.sum())) % self._frames.capacity
        self._lost = max(self._lost, int(self._needed_by[places].max()) + 1)
        self._frames.append(frames[new])
        return first + new.cumsum(0) - 1

    def _follow(
        self,
        after: UInt8[Tensor, "stack pixels"],
        before: UInt8[Tensor, "stack pixels"],
        numbers: Int[Tensor, " stack"],
    ) -> Int[Tensor, " stack"]:
        """Numbers of the successor's frames, of which all but the newest are there if it is the very next one."""
        if torch.equal(after[:-1], before[1:]):
            return torch.cat([numbers[1:], self._store(after[-1:])])
        return self._store(after)

    def take(self, places: Int[Tensor, " batch"]) -> Batch:
        """Give transitions, counted from the oldest that is held."""
        places = (self._oldest + places) % self.capacity
        batch = super().take(places)
        numbers = self._numbers.rows[places] % self._frames.capacity
        frames = self._frames.rows.index_select(0, numbers.flatten()).view(*numbers.shape, -1)
        before, after = frames.chunk(2, dim=1)
        observed = self.observed
        return Batch(
            observed.join(batch.observations, before),
            batch.actions,
            batch.rewards,
            observed.join(batch.next_observations, after),
            batch.continues,
        )

    def state_dict(self) -> dict[str, Any]:
        """What is held, for a checkpoint."""
        last = {str(copy): numbers for copy, numbers in self._last.items()}
        return {
            **super().state_dict(),
            "frames": self._frames,
            "numbers": self._numbers,
            "lost": self._lost,
            "last": last,
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up what was held."""
        super().load_state_dict(tree)
        self._frames.take_up(tree["frames"])
        self._numbers.take_up(tree["numbers"])
        self._lost = tree["lost"]
        self._last = {int(copy): numbers for copy, numbers in tree["last"].items()}
        held = torch.arange(self._ring.oldest, self.added)
        numbers = self._numbers.numbered(self._ring.oldest, self.added)
        self._needed_by.fill_(-1)
        self._needed_by.scatter_reduce_(
            0, (numbers % self._frames.capacity).flatten(), held.repeat_interleave(numbers.shape[1]), "amax"
        )


def memory_for(environment: Environment, capacity: int) -> Replay:
    """A memory for transitions of an environment: one that stores each frame once, where images are seen."""
    if environment.observed is not None:
        return FrameReplay(capacity, environment.observed, environment.action_size)
    return Replay(capacity, environment.observation_size, environment.action_size)
