"""Exact neighbours of points in the plane or in many dimensions, in blocks of bounded memory.

Points are cut in halves, along the dimension in which they are widest, until a leaf holds a few hundred.  The points of a
leaf look for their neighbours together: leaves whose box is too far away are left out, and the distances to the others
are one matrix product.  Points along paths, such as states of demonstrations, fill little of their space, so most
leaves are left out; where none can be, this is brute force.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

LEAF = 256
"""Points of a leaf, at most."""
FEW = 8
"""Up to so many dimensions, a tree whose leaves hold a few points each is faster."""
BLOCK_BYTES = 64 * 2**20
"""Memory for one block of distances."""


@dataclass(frozen=True)
class Leaves:
    """Points, cut into boxes.

    Parameters
    ----------
    points : float array (points, width)
        Where they are, in their own order.
    order : int array (points,)
        Numbers of points, leaf by leaf.
    begin : int array (leaves + 1,)
        Where each leaf begins in ``order``.
    low, high : float array (leaves, width)
        Corners of each leaf's box.
    """

    points: Float[np.ndarray, "points width"]
    order: Int[np.ndarray, " points"]
    begin: Int[np.ndarray, " leaves+1"]
    low: Float[np.ndarray, "leaves width"]
    high: Float[np.ndarray, "leaves width"]

    @classmethod
    def of(cls, points: Float[np.ndarray, "points width"]) -> Leaves:
        """Cut points into leaves.

        Examples
        --------
        >>> leaves = Leaves.of(np.random.default_rng(0).normal(size=(1000, 3)))
        >>> np.diff(leaves.begin).tolist()
        [250, 250, 250, 250]
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        if points.shape[1] == 0:  # all in one place
            points = np.zeros((len(points), 1))
        waiting, done = [np.arange(len(points))], []
        while waiting:
            some = waiting.pop()
            if len(some) <= LEAF:
                done.append(some)
                continue
            here = points[some]
            widest = int(np.argmax(here.max(axis=0) - here.min(axis=0)))
            half = len(some) // 2
            cut = np.argpartition(here[:, widest], half)
            waiting += [some[cut[half:]], some[cut[:half]]]
        corners = [(points[some].min(axis=0), points[some].max(axis=0)) for some in done]
        low, high = (np.stack(each) for each in zip(*corners, strict=True))
        return cls(points, np.concatenate(done), np.cumsum([0, *map(len, done)]), low, high)

    def __len__(self) -> int:
        return len(self.begin) - 1

    def leaf(self, number: int) -> Int[np.ndarray, " n"]:
        """The points of one leaf."""
        return self.order[self.begin[number] : self.begin[number + 1]]

    def gap(self, low: Float[np.ndarray, " width"], high: Float[np.ndarray, " width"]) -> Float[np.ndarray, " leaves"]:
        """Least squared distance between a box and each leaf's."""
        apart = np.maximum(np.maximum(low - self.high, self.low - high), 0)
        return np.einsum("ij,ij->i", apart, apart)

    def members(self, leaves: Int[np.ndarray, " some"]) -> Int[np.ndarray, " n"]:
        """The points of several leaves, in the order of their numbers."""
        return np.sort(np.concatenate([self.leaf(each) for each in leaves])) if len(leaves) else np.zeros(0, np.int64)


