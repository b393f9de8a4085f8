"""The query strategies that everybody compares with: random, uncertainty, k-centre, BADGE.

Each is a few lines over pure functions of arrays.  They ask the round for what they need
(probabilities, features), and nothing else is computed.  Large pools are read in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.labels.k_centre import k_centre_greedy
from fewer.labels.loop import Round

BLOCK = 65_536
"""Rows of the pool that are scored at a time."""


def blocks(rows: Int[np.ndarray, " rows"], size: int = BLOCK) -> Iterator[Int[np.ndarray, " block"]]:
    """Cut row numbers into blocks."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def check_probabilities(
    probabilities: Float[np.ndarray, "rows classes"], rows: Int[np.ndarray, " rows"] | None = None
) -> None:
    """Refuse rows that are not distributions (tolerance 1e-3), naming the first of them.

    Parameters
    ----------
    probabilities : float array (rows, classes)
        Each line should be non-negative and sum to one.
    rows : int array (rows,), optional
        Their numbers, for the message; by default they are counted.
    """
    wrong = ~(np.isfinite(probabilities).all(axis=1) & (probabilities >= -1e-6).all(axis=1))
    wrong |= ~(np.abs(probabilities.sum(axis=1) - 1) <= 1e-3)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        number = row if rows is None else rows[row]
        raise FewerError(
            f"row {number} is not a probability distribution (it sums to {probabilities[row].sum():.4g}); "
            "give softmax outputs, one column a class"
        )


def least_confidence(probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, " rows"]:
    """One minus the probability of the most probable class."""
    return 1 - probabilities.max(axis=1)


def margin(probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, " rows"]:
    """Minus the difference between the two largest probabilities: 0 is a tie, -1 is certain."""
    top = np.partition(probabilities, -2, axis=1)[:, -2:]
    return top[:, 0] - top[:, 1]


def entropy(probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, " rows"]:
    """Shannon entropy in nats."""
    positive = np.maximum(probabilities, np.finfo(np.float32).tiny)
    return -(probabilities * np.log(positive)).sum(axis=1)


def highest(scores: Float[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " count"]:
    """Positions of the ``count`` largest scores, largest first; ties go to the lowest position."""
    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count] if count else np.inf
        above = np.flatnonzero(scores > bound)
        equal = np.flatnonzero(scores == bound)[: count - len(above)]
        keep = np.sort(np.concatenate([above, equal]))
    else:
        keep = np.arange(len(scores))
    return keep[np.argsort(-scores[keep], kind="stable")]


