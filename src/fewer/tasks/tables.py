"""The rules by which a table becomes a task: classes to tell apart, or a number to predict.

Numbers are kept, categories and columns that hold nothing but words become columns of zeros and ones,
and everything that would have to be guessed (a word among numbers, a gap among them, a row without a
label) is refused with its place.  Rows are counted from 1, the header not included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from fewer.core.errors import FewerError, nearest
from fewer.tasks.classification import Classification
from fewer.tasks.regression import Regression
from fewer.tasks.text_features import minilm, tfidf

Kind = Literal["classification", "regression"]

MOST_CATEGORIES = 50
"""Different values a column may have to be turned into columns of zeros and ones."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are for.

    Parameters
    ----------
    target : str
        The class of each row, or its number.
    features : str or list of str, optional
        What is learned from; by default every column that has no other use.
    drop : str or list of str, optional
        Columns to leave out.
    categorical : str or list of str, optional
        Columns whose values are names though they look like numbers; columns of words are without being
        named.  A gap is a value of its own.
    text : str, optional
        The column whose text is learned from, in place of ``features``.
    embed : {"tfidf", "minilm"}, optional
        How texts become numbers; None leaves them as they are.
    weak : str, optional
        A column of weak labels: class names, or for two classes the probability of the second.
    impute : {"median"}, optional
        Fill gaps in a column of numbers with its median over all rows; by default a gap is an error.
    """

    target: str
    features: str | Iterable[str] | None = None
    drop: str | Iterable[str] | None = None
    categorical: str | Iterable[str] | None = None
    text: str | None = None
    embed: Literal["tfidf", "minilm"] | None = "tfidf"
    weak: str | None = None
    impute: Literal["median"] | None = None

    def task(
        self,
        frame: pd.DataFrame,
        name: str,
        metric: str | None,
        test: int | float,
        kind: Kind = "classification",
    ) -> Classification | Regression:
        """Make the task; ``metric`` is the kind's own where none is given.

        Raises
        ------
        FewerError
            If a column is unknown, or something in the table is no number, missing or infinite.
        """
        if self.impute not in (None, "median"):
            raise FewerError(f"{name}: unknown impute {self.impute!r}; choose 'median' or leave it out")
        if self.embed not in (None, "tfidf", "minilm"):
            raise FewerError(f"{name}: unknown embed {self.embed!r}; choose 'tfidf', 'minilm' or None")
        if kind not in ("classification", "regression"):
            raise FewerError(f"{name}: unknown kind {kind!r}; choose 'classification' or 'regression'")
        self._check_names(frame, name)
        if kind == "regression":
            if self.weak is not None:
                raise FewerError(f"{name}: weak labels are of classes; leave out weak= or kind='regression'")
            measured = targets(frame[self.target], name)
            x = self._texts(frame, name) if self.text is not None else self._numbers(frame, name)
            score: Any = metric or "r2"
            return Regression(name, x, measured, test, metric=score, standardise=self.text is None)
        y, classes = encode(frame[self.target].to_numpy(), name, f"column {self.target!r}")
        weak = None if self.weak is None else weak_labels(frame[self.weak], classes, name)
        x = self._texts(frame, name) if self.text is not None else self._numbers(frame, name)
        score = metric or "accuracy"
        return Classification(name, x, y, classes, test=test, metric=score, standardise=self.text is None, weak=weak)

    def _check_names(self, frame: pd.DataFrame, name: str) -> None:
        named = [self.target, self.text, self.weak, *map(_names, (self.features, self.drop, self.categorical))]
        for column in (each for group in named if group is not None for each in _names(group)):
            if column not in frame.columns:
                hint = "; is it another separator=?" if len(frame.columns) == 1 else ""
                raise FewerError(f"{name}: no column {column!r}; {nearest(str(column), map(str, frame.columns))}{hint}")
        if self.text is not None and self.features is not None:
            raise FewerError(f"{name}: text={self.text!r} is all that is learned from; leave out features= or text=")
        if self.target in (*_names(self.features), self.text, self.weak):
            raise FewerError(f"{name}: {self.target!r} is the target and cannot be learned from; name another column")

    def _numbers(self, frame: pd.DataFrame, name: str) -> Float[np.ndarray, "rows features"]:
        spared = {self.target, self.weak, *_names(self.drop)}
        wanted = [column for column in _names(self.features) or frame.columns if column not in spared]
        if not wanted:
            raise FewerError(f"{name}: no column is left to learn from; name fewer in drop=, or some in features=")
        nameless = [column for column in wanted if str(column).startswith("Unnamed: ")]  # as pandas calls them
        if nameless and self.features is None:
            raise FewerError(
                f"{name}: a column has no name, and may hold row numbers that give the class away; "
                f"drop={nameless}, or name it"
            )
        named = _names(self.categorical)
        columns: list[Any] = [frame[column] for column in wanted]
        parts = [
            one_hot(column, name)
            if column.name in named or holds_names(column)
            else numbers(column, name, self.impute)[:, None]
            for column in columns
        ]
        return np.concatenate(parts, axis=1)

    def _texts(self, frame: pd.DataFrame, name: str) -> Shaped[np.ndarray, "rows ..."]:
        column = frame[self.text]
        empty = (column.isna() | (column.astype(str).str.strip() == "")).to_numpy()
        if empty.any():
            raise FewerError(f"{name}: column {self.text!r} has no text in {rows_of(empty)}; drop those rows")
        texts = column.astype(str).to_numpy(dtype=object)
        if self.embed == "tfidf":
            return tfidf(texts.tolist(), name=name)
        return minilm(texts.tolist(), name) if self.embed == "minilm" else texts


def encode(
    labels: Shaped[np.ndarray, " rows"], name: str, where: str
) -> tuple[Int[np.ndarray, " rows"], tuple[str, ...]]:
    """Turn labels into classes 0, 1, …, in the order of their names.

    Parameters
    ----------
    labels : array (rows,)
        Texts, whole numbers or truth values.
    name : str
        The task, for messages.
    where : str
        Where the labels stand, for messages: ``"column 'left'"``.

    Returns
    -------
    y : int array (rows,)
    classes : tuple of str
        Sorted: numbers by size, texts by letter.

    Raises
    ------
    FewerError
        If a label is missing, the labels are measurements, or a class has a single row.

    Examples
    --------
    >>> encode(np.array(["no", "yes", "no", "yes"]), "toy", "y")
    (array([0, 1, 0, 1]), ('no', 'yes'))
    >>> encode(np.array([10, 9, 10, 9]), "toy", "y")[1]
    ('9', '10')
    """
    if len(labels) == 0:
        raise FewerError(f"{name}: there are no rows; give a file that has some")
    missing = np.asarray(pd.isna(labels))
    if labels.dtype.kind in "OUT":
        missing |= np.array([isinstance(label, str) and not label.strip() for label in labels.tolist()])
    if missing.any():
        raise FewerError(
            f"{name}: {missing.sum()} of {len(labels)} rows have no label in {where} ({rows_of(missing)}); "
            "drop them here, and choose among unlabelled rows with 'fewer select'"
        )
    if labels.dtype.kind == "f":
        broken = labels != np.floor(labels)
        if broken.any() or not np.isfinite(labels).all():
            shown = labels[broken | ~np.isfinite(labels)][0]
            raise FewerError(
                f"{name}: {where} holds measurements such as {shown:g}; classification needs classes{_or_numbers(where)}"
            )
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        labels = np.array([str(label) for label in labels.tolist()])
    found, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(found) > 1 and len(found) > len(labels) / 2:
        raise FewerError(
            f"{name}: {where} holds {len(found)} different values in {len(labels)} rows; classification needs "
            f"classes that come back: name another target, or put the values into bins{_or_numbers(where)}"
        )
    if len(found) > 1 and counts.min() == 1:
        alone = int(counts.argmin())
        raise FewerError(
            f"{name}: the class {str(found[alone])!r} has one row only ({rows_of(y == alone)}), and one to learn from "
            "and one to score are needed; add rows or drop it"
        )
    return y.astype(np.int64), tuple(map(str, found))


def _or_numbers(where: str) -> str:
    """What may be meant by a column of measurements; only tables can say so."""
    return ", or say kind='regression'" if where.startswith("column ") else ""


def targets(column: Any, name: str) -> Float[np.ndarray, " rows"]:
    """Read the numbers that are to be predicted, refusing words, gaps and infinities.

    Examples
    --------
    >>> targets(pd.Series(["1", "2.5"], name="price"), "toy")
    array([1. , 2.5])
    """
    what = f"{name}: column {column.name!r}"
    if not len(column):
        raise FewerError(f"{name}: there are no rows; give a file that has some")
    if column.dtype.kind in "mMc":
        raise FewerError(f"{what} holds {column.dtype}, which is no number to predict; turn it into one")
    missing = column.isna().to_numpy()
    if missing.any():
        raise FewerError(f"{what} has no target in {rows_of(missing)}; drop those rows")
    read: Any = pd.to_numeric(column, errors="coerce")
    values = read.to_numpy(dtype=np.float64, na_value=np.nan)
    words = np.isnan(values)
    if words.any():
        shown = str(column[words].iloc[0])
        raise FewerError(
            f"{what} holds {shown!r} in data row {words.argmax() + 1}, which is no number; for classes leave out "
            "kind='regression'"
        )
    if np.isinf(values).any():
        raise FewerError(f"{what} is infinite in {rows_of(np.isinf(values))}; mend or drop those rows")
    return values


def holds_names(column: Any) -> bool:
    """Tell whether a column's values are names: it is of type category, or all of them are words and none a number.

    Examples
    --------
    >>> [holds_names(pd.Series(each)) for each in (["a", "b", None], ["1", "2"], ["1", "b"], [None, None])]
    [True, False, False, False]
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return True
    if not (pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)):
        return False
    values = column[~_gaps(column)]
    if not len(values) or not all(isinstance(value, str) for value in values.tolist()):
        return False
    read: Any = pd.to_numeric(values, errors="coerce")
    return bool(read.isna().all())


