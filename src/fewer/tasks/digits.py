"""Two small real data sets that come with scikit-learn: hand-written digits, and breast cancer.

Nothing is fetched and nothing optional is needed, so these are the tasks to try a method on first.
"""

from __future__ import annotations

import functools

import numpy as np

from fewer.tasks.classification import Classification, Metric


@functools.lru_cache(maxsize=8)
def digits(test: int | float = 0.2, rows: int | None = None) -> Classification:
    """Make the task of telling 1,797 hand-written digits apart.

    Images of 8 by 8 pixels from the UCI repository, about 180 of each digit.

    Parameters
    ----------
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.

    Returns
    -------
    Classification
        ``x`` of shape (1797, 1, 8, 8), grey values in [0, 1]; classes ``"0"`` to ``"9"``.

    Examples
    --------
    >>> task = digits()
    >>> task.x.shape, len(task.classes), task.split(seed=0).test_x.shape
    ((1797, 1, 8, 8), 10, (359, 1, 8, 8))
    """
    from sklearn.datasets import load_digits

    x, y = map(np.asarray, load_digits(return_X_y=True))
    pixels = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Classification("digits", pixels, y.astype(np.int64), tuple("0123456789"), test=test, rows=rows)


@functools.lru_cache(maxsize=8)
def breast_cancer(test: int | float = 0.2, rows: int | None = None, metric: Metric = "accuracy") -> Classification:
    """Make the task of telling malignant from benign tumours.

    The diagnostic Wisconsin data: 569 patients, 30 measurements of cell nuclei, standardised by the pool.

    Parameters
    ----------
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    metric : {"accuracy", "balanced accuracy", "macro-f1"}
        The score.

    Returns
    -------
    Classification
        ``x`` of shape (569, 30); classes ``"malignant"`` (212 rows) and ``"benign"`` (357).

    Examples
    --------
    >>> breast_cancer().classes
    ('malignant', 'benign')
    """
    from sklearn.datasets import load_breast_cancer

    x, y = map(np.asarray, load_breast_cancer(return_X_y=True))
    return Classification(
        "breast-cancer",
        x.astype(np.float32),
        y.astype(np.int64),
        ("malignant", "benign"),
        test=test,
        rows=rows,
        metric=metric,
        standardise=True,
    )
