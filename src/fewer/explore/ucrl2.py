"""UCRL2: the most rewarding of all worlds that what was seen does not rule out, planned anew when counts have doubled.

With n(s, a) tries by step t, the worlds not ruled out have::

    | R(s, a) - mean |   <= (high - low) sqrt(7 L_r / (2 max(1, n)))        L_r = scale * log(2 S A t / delta)
    | P(. | s, a) - p |_1 <= sqrt(14 S L_p / max(1, n))                     L_p = scale * log(2 A t / delta)

Extended value iteration finds the best of them all: in each sweep every pair puts as much mass as it may on the state of
the greatest value, and takes it from those of the least.

References
----------
Peter Auer, Thomas Jaksch and Ronald Ortner, "Near-optimal Regret Bounds for Reinforcement Learning", NeurIPS 2008; JMLR 11,
2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.explore.average_reward import Account, Step


@dataclass(frozen=True)
class UCRL2:
    """Optimism over L1 balls, in epochs that end when the visits of some pair have doubled.

    Parameters
    ----------
    delta : float, default 0.05
        Probability with which the balls may miss the truth at some step.
    scale : float, default 1
        Factor of the logarithms; 1 is what the proof asks for, a few hundredths explore enough in practice.

    Examples
    --------
    >>> from fewer.explore.average_reward import AverageReward
    >>> from fewer.explore.endless_worlds import endless_river
    >>> point = AverageReward(UCRL2(scale=0.02), copies=4).learn(endless_river(3), budget=300).curve.points[-1]
    >>> point.extras["epochs"] < 60
    True
    """

    delta: float = 0.05
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0 or not 0 < self.delta < 1:
            raise FewerError(f"ucrl2: scale must not be negative and delta lie in (0, 1); given {self}")

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        shape = (account.runs, account.states, account.actions)
        account.memory |= {
            "next": np.zeros((*shape, account.states)),
            "reward": np.zeros(shape),
            "times": np.zeros(shape),
            "before": np.zeros(shape),  # times when the epoch began
            "due": np.ones(account.runs, dtype=bool),
            "policy": np.zeros((account.runs, account.states), dtype=np.int64),
            "values": np.zeros((account.runs, account.states)),
            "epochs": np.zeros(account.runs),
        }

    def plan(self, account: Account) -> Int[np.ndarray, "runs states"]:
        """Plan anew in the runs whose epoch is over."""
        memory = account.memory
        due = np.flatnonzero(memory["due"])
        if len(due):
            P, R, wide, pays = self.balls(account, due)
            precision = 1 / math.sqrt(account.taken + 1)
            gain, values, policy = extended_value_iteration(P, R + pays, wide, memory["values"][due], precision)
            memory["values"][due], memory["policy"][due] = values, policy
            memory["before"][due], memory["due"][due] = memory["times"][due], False
            memory["epochs"][due] += 1
            account.report |= {"epochs": float(memory["epochs"].mean()), "promised gain": float(gain.mean())}
        return memory["policy"]

    def learn(self, account: Account, step: Step) -> None:
        """Count."""
        memory = account.memory
        place = (np.arange(account.runs), step.states, step.actions)
        memory["next"][(*place, step.following)] += 1
        memory["reward"][place] += step.rewards
        memory["times"][place] += 1
        memory["due"] |= memory["times"][place] >= np.maximum(1, memory["before"][place]) + memory["before"][place]

    def balls(
        self, account: Account, runs: Int[np.ndarray, " due"] | slice = slice(None)
    ) -> tuple[
        Float[np.ndarray, "due states actions states"],
        Float[np.ndarray, "due states actions"],
        Float[np.ndarray, "due states actions"],
        Float[np.ndarray, "due states actions"],
    ]:
        """The worlds not ruled out: their centre (P, R), the L1 radius of P, and how far R may be above its centre."""
        memory, (low, high) = account.memory, account.rewards
        times, t = memory["times"][runs], account.taken + 1
        often = np.maximum(times, 1)
        P = np.where(times[..., None] > 0, memory["next"][runs] / often[..., None], 1 / account.states)
        wide = np.sqrt(14 * account.states * self.scale * math.log(2 * account.actions * t / self.delta) / often)
        if account.pays is not None:
            return P, np.broadcast_to(account.pays, times.shape), wide, np.zeros_like(wide)
        R = np.where(times > 0, memory["reward"][runs] / often, low)
        log = self.scale * math.log(2 * account.states * account.actions * t / self.delta)
        pays = np.minimum((high - low) * np.sqrt(7 * log / (2 * often)), high - R)
        return P, R, wide, np.where(times > 0, pays, high - R)


def extended_value_iteration(
    P: Float[np.ndarray, "runs states actions states"],
    R: Float[np.ndarray, "runs states actions"],
    wide: Float[np.ndarray, "runs states actions"],
    values: Float[np.ndarray, "runs states"],
    precision: float,
    sweeps: int = 100_000,
) -> tuple[Float[np.ndarray, " runs"], Float[np.ndarray, "runs states"], Int[np.ndarray, "runs states"]]:
    """The greatest average reward over all transitions within an L1 distance of given ones.

    Parameters
    ----------
    P : float array (runs, states, actions, states)
        Centres.
    R : float array (runs, states, actions)
        Rewards, as high as they may be.
    wide : float array (runs, states, actions)
        L1 radii.
    values : float array (runs, states)
        Where to begin.
    precision : float
        Stop when no run's gain is uncertain by more.
    sweeps : int, default 100,000
        At most so many.

    Returns
    -------
    gain : float array (runs,)
    values : float array (runs, states)
        The least of each run is 0.
    policy : int array (runs, states)

    Examples
    --------
    >>> P, R = np.full((1, 2, 1, 2), 0.5), np.array([[[1.0], [0.0]]])
    >>> gain, _, _ = extended_value_iteration(P, R, np.full((1, 2, 1), 0.5), np.zeros((1, 2)), 1e-9)
    >>> gain.round(6)  # three quarters of the time where it pays
    array([0.75])
    """
    for _ in range(sweeps):
        of_actions = R + most(P, wide, values)
        # half way, so that a best world that swings between states settles, too
        new = 0.5 * of_actions.max(axis=-1) + 0.5 * values
        change = new - values
        values = new - new.min(axis=1, keepdims=True)
        if float(np.ptp(change, axis=1).max()) < precision / 2:
            break
    return change.max(axis=1) + change.min(axis=1), values, of_actions.argmax(axis=-1)


def most(
    P: Float[np.ndarray, "runs states actions states"],
    wide: Float[np.ndarray, "runs states actions"],
    values: Float[np.ndarray, "runs states"],
) -> Float[np.ndarray, "runs states actions"]:
    """The greatest expected value over distributions within an L1 distance of given ones.

    Examples
    --------
    >>> most(np.array([[[[0.5, 0.5]]]]), np.array([[[0.4]]]), np.array([[0.0, 1.0]])).round(6).tolist()
    [[[0.7]]]
    """
    order = np.argsort(-values, axis=-1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=-1)
    p = np.take_along_axis(P, np.broadcast_to(order[:, None, None], P.shape), axis=-1)
    added = np.minimum(wide / 2, 1 - p[..., 0])
    # what the best state gains, the worst ones lose, the very worst first
    lost = np.minimum(p[..., :0:-1].cumsum(axis=-1), added[..., None])
    lost = np.diff(lost, axis=-1, prepend=0)[..., ::-1]
    mean = (p @ ranked[:, None, :, None])[..., 0]
    return mean + added * ranked[:, None, None, 0] - (lost @ ranked[:, None, 1:, None])[..., 0]
