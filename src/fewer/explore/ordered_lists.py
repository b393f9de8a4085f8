"""The best ordered list to show someone who takes the first item that attracts: exact, and for many cases at once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from fewer.core.errors import FewerError

Items = Shaped[np.ndarray, "*cases items"]


def best_list(
    u: Items, w: Items, w0: Float[np.ndarray, "*cases"] | float, length: int
) -> tuple[Float[np.ndarray, "*cases"], Int[np.ndarray, "*cases length"]]:
    """Find the list of greatest value (BestPerm).

    For a fixed set of items the best order is that of decreasing worth, and an item worth no more than nothing at all
    is best left out; what remains is to choose at most ``length`` items along that order, by dynamic programming from
    its end.

    Parameters
    ----------
    u : float array (*cases, items)
        Probability that an item attracts someone who looks at it.
    w : float array (*cases, items)
        What it is worth if it is taken.
    w0 : float array (*cases), or float
        What it is worth if nothing is taken.
    length : int
        Most items of a list; more than there are does no harm.

    Returns
    -------
    values : float array (*cases)
        Of the best lists.
    lists : int array (*cases, length)
        Items in order; -1 where a list is shorter.

    Raises
    ------
    FewerError
        If a probability lies outside [0, 1], something is NaN, or the length is below 0.

    Examples
    --------
    >>> value, chosen = best_list(np.array([0.5, 0.9, 0.2]), np.array([1.0, 0.5, 0.1]), 0.2, length=2)
    >>> round(float(value), 3), chosen.tolist()
    (0.735, [0, 1])
    """
    u, w = np.broadcast_arrays(np.asarray(u, dtype=float), np.asarray(w, dtype=float))
    if length < 0 or not ((u >= 0) & (u <= 1)).all() or np.isnan(w).any() or np.isnan(w0).any():
        raise FewerError("best list: give probabilities in [0, 1], worths that are numbers, and a length of at least 0")
    items = u.shape[-1]
    order = np.argsort(-w, axis=-1, kind="stable")
    u_sorted, w_sorted = np.take_along_axis(u, order, axis=-1), np.take_along_axis(w, order, axis=-1)
    cases = u.shape[:-1]
    # best[c]: value of the best list of at most c of the items from here on
    best = np.broadcast_to(np.asarray(w0, dtype=float)[..., None], (*cases, length + 1)).copy()
    taken = np.zeros((items, *cases, length + 1), dtype=bool)
    for item in range(items - 1, -1, -1):
        chance, worth = u_sorted[..., item, None], w_sorted[..., item, None]
        with_it = chance * worth + (1 - chance) * best[..., :-1]
        taken[item, ..., 1:] = with_it > best[..., 1:]
        np.maximum(best[..., 1:], with_it, out=best[..., 1:])
    lists = np.full((*cases, length), -1, dtype=np.int64)
    left: Any = np.full(cases, length)
    filled: Any = np.zeros(cases, dtype=np.int64)
    for item in range(items):
        here: Any = np.take_along_axis(taken[item], left[..., None], axis=-1)[..., 0]
        if here.any():
            places = (*np.nonzero(here), filled[here]) if cases else (filled[()],)
            lists[places] = order[..., item][here] if cases else order[item]
            left -= here
            filled += here
    return best[..., -1], lists


def list_value(
    lists: Int[np.ndarray, "*cases length"], u: Items, w: Items, w0: Float[np.ndarray, "*cases"] | float
) -> Float[np.ndarray, "*cases"]:
    """Value of given lists: what the first item that attracts is worth, or ``w0`` if none does.

    Examples
    --------
    >>> float(list_value(np.array([2, 0, -1]), np.array([0.5, 0.9, 0.2]), np.array([1.0, 0.5, 0.1]), 0.0).round(3))
    0.42
    """
    return least_value(lists, u, u, w, w0)


def least_value(
    lists: Int[np.ndarray, "*cases length"], low: Items, high: Items, w: Items, w0: Float[np.ndarray, "*cases"] | float
) -> Float[np.ndarray, "*cases"]:
    """Least value of given lists while each item attracts with a probability from ``low`` to ``high``.

    The least probabilities alone are no bound: people who pass over an item may come to a better one.

    Examples
    --------
    >>> u, w = np.array([0.5, 0.9]), np.array([0.0, 1.0])
    >>> float(least_value(np.array([0, 1]), u - 0.5, u, w, 0.0)), float(list_value(np.array([0, 1]), u - 0.5, w, 0.0))
    (0.2, 0.4)
    """
    value = np.broadcast_to(np.asarray(w0, dtype=float), lists.shape[:-1]).copy()
    for position in range(lists.shape[-1] - 1, -1, -1):
        item = lists[..., position]
        place = np.maximum(item, 0)[..., None]
        worth, least, most = (np.take_along_axis(each, place, axis=-1)[..., 0] for each in (w, low, high))
        chance = np.where(worth > value, least, most)
        value = np.where(item >= 0, value + chance * (worth - value), value)
    return value


def all_lists(items: int, length: int) -> Int[np.ndarray, "lists length"]:
    """Every ordered list of up to ``length`` different items, padded with -1: the action set without structure.

    Examples
    --------
    >>> all_lists(2, 2).tolist()
    [[-1, -1], [0, -1], [1, -1], [0, 1], [1, 0]]
    """
    chosen = [
        list(each) + [-1] * (length - size)
        for size in range(min(length, items) + 1)
        for each in itertools.permutations(range(items), size)
    ]
    return np.array(chosen, dtype=np.int64).reshape(len(chosen), length)
