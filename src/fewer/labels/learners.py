"""Learners: logistic regression, any scikit-learn classifier, and a small network.

Each takes soft or hard targets with weights, and answers with a model that predicts and embeds.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.labels.loop import Examples, Model, Round
from fewer.models.classifier import MLP, Architecture, Classifier


def flat(x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
    """Rows as vectors.

    Raises
    ------
    FewerError
        If the rows are texts.
    """
    if x.dtype == object:
        raise FewerError("this learner needs numbers and the rows are texts; give features, or use a text learner")
    return x.reshape(len(x), -1)


def _cannot_distil(round: Round, name: str) -> None:
    if round.teacher is not None:
        raise FewerError(f"{name} cannot learn from a teacher; use a learner that distils, such as activekd")


@dataclass
class FittedEstimator:
    """A fitted scikit-learn classifier as a model; its features are the inputs."""

    estimator: Any
    classes: int

    def predict_proba(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of all classes; those without an example get 0."""
        full = np.zeros((len(x), self.classes), dtype=np.float32)
        full[:, self.estimator.classes_] = self.estimator.predict_proba(flat(x))
        return full

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        """The inputs themselves."""
        return flat(x)


@dataclass
class Constant:
    """What can be learned from one class: that class."""

    label: int
    classes: int

    def predict_proba(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows classes"]:
        """All probability on the one class."""
        return np.tile(np.eye(self.classes, dtype=np.float32)[self.label], (len(x), 1))

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        """The inputs themselves."""
        return flat(x)


@dataclass(frozen=True)
class Estimator:
    """Any scikit-learn classifier with ``predict_proba`` and sample weights.

    Parameters
    ----------
    estimator : scikit-learn classifier
        Cloned for each fit, with ``random_state`` set from the run's seed where it has one.

    Examples
    --------
    >>> from sklearn.naive_bayes import GaussianNB
    >>> Estimator(GaussianNB())
    Estimator(estimator=GaussianNB())
    """

    estimator: BaseEstimator

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> Model:
        """Fit a fresh clone; soft targets become weighted copies of their row, one a class."""
        _cannot_distil(round, type(self.estimator).__name__)
        row, label = np.nonzero(examples.target > 0)
        weight = examples.target[row, label] * examples.weight[row]
        row, label, weight = row[weight > 0], label[weight > 0], weight[weight > 0]
        if len(np.unique(label)) < 2:
            return Constant(int(label[0]) if len(label) else 0, round.classes)
        estimator: Any = clone(self.estimator)
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=round.seed % 2**31)
        x = flat(round.x[examples.rows[row]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a capped solver is still a fair measuring device
            estimator.fit(x, label, sample_weight=weight)
        return FittedEstimator(estimator, round.classes)


def Logistic(C: float = 1.0, max_iter: int = 200) -> Estimator:
    """Multinomial logistic regression with an L2 penalty: the default learner.

    Parameters
    ----------
    C : float, default 1
        Inverse strength of the penalty.
    max_iter : int, default 200
        Steps of L-BFGS.
    """
    return Estimator(LogisticRegression(C=C, max_iter=max_iter))


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class FittedNetwork:
    """A trained network as a model; its features are what its head sees."""

    network: Classifier
    block: int = field(default=8192)

    def predict_proba(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows classes"]:
        """Softmax of the logits."""
        return self._blocks(x, lambda part: self.network(part).softmax(dim=1))

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        """The backbone's output."""
        return self._blocks(x, self.network.features)

    def _blocks(self, x: np.ndarray, function: Any) -> np.ndarray:
        where = next(self.network.parameters()).device
        self.network.eval()
        with torch.inference_mode():
            parts = [
                function(
                    torch.from_numpy(np.ascontiguousarray(x[i : i + self.block], dtype=np.float32)).to(where)
                ).cpu()
                for i in range(0, max(len(x), 1), self.block)
            ]
        return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Network:
    """A small network trained by AdamW with linear warm-up and decay.

    Parameters
    ----------
    architecture : Architecture, default MLP(128, 64)
        What is built, anew in each round (unless the fit goes on from another).
    steps : int, default 150
        Optimiser steps of a fit.
    lr : float, default 3e-3
        Peak learning rate.
    batch : int, default 64
        Rows a step, drawn with replacement.
    weight_decay : float, default 0.01
        AdamW's.
    warm_up : float, default 0.1
        Share of the steps over which the learning rate rises.
    """

    architecture: Architecture = field(default_factory=MLP)
    steps: int = 150
    lr: float = 3e-3
    batch: int = 64
    weight_decay: float = 0.01
    warm_up: float = 0.1

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> FittedNetwork:
        """Train on weighted cross-entropy with soft targets."""
        _cannot_distil(round, "mlp")
        if not len(examples):
            raise FewerError("a network cannot be fitted to no examples; buy labels first")
        where = device()
        network = self.begin(round, start).to(where)
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.ramp)
        x = torch.from_numpy(np.ascontiguousarray(round.x[examples.rows], dtype=np.float32)).to(where)
        target = torch.from_numpy(examples.target).to(where)
        weight = torch.from_numpy(examples.weight).to(where)
        weight = weight / weight.mean()
        draws = torch_generator(round.seed, "network", round.index, int(start is not None))
        network.train()
        for _ in range(self.steps):
            pick = torch.randint(len(x), (min(self.batch, len(x)),), generator=draws).to(where)
            loss = (soft_cross_entropy(network(x[pick]), target[pick]) * weight[pick]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        return FittedNetwork(network)

    def begin(self, round: Round, start: Model | None) -> Classifier:
        """A fresh network, or a copy of the one to go on from."""
        network = self.architecture.build(round.x.shape[1:], round.classes)
        if start is not None:
            if not isinstance(start, FittedNetwork):
                raise FewerError(f"a network can only go on from a network, not from {type(start).__name__}")
            network.load_state_dict(start.network.state_dict())
        return network

    def ramp(self, step: int) -> float:
        """Learning rate at a step, as a share of the peak: up linearly, then down to 0 linearly."""
        rise = max(1, math.ceil(self.warm_up * self.steps))
        return min((step + 1) / rise, max(0.0, (self.steps - step) / max(1, self.steps - rise)))


def mlp(hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0, steps: int = 150, lr: float = 3e-3) -> Network:
    """Fill the learner slot with a fully connected network (see :class:`Network`)."""
    return Network(MLP(tuple(hidden), dropout), steps=steps, lr=lr)


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each row with a distribution as its target; not reduced."""
    return -(target * nn.functional.log_softmax(logits, dim=1)).sum(dim=1)


def boosting() -> Estimator:
    """Fill the learner slot with histogram gradient boosting of trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return Estimator(HistGradientBoostingClassifier())


def forest(trees: int = 200) -> Estimator:
    """Fill the learner slot with a random forest."""
    from sklearn.ensemble import RandomForestClassifier

    return Estimator(RandomForestClassifier(n_estimators=trees))


def tree() -> Estimator:
    """Fill the learner slot with a single decision tree."""
    from sklearn.tree import DecisionTreeClassifier

    return Estimator(DecisionTreeClassifier())
