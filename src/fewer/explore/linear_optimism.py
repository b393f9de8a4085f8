"""Optimism without end for linear classes: mixtures of known transitions, and linear features.

Both are LOOP (:mod:`fewer.explore.local_fitted_optimism`) with a class of infinitely many hypotheses, in which the ones
that the data allow are an ellipsoid, and "clearly contradicted" is that its determinant has doubled.

Mixtures: P(s' | s, a) = sum_i theta_i basis_i(s' | s, a).  Between choices V is fixed; with x(s, a)_i = sum_s'
basis_i(s' | s, a) V(s') the ridge regression of V(s') on x gives theta^ and Sigma = ridge I + sum x x^T, with all values as
shares of the span::

    || theta - theta^ ||_Sigma <= scale sqrt(log(det Sigma / ridge^d) / 4 + log(1 / delta) / 2) + sqrt(ridge) norm = sqrt(beta)
    V = span-clipped fixed point of   max_a R + min(max V, max(min V, theta^ . x_V + sqrt(beta) || x_V ||_Sigma^-1))

which holds for the truth at all steps with probability 1 - delta for ``scale`` 1.

Linear features: Q(s, a) = phi(s, a) . w.  The least-squares fit of r + V(s') on phi gives w^(V), and::

    V = span-clipped fixed point of   max_a phi . w^(V) + scale (span + range) sqrt(d log(T / delta)) || phi ||_Lambda^-1

The greatest value of each pair over the ellipsoid is taken for itself, which promises at least as much as any single
member does.

References
----------
Jianliang He, Han Zhong and Zhuoran Yang, "Sample-efficient Learning of Infinite-horizon Average-reward MDPs with General
Function Approximation", ICLR 2024, arXiv:2404.12648.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.explore import least_squares
from fewer.explore.average_reward import Account, Step
from fewer.explore.loop import Episode


@dataclass(frozen=True)
class MixtureLOOP:
    """Optimism for worlds whose transitions are a mixture of known ones.

    Parameters
    ----------
    scale : float, default 0.03
        Of what noise adds to the width of the ellipsoid; 1 is what the proof asks for.
    delta : float, default 0.05
        Probability with which the ellipsoid may miss the truth.
    span : float, optional
        The most that values of the best policy differ between states; by default the number of states times the range of
        rewards.
    norm : float, optional
        The greatest length of the weights; by default the square root of their number.
    ridge : float, default 0.001
        Of the least squares, in which values are shares of the span.
    """

    scale: float = 0.03
    delta: float = 0.05
    span: float | None = None
    norm: float | None = None
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        _check("mixture-loop", self.scale, self.delta, self.span, self.ridge)
        if self.norm is not None and not self.norm > 0:
            raise FewerError(f"mixture-loop: norm must be positive; {self.norm} was given")

    def begin(self, account: Account) -> None:
        """Nothing is known of the weights."""
        basis = _basis(account)
        if account.pays is None:
            raise FewerError("mixture-loop: the rewards must be told; take a world that tells them, or linear-loop")
        account.memory |= {"target": np.zeros((account.runs, len(basis)))} | _begin(account, len(basis), self.ridge)

    def plan(self, account: Account) -> Int[np.ndarray, "runs states"]:
        """Plan anew in the runs whose ellipsoid has shrunk enough."""
        memory, basis, span = account.memory, _basis(account), _span(self.span, account)
        due = _due(account)
        if len(due):
            inverse = memory["inverse"][due]
            centre = (inverse @ memory["target"][due][..., None])[..., 0]
            wide = self.width(account, self.scale)[due, None] * span
            # states and actions of all parts side by side, so that a sweep is two matrix products
            parts = np.moveaxis(basis, 0, 2).reshape(-1, account.states)

            def reward_to_go(values: Float[np.ndarray, "due states"]) -> Float[np.ndarray, "due states actions"]:
                x = (values @ parts.T).reshape(len(due), -1, len(basis))
                long = np.sqrt(np.maximum((x @ inverse * x).sum(axis=-1), 0)) / span
                # no world leads to more than the best state or to less than the worst
                ahead = np.clip((x @ centre[..., None])[..., 0] + wide * long, 0, values.max(axis=1, keepdims=True))
                return np.asarray(account.pays) + ahead.reshape(len(due), account.states, account.actions)

            _choose(account, due, reward_to_go, span)
        return memory["policy"]

    def learn(self, account: Account, step: Step) -> None:
        """One row more in the regression of next values."""
        memory, span = account.memory, _span(self.span, account)
        values = memory["values"]
        x = np.einsum("irz,rz->ri", _basis(account)[:, step.states, step.actions], values) / span
        memory["target"] += x * (values[np.arange(account.runs), step.following] / span)[:, None]
        _grow(memory, x)

    def width(self, account: Account, scale: float = 1.0) -> Float[np.ndarray, " runs"]:
        """The square root of beta, with the part that noise has in it scaled."""
        memory, norm = account.memory, self.norm if self.norm is not None else math.sqrt(len(_basis(account)))
        noise = np.sqrt(memory["volume"] / 4 + math.log(1 / self.delta) / 2)
        return scale * noise + math.sqrt(self.ridge) * norm

    def misses(self, account: Account, theta: Float[np.ndarray, "runs dimensions"]) -> Float[np.ndarray, " runs"]:
        """How far weights are from the centre, as a share of the ellipsoid's width at ``scale`` 1: the truth's is at most 1."""
        memory = account.memory
        off = theta - (memory["inverse"] @ memory["target"][..., None])[..., 0]
        far = np.sqrt((np.linalg.solve(memory["inverse"], off[..., None])[..., 0] * off).sum(axis=-1))
        return far / self.width(account)


@dataclass(frozen=True)
class LinearLOOP:
    """Optimism for worlds whose transitions and rewards are linear in features.

    Worlds that have no features get one dimension for each state and action.

    Parameters
    ----------
    scale : float, default 0.01
        Of the width of the ellipsoid; about 1 is what the proof asks for.
    delta : float, default 0.05
        Probability with which the ellipsoid may miss the truth.
    span : float, optional
        The most that values of the best policy differ between states; by default the number of dimensions times the range
        of rewards.
    ridge : float, default 1
        Of the least squares.
    """

    scale: float = 0.01
    delta: float = 0.05
    span: float | None = None
    ridge: float = 1.0

    def __post_init__(self) -> None:
        _check("linear-loop", self.scale, self.delta, self.span, self.ridge)

    def begin(self, account: Account) -> None:
        """Nothing is known of the weights."""
        least_squares.begin(account, self.ridge)
        account.memory |= _begin(account, least_squares.features_of(account).shape[-1], self.ridge)

    def plan(self, account: Account) -> Int[np.ndarray, "runs states"]:
        """Plan anew in the runs whose ellipsoid has shrunk enough."""
        memory, phi = account.memory, least_squares.features_of(account)
        low, high = account.rewards
        dimensions, due = phi.shape[-1], _due(account)
        if len(due):
            span = self.span if self.span is not None else dimensions * (high - low)
            flat, inverse = phi.reshape(-1, dimensions), memory["inverse"][due]
            log = math.log(max(account.steps, 2) / self.delta)
            wide = self.scale * (span + high - low) * math.sqrt(dimensions * log)
            bonus = wide * np.sqrt(np.maximum(((flat @ inverse) * flat).sum(axis=-1), 0))
            sums = {name: memory[name][due] for name in ("pull", "paid")}

            def reward_to_go(values: Float[np.ndarray, "due states"]) -> Float[np.ndarray, "due states actions"]:
                now = least_squares.weights(sums, inverse, values) @ flat.T + bonus
                most = high + values.max(axis=1, keepdims=True)
                return np.clip(now, low, most).reshape(len(due), account.states, account.actions)

            _choose(account, due, reward_to_go, span)
        return memory["policy"]

    def learn(self, account: Account, step: Step) -> None:
        """One row more in the regression of rewards and next values."""
        states = np.stack([step.states, step.following], axis=1)
        least_squares.add(account, Episode(states, step.actions[:, None], step.rewards[:, None]))
        _grow(account.memory, least_squares.features_of(account)[step.states, step.actions])


def _begin(account: Account, dimensions: int, ridge: float) -> dict[str, Any]:
    return {
        "inverse": np.broadcast_to(np.eye(dimensions) / ridge, (account.runs, dimensions, dimensions)).copy(),
        "volume": np.zeros(account.runs),  # log det Sigma / ridge^d
        "before": np.full(account.runs, -np.inf),
        "policy": np.zeros((account.runs, account.states), dtype=np.int64),
        "values": np.zeros((account.runs, account.states)),
        "choices": np.zeros(account.runs),
    }


def _grow(memory: dict[str, Any], x: Float[np.ndarray, "runs dimensions"]) -> None:
    """A rank-one update of all inverses and determinants."""
    pulled = (memory["inverse"] @ x[..., None])[..., 0]
    along = 1 + (x * pulled).sum(axis=-1)
    memory["inverse"] -= pulled[..., None] * (pulled / along[:, None])[:, None]
    memory["volume"] += np.log(along)


def _due(account: Account) -> Int[np.ndarray, " due"]:
    return np.flatnonzero(account.memory["volume"] >= account.memory["before"] + math.log(2))


def _choose(
    account: Account,
    due: Int[np.ndarray, " due"],
    reward_to_go: Callable[[Float[np.ndarray, "due states"]], Float[np.ndarray, "due states actions"]],
    span: float,
    sweeps: int = 1000,
) -> None:
    """Relative value iteration with clipped values.

    It begins at zero, not where the last one ended: an operator with an ellipsoid in it need not be monotone, and small
    values of long ago could hold themselves up, by telling the regression nothing.
    """
    memory = account.memory
    values = np.zeros((len(due), account.states))
    precision = (account.rewards[1] - account.rewards[0]) / math.sqrt(account.taken + 1)
    for _ in range(sweeps):
        of_actions = reward_to_go(values)
        new = 0.5 * of_actions.max(axis=-1) + 0.5 * values
        gain = 2 * (new - values).min(axis=1)
        new = np.minimum(new - new.min(axis=1, keepdims=True), span)
        moved = np.abs(new - values).max()
        values = new
        if moved < 0.01 * precision:
            break
    memory["values"][due], memory["policy"][due] = values, of_actions.argmax(axis=-1)
    memory["before"][due] = memory["volume"][due]
    memory["choices"][due] += 1
    account.report |= {"choices": float(memory["choices"].mean()), "promised gain": float(gain.mean())}


def _basis(account: Account) -> Float[np.ndarray, "dimensions states actions states"]:
    if account.basis is None:
        raise FewerError(
            "mixture-loop: the world has no basis of transitions; take one that has, such as mixture-river"
        )
    return account.basis


def _span(given: float | None, account: Account) -> float:
    low, high = account.rewards
    return given if given is not None else account.states * (high - low)


def _check(name: str, scale: float, delta: float, span: float | None, ridge: float) -> None:
    if not scale >= 0 or not 0 < delta < 1 or not ridge > 0 or (span is not None and not span > 0):
        raise FewerError(
            f"{name}: scale must not be negative, delta lie in (0, 1), span and ridge be positive; given {scale}, {delta}, "
            f"{span} and {ridge}"
        )
