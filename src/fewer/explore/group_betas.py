"""How unlike the members of groups of actions are: exactly in a known world, and from samples.

For a group ``j`` of actions ``a`` in a state ``s``,

    P(s'|s,a) = (1 - beta_P) P1(s'|s,j) + beta_P P2(s'|s,a),    r(s,a) = (1 - beta_r) r1(s,j) + beta_r r2(s,a),

where always the smallest ``beta`` is meant that will do: 0 for equal actions, 1 for such as share nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from fewer.explore.groupings import ActionGrouping


def true_betas(
    P: Float[np.ndarray, "states actions states"], R: Float[np.ndarray, "states actions"], grouping: ActionGrouping
) -> tuple[float, float]:
    """The smallest ``beta_P`` and ``beta_r`` with which a known world is as a grouping says.

    Parameters
    ----------
    P, R : float arrays (states, actions, states) and (states, actions)
        The world; rewards in [0, 1].
    grouping : ActionGrouping
        The partition.

    Returns
    -------
    (float, float)
        Of ``P``, one less what all members of a group share; of ``R``, the greatest difference within a group.

    Examples
    --------
    >>> P = np.array([[[1.0, 0.0], [0.8, 0.2]], [[0.5, 0.5], [0.5, 0.5]]])
    >>> [round(each, 6) for each in true_betas(P, np.array([[0.1, 0.4], [0.5, 0.5]]), ActionGrouping([0, 0]))]
    [0.2, 0.3]
    """
    states, actions = R.shape
    labels = np.broadcast_to(grouping.labels, (states, actions))
    cells = states * grouping.groups
    there = labels.ravel() >= 0
    place = (np.arange(states)[:, None] * grouping.groups + labels).ravel()[there]
    shared, low, high = np.full((cells, states), np.inf), np.full(cells, np.inf), np.full(cells, -np.inf)
    np.minimum.at(shared, place, P.reshape(-1, states)[there])
    np.minimum.at(low, place, R.ravel()[there])
    np.maximum.at(high, place, R.ravel()[there])
    some = high >= low
    return float((1 - shared[some].sum(axis=1)).max().clip(0)), float((high - low)[some].max())


def estimated_betas(
    states: Int[np.ndarray, "runs n"],
    actions: Int[np.ndarray, "runs n"],
    following: Int[np.ndarray, "runs n"],
    rewards: Float[np.ndarray, "runs n"],
    groups: Int[np.ndarray, "runs n"],
    rng: np.random.Generator,
    shuffles: int = 5,
) -> tuple[Float[np.ndarray, " runs"], Float[np.ndarray, " runs"]]:
    """How unlike members that share a group are, beyond what chance makes of like ones.

    Parameters
    ----------
    states, actions, following : int arrays (runs, n)
        Samples: what was tried, and where it led.
    rewards : float array (runs, n)
        What it paid, on the scale of [0, 1].
    groups : int array (runs, n)
        Group of each action.
    rng : numpy Generator
        Deals the samples of a group out to its members at random.
    shuffles : int, default 5
        How often.

    Returns
    -------
    beta_P : float array (runs,)
        Mean total-variation distance of a member to the rest of its group.
    beta_r : float array (runs,)
        Half the range of members' means, on average over members.
        Both are over groups with samples of at least two members, and NaN where there is none.

    Examples
    --------
    Two actions that lead to different places, and the same two with their samples mixed.

    >>> state, action = np.zeros((1, 8), int), np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    >>> rng = np.random.default_rng(0)
    >>> apart, _ = estimated_betas(state, action, action, 0.5 * (action > 0), state, rng, shuffles=50)
    >>> alike, _ = estimated_betas(state, action, np.array([[0, 1] * 4]), 0.5 * (action > 0), state, rng, shuffles=50)
    >>> bool(apart[0] > 0.8), alike[0].item()
    (True, 0.0)
    """
    runs, n = states.shape
    # cells of a run, a state and a group, members within them, and outcomes of cells, by numbers without gaps, all in the
    # order of the cells: what was not tried, or not seen, takes no room
    run = np.repeat(np.arange(runs), n)
    cell = _numbered(run, states.ravel(), groups.ravel())
    member = _numbered(cell, actions.ravel())
    order = np.argsort(member)
    cell, member, rewards = cell[order], member[order], rewards.ravel()[order]
    outcome = _numbered(cell, following.ravel()[order])
    first = np.flatnonzero(np.diff(member, prepend=-1))
    cell_of, per_member, per_cell = cell[first], np.bincount(member), np.bincount(cell)
    begin = np.flatnonzero(np.diff(cell_of, prepend=-1))
    cell_of_outcome = cell[np.unique(outcome, return_index=True)[1]]
    share = np.bincount(outcome) / per_cell[cell_of_outcome]  # of each outcome in its cell
    rest = 1 - per_member / per_cell[cell_of]
    rest[rest == 0] = 1  # alone in its group
    # a table of each member's share of each outcome of its cell
    width = np.bincount(cell_of_outcome)[cell_of]
    row = np.repeat(np.arange(len(width)), width)
    start = width.cumsum() - width - np.flatnonzero(np.diff(cell_of_outcome, prepend=-1))[cell_of]
    expected = share[np.arange(len(row)) - start[row]]

    def unlike(dealt: Int[np.ndarray, " samples"]) -> Float[np.ndarray, "two members"]:
        seen = np.bincount(start[member] + outcome[dealt], minlength=len(row)) / per_member[row]
        # from the group, of which it is a part itself, to the rest of the group
        distance = 0.5 * np.bincount(row, np.abs(seen - expected)) / rest
        mean = np.bincount(member, rewards[dealt]) / per_member
        spread = 0.5 * (np.maximum.reduceat(mean, begin) - np.minimum.reduceat(mean, begin))
        return np.stack([distance, spread[cell_of]])

    weight = (np.bincount(cell_of)[cell_of] > 1).astype(float)  # one member alone says nothing of how unlike it is
    run_of = run[order][first]

    def average(dealt: Int[np.ndarray, " samples"]) -> Float[np.ndarray, "two runs"]:
        with np.errstate(invalid="ignore"):
            total = np.bincount(run_of, weight, runs)
            return np.stack([np.bincount(run_of, weight * each, runs) / total for each in unlike(dealt)])

    seen = average(np.arange(len(cell)))
    # sorting random numbers within cells deals the samples of each cell out anew
    chance = sum(average(np.argsort(cell + rng.random(len(cell)))) for _ in range(shuffles)) / shuffles
    # unlikeness and chance add up in squares: a plain difference would miss what is smaller than chance
    beta_P, beta_r = np.sqrt(np.maximum(seen**2 - chance**2, 0))
    return beta_P, beta_r


def _numbered(*keys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Number the different combinations, in their order."""
    flat = np.ravel_multi_index(keys, tuple(int(key.max()) + 1 for key in keys))
    return np.unique(flat, return_inverse=True)[1]


