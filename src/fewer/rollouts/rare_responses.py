"""Completions of three symbols of which the good ones are rare under the model that a run begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import generator
from fewer.rollouts.characters import Characters, imitating
from fewer.rollouts.preference import Preferences
from fewer.rollouts.problems import Language, Problem

SYMBOLS = Characters("abcdefgh.", end=".", pad=".")
ASKED = ("aa", "bb", "cc", "dd")
LENGTH, KNOWN = 3, 26
"""Symbols of a completion, and completions that the first model imitates: a twentieth of the 512."""


@dataclass(frozen=True)
class RareResponses(Preferences):
    """For each of four prompts a hidden word of three symbols; a completion is worth its share of right symbols.

    The model to begin from imitates 26 completions for each prompt, none of which has more than one right symbol.

    Parameters
    ----------
    slope : float, default 4
        How reliably the oracle prefers what is better.
    steps : int, default 300
        Updates of the model to begin from.

    Examples
    --------
    >>> task = RareResponses()
    >>> problem = task.training(seed=0)[0]
    >>> [task.verify(each, problem) for each in (problem.answer, "", problem.answer + "a")]
    [1.0, 0.0, 0.0]
    """

    slope: float = 4.0
    steps: int = 300
    name: str = "rare-responses"  # pyright: ignore[reportIncompatibleVariableOverride]
    longest: int = LENGTH

    def __post_init__(self) -> None:
        if not self.slope > 0 or self.steps < 1 or self.longest < LENGTH:
            raise FewerError(
                f"rare-responses: slope is positive, steps at least 1, longest at least {LENGTH}; given {self}"
            )

    def fingerprint(self) -> str:
        """All that it is made of."""
        return fingerprint("rare-responses", repr(self))

    def training(self, seed: int) -> Sequence[Problem]:
        """The four prompts."""
        rng = generator(seed, "hidden words")
        return [Problem(prompt, "".join(rng.choice(list("abcdefgh"), LENGTH))) for prompt in ASKED]

    def held_out(self, seed: int) -> Sequence[Problem]:
        """The same, often: what is learned is what is asked."""
        return list(self.training(seed)) * 64

    def verify(self, completion: str, problem: Problem) -> float:
        """Share of right symbols."""
        if len(completion) != LENGTH:
            return 0.0
        return sum(one == other for one, other in zip(completion, problem.answer, strict=True)) / LENGTH

    def language(self, seed: int) -> Language:
        """The imitator."""
        known = [self._known(problem, seed) for problem in self.training(seed)]

        def texts(
            rng: np.random.Generator, count: int
        ) -> tuple[Int[np.ndarray, "texts length"], Int[np.ndarray, " texts"]]:
            rows = [(row, known[row][rng.integers(KNOWN)]) for row in rng.integers(len(ASKED), size=count)]
            tokens = [SYMBOLS.encode(f"{ASKED[row]}{said}") for row, said in rows]
            return np.array(tokens), np.full(count, len(ASKED[0]))

        return SYMBOLS.language(imitating(SYMBOLS, texts, ("rare-responses", str(known)), seed, steps=self.steps))

    def _known(self, problem: Problem, seed: int) -> list[str]:
        rng = generator(seed, "known", problem.prompt)
        found: list[str] = []
        while len(found) < KNOWN:
            said = "".join(rng.choice(list("abcdefgh"), LENGTH))
            if said not in found and self.verify(said, problem) < 0.5:
                found.append(said)
        return found
