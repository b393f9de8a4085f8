"""Agents that believe what they have seen: the baselines without a plan for exploring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import backward_induction, greedy, mix


@dataclass(frozen=True)
class CertaintyEquivalence:
    """Plan in the empirical model as if it were true, and act at random now and then.

    Parameters
    ----------
    epsilon : float, default 0.1
        Share of random actions; 0 never explores on purpose (ties are broken at random).
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        _check_share("certainty-equivalence", self.epsilon)

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        counts.begin(account)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Plan in the empirical model."""
        P, R = counts.model(account.memory, account)
        best = greedy(backward_induction(P, R, account.horizon)[1], account.rng)
        return mix(best, self.epsilon)

    def learn(self, account: Account, episode: Episode) -> None:
        """Count."""
        counts.add(account.memory, episode)


@dataclass(frozen=True)
class QLearning:
    """Learn action values from each step, without a model, and act at random now and then.

    Parameters
    ----------
    epsilon : float, default 0.1
        Share of random actions.
    optimistic : bool, default False
        Begin with the greatest values there could be, instead of the least.

    References
    ----------
    C. Watkins, "Learning from Delayed Rewards", 1989; the step size (H + 1) / (H + n) is that of C. Jin et al., "Is
    Q-learning Provably Efficient?", 2018, arXiv:1807.03765.
    """

    epsilon: float = 0.1
    optimistic: bool = False

    def __post_init__(self) -> None:
        _check_share("q-learning", self.epsilon)

    def begin(self, account: Account) -> None:
        """All action values are equal."""
        left = np.arange(account.horizon, 0, -1.0)[:, None, None]
        shape = (account.runs, account.horizon, account.states, account.actions)
        bound = account.rewards[1] if self.optimistic else account.rewards[0]
        account.memory |= {"values": np.broadcast_to(left * bound, shape).copy(), "times": np.zeros(shape)}

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Take the best action, mostly."""
        return mix(greedy(account.memory["values"], account.rng), self.epsilon)

    def learn(self, account: Account, episode: Episode) -> None:
        """Go back through the episode, so that a reward reaches its beginning at once."""
        values, times = account.memory["values"], account.memory["times"]
        every, following = np.arange(account.runs), np.zeros(account.runs)
        for step in range(account.horizon - 1, -1, -1):
            place = (every, step, episode.states[:, step], episode.actions[:, step])
            times[place] += 1
            rate = (account.horizon + 1) / (account.horizon + times[place])
            values[place] += rate * (episode.rewards[:, step] + following - values[place])
            following = values[every, step, episode.states[:, step]].max(axis=-1)


def _check_share(name: str, epsilon: float) -> None:
    if not 0 <= epsilon <= 1:
        raise FewerError(f"{name}: epsilon is a share, from 0 to 1; {epsilon} was given")
