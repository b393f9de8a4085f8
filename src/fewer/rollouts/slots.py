"""What else may be said of a step: how long completions may be, how they are drawn, what they are worth, what is learned from.

Prompts, advantages and objectives have files of their own: :mod:`fewer.rollouts.curations`, :mod:`fewer.rollouts.advantages` and
:mod:`fewer.rollouts.objectives`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.rollouts.decoding import Sampled
from fewer.rollouts.experience import Experience


class Lengths(Protocol):
    """How many tokens a completion may have."""

    @abstractmethod
    def cap(self, step: int, longest: int) -> int:
        """At a step, from 1 to ``longest``."""
        ...


@dataclass(frozen=True)
class FixedLength(Lengths):
    """The same throughout.

    Parameters
    ----------
    tokens : int, optional
        How many; as many as the task allows, by default.
    """

    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise FewerError(f"fixed length: tokens must be at least 1; given {self.tokens}")

    def cap(self, step: int, longest: int) -> int:
        """Always the same."""
        return longest if self.tokens is None else self.tokens


class Sampler(Protocol):
    """How completions are drawn: at which temperature; the rest is that of drawing from the model itself.

    Attributes
    ----------
    top_p : float
        Smallest share of the probability that is drawn from.
    """

    top_p: float

    @abstractmethod
    def temperature(self, step: int) -> float | Callable[[int], float]:
        """What logits are divided by, of every token or by the token's place in the completion."""
        ...

    def check(self, longest: int) -> None:
        """Warn of completions too short for it; none is, by default."""

    def old(self, sampled: Sampled) -> Float[Tensor, "rollouts new"]:
        """Log-probabilities that ratios are taken to; the model's own by default."""
        return sampled.logps

    def weights(self, sampled: Sampled) -> Float[Tensor, "rollouts new"] | None:
        """What each token's loss is multiplied by; None, the default, for 1."""
        return None


@dataclass(frozen=True)
class Ancestral(Sampler):
    """From the model's own distribution, or from that at another temperature.

    Parameters
    ----------
    tau : float, default 1
        What logits are divided by.
    top_p : float, default 1
        Smallest share of the probability that is drawn from.
    """

    tau: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and 0 < self.top_p <= 1):
            raise FewerError(f"ancestral sampling: tau must be positive and top_p in (0, 1]; given {self}")

    def temperature(self, step: int) -> float:
        """The same for all."""
        return self.tau


class Shaping(Protocol):
    """What a completion is worth, from what the verifier said."""

    @abstractmethod
    def __call__(
        self,
        rewards: Float[Tensor, "prompts group"],
        correct: Bool[Tensor, "prompts group"],
        lengths: Int[Tensor, "..."],
    ) -> Float[Tensor, "prompts group"]:
        """Of each rollout; lengths are in tokens, the one that ends it included."""
        ...


class Selector(Protocol):
    """Which rollouts and tokens are learned from."""

    @abstractmethod
    def __call__(
        self, advantages: Float[Tensor, "rollouts new"], experience: Experience, progress: float
    ) -> Bool[Tensor, "rollouts new"]:
        """Tokens that are kept; rollouts without any cost nothing."""
        ...


class Adapter(Protocol):
    """Something that is built into a frozen model and learns in its place."""

    @abstractmethod
    def attach(self, model: nn.Module) -> nn.Module:
        """Build it in; its parameters alone want gradients."""
        ...
