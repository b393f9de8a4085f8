"""TabM as scikit-learn estimators: tables in, predictions out.

What the network is stands in :mod:`fewer.nets.tabm`, how it is trained in :mod:`fewer.nets.tabular_training`,
and how columns become numbers in :mod:`fewer.nets.tabular_columns`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor
from torch.nn import functional

from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive, generator
from fewer.nets.piecewise_linear import PiecewiseLinearEmbedding, quantile_bins
from fewer.nets.tabm import BLOCK, TabM, Variant
from fewer.nets.tabular_columns import Categorical, Columns, Numeric, as_frame, categorical_columns
from fewer.nets.tabular_training import Training, hold_out, progress
from fewer.tasks.files import first_line

PREDICTED = 128 * BLOCK
"""Rows whose predictions of all members are held at once."""


class TabMEstimator(BaseEstimator):
    """What the classifier and the regressor have in common: everything but the target.

    Parameters
    ----------
    variant : {"tabm", "mini", "packed", "mlp"}, default "tabm"
        What the members share; see :mod:`fewer.nets.tabm`.
    k : int, default 32
        Members.
    blocks : int, optional
        Hidden layers; by default 3, and 2 behind an embedding.
    width : int, default 256
        Units of each.  The paper's package has 512, at four times the work.
    dropout : float, default 0.1
        Share of the hidden units that is dropped in training.
    embedding : {"piecewise-linear"}, optional
        Turn each number into a learned vector first.
    bins : int, default 48
        Of the embedding, at most; never more than there are rows to learn from.
    embedding_width : int, default 16
        Length of each number's vector.
    lr : float, default 2e-3
        Learning rate of AdamW.
    weight_decay : float, default 3e-4
        Of the layers' matrices; nothing else decays.
    gradient_clip : float, optional
        Greatest norm of the gradient.
    batch_size : int or "auto", default "auto"
        Rows a step; "auto" takes an eighth of the rows, within 16 and 256, as a power of two.
    share_batches : bool, default True
        All members see the same rows in a step; else each has an order of its own.
    max_epochs : int, default 1000
        Most passes over the rows.
    patience : int, default 16
        Passes without a better validation score of the ensemble after which training stops.
    validation_fraction : float, default 0.2
        Share of the rows that is held out for this, where no ``eval_set`` is given.
    numeric : {"quantile", "standard"}, default "quantile"
        Map numbers to a normal distribution by their quantiles, or centre and scale them.
    categorical_features : "from_dtype", list of names, positions or truth values, or None
        Columns whose values are names; by default those of texts, truth values and type category in a frame,
        and none in an array.  A value that was not there in training counts as none of them.
    device : str, optional
        A GPU where there is one, by default.
    verbose : bool, default False
        Show progress on standard error.
    random_state : int, RandomState or None
        For everything random.

    Attributes
    ----------
    network_ : TabM
        As it was after its best epoch.
    best_epoch_ : int
        Which that was, counted from 1.
    history_ : list of float
        Validation score after each epoch: accuracy, or minus the root mean squared error.
    parameters_ : int
        Trained numbers of the network.
    """

    variant: Variant
    numeric: Numeric
    network_: TabM
    best_epoch_: int
    history_: list[float]
    parameters_: int
    n_features_in_: int

    def __init__(
        self,
        *,
        variant: Variant = "tabm",
        k: int = 32,
        blocks: int | None = None,
        width: int = 256,
        dropout: float = 0.1,
        embedding: str | None = None,
        bins: int = 48,
        embedding_width: int = 16,
        lr: float = 2e-3,
        weight_decay: float = 3e-4,
        gradient_clip: float | None = None,
        batch_size: int | str = "auto",
        share_batches: bool = True,
        max_epochs: int = 1000,
        patience: int = 16,
        validation_fraction: float = 0.2,
        numeric: Numeric = "quantile",
        categorical_features: Categorical = "from_dtype",
        device: str | None = None,
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.variant = variant
        self.k = k
        self.blocks = blocks
        self.width = width
        self.dropout = dropout
        self.embedding = embedding
        self.bins = bins
        self.embedding_width = embedding_width
        self.lr = lr
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.batch_size = batch_size
        self.share_batches = share_batches
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.numeric = numeric
        self.categorical_features = categorical_features
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any, eval_set: tuple[Any, Any] | None = None) -> Any:
        """Train until the ensemble's validation score no longer improves, and keep the best network.

        Parameters
        ----------
        X : array or pandas or polars frame (rows, columns)
            Numbers without gaps, and categories.
        y : array (rows,)
            Targets.
        eval_set : tuple (X, y), optional
            Rows to stop by, in place of a share of these.

        Returns
        -------
        self

        Raises
        ------
        FewerError
            If a number or a target is missing, every column or the target is constant, or a parameter is out of range.
        """
        training = self._training()
        frame, y = self._training_table(X, y)
        target = self._learn_target(y)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        categorical = categorical_columns(frame, self.categorical_features, self._name)
        self._columns = Columns(categorical, self.numeric, self._name)
        self._columns.check(frame)
        if eval_set is None:
            train, stop = hold_out(target, self.validation_fraction, generator(seed, "validation"))
            stop_frame, stop_target = frame.iloc[stop], target[stop]
            frame, target = frame.iloc[train], target[train]
        else:
            if not isinstance(eval_set, tuple | list) or len(eval_set) != 2:
                raise FewerError(f"{self._name}: eval_set is {type(eval_set).__name__}; give rows and targets, (X, y)")
            stop_frame, stop_target = self._further_rows(*eval_set)
        self._columns.fit(frame, derive(seed, "noise") % 2**31)
        device = self._device()
        tables = ((frame, target), (stop_frame, stop_target))
        rows, stop = (
            (torch.from_numpy(self._columns.transform(x)).to(device), torch.from_numpy(y).to(device)) for x, y in tables
        )
        title = self._name if self.verbose else None
        with own_randomness(seed, "tabm"), progress(title, self.max_epochs) as show:
            self.network_ = self._build(rows[0]).to(device)
            self.parameters_ = _count(self.network_)
            self.history_, self.best_epoch_ = training.train(
                self.network_, rows, stop, self._loss, self._validate, show
            )
        return self

    def predict_members(self, X: Any) -> Float[np.ndarray, "members rows ..."]:
        """What each member predicts alone: values, or class probabilities."""
        frame = self._new_table(X)
        return np.concatenate([part.transpose(0, 1).numpy() for part in self._outputs(frame)], axis=1)

    def prune(self, X: Any, y: Any, keep: int | None = None) -> Any:
        """Leave out members that the ensemble does as well without.

        The best member comes first, and each further one is the one that lowers the loss of the mean most;
        when none does, the choice ends.

        Parameters
        ----------
        X, y : table and targets
            Rows to choose by; other rows than those of the training tell most.
        keep : int, optional
            Members to keep at most.

        Returns
        -------
        self
            With a smaller ``network_``.

        Raises
        ------
        FewerError
            If there are not as many targets as rows, one is missing or no class of the training, or ``keep`` is below 1.
        """
        check_is_fitted(self)
        if keep is not None and keep < 1:
            raise FewerError(f"{self._name}: keep is {keep}; give 1 member or more, or None for as many as help")
        _, target = self._further_rows(X, y)
        members = torch.from_numpy(np.asarray(self.predict_members(X), dtype=np.float64))
        losses = self._loss_of_mean(target)
        chosen: list[int] = []
        total, best = torch.zeros_like(members[0]), math.inf
        while len(chosen) < min(keep or len(members), len(members)):
            loss = losses((total + members) / (len(chosen) + 1))
            loss[chosen] = math.inf
            least = int(loss.argmin())
            if float(loss[least]) >= best:
                break
            best, total = float(loss[least]), total + members[least]
            chosen.append(least)
        self.network_ = self.network_.take(chosen)
        self.parameters_ = _count(self.network_)
        return self

    def __getstate__(self) -> Any:
        """Leave the device behind, so that a model trained on a GPU can be read without one."""
        state: Any = super().__getstate__()
        if "network_" in state:
            state = {**state, "network_": copy.deepcopy(self.network_).cpu()}  # .cpu() alone would move this one too
        return state

    # --- the target, which the two estimators differ in -----------------------------------------

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        """Learn what there is to predict; see :meth:`_target`."""
        raise NotImplementedError

    def _target(self, y: np.ndarray) -> np.ndarray:
        """Targets as the network is trained on."""
        raise NotImplementedError

    def _width_of_target(self) -> int:
        raise NotImplementedError

    def _loss(self, outputs: Float[Tensor, "rows k outputs"], target: Shaped[Tensor, "rows #k"]) -> Tensor:
        """Loss of each member on each row."""
        raise NotImplementedError

    def _of_outputs(self, outputs: Float[Tensor, "rows k outputs"]) -> Float[Tensor, "rows k ..."]:
        """A member's prediction from its outputs."""
        raise NotImplementedError

    def _loss_of_mean(self, target: np.ndarray) -> Callable[[Float[Tensor, "any rows ..."]], Float[Tensor, " any"]]:
        """Give a function from predictions to their loss; ``target`` is as :meth:`_target` gives it."""
        raise NotImplementedError

    def _validate(
        self, outputs: Float[Tensor, "rows k outputs"], target: Shaped[Tensor, " rows"]
    ) -> tuple[Tensor, Tensor]:
        """The ensemble's score, and what decides between equal ones; higher is better."""
        raise NotImplementedError

    # --- tables ---------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _training_table(self, X: Any, y: Any) -> tuple[pd.DataFrame, np.ndarray]:
        X = as_frame(X)
        validate: Any = validate_data  # its annotations say that X is a text
        if y is None:
            raise FewerError(f"{self._name}: requires y to be passed, but the target y is None")
        if isinstance(X, pd.DataFrame):
            if X.columns.has_duplicates:
                raise FewerError(f"{self._name}: two columns have the same name; rename one")
            validate(self, X, skip_check_array=True)
            y = self._one_target_a_row(y, len(X))
            if len(y) < 2:
                raise FewerError(f"{self._name}: {len(y)} rows were given and two are the least; add rows")
            return X.reset_index(drop=True), y
        X, y = validate(
            self, X, y, y_numeric=not isinstance(self, ClassifierMixin), ensure_min_samples=2, **self._array()
        )
        return pd.DataFrame(X), column_or_1d(y, warn=True)

    def _further_rows(self, X: Any, y: Any) -> tuple[pd.DataFrame, np.ndarray]:
        """Rows and targets beside those of the training, the targets as the network is trained on."""
        frame = self._table(X)
        return frame, self._target(self._one_target_a_row(y, len(frame)))

    def _one_target_a_row(self, y: Any, rows: int) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        if len(y) != rows:
            raise FewerError(f"{self._name}: {rows} rows but {len(y)} targets; give one target a row")
        missing = np.flatnonzero(pd.isna(y))
        if len(missing):
            raise FewerError(
                f"{self._name}: {len(missing)} targets are missing (the first is row {missing[0]}); drop those rows"
            )
        return np.asarray(y)

    def _table(self, X: Any) -> pd.DataFrame:
        X = as_frame(X)
        validate: Any = validate_data
        if isinstance(X, pd.DataFrame):
            validate(self, X, reset=False, skip_check_array=True)
            if not len(X):
                raise FewerError(f"{self._name}: no rows were given; give one or more")
            return X.reset_index(drop=True)
        return pd.DataFrame(validate(self, X, reset=False, **self._array()))

    def _new_table(self, X: Any) -> pd.DataFrame:
        check_is_fitted(self)
        return self._table(X)

    def _array(self) -> dict[str, Any]:
        """How arrays are checked: those with categories may hold anything, gaps among numbers are reported later."""
        names = self.categorical_features is not None and self.categorical_features != "from_dtype"
        return {"dtype": None if names else "numeric", "ensure_all_finite": not names}

    # --- training -------------------------------------------------------------------------------

    def _device(self) -> torch.device:
        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:  # which of the two depends on how torch was built
            raise FewerError(
                f"{self._name}: device {self.device!r} cannot be used ({first_line(error)}); leave device= out"
            ) from error
        return device

    def _training(self) -> Training:
        if self.embedding not in (None, "piecewise-linear"):
            raise FewerError(f"{self._name}: unknown embedding {self.embedding!r}; give 'piecewise-linear' or None")
        if not 0 < self.validation_fraction < 1:
            raise FewerError(
                f"{self._name}: validation_fraction is {self.validation_fraction}; give a share such as 0.2"
            )
        return Training(
            self._name,
            self.lr,
            self.weight_decay,
            self.gradient_clip,
            self.batch_size,
            self.share_batches,
            self.max_epochs,
            self.patience,
        )

    def _build(self, x: Tensor) -> TabM:
        embedding = None
        numeric = self._columns.numeric_width
        if self.embedding is not None and numeric:
            # no more bins than there are gaps between rows; a setting that makes no sense is refused and not mended
            cuts = quantile_bins(x[:, :numeric], self.bins if self.bins < len(x) else max(2, len(x) - 1))
            embedding = PiecewiseLinearEmbedding(cuts, self.embedding_width)
        return TabM(
            numeric,
            self._columns.category_sizes,
            self._width_of_target(),
            variant=self.variant,
            k=self.k,
            blocks=self.blocks,
            width=self.width,
            dropout=self.dropout,
            embedding=embedding,
        )

    @torch.inference_mode()
    def _outputs(self, frame: pd.DataFrame) -> Iterator[Float[Tensor, "rows k ..."]]:
        """Predictions of all members, some rows at a time."""
        network = self.network_
        device = network.head.weight.device
        for start in range(0, len(frame), PREDICTED):
            x = torch.from_numpy(self._columns.transform(frame.iloc[start : start + PREDICTED]))
            # whole blocks only: a row's prediction must not depend on how many others are asked about with it
            padded = functional.pad(x, (0, 0, 0, -len(x) % BLOCK)).to(device)
            yield self._of_outputs(network(padded)[: len(x)]).cpu()

    def _mean(self, X: Any) -> Float[np.ndarray, "rows ..."]:
        frame = self._new_table(X)
        return torch.cat([part.mean(dim=1) for part in self._outputs(frame)]).numpy()


