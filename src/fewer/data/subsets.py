"""Random parts of the training set: a new one each epoch, or one for the whole run.

The two controls that any way of choosing rows must beat at equal visits, and the draws they share
with the other samplers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from fewer.core.errors import FewerError
from fewer.data.loop import Epoch, Selection


def random_part(rng: np.random.Generator, rows: int, share: float) -> Bool[np.ndarray, " rows"]:
    """Mark ``floor(share * rows)`` rows, each as likely as any other.

    Parameters
    ----------
    rng : numpy Generator
        The randomness; nothing is drawn where all rows are kept.
    rows : int
        How many there are.
    share : float
        Of the rows, in [0, 1].

    Examples
    --------
    >>> int(random_part(np.random.default_rng(0), rows=10, share=0.7).sum())
    7
    """
    count = math.floor(share * rows + 1e-9)  # 0.7 * 10 is 7, whatever binary fractions make of it
    marked = np.full(rows, 2 * count > rows)
    # the smaller side is drawn: random access to ten million rows is what costs
    smaller = min(count, rows - count)
    marked[rng.choice(rows, smaller, replace=False, shuffle=False)] ^= True
    return marked


def shuffled(rng: np.random.Generator, marked: Bool[np.ndarray, " rows"]) -> Int[np.ndarray, " n"]:
    """Numbers of the marked rows, in random order."""
    rows = np.flatnonzero(marked)
    rng.shuffle(rows)
    return rows


def _check(name: str, keep: float) -> None:
    if not 0 < keep <= 1:
        raise FewerError(f"{name}: keep is the share of rows that are visited, above 0 and up to 1; {keep} was given")


@dataclass(frozen=True)
class DynamicRandom:
    """A new random part of the rows each epoch.

    Parameters
    ----------
    keep : float, default 0.5
        Share of the rows that are visited.

    Examples
    --------
    >>> epoch = Epoch(0, 30, 10, np.full(10, np.nan, np.float32), np.random.default_rng(0))
    >>> len(DynamicRandom(keep=0.3).select(epoch).rows)
    3
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        _check("dynamic-random", self.keep)

    def select(self, epoch: Epoch) -> Selection:
        """Draw the rows of this epoch."""
        return Selection(shuffled(epoch.rng, random_part(epoch.rng, epoch.rows, self.keep)))


@dataclass(frozen=True)
class StaticRandom:
    """One random part of the rows for the whole run, in a new order each epoch.

    Parameters
    ----------
    keep : float, default 0.5
        Share of the rows that are visited.
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        _check("static-random", self.keep)

    def select(self, epoch: Epoch) -> Selection:
        """Shuffle the rows that were drawn at the start."""
        rows = epoch.memory.get("static-random")
        if rows is None:
            rows = np.flatnonzero(random_part(epoch.rng, epoch.rows, self.keep))
            epoch.memory["static-random"] = rows
        return Selection(epoch.rng.permutation(rows))