def _most_uncertain(round: Round, count: int, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    probabilities = round.probabilities
    if probabilities.shape[1] < 2:
        raise FewerError(
            f"uncertainty needs at least two classes; the probabilities have {probabilities.shape[1]} column"
        )
    scores = np.empty(len(round.unlabelled), dtype=np.float32)
    done = 0
    for rows in blocks(round.unlabelled):
        part = probabilities[rows]
        check_probabilities(part, rows)
        scores[done : done + len(rows)] = score(part)
        done += len(rows)
    return round.unlabelled[highest(scores, count)]


@dataclass(frozen=True)
class Random:
    """Rows drawn without replacement, all equally likely."""

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Draw ``count`` unlabelled rows."""
        return round.rng.choice(round.unlabelled, size=count, replace=False)


@dataclass(frozen=True)
class LeastConfidence:
    """Rows whose most probable class is least probable.

    References
    ----------
    D. D. Lewis and W. A. Gale, "A sequential algorithm for training text classifiers", 1994.
    """

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose the least confident rows."""
        return _most_uncertain(round, count, least_confidence)


@dataclass(frozen=True)
class Margin:
    """Rows whose two most probable classes are closest; also known as breaking ties.

    References
    ----------
    T. Scheffer, C. Decomain and S. Wrobel, "Active hidden Markov models for information
    extraction", 2001; T. Luo et al., "Active learning to recognize multiple types of plankton", 2005.
    """

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose the rows closest to a tie."""
        return _most_uncertain(round, count, margin)


@dataclass(frozen=True)
class Entropy:
    """Rows whose predicted distribution has the largest entropy.

    Notes
    -----
    With several classes and few labels it often takes rows of a single confused region; it is known
    to lose to random choice there, so do not use it as the only baseline.
    """

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose the rows of largest entropy."""
        return _most_uncertain(round, count, entropy)


@dataclass(frozen=True)
class KCentre:
    """Rows that cover the model's features: greedy k-centre, known as CoreSet in active learning.

    Parameters
    ----------
    metric : {"euclidean", "cosine"}, default "euclidean"
        Distance between features.

    References
    ----------
    O. Sener and S. Savarese, arXiv:1708.00489.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose the rows farthest from all that is labelled or chosen."""
        features = round.features
        return k_centre_greedy(
            features, count, centres=features[round.labelled], candidates=round.unlabelled, metric=self.metric
        )


@dataclass(frozen=True)
class BADGE:
    """Diverse rows of large gradient: k-means++ seeding on gradient embeddings.

    The embedding of a row is the loss gradient of the last layer if the predicted class were true:
    the outer product of (probabilities minus predicted one-hot) and features.  It is never formed;
    inner products of two embeddings are products of two inner products.

    References
    ----------
    J. T. Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds",
    arXiv:1906.03671.
    """

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose the row of largest gradient, then rows with probability by squared distance."""
        rows = round.unlabelled
        residual, features = round.probabilities, round.features
        chosen: list[int] = []
        nearest = np.full(len(rows), np.inf)
        size = np.empty(len(rows))
        done = 0
        for part in blocks(rows):
            check_probabilities(residual[part], part)
            r, h = _residual(residual[part]), features[part]
            size[done : done + len(part)] = (r * r).sum(axis=1) * (h * h).sum(axis=1)
            done += len(part)
        while len(chosen) < count:
            if not chosen:
                position = int(size.argmax())
            elif nearest.sum() > 0:
                position = int(round.rng.choice(len(rows), p=nearest / nearest.sum()))
            else:  # every row left has the gradient of a chosen one
                position = int(round.rng.choice(np.setdiff1d(np.arange(len(rows)), chosen)))
            chosen.append(position)
            row = rows[[position]]
            r0, h0 = _residual(residual[row])[0], features[row][0]
            done = 0
            for part in blocks(rows):
                product = (_residual(residual[part]) @ r0) * (features[part] @ h0)
                here = slice(done, done + len(part))
                distance = np.maximum(size[here] + size[position] - 2 * product, 0)
                nearest[here] = np.minimum(nearest[here], distance)
                done += len(part)
            nearest[chosen] = 0
        return rows[chosen]


def _residual(probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """Probabilities minus the one-hot vector of the most probable class."""
    residual = np.array(probabilities)
    residual[np.arange(len(residual)), residual.argmax(axis=1)] -= 1
    return residual


@dataclass(frozen=True)
class ClassBalanced:
    """Random rows, more of them from the predicted classes that have few labels so far.

    The count is shared out over the classes that some unlabelled row is predicted to be, in proportion to 1 / (labels
    so far + 1); what rounding leaves goes to the classes with the fewest labels, and what a class cannot give is drawn
    from all the other rows.

    References
    ----------
    The baseline of this name in S. Kang et al., arXiv:2506.00910.
    """

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Draw rows class by class."""
        probabilities = round.probabilities
        predicted = np.empty(len(probabilities), dtype=np.int64)
        for rows in blocks(np.arange(len(probabilities))):
            part = probabilities[rows]
            check_probabilities(part, rows)
            predicted[rows] = part.argmax(axis=1)
        predicted = predicted[round.unlabelled]
        present = np.unique(predicted)
        labels = np.bincount(round.labels, minlength=probabilities.shape[1])[present]
        share = count / (labels + 1) / (1 / (labels + 1)).sum()
        quota = np.floor(share + 1e-9).astype(np.int64)  # 3 x 1/3 is to be 1
        quota[np.argsort(labels, kind="stable")[: count - quota.sum()]] += 1
        drawn = [
            round.rng.permutation(np.flatnonzero(predicted == label))[:wanted]
            for label, wanted in zip(present, quota, strict=True)
        ]
        chosen = np.concatenate(drawn)
        rest = np.setdiff1d(np.arange(len(predicted)), chosen)
        more = round.rng.choice(rest, size=count - len(chosen), replace=False)
        return round.unlabelled[np.concatenate([chosen, more])]
