"""How the columns of a table become what a network reads: numbers of like scale, and one-hot categories.

Knows tables (arrays, pandas and polars frames) and nothing of networks.  Everything is learned from the
rows it is fitted to: which columns are constant (they are left out), the scale of the others, the values of
a category.  A value that was not there then is zeros in all its columns; a gap in a category is a value of
its own; a gap among numbers is an error, for what would fill it is the user's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from fewer.core.errors import FewerError, nearest

Numeric = Literal["quantile", "standard"]
Categorical = Literal["from_dtype"] | Sequence[str] | Sequence[int] | Sequence[bool] | None

MOST_CATEGORIES = 1000
"""Different values a category may have."""


def as_frame(X: Any) -> Any:
    """Give a polars frame as a pandas frame, and anything else as it is.

    Examples
    --------
    >>> as_frame([[1, 2]])
    [[1, 2]]
    """
    if type(X).__module__.partition(".")[0] != "polars":
        return X
    if hasattr(X, "collect"):  # a lazy frame
        X = X.collect()
    return X.to_pandas()


def categorical_columns(X: pd.DataFrame, given: Categorical, name: str) -> list[int]:
    """Find the columns whose values are names.

    Parameters
    ----------
    X : DataFrame (rows, columns)
        With the names of the user's frame, or 0, 1, … for an array.
    given : "from_dtype", list of names, positions or truth values, or None
        By default columns of texts, truth values and type category are.
    name : str
        Who asks, for messages.

    Returns
    -------
    list of int
        Positions, increasing.

    Raises
    ------
    FewerError
        If a column is not there.

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [31, 45], "plan": ["a", "b"]})
    >>> categorical_columns(frame, "from_dtype", "toy"), categorical_columns(frame, ["age"], "toy")
    ([1], [0])
    """
    if given is None:
        return []
    if isinstance(given, str):
        if given != "from_dtype":
            raise FewerError(f"{name}: categorical_features={given!r}; give 'from_dtype', None, or a list of columns")
        return [at for at in range(X.shape[1]) if _holds_names(X.iloc[:, at])]
    chosen = list(given)
    if chosen and all(isinstance(each, bool | np.bool_) for each in chosen):
        if len(chosen) != X.shape[1]:
            raise FewerError(
                f"{name}: categorical_features says yes or no to {len(chosen)} columns and there are {X.shape[1]}"
            )
        return [at for at, each in enumerate(chosen) if each]
    places = {column: at for at, column in enumerate(X.columns)}
    found = set()
    for each in chosen:
        if each in places:
            found.add(places[each])
        elif isinstance(each, int | np.integer) and 0 <= each < X.shape[1]:
            found.add(int(each))
        else:
            raise FewerError(f"{name}: no column {each!r} to be categorical; {nearest(str(each), map(str, X.columns))}")
    return sorted(found)


def _holds_names(column: Any) -> bool:
    types = pd.api.types
    if types.is_object_dtype(column.dtype):  # as frames of mixed origin have even for numbers
        return types.infer_dtype(column, skipna=True) not in ("integer", "floating", "mixed-integer-float", "decimal")
    return types.is_bool_dtype(column.dtype) or not (
        types.is_numeric_dtype(column.dtype) or types.is_datetime64_any_dtype(column.dtype)
    )


class Columns:
    """Fitted to a table, turns tables of the same columns into an array of numbers.

    Parameters
    ----------
    categorical : list of int
        Positions of the columns whose values are names.
    numeric : {"quantile", "standard"}
        Map numbers to a normal distribution by their quantiles, or centre and scale them.
    name : str
        Who asks, for messages.

    Attributes
    ----------
    numeric_width : int
        Columns of numbers that are left; they come first.
    category_sizes : list of int
        Width of each category that is left.

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [1.0, 2.0, 3.0], "plan": ["a", "b", "a"], "same": [0, 0, 0]})
    >>> columns = Columns([1], "standard", "toy").fit(frame, seed=0)
    >>> columns.transform(frame).astype(int).tolist()
    [[-1, 1, 0], [0, 0, 1], [1, 1, 0]]
    >>> columns.transform(pd.DataFrame({"age": [2.0], "plan": ["never seen"], "same": [0]})).tolist()
    [[0.0, 0.0, 0.0]]
    """

    def __init__(self, categorical: list[int], numeric: Numeric, name: str) -> None:
        if numeric not in ("quantile", "standard"):
            raise FewerError(f"{name}: unknown numeric={numeric!r}; choose 'quantile' or 'standard'")
        self.categorical = categorical
        self.numeric = numeric
        self.name = name

    def check(self, X: pd.DataFrame) -> None:
        """Refuse a table with a number that is missing, infinite or a word; the row is told as it is counted here."""
        for at in set(range(X.shape[1])) - set(self.categorical):
            self._number(X.iloc[:, at])

    def fit(self, X: pd.DataFrame, seed: int) -> Columns:
        """Learn scales and categories.

        Raises
        ------
        FewerError
            If every column is constant, a number is missing, infinite or a word, or a category has more than
            1,000 values.
        """
        candidates = [at for at in range(X.shape[1]) if at not in set(self.categorical)]
        numbers = self._numbers(X, candidates)
        varies = (numbers != numbers[:1]).any(axis=0)
        self._numeric = [at for at, each in zip(candidates, varies, strict=True) if each]
        numbers = numbers[:, varies]
        self.numeric_width = numbers.shape[1]
        self._scaler = None
        if self.numeric_width:
            if self.numeric == "quantile":
                # noise far below the distance of any two values: one that many rows share then lies in the midst of
                # its share, and not at the end of the distribution where it is the least of all
                gaps = np.diff(np.sort(numbers, axis=0), axis=0)
                least = np.where(gaps > 0, gaps, np.inf).min(axis=0)
                noise = np.random.default_rng(seed).normal(0, 0.01, numbers.shape) * least
                count = min(len(numbers), max(10, min(len(numbers) // 30, 1000)))
                settings: dict[str, Any] = {"n_quantiles": count, "subsample": None, "random_state": seed}
                self._scaler = QuantileTransformer(output_distribution="normal", **settings).fit(numbers + noise)
            else:
                self._scaler = StandardScaler().fit(numbers)
        self._values = {at: self._learn_values(X, at) for at in self.categorical}
        self._values = {at: values for at, values in self._values.items() if len(values) + values.gap > 1}
        self.category_sizes = [len(values) + values.gap for values in self._values.values()]
        if not self.numeric_width and not self._values:
            raise FewerError(f"{self.name}: every column is constant, so there is nothing to learn from; give others")
        return self

    def transform(self, X: pd.DataFrame) -> Float[np.ndarray, "rows width"]:
        """Encode rows: numbers first, then each category's columns."""
        out = np.zeros((len(X), self.numeric_width + sum(self.category_sizes)), dtype=np.float32)
        if self._scaler is not None:
            out[:, : self.numeric_width] = self._scaler.transform(self._numbers(X, self._numeric))
        start = self.numeric_width
        for (at, values), size in zip(self._values.items(), self.category_sizes, strict=True):
            codes = values.codes(X.iloc[:, at])
            known = np.flatnonzero(codes >= 0)
            out[known, start + codes[known]] = 1
            start += size
        return out

    def _numbers(self, X: pd.DataFrame, at: list[int]) -> Float[np.ndarray, "rows columns"]:
        columns = [self._number(X.iloc[:, each]) for each in at]
        return np.stack(columns, axis=1) if columns else np.zeros((len(X), 0))

    def _number(self, column: Any) -> Float[np.ndarray, " rows"]:
        what = f"{self.name}: column {column.name!r}"
        if column.dtype.kind in "mM":
            raise FewerError(f"{what} holds times, which are no numbers; turn them into some")
        try:
            read: Any = pd.to_numeric(column)
            values = read.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise FewerError(f"{what} holds what is no number ({error}); list it in categorical_features") from error
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise FewerError(
                f"{what} holds NaN or infinity in {len(bad)} rows (the first is row {bad[0]}); fill them, as with "
                "sklearn.impute.SimpleImputer in a pipeline, or drop the column"
            )
        return values

    def _learn_values(self, X: pd.DataFrame, at: int) -> _Values:
        values = _Values(X.iloc[:, at])
        if len(values) > MOST_CATEGORIES:
            raise FewerError(
                f"{self.name}: column {X.columns[at]!r} has {len(values)} different values, more than the "
                f"{MOST_CATEGORIES} that can be categories; drop it or join the rare ones"
            )
        return values


class _Values:
    """The values of a category in the order of their first row; a gap is the last of them."""

    def __init__(self, column: Any) -> None:
        present = column.dropna()
        self.index = pd.Index(present.unique().tolist(), dtype=object)
        self.gap = len(present) < len(column)

    def __len__(self) -> int:
        return len(self.index)

    def codes(self, column: Any) -> np.ndarray:
        """Positions of values, -1 for one that was not there."""
        missing = column.isna().to_numpy()
        codes = self.index.get_indexer(pd.Index(column.astype(object)))
        codes[missing] = len(self.index) if self.gap else -1
        return codes
