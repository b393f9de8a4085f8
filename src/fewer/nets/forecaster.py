"""A forecaster around any network: windows, batches, early stopping, and scikit-learn's manners.

It knows how to train, not what: the network is described by a
:class:`fewer.nets.direct_forecasts.ForecastArchitecture` and brings its own loss.
"""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.models.optimisers import AdamW, Cosine, parameter_groups, set_rate
from fewer.nets.direct_forecasts import DLinear, ForecastArchitecture, NLinear, root_mean_square, s4d_stack
from fewer.nets.window_forecaster import WindowForecaster

BLOCK = 1024
"""Windows that are forecast at once."""


class Forecaster(WindowForecaster):
    """Train a network to forecast a series from its last ``lag`` time steps.

    The last part of the series is kept to stop in time, if it is long enough for that: windows whose future lies there
    are never trained on, and the weights of the epoch that forecast them best are kept.

    Parameters
    ----------
    network : ForecastArchitecture, default NLinear()
        What is trained: :class:`NLinear`, :class:`DLinear`, :class:`LayerStack` of any sequence layer.
    lag, horizon : int, default 336 and 96
        Time steps of the window, and of the future that is trained for.
    epochs : int, default 500
        At most so many passes over the windows.
    batch : int, default 50
        Windows a step.
    learning_rate, weight_decay : float, default 1e-3 and 1e-4
        Of AdamW; the rate falls along a half cosine.
    patience : int or None, default 20
        Stop after so many epochs without a better forecast of the kept part; None trains to the end on everything.
    validation : float, default 0.2
        Share of the series that is kept to stop in time, at least one horizon.
    device : str, default "auto"
        Where to train; ``"auto"`` takes a GPU where there is one.
    progress : bool, default False
        Show a bar with the epoch and the error on standard error.
    random_state : int, default 0
        For weights, order and dropout.

    Attributes
    ----------
    network_ : nn.Module
        Trained, on the CPU.
    history_ : list of float
        Root mean squared error of the kept part after each epoch, in standard deviations; the training loss where nothing
        was kept.
    best_epoch_ : int
        The epoch, from 1, whose weights were kept.
    n_parameters_ : int
        Numbers that were trained.

    Examples
    --------
    >>> wave = np.sin(np.arange(300) / 4)
    >>> model = Forecaster(lag=32, horizon=8, epochs=30, learning_rate=1e-2).fit(wave[:250])
    >>> model.predict(wave[218:250]).shape, model.predict(wave[218:250], horizon=20).shape
    ((8,), (20,))
    """

    def __init__(
        self,
        network: ForecastArchitecture = NLinear(),  # noqa: B008 (a frozen description)
        lag: int = 336,
        horizon: int = 96,
        epochs: int = 500,
        batch: int = 50,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        patience: int | None = 20,
        validation: float = 0.2,
        device: str = "auto",
        progress: bool = False,
        random_state: int = 0,
    ) -> None:
        self.network = network
        self.lag = lag
        self.horizon = horizon
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation = validation
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def _architecture(self) -> ForecastArchitecture:
        """What is built; the special cases with settings of their own say it here."""
        return self.network

    def _check(self) -> None:
        super()._check()
        if min(self.epochs, self.batch) < 1 or not 0 <= self.validation < 1:
            raise FewerError(
                f"{self._name}: epochs and batch must be at least 1 and validation in [0, 1); they are {self.epochs}, "
                f"{self.batch} and {self.validation}"
            )
        if self.learning_rate <= 0 or self.weight_decay < 0 or (self.patience is not None and self.patience < 1):
            raise FewerError(
                f"{self._name}: learning_rate must be above 0, weight_decay at least 0 and patience at least 1 or None; "
                f"they are {self.learning_rate}, {self.weight_decay} and {self.patience}"
            )

    def _learn(self, series: np.ndarray) -> None:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)
        values = torch.from_numpy(np.ascontiguousarray(series.T, dtype=np.float32)).to(place)
        training, kept = self._divide(values)
        with own_randomness(self.random_state, "forecaster"):
            network = self._architecture().build(self.lag, self.horizon).to(place)
            self._train(network, training, kept)
        self.network_ = network.cpu().eval()
        self.n_parameters_ = sum(parameter.numel() for parameter in network.parameters())

    def _divide(self, values: Float[Tensor, "channels time"]) -> tuple[Tensor, Tensor | None]:
        """Windows to train on, and those to stop by: views of (channels, windows, lag + horizon)."""
        width = self.lag + self.horizon
        time = values.shape[1]
        kept = max(self.horizon, round(self.validation * time))
        if self.patience is None or self.validation == 0 or time - kept < width:
            return values.unfold(1, width, 1), None
        return values[:, : time - kept].unfold(1, width, 1), values[:, time - kept - self.lag :].unfold(1, width, 1)

    def _train(self, network: Any, training: Tensor, kept: Tensor | None) -> None:
        optimiser = AdamW(self.learning_rate, self.weight_decay).make(parameter_groups(network))
        schedule = Cosine()
        count = training.shape[0] * training.shape[1]
        best, best_error = copy.deepcopy(network.state_dict()), math.inf
        self.history_: list[float] = []
        self.best_epoch_ = 0
        with self._shown() as show:
            for epoch in range(self.epochs):
                network.train()
                set_rate(optimiser, schedule.factor(epoch / self.epochs))
                total = torch.zeros((), device=training.device)
                for index in torch.randperm(count).to(training.device).split(self.batch):
                    rows = training[index // training.shape[1], index % training.shape[1]]
                    loss = network.loss(rows[:, : self.lag], rows[:, self.lag :])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    total += loss.detach() * len(index)
                error = float(total) / count if kept is None else self._error(network, kept)
                if not math.isfinite(error):
                    raise Diverged(
                        f"{self._name}: the error became {error} in epoch {epoch + 1}; lower the learning rate, or "
                        "shorten the horizon"
                    )
                self.history_.append(error)
                show(epoch + 1, error)
                if kept is None or error < best_error:
                    best_error, self.best_epoch_ = error, epoch + 1
                    if kept is not None:
                        best = copy.deepcopy(network.state_dict())
                elif self.patience is not None and epoch + 1 - self.best_epoch_ >= self.patience:
                    break
        if kept is not None:
            network.load_state_dict(best)

    def _error(self, network: nn.Module, windows: Tensor) -> float:
        rows = windows.reshape(-1, windows.shape[-1])
        network.eval()
        with torch.inference_mode():
            forecast = torch.cat([network(part[:, : self.lag], self.horizon) for part in rows.split(BLOCK)])
            return float(root_mean_square(forecast, rows[:, self.lag :]))

    def _forecast(self, windows: np.ndarray, horizon: int) -> np.ndarray:
        rows = torch.from_numpy(windows.astype(np.float32))
        with torch.inference_mode():
            parts = [self.network_(part, horizon) for part in rows.split(BLOCK)]
        return torch.cat(parts).double().numpy()

    @contextlib.contextmanager
    def _shown(self) -> Any:
        """Give what is told of each epoch."""
        if not self.progress:
            yield lambda epoch, error: None
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(self._name, total=self.epochs)
            yield lambda epoch, error: bar.update(task, completed=epoch, description=f"{self._name} {error:.4f}")


# --- the usual ones, by name -----------------------------------------------------------------------------------------


def nlinear(**settings: Any) -> Forecaster:
    """A linear map from the window less its last value; settings are those of :class:`Forecaster`."""
    return Forecaster(NLinear(), **settings)


def dlinear(window: int = 25, **settings: Any) -> Forecaster:
    """Linear maps of the window's moving average and of the rest; settings are those of :class:`Forecaster`."""
    return Forecaster(DLinear(window), **settings)


def s4d(channels: int = 128, blocks: int = 2, modes: int = 16, dropout: float = 0.25, **settings: Any) -> Forecaster:
    """Diagonal state spaces under a direct head; settings are those of :class:`Forecaster`."""
    return Forecaster(s4d_stack(channels, blocks, modes, dropout), **settings)
