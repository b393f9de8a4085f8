"""Regression: rows with a number each, split anew for every seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import generator
from fewer.tasks.classification import check_shape, rows_held_out, standardised

Metric = Literal["r2", "-rmse"]


@dataclass(frozen=True)
class RegressionSplit:
    """One seed's division of a regression task.

    Parameters
    ----------
    x : array (pool, ...)
        The rows that may be learned from.
    y : float array (pool,)
        Their targets.
    test_x, test_y : arrays
        Rows that are only ever scored.
    """

    x: Shaped[np.ndarray, "pool ..."]
    y: Float[np.ndarray, " pool"]
    test_x: Shaped[np.ndarray, "test ..."]
    test_y: Float[np.ndarray, " test"]


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """Rows with a number each.

    Parameters
    ----------
    name : str
        As the user wrote it.
    x : array (rows, ...)
        Features.
    y : float array (rows,)
        Targets, in their own unit.
    test : int or float, default 0.2
        Rows (int) or share of rows (float) held out for scoring, anew for each seed.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    metric : {"r2", "-rmse"}, default "r2"
        The score: the share of the test rows' variance that is explained, or minus the root mean squared
        error in the target's unit.
    standardise : bool, default False
        Centre and scale each feature by the pool's mean and standard deviation (targets are not looked at,
        and the test rows neither).
    origin : str, optional
        Names what ``x`` was computed from and how; stands for ``x`` and ``y`` in the fingerprint.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> task = Regression("toy", x, x.sum(axis=1), test=10)
    >>> split = task.split(seed=0)
    >>> split.x.shape, round(task.score(split.test_y, split.test_x.sum(axis=1)), 6)
    ((40, 3), 1.0)
    """

    name: str
    x: Shaped[np.ndarray, "rows ..."]
    y: Float[np.ndarray, " rows"]
    test: int | float = 0.2
    rows: int | None = None
    metric: Metric = "r2"
    standardise: bool = False
    origin: str | None = None

    def __post_init__(self) -> None:
        check_shape(self.name, self.x, len(self.y), self.rows, self.test)
        if not np.isfinite(self.y).all():
            bad = np.flatnonzero(~np.isfinite(self.y))
            raise FewerError(
                f"{self.name}: {len(bad)} targets are NaN or infinite (the first is row {bad[0]}); drop those rows"
            )
        if len(self.y) < 2 or self.y.min() == self.y.max():
            only = f"{self.y[0]:g} in every row" if len(self.y) else "missing"
            raise FewerError(f"{self.name}: the target is {only}, so there is nothing to predict; name another")
        if self.metric not in ("r2", "-rmse"):
            raise FewerError(f"{self.name}: unknown metric {self.metric!r}; choose r2 or -rmse")

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        arrays = (self.origin,) if self.origin is not None else (self.x, self.y)
        return fingerprint("regression", repr((self.test, self.rows, self.metric, self.standardise)), *arrays)

    def split(self, seed: int) -> RegressionSplit:
        """Divide the rows into pool and test set for one seed; equal seeds give equal splits."""
        order = generator(seed, "split").permutation(len(self.y))
        count = rows_held_out(self.name, self.test, len(order))
        test, order = order[:count], order[count:]
        if self.rows is not None:
            if self.rows > len(order):
                raise FewerError(f"{self.name}: rows={self.rows} but only {len(order)} are left after the test rows")
            order = order[: self.rows]
        pool_x, test_x = self.x[order], self.x[test]
        if self.standardise:
            pool_x, test_x = standardised(pool_x, test_x)
        return RegressionSplit(pool_x, self.y[order], test_x, self.y[test])

    def score(self, truth: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"]) -> float:
        """Score predictions against the truth by ``self.metric``; higher is better."""
        squares = float(np.mean((np.asarray(truth, dtype=np.float64) - predicted) ** 2))
        if self.metric == "-rmse":
            return -(squares**0.5)
        variance = float(np.var(truth, dtype=np.float64))
        if variance == 0:
            raise FewerError(
                f"{self.name}: the {len(truth)} test rows all have the target {truth[0]:g}, and r2 is undefined; "
                "hold out more rows, or use metric='-rmse'"
            )
        return 1 - squares / variance

    def with_(self, **changes: object) -> Regression:
        """Copy the task with some fields changed."""
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]
