"""Learning from rows: which model of tables wants the least data.

An estimator is fitted anew to the first n rows of a shuffled pool, for growing n, and scored on the same
test rows each time.  The subsets are nested, and equal for all entries of a race with the same seed, so
curves differ by the estimators alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Int
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import derive, generator
from fewer.labels.learners import flat
from fewer.tasks.classification import Classification, Split
from fewer.tasks.regression import Regression, RegressionSplit

Kind = Literal["classification", "regression"]


class Learner(Protocol):
    """Describes how a model of tables is made, for either kind of target."""

    def estimator(self, kind: Kind) -> BaseEstimator:
        """Make an unfitted scikit-learn classifier or regressor; its ``random_state`` is set by the loop."""
        ...


@dataclass(frozen=True)
class Either:
    """A classifier for classes and a regressor for numbers, of scikit-learn or like those.

    Parameters
    ----------
    classifier, regressor : scikit-learn estimators, optional
        Cloned for each fit; without the one, tasks of its kind are refused.
    name : str
        For messages.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> Either(DecisionTreeClassifier(), name="tree").estimator("regression")
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: tree has no regressor and the task is one of regression; race another
    """

    classifier: BaseEstimator | None = None
    regressor: BaseEstimator | None = None
    name: str = "this entry"

    def estimator(self, kind: Kind) -> BaseEstimator:
        """A clone of the one that fits the task."""
        chosen = self.classifier if kind == "classification" else self.regressor
        if chosen is None:
            wanted = "classifier" if kind == "classification" else "regressor"
            raise FewerError(f"{self.name} has no {wanted} and the task is one of {kind}; race another")
        made: Any = clone(chosen)
        return made


def boosting() -> Either:
    """Fill the estimator slot with histogram gradient boosting of trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return Either(HistGradientBoostingClassifier(), HistGradientBoostingRegressor(), "boosting")


def forest(trees: int = 200) -> Either:
    """Fill the estimator slot with a random forest."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    return Either(RandomForestClassifier(trees), RandomForestRegressor(trees), "forest")


def logistic(C: float = 1.0, max_iter: int = 200) -> Either:
    """Fill the estimator slot with multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return Either(LogisticRegression(C=C, max_iter=max_iter), name="logistic")


def ridge() -> Either:
    """Fill the estimator slot with ridge regression, its penalty chosen by leaving one row out at a time."""
    from sklearn.linear_model import RidgeCV

    return Either(regressor=RidgeCV(np.logspace(-3, 3, 13)), name="ridge")