def pairs_within(
    leaves: Leaves, radius: float
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """All pairs of points that are at most a radius apart, each point with itself among them.

    Parameters
    ----------
    leaves : Leaves
        The points.
    radius : float
        Not negative.

    Yields
    ------
    points : int array (n,)
        Some of the points; together, all of them once.
    which, other : int array (pairs,)
        ``points[which]`` and ``other`` are near one another; sorted by ``which`` and then by ``other``.

    Examples
    --------
    >>> leaves = Leaves.of(np.array([[0.0], [1.0], [5.0]]))
    >>> [(points[which].tolist(), other.tolist()) for points, which, other in pairs_within(leaves, 1.0)]
    [([0, 0, 1, 1, 2], [0, 1, 0, 1, 2])]
    """
    for number in range(len(leaves)):
        near = np.flatnonzero(leaves.gap(leaves.low[number], leaves.high[number]) <= radius**2 * (1 + 1e-9))
        others = leaves.members(near)
        points = np.sort(leaves.leaf(number))
        rows = max(1, BLOCK_BYTES // (16 * len(others)))
        for first in range(0, len(points), rows):
            some = points[first : first + rows]
            squares = _squares(leaves.points, some, others)
            # rounding must not lose a point that is exactly at the radius, such as a copy
            which, column = np.divmod(np.flatnonzero(squares <= radius**2 + 1e-12 * (1 + radius**2)), len(others))
            yield some, which, others[column]


def nearest(
    leaves: Leaves,
    count: int,
    queries: Int[np.ndarray, " queries"] | None = None,
    groups: Int[np.ndarray, " points"] | None = None,
) -> tuple[Float[np.ndarray, "queries count"], Int[np.ndarray, "queries count"]]:
    """The nearest points of each point.

    Parameters
    ----------
    leaves : Leaves
        The points.
    count : int
        How many.
    queries : int array (queries,), optional
        Numbers of the points whose neighbours are wanted; by default all.
    groups : int array (points,), optional
        Points of one group are no neighbours; by default only no point is its own.

    Returns
    -------
    distances : float array (queries, count)
        The smallest first; infinite where there are not so many.
    neighbours : int array (queries, count)
        Numbers of points; -1 where there are not so many.

    Examples
    --------
    >>> leaves = Leaves.of(np.array([[0.0], [1.0], [5.0]]))
    >>> nearest(leaves, 1)[1].ravel().tolist()
    [1, 0, 1]
    >>> nearest(leaves, 1, groups=np.array([0, 0, 1]))[1].ravel().tolist()
    [2, 2, 1]
    """
    total = len(leaves.points)
    wanted = np.arange(total) if queries is None else np.asarray(queries)
    if groups is None and leaves.points.shape[1] <= FEW:
        return _by_tree(leaves.points, wanted, count)
    group = np.arange(total) if groups is None else groups
    distances, found = np.full((len(wanted), count), np.inf), np.full((len(wanted), count), -1)
    place = np.full(total, -1)
    place[wanted] = np.arange(len(wanted))
    for number in range(len(leaves)):
        points = leaves.leaf(number)
        points = points[place[points] >= 0]
        if not len(points):
            continue
        low, high = leaves.points[points].min(axis=0), leaves.points[points].max(axis=0)
        gaps = leaves.gap(low, high)
        by_gap = np.argsort(gaps, kind="stable")
        # the nearest leaves give a bound; of the others, those count that are within it, from the nearest on
        best = np.full((len(points), count), np.inf)
        who = np.full((len(points), count), -1)
        begin, step = 0, 4
        while begin < len(by_gap) and gaps[by_gap[begin]] <= best[:, -1].max():
            some = by_gap[begin : begin + step]
            others = leaves.members(some[gaps[some] <= best[:, -1].max()])
            _improve(leaves.points, points, others, group, best, who)
            begin, step = begin + step, step * 4
        distances[place[points]], found[place[points]] = np.sqrt(best), who
    return distances, found


def _by_tree(
    points: Float[np.ndarray, "points width"], wanted: Int[np.ndarray, " queries"], count: int
) -> tuple[Float[np.ndarray, "queries count"], Int[np.ndarray, "queries count"]]:
    """The nearest points other than the point itself, by scipy's tree."""
    distances, found = map(np.asarray, KDTree(points).query(points[wanted], count + 1))
    # among points in one place, a point need not be the first to be found, nor be found at all
    own = found == wanted[:, None]
    own[~own.any(axis=1), -1] = True
    distances, found = (each[~own].reshape(len(wanted), count) for each in (distances, found))
    return distances, np.where(np.isinf(distances), -1, found)


def _improve(
    where: Float[np.ndarray, "points width"],
    points: Int[np.ndarray, " n"],
    others: Int[np.ndarray, " m"],
    group: Int[np.ndarray, " points"],
    best: Float[np.ndarray, "n count"],
    who: Int[np.ndarray, "n count"],
) -> None:
    """Take in some more points as neighbours, in place."""
    count = best.shape[1]
    rows = max(1, BLOCK_BYTES // (16 * len(others)))
    for first in range(0, len(points), rows):
        block = slice(first, min(first + rows, len(points)))
        some = points[block]
        squares = _squares(where, some, others)
        if np.isinf(best[block, -1]).any():
            squares[group[some][:, None] == group[others]] = np.inf
            within = min(count, len(others))
            column = np.argpartition(squares, within - 1, axis=1)[:, :within]
            row = np.repeat(np.arange(len(some)), within)
            column = column.ravel()
        else:
            row, column = np.divmod(np.flatnonzero(squares < best[block, -1:]), len(others))
            strangers = group[some[row]] != group[others[column]]
            row, column = row[strangers], column[strangers]
        # the old ones and the new ones of each point, by distance; the first of them stay
        rows_of = np.concatenate([np.repeat(np.arange(len(some)), count), row])
        every = np.concatenate([best[block].ravel(), squares[row, column]])
        names = np.concatenate([who[block].ravel(), others[column]])
        order = np.lexsort((every, rows_of))
        begin = np.searchsorted(rows_of[order], np.arange(len(some)))
        stay = order[begin[:, None] + np.arange(count)]
        best[block] = every[stay]
        who[block] = np.where(np.isinf(best[block]), -1, names[stay])


def _squares(
    where: Float[np.ndarray, "points width"], some: Int[np.ndarray, " n"], others: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "n m"]:
    """Squared distances, by one product; measured from a point between, so that little is lost to rounding."""
    centre = where[some].mean(axis=0)
    left, right = where[some] - centre, where[others] - centre
    squares = left @ (-2.0 * right.T)
    squares += np.einsum("ij,ij->i", right, right)
    squares += np.einsum("ij,ij->i", left, left)[:, None]
    return np.maximum(squares, 0, out=squares)
