"""Nearest neighbours by direction: which rows of a pool point the same way.

Exact, by scikit-learn's brute force: products of blocks of rows, so memory stays bounded.  A version
with single-precision products in torch, put right in double precision, was no faster.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from fewer.core.errors import FewerError


def nearest_neighbours(
    vectors: Float[np.ndarray, "rows features"],
    count: int,
    among: Float[np.ndarray, "others width"] | None = None,
) -> Int[np.ndarray, "rows count"]:
    """Find each row's nearest rows, by Euclidean distance between vectors scaled to length one.

    Parameters
    ----------
    vectors : float array (rows, features)
        A row of zeros stays zero, and is equally far from all that are not.
    count : int
        Neighbours a row.
    among : float array (others, features), optional
        Where to look for them; by default among ``vectors``, where no row is its own neighbour.

    Returns
    -------
    int array (rows, count)
        Positions in ``among``, the nearest first.  Among equal distances any may come first.

    Raises
    ------
    FewerError
        If there are fewer than ``count`` others, the widths differ, or a row holds NaN or infinity.

    Examples
    --------
    >>> angles = np.radians([0, 10, 25, 180])
    >>> nearest_neighbours(np.stack([np.cos(angles), np.sin(angles)], axis=1), 2)
    array([[1, 2],
           [0, 2],
           [1, 0],
           [2, 1]])
    """
    others = vectors if among is None else among
    available = len(others) - (among is None)
    if not 1 <= count <= available:
        raise FewerError(f"neighbours: {count} a row were asked for and there are {available}; lower k or add rows")
    if vectors.ndim != 2 or others.shape[1:] != vectors.shape[1:]:
        raise FewerError(f"neighbours: {vectors.shape} and {others.shape} must be two tables of equal width")
    index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(_unit(others))
    return index.kneighbors(None if among is None else _unit(vectors), return_distance=False)


def _unit(vectors: np.ndarray) -> Float[np.ndarray, "rows features"]:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise FewerError(f"neighbours: row {bad[0]} holds NaN or infinity; fill or drop it")
    # in single precision the lengths alone would decide between rows that are nearly one direction
    return np.asarray(normalize(np.asarray(vectors, dtype=np.float64)))
