"""What all forecasters share: how a series comes in, how windows are cut from it, and how forecasts go out.

Also the two that need no training loop: a seasonal repetition and ridge regression.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.utils.validation import check_is_fitted

from fewer.core.errors import FewerError

ALPHAS = tuple(10.0 ** np.arange(-4, 5))
"""Penalties that ridge regression chooses from, by leave-one-out error."""


def read_series(given: Any, name: str) -> Float[np.ndarray, "time channels"]:
    """Turn a series of any of the usual forms into numbers.

    Parameters
    ----------
    given : array, Series or DataFrame
        One value a time step, or one row with a value for each channel.
    name : str
        Who asks, for messages.

    Returns
    -------
    float64 array (time, channels)

    Raises
    ------
    FewerError
        If there is nothing in it, a value is no number, missing or infinite, or it has more than two axes.

    Examples
    --------
    >>> read_series([1, 2, 3], "toy").shape
    (3, 1)
    """
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FewerError(
            f"{name}: the series holds values that are no numbers ({error}); leave such columns out"
        ) from None
    if values.ndim not in (1, 2) or values.size == 0:
        raise FewerError(
            f"{name}: a series is (time,) or (time, channels) and not empty; this one has shape {values.shape}"
        )
    values = values.reshape(len(values), -1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, channel = bad[0]
        raise FewerError(
            f"{name}: {len(bad)} values are NaN or infinite, the first at time step {step} of "
            f"{_channel(given, channel)}; fill them, by interpolation say"
        )
    return values


def _channel(given: Any, index: int) -> str:
    if isinstance(given, pd.DataFrame):
        return f"column {given.columns[index]!r}"
    return f"channel {index}"


class WindowForecaster(BaseEstimator, ABC):
    """Forecasts from the last ``lag`` time steps; channels are forecast one by one, with the same weights.

    Subclasses set ``lag`` and ``horizon`` and give :meth:`_learn` and :meth:`_forecast`; both see channels centred and
    scaled by what :meth:`fit` saw.

    Attributes
    ----------
    mean_, scale_ : float arrays (channels,)
        Of the series that was fitted.
    n_channels_ : int
        How many series it had.
    """

    lag: int
    horizon: int

    @property
    def _name(self) -> str:
        return type(self).__name__

    def fit(self, series: Any, y: None = None) -> Any:
        """Learn from a series.

        Parameters
        ----------
        series : array (time,) or (time, channels), Series or DataFrame
            In the order of time, equally spaced.
        y : None
            Not used.

        Returns
        -------
        self

        Raises
        ------
        FewerError
            If it is shorter than ``lag + horizon``, holds NaN or something that is no number, or a channel is constant.
        """
        self._check()
        values = read_series(series, self._name)
        if len(values) < self.lag + self.horizon:
            raise FewerError(
                f"{self._name}: the series has {len(values)} time steps, fewer than lag + horizon = {self.lag} + "
                f"{self.horizon}; give a longer series, or set a shorter lag or horizon"
            )
        self.mean_, self.scale_ = values.mean(axis=0), values.std(axis=0)
        constant = np.ptp(values, axis=0) == 0
        if constant.any():
            raise FewerError(
                f"{self._name}: {_channel(series, int(constant.argmax()))} is constant, so there is nothing to learn; "
                "leave it out"
            )
        self.n_channels_ = values.shape[1]
        self._axes = np.ndim(series)
        self._learn((values - self.mean_) / self.scale_)
        return self

    def predict(self, last_window: Any, horizon: int | None = None) -> Float[np.ndarray, "..."]:
        """Forecast what follows a window.

        Parameters
        ----------
        last_window : array, Series or DataFrame
            Of the form that was fitted, of at least ``lag`` time steps; of more, the last are used.  With one more axis in
            front, many windows at once.
        horizon : int, optional
            Time steps to forecast; by default the one that was fitted.  Who cannot go further than that moves on over its
            own forecasts.

        Returns
        -------
        float array
            (horizon,) or (horizon, channels), with the number of windows in front if there are many.

        Raises
        ------
        FewerError
            If the window is too short, of another form, or holds NaN.
        """
        check_is_fitted(self)
        steps = self.horizon if horizon is None else horizon
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
            raise FewerError(f"{self._name}: horizon is {horizon!r}; give a whole number of at least 1")
        axes = np.ndim(last_window)
        if axes not in (self._axes, self._axes + 1):
            raise FewerError(
                f"{self._name}: a window has {self._axes} axes as the fitted series has, and many windows one more; "
                f"this has {axes}"
            )
        many = np.asarray(last_window) if axes > self._axes else np.asarray(last_window)[None]
        many = many[..., None] if self._axes == 1 else many
        if many.shape[2] != self.n_channels_ or many.shape[1] < self.lag or not len(many):
            raise FewerError(
                f"{self._name}: a window needs {self.lag} time steps or more of {self.n_channels_} channels; these are "
                f"{many.shape[0]} windows of {many.shape[1]} steps of {many.shape[2]} channels"
            )
        flat = read_series(many[:, -self.lag :].reshape(-1, self.n_channels_), self._name)
        windows = (flat.reshape(len(many), self.lag, -1) - self.mean_) / self.scale_
        folded = windows.transpose(0, 2, 1).reshape(-1, self.lag)
        parts: list[np.ndarray] = []
        missing = int(steps)
        while missing > 0:
            parts.append(self._forecast(folded, missing)[:, :missing])
            missing -= parts[-1].shape[1]
            folded = np.concatenate([folded, parts[-1]], axis=1)[:, -self.lag :]
        forecast = np.concatenate(parts, axis=1).reshape(len(many), self.n_channels_, steps).transpose(0, 2, 1)
        forecast = forecast * self.scale_ + self.mean_
        forecast = forecast[..., 0] if self._axes == 1 else forecast
        return forecast if axes > self._axes else forecast[0]

    def _check(self) -> None:
        """Refuse settings that cannot work."""
        if min(self.lag, self.horizon) < 1:
            raise FewerError(
                f"{self._name}: lag and horizon must be at least 1; they are {self.lag} and {self.horizon}"
            )

    @abstractmethod
    def _learn(self, series: Float[np.ndarray, "time channels"]) -> None:
        """Learn from a centred and scaled series."""

    @abstractmethod
    def _forecast(self, windows: Float[np.ndarray, "windows lag"], horizon: int) -> Float[np.ndarray, "windows steps"]:
        """Forecast at least one step, and as many of ``horizon`` as possible."""


class SeasonalNaive(WindowForecaster):
    """The last season again and again; with a period of one, the last value.

    Parameters
    ----------
    period : int, default 1
        Time steps of a season, and of the window.
    horizon : int, default 1
        Time steps forecast by default.

    Examples
    --------
    >>> SeasonalNaive(period=2).fit([1, 2, 1, 2, 1]).predict([5.0, 7.0], horizon=3)
    array([5., 7., 5.])
    """

    def __init__(self, period: int = 1, horizon: int = 1) -> None:
        self.period = period
        self.horizon = horizon

    @property
    def lag(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A season."""
        return self.period

    def _learn(self, series: np.ndarray) -> None:
        return None

    def _forecast(self, windows: np.ndarray, horizon: int) -> np.ndarray:
        return windows


