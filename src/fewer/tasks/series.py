"""Time series to forecast: the user's own columns, real ones that come with statsmodels, and generated autoregressions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from fewer.core.errors import FewerError, nearest, need
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import generator
from fewer.tasks.files import existing, read_csv, read_parquet
from fewer.tasks.tables import numbers, rows_of


@dataclass(frozen=True, eq=False)
class Series(Task):
    """One or more series of equal length, forecast over a horizon from the window before it.

    The last part is held out: forecasts begin at every step of it (spread evenly if there are more than ``origins``), from
    windows of the true past.  The score is the negative mean absolute scaled error: the mean absolute error, divided by
    that of repeating the last season over the whole history, channel by channel; -1 is as good as the repetition one step
    ahead, and 0 is perfect.

    Parameters
    ----------
    name : str
        As the user wrote it.
    values : float array (time, channels)
        In the order of time.
    channels : tuple of str
        Their names.
    lag, horizon : int
        Time steps of a window, and of the future after it.
    period : int, default 1
        Time steps of a season, no longer than ``lag``.
    test : int or float, default 0.2
        Time steps, or share of them, held out at the end.
    origins : int, default 100
        Most forecasts that are scored.

    Examples
    --------
    >>> task = Series("wave", np.sin(np.arange(100.0) / 3)[:, None], ("wave",), lag=10, horizon=5)
    >>> task.history.shape, task.windows.shape, task.futures.shape
    ((80, 1), (16, 10, 1), (16, 5, 1))
    >>> task.score(task.futures)
    -0.0
    """

    name: str
    values: Float[np.ndarray, "time channels"]
    channels: tuple[str, ...]
    lag: int
    horizon: int
    period: int = 1
    test: int | float = 0.2
    origins: int = 100
    metric: str = "negative scaled error"

    def __post_init__(self) -> None:
        time = len(self.values)
        for what, number in (
            ("lag", self.lag),
            ("horizon", self.horizon),
            ("period", self.period),
            ("origins", self.origins),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise FewerError(f"{self.name}: {what}={number!r}; give a whole number of at least 1")
        if self.period > self.lag:
            raise FewerError(
                f"{self.name}: a season of {self.period} time steps is longer than the window of {self.lag}; set lag to "
                f"{self.period} or more, or period=1"
            )
        if not np.isfinite(self.values).all():
            bad = np.logical_not(np.isfinite(self.values).all(axis=1))
            raise FewerError(f"{self.name}: NaN or infinite in {rows_of(bad)}; fill or drop them")
        held_out = self._held_out()
        if held_out < self.horizon or time - held_out < max(self.lag + self.horizon, self.period + 1):
            raise FewerError(
                f"{self.name}: {time} time steps, of which test={self.test} are held out, are too few for lag={self.lag} and "
                f"horizon={self.horizon}; the held-out part takes a horizon and the history lag + horizon"
            )
        flat = np.ptp(self.history, axis=0) == 0
        if flat.any():
            raise FewerError(
                f"{self.name}: {self.channels[int(flat.argmax())]!r} is constant in the history, so there is nothing to "
                "learn; leave it out"
            )

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        numbers_ = (self.channels, self.lag, self.horizon, self.period, self.test, self.origins)
        return fingerprint(repr(numbers_), np.ascontiguousarray(self.values))

    @property
    def history(self) -> Float[np.ndarray, "time channels"]:
        """What may be learned from."""
        return self.values[: len(self.values) - self._held_out()]

    @property
    def windows(self) -> Float[np.ndarray, "origins lag channels"]:
        """The true past of each forecast."""
        return np.stack([self.values[origin - self.lag : origin] for origin in self._origins])

    @property
    def futures(self) -> Float[np.ndarray, "origins horizon channels"]:
        """What should be forecast."""
        return np.stack([self.values[origin : origin + self.horizon] for origin in self._origins])

    def score(self, forecasts: Float[np.ndarray, "origins horizon channels"]) -> float:
        """Score forecasts of all the windows."""
        history = self.history
        scale = np.abs(history[self.period :] - history[: -self.period]).mean(axis=0)
        errors = np.abs(forecasts - self.futures).mean(axis=(0, 1))
        # a channel that repeats itself exactly is measured against how much it moves
        return -float(np.mean(errors / np.where(scale > 0, scale, history.std(axis=0))))

    @property
    def _origins(self) -> list[int]:
        first, last = len(self.history), len(self.values) - self.horizon
        count = min(self.origins, last - first + 1)
        return np.linspace(first, last, count).round().astype(int).tolist()

    def _held_out(self) -> int:
        count = round(self.test * len(self.values)) if isinstance(self.test, float) else self.test
        if isinstance(self.test, bool) or not 0 < count < len(self.values):
            raise FewerError(
                f"{self.name}: test={self.test} of {len(self.values)} time steps leaves nothing to score or nothing to learn"
            )
        return count


def series(
    path: str,
    columns: str | Iterable[str] | None = None,
    *,
    lag: int = 48,
    horizon: int = 12,
    period: int = 1,
    order: str | None = None,
    test: int | float = 0.2,
    separator: str = ",",
) -> Series:
    r"""Make a task of columns of a CSV or Parquet file.

    Parameters
    ----------
    path : str
        A file with a row for each time step, equally spaced; ``.parquet`` files are read as Parquet, others as CSV.
    columns : str or list of str, optional
        What to forecast; by default every column of numbers.
    lag, horizon, period, test
        See :class:`Series`.
    order : str, optional
        A column to sort the rows by, of dates or numbers; by default they are in order.  It is not forecast.
    separator : str, default ","
        What stands between the columns of a CSV file.

    Raises
    ------
    FewerError
        If the file cannot be read, a column is unknown or no number, or the series is too short.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "load.csv"
    >>> _ = file.write_text("day,load\n" + "".join(f"{day},{day % 7}.5\n" for day in range(200)))
    >>> series(str(file), "load", lag=14, horizon=7, period=7).history.shape
    (160, 1)
    """
    file = existing(path)
    frame = read_parquet(file) if file.suffix in (".parquet", ".pq") else read_csv(file, separator)
    name = file.name
    if order is not None:
        _known(order, frame, name)
        frame = frame.sort_values(order, kind="stable", key=_sortable).reset_index(drop=True)
    if columns is None:
        wanted = [each for each in frame.columns if each != order and frame[each].dtype.kind in "iuf"]
        if not wanted:
            raise FewerError(f"{name}: no column holds numbers; name what to forecast in columns=")
    else:
        wanted = [columns] if isinstance(columns, str) else list(columns)
    for each in wanted:
        _known(each, frame, name)
        numbers(frame[each], name, None)  # says what is wrong with it, and rounds what is right
    values = frame[wanted].apply(pd.to_numeric).to_numpy(dtype=np.float64)
    return Series(name, values, tuple(map(str, wanted)), lag, horizon, period, test)


def _known(column: str, frame: pd.DataFrame, name: str) -> None:
    if column not in frame.columns:
        raise FewerError(f"{name}: no column {column!r}; {nearest(str(column), map(str, frame.columns))}")


def _sortable(column: pd.Series) -> pd.Series:
    """Texts are taken for dates."""
    if column.dtype.kind in "iufM":
        return column
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # dates of no one format are read one by one
            return pd.to_datetime(column)
    except (ValueError, TypeError) as error:
        raise FewerError(f"column {column.name!r} holds neither dates nor numbers to sort by ({error})") from None


# --- real series that come with statsmodels --------------------------------------------------------------------------


def sunspots(lag: int = 44, horizon: int = 11) -> Series:
    """Sunspots in each year from 1700 to 2008; their cycle takes about eleven years.

    Parameters
    ----------
    lag, horizon : int
        Time steps of a window, and of the future after it.

    Raises
    ------
    MissingPackage
        If statsmodels is not installed.
    """
    return Series("sunspots", _bundled("sunspots", "SUNACTIVITY"), ("sunspots",), lag, horizon, period=min(11, lag))


def co2(lag: int = 104, horizon: int = 52) -> Series:
    """Carbon dioxide over Mauna Loa, weekly from 1958 to 2001; gaps (59 of 2,284 weeks) are interpolated.

    Parameters
    ----------
    lag, horizon : int
        Time steps of a window, and of the future after it.

    Raises
    ------
    MissingPackage
        If statsmodels is not installed.
    """
    return Series("co2", _bundled("co2", "co2"), ("co2",), lag, horizon, period=min(52, lag))


def nile(lag: int = 16, horizon: int = 4) -> Series:
    """The flow of the Nile at Aswan in each year from 1871 to 1970.

    Parameters
    ----------
    lag, horizon : int
        Time steps of a window, and of the future after it.

    Raises
    ------
    MissingPackage
        If statsmodels is not installed.
    """
    return Series("nile", _bundled("nile", "volume"), ("nile",), lag, horizon)


def el_nino(lag: int = 48, horizon: int = 12) -> Series:
    """The temperature of the sea off Peru, monthly from 1950 to 2010.

    Parameters
    ----------
    lag, horizon : int
        Time steps of a window, and of the future after it.

    Raises
    ------
    MissingPackage
        If statsmodels is not installed.
    """
    return Series("el-nino", _bundled("elnino", None), ("temperature",), lag, horizon, period=min(12, lag))


@functools.cache
def _bundled(name: str, column: str | None) -> Float[np.ndarray, "time one"]:
    data = need(f"statsmodels.datasets.{name}.data", extra="series", what=f"task {name}").load_pandas().data
    # a year a row and a month a column, in the one that is a table
    values = data[column] if column is not None else pd.Series(data.iloc[:, 1:].to_numpy().ravel())
    return values.interpolate().to_numpy(dtype=np.float64)[:, None]


# --- generated -------------------------------------------------------------------------------------------------------


def ar(
    order: int = 4, steps: int = 2000, noise: float = 0.1, lag: int = 64, horizon: int = 32, seed: int = 0
) -> Series:
    """A long, slowly decaying autoregression with random coefficients, and observation noise.

    Parameters
    ----------
    order : int, default 4
        Even; its poles come in pairs.
    steps : int, default 2000
        Time steps.
    noise : float, default 0.1
        Standard deviation of what drives it at each step, while the series has one of 1.
    lag, horizon : int, default 64 and 32
        See :class:`Series`.
    seed : int, default 0
        Which autoregression.

    Examples
    --------
    >>> ar(steps=500).values.shape
    (500, 1)
    """
    if steps < 1 or not noise > 0:
        raise FewerError(f"ar: steps must be at least 1 and noise above 0; they are {steps} and {noise}")
    rng = generator(seed, "ar")
    coefficients = stable_coefficients(order, rng)
    made = autoregression(coefficients, steps + 500, 1, rng, noise)[0, 500:]
    return Series(f"ar({order})", (made / made.std())[:, None], (f"ar({order})",), lag, horizon)


def stable_coefficients(order: int, rng: np.random.Generator) -> Float[np.ndarray, " order"]:
    """Draw an autoregression by its poles: radius in [0.99, 1), angle in [0.2, 1.4], in conjugate pairs.

    Returns
    -------
    float array (order,)
        ``x_t = sum_i coefficients_i x_{t-1-i}``.
    """
    if order < 2 or order % 2:
        raise FewerError(f"ar: order must be even and at least 2, for poles come in pairs; {order} was given")
    poles = rng.uniform(0.99, 1, order // 2) * np.exp(1j * rng.uniform(0.2, 1.4, order // 2))
    return -np.poly(np.concatenate([poles, poles.conj()])).real[1:]


def autoregression(
    coefficients: Float[np.ndarray, " order"], steps: int, count: int, rng: np.random.Generator, noise: float = 0.0
) -> Float[np.ndarray, "count steps"]:
    """Simulate: normal first values, then the recurrence, driven by noise."""
    order = len(coefficients)
    x = noise * rng.standard_normal((count, steps)) if noise else np.zeros((count, steps))
    x[:, :order] = rng.standard_normal((count, order))[:, : x[:, :order].shape[1]]
    backwards = coefficients[::-1]
    for step in range(order, steps):
        x[:, step] += x[:, step - order : step] @ backwards
    return x
