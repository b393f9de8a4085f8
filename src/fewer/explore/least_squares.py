"""Least squares for action values that are linear in features, many runs at once.

Q_h(s, a) = phi(s, a) . w_h, in a world that is the same in each step.  With Lambda = ridge I + sum phi phi^T over all that
was tried, the weights that fit rewards plus values of next states best are Lambda^-1 sum phi (r + V_{h+1}(s')); what that
needs of the data is kept as sums, so that nothing grows with the number of episodes.  Also here is the classic agent that
explores by it, LSVI-UCB.

References
----------
Chi Jin, Zhuoran Yang, Zhaoran Wang and Michael I. Jordan, "Provably Efficient Reinforcement Learning with Linear Function
Approximation", 2019, arXiv:1907.05388.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import greedy


class Learner(Protocol):
    """What least squares need of an account, of episodes or of a stream."""

    runs: int
    states: int
    actions: int
    memory: dict[str, Any]
    features: Float[np.ndarray, "states actions dimensions"] | None


def features_of(account: Learner) -> Float[np.ndarray, "states actions dimensions"]:
    """The world's features; where it has none, each pair of state and action is a dimension of its own."""
    if account.features is not None:
        return account.features
    return np.eye(account.states * account.actions).reshape(account.states, account.actions, -1)


def begin(account: Learner, ridge: float) -> None:
    """Lay out sums of nothing in the memory of an account.

    Parameters
    ----------
    account : Learner
        Whose.
    ridge : float
        Of each dimension, above 0.
    """
    dimensions = features_of(account).shape[-1]
    account.memory |= {
        "gram": np.broadcast_to(ridge * np.eye(dimensions), (account.runs, dimensions, dimensions)).copy(),
        "pull": np.zeros((account.runs, dimensions, account.states)),  # sum of phi for each next state
        "paid": np.zeros((account.runs, dimensions)),  # sum of phi times reward
    }


def add(account: Learner, episode: Episode) -> None:
    """Add an episode of every run."""
    memory = account.memory
    phi = features_of(account)[episode.states[:, :-1], episode.actions]
    following = np.eye(account.states)[episode.states[:, 1:]]
    memory["gram"] += phi.mT @ phi
    memory["pull"] += phi.mT @ following
    memory["paid"] += (episode.rewards[:, None] @ phi)[:, 0]


def weights(
    memory: dict[str, np.ndarray],
    inverse: Float[np.ndarray, "runs dimensions dimensions"],
    values: Float[np.ndarray, "runs states"],
) -> Float[np.ndarray, "runs dimensions"]:
    """The weights that fit best, given the values of the states after and the inverse of the Gram matrix."""
    target = memory["paid"] + (memory["pull"] @ values[..., None])[..., 0]
    return (inverse @ target[..., None])[..., 0]


@dataclass(frozen=True)
class LSVIUCB:
    """Least-squares value iteration with a bonus for directions that were seldom tried.

    Parameters
    ----------
    scale : float, default 0.1
        The bonus is ``scale`` times the greatest return there is times ``sqrt(phi Lambda^-1 phi)``; the proof asks for the
        number of dimensions times a logarithm, and 0 believes what was seen.
    ridge : float, default 1
        Of the least squares.
    """

    scale: float = 0.1
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0 or not self.ridge > 0:
            raise FewerError(f"lsvi-ucb: scale must not be negative and ridge be positive; given {self}")

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        begin(account, self.ridge)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Optimistic backward induction with fitted weights."""
        phi, memory = features_of(account), account.memory
        low, high = account.rewards
        values = np.zeros((account.runs, account.states))
        policy = np.empty((account.runs, account.horizon, account.states, account.actions))
        flat, inverse = phi.reshape(-1, phi.shape[-1]), np.linalg.inv(memory["gram"])
        width = np.sqrt(np.maximum(((flat @ inverse) * flat).sum(axis=-1), 0))
        bonus = self.scale * (high - low) * account.horizon * width
        for step in range(account.horizon - 1, -1, -1):
            left = account.horizon - step
            now = np.clip(weights(memory, inverse, values) @ flat.T + bonus, low * left, high * left)
            now = now.reshape(account.runs, account.states, account.actions)
            policy[:, step] = greedy(now, account.rng)
            values = now.max(axis=-1)
        return policy

    def learn(self, account: Account, episode: Episode) -> None:
        """Take in what was seen."""
        add(account, episode)
