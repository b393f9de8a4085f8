"""How well a confidence score decides which predictions to keep: scores, risk against coverage, and what lies outside.

All are pure functions of arrays, from any model.  A score is higher where a model is surer; a row is *accepted* where
its score is at least a threshold.  *Coverage* is the share of rows accepted, *risk* the share of wrong ones among these.

References
----------
Y. Geifman and R. El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, arXiv:1705.08500.
G. Xia and C.-S. Bouganis, "Augmenting Softmax Information for Selective Classification with Out-of-Distribution Data",
ACCV 2022, arXiv:2207.07506.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp, xlogy
from scipy.stats import rankdata

from fewer.core.errors import FewerError, nearest

Score = Literal["msp", "entropy", "energy", "max-logit"]
Kind = Literal["logits", "probabilities"]


def outputs_array(outputs: Any, name: str = "outputs") -> Float[np.ndarray, "rows classes"]:
    """Check what a model gave for some rows, and read it in double precision (a softmax saturates in single).

    Raises
    ------
    FewerError
        If it is no table of finite numbers with a row each and two columns or more.
    """
    if hasattr(outputs, "detach"):
        outputs = outputs.detach().cpu()
    array = np.asarray(outputs, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise FewerError(f"{name} have the shape {array.shape}; give (rows, classes) with two classes or more")
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        raise FewerError(f"{name} hold NaN or infinity in {len(bad)} rows (the first is row {bad[0]}); leave these out")
    return array


def probabilities_of(
    outputs: Float[np.ndarray, "rows classes"], kind: Kind = "logits"
) -> Float[np.ndarray, "rows classes"]:
    """Give probabilities of classes for logits, or check them.

    Raises
    ------
    FewerError
        If they are said to be probabilities and a row is negative or does not sum to one.
    """
    if kind == "logits":
        found = outputs - outputs.max(axis=1, keepdims=True)
        np.exp(found, out=found)
        found /= found.sum(axis=1, keepdims=True)
        return found
    if (outputs < -1e-6).any() or np.abs(outputs.sum(axis=1) - 1).max(initial=0) > 1e-3:
        raise FewerError(
            "these outputs are no probabilities: a row is negative or does not sum to 1; say kind='logits'"
        )
    return outputs.clip(0, 1)


def confidence(outputs: Any, score: Score = "msp", kind: Kind = "logits") -> Float[np.ndarray, " rows"]:
    """Score how sure a model is of each row; higher is surer.

    Parameters
    ----------
    outputs : array or tensor (rows, classes)
        What the model gave.
    score : {"msp", "entropy", "energy", "max-logit"}, default "msp"
        Maximal softmax probability; negative entropy in nats; negative free energy ``log sum exp(logits)``; the largest
        logit.  The last two need logits.
    kind : {"logits", "probabilities"}, default "logits"
        What the outputs are.

    Returns
    -------
    float array (rows,)

    Raises
    ------
    FewerError
        For an unknown score, outputs that are not finite tables, or a score of logits from probabilities.

    Examples
    --------
    >>> logits = np.log([[0.5, 0.5], [0.9, 0.1]])
    >>> confidence(logits).round(3).tolist(), confidence(logits, "entropy").round(3).tolist()
    ([0.5, 0.9], [-0.693, -0.325])
    """
    check_score(score, kind)
    values = outputs_array(outputs)
    if score == "energy":
        return np.asarray(logsumexp(values, axis=1))
    if score == "max-logit":
        return values.max(axis=1)
    return score_probabilities(probabilities_of(values, kind), score)


def score_probabilities(
    probabilities: Float[np.ndarray, "rows classes"], score: Score = "msp"
) -> Float[np.ndarray, " rows"]:
    """Score rows by their largest probability, or by their negative entropy."""
    return probabilities.max(axis=1) if score == "msp" else xlogy(probabilities, probabilities).sum(axis=1)


def check_score(score: str, kind: str) -> None:
    """Refuse a score that is unknown, or that these outputs do not give."""
    if score not in get_args(Score):
        raise FewerError(f"unknown score {score!r}; {nearest(score, get_args(Score))}")
    if kind not in get_args(Kind):
        raise FewerError(f"outputs are {kind!r}; choose 'logits' or 'probabilities'")
    if kind == "probabilities" and score in ("energy", "max-logit"):
        raise FewerError(f"the score {score} needs logits and these are probabilities; use 'msp' or 'entropy'")


@dataclass(frozen=True)
class RiskCoverage:
    """Risk against coverage, at each threshold that tells rows apart.

    Parameters
    ----------
    coverage : float array (thresholds,)
        Share of rows accepted, rising to 1.
    risk : float array (thresholds,)
        Share of these that are wrong.
    thresholds : float array (thresholds,)
        Falling.
    """

    coverage: Float[np.ndarray, " thresholds"]
    risk: Float[np.ndarray, " thresholds"]
    thresholds: Float[np.ndarray, " thresholds"]

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages, by the trapezoidal rule; below the first threshold it stays level."""
        return float(np.trapezoid(np.r_[self.risk[0], self.risk], np.r_[0.0, self.coverage]))

    def at_coverage(self, coverage: float) -> int:
        """Index of the least coverage that is enough."""
        _share("coverage", coverage)
        return min(int(np.searchsorted(self.coverage, coverage - 1e-12)), len(self.coverage) - 1)

    def at_risk(self, risk: float, skip: float = 0.0) -> int | None:
        """Index of the largest coverage of no more than a risk, or None where none above ``skip`` has it."""
        _share("risk", risk)
        within = np.flatnonzero((self.risk <= risk + 1e-12) & (self.coverage > skip))
        return int(within[-1]) if len(within) else None

    def risk_at(self, coverage: float) -> float:
        """Risk where a share of the rows is accepted."""
        return float(self.risk[self.at_coverage(coverage)])

    def coverage_at(self, risk: float) -> float:
        """Largest coverage of no more than a risk; 0 where none has it."""
        found = self.at_risk(risk)
        return 0.0 if found is None else float(self.coverage[found])

    def risk_above(self, threshold: float) -> float:
        """Risk of the rows whose score is at least a threshold; 0 where there is none."""
        accepted = int(np.searchsorted(-self.thresholds, -threshold, side="right"))
        return float(self.risk[accepted - 1]) if accepted else 0.0


