"""What a run has spent.

The loop writes here, never the paper: budgets count true samples, whatever a method calls them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fewer.core.errors import FewerError


@dataclass(slots=True)
class Ledger:
    """Counts what was used, by kind, and what one unit of the budget costs in each kind.

    Parameters
    ----------
    prices : mapping of str to float
        Cost of one sample of each kind in units of the budget.  A kind that is not named is free:
        it is counted, and does not draw on the budget.
    counts : dict of str to float
        What has been used so far.

    Examples
    --------
    Labels from an expert at 1 each, and weak labels at a tenth of that; optimiser steps are free.

    >>> ledger = Ledger({"labels": 1.0, "weak_labels": 0.1})
    >>> ledger.add("labels", 10)
    >>> ledger.add("weak_labels", 25)
    >>> ledger.add("optimiser_steps", 300)
    >>> ledger.cost, ledger.spent
    (12.5, 13)
    >>> ledger["optimiser_steps"]
    300.0
    """

    prices: Mapping[str, float]
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, count: float = 1) -> None:
        """Note that ``count`` more samples of ``kind`` were used.

        Raises
        ------
        FewerError
            If ``count`` is negative or not finite: what is spent stays spent.
        """
        if not (math.isfinite(count) and count >= 0):
            raise FewerError(f"ledger: {kind} can only grow by a finite number >= 0; {count} was given")
        self.counts[kind] = self.counts.get(kind, 0.0) + float(count)

    def __getitem__(self, kind: str) -> float:
        return self.counts.get(kind, 0.0)

    @property
    def cost(self) -> float:
        """What has been spent, in units of the budget."""
        return sum(price * self.counts.get(kind, 0.0) for kind, price in self.prices.items())

    @property
    def spent(self) -> int:
        """The cost as a whole number of units, rounded up (a started unit is spent)."""
        return math.ceil(round(self.cost, 9))
