"""Classification: rows with a class each, split anew for every seed.

The rows may be feature vectors, images, or texts (an object array of ``str``).  Some methods are
helped by somebody who knows a little: a weak labeller, or a teacher.  A task may carry what such a
helper says of each row, or make one per seed from rows that are set aside for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import generator

Metric = Literal["accuracy", "balanced accuracy", "macro-f1"]


@dataclass(frozen=True)
class Split:
    """One seed's division of a classification task.

    Parameters
    ----------
    x : array (pool, ...)
        The rows that may be learned from.
    y : int array (pool,)
        Their classes.  A loop looks only at those it has paid for.
    test_x, test_y : arrays
        Rows that are only ever scored.
    weak : float array (pool, classes), optional
        A weak labeller's probabilities for each pool row.
    teacher : float array (pool, classes), optional
        A teacher's logits for each pool row.
    """

    x: Shaped[np.ndarray, "pool ..."]
    y: Int[np.ndarray, " pool"]
    test_x: Shaped[np.ndarray, "test ..."]
    test_y: Int[np.ndarray, " test"]
    weak: Float[np.ndarray, "pool classes"] | None = None
    teacher: Float[np.ndarray, "pool classes"] | None = None


Helper = Callable[[np.ndarray, np.ndarray, Split, int], Split]
"""Makes a weak labeller or a teacher: ``(its rows, their classes, split, seed) -> split`` with ``weak`` or ``teacher``."""


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """Rows with a class each.

    Parameters
    ----------
    name : str
        As the user wrote it.
    x : array (rows, ...)
        Features, images or texts.
    y : int array (rows,)
        Classes, 0 to ``len(classes) - 1``.
    classes : tuple of str
        Their names.
    test : int or float, default 0.2
        Rows (int) or share of rows (float) held out for scoring, stratified, anew for each seed.
        Unused where ``held_out`` is given.
    held_out : tuple (x, y), optional
        A fixed test set.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    metric : {"accuracy", "balanced accuracy", "macro-f1"}
        The score.
    standardise : bool, default False
        Centre and scale each feature by the pool's mean and standard deviation (labels are not
        looked at, and the test rows neither).
    weak : float array (rows, classes), optional
        A weak labeller's probabilities, row for row.
    teacher : float array (rows, classes), optional
        A teacher's logits, row for row.
    helper : callable, optional
        Makes ``weak`` or ``teacher`` per seed from ``helper_rows`` rows that are then in neither
        the pool nor the test set.
    helper_rows : int, default 0
        How many.
    origin : str, optional
        Names what ``x`` was computed from and how.  It stands for ``x`` in the fingerprint where the
        last bits of ``x`` may differ between machines, as those of a matrix factorisation do.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    >>> task = Classification("toy", x, y, ("even", "odd"), test=10)
    >>> task.split(seed=0).x.shape
    (40, 3)
    """

    name: str
    x: Shaped[np.ndarray, "rows ..."]
    y: Int[np.ndarray, " rows"]
    classes: tuple[str, ...]
    test: int | float = 0.2
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    rows: int | None = None
    metric: Metric = "accuracy"
    standardise: bool = False
    weak: Float[np.ndarray, "rows classes"] | None = None
    teacher: Float[np.ndarray, "rows classes"] | None = None
    helper: Helper | None = None
    helper_rows: int = 0
    origin: str | None = None

    def __post_init__(self) -> None:
        check_shape(self.name, self.x, len(self.y), self.rows, self.test)
        counts = np.bincount(self.y, minlength=len(self.classes)) if len(self.y) else np.zeros(0)
        if np.count_nonzero(counts) < 2:
            only = self.classes[int(counts.argmax())] if counts.any() else "none"
            raise FewerError(f"{self.name}: at least two classes are needed; the labels hold only one ({only})")
        if self.metric not in ("accuracy", "balanced accuracy", "macro-f1"):
            raise FewerError(
                f"{self.name}: unknown metric {self.metric!r}; choose accuracy, balanced accuracy or macro-f1"
            )

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        parts: list[str | bytes | np.ndarray] = [
            repr((self.classes, self.test, self.rows, self.metric, self.standardise))
        ]
        parts.append(repr((self.helper, self.helper_rows)) if self.helper is not None else "")
        parts.append(self.origin or "")
        rows = () if self.origin is not None else (self.x,)
        arrays = (*rows, self.y, self.weak, self.teacher, *(self.held_out or ()))
        for array in arrays:
            if array is not None:
                parts.append(array if array.dtype != object else "\x1f".join(map(str, array.ravel())))
        return fingerprint(*parts)

    def split(self, seed: int) -> Split:
        """Divide the rows into pool and test set for one seed; equal seeds give equal splits."""
        rng = generator(seed, "split")
        order = rng.permutation(len(self.y))
        aside, order = order[: self.helper_rows], order[self.helper_rows :]
        if self.held_out is None:
            test = stratified(self.y[order], rows_held_out(self.name, self.test, len(order)), rng)
            test_x, test_y = self.x[order[test]], self.y[order[test]]
            order = np.delete(order, test)
        else:
            test_x, test_y = self.held_out
        if self.rows is not None:
            if self.rows > len(order):
                raise FewerError(f"{self.name}: rows={self.rows} but only {len(order)} are left after the test rows")
            order = order[: self.rows]
        pool_x = self.x[order]
        aside_x = self.x[aside]
        if self.standardise:
            pool_x, test_x, aside_x = standardised(pool_x, test_x, aside_x)
        split = Split(
            pool_x,
            self.y[order],
            test_x,
            test_y,
            weak=None if self.weak is None else self.weak[order],
            teacher=None if self.teacher is None else self.teacher[order],
        )
        if self.helper is not None:
            split = self.helper(aside_x, self.y[aside], split, seed)
        return split

    def score(self, truth: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"]) -> float:
        """Score predicted classes against the truth by ``self.metric``, in [0, 1]."""
        if self.metric == "accuracy":
            return float(np.mean(truth == predicted))
        from sklearn import metrics

        if self.metric == "balanced accuracy":
            return float(metrics.balanced_accuracy_score(truth, predicted))
        return float(metrics.f1_score(truth, predicted, average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]

    def with_(self, **changes: object) -> Classification:
        """Copy the task with some fields changed."""
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]


def check_shape(
    name: str, x: Shaped[np.ndarray, "rows ..."], targets: int, rows: int | None, test: int | float
) -> None:
    """Refuse rows that cannot be learned from, and numbers of rows that make no sense.

    Raises
    ------
    FewerError
        Named by the task's ``name``.

    Examples
    --------
    >>> check_shape("toy", np.zeros((3, 2)), targets=2, rows=None, test=0.2)
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: toy: 3 rows but 2 labels; give one label a row
    """
    if len(x) != targets:
        raise FewerError(f"{name}: {len(x)} rows but {targets} labels; give one label a row")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
        raise FewerError(f"{name}: {len(bad)} rows hold NaN or infinity (the first is row {bad[0]}); fill or drop them")
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise FewerError(f"{name}: rows={rows!r}; give how many rows of the pool to use, 1 or more")
    if isinstance(test, bool) or not isinstance(test, int | float):
        raise FewerError(f"{name}: test={test!r}; give a number of rows, or a share such as 0.2")


def rows_held_out(name: str, test: int | float, rows: int) -> int:
    """How many of ``rows`` are held out for scoring.

    Examples
    --------
    >>> rows_held_out("toy", 0.2, 10), rows_held_out("toy", 3, 10)
    (2, 3)
    """
    count = round(test * rows) if isinstance(test, float) else test
    if not 0 < count < rows:
        raise FewerError(f"{name}: test={test} of {rows} rows leaves nothing to score or nothing to learn")
    return count


def standardised(
    pool: Shaped[np.ndarray, "pool ..."], *others: Shaped[np.ndarray, "rows ..."]
) -> tuple[Shaped[np.ndarray, "rows ..."], ...]:
    """Centre and scale the pool and other rows by the pool's mean and standard deviation.

    Examples
    --------
    >>> standardised(np.array([[1.0], [3.0]]), np.array([[5.0]]))
    (array([[-1.],
           [ 1.]]), array([[3.]]))
    """
    mean, deviation = pool.mean(axis=0), pool.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)  # a constant feature is only centred
    return tuple((part - mean) / scale for part in (pool, *others))


def stratified(y: np.ndarray, count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    """Choose ``count`` positions so that each class keeps its share, largest remainders first; in ascending order."""
    classes, inverse = np.unique(y, return_inverse=True)
    exact = np.bincount(inverse) * count / len(y)
    quota = np.floor(exact).astype(int)
    short = count - quota.sum()
    if short:
        quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    chosen = [rng.permutation(np.flatnonzero(inverse == index))[: quota[index]] for index in range(len(classes))]
    return np.sort(np.concatenate(chosen))
