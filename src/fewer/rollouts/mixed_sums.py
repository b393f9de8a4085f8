"""A pool of sums of which some are trivial, some cannot be learned, and some are worth learning from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewer.core.seeding import generator
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.problems import Problem

SHARES = {"trivial": 0.4, "made up": 0.3, "learnable": 0.3}
"""Of the pool."""


@dataclass(frozen=True)
class MixedSums(ChainSums):
    """Sums of two digits, sums of six to eight digits, and some with answers that have nothing to do with them.

    Its options are those of :class:`~fewer.rollouts.chain_sums.ChainSums`; ``rows`` is 240 by default.  What is held out are
    sums of six to eight digits with right answers.

    Examples
    --------
    >>> kinds = [problem.row["kind"] for problem in MixedSums().training(seed=0)]
    >>> {kind: kinds.count(kind) for kind in SHARES}
    {'trivial': 96, 'made up': 72, 'learnable': 72}
    """

    rows: int = 240

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """With its habit."""
        return f"mixed-sums({self.habit!r})"

    def training(self, seed: int) -> Sequence[Problem]:
        """The pool, in random order."""
        rng = generator(seed, "pool")
        counts = {kind: round(share * self.rows) for kind, share in SHARES.items()}
        counts["learnable"] = self.rows - counts["trivial"] - counts["made up"]
        found = []
        for kind, count in counts.items():
            of_kind = replace(self, digits=(2, 2) if kind == "trivial" else (6, 8))
            for problem in of_kind.problems(rng, count):
                answer = str(rng.integers(10)) if kind == "made up" else problem.answer
                found.append(Problem(problem.prompt, answer, {**problem.row, "kind": kind}))
        return [found[place] for place in rng.permutation(len(found))]

    def held_out(self, seed: int) -> Sequence[Problem]:
        """512 that are worth learning."""
        return replace(self, digits=(6, 8)).problems(generator(seed, "held-out problems"), 512)
