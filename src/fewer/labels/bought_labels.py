"""Labels that are there in a column or are asked for when first wanted, and which of them were paid for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from fewer.core.errors import FewerError


class BoughtLabels:
    """One labeller's answers: those in a column, or asked for when first wanted; what was wanted is paid for.

    Parameters
    ----------
    name : {"weak", "oracle"}
        Weak labels are probabilities, the oracle's 0 or 1.
    given : array or callable
        One value a row, NaN where there is none; or who answers for rows.
    x : array (rows, ...)
        What is shown to them.
    """

    def __init__(self, name: str, given: Any, x: Shaped[np.ndarray, "rows ..."]) -> None:
        self.name, self.x, self.ask = name, x, given if callable(given) else None
        self.bought: Bool[np.ndarray, " rows"] = np.zeros(len(x), dtype=bool)
        self.answers = np.full(len(x), np.nan)
        if self.ask is None:
            self.answers = self._checked(given, np.arange(len(x)), blank=True)
        self.available = np.ones(len(x), dtype=bool) if self.ask else ~np.isnan(self.answers)

    def __call__(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Answers for some rows, asked for and paid where they are new."""
        new = rows[~self.bought[rows]]
        if self.ask is not None and len(new):
            self.answers[new] = self._checked(self.ask(self.x[new]), new, blank=False)
        self.bought[new] = True
        return self.answers[rows]

    def _checked(self, given: Any, rows: np.ndarray, blank: bool) -> np.ndarray:
        try:
            values = np.asarray(given, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise FewerError(f"label-budget: the {self.name} labels are not numbers ({error}); give numbers") from error
        if len(values) != len(rows):
            raise FewerError(f"label-budget: {len(values)} {self.name} labels for {len(rows)} rows; give one a row")
        right = (values >= 0) & (values <= 1) if self.name == "weak" else np.isin(values, (0.0, 1.0))
        bad = np.flatnonzero(~(right | (blank & np.isnan(values))))
        if len(bad):
            wanted = "a probability from 0 to 1" if self.name == "weak" else "0 or 1"
            raise FewerError(
                f"label-budget: the {self.name} label of row {rows[bad[0]]} is {values[bad[0]]:g}; it must be {wanted}"
            )
        return values


def read(data: Any) -> Any:
    """Read a CSV file; other data are handed on."""
    return pd.read_csv(data) if isinstance(data, str | os.PathLike) else data


def column(table: Any, given: Any) -> Any:
    """Give the column of that name; what is no name is handed on."""
    if not isinstance(given, str):
        return given
    present(table, [given])
    return table[given]


def present(table: Any, names: Sequence[str]) -> None:
    """Refuse names that are not columns."""
    known = list(table.columns) if isinstance(table, pd.DataFrame) else []
    missing = [name for name in names if name not in known]
    if missing:
        raise FewerError(
            f"label-budget: there is no column {missing[0]!r}; the columns are {', '.join(map(str, known)) or 'none'}"
        )
