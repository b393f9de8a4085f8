"""Racing forecasters: the same series, a growing history, and held-out forecasts to score.

The curve is the task's score against the time steps of history that were there to learn from, the most recent ones.  A
forecaster is any estimator with ``fit(series)`` and ``predict(last_window, horizon)``; it is made anew for each point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from sklearn.base import clone

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.seeding import derive
from fewer.nets.window_forecaster import RidgeForecaster
from fewer.tasks.series import Series


class SeriesForecaster(Protocol):
    """A scikit-learn estimator that forecasts; :class:`fewer.nets.Forecaster` is one.

    Of the parameters ``lag``, ``horizon``, ``period`` and ``random_state``, those that it has are set for it by the task and
    the seed.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All parameters, by name."""
        ...

    def set_params(self, **parameters: Any) -> Any:
        """Change some."""
        ...

    def fit(self, series: Float[np.ndarray, "time channels"]) -> Any:
        """Learn from a series."""
        ...

    def predict(
        self, last_window: Float[np.ndarray, "windows lag channels"], horizon: int
    ) -> Float[np.ndarray, "windows horizon channels"]:
        """Forecast what follows each window."""
        ...


@dataclass
class ForecastingState(State):
    """The task and the last fitted forecaster."""

    saved: ClassVar[tuple[str, ...]] = ()

    task: Series = field(kw_only=True)
    fitted: Any = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Forecasting(Loop[Series, ForecastingState]):
    """Fit on more and more of the most recent history; the curve is the score of forecasts that are held out.

    Parameters
    ----------
    forecaster : SeriesForecaster, default RidgeForecaster()
        What is fitted; the task sets its window and horizon.
    points : int, default 4
        Lengths of history, in equal ratios up to the budget.
    initial : int, default 0
        The shortest; with 0, twice the window and the horizon, or what the budget allows.

    Examples
    --------
    >>> from fewer.tasks.series import ar
    >>> learned = Forecasting(points=3).learn(ar(steps=1000), budget=800)
    >>> [point.spent for point in learned.curve]
    [192, 392, 800]
    """

    unit: ClassVar[str] = "time steps"
    accepts: ClassVar[type[Series]] = Series

    forecaster: SeriesForecaster = field(default_factory=RidgeForecaster)
    points: int = 4
    initial: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or self.initial < 0:
            raise FewerError(
                f"points must be at least 1 and initial at least 0; they are {self.points} and {self.initial}"
            )

    def least(self, task: Series) -> int:
        """One window and one horizon, or ``initial``."""
        return max(task.lag + task.horizon, self.initial)

    def check(self, task: Any, budget: int) -> None:
        """Refuse a budget beyond the history."""
        super().check(task, budget)
        if budget > len(task.history):
            raise FewerError(
                f"{task.name} has {len(task.history)} time steps of history; lower --budget to that, or hold out less"
            )

    def start(self, task: Series, budget: int, seed: int) -> ForecastingState:
        """Nothing is fitted yet."""
        return ForecastingState(budget, seed, Ledger({"time_steps": 1.0}), task=task)

    def advance(self, state: ForecastingState) -> Point:
        """Fit on the next length of history, and score."""
        task = state.task
        length = next(each for each in self._lengths(task, state.budget) if each > state.ledger.spent)
        state.fitted = self._fit(state, length)
        state.ledger.add("time_steps", length - state.ledger.spent)
        score = task.score(state.fitted.predict(task.windows, task.horizon))
        return Point(length, score, self._measures(state.fitted))

    def result(self, state: ForecastingState) -> Any:
        """The forecaster of the longest history."""
        if state.fitted is None:  # a resumed run that was finished
            state.fitted = self._fit(state, state.ledger.spent)
        return state.fitted

    def _fit(self, state: ForecastingState, length: int) -> Any:
        task = state.task
        settings = {
            "lag": task.lag,
            "horizon": task.horizon,
            "period": task.period,
            "random_state": derive(state.seed, "forecaster") % 2**31,
        }
        known = self.forecaster.get_params(deep=False)
        made: Any = clone(self.forecaster)  # pyright: ignore[reportArgumentType]
        made.set_params(**{name: value for name, value in settings.items() if name in known})
        return made.fit(task.history[-length:])

    def _lengths(self, task: Series, budget: int) -> list[int]:
        first = self.initial or min(2 * self.least(task), budget)
        lengths = np.geomspace(first, budget, self.points).round().astype(int) if self.points > 1 else [budget]
        return sorted({min(int(length), budget) for length in lengths} | {budget})

    @staticmethod
    def _measures(fitted: Any) -> dict[str, float]:
        found = {"parameters": getattr(fitted, "n_parameters_", None), "epoch": getattr(fitted, "best_epoch_", None)}
        return {name: float(value) for name, value in found.items() if value is not None}
