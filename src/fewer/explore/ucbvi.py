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
from fewer.explore.planning import ahead, backward_induction, greedy


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
    by_step : bool, default False
        Keep the steps of an episode apart, for worlds that change with the step.
    replan : float, default 1
        Plan anew when the episodes played have grown by this factor; 1 plans before each.
    warm_start : bool, default False
        Count the demonstrations that the world shows as if they had been played.
    recommends : {"optimistic", "empirical"}, default "optimistic"
        Which policy is handed on: the one that is played, or the best in the empirical model without a bonus.
    """

    bonus: Literal["bernstein", "hoeffding"] = "bernstein"
    scale: float = 1.0
    delta: float = 0.05
    by_step: bool = False
    replan: float = 1.0
    warm_start: bool = False
    recommends: Literal["optimistic", "empirical"] = "optimistic"

    def __post_init__(self) -> None:
        if self.bonus not in ("bernstein", "hoeffding"):
            raise FewerError(f"ucbvi: unknown bonus {self.bonus!r}; choose bernstein or hoeffding")
        if self.recommends not in ("optimistic", "empirical"):
            raise FewerError(f"ucbvi: recommends is optimistic or empirical; {self.recommends!r} was given")
        if not self.scale >= 0 or not 0 < self.delta < 1 or not self.replan >= 1:
            raise FewerError(
                f"ucbvi: scale must not be negative, delta lie in (0, 1) and replan be at least 1; given {self}"
            )

    def begin(self, account: Account) -> None:
        """Nothing is known but what was shown."""
        counts.begin(account, self.by_step)
        account.memory["due"] = 0.0
        if self.warm_start:
            if account.demonstrations is None:
                raise FewerError(
                    "ucbvi: there are no demonstrations to start from; give the world some, or leave it out"
                )
            counts.show(account.memory, account.demonstrations)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Optimistic backward induction."""
        if account.played < account.memory["due"]:
            return account.memory["policy"]
        account.memory["due"] = max(account.played * self.replan, account.played + 1)
        account.memory["policy"] = self._optimistic(account)
        return account.memory["policy"]

    def recommend(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The policy to hand on."""
        if self.recommends == "optimistic":
            return self.plan(account)
        P, R = counts.model(account.memory, account)
        return greedy(backward_induction(P, R, account.horizon)[1])

    def _optimistic(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        P_all, R_all = counts.model(account.memory, account)
        tried = counts.visits(account.memory)
        low, high = account.rewards
        spread = high - low
        log = self.scale * math.log(
            5 * account.states * account.actions * account.horizon * max(account.episodes, 1) / self.delta
        )
        values = np.zeros((account.runs, account.states))
        policy = np.empty((account.runs, account.horizon, account.states, account.actions))
        for step in range(account.horizon - 1, -1, -1):
            left = account.horizon - step
            P, R, n = (each[:, step] if self.by_step else each for each in (P_all, R_all, tried))
            mean, times = ahead(P, values), np.maximum(n, 1)
            if self.bonus == "hoeffding":
                width = left * spread * np.sqrt(log / (2 * times))
            else:
                variance = np.maximum(ahead(P, values**2) - mean**2, 0)
                width = np.sqrt(2 * variance * log / times) + 7 * left * spread * log / (3 * times)
            if account.pays is None:  # what the rewards themselves may differ from their means by
                width = width + spread * np.sqrt(log / (2 * times))
            now = np.where(n == 0, left * high, np.minimum(R + mean + width, left * high))
            policy[:, step] = greedy(now)
            values = now.max(axis=-1)
        return policy

    def learn(self, account: Account, episode: Episode) -> None:
        """Count."""
        counts.add(account.memory, episode)
