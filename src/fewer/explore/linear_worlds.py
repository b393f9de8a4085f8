"""Worlds whose transitions and mean rewards are linear in known features of states and actions.

P(s' | s, a) = phi(s, a) . mu(s') and R(s, a) = phi(s, a) . theta: each pair is a mixture of a few causes, each of which
leads somewhere and pays something.
"""

from __future__ import annotations

import numpy as np

from fewer.core.errors import FewerError
from fewer.explore.worlds import FiniteMDP, riverswim


def linear_mdp(
    states: int = 40, actions: int = 4, dimensions: int = 5, horizon: int = 8, spread: float = 0.3, seed: int = 0
) -> FiniteMDP:
    """Random mixtures of random causes: many states, few dimensions.

    Parameters
    ----------
    states, actions, dimensions, horizon : int
        Sizes; the features are the weights of ``dimensions`` causes.
    spread : float, default 0.3
        Of the Dirichlet distributions: small makes causes nearly pure and next states nearly sure.
    seed : int, default 0
        Which world; not the run's seed.

    Examples
    --------
    >>> world = linear_mdp(states=6, dimensions=3)
    >>> world.features.shape
    (6, 4, 3)
    """
    if min(states, actions, dimensions, horizon) < 1 or not spread > 0:
        raise FewerError(
            f"linear-mdp: sizes must be at least 1 and spread positive; given {states}, {actions}, {dimensions}, "
            f"{horizon} and {spread}"
        )
    rng = np.random.default_rng(seed)
    features = rng.dirichlet(np.full(dimensions, spread), size=(states, actions))
    leads = 0.99 * rng.dirichlet(np.full(states, spread), size=dimensions) + 0.01 / states  # every state can be reached
    P, R = features @ leads, features @ rng.random(dimensions)
    name = (
        f"linear-mdp(states={states}, actions={actions}, dimensions={dimensions}, horizon={horizon}, "
        f"spread={spread:g}, seed={seed})"
    )
    return FiniteMDP(name, P / P.sum(axis=2, keepdims=True), R, horizon, noise="bernoulli", features=features)


def linear_river(reaches: int = 5, symbols: int = 8, horizon: int = 20, seed: int = 0) -> FiniteMDP:
    """A river seen in many ways: each reach of it has several symbols, and the features say which reach a symbol is of.

    The current of :func:`~fewer.explore.worlds.riverswim`: drifting left is sure and pays 0.005 at the mouth, swimming
    right pays 1 at the far end.  Within a reach the next symbol is drawn at random, so what is learned of one symbol
    holds for all of its reach: 2 ``reaches`` dimensions for ``reaches * symbols`` states.

    Parameters
    ----------
    reaches : int, default 5
        At least 3.
    symbols : int, default 8
        For each reach.
    horizon : int, default 20
        Steps of an episode.
    seed : int, default 0
        Which frequencies the symbols have; not the run's seed.
    """
    if reaches < 3 or symbols < 1:
        raise FewerError(
            f"linear-river: at least 3 reaches and 1 symbol are needed; {reaches} and {symbols} were given"
        )
    river = riverswim(reaches, horizon)
    often = np.random.default_rng(seed).dirichlet(np.full(symbols, 5.0), size=reaches)
    reach = np.repeat(np.arange(reaches), symbols)
    P = river.P[reach][:, :, reach] * often.reshape(-1)
    features = np.zeros((reaches * symbols, 2, reaches, 2))
    features[np.arange(len(reach)), :, reach] = np.eye(2)
    start = np.where(reach == 0, often.reshape(-1), 0)
    name = f"linear-river(reaches={reaches}, symbols={symbols}, horizon={horizon}, seed={seed})"
    flat = features.reshape(len(reach), 2, -1)
    return FiniteMDP(
        name, P / P.sum(axis=2, keepdims=True), river.R[reach], horizon, start / start.sum(), features=flat
    )
