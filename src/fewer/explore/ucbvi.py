"""UCB-VI: optimistic value iteration with a bonus for what was seldom tried.

References
----------
M. G. Azar, I. Osband and R. Munos, "Minimax Regret Bounds for Reinforcement Learning", 2017, arXiv:1703.05449.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import ahead, greedy


@dataclass(frozen=True)
class UCBVI:
    """Plan in the empirical model with an upper confidence bound on every value.

    Parameters
    ----------
    bonus : {"bernstein", "hoeffding"}, default "bernstein"
        Whether the bonus knows the variance of the next value.
    scale : float, default 1
        Factor of the logarithm in the bonus.  1 is what the proof asks for; in practice a few hundredths explore
        enough.
    delta : float, default 0.05
        Probability with which the bounds may fail.
    """

    bonus: Literal["bernstein", "hoeffding"] = "bernstein"
    scale: float = 1.0
    delta: float = 0.05

    def __post_init__(self) -> None:
        if self.bonus not in ("bernstein", "hoeffding"):
            raise FewerError(f"ucbvi: unknown bonus {self.bonus!r}; choose bernstein or hoeffding")
        if not self.scale >= 0 or not 0 < self.delta < 1:
            raise FewerError(f"ucbvi: scale must not be negative and delta lie in (0, 1); given {self}")

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        counts.begin(account)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Optimistic backward induction."""
        P, R = counts.model(account.memory, account)
        times = np.maximum(counts.visits(account.memory), 1)
        unseen = counts.visits(account.memory) == 0
        low, high = account.rewards
        spread = high - low
        log = self.scale * math.log(
            5 * account.states * account.actions * account.horizon * max(account.episodes, 1) / self.delta
        )
        values = np.zeros((account.runs, account.states))
        policy = np.empty((account.runs, account.horizon, account.states, account.actions))
        for step in range(account.horizon - 1, -1, -1):
            left = account.horizon - step
            mean = ahead(P, values)
            if self.bonus == "hoeffding":
                width = left * spread * np.sqrt(log / (2 * times))
            else:
                variance = np.maximum(ahead(P, values**2) - mean**2, 0)
                width = np.sqrt(2 * variance * log / times) + 7 * left * spread * log / (3 * times)
            # what the rewards themselves may differ from their means by
            width = width + spread * np.sqrt(log / (2 * times))
            now = np.where(unseen, left * high, np.minimum(R + mean + width, left * high))
            policy[:, step] = greedy(now)
            values = now.max(axis=-1)
        return policy

    def learn(self, account: Account, episode: Episode) -> None:
        """Count."""
        counts.add(account.memory, episode)
