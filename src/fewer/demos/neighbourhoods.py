"""What is done, and what comes of it, near each state: the sums behind the measures of :mod:`fewer.demos.quality`.

A neighbourhood is all states within a radius, or all of one cell of k-means.  States know the episode they are from, since
an episode agrees with itself: who asks whether others did the same must leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fewer.demos.neighbours import Leaves, nearest, pairs_within

QUERIES = 2000
"""States whose distance to their neighbours decides the radius; more do not change a median."""


@dataclass(frozen=True)
class Neighbourhoods:
    """What the neighbours of each state do.

    Parameters
    ----------
    deviation : float array (states, actions)
        The state's action less the mean action of its neighbours; NaN without neighbours.
    strangers : float array (states,)
        Neighbours from other episodes, copies of an episode counted once.
    near, near_across : float array (states,)
        Neighbours, the state itself among them, and neighbours from other episodes, copies counted as they came.
    """

    deviation: Float[np.ndarray, "states actions"]
    strangers: Float[np.ndarray, " states"]
    near: Float[np.ndarray, " states"]
    near_across: Float[np.ndarray, " states"]


def typical_radius(
    states: Float[np.ndarray, "states width"], episode: Int[np.ndarray, " states"], count: int, seed: int
) -> float:
    """Median distance of a state to its ``count``-th neighbour in other episodes.

    Without other episodes, or with fewer states in them, NaN, or the distance to the last of them.

    Examples
    --------
    >>> typical_radius(np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1]), 2, seed=0)
    3.0
    """
    others = len(states) - np.bincount(episode)[episode]
    count = min(count, int(others.min()))
    if count < 1:
        return float("nan")
    queries = np.arange(len(states))
    if len(queries) > QUERIES:
        queries = np.sort(np.random.Generator(np.random.PCG64(seed)).choice(queries, QUERIES, replace=False))
    distances, _ = nearest(Leaves.of(states), count, queries, episode)
    return float(np.median(distances[:, -1]))


def within(
    radius: float,
    states: Float[np.ndarray, "states width"],
    actions: Float[np.ndarray, "states actions"],
    episode: Int[np.ndarray, " states"],
    copies: Int[np.ndarray, " episodes"],
    leave_out: bool = True,
) -> Neighbourhoods:
    """Compare each state's action with those of the states within a radius.

    Parameters
    ----------
    radius : float
        In units of states.
    states : float array (states, width)
        Where.
    actions : float array (states, actions)
        What was done.
    episode : int array (states,)
        The episode of each state, from 0.
    copies : int array (episodes,)
        How often each episode was given.
    leave_out : bool, default True
        Leave a state's own episode out of its neighbours; else only the state itself.

    Examples
    --------
    Two episodes that pass the same places and do the opposite.

    >>> states, episode = np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([0, 0, 1, 1])
    >>> found = within(0.5, states, np.array([[1.0], [1.0], [-1.0], [-1.0]]), episode, np.ones(2, int))
    >>> found.deviation.ravel(), found.near
    (array([ 2.,  2., -2., -2.]), array([2., 2., 2., 2.]))
    """
    total, strangers, near, near_across = np.zeros_like(actions), *np.zeros((3, len(states)))
    number = strangers if leave_out else np.zeros(len(states))
    for points, which, other in pairs_within(Leaves.of(states), radius):
        begin = np.searchsorted(which, np.arange(len(points)))  # a point is its own neighbour: none is without
        foreign = episode[points[which]] != episode[other]
        weight = copies[episode[other]]
        counted = foreign if leave_out else points[which] != other
        total[points] = np.add.reduceat(np.where(counted[:, None], actions[other], 0.0), begin, axis=0)
        strangers[points] = np.add.reduceat(foreign.astype(float), begin)
        number[points] = np.add.reduceat(counted.astype(float), begin)
        near[points] = np.add.reduceat(weight.astype(float), begin)
        # a second copy of the own episode is another episode
        near_across[points] = np.add.reduceat(weight - ~foreign, begin)
    return Neighbourhoods(_less_mean(actions, total, number), strangers, near, near_across)


def in_cells(
    cell: Int[np.ndarray, " states"],
    actions: Float[np.ndarray, "states actions"],
    episode: Int[np.ndarray, " states"],
    copies: Int[np.ndarray, " episodes"],
    leave_out: bool = True,
) -> Neighbourhoods:
    """The same with all states of a cell as neighbours.

    Examples
    --------
    >>> found = in_cells(np.zeros(3, int), np.array([[1.0], [1.0], [-1.0]]), np.array([0, 0, 1]), np.ones(2, int))
    >>> found.deviation.ravel(), found.near_across
    (array([ 2.,  2., -2.]), array([1., 1., 2.]))
    """
    _, own = np.unique(np.stack([cell, episode]), axis=1, return_inverse=True)
    own = own.reshape(-1)  # the part of a cell that is of one episode

    def summed(key: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(key, column) for column in values.T], axis=1)[key]

    everybody, ours = np.bincount(cell)[cell].astype(float), np.bincount(own)[own].astype(float)
    weighted = np.bincount(cell, copies[episode].astype(float))[cell]
    total = summed(cell, actions) - (summed(own, actions) if leave_out else actions)
    number = everybody - (ours if leave_out else 1.0)
    return Neighbourhoods(_less_mean(actions, total, number), everybody - ours, weighted, weighted - ours)


def _less_mean(actions: np.ndarray, total: np.ndarray, number: np.ndarray) -> Float[np.ndarray, "states actions"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number[:, None] > 0, actions - total / number[:, None], np.nan)


def between_episodes(
    cell: Int[np.ndarray, " states"],
    actions: Float[np.ndarray, "states actions"],
    episode: Int[np.ndarray, " states"],
    follows: Int[np.ndarray, " pairs"],
) -> float:
    """Variance between the mean actions of the episodes that pass a cell, what noise adds to it taken off.

    Noise is what changes from one step to the next, half the mean squared difference; it is assumed to be independent.
    Cells must be large enough for several steps of an episode.

    Parameters
    ----------
    cell : int array (states,)
        From 0.
    actions : float array (states, actions)
        What was done.
    episode : int array (states,)
        From 0, rising.
    follows : int array (pairs,)
        States that the next one in the arrays follows in its episode.

    Returns
    -------
    float
        At least 0; NaN where no cell is passed by two episodes, or no state follows another.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> episode, follows = np.repeat(np.arange(100), 50), np.flatnonzero(np.arange(5000) % 50 != 49)
    >>> side, noise = np.where(episode % 2, 1.0, -1.0)[:, None], rng.normal(size=(5000, 1))
    >>> here = np.zeros(5000, dtype=int)
    >>> [round(between_episodes(here, each, episode, follows), 1) for each in (side, noise, side + noise)]
    [1.0, 0.0, 1.0]
    """
    runs, run = np.unique(np.stack([cell, episode]), axis=1, return_inverse=True)
    run, of = run.reshape(-1), runs[0]
    length = np.bincount(run).astype(float)
    mean = np.stack([np.bincount(run, column) for column in actions.T], axis=1) / length[:, None]
    passing = np.bincount(of).astype(float)
    several = passing > 1
    if not several.any() or not len(follows):
        return float("nan")
    middle = np.stack([np.bincount(of, column) for column in mean.T], axis=1) / np.maximum(passing, 1)[:, None]
    squares = np.bincount(of, ((mean - middle[of]) ** 2).sum(axis=1))[several] / (passing[several] - 1)
    noise = 0.5 * ((actions[follows + 1] - actions[follows]) ** 2).sum(axis=1).mean()
    excess = squares - noise * np.bincount(of, 1 / length)[several] / passing[several]
    return max(0.0, float(np.average(excess, weights=np.bincount(cell)[several])))


def transition_spread(
    states: Float[np.ndarray, "transitions width"],
    actions: Float[np.ndarray, "transitions actions"],
    change: Float[np.ndarray, "transitions width"],
    count: int = 10,
) -> Float[np.ndarray, "transitions width"]:
    """Squared residuals of the change of state, given the state and the action: their mean is its conditional variance.

    A linear model takes off what is linear, and the mean of the residuals of the ``count`` nearest transitions what is
    not: a mean alone would count the slope within a neighbourhood as noise.

    Parameters
    ----------
    states, actions : float arrays (transitions, width) and (transitions, actions)
        Standardised.
    change : float array (transitions, width)
        The next state less the state.
    count : int, default 10
        Neighbours.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> state, action = rng.normal(size=(2, 4000, 2))
    >>> change = 0.3 * action + 0.1 * np.sin(state) + 0.2 * rng.normal(size=state.shape)
    >>> transition_spread(state, action, change).mean(axis=0).round(2)
    array([0.04, 0.04])
    """
    given = np.concatenate([states, actions], axis=1)
    total, terms = len(given), given.shape[1] + 1
    residual = change - change.mean(axis=0)
    inflated = 1.0
    if total > 2 * terms:  # with fewer, a linear model would explain noise
        design = np.concatenate([given, np.ones((total, 1))], axis=1)
        residual = change - design @ np.linalg.lstsq(design, change, rcond=None)[0]
        inflated = total / (total - terms)
    _, near = nearest(Leaves.of(given), count)
    mean = residual[near].mean(axis=1)
    # the mean of the neighbours has noise of its own, and the linear model has taken some off
    return (residual - mean) ** 2 * (count / (count + 1)) * inflated
