"""Behaviour cloning in finite worlds: the likeliest policy behind what was shown, never forbidding any action.

Where states are numbered, the estimate of each step and state is the share of each action among those shown there, with a
pseudo-count kappa that makes it uniform where nothing was shown::

    pi_h(a | s) = (N_h(s, a) + kappa) / (N_h(s) + kappa A)

Where state-action pairs have features, it is log-linear, pi_h(a | s) ~ exp(theta_h . phi(s, a)): the regularised likelihood
is concave in theta, and Newton's method finds its maximum for all runs and steps at once.  A share of uniform actions is
mixed in.  With N episodes of an expert, a clone's whole episodes diverge from the expert's by about 1 / N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import mix
from fewer.explore.soft_planning import soft_choice
from fewer.explore.trajectories import Trajectories


def action_counts(shown: Trajectories, states: int, actions: int) -> Float[np.ndarray, "runs horizon states actions"]:
    """How often each action was shown in each step and state."""
    runs, _, horizon = shown.actions.shape
    counted = np.zeros((runs, horizon, states, actions))
    run, episode, step = np.nonzero(shown.played)
    place = (run, episode, step)
    np.add.at(counted, (run, step, shown.states[place], shown.actions[place]), 1)
    return counted


def clone_counts(
    shown: Trajectories, states: int, actions: int, pseudo_count: float | None = None
) -> Float[np.ndarray, "runs horizon states actions"]:
    """Clone by counting.

    Parameters
    ----------
    shown : Trajectories
        What the expert did.
    states, actions : int
        Of the world.
    pseudo_count : float, optional
        Kappa above, positive; by default one over the number of actions.

    Examples
    --------
    >>> shown = Trajectories(np.zeros((1, 3, 2), int), np.ones((1, 3, 1), int), np.zeros((1, 3, 1)))
    >>> clone_counts(shown, states=2, actions=2)[0, 0]
    array([[0.125, 0.875],
           [0.5  , 0.5  ]])
    """
    kappa = 1 / actions if pseudo_count is None else pseudo_count
    if not 0 < kappa < math.inf:
        raise FewerError(
            f"cloning: pseudo_count must be positive, or an action never shown is forbidden; it is {kappa}"
        )
    counted = action_counts(shown, states, actions) + kappa
    return counted / counted.sum(axis=-1, keepdims=True)


def clone_features(
    shown: Trajectories,
    features: Float[np.ndarray, "states actions dimensions"],
    uniform: float | None = None,
    ridge: float = 1.0,
    steps: int = 30,
) -> Float[np.ndarray, "runs horizon states actions"]:
    """Clone by log-linear policies of features, one for each step.

    Parameters
    ----------
    shown : Trajectories
        What the expert did.
    features : float array (states, actions, dimensions)
        Of state-action pairs.
    uniform : float, optional
        Share of uniform actions, in (0, 1]; by default one over the episodes shown.
    ridge : float, default 1
        Half of it times the squared length of theta is added to the negative log-likelihood; positive.
    steps : int, default 30
        Most steps of Newton's method.
    """
    if not 0 < ridge < math.inf:
        raise FewerError(f"cloning: ridge must be positive, or the likelihood may have no maximum; it is {ridge}")
    share = 1 / max(len(shown), 1) if uniform is None else uniform
    if not 0 < share <= 1:
        raise FewerError(f"cloning: a share of uniform actions lies in (0, 1]; {share} was given")
    states, actions, dimensions = features.shape
    counted = action_counts(shown, states, actions)
    often = counted.sum(axis=-1, keepdims=True)
    theta = np.zeros((*counted.shape[:2], dimensions))
    ridges = ridge * np.eye(dimensions)
    uniformly = np.full(actions, 1 / actions)

    def fit(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, policy = soft_choice(np.einsum("rhd,sad->rhsa", theta, features), uniformly, 1.0)
        likely = (counted * (np.log(np.maximum(policy, 1e-300)))).sum(axis=(-1, -2))
        return likely - ridge / 2 * (theta**2).sum(axis=-1), policy

    height, policy = fit(theta)
    for _ in range(steps):
        mean = np.einsum("rhsa,sad->rhsd", policy, features)
        uphill = np.einsum("rhsa,sad->rhd", counted - often * policy, features) - ridge * theta
        curved = np.einsum("rhsa,sad,sae->rhde", often * policy, features, features, optimize=True)
        curved += ridges - np.einsum("rhs,rhsd,rhse->rhde", often[..., 0], mean, mean, optimize=True)
        move = np.linalg.solve(curved, uphill[..., None])[..., 0]
        gain = (move * uphill).sum(axis=-1)
        if gain.max() < 1e-10:
            break
        pace = np.ones(gain.shape)
        for _ in range(30):  # half as far where the height did not rise as it should
            new, new_policy = fit(theta + pace[..., None] * move)
            short = new < height + 0.25 * pace * gain - 1e-12 * np.abs(height)
            if not short.any():
                break
            pace = np.where(short, pace / 2, pace)
        theta = theta + pace[..., None] * move
        height, policy = new, new_policy
    return mix(policy, share)


@dataclass(frozen=True)
class Cloning:
    """Play the clone of who was shown, and learn nothing more.

    Parameters
    ----------
    pseudo_count : float, optional
        Of each action in each step and state; by default one over the number of actions.

    Examples
    --------
    >>> from fewer.explore import Exploration
    >>> from fewer.explore.grid_worlds import slippery_grid
    >>> few, many = (slippery_grid(demonstrations=count) for count in (2, 200))
    >>> Exploration(Cloning(), points=1).learn(few, 5).curve.final < Exploration(Cloning(), points=1).learn(many, 5).curve.final
    True
    """

    pseudo_count: float | None = None

    def begin(self, account: Account) -> None:
        """Clone."""
        account.memory["policy"] = prior_of(account, self.pseudo_count)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """Always the same."""
        return account.memory["policy"]

    def learn(self, account: Account, episode: Episode) -> None:
        """Nothing."""


def prior_of(account: Account, pseudo_count: float | None) -> Float[np.ndarray, "runs horizon states actions"]:
    """The clone of what an account's agent was shown, for each run; uniform if nothing was."""
    shape = (account.runs, account.horizon, account.states, account.actions)
    if account.demonstrations is None or not len(account.demonstrations):
        return np.full(shape, 1 / account.actions)
    cloned = clone_counts(account.demonstrations, account.states, account.actions, pseudo_count)
    return np.broadcast_to(cloned, shape).copy()
