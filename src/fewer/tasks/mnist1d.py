"""MNIST-1D: digits as signals of 40 points, made by the generator of its authors' package.

Small, and much harder than images of digits: a task where the number of training rows tells.

References
----------
Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, arXiv:2011.14439.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from fewer.core.errors import need
from fewer.tasks.classification import Classification

SAMPLES, TRAIN = 6000, 4800


@functools.lru_cache(maxsize=8)
def mnist1d(rows: int | None = 500) -> Classification:
    """Make the task of telling ten kinds of 40-point signals apart.

    6,000 signals are made with the package's own default settings and seed: 4,800 for the pool and
    1,200 that are only scored, the same for all seeds.

    Parameters
    ----------
    rows : int or None, default 500
        Use only so many rows of the pool, drawn anew for each seed; None for all.

    Returns
    -------
    Classification
        ``x`` of shape (4800, 1, 40), centred and scaled over the whole set by the generator;
        classes ``"0"`` to ``"9"``.

    Raises
    ------
    MissingPackage
        If mnist1d is not installed.

    Examples
    --------
    >>> split = mnist1d().split(seed=0)
    >>> split.x.shape, split.test_x.shape
    ((500, 1, 40), (1200, 1, 40))
    """
    x, y = _signals()
    return Classification(
        "mnist1d", x[:TRAIN], y[:TRAIN], tuple("0123456789"), held_out=(x[TRAIN:], y[TRAIN:]), rows=rows
    )


@functools.cache
def _signals() -> tuple[np.ndarray, np.ndarray]:
    data = need("mnist1d.data", extra="vision", what="task mnist1d")
    settings = data.get_dataset_args()
    settings.num_samples = SAMPLES
    settings.train_split = TRAIN / SAMPLES
    # the generator seeds the global streams; those who draw from them must not notice
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        made = data.make_dataset(settings)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
    x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    y = np.concatenate([made["y"], made["y_test"]]).astype(np.int64)
    return x[:, None, :], y
