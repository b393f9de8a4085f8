"""Rows in rounds: each once, in random order, before any comes again."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int


class Rounds:
    """Draws batches of rows; those left at the end of a round that would not fill a batch are passed over.

    Parameters
    ----------
    rows : int
        How many there are.
    rng : numpy Generator
        Of their order; saved with what is left of a round.

    Examples
    --------
    >>> rounds = Rounds(5, np.random.default_rng(0))
    >>> len({*rounds.draw(2), *rounds.draw(2)}), sorted(rounds.draw(9).tolist())
    (4, [0, 1, 2, 3, 4])
    """

    def __init__(self, rows: int, rng: np.random.Generator) -> None:
        self.rows, self.rng = rows, rng
        self.left = np.zeros(0, dtype=np.int64)

    def draw(self, count: int) -> Int[np.ndarray, " count"]:
        """Places of ``count`` rows, of all where there are not so many."""
        count = min(count, self.rows)
        if len(self.left) < count:
            self.left = self.rng.permutation(self.rows)
        chosen, self.left = self.left[:count], self.left[count:]
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The stream, and the rows left."""
        return {"rng": self.rng, "left": self.left}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up."""
        self.rng, self.left = tree["rng"], tree["left"]