def numbers(column: Any, name: str, impute: str | None) -> Float[np.ndarray, " rows"]:
    """Read a column of numbers, refusing words, gaps (unless they are to be filled) and infinities.

    Examples
    --------
    >>> numbers(pd.Series(["1", "2.5"], name="age"), "toy", None)
    array([1. , 2.5], dtype=float32)
    """
    what = f"{name}: column {column.name!r}"
    advice = f"list it in categorical= or drop= (drop=[{column.name!r}])"
    if column.dtype.kind in "mMc":
        raise FewerError(f"{what} holds {column.dtype}, which is no number; turn it into one, or {advice}")
    try:
        read: Any = pd.to_numeric(column, errors="coerce")
    except (TypeError, ValueError) as error:
        raise FewerError(f"{what} holds values of which no number can be made; {advice}") from error
    words = read.isna().to_numpy() & ~_gaps(column)
    if words.any():
        shown = str(column[words].iloc[0])
        shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
        raise FewerError(f"{what} holds {shown!r} in data row {words.argmax() + 1}, which is no number; {advice}")
    values = read.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    gaps = np.isnan(values)
    if gaps.all():
        raise FewerError(f"{what} is empty; drop=[{column.name!r}]")
    if gaps.any():
        if impute is None:
            raise FewerError(
                f"{what} has no value in {rows_of(gaps)}; fill them, give impute='median', or drop=[{column.name!r}]"
            )
        values[gaps] = np.median(values[~gaps])
    large = ~(np.abs(values) <= np.finfo(np.float32).max)
    if large.any():
        raise FewerError(f"{what} is infinite or too large in {rows_of(large)}; mend those rows, or drop it")
    return values.astype(np.float32)


