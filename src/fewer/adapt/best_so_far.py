"""What did best so far in a training, by labels that were put aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from fewer.adapt.adapted import Adapted


class BestSoFar:
    """Keeps the trained parameters that told most of some rows right, and of these the ones with the lowest loss.

    Parameters
    ----------
    adapted : Adapted
        What is being trained.
    x, y
        Rows that are not learned from, and their classes.
    patience : int
        How many looks without a better one are enough; 0 for never.
    """

    def __init__(self, adapted: Adapted, x: Any, y: Int[Tensor, " rows"], patience: int) -> None:
        self.adapted, self.x, self.y, self.patience = adapted, x, adapted.there(y), patience
        self.best: tuple[float, float] | None = None
        self.kept: dict[str, Tensor] = {}
        self.since = 0

    def enough(self) -> bool:
        """Look, keep what is better, and say whether there were enough looks in vain."""
        probabilities = self.adapted.mixed_probabilities(self.x)
        right = float((probabilities.argmax(1) == self.y).float().mean())
        found = right, -float(nn.functional.nll_loss(probabilities.clamp(min=1e-30).log(), self.y))
        if self.best is None or found > self.best:
            self.best, self.since = found, 0
            self.kept = {name: each.clone() for name, each in self.adapted.new().items()}
        else:
            self.since += 1
        return 0 < self.patience <= self.since

    def restore(self) -> None:
        """Put back what was kept."""
        with torch.no_grad():
            for name, each in self.adapted.new().items():
                each.copy_(self.kept[name])