@dataclass
class RowsState(State):
    """The order in which rows come, and the model of the last point."""

    split: Split | RegressionSplit = field(kw_only=True)
    task: Classification | Regression = field(kw_only=True)
    order: np.ndarray = field(kw_only=True)
    sizes: tuple[int, ...] = field(kw_only=True)
    model: Any = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LearnFromRows(Loop[Any, RowsState]):
    """A model is fitted anew to ever more rows; the curve is its score against rows.

    Parameters
    ----------
    estimator : Learner, or a scikit-learn estimator; default boosting()
        What is fitted.  Its ``random_state`` is set from the run's seed where it has none.
    first : int, default 32
        Rows of the first point.
    points : int, default 8
        How many points the curve has, at most; rows grow by the same factor from point to point.

    Notes
    -----
    The rows are those of the pool in an order drawn from the seed.  A classifier needs two classes: where
    the first ``first`` rows hold one only, the earliest row of another class changes places with the last of
    them.  A pool with fewer rows than the budget ends the curve.

    Examples
    --------
    >>> from fewer.tasks.digits import breast_cancer
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> curve = LearnFromRows(DecisionTreeClassifier(), points=3).learn(breast_cancer(), budget=200).curve
    >>> [point.spent for point in curve]
    [32, 80, 200]
    """

    unit: ClassVar[str] = "rows"
    accepts: ClassVar[tuple[type[Task], ...]] = (Classification, Regression)

    estimator: Learner | BaseEstimator = field(default_factory=boosting)
    first: int = 32
    points: int = 8

    def __post_init__(self) -> None:
        if self.first < 2 or self.points < 1:
            raise FewerError(f"first must be at least 2 and points at least 1; they are {self.first} and {self.points}")

    def least(self, task: Task) -> int:
        """The rows of the first point."""
        return self.first

    def check(self, task: Task, budget: int) -> None:
        """Refuse a task that the estimator is not for, and one with too few rows."""
        super().check(task, budget)
        assert isinstance(task, Classification | Regression)
        self._unfitted(task)
        rows = len(task.split(0).x)
        if rows < self.first:
            raise FewerError(
                f"{task.name}: the pool has {rows} rows and the first point takes {self.first}; lower first="
            )

    def start(self, task: Classification | Regression, budget: int, seed: int) -> RowsState:
        """Split the task and shuffle the pool."""
        split = task.split(seed)
        order = generator(seed, "rows").permutation(len(split.y))
        if isinstance(task, Classification):
            order = two_classes_early(order, split.y, self.first)
        sizes = growing(self.first, min(budget, len(order)), self.points)
        return RowsState(budget, seed, Ledger({"rows": 1.0}), split=split, task=task, order=order, sizes=sizes)

    def advance(self, state: RowsState) -> Point:
        """Fit to the next number of rows, and score."""
        count = state.sizes[state.points]
        state.ledger.add("rows", count - state.ledger["rows"])
        state.exhausted = state.points + 1 == len(state.sizes)
        state.model = self._fit(state, count)
        predicted = state.model.predict(flat(state.split.test_x))
        score = state.task.score(state.split.test_y, predicted) if np.isfinite(predicted).all() else np.nan
        size = getattr(state.model, "parameters_", None)
        return Point(count, float(score), {} if size is None else {"parameters": float(size)})

    def result(self, state: RowsState) -> Any:
        """The estimator as fitted for the last point."""
        if state.model is None:  # a resumed run has the rows and not the model; fitted alike, it is the same one
            state.model = self._fit(state, state.sizes[state.points - 1])
        return state.model

    def _fit(self, state: RowsState, count: int) -> Any:
        model = self._unfitted(state.task)
        parameters = model.get_params()
        if "random_state" in parameters and parameters["random_state"] is None:
            model.set_params(random_state=derive(state.seed, "estimator") % 2**31)
        rows = state.order[:count]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a capped solver is still a fair measuring device
            return model.fit(flat(state.split.x[rows]), state.split.y[rows])

    def _unfitted(self, task: Classification | Regression) -> Any:
        kind: Kind = "classification" if isinstance(task, Classification) else "regression"
        if not isinstance(self.estimator, BaseEstimator):
            return self.estimator.estimator(kind)
        if not (is_classifier(self.estimator) if kind == "classification" else is_regressor(self.estimator)):
            raise FewerError(
                f"{type(self.estimator).__name__} is not for {kind}, which {task.name} is a task of; give another estimator"
            )
        return clone(self.estimator)


def growing(first: int, last: int, points: int) -> tuple[int, ...]:
    """Numbers of rows that grow by the same factor, each once.

    Examples
    --------
    >>> growing(32, 2000, 5), growing(2, 4, 8), growing(5, 9, 1)
    ((32, 90, 253, 711, 2000), (2, 3, 4), (9,))
    """
    return tuple(np.unique(np.geomspace(first, last, points).round().astype(int)).tolist()) if points > 1 else (last,)


def two_classes_early(
    order: Int[np.ndarray, " rows"], y: Int[np.ndarray, " rows"], first: int
) -> Int[np.ndarray, " rows"]:
    """Let two rows change places where the first ones are all of one class.

    Examples
    --------
    >>> two_classes_early(np.array([0, 1, 2, 3]), np.array([5, 5, 5, 7]), first=2)
    array([0, 3, 2, 1])
    """
    others = np.flatnonzero(y[order] != y[order[0]])
    if not len(others) or others[0] < first:
        return order
    order = order.copy()
    order[[first - 1, others[0]]] = order[[others[0], first - 1]]
    return order
