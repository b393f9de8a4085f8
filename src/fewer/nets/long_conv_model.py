"""Long convolutions as an estimator: classes or numbers from arrays of sequences."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import AdamW, Cosine, parameter_groups, set_rate
from fewer.nets.long_conv import LongConvArchitecture


class LongConvModel(BaseEstimator):
    """Fit a network of long convolutions to arrays of sequences.

    Channels are centred and scaled by the sequences that are fitted, and so are the numbers of a regression.

    Parameters
    ----------
    goal : {"classification", "regression"}, default "classification"
        Whether ``y`` holds classes or numbers.
    network : LongConvArchitecture, default LongConvArchitecture()
        Its size and regularisers; its ``kernel_lr`` is the learning rate of the taps.
    epochs : int, default 100
        Passes over the sequences.
    batch : int, default 50
        Sequences a step.
    lr, weight_decay : float, default 0.01 and 0.05
        Of everything but the taps.
    warm_up : float, default 0.1
        Share of the training in which the rates rise, before they fall along a cosine.
    device : str, optional
        Where to train; a GPU where there is one.
    random_state : int, default 0
        For the weights at the start, the order of the sequences and dropout.

    Attributes
    ----------
    network_ : nn.Module
        From (batch, length, channels) to logits, or to scaled numbers.
    classes_ : array (classes,)
        Labels, in a classification.
    history_ : list of float
        Mean loss of each epoch.
    l_max_, n_channels_ : int
        Of the sequences that were fitted; later ones may be shorter.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> x = rng.normal(size=(40, 30, 1)) + np.sin(np.arange(30) * (1 + y[:, None]))[..., None]
    >>> model = LongConvModel(network=LongConvArchitecture(width=8, layers=1), epochs=20).fit(x, y)
    >>> model.predict(x).shape, model.predict_proba(x[:2]).shape
    ((40,), (2, 2))
    """

    def __init__(
        self,
        goal: Literal["classification", "regression"] = "classification",
        network: LongConvArchitecture | None = None,
        epochs: int = 100,
        batch: int = 50,
        lr: float = 0.01,
        weight_decay: float = 0.05,
        warm_up: float = 0.1,
        device: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.goal = goal
        self.network = network
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.weight_decay = weight_decay
        self.warm_up = warm_up
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LongConvModel:
        """Train.

        Parameters
        ----------
        X : array (rows, length, channels) or (rows, length)
            Sequences.
        y : array (rows,), or (rows, outputs) in a regression
            Labels, or numbers.

        Raises
        ------
        FewerError
            If the arrays do not fit, hold NaN, or there is only one class.
        Diverged
            If the loss becomes NaN.
        """
        if self.goal not in ("classification", "regression"):
            raise FewerError(f"long-conv: goal is {self.goal!r}; choose 'classification' or 'regression'")
        if min(self.epochs, self.batch) < 1:
            raise FewerError(f"long-conv: epochs and batch must be at least 1; they are {self.epochs} and {self.batch}")
        sequences = _sequences(X)
        _, self.l_max_, self.n_channels_ = sequences.shape
        self.mean_ = sequences.mean(axis=(0, 1))
        deviation = sequences.std(axis=(0, 1))
        self.scale_ = np.where(deviation > 0, deviation, 1).astype(np.float32)
        target, outputs = self._target(y, len(sequences))
        where = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        described = self.network if self.network is not None else LongConvArchitecture()
        x = self._scaled(sequences).to(where)
        with own_randomness(self.random_state, "long-conv"):
            backbone = described.backbone(self.n_channels_, self.l_max_)
            self.network_ = nn.Sequential(backbone, nn.Linear(described.width, outputs)).to(where)
            self._train(x, target.to(where))
        self.network_.eval()
        return self

    def predict(self, X: Any) -> Shaped[np.ndarray, "rows ..."]:
        """The most probable label of each sequence, or its numbers."""
        found = self._outputs(X)
        if self.goal == "classification":
            return self.classes_[found.argmax(axis=1)]
        return (found * self._target_scale + self._target_mean).reshape(len(found), *self._target_shape)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of the labels, in the order of ``classes_``."""
        if self.goal != "classification":
            raise FewerError("long-conv: a regression has no probabilities; use predict")
        return torch.from_numpy(self._outputs(X)).softmax(dim=1).numpy()

    def score(self, X: Any, y: Any) -> float:
        """Accuracy, or the coefficient of determination."""
        from sklearn.metrics import accuracy_score, r2_score

        return float((accuracy_score if self.goal == "classification" else r2_score)(y, self.predict(X)))

    def _target(self, y: Any, rows: int) -> tuple[Tensor, int]:
        given = np.asarray(y)
        if len(given.shape) not in ((1,) if self.goal == "classification" else (1, 2)) or len(given) != rows:
            raise FewerError(f"long-conv: y has the shape {given.shape} for {rows} sequences; give one target each")
        if self.goal == "classification":
            self.classes_, numbers = np.unique(given, return_inverse=True)
            if len(self.classes_) < 2:
                raise FewerError(f"long-conv: there is only one class, {self.classes_[0]}; a classifier needs two")
            return torch.from_numpy(numbers), len(self.classes_)
        try:
            numbers = given.astype(np.float64).reshape(rows, -1)
        except ValueError as error:
            raise FewerError(f"long-conv: a regression needs numbers ({error}); use goal='classification'") from None
        if not np.isfinite(numbers).all():
            raise FewerError("long-conv: y holds NaN or infinity; leave these rows out")
        self._target_shape = given.shape[1:]
        self._target_mean, deviation = numbers.mean(axis=0), numbers.std(axis=0)
        self._target_scale = np.where(deviation > 0, deviation, 1)
        return torch.from_numpy((numbers - self._target_mean) / self._target_scale).float(), numbers.shape[1]

    def _train(self, x: Float[Tensor, "rows length channels"], target: Tensor) -> None:
        loss_of = nn.functional.cross_entropy if self.goal == "classification" else nn.functional.mse_loss
        optimiser = AdamW(self.lr, self.weight_decay).make(parameter_groups(self.network_))
        schedule, order = Cosine(self.warm_up), torch_generator(self.random_state, "order")
        self.history_: list[float] = []
        for epoch in range(self.epochs):
            total = torch.zeros((), device=x.device)
            for begin, rows in enumerate(torch.randperm(len(x), generator=order).to(x.device).split(self.batch)):
                set_rate(optimiser, schedule.factor((epoch + begin * self.batch / len(x)) / self.epochs))
                optimiser.zero_grad(set_to_none=True)
                loss = loss_of(self.network_(x[rows]), target[rows])
                loss.backward()
                optimiser.step()
                total += loss.detach() * len(rows)
            self.history_.append(float(total) / len(x))
            if not np.isfinite(self.history_[-1]):
                raise Diverged(f"long-conv: the loss became {self.history_[-1]} in epoch {epoch + 1}; lower lr")

    def _outputs(self, X: Any) -> Float[np.ndarray, "rows outputs"]:
        if not hasattr(self, "network_"):
            raise FewerError("long-conv: this model has not been fitted yet; call fit first")
        sequences = _sequences(X)
        if sequences.shape[2] != self.n_channels_:
            raise FewerError(
                f"long-conv: sequences have {sequences.shape[2]} channels and the fitted ones {self.n_channels_}"
            )
        where = next(self.network_.parameters()).device
        with torch.inference_mode():
            parts = [self.network_(part.to(where)).cpu() for part in self._scaled(sequences).split(self.batch)]
        return torch.cat(parts).numpy()

    def _scaled(self, sequences: Float[np.ndarray, "rows length channels"]) -> Float[Tensor, "rows length channels"]:
        return torch.from_numpy((sequences - self.mean_) / self.scale_)


def _sequences(X: Any) -> Float[np.ndarray, "rows length channels"]:
    try:
        given = np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise FewerError(
            f"long-conv: sequences must be one array of numbers ({error}); pad them to one length"
        ) from None
    given = given[..., None] if given.ndim == 2 else given
    if given.ndim != 3 or not given.size:
        raise FewerError(f"long-conv: sequences are (rows, length, channels) and not empty; these are {given.shape}")
    if not np.isfinite(given).all():
        raise FewerError("long-conv: the sequences hold NaN or infinity; fill these first")
    return given
