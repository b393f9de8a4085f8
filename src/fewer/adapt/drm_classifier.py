"""Classifiers for each domain as a scikit-learn classifier: fitted on rows with domains, and asked row by row or in a stream."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.drm import By, DomainHeads, DomainSelect, Online, PerDomain, PseudoLabels
from fewer.adapt.given_rows import Given
from fewer.adapt.loop import Adaptation, Labelled
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW


@dataclass(frozen=True, eq=False)
class _Rows(Given):
    """Rows that say where they are from.

    Parameters
    ----------
    domains : tuple of str
        Names.
    """

    domains: tuple[str, ...] = ()


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.width = encoder, width

    def forward(self, x: Any) -> Any:
        return self.encoder(x)


class DRMClassifier(ClassifierMixin, BaseEstimator):
    """A classifier for each domain and a shared one, on one encoder.

    Parameters
    ----------
    encoder : nn.Module
        Rows to features (rows, width); a copy of it is trained.
    n_classes : int
        How many classes there are.
    select : {"discriminator", "distance", "soft", "hard", "uniform", "shared"}, default "discriminator"
        Which classifiers are believed; see :class:`DomainSelect`.
    gamma : float, default 1
        For "soft".
    confidence : float, default 0.9
        Least probability of a pseudo-label in :meth:`predict_online`, in (0, 1], or above 1 for none.
    lr : float, default 1e-3
        Adam's, in training and online.
    steps : int, default 400
        Of training.
    batch : int, default 32
        Rows a step, for each domain.
    random_state : int, default 0
        For weights and order.

    Attributes
    ----------
    classes_, domains_ : array
        Labels, and names of domains.
    adapted_ : Adapted
        What was fitted, and what online updates have made of it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, site = rng.normal(size=(60, 3)).astype(np.float32), np.repeat(["east", "west"], 30)
    >>> y = np.where((x[:, 0] > 0) == (site == "east"), "up", "down")
    >>> model = DRMClassifier(nn.Sequential(nn.Linear(3, 8), nn.ReLU()), n_classes=2, steps=20).fit(x, y, site)
    >>> model.predict(x, select="soft").shape, model.predict_proba(x).shape
    ((60,), (60, 2))
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_classes: int,
        select: By = "discriminator",
        gamma: float = 1.0,
        confidence: float = 0.9,
        lr: float = 1e-3,
        steps: int = 400,
        batch: int = 32,
        random_state: int = 0,
    ) -> None:
        self.encoder = encoder
        self.n_classes = n_classes
        self.select: By = select
        self.gamma = gamma
        self.confidence = confidence
        self.lr = lr
        self.steps = steps
        self.batch = batch
        self.random_state = random_state

    def fit(
        self, X: Shaped[np.ndarray, "rows ..."], y: Sequence[Any], domains: Sequence[Any] | None = None
    ) -> DRMClassifier:
        """Train on rows of several domains.

        Parameters
        ----------
        X : array (rows, ...)
            Numbers.
        y : array (rows,)
            Labels.
        domains : array (rows,), optional
            Where each row is from; with one domain, or none said, there is nothing to choose between, and a warning.

        Raises
        ------
        FewerError
            If lengths differ, numbers are not finite, or there are other than two to ``n_classes`` classes.
        """
        x, labels = self._rows(X), np.asarray(y)
        of = np.zeros(len(x), dtype=int) if domains is None else np.asarray(domains)
        if not len(x) == len(labels) == len(of) or not len(x):
            raise FewerError(f"drm: {len(x)} rows, {len(labels)} labels, {len(of)} domains; give one of each for a row")
        self.classes_, places = np.unique(labels, return_inverse=True)
        if not 2 <= len(self.classes_) <= self.n_classes:
            raise FewerError(
                f"drm: {len(self.classes_)} classes in the labels and n_classes={self.n_classes}; mend one"
            )
        self.domains_, domain = np.unique(of, return_inverse=True)
        if len(self.domains_) < 2:
            warnings.warn("drm: there is one domain, so this is one classifier for all (ERM)", stacklevel=2)
        self._warn_of_absent(places, domain)
        encoder = copy.deepcopy(self.encoder)
        with torch.no_grad():
            width = encoder.eval()(x[:1]).shape
        if len(width) != 2:
            raise FewerError(f"drm: the encoder gives {tuple(width)} for one row; features are (rows, width)")
        known, source = torch.from_numpy(places.astype(np.int64)), torch.from_numpy(domain.astype(np.int64))
        rows = Labelled(x, known, x[:0], known[:0], source)
        classes, sources = tuple(map(str, self.classes_)), tuple(map(str, self.domains_))
        task = _Rows(_Encoder(encoder, width[1]), rows, classes, domains=sources)
        loop = Adaptation(
            head=PerDomain(),
            select=DomainSelect(self.select, self.gamma),
            trainable="all",
            optimiser=AdamW(self.lr, 1e-4),
            steps=self.steps,
            batch=self.batch * len(self.domains_),
            points=1,
        )
        self._fitted, _ = loop.train(loop.start(task, len(x), self.random_state), len(x))
        # what was met late may have been left out of the last batches, but it was there
        head = self._fitted.head
        assert isinstance(head, DomainHeads)
        head.seen[source + 1, known] = True
        head.seen[0, known] = True
        return self.reset()

    def predict(self, X: Shaped[np.ndarray, "rows ..."], select: By | None = None) -> Shaped[np.ndarray, " rows"]:
        """The most probable label of each row, chosen in another way than the estimator's if ``select`` is given."""
        said = self.predict_proba(X, select)
        return self.classes_[said.argmax(1)]

    def predict_proba(
        self, X: Shaped[np.ndarray, "rows ..."], select: By | None = None
    ) -> Float[np.ndarray, "rows classes"]:
        """Probabilities, in the order of ``classes_``."""
        adapted = self._ready()
        by = DomainSelect(select or self.select, self.gamma)
        return Adapted(adapted.readout, adapted.head, by, adapted.classes).probabilities(self._rows(X))

    def predict_online(
        self, stream: Iterable[Shaped[np.ndarray, "rows ..."]], how: PseudoLabels | None = None
    ) -> Iterator[Shaped[np.ndarray, " rows"]]:
        """Labels of each batch of a stream, each said before the classifiers learn from it.

        Parameters
        ----------
        stream : iterable of arrays (rows, ...)
            In the order in which they come.
        how : PseudoLabels, optional
            By default of the selected mixture, one step a batch.
        """
        online = Online(self._ready(), how or PseudoLabels(confidence=self.confidence, lr=self.lr))
        for batch in stream:
            yield self.classes_[online(self._rows(batch)).argmax(1).cpu().numpy()]

    def reset(self) -> DRMClassifier:
        """Forget what was learned online: begin another target from what was fitted."""
        if not hasattr(self, "_fitted"):
            raise FewerError("drm: nothing is fitted yet; call fit first")
        self.adapted_ = copy.deepcopy(self._fitted)
        return self

    def _ready(self) -> Adapted:
        if not hasattr(self, "adapted_"):
            raise FewerError("drm: nothing is fitted yet; call fit first")
        return self.adapted_

    def _rows(self, X: Any) -> torch.Tensor:
        x = np.ascontiguousarray(X, dtype=np.float32)
        if not np.isfinite(x).all():
            raise FewerError("drm: rows hold NaN or infinity; fill or drop them")
        return torch.from_numpy(x)

    def _warn_of_absent(self, places: np.ndarray, domain: np.ndarray) -> None:
        there = np.zeros((len(self.domains_), len(self.classes_)), dtype=bool)
        there[domain, places] = True
        absent = np.argwhere(~there)
        if len(absent):
            named = ", ".join(f"{self.classes_[c]} in {self.domains_[d]}" for d, c in absent[:3])
            warnings.warn(
                f"drm: {len(absent)} classes have no row in a domain ({named}{', …' if len(absent) > 3 else ''}); "
                "that domain's classifier will not say them",
                stacklevel=3,
            )
