"""A budget of labels on the user's own rows: how to split it between weak and expert ones, and training on both.

Knows tables, labels that are there or can be asked for, and what they cost.  The method is that of
:mod:`fewer.labels.label_quality`; the model is a scikit-learn classifier, a torch network, or the
folder of a `transformers` text classifier.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.seeding import derive, generator
from fewer.labels.bought_labels import BoughtLabels, column, present, read
from fewer.labels.estimator_trainee import EstimatorTrainee
from fewer.labels.fine_tuning import FineTuning, seeded
from fewer.labels.label_quality import Split
from fewer.labels.learners import FittedNetwork, device
from fewer.labels.nested_selection import corrected_standard_error
from fewer.labels.text_classifier import FittedText, HuggingFace

SHARES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the budget for experts that a plan compares."""

Labels = str | Sequence[float] | np.ndarray | Callable[[Any], Any]
"""A column's name, one value a row (NaN where there is none), or somebody who answers for rows."""


@dataclass(frozen=True)
class Plan:
    """What a pilot says of the split.

    Parameters
    ----------
    budget : int
        What each training of the pilot could spend.
    shares : float array (splits,)
        For experts.
    experts, weak : int array (splits,)
        Labels that each split bought.
    accuracy : float array (splits, folds)
        On expert labels held out.
    regime : str
        ``"quantity"`` or ``"quality"`` if buying only weak, or only expert, labels is within one
        standard error of the best split; ``"mixed"`` if neither is, ``"undecided"`` if both are.
    share : float
        The split to use: that end, or the best one.
    """

    budget: int
    shares: Float[np.ndarray, " splits"]
    experts: Int[np.ndarray, " splits"]
    weak: Int[np.ndarray, " splits"]
    accuracy: Float[np.ndarray, "splits folds"]
    regime: Literal["quantity", "quality", "mixed", "undecided"]
    share: float

    def __str__(self) -> str:
        lines = [
            f"{self.regime} at a budget of {self.budget}: give experts {self.share:.0%} of it",
            "share  experts  weak  accuracy",
        ]
        for share, experts, weak, folds in zip(self.shares, self.experts, self.weak, self.accuracy, strict=True):
            error = folds.std(ddof=1) / math.sqrt(len(folds))
            lines.append(f"{share:5.0%}  {experts:7d}  {weak:4d}  {folds.mean():.3f} ± {error:.3f}")
        return "\n".join([*lines, "with more money, experts are worth more"])


