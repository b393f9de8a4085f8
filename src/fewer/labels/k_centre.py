"""Greedy k-centre selection (farthest-first traversal), exact and in blocks.

The textbook algorithm reads the whole pool once per chosen row, which is bound by memory.  Here a
pass over the pool serves many choices.  Distances to the nearest centre only ever shrink, so among
the rows that are farthest now, the farthest stays the true choice as long as it is still farther
than every row outside that group was at the start.  Choices are made inside the group until that
fails; then one pass, a matrix product, brings the whole pool up to date.

Knows arrays, not models or rounds.  Works on memory maps larger than memory.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from fewer.core.errors import FewerError

GROUP = 4096
"""Rows held ready for the next choices; more makes passes rarer and choices dearer."""

BLOCK_BYTES = 64 * 2**20
"""Memory for one block of rows and its distances."""


def k_centre_greedy(
    points: Float[np.ndarray, "rows features"],
    count: int,
    *,
    centres: Float[np.ndarray, "centres features"] | None = None,
    candidates: Int[np.ndarray, " candidates"] | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    origin: Float[np.ndarray, " features"] | None = None,
) -> Int[np.ndarray, " count"]:
    """Choose rows one after another, each the farthest from all centres and all rows chosen before.

    A 2-approximation of the k-centre problem: the largest distance from any row to its nearest
    centre is at most twice the smallest possible.

    Parameters
    ----------
    points : float array (rows, features)
        May be a memory map; it is read in blocks.
    count : int
        How many to choose.
    centres : float array (centres, features), optional
        What is covered already, such as the labelled rows.
    candidates : int array, optional
        Only these rows are considered, increasing; all by default.
    metric : {"euclidean", "cosine"}
        Cosine compares directions: rows and centres are scaled to length one (zero rows stay zero).
    origin : float array (features,), optional
        Where there is no centre, the first choice is the row farthest from here; by default from
        the mean of the candidates.

    Returns
    -------
    int array (count,)
        Row numbers in the order chosen.  Ties go to the lowest number.

    Raises
    ------
    FewerError
        If more rows are asked for than there are, shapes do not fit, or a row holds NaN or infinity.

    Notes
    -----
    Distances are computed in float32 from products, so two rows whose distances differ by less than
    about 1e-6 of the squared size of the data may change places.

    References
    ----------
    T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    O. Sener and S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", arXiv:1708.00489.

    Examples
    --------
    >>> line = np.array([[0.0], [1.0], [4.0], [10.0]], dtype=np.float32)
    >>> k_centre_greedy(line, 2, centres=line[:1])
    array([3, 2])
    """
    rows = np.arange(len(points)) if candidates is None else np.asarray(candidates)
    if not 0 <= count <= len(rows):
        raise FewerError(f"k-centre: {count} rows were asked for but there are {len(rows)}; ask for fewer or add rows")
    if points.ndim != 2 or (centres is not None and centres.shape[1:] != points.shape[1:]):
        shape = None if centres is None else centres.shape
        raise FewerError(f"k-centre: points {points.shape} and centres {shape} must be two tables of equal width")
    if centres is not None and not np.isfinite(centres).all():
        bad = int(np.flatnonzero(~np.isfinite(centres).all(axis=1))[0])
        raise FewerError(f"k-centre: centre {bad} holds NaN or infinity; fill or drop it")
    pool = _Pool(points, rows if candidates is not None else None, metric)
    chosen: list[int] = []
    nearest = torch.full((len(rows),), torch.inf)
    if centres is not None and len(centres):
        nearest = pool.cover(nearest, pool.prepare(np.asarray(centres)))
    elif count:
        reference = pool.mean if origin is None else pool.prepare(np.asarray(origin)[None])[0]
        first = int(pool.cover(nearest, reference[None]).argmax())
        chosen.append(first)
        nearest = pool.cover(nearest, pool.take(torch.tensor([first])))
        nearest[first] = -1.0
    while len(chosen) < count:
        picks, vectors = _choose_in_group(pool, nearest, count - len(chosen))
        chosen += picks
        if len(chosen) < count:
            nearest = pool.cover(nearest, vectors)
            nearest[chosen] = -1.0  # never again, even where all that is left lies on a centre
    return rows[chosen]


def _choose_in_group(pool: _Pool, nearest: torch.Tensor, wanted: int) -> tuple[list[int], torch.Tensor]:
    """Make as many choices as are certain without another look at the whole pool."""
    size = min(GROUP, len(nearest))
    value, group = torch.topk(nearest, size, sorted=False)
    bound = float(value.min()) if size < len(nearest) else -np.inf
    first = int(nearest.argmax())  # the lowest number among equals, which topk does not promise
    group = torch.unique(torch.cat([group, torch.tensor([first])]))
    vectors = pool.take(group)
    norms = (vectors * vectors).sum(dim=1)
    here = nearest[group]
    picks: list[int] = []
    kept: list[int] = []
    position = int(torch.searchsorted(group, first))
    while True:
        picks.append(int(group[position]))
        kept.append(position)
        if len(picks) == wanted:
            break
        distance = torch.addmv(norms, vectors, vectors[position], alpha=-2.0).add_(norms[position]).clamp_(min=0)
        torch.minimum(here, distance, out=here)
        here[kept] = -1.0
        position = int(here.argmax())
        if not float(here[position]) > bound:
            break
    return picks, vectors[kept]


class _Pool:
    """The candidate rows, read a block at a time: centred, and scaled for cosine."""

    def __init__(self, points: np.ndarray, rows: np.ndarray | None, metric: str) -> None:
        if metric not in ("euclidean", "cosine"):
            raise FewerError(f"k-centre: unknown metric {metric!r}; choose euclidean or cosine")
        self.points, self.rows, self.cosine = points, rows, metric == "cosine"
        self.size = len(points) if rows is None else len(rows)
        self.width = points.shape[1]
        # about half of a block's memory for its rows, half for their distances to a few hundred centres
        self.block = max(1, BLOCK_BYTES // (4 * (self.width + 256)))
        self.shift = torch.zeros(self.width)
        total = torch.zeros(self.width, dtype=torch.float64)
        for start in range(0, self.size, self.block):
            total += self._read(start, start + self.block).sum(dim=0, dtype=torch.float64)
        if not torch.isfinite(total).all():
            raise FewerError(f"k-centre: row {self._first_bad()} holds NaN or infinity; fill or drop it")
        # products lose digits when the data lie far from zero, so everything is moved to its mean
        self.shift = (total / max(self.size, 1)).float()
        self.mean = torch.zeros(self.width)

    def prepare(self, vectors: np.ndarray) -> torch.Tensor:
        """Bring vectors from outside into the pool's coordinates."""
        return self._moved(torch.from_numpy(np.require(vectors, dtype=np.float32, requirements=["C", "W"])))

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """Give some rows of the pool."""
        where = positions.numpy()
        return self.prepare(self.points[where if self.rows is None else self.rows[where]])

    def cover(self, nearest: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Lower each row's squared distance to its nearest centre by these new centres."""
        lowered = nearest.clone()
        for first in range(0, len(centres), 256):
            some = centres[first : first + 256]
            norms = (some * some).sum(dim=1)
            for start in range(0, self.size, self.block):
                block = self._read(start, start + self.block)
                products = torch.addmm(norms, block, some.T, alpha=-2.0)
                best = products.min(dim=1).values.add_((block * block).sum(dim=1)).clamp_(min=0)
                part = lowered[start : start + self.block]
                torch.minimum(part, best, out=part)
        return lowered

    def _read(self, start: int, stop: int) -> torch.Tensor:
        part = self.points[start:stop] if self.rows is None else self.points[self.rows[start:stop]]
        return self.prepare(part)

    def _moved(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.cosine:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors - self.shift

    def _first_bad(self) -> int:
        for start in range(0, self.size, self.block):
            bad = np.flatnonzero(~torch.isfinite(self._read(start, start + self.block)).all(dim=1).numpy())
            if len(bad):
                return int(start + bad[0] if self.rows is None else self.rows[start + bad[0]])
        return -1  # finite rows whose sum is not: values near the end of the range
