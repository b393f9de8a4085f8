"""Learners: logistic regression, any scikit-learn classifier, and a small network.

Each takes soft or hard targets with weights, and answers with a model that predicts and embeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
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

BLOCK = 65_536
"""Rows that are predicted at a time, so that a pool may be a memory map larger than memory."""


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
        for start in range(0, len(x), BLOCK):
            part = self.estimator.predict_proba(flat(x[start : start + BLOCK]))
            full[start : start + BLOCK, self.estimator.classes_] = part
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

    def sample_proba(
        self, x: Shaped[np.ndarray, "rows ..."], passes: int, seed: int
    ) -> Float[np.ndarray, "passes rows classes"]:
        """Softmax of the logits in several passes with dropout left on.

        Raises
        ------
        FewerError
            If the network has no dropout.
        """

        def predict(part: Tensor) -> Tensor:
            leave_dropout_on(self.network)  # _blocks has just switched it off
            return self.network(part).softmax(dim=1)

        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            return np.stack([self._blocks(x, predict) for _ in range(passes)])

    def _blocks(self, x: np.ndarray, function: Any) -> np.ndarray:
        where = next(self.network.parameters()).device
        self.network.eval()
        with torch.inference_mode():
            parts = [
                function(
                    torch.from_numpy(np.require(x[i : i + self.block], dtype=np.float32, requirements=["C", "W"])).to(
                        where
                    )
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
        if round.x.dtype == object:
            raise FewerError("mlp needs numbers and the rows are texts; give features, or use a text learner")
        where = device()
        network = self.begin(round, start).to(where)
        x = torch.from_numpy(np.ascontiguousarray(round.x[examples.rows], dtype=np.float32)).to(where)
        # a weighted target has the weighted loss
        target = torch.from_numpy(examples.target * (examples.weight / examples.weight.mean())[:, None]).to(where)
        draws = torch_generator(round.seed, "network", round.index, int(start is not None))
        picks = torch.randint(len(x), (self.steps, min(self.batch, len(x))), generator=draws).to(where)

        def loss(step: int) -> Tensor:
            return soft_cross_entropy(network(x[picks[step]]), target[picks[step]]).mean()

        descend(network, loss, self.steps, self.lr, self.weight_decay, self.warm_up)
        return FittedNetwork(network)

    def begin(self, round: Round, start: Model | None) -> Classifier:
        """A fresh network, or a copy of the one to go on from."""
        network = self.architecture.build(round.x.shape[1:], round.classes)
        if start is not None:
            if not isinstance(start, FittedNetwork):
                raise FewerError(f"a network can only go on from a network, not from {type(start).__name__}")
            network.load_state_dict(start.network.state_dict())
        return network


def descend(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    warm_up: float = 0.1,
) -> Tensor:
    """Train a network by AdamW, the learning rate rising from 0 and falling to 0 linearly.

    Parameters
    ----------
    network : nn.Module
        Left in training mode.
    loss : callable
        ``loss(step)`` gives the loss of a step as a scalar tensor.
    steps, lr, weight_decay, warm_up
        As in :class:`Network`.

    Returns
    -------
    float tensor ()
        The last loss.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    (group,) = optimiser.param_groups
    last = torch.zeros(())
    network.train()
    for step in range(steps):
        group["lr"] = lr * ramp(step, steps, warm_up)
        optimiser.zero_grad()
        last = loss(step)
        last.backward()
        optimiser.step()
    return last.detach()


def ramp(step: int, steps: int, warm_up: float = 0.1) -> float:
    """Learning rate at a step, as a share of the peak: up linearly, then down to 0 linearly.

    Examples
    --------
    >>> [ramp(step, steps=4, warm_up=0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = max(1, math.ceil(warm_up * steps))
    return min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))


def mlp(hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0, steps: int = 150, lr: float = 3e-3) -> Network:
    """Fill the learner slot with a fully connected network (see :class:`Network`)."""
    return Network(MLP(tuple(hidden), dropout), steps=steps, lr=lr)


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each row with a distribution as its target; not reduced."""
    return nn.functional.cross_entropy(logits, target, reduction="none")


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


def leave_dropout_on(network: nn.Module) -> None:
    """Let an evaluated network drop units as in training, and leave everything else as it is.

    Raises
    ------
    FewerError
        If it drops none.
    """
    found = [module for module in network.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if not found:
        raise FewerError("predictions with dropout were asked for and the learner drops nothing; try mlp(dropout=0.2)")
    for module in found:
        module.train()