def betas_of_levels(
    states: Int[np.ndarray, "runs n"],
    actions: Int[np.ndarray, "runs n"],
    following: Int[np.ndarray, "runs n"],
    rewards: Float[np.ndarray, "runs n"],
    families: Sequence[Sequence[ActionGrouping]],
    rng: np.random.Generator,
) -> Float[np.ndarray, "two levels runs"]:
    """Estimate both betas for each of nested groupings.

    What is measured on actions with company in their group counts for their share; one alone is unlike nobody.  A level
    at which no two such actions were tried is taken to be as unlike as the next coarser one, which it cannot exceed.

    Parameters
    ----------
    states, actions, following, rewards
        Samples; see :func:`estimated_betas`.
    families : sequence of sequences of ActionGrouping
        For each run, or one for all, the groupings from coarse to fine.
    rng : numpy Generator
        See :func:`estimated_betas`.

    Returns
    -------
    float array (2, levels, runs)
        Of transitions and of rewards, from 0 to 1, falling from coarse to fine; NaN from the coarsest level on where
        none is measured.
    """
    betas = []
    for level in zip(*families, strict=True):
        rows = max(len(each.labels) for each in level)
        labels = np.stack([np.broadcast_to(each.labels, (rows, each.actions)) for each in level])
        of = np.arange(len(states))[:, None] % len(level)
        groups = labels[of, states if rows > 1 else np.zeros_like(states), actions]
        shared = np.array([each.shared for each in level])
        if not shared.any():
            betas.append(np.zeros((2, len(states))))
            continue
        measured = np.stack(estimated_betas(states, actions, following, rewards, groups, rng))
        betas.append(np.where(shared > 0, shared * measured, 0.0))
    table = np.stack(betas, axis=1)
    for level in range(1, table.shape[1]):
        table[:, level] = np.where(np.isnan(table[:, level]), table[:, level - 1], table[:, level])
    return falling(table).clip(0, 1)


def falling(values: Float[np.ndarray, "two levels runs"]) -> Float[np.ndarray, "two levels runs"]:
    """The nearest values, by least squares, that do not rise along the levels.

    Examples
    --------
    >>> falling(np.array([3.0, 1.0, 2.0, 0.0]).reshape(1, 4, 1)).ravel().tolist()
    [3.0, 1.5, 1.5, 0.0]
    """
    levels = values.shape[1]
    sums = np.concatenate([np.zeros_like(values[:, :1]), values.cumsum(axis=1)], axis=1)
    fitted = np.full_like(values, np.inf)
    for first in range(levels):  # isotonic regression: least over beginnings of the greatest mean over ends
        means = (sums[:, first + 1 :] - sums[:, first, None]) / np.arange(1, levels - first + 1)[:, None]
        greatest = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fitted[:, first:] = np.minimum(fitted[:, first:], greatest)
    return fitted
