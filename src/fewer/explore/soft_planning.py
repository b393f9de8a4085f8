"""Planning that pays for leaving a prior policy: soft values, exactly, for many models at once.

With strength lambda, an action costs lambda * log(pi(a|s) / prior(a|s)), so a policy's value is its return less lambda
times how far its episodes diverge from the prior's.  The best such policy is known in closed form, step by step::

    V_h(s) = lambda log sum_a prior_h(a|s) exp(Q_h(s, a) / lambda),   pi_h(a|s) ~ prior_h(a|s) exp(Q_h(s, a) / lambda)

Strength 0 is ordinary planning, infinite strength the prior itself.  All arrays have a leading axis of runs, as in
:mod:`fewer.explore.planning`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from fewer.explore.planning import ahead, greedy


def soft_choice(
    of_actions: Float[np.ndarray, "*batch actions"], prior: Float[np.ndarray, "*batch actions"], strength: float
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch actions"]]:
    """The best choice among actions if leaving the prior has its price: its value, and its probabilities.

    Parameters
    ----------
    of_actions : float array (*batch, actions)
        What each action is worth.
    prior : float array (*batch, actions)
        Probabilities, where infinite prices are meant 0.
    strength : float
        From 0 to infinity.

    Examples
    --------
    >>> value, policy = soft_choice(np.array([1.0, 0.0]), np.array([0.5, 0.5]), strength=1.0)
    >>> value.round(3), policy.round(3)
    (np.float64(0.62), array([0.731, 0.269]))
    """
    if strength == 0:
        policy = greedy(of_actions)
        return of_actions.max(axis=-1), np.broadcast_to(policy, np.broadcast_shapes(policy.shape, prior.shape))
    if math.isinf(strength):
        return (prior * of_actions).sum(axis=-1), np.broadcast_to(
            prior, np.broadcast_shapes(of_actions.shape, prior.shape)
        )
    with np.errstate(divide="ignore"):
        exponent = of_actions / strength + np.log(prior)
    peak = exponent.max(axis=-1, keepdims=True)
    weight = np.exp(exponent - peak)
    total = weight.sum(axis=-1, keepdims=True)
    return strength * (peak + np.log(total))[..., 0], weight / total


def soft_backward_induction(
    P: Float[np.ndarray, "runs *steps states actions states"],
    R: Float[np.ndarray, "runs *steps states actions"],
    prior: Float[np.ndarray, "#runs horizon states actions"],
    strength: float,
) -> tuple[Float[np.ndarray, "runs horizon+1 states"], Float[np.ndarray, "runs horizon states actions"]]:
    """Values and probabilities of the best policy that pays for leaving the prior.

    Parameters
    ----------
    P : float array (runs, [steps,] states, actions, states)
        Transition probabilities.
    R : float array (runs, [steps,] states, actions)
        Mean rewards.
    prior : float array (runs, horizon, states, actions)
        Of length 1 in the first axis where all runs share it.
    strength : float
        What a nat of divergence costs.

    Examples
    --------
    >>> P, R, prior = np.ones((1, 1, 2, 1)), np.array([[[1.0, 0.0]]]), np.full((1, 3, 1, 2), 0.5)
    >>> soft_backward_induction(P, R, prior, 1.0)[0][0, :, 0].round(2)
    array([1.86, 1.24, 0.62, 0.  ])
    """
    horizon = prior.shape[1]
    runs, states = max(len(P), len(R), len(prior)), P.shape[-1]
    values = np.zeros((runs, horizon + 1, states))
    policy = np.empty((runs, horizon, states, R.shape[-1]))
    for step in range(horizon - 1, -1, -1):
        now = _of_step(R, step, 4) + ahead(_of_step(P, step, 5), values[:, step + 1])
        values[:, step], policy[:, step] = soft_choice(now, prior[:, step], strength)
    return values, policy


def soft_evaluate(
    P: Float[np.ndarray, "runs *steps states actions states"],
    R: Float[np.ndarray, "runs *steps states actions"],
    policy: Float[np.ndarray, "runs horizon states actions"],
    prior: Float[np.ndarray, "#runs horizon states actions"],
    strength: float,
) -> Float[np.ndarray, "runs horizon+1 states"]:
    """Values of a given policy that pays for leaving the prior; arguments as of :func:`soft_backward_induction`.

    Examples
    --------
    >>> P, R, prior = np.ones((1, 1, 2, 1)), np.array([[[1.0, 0.0]]]), np.full((1, 3, 1, 2), 0.5)
    >>> soft_evaluate(P, R, prior, prior, 1.0)[0, :, 0]
    array([1.5, 1. , 0.5, 0. ])
    """
    runs, horizon, states, _ = policy.shape
    values = np.zeros((max(runs, len(P), len(prior)), horizon + 1, states))
    price = strength * divergence(policy, prior) if strength else np.zeros(policy.shape[:-1])
    for step in range(horizon - 1, -1, -1):
        now = _of_step(R, step, 4) + ahead(_of_step(P, step, 5), values[:, step + 1])
        values[:, step] = (policy[:, step] * now).sum(axis=-1) - price[:, step]
    return values


def divergence(
    policy: Float[np.ndarray, "*batch actions"], prior: Float[np.ndarray, "*batch actions"]
) -> Float[np.ndarray, "*batch"]:
    """Kullback-Leibler divergence of a policy from a prior, in nats; infinite where the prior forbids what is done.

    Examples
    --------
    >>> divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(3)
    np.float64(0.693)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        each = policy * (np.log(policy) - np.log(prior))
    return np.where(policy > 0, each, 0).sum(axis=-1)


def trajectory_divergence(
    P: Float[np.ndarray, "#runs *steps states actions states"],
    first: Float[np.ndarray, " states"],
    policy: Float[np.ndarray, "#runs horizon states actions"],
    prior: Float[np.ndarray, "#runs horizon states actions"],
) -> Float[np.ndarray, " runs"]:
    """How far a policy's whole episodes diverge from the prior's: its divergences, expected along its own way.

    Examples
    --------
    >>> P, sure = np.ones((1, 1, 2, 1)), np.array([[[[1.0, 0.0]]] * 3])
    >>> trajectory_divergence(P, np.ones(1), sure, np.full((1, 3, 1, 2), 0.5)).round(3)  # three bits
    array([2.079])
    """
    zero = np.zeros((1, P.shape[-1], policy.shape[-1]))
    return -soft_evaluate(P, zero, policy, prior, 1.0)[:, 0] @ first


def _of_step(array: np.ndarray, step: int, dimensions: int) -> np.ndarray:
    return array[:, step] if array.ndim == dimensions else array