@dataclass
class LabelBudget:
    """Spend a budget on weak and expert labels of two classes, and train on the weak ones first.

    No label is bought twice, no row is labelled by both, and labels bought for a plan are used when
    the model is fitted.

    Parameters
    ----------
    model : scikit-learn classifier, torch.nn.Module, or path
        An estimator with ``partial_fit`` and sample weights (or ``LogisticRegression``, which is warm
        started); a network with two logits; the folder of a `transformers` text classifier.
    data : DataFrame, array, sequence of str, or path of a CSV file
        The rows.  Texts that occur twice are used once.
    weak : column, array or callable
        Probability of class 1 that a weak labeller gives, in [0, 1].
    oracle : column, array or callable
        The expert's label, 0 or 1.
    cost_ratio : float, default 0.1
        What a weak label costs in expert labels.
    budget : int, default 256
        In expert labels.
    split : "auto" or float, default "auto"
        Share of the budget for experts; ``"auto"`` makes a plan first, out of the same budget.
    features : column or sequence of columns, optional
        What the model sees; by default all columns but ``weak``, ``oracle`` and ``ids``.
    ids : column, optional
        Names of the rows, which must differ.
    stage : FineTuning, optional
        How each stage is trained.
    seed : int, default 0
        For everything random.

    Attributes
    ----------
    model_ : object
        What was trained: the estimator, or a network with ``predict_proba``.
    spent_ : float
        What all labels bought so far have cost.
    plan_ : Plan or None
        The last plan.

    Raises
    ------
    FewerError
        For weak labels outside [0, 1], expert labels other than 0 and 1, rows with the same id,
        columns that are not numbers, or a budget that does not fit the rows.

    References
    ----------
    A. Mallen and N. Belrose, arXiv:2410.13215.

    Examples
    --------
    >>> from sklearn.linear_model import SGDClassifier
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 4))
    >>> truth = (x[:, 0] + x[:, 1] > 0).astype(float)
    >>> guess = 1 / (1 + np.exp(-3 * x[:, 0]))
    >>> budget = LabelBudget(SGDClassifier(loss="log_loss", random_state=0), x, guess, truth, budget=30, split=0.5)
    >>> budget.fit().spent_
    30.0
    """

    model: Any
    data: Any
    weak: Labels
    oracle: Labels
    cost_ratio: float = 0.1
    budget: int = 256
    split: Literal["auto"] | float = "auto"
    features: str | Sequence[str] | None = None
    ids: str | None = None
    stage: FineTuning | None = None
    seed: int = 0
    model_: Any = field(default=None, init=False, repr=False)
    plan_: Plan | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.cost_ratio <= 1 or self.budget < 1:
            raise FewerError(
                f"label-budget: cost_ratio must lie in (0, 1] and budget be at least 1; given {self.cost_ratio} and {self.budget}"
            )
        if isinstance(self.split, str) and self.split != "auto":
            raise FewerError(f"label-budget: split is {self.split!r}; give 'auto' or a number from 0 to 1")
        table = read(self.data)
        self._x = self._rows(table)
        self._weak = BoughtLabels("weak", column(table, self.weak), self._x)
        self._expert = BoughtLabels("oracle", column(table, self.oracle), self._x)
        # experts are asked from the front and weak labellers from the back, so that larger purchases
        # contain smaller ones and the two meet as late as possible
        self._order = generator(self.seed, "partition").permutation(self._usable(table))

    @property
    def spent_(self) -> float:
        """What all labels bought so far have cost."""
        return float(self._expert.bought.sum() + round(self.cost_ratio * self._weak.bought.sum(), 9))

    def plan(self, pilot: int = 64, folds: int = 5) -> Plan:
        """Compare splits on a pilot budget by cross-validation over its expert labels.

        Parameters
        ----------
        pilot : int, default 64
            Expert labels to buy; up to as much is spent on weak ones.
        folds : int, default 5
            Parts, each of which scores what was trained on the others.

        Returns
        -------
        Plan
            ``print`` shows it as a table.  It holds for the pilot's budget: the more money, the more
            of it experts are worth.
        """
        if folds < 2 or pilot < 2 * folds:
            raise FewerError(
                f"label-budget: a pilot of {pilot} is too small for {folds} folds; take {2 * max(folds, 2)} or more"
            )
        experts = self._queue(self._expert, pilot)
        truth = self._expert(experts)
        money = pilot - math.ceil(pilot / folds)
        cheap = self._queue(self._weak, math.floor(money / self.cost_ratio + 1e-9), but=experts)
        part = np.empty(pilot, dtype=np.int64)
        part[np.argsort(truth, kind="stable")] = np.arange(pilot) % folds
        counts = np.array([Split(share).counts(money, self.cost_ratio) for share in SHARES])
        counts[:, 1] = np.minimum(counts[:, 1], len(cheap))
        accuracy = np.zeros((len(SHARES), folds))
        for fold in range(folds):
            train, test = experts[part != fold], experts[part == fold]
            for line, (good, many) in enumerate(counts):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # splits with very few expert labels are part of it
                    model = self._train(cheap[:many], train[:good])
                accuracy[line, fold] = np.mean(model.predict_proba(self._x[test])[:, 1].round() == self._expert(test))
        regime, share = _regime(accuracy, pilot / folds, pilot - pilot / folds)
        self.plan_ = Plan(money, np.array(SHARES), counts[:, 0], counts[:, 1], accuracy, regime, share)
        return self.plan_

    def fit(self) -> LabelBudget:
        """Buy the labels and train."""
        share = self.split
        if share == "auto":
            pilot = min(64, self.budget // 2)  # its weak labels may cost as much again
            if pilot < 10:
                raise FewerError(
                    f"label-budget: split='auto' needs a budget of 20 or more, not {self.budget}; give split a number"
                )
            share = self.plan(pilot).share
        good, many = Split(float(share)).counts(self.budget, self.cost_ratio)
        # what a plan has bought is not given back
        owned, cheap = int(self._expert.bought.sum()), int(self._weak.bought.sum())
        good = max(good, owned)
        many = math.floor(max(self.budget - good, 0) / self.cost_ratio + 1e-9)
        if many < cheap:
            many = cheap
            good = max(owned, math.floor(self.budget - cheap * self.cost_ratio + 1e-9))
        experts = self._queue(self._expert, good)
        weak = self._queue(self._weak, many, but=experts)
        if len(weak) < many:
            warnings.warn(
                f"label-budget: {len(weak)} rows are left for {many} weak labels; all are taken", stacklevel=2
            )
        self._expert(experts)
        self.model_ = self._train(weak, experts)
        return self

    def predict_proba(self, data: Any) -> Float[np.ndarray, "rows 2"]:
        """Probabilities of the classes 0 and 1 for rows of the same columns."""
        if self.model_ is None:
            raise FewerError("label-budget: nothing has been trained yet; call fit() first")
        return self.model_.predict_proba(self._rows(read(data)))

    def predict(self, data: Any) -> Int[np.ndarray, " rows"]:
        """The more probable class of each row."""
        return self.predict_proba(data).argmax(axis=1)

    # --- rows ---------------------------------------------------------------------------------

    def _rows(self, table: Any) -> np.ndarray:
        """What the model sees: an array of texts, or of 32-bit floats."""
        if isinstance(table, pd.DataFrame):
            taken = {name for name in (self.weak, self.oracle, self.ids) if isinstance(name, str)}
            names = [name for name in table.columns if name not in taken] if self.features is None else self.features
            names = [names] if isinstance(names, str) else list(names)
            present(table, names)
            texts = isinstance(self.model, str | os.PathLike)
            if texts and len(names) != 1:
                raise FewerError(
                    f"label-budget: a text model reads one column; give features= one of {', '.join(names)}"
                )
            if not texts:
                bad = [name for name in names if not pd.api.types.is_numeric_dtype(table[name])]
                if bad:
                    raise FewerError(
                        f"label-budget: column {bad[0]!r} is not numbers; encode it or leave it out of features="
                    )
            table = table[names[0]].to_numpy(dtype=object) if texts else table[names].to_numpy(dtype=np.float32)
        x = np.asarray(table)
        if x.dtype.kind in "OUT":
            if not isinstance(self.model, str | os.PathLike):
                raise FewerError("label-budget: the rows are texts; give model= the folder of a text classifier")
            return x.astype(object)
        if isinstance(self.model, str | os.PathLike):
            raise FewerError("label-budget: the rows are numbers and the model reads texts; give it a column of texts")
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
        if len(bad):
            raise FewerError(f"label-budget: row {bad[0]} holds NaN or infinity; fill or drop it")
        return np.ascontiguousarray(x, dtype=np.float32)

    def _usable(self, table: Any) -> Int[np.ndarray, " usable"]:
        if self.ids is not None:
            present(table, [self.ids])
            again = table[self.ids].duplicated(keep=False).to_numpy()
            if again.any():
                where = np.flatnonzero(again)
                name = table[self.ids].iloc[where[0]]
                raise FewerError(
                    f"label-budget: id {name!r} stands on more than one row (the first is row {where[0]}), so both "
                    "labellers could get it; drop the copies"
                )
        if self._x.dtype == object:
            return np.flatnonzero(~pd.Series(self._x).duplicated().to_numpy())
        return np.arange(len(self._x))

    def _queue(self, source: BoughtLabels, count: int, but: np.ndarray | None = None) -> Int[np.ndarray, " rows"]:
        """The next rows for a labeller: those it has labelled, then others that nobody has."""
        order = self._order if source is self._expert else self._order[::-1]
        other = self._weak if source is self._expert else self._expert
        free = source.available[order] & (source.bought[order] | ~other.bought[order])
        if but is not None:
            free &= ~np.isin(order, but)
        rows = order[free]
        rows = rows[np.argsort(~source.bought[rows], kind="stable")]
        if source is self._expert and len(rows) < count:
            raise FewerError(
                f"label-budget: {count} expert labels are to be bought and {len(rows)} rows can have one; "
                "lower the budget or the split, or add rows"
            )
        return rows[:count]

    # --- training -----------------------------------------------------------------------------

    def _train(self, weak: Int[np.ndarray, " weak"], experts: Int[np.ndarray, " experts"]) -> Any:
        """Train a fresh copy of the model on weak labels, then on the expert's."""
        how = self.stage or FineTuning(lr=5e-5 if self._x.dtype == object else 2e-3)
        made = self._fresh()
        for position, (rows, source) in enumerate(((weak, self._weak), (experts, self._expert))):
            if not len(rows):
                continue
            chance = source(rows)
            target = np.stack([1 - chance, chance], axis=1).astype(np.float32)
            seed = derive(self.seed, "stage", position)
            if isinstance(made, EstimatorTrainee):
                made.take(self._x[rows], target)
                done = (replace(how, batch=len(rows)) if made.whole else how).run(made, target, seed)
            else:
                x: Any = self._x[rows] if self._x.dtype == object else torch.from_numpy(self._x[rows]).to(device())
                done = how.fit(made.network, x, target, np.ones(len(rows), dtype=np.float32), seed)
            if how.validation and not done.held_out:
                warnings.warn(
                    f"label-budget: {len(rows)} {source.name} labels are too few to hold two out; they are trained on "
                    "without early stopping",
                    stacklevel=3,
                )
        return made

    def _fresh(self) -> Any:
        if isinstance(self.model, str | os.PathLike):
            with seeded(self.seed, "head"):
                return FittedText(HuggingFace(str(self.model)).build((), 2).to(device()), seed=self.seed)
        if isinstance(self.model, nn.Module):
            network: Any = copy.deepcopy(self.model).to(device())
            return FittedNetwork(network)
        return EstimatorTrainee(self.model, self.seed)


def _regime(
    accuracy: Float[np.ndarray, "splits folds"], test: float, train: float
) -> tuple[Literal["quantity", "quality", "mixed", "undecided"], float]:
    """Name the regime, and the share of experts that goes with it."""
    best = int(accuracy.mean(axis=1).argmax())
    leads = accuracy[best] - accuracy
    as_good = [float(lead.mean()) <= corrected_standard_error(lead, test, train) for lead in leads]
    if as_good[0] and as_good[-1]:
        return "undecided", SHARES[best]
    if as_good[0]:
        return "quantity", 0.0
    return ("quality", 1.0) if as_good[-1] else ("mixed", SHARES[best])