class RidgeForecaster(WindowForecaster):
    """Ridge regression from the window, less its mean, to all of the horizon, in closed form.

    Parameters
    ----------
    lag, horizon : int, default 336 and 96
        Time steps of the window, and forecast by default.
    alphas : tuple of float, optional
        Penalties to choose from by leave-one-out error; by default the powers of ten from 1e-4 to 1e4.

    Examples
    --------
    >>> wave = np.sin(np.arange(200) / 3)
    >>> model = RidgeForecaster(lag=12, horizon=5).fit(wave[:150])
    >>> bool(np.abs(model.predict(wave[138:150]) - wave[150:155]).max() < 0.01)
    True
    """

    def __init__(self, lag: int = 336, horizon: int = 96, alphas: tuple[float, ...] | None = None) -> None:
        self.lag = lag
        self.horizon = horizon
        self.alphas = alphas

    def _learn(self, series: np.ndarray) -> None:
        windows = sliding_window_view(series, self.lag + self.horizon, axis=0).reshape(-1, self.lag + self.horizon)
        windows = windows - windows[:, : self.lag].mean(axis=1, keepdims=True)
        alphas: Any = list(ALPHAS if self.alphas is None else self.alphas)
        # a single window leaves nothing to choose a penalty by
        model = RidgeCV(alphas) if len(windows) > 1 else Ridge(alphas[-1])
        self.model_ = model.fit(windows[:, : self.lag], windows[:, self.lag :])

    def _forecast(self, windows: np.ndarray, horizon: int) -> np.ndarray:
        level = windows.mean(axis=1, keepdims=True)
        return self.model_.predict(windows - level).reshape(len(windows), -1) + level
