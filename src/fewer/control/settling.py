"""A number that is raised once, when what is observed has stopped changing."""

from __future__ import annotations

import math
from typing import Any

from fewer.core.errors import FewerError


class SettlingSwitch:
    """A number that goes from low to high, once, when what is observed has stopped changing.

    Parameters
    ----------
    low, high : float
        The number before and after.
    tol : float
        By how much two observations in a row may differ at most to count as settled.

    Examples
    --------
    >>> switch = SettlingSwitch(low=0.5, high=2, tol=0.001)
    >>> [switch.observe(share) for share in (0.5, 0.40, 0.36, 0.3595, 0.5)]
    [0.5, 0.5, 0.5, 2, 2]
    """

    def __init__(self, low: float, high: float, tol: float) -> None:
        self.low, self.high, self.tol = low, high, tol
        self.last: float | None = None
        self.switched = False

    @property
    def ratio(self) -> float:
        """The number now."""
        return self.high if self.switched else self.low

    def observe(self, share: float) -> float:
        """Take one observation in, and give the number from here on; the first is what the second is compared with."""
        if not math.isfinite(share):
            raise FewerError(f"adaptive replay ratio: the share of active units is {share}; the network has diverged")
        self.switched = self.switched or (self.last is not None and abs(share - self.last) <= self.tol)
        self.last = share
        return self.ratio

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"last": self.last, "switched": self.switched}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where it stood."""
        self.last, self.switched = tree["last"], tree["switched"]
