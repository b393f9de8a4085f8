"""Nested selection: candidates, the search that tunes one, and what can be said of their scores.

Knows scikit-learn's estimators and tables of numbers and categories; which candidate to prefer is
decided by :mod:`fewer.labels.linear_first`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from fewer.core.errors import FewerError

REFITS = 10
"""How often a candidate is refitted to time it; the median is reported."""


@dataclass(frozen=True)
class Candidate:
    """A model that takes part, with the grid its parameters are chosen from.

    Parameters
    ----------
    name : str
        In reports.
    estimator : scikit-learn classifier
        Cloned for each fit, with ``random_state`` set where it has one.
    grid : mapping or sequence of mappings
        Parameter to values, as for ``GridSearchCV``.
    complexity : int
        The lower, the simpler; among candidates that are as good, the simplest is chosen.
    scale : bool, default True
        Whether features are standardised first, inside each fold.
    """

    name: str
    estimator: BaseEstimator
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]]
    complexity: int
    scale: bool = True


def default_candidates() -> list[Candidate]:
    """Logistic regression, a decision tree and a support vector machine, each with its grid."""
    return [
        Candidate("linear", LogisticRegression(max_iter=5000), {"C": [0.01, 0.1, 1, 10]}, complexity=0),
        Candidate(
            "tree",
            DecisionTreeClassifier(),
            {
                "criterion": ["gini", "entropy"],
                "max_depth": [2, 3, 4, 5, None],
                "min_samples_leaf": [1, 3, 5, 10],
            },
            complexity=1,
            scale=False,
        ),
        Candidate(
            "svm",
            SVC(),
            [
                {"kernel": ["linear"], "C": [0.1, 1, 10]},
                {"kernel": ["rbf", "poly"], "C": [0.1, 1, 10], "gamma": ["scale", 0.01]},
            ],
            complexity=2,
        ),
    ]


def corrected_standard_error(differences: Float[np.ndarray, " folds"], test: float, train: float) -> float:
    """Standard error of a mean difference over folds whose training sets overlap.

    Parameters
    ----------
    differences : float array (folds,)
        One a fold; at least two.
    test, train : float
        Rows that a fold scores, and rows it learns from.

    References
    ----------
    C. Nadeau and Y. Bengio, Machine Learning 52, 2003.

    Examples
    --------
    >>> round(corrected_standard_error(np.array([0.0, 0.02]), test=10, train=10), 4)
    0.0173
    """
    return float(np.sqrt((1 / len(differences) + test / train) * np.var(differences, ddof=1)))


def preparation(numbers: Sequence[int], categories: Sequence[int], columns: int) -> Any:
    """Impute numbers by the median and encode categories one-hot; columns in neither list are dropped."""
    impute = SimpleImputer(strategy="median", keep_empty_features=True)
    if len(numbers) == columns:
        return impute
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("numbers", impute, list(numbers)), ("categories", encode, list(categories))]
    return ColumnTransformer(parts, verbose_feature_names_out=False)


def search(candidate: Candidate, prepare: Any, folds: int, scoring: str, seed: int) -> GridSearchCV:
    """The grid search of a candidate: preparation, scaling and model in one pipeline, fitted inside each fold."""
    model: Any = clone(candidate.estimator)
    if "random_state" in model.get_params():
        model.set_params(random_state=seed)
    scale = StandardScaler() if candidate.scale else "passthrough"
    grids = [candidate.grid] if isinstance(candidate.grid, Mapping) else candidate.grid
    return GridSearchCV(
        WeightedPipeline([("columns", prepare), ("scale", scale), ("model", model)]),
        [{f"model__{name}": list(values) for name, values in grid.items()} for grid in grids],
        scoring=scoring,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    )


class WeightedPipeline(Pipeline):
    """A pipeline whose last step takes the sample weights."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> WeightedPipeline:
        """Fit all steps."""
        return super().fit(X, y, **({} if sample_weight is None else {"model__sample_weight": sample_weight}))


def refit_seconds(fitted: Any, X: Any, y: np.ndarray) -> float:
    """Median time of fitting a copy, on one thread."""
    seconds = []
    with threadpool_limits(1):
        for _ in range(REFITS):
            fresh: Any = clone(fitted)
            began = time.perf_counter()
            fresh.fit(X, y)
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def size(model: Any) -> int | None:
    """How many support vectors, leaves or weights a model has; None for other models."""
    if hasattr(model, "support_"):
        return len(model.support_)
    if hasattr(model, "get_n_leaves"):
        return int(model.get_n_leaves())
    return int(np.count_nonzero(model.coef_)) if hasattr(model, "coef_") else None


def as_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """All columns but categories as floats; a text column is refused by name."""
    made = {}
    for position, kind in enumerate(frame.dtypes):
        column = frame.iloc[:, position]
        if not isinstance(kind, pd.CategoricalDtype):
            if not (pd.api.types.is_numeric_dtype(kind) and kind.kind != "c"):
                raise FewerError(
                    f"linear-first: column {frame.columns[position]!r} holds {kind}, not numbers; "
                    "make it a category (frame[column].astype('category')) or encode it"
                )
            column = column.astype("float64")
            if np.isinf(column.to_numpy()).any():
                raise FewerError(
                    f"linear-first: column {frame.columns[position]!r} holds infinity; mend or drop those rows"
                )
        made[frame.columns[position]] = column
    return pd.DataFrame(made, index=frame.index)


def feasible_folds(members: int, outer: int, inner: int) -> tuple[int, int] | None:
    """The most folds, at most these, that leave a class of so many members in every part; None if there are none.

    Examples
    --------
    >>> feasible_folds(40, 10, 5), feasible_folds(4, 10, 5), feasible_folds(2, 10, 5)
    ((10, 5), (4, 3), None)
    """
    outer = min(outer, members)
    if outer < 2:
        return None
    inner = min(inner, members - math.ceil(members / outer))
    return (outer, inner) if inner >= 2 else None
