"""Posterior sampling: plan in a model drawn from what one believes, and so try what might be good.

References
----------
I. Osband, D. Russo and B. Van Roy, "(More) Efficient Reinforcement Learning via Posterior Sampling", 2013,
arXiv:1306.0940.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import backward_induction, greedy


@dataclass(frozen=True)
class PSRL:
    """Dirichlet beliefs about transitions, normal beliefs about mean rewards unless told; one draw an episode.

    Parameters
    ----------
    prior : float, optional
        Pseudo-count of each next state; by default one over the number of states.
    """

    prior: float | None = None

    def __post_init__(self) -> None:
        if self.prior is not None and not self.prior > 0:
            raise FewerError(f"psrl: prior is a pseudo-count above 0; {self.prior} was given")

    def begin(self, account: Account) -> None:
        """Only the prior is known."""
        counts.begin(account)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Draw a model and plan in it."""
        memory, rng = account.memory, account.rng
        drawn = rng.standard_gamma(memory["next"] + (self.prior or 1 / account.states))
        P = drawn / np.maximum(drawn.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        if account.pays is not None:
            return greedy(backward_induction(P, account.pays[None], account.horizon)[1])
        low, high = account.rewards
        # one imagined reward in the middle of the range, as uncertain as the range is wide
        times = counts.visits(memory) + 1
        mean = (memory["reward"] + (low + high) / 2) / times
        R = np.clip(mean + rng.standard_normal(mean.shape) * (high - low) / 2 / np.sqrt(times), low, high)
        return greedy(backward_induction(P, R, account.horizon)[1])

    def learn(self, account: Account, episode: Episode) -> None:
        """Count."""
        counts.add(account.memory, episode)
