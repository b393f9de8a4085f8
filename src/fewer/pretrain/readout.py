"""How good features are: what simple learners make of them.

Works on any encoder: a torch module, or any function of rows that gives an array of features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.pretrain.views import Views
from fewer.tasks.representation import Probe

Encoder = nn.Module | Callable[[np.ndarray], np.ndarray]
"""A module of tensors, or a function of arrays; rows in, one vector of features for each out."""


class ReadOut(Protocol):
    """What judges features by labelled rows."""

    def score(
        self,
        x: Float[np.ndarray, "rows width"],
        y: Int[np.ndarray, " rows"],
        test_x: Float[np.ndarray, "test width"],
        test_y: Int[np.ndarray, " test"],
    ) -> float:
        """Share of test rows that are told right, by what can be learned from the others."""
        ...


@dataclass(frozen=True)
class KNN:
    """The nearest neighbours vote, by cosine, the nearer the louder.

    Parameters
    ----------
    k : int, default 20
        How many vote (fewer where there are not so many).
    temperature : float, default 0.1
        A vote counts ``exp(cosine / temperature)``.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978.
    """

    k: int = 20
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature > 0:
            raise FewerError(f"knn: k must be at least 1 and the temperature above 0; given {self}")

    def score(
        self,
        x: Float[np.ndarray, "rows width"],
        y: Int[np.ndarray, " rows"],
        test_x: Float[np.ndarray, "test width"],
        test_y: Int[np.ndarray, " test"],
    ) -> float:
        """Share of test rows whose neighbours say the right class."""
        known, asked = (
            nn.functional.normalize(torch.as_tensor(each, dtype=torch.float32), dim=1) for each in (x, test_x)
        )
        labels = torch.as_tensor(y)
        classes = int(max(y.max(), test_y.max())) + 1
        said = []
        for part in asked.split(1024):
            cosines, places = (part @ known.T).topk(min(self.k, len(known)), dim=1)
            votes = torch.zeros(len(part), classes)
            votes.scatter_add_(1, labels[places], ((cosines - 1) / self.temperature).exp())
            said.append(votes.argmax(1))
        return float(np.mean(torch.cat(said).numpy() == test_y))


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regression on standardised features.

    Parameters
    ----------
    c : float, default 1.0
        Inverse strength of the L2 penalty.
    rows : int, default 5000
        At most so many rows are learned from: the first ones.
    """

    c: float = 1.0
    rows: int = 5000

    def __post_init__(self) -> None:
        if not self.c > 0 or self.rows < 2:
            raise FewerError(f"linear probe: c must be above 0 and rows at least 2; given {self}")

    def score(
        self,
        x: Float[np.ndarray, "rows width"],
        y: Int[np.ndarray, " rows"],
        test_x: Float[np.ndarray, "test width"],
        test_y: Int[np.ndarray, " test"],
    ) -> float:
        """Share of test rows that it tells right."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=300))
        return float(model.fit(x[: self.rows], y[: self.rows]).score(test_x, test_y))


def embed(encoder: Encoder, x: Shaped[np.ndarray, "rows ..."], block: int = 1024) -> Float[np.ndarray, "rows width"]:
    """Features of rows, without gradients and with the encoder in evaluation.

    Parameters
    ----------
    encoder : module or callable
        See :data:`Encoder`.
    x : array (rows, ...)
        As the encoder takes them.
    block : int, default 1024
        Rows at a time.

    Raises
    ------
    FewerError
        If there are no rows, or what comes out is not one finite vector for each.

    Examples
    --------
    >>> embed(nn.Linear(3, 2), np.zeros((5, 3))).shape, embed(lambda x: 2 * x, np.ones((2, 1))).tolist()
    ((5, 2), [[2.0], [2.0]])
    """
    if not len(x):
        raise FewerError("embed: there are no rows; give at least one")
    parts: list[np.ndarray] = []
    if isinstance(encoder, nn.Module):
        training = encoder.training
        where = next((each.device for each in encoder.parameters()), torch.device("cpu"))
        encoder.eval()
        with torch.inference_mode():
            for begin in range(0, len(x), block):
                rows = torch.from_numpy(np.ascontiguousarray(x[begin : begin + block], dtype=np.float32))
                parts.append(_vectors(encoder(rows.to(where))))
        encoder.train(training)
    else:
        parts = [_vectors(encoder(x[begin : begin + block])) for begin in range(0, len(x), block)]
    features = np.concatenate(parts)
    if len(features) != len(x) or not np.isfinite(features).all():
        raise FewerError(
            f"embed: {len(x)} rows gave features of shape {features.shape}, all finite: {bool(np.isfinite(features).all())}; "
            "an encoder gives one finite vector for each row"
        )
    return features


def _vectors(features: Tensor | np.ndarray) -> np.ndarray:
    given = features.float().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    return given.reshape(len(given), -1)


def probe(
    encoder: Encoder,
    x: Shaped[np.ndarray, "rows ..."],
    y: Int[np.ndarray, " rows"],
    test_x: Shaped[np.ndarray, "test ..."],
    test_y: Int[np.ndarray, " test"],
    readout: ReadOut | None = None,
) -> float:
    """Judge an encoder by labelled rows.

    Parameters
    ----------
    encoder : module or callable
        See :data:`Encoder`.
    x, test_x : array (rows, ...)
        Rows to learn from, and to be scored on.
    y, test_y : int array (rows,)
        Their classes.
    readout : ReadOut, optional
        :class:`KNN` by default.

    Returns
    -------
    float
        Share of test rows told right.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> probe(lambda rows: rows, x, np.array([0, 1]), 2 * x, np.array([0, 1]), KNN(k=1))
    1.0
    """
    return (readout or KNN()).score(embed(encoder, x), np.asarray(y), embed(encoder, test_x), np.asarray(test_y))


def recognised(encoder: nn.Module, x: Shaped[np.ndarray, "rows ..."], views: Views) -> float:
    """How often a row's view is nearest to the row's other view, among the first 1,000 rows: a score without labels.

    Parameters
    ----------
    encoder : nn.Module
        Rows to features.
    x : array (rows, ...)
        Best those that were not learned from.
    views : Views
        How a row is changed; drawn alike at each call.
    """
    rows = torch.from_numpy(np.ascontiguousarray(x[:1000], dtype=np.float32))
    draws = torch.Generator().manual_seed(0)
    first, second = views.one(rows, draws), views.one(rows, draws)
    places = np.arange(len(rows))
    return KNN(k=1).score(embed(encoder, first.numpy()), places, embed(encoder, second.numpy()), places)


def judged(encoder: Encoder, probes: tuple[Probe, ...], readouts: dict[str, ReadOut]) -> dict[str, float]:
    """Scores of several read-outs on several kinds of labels.

    Parameters
    ----------
    encoder : module or callable
        See :data:`Encoder`.
    probes : tuple of Probe
        Labelled rows.
    readouts : dict of str to ReadOut
        By name.

    Returns
    -------
    dict of str to float
        ``"knn"``, the mean over the kinds of labels, and where there are several ``"knn digit"`` for each.
    """
    found: dict[str, list[float]] = {}
    each: dict[str, float] = {}
    for known in probes:
        x, test_x = embed(encoder, known.x), embed(encoder, known.test_x)
        for name, readout in readouts.items():
            judge = getattr(readout, "judge", None)  # some look at more of an encoder than its features
            score = readout.score(x, known.y, test_x, known.test_y) if judge is None else judge(encoder, known)
            found.setdefault(name, []).append(score)
            if len(probes) > 1:
                each[f"{name} {known.name}"] = score
    return {name: float(np.mean(scores)) for name, scores in found.items()} | each
