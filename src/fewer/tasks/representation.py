"""Rows to learn features from without their labels, and labels, where somebody has them, to read the features out.

A classification task is one of these: its pool is what features are learned from, its classes are what is read out.
Other rows have several kinds of labels (a clip's motion and its digit), labels for some rows only, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import generator
from fewer.tasks.classification import Classification, check_shape, rows_held_out

UNKNOWN = -1
"""The label of a row whose class nobody knows."""


@dataclass(frozen=True)
class Probe:
    """Labelled rows by which features are judged.

    Parameters
    ----------
    name : str
        What the labels say: ``"digit"``.
    x, test_x : array (rows, ...)
        Rows that a read-out learns from, and rows that it is scored on.
    y, test_y : int array (rows,)
        Their classes.
    """

    name: str
    x: Shaped[np.ndarray, "rows ..."]
    y: Int[np.ndarray, " rows"]
    test_x: Shaped[np.ndarray, "test ..."]
    test_y: Int[np.ndarray, " test"]


@dataclass(frozen=True)
class Rows:
    """One seed's division.

    Parameters
    ----------
    x : array (pool, ...)
        What features are learned from.
    held_out : array (test, ...)
        Rows that are never learned from.
    probes : tuple of Probe
        Empty where nothing is labelled.
    """

    x: Shaped[np.ndarray, "pool ..."]
    held_out: Shaped[np.ndarray, "test ..."]
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True, eq=False)
class Representation(Task):
    """Rows, and what is known of some of them.

    Parameters
    ----------
    name : str
        As the user wrote it.
    x : array (rows, ...)
        Images as (channels, height, width), clips as (channels, frames, height, width).
    labels : dict of str to int array (rows,), default {}
        By name, classes from 0; -1 where nobody knows.
    test : int or float, default 0.2
        Rows, or share of rows, held out, anew for each seed.
    probe_rows : int, optional
        Labelled rows that read-outs learn from; all of the pool by default.

    Examples
    --------
    >>> task = Representation("toy", np.zeros((50, 1, 8, 8)), {"side": np.arange(50) % 2}, test=10)
    >>> rows = task.rows_of(seed=0)
    >>> rows.x.shape, rows.probes[0].test_x.shape
    ((40, 1, 8, 8), (10, 1, 8, 8))
    """

    name: str
    x: Shaped[np.ndarray, "rows ..."]
    labels: dict[str, Int[np.ndarray, " rows"]]
    test: int | float = 0.2
    probe_rows: int | None = None

    def __post_init__(self) -> None:
        check_shape(self.name, self.x, len(self.x), self.probe_rows, self.test)
        for name, y in self.labels.items():
            check_shape(f"{self.name}, labels {name!r}", self.x, len(y), None, self.test)

    @property
    def metric(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the score is: of images without labels, and of clips without, what takes the place of the accuracy."""
        if self.labels:
            return "accuracy"
        return "views recognised" if self.x.ndim == 4 else "minus the loss"

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        labels = [part for name, y in sorted(self.labels.items()) for part in (name, y)]
        return fingerprint(repr((self.test, self.probe_rows)), self.x, *labels)

    def rows_of(self, seed: int) -> Rows:
        """Divide the rows for one seed; equal seeds give equal divisions."""
        order = generator(seed, "split").permutation(len(self.x))
        count = rows_held_out(self.name, self.test, len(order))
        test, pool = order[:count], order[count:]
        probes = []
        for name, y in self.labels.items():
            known, asked = pool[y[pool] != UNKNOWN][: self.probe_rows], test[y[test] != UNKNOWN]
            if len(known) and len(asked) and len(np.unique(y[known])) > 1:
                probes.append(Probe(name, self.x[known], y[known], self.x[asked], y[asked]))
        return Rows(self.x[pool], self.x[test], tuple(probes))


def rows_of(task: Task, seed: int) -> Rows:
    """Divide any task whose rows features can be learned from.

    Raises
    ------
    FewerError
        If it is another task, or its rows are no numbers.
    """
    if isinstance(task, Representation):
        return task.rows_of(seed)
    if not isinstance(task, Classification):
        raise FewerError(f"{task.name}: features are learned from rows; this is a {type(task).__name__}")
    split = task.split(seed)
    if split.x.dtype == object:
        raise FewerError(f"{task.name}: this network needs numbers and the rows are texts; give features")
    return Rows(split.x, split.test_x, (Probe("class", split.x, split.y, split.test_x, split.test_y),))
