"""Which prompts are learned from: what fills the slot ``curation``, and the streams that they build."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.tasks.rounds import Rounds


class PromptStream(Protocol):
    """What a curation builds for one run; its state is saved with the run."""

    @abstractmethod
    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """Places of the next prompts, ``count`` at most and one at least."""
        ...

    def record(self, places: Int[np.ndarray, " prompts"], correct: Float[np.ndarray, " prompts"]) -> bool:
        """Hear which share of each prompt's rollouts was right; true if the model shall begin anew, which is never by default."""
        return False

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What changes while the run goes on."""
        ...

    @abstractmethod
    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        ...


class Curation(Protocol):
    """Which prompts are learned from."""

    @abstractmethod
    def build(self, prompts: int, seed: int) -> PromptStream:
        """For a run with so many prompts."""
        ...

    def least(self, prompts: int) -> int:
        """How many are drawn, of so many, before it does what it is for; one by default."""
        return 1


@dataclass(frozen=True)
class Uniform(Curation):
    """All prompts in rounds, each round in another order."""

    def build(self, prompts: int, seed: int) -> PromptStream:
        """Begin."""
        return UniformStream(Rounds(prompts, generator(seed, "prompts")))


class UniformStream(PromptStream):
    """What :class:`Uniform` builds.

    Parameters
    ----------
    rounds : Rounds
        Deals.
    """

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """The next of the round."""
        return self.rounds.draw(count)

    def state_dict(self) -> dict[str, Any]:
        """Of the rounds."""
        return self.rounds.state_dict()

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        self.rounds.load_state_dict(tree)


@dataclass(frozen=True)
class Chosen(Curation):
    """Learn from some prompts only; fills the slot ``curation``.

    Parameters
    ----------
    places : tuple of int
        Which, among all that the task has.
    """

    places: tuple[int, ...]

    def build(self, prompts: int, seed: int) -> PromptStream:
        """Begin.

        Raises
        ------
        FewerError
            If there is none, or no such prompt.
        """
        if not self.places or not 0 <= min(self.places) <= max(self.places) < prompts:
            raise FewerError(
                f"chosen prompts: places lie in 0 to {prompts - 1}, and there is at least one; given {self.places}"
            )
        return ChosenStream(np.array(self.places), Rounds(len(self.places), generator(seed, "prompts")))


class ChosenStream(UniformStream):
    """What :class:`Chosen` builds.

    Parameters
    ----------
    places : int array
        Of the prompts.
    rounds : Rounds
        Deals.
    """

    def __init__(self, places: Int[np.ndarray, " chosen"], rounds: Rounds) -> None:
        super().__init__(rounds)
        self.places = places

    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """The next of the round."""
        return self.places[super().draw(count)]
