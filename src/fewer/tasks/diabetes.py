"""A small real table with a number to predict: the progress of diabetes."""

from __future__ import annotations

import functools

import numpy as np

from fewer.tasks.regression import Metric, Regression


@functools.lru_cache(maxsize=8)
def diabetes(test: int | float = 0.2, rows: int | None = None, metric: Metric = "r2") -> Regression:
    """Make the task of predicting how diabetes progresses within a year.

    442 patients, ten measurements each, standardised by the pool; the data set that comes with scikit-learn.

    Parameters
    ----------
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    metric : {"r2", "-rmse"}
        The score.

    Returns
    -------
    Regression
        ``x`` of shape (442, 10).

    Examples
    --------
    >>> diabetes().split(seed=0).test_x.shape
    (88, 10)
    """
    from sklearn.datasets import load_diabetes

    x, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    return Regression("diabetes", x.astype(np.float32), y, test=test, rows=rows, metric=metric, standardise=True)
