"""k-means of one-dimensional values, for very many of them.

In one dimension a cluster is an interval, so a clustering is a few bounds, and sums over an interval
are differences of running sums.  Values are counted and summed in cells, 1,024 to the octave; the
best bounds between a few hundred coarse cells are found exactly, by dynamic programming, and then
moved by Lloyd's algorithm over all cells.  One pass over the values, no sort, a few MiB.

Knows values, not samples or epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from fewer.core.errors import FewerError

CELL_BITS = 13
"""Bits of a float32 that are dropped to number its cell: 10 of the 23 bits of its fraction remain."""

CELLS = 2 ** (31 - CELL_BITS)
"""Cells for all non-negative float32."""

BLOCK = 2**19
"""Values that are counted at a time."""

COARSE = 128
"""Coarse cells of equal count, and as many of equal width and of equal ratio, between which bounds are first found."""

ITERATIONS = 300
"""Limit to Lloyd's algorithm, which ends by itself long before."""


@dataclass(frozen=True)
class Clusters:
    """Intervals of values, in increasing order.

    Parameters
    ----------
    origin : float32
        The smallest value.
    edges : float32 array (clusters - 1,)
        How far above ``origin`` each cluster but the first begins.
    means : float array (clusters,)
        Mean of each cluster.
    counts : int array (clusters,)
        Values in each.
    """

    origin: np.float32
    edges: Float32[np.ndarray, " inner"]
    means: Float[np.ndarray, " clusters"]
    counts: Int[np.ndarray, " clusters"]

    def __len__(self) -> int:
        return len(self.counts)

    def within(self, values: Float32[np.ndarray, " n"], first: int, stop: int) -> Bool[np.ndarray, " n"]:
        """Mark the values in clusters ``first`` to ``stop - 1``.

        Parameters
        ----------
        values : float32 array (n,)
            Any; those below ``origin`` are in the first cluster.
        first, stop : int
            Of ``range(len(self) + 1)``.
        """
        low = self.edges[first - 1] if first else -np.inf
        high = self.edges[stop - 1] if stop < len(self) else np.inf
        marked = np.empty(len(values), dtype=bool)
        for begin in range(0, len(values), BLOCK):
            above = values[begin : begin + BLOCK] - self.origin  # as in the clustering, so that rounding is the same
            marked[begin : begin + BLOCK] = (above >= low) & (above < high)
        return marked


def kmeans(values: Float[np.ndarray, " n"], clusters: int) -> Clusters:
    """Cluster values so that squares of distances to cluster means are small in sum.

    Parameters
    ----------
    values : float array (n,)
        Finite; taken as float32.
    clusters : int
        How many; fewer are made where there are fewer distinct cells of values.

    Returns
    -------
    Clusters

    Raises
    ------
    FewerError
        If there is no value, one is not finite, or ``clusters`` is below one.

    Notes
    -----
    A bound is placed to one part in 1,024 of its distance from the smallest value, which suits values
    that crowd near their smallest, as losses do.  Within that, the result is a fixed point of Lloyd's
    algorithm that starts at the best of all bounds between coarse cells.

    Time is O(n) for one pass plus terms that do not depend on n.

    Examples
    --------
    >>> found = kmeans(np.array([0.1, 0.2, 5.0, 5.2, 9.0]), 3)
    >>> found.means.round(2).tolist(), found.counts.tolist()
    ([0.15, 5.1, 9.0], [2, 2, 1])
    >>> found.within(np.array([0.0, 5.1, 7.0], dtype=np.float32), 1, 2).tolist()
    [False, True, True]
    """
    if clusters < 1 or not len(values):
        raise FewerError(
            f"kmeans: {clusters} clusters of {len(values)} values cannot be made; give at least one of each"
        )
    values = np.asarray(values, dtype=np.float32)
    origin, top = values.min(), values.max()
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(top - origin):
            raise FewerError(f"kmeans: values must be finite; they run from {origin} to {top}")
    cells, counts, sums = _count(values, origin)
    middles = sums / counts
    # running sums, centred so that squares of them do not swallow small differences
    centre = sums.sum() / counts.sum()
    number = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0.0], np.cumsum(sums - centre * counts)])
    bounds = _coarse_bounds(middles, number, total, min(clusters, len(cells)))
    for _ in range(ITERATIONS):
        means = centre + np.diff(total[bounds]) / np.diff(number[bounds])
        moved = bounds.copy()
        moved[1:-1] = np.searchsorted(middles, (means[1:] + means[:-1]) / 2)
        if np.array_equal(moved, bounds) or (np.diff(moved) < 1).any():
            break
        bounds = moved
    edges = (cells[bounds[1:-1]].astype(np.uint32) << CELL_BITS).view(np.float32)
    members = np.diff(number[bounds])
    return Clusters(origin, edges, float(origin) + centre + np.diff(total[bounds]) / members, members)


def _count(
    values: Float32[np.ndarray, " n"], origin: np.float32
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """Numbers, counts and sums (above ``origin``) of the cells that hold a value."""
    counts, sums = np.zeros(CELLS, dtype=np.int64), np.zeros(CELLS)
    for begin in range(0, len(values), BLOCK):
        above = values[begin : begin + BLOCK] - origin
        # the bits of non-negative floats are in the order of the floats
        cell = (above.view(np.uint32) >> CELL_BITS).astype(np.intp)
        counts += np.bincount(cell, minlength=CELLS)
        sums += np.bincount(cell, weights=above, minlength=CELLS)
    cells = np.flatnonzero(counts)
    return cells, counts[cells], sums[cells]


def _coarse_bounds(
    middles: Float[np.ndarray, " cells"],
    number: Int[np.ndarray, " bounds"],
    total: Float[np.ndarray, " bounds"],
    clusters: int,
) -> Int[np.ndarray, " chosen"]:
    """The best bounds between coarse cells: least sum of squares, which is most ``total**2 / number`` in sum."""
    parts = max(COARSE, 2 * clusters)
    if len(middles) <= 3 * parts:
        edges = np.arange(len(middles) + 1)
    else:
        equal_counts = np.searchsorted(number, np.linspace(0, number[-1], parts + 1))
        equal_widths = np.searchsorted(middles, np.linspace(middles[0], middles[-1], parts))
        equal_ratios = np.linspace(0, len(middles), parts + 1).astype(np.intp)  # as the cells themselves are
        edges = np.unique(np.concatenate([equal_counts, equal_widths, equal_ratios]))
    total, number = total[edges], number[edges].astype(np.float64)
    inside = number - number[:, None]
    gain = np.full_like(inside, -np.inf)  # of an interval that ends before it begins
    np.divide((total - total[:, None]) ** 2, inside, out=gain, where=inside > 0)
    best, begins = gain[0], []
    for _ in range(clusters - 1):
        through = best[:, None] + gain
        begins.append(through.argmax(axis=0))
        best = through[begins[-1], np.arange(len(edges))]
    bounds = [len(edges) - 1]
    for begin in reversed(begins):
        bounds.append(begin[bounds[-1]])
    return edges[[0, *reversed(bounds)]]