class TabMClassifier(ClassifierMixin, TabMEstimator):
    """A classifier for tables: TabM trained on cross-entropy, stopped by the ensemble's accuracy.

    Equal accuracies are told apart by the ensemble's log-loss.  All parameters are named; they are those of
    :class:`TabMEstimator`.

    Attributes
    ----------
    classes_ : array
        Labels.

    References
    ----------
    arXiv:2410.24210.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = TabMClassifier(k=4, width=32, lr=0.01, max_epochs=20, random_state=0).fit(x, y)
    >>> model.predict_proba(x[:2]).shape, model.score(x, y) > 0.9
    ((2, 3), True)
    """

    def predict(self, X: Any) -> Shaped[np.ndarray, " rows"]:
        """The most probable label of each row."""
        probabilities = self.predict_proba(X)  # first: it says so where nothing is fitted yet
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Float[np.ndarray, "rows classes"]:
        """Mean of the members' probabilities, in the order of ``classes_``."""
        return self._mean(X)

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise FewerError(
                f"{self._name}: there is only one class, {self.classes_.tolist()[0]!r}; a classifier needs two"
            )
        return self._target(y)

    def _target(self, y: np.ndarray) -> np.ndarray:
        unknown = ~np.isin(y, self.classes_)
        if unknown.any():
            raise FewerError(f"{self._name}: {y[unknown][0]!r} is no class of the training rows; drop such rows")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _width_of_target(self) -> int:
        return len(self.classes_)

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            outputs.flatten(0, 1), target.expand(outputs.shape[:2]).flatten(), reduction="none"
        )

    def _of_outputs(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=-1)

    def _validate(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mean = outputs.softmax(dim=-1).mean(dim=1)
        likelihoods = mean.gather(1, target[:, None]).clamp_min(1e-30)
        return (mean.argmax(dim=1) == target).float().mean(), likelihoods.log().mean()

    def _loss_of_mean(self, target: np.ndarray) -> Callable[[Tensor], Tensor]:
        rows = torch.arange(len(target))
        return lambda mean: -mean[:, rows, torch.from_numpy(target)].clamp_min(1e-30).log().mean(dim=1)


class TabMRegressor(RegressorMixin, TabMEstimator):
    """A regressor for tables: TabM trained on the squared error, stopped by the ensemble's.

    All parameters are named; they are those of :class:`TabMEstimator`.

    References
    ----------
    arXiv:2410.24210.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> x, y = load_diabetes(return_X_y=True)
    >>> model = TabMRegressor(k=4, width=32, lr=0.01, max_epochs=20, random_state=0).fit(x, y)
    >>> model.predict(x[:2]).shape, model.score(x, y) > 0.4
    ((2,), True)
    """

    def predict(self, X: Any) -> Float[np.ndarray, " rows"]:
        """Mean of the members' values."""
        return self._mean(X)

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        y = self._numbers(y)
        self._centre, self._scale = float(y.mean()), float(y.std())
        if y.min() == y.max():
            raise FewerError(
                f"{self._name}: the target is {y[0]:g} in every row, so there is nothing to learn; give another"
            )
        return self._target(y)

    def _target(self, y: np.ndarray) -> np.ndarray:
        return ((self._numbers(y) - self._centre) / self._scale).astype(np.float32)

    def _numbers(self, y: np.ndarray) -> Float[np.ndarray, " rows"]:
        try:
            numbers = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise FewerError(
                f"{self._name}: the target holds what is no number ({error}); for classes take TabMClassifier"
            ) from error
        if not np.isfinite(numbers).all():
            raise FewerError(f"{self._name}: the target holds NaN or infinity; drop those rows")
        return numbers

    def _width_of_target(self) -> int:
        return 1

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs.squeeze(-1) - target).square()

    def _of_outputs(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1).double() * self._scale + self._centre

    def _validate(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = (outputs.squeeze(-1).mean(dim=1) - target).square().mean()
        return -error.sqrt() * self._scale, -error

    def _loss_of_mean(self, target: np.ndarray) -> Callable[[Tensor], Tensor]:
        truth = torch.from_numpy(target.astype(np.float64)) * self._scale + self._centre
        return lambda mean: (mean - truth).square().mean(dim=1)


def _count(network: TabM) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
