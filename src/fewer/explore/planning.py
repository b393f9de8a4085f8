"""Exact planning in finite models, many models at once.

All arrays have a leading axis of runs; a model that all runs share may have length 1 there.  A model
that changes with the step of an episode has an axis of steps after it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError


def ahead(
    P: Float[np.ndarray, "#runs states actions next"], values: Float[np.ndarray, "#runs next"]
) -> Float[np.ndarray, "runs states actions"]:
    """Expected value of the next state, as one matrix product a run, or one for all where all share a model.

    Examples
    --------
    >>> ahead(np.full((1, 2, 1, 2), 0.5), np.array([[0.0, 1.0], [2.0, 4.0]])).tolist()
    [[[0.5], [0.5]], [[3.0], [3.0]]]
    """
    models, states, actions, _ = P.shape
    flat = P.reshape(models, states * actions, -1)
    if models == 1:
        return (values @ flat[0].T).reshape(-1, states, actions)
    return (flat @ values[..., None]).reshape(models, states, actions)


def backward_induction(
    P: Float[np.ndarray, "runs *steps states actions states"],
    R: Float[np.ndarray, "runs *steps states actions"],
    horizon: int,
    ceiling: float | None = None,
) -> tuple[Float[np.ndarray, "runs horizon+1 states"], Float[np.ndarray, "runs horizon states actions"]]:
    """Values and action values of the best policy over a finite horizon.

    Parameters
    ----------
    P : float array (runs, [steps,] states, actions, states)
        Transition probabilities; optimistic models need not sum to one.
    R : float array (runs, [steps,] states, actions)
        Mean rewards, with whatever bonus belongs to them.
    horizon : int
        Steps.
    ceiling : float, optional
        Most reward of a step; a value with ``n`` steps to go is then at most ``n`` times it.

    Returns
    -------
    values : float array (runs, horizon + 1, states)
        The last one is zero.
    actions : float array (runs, horizon, states, actions)
        Of which ``values`` are the maxima.

    Examples
    --------
    >>> P, R = np.array([[[[0.0, 1.0]], [[0.0, 1.0]]]]), np.array([[[1.0], [0.5]]])
    >>> backward_induction(P, R, 3)[0][0, :, 0]
    array([2. , 1.5, 1. , 0. ])
    """
    runs, states, actions = max(P.shape[0], R.shape[0]), P.shape[-1], R.shape[-1]
    by_step = P.ndim == 5
    values = np.zeros((runs, horizon + 1, states))
    of_actions = np.empty((runs, horizon, states, actions))
    for step in range(horizon - 1, -1, -1):
        next_step = P[:, step] if by_step else P
        reward = R[:, step] if R.ndim == 4 else R
        now = reward + ahead(next_step, values[:, step + 1])
        if ceiling is not None:
            now = np.minimum(now, (horizon - step) * ceiling)
        of_actions[:, step] = now
        values[:, step] = now.max(axis=-1)
    return values, of_actions


def evaluate(
    P: Float[np.ndarray, "runs states actions states"],
    R: Float[np.ndarray, "runs states actions"],
    policy: Float[np.ndarray, "runs horizon states actions"],
) -> Float[np.ndarray, "runs horizon+1 states"]:
    """Values of a given policy.

    Examples
    --------
    >>> P, R = np.full((1, 2, 2, 2), 0.5), np.array([[[1.0, 0.0], [1.0, 0.0]]])
    >>> evaluate(P, R, np.full((1, 4, 2, 2), 0.5))[0, 0]
    array([2., 2.])
    """
    runs, horizon, states, _ = policy.shape
    values = np.zeros((max(runs, P.shape[0]), horizon + 1, states))
    for step in range(horizon - 1, -1, -1):
        of_actions = R + ahead(P, values[:, step + 1])
        values[:, step] = (policy[:, step] * of_actions).sum(axis=-1)
    return values


def greedy(
    of_actions: Float[np.ndarray, "... actions"], rng: np.random.Generator | None = None
) -> Float[np.ndarray, "... actions"]:
    """The policy that takes the best action; of equally good ones the first, or each as often with ``rng``.

    Examples
    --------
    >>> greedy(np.array([[1.0, 3.0], [2.0, 2.0]]))
    array([[0., 1.],
           [1., 0.]])
    """
    if rng is not None:
        tied = of_actions >= of_actions.max(axis=-1, keepdims=True) - 1e-12
        of_actions = np.where(tied, rng.random(of_actions.shape), -1.0)
    return one_hot(of_actions.argmax(axis=-1), of_actions.shape[-1])


def one_hot(actions: Int[np.ndarray, "..."], count: int) -> Float[np.ndarray, "... actions"]:
    """A policy that always takes the given action."""
    return np.eye(count)[actions]


def draw(policy: Float[np.ndarray, "runs actions"], rng: np.random.Generator) -> Int[np.ndarray, " runs"]:
    """One action a run from its distribution."""
    cumulative = policy.cumsum(axis=-1)
    return (cumulative[:, :-1] <= rng.random((len(policy), 1)) * cumulative[:, -1:]).sum(axis=-1)


def outcome(
    cumulative: Float[np.ndarray, "*rows outcomes"],
    row: tuple[Int[np.ndarray, "..."], ...],
    u: Float[np.ndarray, "..."],
) -> Int[np.ndarray, "..."]:
    """The outcome that a number in [0, 1) stands for, by bisection: no draw holds a whole distribution.

    Parameters
    ----------
    cumulative : float array (*rows, outcomes)
        Cumulative sums of distributions; the last one may be off 1 by rounding.
    row : tuple of int arrays
        Which distribution each number belongs to.
    u : float array
        Uniform numbers.

    Examples
    --------
    >>> outcome(np.array([[0.2, 0.2, 1.0]]), (np.zeros(3, dtype=int),), np.array([0.1, 0.2, 0.9])).tolist()
    [0, 2, 2]
    """
    last = cumulative.shape[-1] - 1
    flat, first = cumulative.reshape(-1), np.ravel_multi_index(row, cumulative.shape[:-1]) * (last + 1)
    u = u * flat[first + last]
    found = np.zeros(u.shape, dtype=np.int64)
    for power in reversed(range(last.bit_length())):
        after = np.minimum(found + 2**power, last)  # the last outcome is not stepped over
        found = np.where(flat[first + after - 1] <= u, after, found)
    return found


def mix(policy: Float[np.ndarray, "... actions"], uniform: float) -> Float[np.ndarray, "... actions"]:
    """A share of uniform actions in a policy."""
    return (1 - uniform) * policy + uniform / policy.shape[-1]


def relative_value_iteration(
    P: Float[np.ndarray, "models states actions states"],
    R: Float[np.ndarray, "models states actions"],
    tolerance: float = 1e-8,
    sweeps: int = 100_000,
) -> tuple[
    Float[np.ndarray, " models"], Float[np.ndarray, "models states"], Float[np.ndarray, "models states actions"]
]:
    """Greatest average reward of models without end, with the bias and the action values of the best policy.

    Each sweep goes half way (an aperiodicity transform): the gain seen is half of the model's, the bias is its own.

    Parameters
    ----------
    P, R : float arrays (models, states, actions, states) and (models, states, actions)
        All models at once.
    tolerance : float, default 1e-8
        Greatest spread of the change of values at which iteration stops.
    sweeps : int, default 100,000
        After so many the models are taken not to have one gain.

    Returns
    -------
    gain : float array (models,)
    bias : float array (models, states)
        Its least value is 0.
    actions : float array (models, states, actions)
        ``R + P bias - gain``, of which ``bias`` is the maximum.

    Raises
    ------
    FewerError
        If some model does not converge: its gain depends on where one starts.
    """
    values = np.zeros(P.shape[:2])
    for _ in range(sweeps):
        new = (R + ahead(P, values)).max(axis=-1) * 0.5 + values * 0.5
        change = new - values
        values = new - new.min(axis=1, keepdims=True)
        if float(np.ptp(change, axis=1).max()) < tolerance / 2:
            break
    else:
        bad = int(np.ptp(change, axis=1).argmax())
        raise FewerError(
            f"the average reward of model {bad} depends on the state one starts in; give models in which every state "
            "can be reached from every other"
        )
    gain = change.max(axis=1) + change.min(axis=1)  # twice the middle of the change
    return gain, values, R + ahead(P, values) - gain[:, None, None]


def discounted_value(
    P: Float[np.ndarray, "runs states states"], R: Float[np.ndarray, "runs states"], gamma: float
) -> Float[np.ndarray, "runs states"]:
    """Value of moving and being paid without end, discounted, as one linear system a run.

    Examples
    --------
    >>> discounted_value(np.eye(2)[None], np.array([[1.0, 0.5]]), 0.9).round(6)
    array([[10.,  5.]])
    """
    return np.linalg.solve(np.eye(P.shape[-1]) - gamma * P, R[..., None])[..., 0]


def policy_iteration(
    P: Float[np.ndarray, "models states actions states"], R: Float[np.ndarray, "models states actions"], gamma: float
) -> tuple[Float[np.ndarray, "models states"], Float[np.ndarray, "models states actions"]]:
    """Values and action values of the best policy of discounted models, exactly but for rounding.

    Parameters
    ----------
    P, R : float arrays (models, states, actions, states) and (models, states, actions)
        All models at once.  An action that a state does not have pays ``-inf``; each state has one.
    gamma : float
        Discount, in [0, 1).

    Returns
    -------
    values : float array (models, states)
    actions : float array (models, states, actions)
        ``R + gamma P values``.

    Examples
    --------
    >>> P, R = np.ones((1, 1, 2, 1)), np.array([[[0.2, 1.0]]])
    >>> values, actions = policy_iteration(P, R, 0.5)
    >>> values, actions
    (array([[2.]]), array([[[1.2, 2. ]]]))
    """
    models, states = np.ogrid[: len(P), : P.shape[1]]
    chosen = R.argmax(axis=-1)
    while True:  # each round but the last makes some policy better, and there are finitely many
        values = discounted_value(P[models, states, chosen], R[models, states, chosen], gamma)
        of_actions = R + gamma * ahead(P, values)
        # what the linear systems leave to rounding must not make equally good policies take turns for ever
        rounding = 1e-13 / (1 - gamma) * np.abs(values).max(axis=1, keepdims=True)
        better = of_actions.max(axis=-1) > of_actions[models, states, chosen] + rounding
        if not better.any():
            return values, of_actions
        chosen = np.where(better, of_actions.argmax(axis=-1), chosen)
