"""Self-training strategies that pseudo-labels are compared with: a threshold, UST, VERIPS, NEST, AcTune.

Each fills the slot ``pseudo`` of :class:`~fewer.labels.loop.ActiveLearning` with the settings of the
release that HAST was published with.  Where that release departs from a strategy's own paper, or
from what it says it does, the class says what is done here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import rel_entr
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize

from fewer.core.errors import FewerError
from fewer.core.seeding import derive, generator
from fewer.labels.loop import PSEUDO, Examples, Model, Round
from fewer.labels.neighbours import nearest_neighbours
from fewer.labels.queries import entropy, highest


def sample_unlabelled(round: Round, limit: int, name: str) -> Int[np.ndarray, " rows"]:
    """Give all unlabelled rows, or ``limit`` of them drawn at random, increasing.

    The draw has a stream of its own, so that the queries of a run do not depend on whether its
    pseudo-labels drew.
    """
    if len(round.unlabelled) <= limit:
        return round.unlabelled
    return np.sort(generator(round.seed, name, round.index).choice(round.unlabelled, limit, replace=False))


def seen(
    round: Round, rows: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows classes"], Float[np.ndarray, "rows features"]]:
    """Probabilities and features of some rows; of the whole pool only where all of it is wanted."""
    if len(rows) == len(round.unlabelled) or round.model is None:
        return round.probabilities[rows], round.features[rows]
    x = round.x[rows]
    return round.model.predict_proba(x), round.model.embed(x)


def pseudo_labelled(
    rows: Int[np.ndarray, " rows"],
    labels: Int[np.ndarray, " rows"],
    classes: int,
    weight: Float[np.ndarray, " rows"] | float,
) -> Examples | None:
    """Rows with a class and a weight each as examples of source ``PSEUDO``; None where there is no row."""
    if not len(rows):
        return None
    made = Examples.hard(rows, labels, classes, PSEUDO)
    return replace(made, weight=np.broadcast_to(np.asarray(weight, dtype=np.float32), len(rows)).copy())


@dataclass(frozen=True)
class Threshold:
    """Rows of which the model is sure.

    Parameters
    ----------
    confidence : float, default 0.9
        The probability that the most probable class must exceed.

    References
    ----------
    D.-H. Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep
    Neural Networks", 2013.
    """

    confidence: float = 0.9

    def __post_init__(self) -> None:
        _within("threshold", "confidence", self.confidence)

    def label(self, round: Round) -> Examples | None:
        """Accept what is sure, with weight 1."""
        rows = _candidates(round, len(round.unlabelled), "threshold")
        if not len(rows):
            return None
        probabilities = round.probabilities[rows]
        sure = probabilities.max(axis=1) > self.confidence
        return pseudo_labelled(rows[sure], probabilities[sure].argmax(axis=1), round.classes, 1.0)


@dataclass(frozen=True)
class UST:
    """Rows on which passes with dropout agree, equally many of each predicted class.

    Rows are drawn with probability proportional to one minus the mutual information between
    prediction and dropout (in bits), and weigh ``log(1 / variance)`` of the predicted class's
    probability, at least 4, over the mean of the same for the labels, which weigh 1.

    Parameters
    ----------
    passes : int, default 10
        Predictions of each row, each with its own dropout.
    per_class : int, default 30
        Rows of each predicted class; fewer where there are fewer.
    subsample : int, default 16384
        Unlabelled rows that are looked at.

    Raises
    ------
    FewerError
        If the learner's model cannot predict with dropout (see :func:`dropout_passes`).

    References
    ----------
    S. Mukherjee and A. H. Awadallah, "Uncertainty-aware Self-training for Text Classification with
    Few Labels", arXiv:2006.15315.
    """

    passes: int = 10
    per_class: int = 30
    subsample: int = 16384

    def __post_init__(self) -> None:
        _at_least("ust", 2, passes=self.passes)
        _at_least("ust", 1, per_class=self.per_class, subsample=self.subsample)

    def label(self, round: Round) -> Examples | None:
        """Draw easy rows of each class."""
        rows = _candidates(round, self.subsample, "ust")
        if not len(rows):
            return None
        drawn = dropout_passes(round, rows, self.passes)
        labels = drawn.mean(axis=0).argmax(axis=1)
        ease = np.maximum(1 - mutual_information(drawn) / np.log(2), 0)
        rng = generator(round.seed, "ust", round.index, "rows")
        parts = []
        for label in np.unique(labels):
            mine = np.flatnonzero((labels == label) & (ease > 0))
            count = min(self.per_class, len(mine))
            parts.append(rng.choice(mine, count, replace=False, p=ease[mine] / ease[mine].sum()) if count else mine)
        chosen = np.sort(np.concatenate(parts))
        known = dropout_passes(round, round.labelled, self.passes)
        usual = _sureness(known, known.mean(axis=0).argmax(axis=1)).mean()
        weight = _sureness(drawn[:, chosen], labels[chosen]) / usual
        return pseudo_labelled(rows[chosen], labels[chosen], round.classes, weight)


def dropout_passes(
    round: Round, rows: Int[np.ndarray, " rows"], passes: int
) -> Float[np.ndarray, "passes rows classes"]:
    """Predict rows several times with dropout left on, by the model's ``sample_proba(x, passes, seed)``.

    Raises
    ------
    FewerError
        If the model has no such method, or no dropout.
    """
    if not hasattr(round.model, "sample_proba"):
        raise FewerError(
            f"ust predicts with dropout, which {type(round.model).__name__} does not have; "
            "use a learner that has, such as mlp(dropout=0.2)"
        )
    model: Any = round.model
    return model.sample_proba(round.x[rows], passes, derive(round.seed, "ust", round.index, "dropout", len(rows)))


def mutual_information(drawn: Float[np.ndarray, "passes rows classes"]) -> Float[np.ndarray, " rows"]:
    """Entropy of the mean prediction minus the mean entropy of the predictions, in nats (BALD).

    Examples
    --------
    >>> mutual_information(np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])).round(3)
    array([0.693, 0.   ])
    """
    return entropy(drawn.mean(axis=0)) - np.mean([entropy(one) for one in drawn], axis=0)


def _sureness(drawn: Float[np.ndarray, "passes rows classes"], labels: Int[np.ndarray, " rows"]) -> np.ndarray:
    variance = drawn[:, np.arange(len(labels)), labels].var(axis=0)
    return np.maximum(np.log(1 / (variance + 1e-8)), 4)


@dataclass(frozen=True)
class VERIPS:
    """Rows of low entropy whose class does not change when the model is trained on the labels again.

    A learner without randomness comes back unchanged, and then verifies everything.

    Parameters
    ----------
    certainty : float, default 0.9
        The least value of one minus the entropy, relative to its largest.
    subsample : int, default 16384
        Unlabelled rows that are looked at.

    References
    ----------
    S. Gilhuber et al., "VERIPS: Verified Pseudo-label Selection for Deep Active Learning", 2022.
    """

    certainty: float = 0.9
    subsample: int = 16384

    def __post_init__(self) -> None:
        _within("verips", "certainty", self.certainty)
        _at_least("verips", 1, subsample=self.subsample)

    def label(self, round: Round) -> Examples | None:
        """Accept what is certain and verified, with weight 1."""
        rows = _candidates(round, self.subsample, "verips")
        if not len(rows):
            return None
        probabilities, _ = seen(round, rows)
        certain = 1 - entropy(probabilities) / np.log(round.classes) >= self.certainty
        rows, labels = rows[certain], probabilities[certain].argmax(axis=1)
        if not len(rows):
            return None
        verifier = round.fit_again(round.examples, round.model)
        same = verifier.predict_proba(round.x[rows]).argmax(axis=1) == labels
        return pseudo_labelled(rows[same], labels[same], round.classes, 1.0)


@dataclass(frozen=True)
class NEST:
    """Rows whose predictions diverge least from those of the labelled rows around them.

    A row's divergence is the mean Kullback-Leibler divergence of its prediction from those of its
    nearest labelled rows, plus ``spread`` times that among the latter.  In several iterations, each
    with a model trained further on what was accepted before, the rows of highest running mean of one
    minus divergence are looked at, and those of which the model is sure are accepted.

    The release ranks the other way round, so that the rows of *largest* divergence come first; here
    the smallest do, as in NEST's own paper.

    Parameters
    ----------
    k : int, default 7
        Labelled neighbours a row, by direction in the model's features; all where there are fewer.
    spread : float, default 0.1
        Share of the divergence among the neighbours.
    momentum : float, default 0.5
        Share of the current iteration in the running mean.
    per_label : int, default 10
        Rows looked at in an iteration, as a multiple of the labels.
    confidence : float, default 0.9
        The probability that the most probable class must exceed.
    iterations : int, default 3
        How often.
    subsample : int, default 16384
        Unlabelled rows that are looked at.

    References
    ----------
    R. Xu et al., "Neighborhood-Regularized Self-Training for Learning with Few Labels",
    arXiv:2301.03726.
    """

    k: int = 7
    spread: float = 0.1
    momentum: float = 0.5
    per_label: int = 10
    confidence: float = 0.9
    iterations: int = 3
    subsample: int = 16384

    def __post_init__(self) -> None:
        _within("nest", "confidence", self.confidence)
        _within("nest", "momentum", self.momentum)
        numbers = {"k": self.k, "per_label": self.per_label, "iterations": self.iterations, "subsample": self.subsample}
        _at_least("nest", 1, **numbers)

    def label(self, round: Round) -> Examples | None:
        """Accept sure rows of small divergence, with the weight of a label."""
        rows = _candidates(round, self.subsample, "nest")
        accepted: Examples | None = None
        model = round.model
        trust = np.zeros(len(rows))
        for iteration in range(self.iterations):
            if not len(rows) or model is None:
                break
            probabilities, divergence = self._look(round, rows, model)
            trust = (1 - self.momentum) * trust + self.momentum * (1 - divergence)
            best = highest(trust, min(self.per_label * len(round.labelled), len(rows)))
            sure = best[probabilities[best].max(axis=1) > self.confidence]
            fresh = pseudo_labelled(rows[sure], probabilities[sure].argmax(axis=1), round.classes, 1.0)
            if fresh is None:
                break
            accepted = fresh if accepted is None else accepted.and_(fresh)
            rows, trust = np.delete(rows, sure), np.delete(trust, sure)
            if iteration < self.iterations - 1:  # after the last one the loop trains
                model = round.fit_again(round.examples.and_(accepted), model)
        return accepted

    def _look(self, round: Round, rows: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray]:
        x, known = round.x[rows], round.x[round.labelled]
        probabilities, around = model.predict_proba(x), model.predict_proba(known)
        k = min(self.k, len(known))
        neighbours = nearest_neighbours(model.embed(x), k, among=model.embed(known))
        return probabilities, neighbour_divergence(probabilities, around[neighbours], self.spread)


def neighbour_divergence(
    mine: Float[np.ndarray, "rows classes"], theirs: Float[np.ndarray, "rows neighbours classes"], spread: float
) -> Float[np.ndarray, " rows"]:
    """Mean divergence of predictions from their neighbours', plus ``spread`` times that among the neighbours.

    Among neighbours each pair counts once, the nearer one first.

    Examples
    --------
    >>> mine, theirs = np.array([[1.0, 0.0]]), np.array([[[0.5, 0.5], [0.5, 0.5]]])
    >>> neighbour_divergence(mine, theirs, spread=0.1).round(3)
    array([0.693])
    """
    theirs = np.maximum(theirs, 1e-12)
    total = rel_entr(mine[:, None], theirs).sum(axis=2).mean(axis=1)
    first, second = np.triu_indices(theirs.shape[1], k=1)
    if len(first):
        total = total + spread * rel_entr(theirs[:, first], theirs[:, second]).sum(axis=2).mean(axis=1)
    return total


@dataclass(frozen=True)
class AcTune:
    """Sure rows from the regions of feature space in which the model is most certain.

    Regions are k-means clusters in which uncertain rows weigh more.  A region's uncertainty is its
    rows' mean entropy (relative to its largest) plus half the entropy of their predicted classes.

    Parameters
    ----------
    regions : int, default 10
        How many there are.
    certain : int, default 5
        From how many of them, the most certain ones, rows are taken.
    per_region : int, default 5
        The least uncertain rows of each; what one lacks the others give.
    confidence : float, default 0.6
        The probability that the most probable class must exceed.
    diversity : float, default 0.5
        Share of the entropy of the predicted classes.

    Notes
    -----
    All pseudo-labels together weigh as much as all labels.  Momentum in the predictions is left out:
    it matters from the second iteration on, and there is one.  Sure rows of a single predicted class
    are not used; the release looks at their true classes for that.

    References
    ----------
    Y. Yu et al., "AcTune: Uncertainty-Based Active Self-Training for Active Fine-Tuning of
    Pretrained Language Models", NAACL 2022, arXiv:2112.08787.
    """

    regions: int = 10
    certain: int = 5
    per_region: int = 5
    confidence: float = 0.6
    diversity: float = 0.5

    def __post_init__(self) -> None:
        _within("actune", "confidence", self.confidence)
        _at_least("actune", 1, regions=self.regions, certain=self.certain, per_region=self.per_region)

    def label(self, round: Round) -> Examples | None:
        """Accept the least uncertain rows of the most certain regions."""
        rows = _candidates(round, len(round.unlabelled), "actune")
        if not len(rows):
            return None
        probabilities, features = seen(round, rows)
        sure = np.flatnonzero(probabilities.max(axis=1) > self.confidence)
        rows, probabilities, features = rows[sure], probabilities[sure], features[sure]
        labels = probabilities.argmax(axis=1)
        if len(rows) >= self.regions:
            uncertainty = entropy(probabilities) / np.log(round.classes)
            region = self._regions(features, uncertainty, derive(round.seed, "actune", round.index) % 2**31)
            take = self._take(region, labels, uncertainty)
            rows, labels = rows[take], labels[take]
        if len(np.unique(labels)) < 2:
            return None
        return pseudo_labelled(rows, labels, round.classes, len(round.labelled) / len(rows))

    def _regions(self, features: np.ndarray, uncertainty: np.ndarray, seed: int) -> Int[np.ndarray, " rows"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than regions
            clusters = KMeans(self.regions, n_init="auto", random_state=seed)
            # a cluster whose rows all weigh nothing has no centre
            return clusters.fit_predict(normalize(features), sample_weight=np.maximum(uncertainty, 1e-6))

    def _take(self, region: np.ndarray, labels: np.ndarray, uncertainty: np.ndarray) -> Int[np.ndarray, " taken"]:
        """Positions of the least uncertain rows of the most certain regions, one of each region in turn."""
        names, region, sizes = np.unique(region, return_inverse=True, return_counts=True)
        counts = np.zeros((len(names), labels.max() + 1))
        np.add.at(counts, (region, labels), 1)
        doubt = np.bincount(region, uncertainty) / sizes + self.diversity * entropy(counts / sizes[:, None])
        certain = np.argsort(doubt, kind="stable")[: self.certain]
        inside = np.flatnonzero(np.isin(region, certain))
        inside = inside[np.argsort(uncertainty[inside], kind="stable")]
        turn = np.zeros(len(inside), dtype=np.int64)
        for one in certain:
            mine = region[inside] == one
            turn[mine] = np.arange(mine.sum())
        return inside[np.argsort(turn, kind="stable")][: self.per_region * self.certain]


def _candidates(round: Round, limit: int, name: str) -> Int[np.ndarray, " rows"]:
    """A sample of the unlabelled rows; none where the labels hold fewer than two classes.

    A model that knows one class is sure of everything.
    """
    rows = sample_unlabelled(round, limit, name)
    return rows if len(np.unique(round.labels)) > 1 else rows[:0]


def _within(name: str, field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise FewerError(f"{name}: {field} must lie in [0, 1]; it is {value}")


def _at_least(name: str, least: int, **fields: int) -> None:
    for field, value in fields.items():
        if value < least:
            raise FewerError(f"{name}: {field} must be at least {least}; it is {value}")