def one_hot(column: Any, name: str) -> Float[np.ndarray, "rows values"]:
    """Turn each value of a column into a column of zeros and ones; a gap is the last of the values.

    Examples
    --------
    >>> one_hot(pd.Series(["b", "a", "b"], name="kind"), "toy")
    array([[0., 1.],
           [1., 0.],
           [0., 1.]], dtype=float32)
    """
    gaps = _gaps(column)
    found, codes = np.unique(column[~gaps].astype(str).to_numpy(dtype=str), return_inverse=True)
    width = len(found) + int(gaps.any())
    if width > MOST_CATEGORIES:
        raise FewerError(
            f"{name}: column {column.name!r} has {width} different values, more than the {MOST_CATEGORIES} that can be "
            f"categories; drop=[{column.name!r}] or join the rare ones"
        )
    position = np.full(len(column), width - 1)
    position[~gaps] = codes
    return np.eye(width, dtype=np.float32)[position]


def weak_labels(column: Any, classes: tuple[str, ...], name: str) -> Float[np.ndarray, "rows classes"]:
    """Read weak labels: class names, or for two classes the probability of the second.

    Examples
    --------
    >>> weak_labels(pd.Series([0.25, 1.0], name="w"), ("no", "yes"), "toy")
    array([[0.75, 0.25],
           [0.  , 1.  ]], dtype=float32)
    """
    missing = column.isna().to_numpy()
    if missing.any():
        raise FewerError(f"{name}: column {column.name!r} has no weak label in {rows_of(missing)}; drop those rows")
    whole = column.dtype.kind == "f" and bool((column == np.floor(column)).all())
    position = pd.Index(classes).get_indexer(pd.Index((column.astype(np.int64) if whole else column).astype(str)))
    if (position >= 0).all():
        return np.eye(len(classes), dtype=np.float32)[position]
    read: Any = pd.to_numeric(column, errors="coerce")
    share = read.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~((share >= 0) & (share <= 1)) if len(classes) == 2 else position < 0
    if wrong.any():
        shown = str(column[wrong].iloc[0])
        also = f", or probabilities of {classes[1]!r} in [0, 1]" if len(classes) == 2 else ""
        raise FewerError(
            f"{name}: column {column.name!r} holds {shown!r} in data row {wrong.argmax() + 1}; "
            f"weak labels are class names ({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}){also}"
        )
    return np.stack([1 - share, share], axis=1).astype(np.float32)


def rows_of(mask: Bool[np.ndarray, " rows"]) -> str:
    """Name the first rows that a mask marks, counted from 1.

    Examples
    --------
    >>> rows_of(np.array([False, True, True]))
    'data rows 2, 3'
    """
    marked = np.flatnonzero(mask) + 1
    shown = ", ".join(map(str, marked[:5])) + (f", … ({len(marked)} in all)" if len(marked) > 5 else "")
    return f"data row{'s' if len(marked) > 1 else ''} {shown}"


def _gaps(column: Any) -> Bool[np.ndarray, " rows"]:
    """Where a column has no value; a text of spaces is none."""
    gaps = column.isna().to_numpy(copy=True)
    if pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
        gaps |= np.array([isinstance(value, str) and not value.strip() for value in column.tolist()], dtype=bool)
    return gaps


def _names(given: str | Iterable[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)
