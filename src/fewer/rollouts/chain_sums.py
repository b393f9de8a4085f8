"""Sums of digits modulo ten, worked out in a chain: problems on which small language models learn to reason.

A prompt shows 2 to 8 digits, a completion writes the running sums and then ``A`` and the answer.  The model to begin from
imitates a solver that makes mistakes, skips steps, repeats itself or works in a style that suits some problems only, so that
rewards can teach it what imitation cannot: which of its habits lead to right answers, and at which length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import generator
from fewer.rollouts.characters import Characters, imitating
from fewer.rollouts.problems import Language, Problem, Problems

ALPHABET = Characters("0123456789=RA. FHD", end=".", pad=" ")
CELLS = 8
"""Digits of a prompt at most; shorter ones are filled up with blanks, so that all prompts have one width."""
Habit = Literal["rechecks", "copies", "strides", "wanders"]


@dataclass(frozen=True)
class ChainSums(Problems):
    """Problems of one habit of the solver that is imitated.

    Parameters
    ----------
    habit : {"rechecks", "copies", "strides", "wanders"}, default "rechecks"
        ``rechecks``: the chain, then none, one or two further attempts, each begun with ``R`` and wrong on its own; the
        answer is the last one's.  ``copies``: the chain, then up to two copies of it, which change nothing.  ``strides``:
        ``F`` and the whole chain, ``H`` and every second sum, or ``D`` and the answer at once.  ``wanders``: a chain that
        went wrong is followed by two or three further ones, all wrong, so that failures are longer than successes.
    err : float, optional
        How often a chain goes wrong somewhere; 0.5 (copies and wanders: 0.4, strides: 0) by default.
    short : float, default 0.3
        With ``rechecks``: how often the chain is skipped and the answer guessed, right half of the time.
    digits : (int, int), default (2, 8)
        Fewest and most digits.
    steps : int, default 600
        Updates of the model to begin from.
    rows : int, default 4096
        Problems to learn from.
    longest : int, default 30
        Tokens of a completion.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> task = ChainSums()
    >>> problem = task.training(seed=0)[0]
    >>> len(problem.prompt), task.verify(f"A{problem.answer}", problem), task.verify("12", problem)
    (9, 1.0, 0.0)
    """

    habit: Habit = "rechecks"
    err: float | None = None
    short: float = 0.3
    digits: tuple[int, int] = (2, 8)
    steps: int = 600
    rows: int = 4096
    longest: int = 30

    def __post_init__(self) -> None:
        least, most = self.digits
        if self.habit not in ("rechecks", "copies", "strides", "wanders"):
            raise FewerError(f"chain-sums: habit is {self.habit!r}; choose rechecks, copies, strides or wanders")
        if not (0 <= self.errs <= 1 and 0 <= self.short <= 1 and 1 <= least <= most <= CELLS):
            raise FewerError(f"chain-sums: err and short lie in [0, 1], digits in 1 to {CELLS}; given {self}")
        if min(self.steps, self.rows, self.longest) < 1:
            raise FewerError(f"chain-sums: steps, rows and longest must be at least 1; given {self}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """With its habit."""
        return f"chain-sums({self.habit!r})"

    @property
    def errs(self) -> float:
        """How often a chain goes wrong."""
        by_habit = {"copies": 0.4, "wanders": 0.4, "strides": 0.0}
        return by_habit.get(self.habit, 0.5) if self.err is None else self.err

    def fingerprint(self) -> str:
        """All that it is made of."""
        return fingerprint("chain-sums", repr(self))

    def language(self, seed: int) -> Language:
        """The imitator."""
        depends_on = ("chain-sums", self.habit, str((self.errs, self.short, self.digits)))
        return ALPHABET.language(imitating(ALPHABET, self.solved, depends_on, seed, steps=self.steps))

    def training(self, seed: int) -> Sequence[Problem]:
        """Random digits."""
        return self.problems(generator(seed, "training problems"), self.rows)

    def held_out(self, seed: int) -> Sequence[Problem]:
        """512 others."""
        return self.problems(generator(seed, "held-out problems"), 512)

    def problems(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Draw so many."""
        found = []
        for row in self.drawn(rng, count):
            digits = "".join(map(str, row[row >= 0]))
            answer = str(int(row[row >= 0].sum()) % 10)
            found.append(Problem(f"{digits:<{CELLS}}=", answer, {"digits": len(digits)}))
        return found

    def drawn(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "problems cells"]:
        """Digits, -1 in cells that are blank."""
        values = rng.integers(0, 10, (count, CELLS))
        lengths = rng.integers(self.digits[0], self.digits[1] + 1, count)
        return np.where(np.arange(CELLS) < lengths[:, None], values, -1)

    def verify(self, completion: str, problem: Problem) -> float:
        """1 if it ends with ``A`` and the answer."""
        return float(completion.endswith("A" + problem.answer))

    # --- the solver that is imitated ------------------------------------------------------------------------------

    def solved(
        self, rng: np.random.Generator, count: int
    ) -> tuple[Int[np.ndarray, "texts length"], Int[np.ndarray, " texts"]]:
        """Problems and what the solver writes, as tokens."""
        texts = []
        for row in self.drawn(rng, count):
            digits = row[row >= 0]
            prompt = "".join(map(str, digits)).ljust(CELLS)
            texts.append(ALPHABET.encode(f"{prompt}={self._written(digits, rng)}."))
        width, pad = max(map(len, texts)), ALPHABET.alphabet.index(ALPHABET.pad)
        filled = np.array([text + [pad] * (width - len(text)) for text in texts])
        return filled, np.full(count, CELLS + 1)

    def _written(self, digits: np.ndarray, rng: np.random.Generator) -> str:
        if self.habit == "rechecks":
            if rng.random() < self.short:
                right = int(digits.sum()) % 10
                return f"A{right if rng.random() < 0.5 else (right + rng.integers(1, 10)) % 10}"
            chains = [self._chain(digits, rng) for _ in range(1 + rng.choice(3, p=[0.4, 0.35, 0.25]))]
        elif self.habit == "copies":
            chains = [self._chain(digits, rng)] * (1 + int(rng.integers(3)))
        elif self.habit == "wanders":
            chains = [self._chain(digits, rng)]
            if int(chains[0][-1]) != digits.sum() % 10:
                chains += [self._chain(digits, rng, wrong=True) for _ in range(rng.integers(2, 4))]
        else:
            return self._strode(digits, rng)
        return f"{'R'.join(chains)}A{chains[-1][-1]}"

    def _chain(self, digits: np.ndarray, rng: np.random.Generator, wrong: bool = False) -> str:
        sums = digits.cumsum()
        if wrong or rng.random() < self.errs:
            # from one place on, all sums are off by the same amount
            sums = sums + rng.integers(1, 10) * (np.arange(len(sums)) >= rng.integers(len(sums)))
        return "".join(map(str, sums % 10))

    def _strode(self, digits: np.ndarray, rng: np.random.Generator) -> str:
        mode = "FHD"[rng.integers(3)]
        # each second sum, counted from the end so that the last is among them
        step = {"F": 1, "H": 2, "D": len(digits)}[mode]
        chain = self._chain(digits, rng)[::-1][::step][::-1]
        return f"{mode}{chain}A{chain[-1]}" if mode != "D" else f"D{'A'}{chain[-1]}"
