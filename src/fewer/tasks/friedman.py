"""A generated table with a number to predict: Friedman's function of ten features, half of which decide nothing."""

from __future__ import annotations

import functools

import numpy as np

from fewer.core.errors import FewerError
from fewer.core.seeding import derive
from fewer.tasks.regression import Metric, Regression


@functools.lru_cache(maxsize=8)
def friedman(
    rows: int = 2000, noise: float = 1.0, test: int | float = 0.2, metric: Metric = "r2", draw: int = 0
) -> Regression:
    """Make the task of predicting Friedman's first function, of which half of the ten features decide nothing.

    ``y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 + noise``, features uniform in [0, 1].

    Parameters
    ----------
    rows : int, default 2000
        How many are generated, those for scoring included.
    noise : float, default 1
        Standard deviation of the noise.
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed.
    metric : {"r2", "-rmse"}
        The score.
    draw : int, default 0
        Which table of the many is generated.

    Returns
    -------
    Regression
        ``x`` of shape (rows, 10), standardised by the pool.

    Examples
    --------
    >>> friedman(rows=100).x.shape
    (100, 10)
    """
    from sklearn.datasets import make_friedman1

    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 2 or not noise >= 0:
        raise FewerError(f"friedman: rows={rows!r}, noise={noise!r}; give two rows or more, and noise of 0 or more")
    x, y = make_friedman1(rows, noise=noise, random_state=derive(draw, "friedman") % 2**31)
    origin = f"make_friedman1 {rows} {noise} {draw}"
    return Regression("friedman", x.astype(np.float32), y, test, metric=metric, standardise=True, origin=origin)
