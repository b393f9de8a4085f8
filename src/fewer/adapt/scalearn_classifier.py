"""ScaLearn as a scikit-learn classifier, on texts, CSV files, images or token numbers."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.adapter_training import examples, fit_rows, rows_for
from fewer.adapt.bottleneck_adapter import built_in_adapters
from fewer.adapt.classifier_files import check_model, read_classifier, save_classifier
from fewer.adapt.first_token import encoder_of
from fewer.adapt.loop import Adaptation, Features, LinearHead
from fewer.adapt.scalearn import Constraint, ScaLearn, Variant, coefficient_table
from fewer.adapt.source_adapters import Sources, source_adapters
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW

FEW_SHOT_STEPS = 1000
"""Steps where there are few labels."""

SETTINGS = ("variant", "constraint", "dropout")
"""Of the coefficients, as they are saved."""


class ScaLearnClassifier(ClassifierMixin, BaseEstimator):
    """A frozen encoder, frozen adapters of other tasks, and what is learned: how much each counts, and a head.

    Parameters
    ----------
    model : nn.Module or path
        An encoder of ``transformers``, the folder of one, or one of this library's.  It is left as it is.
    adapters : mapping of str to TaskAdapter, or path, optional
        Of the source tasks, as :func:`~fewer.adapt.adapter_training.train_adapters` gives them, or their folder; one trained on
        the target itself may be among them.  By default those that the model brings.
    variant : {"vector", "uniform", "++", "uniform++"}, default "vector"
        See :class:`~fewer.adapt.scalearn.ScaLearn`.
    constraint : {"mean", "softmax"}, optional
        Let coefficients sum to one: ablations.
    dropout : float, optional
        On the coefficients; 0.3 by default, and 0 for ``uniform++``.
    lr : float, default 6e-3
        Peak learning rate of coefficients and head.
    epochs, batch : int, default 30 and 32
        Times through the rows, but 1,000 steps at least; and rows a step.
    validation : float, default 0.1
        Share of the rows that is put aside: what does best on them is kept.
    patience : int, default 30
        Epochs without a better one after which the training ends.
    seed : int, default 0
        Of weights and order.

    Attributes
    ----------
    classes_ : array
        Labels, in the order of probabilities.
    adapted_ : Adapted
        The adapted model.

    Examples
    --------
    >>> from fewer.adapt.adapter_training import train_adapters
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> rng = np.random.default_rng(0)
    >>> images = rng.random((16, 1, 8, 8), dtype=np.float32)
    >>> tasks = {name: (images, rng.integers(2, size=16)) for name in ("dark", "round")}
    >>> adapters = train_adapters(net, tasks, epochs=1, reduction=4)
    >>> model = ScaLearnClassifier(net, adapters, "uniform", epochs=1).fit(images, np.array(["a", "b"] * 8))
    >>> model.predict(images[:3]).shape, model.coefficients().shape
    ((3,), (2, 2))
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        adapters: Sources = None,
        variant: Variant = "vector",
        constraint: Constraint | None = None,
        dropout: float | None = None,
        lr: float = 6e-3,
        epochs: int = 30,
        batch: int = 32,
        validation: float = 0.1,
        patience: int = 30,
        seed: int = 0,
    ) -> None:
        self.model, self.adapters = model, adapters
        self.variant: Variant = variant
        self.constraint: Constraint | None = constraint
        self.dropout, self.lr, self.epochs, self.batch = dropout, lr, epochs, batch
        self.validation, self.patience, self.seed = validation, patience, seed

    def fit(self, x: Any, y: Sequence[Any] | None = None) -> ScaLearnClassifier:
        """Learn coefficients and head.

        Parameters
        ----------
        x : list of str, array, or path
            Texts, what else the encoder takes, or a CSV file with the columns ``text`` and ``label``.
        y : sequence, optional
            Labels, where ``x`` is no file.

        Raises
        ------
        FewerError
            If rows and labels do not fit one another or the encoder, or the adapters do not fit it.
        """
        if isinstance(x, str | os.PathLike):
            if y is not None:
                raise FewerError("scalearn: labels were given beside a file, which has its own in the column label")
            x, y = examples(x, "scalearn")
        if y is None:
            raise FewerError("scalearn: there are no labels; give y, or a CSV file with the columns text and label")
        encoder = encoder_of(self.model)
        loop = Adaptation(
            adapter=ScaLearn(self.variant, self.adapters, self.dropout, self.constraint, self.lr),
            optimiser=AdamW(self.lr, 0.0),
            batch=self.batch,
            validation=self.validation,
            patience=self.patience,
            points=1,
        )
        rows = rows_for(encoder, x, "scalearn")
        self.adapted_, self.classes_ = fit_rows(
            loop, encoder, rows, y, self.seed, "scalearn", self.epochs, FEW_SHOT_STEPS
        )
        return self

    def predict_proba(self, x: Any) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of ``classes_``, of texts or arrays."""
        adapted = self._ready()
        return adapted.probabilities(rows_for(cast(nn.Module, adapted.readout.model), x, "scalearn"))

    def predict(self, x: Any) -> np.ndarray:
        """The most probable labels."""
        said = self.predict_proba(x)
        return self.classes_[said.argmax(1)]

    def coefficients(self) -> pd.DataFrame:
        """How much each source task counts in each layer (see :func:`~fewer.adapt.scalearn.coefficient_table`)."""
        return coefficient_table(self._ready().readout)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write coefficients, head and labels as safetensors, and nothing of the model and of the adapters.

        These are known again by hashes; adapters are saved by :func:`~fewer.adapt.adapter_files.save_adapters`.

        Raises
        ------
        FewerError
            If nothing was fitted, or labels are neither texts nor numbers.
        """
        adapted = self._ready()
        settings = {name: getattr(self, name) for name in SETTINGS}
        sources = {task: repr(each) for task, each in built_in_adapters(adapted.readout).items()}
        save_classifier(path, "scalearn", adapted, self.classes_, {**settings, "adapters": sources})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: nn.Module | str | os.PathLike[str], adapters: Sources = None
    ) -> ScaLearnClassifier:
        """Take up what :meth:`save` wrote, on the same model and adapters; it says the same to the bit.

        Parameters
        ----------
        path : path
            The file.
        model : nn.Module or path
            As it was learned on.
        adapters : mapping of str to TaskAdapter, or path, optional
            Those it was learned from, in any order, others may be among them; by default those that the model brings.

        Raises
        ------
        FewerError
            If the file is none of these, or was learned on another model or from other adapters.

        Examples
        --------
        >>> ScaLearnClassifier.load("target.safetensors", "./my-bert", "./adapters")  # doctest: +SKIP
        """
        header, classes, tensors = read_classifier(path, "scalearn", (*SETTINGS, "adapters"))
        made = cls(model, adapters, **{name: header[name] for name in SETTINGS})
        encoder = copy.deepcopy(encoder_of(model)).requires_grad_(False).eval()
        check_model(path, header, encoder)
        given = source_adapters(encoder, adapters, "scalearn")
        lacking = [task for task in header["adapters"] if task not in given]
        if lacking:
            raise FewerError(
                f"{path} was learned from an adapter of the task {lacking[0]!r}, and there are {', '.join(given)}; give it, too"
            )
        sources = {task: given[task] for task in header["adapters"]}
        way = ScaLearn(made.variant, sources, made.dropout, made.constraint, made.lr)
        readout = Features().build(way.attach(encoder), cast(Any, None))
        for task, each in built_in_adapters(readout).items():
            if repr(each) != header["adapters"][task]:
                raise FewerError(f"{path} was learned from another adapter of the task {task!r}; give the one it was")
        head = LinearHead(nn.Linear(cast(Any, readout).width, len(classes)))
        made.classes_, made.adapted_ = classes, Adapted(readout, head, None, tuple(map(str, classes)))
        made.adapted_.take(tensors, path)
        made.adapted_.readout.eval()
        made.adapted_.head.eval()
        return made

    def _ready(self) -> Adapted:
        if not hasattr(self, "adapted_"):
            raise FewerError("scalearn: nothing is fitted yet; call fit, or load what was saved")
        return self.adapted_