def risk_coverage(scores: Any, wrong: Any, weights: Any = None) -> RiskCoverage:
    """Trace risk against coverage.

    Parameters
    ----------
    scores : float array (rows,)
        Confidence.
    wrong : bool array (rows,)
        Whether the prediction is wrong.
    weights : float array (rows,), optional
        How much each row counts; 1 by default.

    Raises
    ------
    FewerError
        If there are no rows, numbers differ, or a score is NaN.

    Examples
    --------
    >>> curve = risk_coverage([0.9, 0.8, 0.6, 0.4], [False, False, True, True])
    >>> curve.risk.round(3).tolist(), curve.risk_at(0.5), curve.coverage_at(0.34)
    ([0.0, 0.0, 0.333, 0.5], 0.0, 0.75)
    """
    scores, wrong = _scores(scores), np.asarray(wrong, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not scores.shape == wrong.shape == weights.shape:
        raise FewerError(
            f"risk and coverage need one score, one mistake and one weight a row; given "
            f"{scores.shape}, {wrong.shape}, {weights.shape}"
        )
    order = np.argsort(-scores, kind="stable")
    scores, wrong, weights = scores[order], wrong[order], weights[order]
    # rows of equal score are accepted together
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    accepted, mistakes = np.cumsum(weights)[last], np.cumsum(weights * wrong)[last]
    return RiskCoverage(accepted / accepted[-1], mistakes / accepted, scores[last])


def scod(inside: Any, wrong: Any, outside: Any, share: float = 0.5) -> RiskCoverage:
    """Selective classification with rows of another distribution among the others: accepting one of these is a mistake.

    The two kinds are weighted to the mixture, so no row is thinned out.  For the risk at a coverage of the rows inside,
    as the literature gives it, read ``risk_above(risk_coverage(inside, wrong).thresholds[...])``.

    Parameters
    ----------
    inside, outside : float arrays (rows,), (other rows,)
        Confidence.
    wrong : bool array (rows,)
        Mistakes inside.
    share : float, default 0.5
        Of the rows outside in the mixture.

    Examples
    --------
    >>> scod([3.0, 2.0], [False, True], [1.0, 0.0]).risk.round(3).tolist()
    [0.0, 0.5, 0.667, 0.75]
    """
    if not 0 < share < 1:
        raise FewerError(f"scod: the share of rows outside is {share}; give one between 0 and 1")
    inside, outside = _scores(inside), _scores(outside)
    weights = np.r_[np.full(len(inside), (1 - share) / len(inside)), np.full(len(outside), share / len(outside))]
    mistakes = np.r_[np.asarray(wrong, dtype=bool), np.ones(len(outside), dtype=bool)]
    return risk_coverage(np.r_[inside, outside], mistakes, weights)


def fpr_at_tpr(inside: Any, outside: Any, tpr: float = 0.95) -> float:
    """Share of rows outside that are accepted, at the threshold that accepts a share ``tpr`` of the rows inside.

    Examples
    --------
    >>> fpr_at_tpr([4.0, 3.0, 2.0, 1.0], [2.5, 0.0], tpr=0.75)
    0.5
    """
    inside, outside = _scores(inside), _scores(outside)
    curve = risk_coverage(inside, np.zeros(len(inside), dtype=bool))
    return float(np.mean(outside >= curve.thresholds[curve.at_coverage(tpr)]))


def auroc(inside: Any, outside: Any) -> float:
    """Probability that a row inside scores above one outside; a tie counts half.

    Examples
    --------
    >>> auroc([3.0, 2.0], [2.0, 1.0])
    0.875
    """
    inside, outside = _scores(inside), _scores(outside)
    ranks = rankdata(np.r_[inside, outside])[: len(inside)]
    return float((ranks.mean() - (len(inside) + 1) / 2) / len(outside))


def _scores(scores: Any) -> Float[np.ndarray, " rows"]:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise FewerError(f"scores have the shape {array.shape}; give one number a row, of one row or more")
    if np.isnan(array).any():
        raise FewerError(f"{np.isnan(array).sum()} scores are NaN; leave these rows out")
    return array


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise FewerError(f"{name} is {value}; give a share between 0 and 1")


def mistakes(
    probabilities: Float[np.ndarray, "rows classes"], y: Any, name: str = "labels"
) -> Bool[np.ndarray, " rows"]:
    """Where the most probable class is not the label.

    Raises
    ------
    FewerError
        If labels are not numbers of classes, one a row.
    """
    rows, classes = probabilities.shape
    labels = np.asarray(y)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise FewerError(
            f"{name} have the shape {labels.shape} of {labels.dtype}; give a class number for each of {rows} rows"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise FewerError(
            f"{name} run from {labels.min()} to {labels.max()}; with {classes} classes they are 0 to {classes - 1}"
        )
    return probabilities.argmax(axis=1) != labels
