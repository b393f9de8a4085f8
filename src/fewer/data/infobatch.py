"""InfoBatch: drop some rows of low loss in each epoch, and make the others of low loss count for them.

In expectation the gradient is that of the whole set.  Included as the rival that SeTa and every
other sampler here is compared with.

References
----------
Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024,
arXiv:2303.04947.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fewer.core.errors import FewerError
from fewer.data.loop import Epoch, Selection
from fewer.data.subsets import shuffled


@dataclass(frozen=True)
class InfoBatch:
    """Drop each row whose last loss is below the mean with probability ``drop``; weight the kept ones up.

    A kept row of low loss has the weight ``1 / (1 - drop)``, so that the expected sum of gradients
    is that over all rows.

    Parameters
    ----------
    drop : float, default 0.5
        Probability of dropping a row of low loss, in [0, 1).
    anneal : float, default 0.875
        Share of the epochs after which nothing is dropped any more.
    unseen : float, default 3
        What a row that was never visited counts as.

    Examples
    --------
    >>> losses = np.array([0.1, 0.2, 0.1, 9.0], dtype=np.float32)
    >>> chosen = InfoBatch().select(Epoch(1, 30, 4, losses, np.random.default_rng(2)))
    >>> dict(sorted(zip(chosen.rows.tolist(), chosen.weights.tolist())))
    {0: 2.0, 3: 1.0}
    """

    drop: float = 0.5
    anneal: float = 0.875
    unseen: float = 3.0

    def __post_init__(self) -> None:
        if not (0 <= self.drop < 1 and 0 <= self.anneal <= 1):
            raise FewerError(
                f"infobatch: drop must lie in [0, 1) and anneal in [0, 1]; given {self.drop}, {self.anneal}"
            )

    def select(self, epoch: Epoch) -> Selection:
        """Drop and weight by the losses seen last."""
        kept = np.ones(epoch.rows, dtype=bool)
        weights = np.ones(epoch.rows, dtype=np.float32)
        if epoch.index + 1 <= self.anneal * epoch.epochs:
            losses = np.where(np.isfinite(epoch.losses), epoch.losses, np.float32(self.unseen))
            low = losses < losses.mean(dtype=np.float64)
            kept[low] = epoch.rng.random(np.count_nonzero(low), dtype=np.float32) >= self.drop
            weights[low] = 1 / (1 - self.drop)
        rows = shuffled(epoch.rng, kept)
        return Selection(rows, weights[rows])
