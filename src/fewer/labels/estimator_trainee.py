"""scikit-learn classifiers that learn step by step, so that they can be fine-tuned in stages like networks."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fewer.core.errors import FewerError


class EstimatorTrainee:
    """An estimator in the hands of :class:`~fewer.labels.fine_tuning.FineTuning`, and a model afterwards.

    A soft target is two weighted copies of its row, one a class.  Steps are calls of ``partial_fit``, or
    for ``LogisticRegression`` single iterations from where the last one ended.  The estimator keeps its
    own learning rate, and its own optimiser from stage to stage where it has one.

    Parameters
    ----------
    estimator : scikit-learn classifier
        Cloned, with ``random_state`` set where it has one and leaves it open.
    seed : int
        For that.

    Attributes
    ----------
    whole : bool
        Whether each step should be on all rows of the stage.

    Raises
    ------
    FewerError
        If it can do neither, or takes no sample weights.
    """

    def __init__(self, estimator: Any, seed: int) -> None:
        name = type(estimator).__name__
        if not hasattr(estimator, "partial_fit") and not isinstance(estimator, LogisticRegression):
            raise FewerError(
                f"{name} cannot go on from what it has learned; use one with partial_fit (SGDClassifier, MLPClassifier), "
                "LogisticRegression, a torch module, or the folder of a text model"
            )
        self.whole = isinstance(estimator, LogisticRegression)
        learn = getattr(estimator, "fit" if self.whole else "partial_fit")
        if "sample_weight" not in inspect.signature(learn).parameters:
            raise FewerError(f"{name} takes no sample weights, which soft labels need; use SGDClassifier")
        self.estimator: Any = clone(estimator)
        if self.estimator.get_params().get("random_state", 0) is None:
            self.estimator.set_params(random_state=seed % 2**31)
        if self.whole:
            self.estimator.set_params(warm_start=True, max_iter=1)

    def take(self, x: Float[np.ndarray, "n ..."], target: Float[np.ndarray, "n 2"]) -> None:
        """Take the rows of a stage."""
        self.x, self.target = x.reshape(len(x), -1), target

    def begin(self, steps: int, warm_up: int) -> None:
        """Nothing to prepare: the estimator has its own learning rate."""

    def step(self, rows: Int[np.ndarray, " batch"]) -> None:
        """Learn from one batch."""
        # both classes are always there, if with weight 0, so that a batch or a stage of one class is no error
        x, label = np.concatenate([self.x[rows]] * 2), np.repeat([0, 1], len(rows))
        weight = self.target[rows].T.ravel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if self.whole:
                self.estimator.fit(x, label, sample_weight=weight)
            else:
                self.estimator.partial_fit(x, label, classes=[0, 1], sample_weight=weight)

    def log_probabilities(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows 2"]:
        """Logarithms of :meth:`predict_proba` for some rows of the stage."""
        return np.log(np.maximum(self.predict_proba(self.x[rows]), np.finfo(np.float32).tiny))

    def predict_proba(self, x: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows 2"]:
        """Probabilities; the logistic function of the decision where the estimator has none."""
        x = x.reshape(len(x), -1)
        if hasattr(self.estimator, "predict_proba"):
            return self.estimator.predict_proba(x)
        one = 1 / (1 + np.exp(-self.estimator.decision_function(x)))
        return np.stack([1 - one, one], axis=1)

    def snapshot(self) -> Any:
        """Copy the estimator."""
        return copy.deepcopy(self.estimator)

    def restore(self, snapshot: Any) -> None:
        """Go back to a copy."""
        self.estimator = snapshot
