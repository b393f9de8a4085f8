"""Maximize to explore (MEX) without a model, for action values that are linear in features.

Q_h(s, a) = phi(s, a) . w_h, in a world that is the same in each step.  What a set of weights costs in step h is its
squared Bellman error beyond that of the best weights for the same targets; for least squares that is exactly a quadratic
in how far w_h is from the fit w^_h::

    L_h(w) = sum (Q_h - r - V_{h+1}(s'))^2 - min_g sum (g - r - V_{h+1}(s'))^2 = delta_h . Lambda delta_h
    delta_h = w_h - w^_h(V_{h+1}),     V_h = clip(max_a phi . w_h)
    maximise  V_1(s_1) - eta / (H (high - low)) * sum_h L_h        over delta_1 .. delta_H

The promise V_1 moves with delta_h along u_h, a weighting of features that starts at the first state's best action and is
handed on through the data: u_{h+1} = sum (Lambda^-1 u_h . phi_i) phi(s'_i, best action).  With best actions held fixed
the greatest objective has delta_h = H (high - low) Lambda^-1 u_h / (2 eta).  Each sweep goes part of the way there, the first
from the actions that would be best if each pair were lifted by what it could gain alone, and the best weights met are kept.

References
----------
Zhihan Liu, Miao Lu, Wei Xiong, Han Zhong, Hao Hu, Shenao Zhang, Sirui Zheng, Zhuoran Yang and Zhaoran Wang, "Maximize to
Explore: One Objective Function Fusing Estimation, Planning, and Exploration", NeurIPS 2023, arXiv:2305.18258.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore import least_squares
from fewer.explore.loop import Account, Episode
from fewer.explore.mex import first_states
from fewer.explore.planning import greedy


@dataclass(frozen=True)
class LinearMEX:
    """Explore by the linear action values that promise the most less how badly they fit.

    Worlds that have no features get one dimension for each state and action.

    Parameters
    ----------
    eta : float, default 1
        What squared Bellman errors weigh against the promise; returns and errors are both measured in units of the
        greatest return.  Infinity is plain least-squares value iteration.
    sweeps : int, default 10
        Before each episode.
    ridge : float, default 1
        Of the least squares.

    Raises
    ------
    FewerError
        If ``eta`` or ``ridge`` is not positive, or there is no sweep.

    Examples
    --------
    >>> from fewer.explore import Exploration
    >>> from fewer.explore.linear_worlds import linear_mdp
    >>> learned = Exploration(LinearMEX(), copies=4).learn(linear_mdp(), budget=40)
    >>> learned.result.shape
    (4, 8, 40, 4)
    """

    eta: float = 1.0
    sweeps: int = 10
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if not self.eta > 0 or not self.ridge > 0 or self.sweeps < 1:
            raise FewerError(f"linear-mex: eta and ridge must be positive and sweeps at least 1; given {self}")

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        least_squares.begin(account, self.ridge)
        account.memory |= {"starts": np.zeros((account.runs, account.states))}

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Sweep towards the greatest objective, and act greedily in the best values met."""
        memory, runs, horizon = account.memory, account.runs, account.horizon
        low, high = account.rewards
        weight = self.eta / (horizon * (high - low))
        inverse = np.linalg.inv(memory["gram"])
        delta = np.zeros((runs, horizon, inverse.shape[-1]))
        start, believes = first_states(memory), not math.isfinite(self.eta)
        best, kept = np.full(runs, -math.inf), np.zeros((runs, horizon, account.states, account.actions))
        for sweep in range(1 if believes else self.sweeps + 2):
            lift = 1 / (4 * weight) if sweep == 1 else 0.0
            of_actions, values = sweep_back(account, inverse, delta, lift)
            if sweep != 1:
                loss = 0.0 if believes else weight * (delta @ memory["gram"] * delta).sum(axis=(1, 2))
                reached = (values[:, 0] * start).sum(axis=1) - loss
                better = reached > best
                kept[better], best[better] = of_actions[better], reached[better]
            if 0 < sweep <= self.sweeps:
                toward = sweep_forth(account, inverse, of_actions, start, clipped=sweep > 1) @ inverse / (2 * weight)
                delta += (toward - delta) * (1 if sweep == 1 else 0.5)  # best actions change: half way, not to and fro
        memory["objective"] = best
        account.report["objective"] = float(best.mean())
        return greedy(kept, account.rng)

    def learn(self, account: Account, episode: Episode) -> None:
        """Take in what was seen."""
        least_squares.add(account, episode)
        np.add.at(account.memory["starts"], (np.arange(account.runs), episode.states[:, 0]), 1)


def sweep_back(
    account: Account,
    inverse: Float[np.ndarray, "runs dimensions dimensions"],
    delta: Float[np.ndarray, "runs horizon dimensions"],
    lift: float = 0.0,
) -> tuple[Float[np.ndarray, "runs horizon states actions"], Float[np.ndarray, "runs horizon+1 states"]]:
    """Action values and values of the weights that lie ``delta`` from the fit of each step.

    Values lie between the least and the greatest return; action values are as they are fitted.  With a ``lift`` each pair
    is valued ``lift * phi . Lambda^-1 phi`` higher, what it could gain net of its loss if it alone mattered.
    """
    phi, (low, high) = least_squares.features_of(account), account.rewards
    flat = phi.reshape(-1, phi.shape[-1])
    raised = lift * ((flat @ inverse) * flat).sum(axis=-1)
    values = np.zeros((account.runs, account.horizon + 1, account.states))
    of_actions = np.empty((account.runs, account.horizon, account.states, account.actions))
    for step in range(account.horizon - 1, -1, -1):
        left = account.horizon - step
        w = least_squares.weights(account.memory, inverse, values[:, step + 1]) + delta[:, step]
        of_actions[:, step] = (w @ flat.T + raised).reshape(account.runs, account.states, account.actions)
        values[:, step] = np.clip(of_actions[:, step].max(axis=-1), low * left, high * left)
    return of_actions, values


def sweep_forth(
    account: Account,
    inverse: Float[np.ndarray, "runs dimensions dimensions"],
    of_actions: Float[np.ndarray, "runs horizon states actions"],
    start: Float[np.ndarray, "runs states"],
    clipped: bool = True,
) -> Float[np.ndarray, "runs horizon dimensions"]:
    """The derivative of the promise by each step's weights, with best actions held fixed.

    A value that is ``clipped`` does not move.
    """
    phi, (low, high), memory = least_squares.features_of(account), account.rewards, account.memory
    u = np.empty((*of_actions.shape[:2], phi.shape[-1]))
    flow = start
    for step in range(account.horizon):
        left, now = account.horizon - step, of_actions[:, step]
        top = now.max(axis=-1)
        moves = flow * ((top >= low * left) & (top < high * left) if clipped else 1)
        u[:, step] = (moves[:, None] @ phi[np.arange(account.states), now.argmax(axis=-1)])[:, 0]
        flow = (u[:, step, None] @ inverse @ memory["pull"])[:, 0]
    return u
