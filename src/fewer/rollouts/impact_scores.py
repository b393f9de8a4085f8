"""How much a prompt matters, by the curves of a training run: LIMR's scores, and a rival's choice.

See :mod:`fewer.rollouts.limr` for the equations and the paper.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator

from fewer.core.errors import FewerError

T = TypeVar("T")


def filled(curves: Float[np.ndarray, "prompts epochs"]) -> Float[np.ndarray, "prompts epochs"]:
    """Curves in which what is missing has the next epoch's value; rows stay NaN where there is none.

    Examples
    --------
    >>> filled(np.array([[np.nan, 0.5, 1.0], [0.5, np.nan, np.nan]])).tolist()
    [[0.5, 0.5, 1.0], [0.5, nan, nan]]
    """
    found = np.array(curves, dtype=np.float64)
    for epoch in range(found.shape[1] - 1):
        gap = np.isnan(found[:, epoch])
        found[gap, epoch] = np.asarray(curves)[gap, epoch + 1]
    return found


def alignment(curves: Float[np.ndarray, "prompts epochs"]) -> tuple[np.ndarray, np.ndarray]:
    """Score of each prompt, NaN where its curve has a gap, and the average curve of the others.

    Raises
    ------
    FewerError
        If everything is solved in every epoch, so that nothing can be told apart.

    Examples
    --------
    >>> scores, mean = alignment(np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 1.0]]))
    >>> scores.round(2).tolist(), mean.tolist()
    ([0.0, 0.0, 1.0], [0.5, 1.0])
    """
    valid = ~np.isnan(curves).any(1)
    mean = curves[valid].mean(0) if valid.any() else np.full(curves.shape[1], np.nan)
    room = np.square(1 - mean).sum()
    if not room > 0:
        raise FewerError("limr: the average curve is 1, or no prompt has a whole curve: nothing to select")
    return 1 - np.square(curves - mean).sum(1) / room, mean


class LIM(BaseEstimator):
    """Select prompts by the curves of a training run.

    Parameters
    ----------
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.

    Attributes
    ----------
    scores_ : float array (prompts,)
        1 for the average curve, NaN for one with a gap.
    mean_curve_ : float array (epochs,)
        The average curve.
    kept_ : int array
        Places of prompts that are kept, in their order.

    Examples
    --------
    >>> curves = [[0.0, 0.0, 0.1], [0.1, 0.5, 0.9], [1.0, 1.0, 1.0], [0.3, 0.6, 0.9]]
    >>> LIM().fit(curves).transform(["never", "learned", "always", "learned, too"])
    ['learned', 'learned, too']
    """

    def __init__(self, threshold: float = 0.6, most: int | None = None) -> None:
        self.threshold, self.most = threshold, most

    def fit(self, curves: Any, y: object = None) -> LIM:
        """Score prompts.

        Parameters
        ----------
        curves : array (prompts, epochs), or a list of mappings
            Shares of right completions, NaN where a prompt was not tried; or ``prompt_id``, ``epoch`` and ``reward`` of
            each trial, prompts in the order in which they first come.

        Raises
        ------
        FewerError
            If there is one epoch only, a value is no share, or nothing is left.
        """
        curves = filled(as_curves(curves))
        self.scores_, self.mean_curve_ = alignment(curves)
        if self.mean_curve_[-1] < 0.4:
            warnings.warn(
                f"limr: the average curve ends at {self.mean_curve_[-1]:.2f}; where most is never solved, prompts that are "
                "never solved score high, too: train longer before selecting",
                stacklevel=2,
            )
        ranked = np.where(np.isnan(self.scores_), -np.inf, self.scores_)
        order = np.argsort(-ranked, kind="stable")
        order = order[np.isfinite(ranked[order])]
        chosen = order[: self.most] if self.most is not None else order[ranked[order] >= self.threshold]
        if not len(chosen):
            tenth = ranked[order[max(0, len(order) // 10 - 1)]]
            raise FewerError(
                f"limr: no prompt scores {self.threshold:g}; the best has {ranked[order[0]]:.2f}, and a threshold of "
                f"{tenth:.2f} would keep a tenth"
            )
        self.kept_ = np.sort(chosen)
        return self

    def transform(self, prompts: Sequence[T]) -> list[T]:
        """Give the prompts that are kept.

        Raises
        ------
        FewerError
            If there are not as many as curves.
        """
        if len(prompts) != len(self.scores_):
            raise FewerError(
                f"limr: {len(self.scores_)} curves were given and {len(prompts)} prompts; give one of each"
            )
        return [prompts[place] for place in self.kept_]


def as_curves(given: Any) -> Float[np.ndarray, "prompts epochs"]:
    """Curves as an array, from an array or a log.

    Raises
    ------
    FewerError
        If it is neither, has one epoch only, or a value is not between 0 and 1.

    Examples
    --------
    >>> log = [{"prompt_id": "a", "epoch": 0, "reward": each} for each in (1, 0)] + [{"prompt_id": "a", "epoch": 1, "reward": 1}]
    >>> as_curves(log).tolist()
    [[0.5, 1.0]]
    """
    if isinstance(given, Iterable) and not isinstance(given, np.ndarray):
        given = list(given)
        if given and isinstance(given[0], Mapping):
            given = _from_log(given)
    curves = np.asarray(given, dtype=np.float64)
    if curves.ndim != 2 or not len(curves) or curves.shape[1] < 2:
        raise FewerError(
            f"limr: curves of shape {curves.shape} were given; give (prompts, epochs) with two epochs or more"
        )
    seen = curves[~np.isnan(curves)]
    if ((seen < 0) | (seen > 1)).any():
        raise FewerError(
            f"limr: a value is {seen[(seen < 0) | (seen > 1)][0]:g}; give shares of right completions, from 0 to 1, not rewards"
        )
    return curves


def _from_log(log: list[Mapping[str, Any]]) -> np.ndarray:
    try:
        prompts = {name: row for row, name in enumerate(dict.fromkeys(each["prompt_id"] for each in log))}
        epochs = {epoch: column for column, epoch in enumerate(sorted({each["epoch"] for each in log}))}
        total, count = np.zeros((len(prompts), len(epochs))), np.zeros((len(prompts), len(epochs)))
        for each in log:
            place = prompts[each["prompt_id"]], epochs[each["epoch"]]
            total[place] += float(each["reward"])
            count[place] += 1
    except (KeyError, TypeError, ValueError) as error:
        raise FewerError(
            f"limr: each row of a log has prompt_id, epoch and reward; {error} is wrong or missing"
        ) from error
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def steady_improvement(curves: Any, fit: float = 0.7) -> Int[np.ndarray, " kept"]:
    """The rival selection: prompts whose curves rise along a straight line.

    Parameters
    ----------
    curves : array (prompts, epochs)
        Shares of right completions.
    fit : float, default 0.7
        Least share of the variance that the line explains.

    Examples
    --------
    >>> steady_improvement([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]]).tolist()
    [0]
    """
    curves = filled(as_curves(curves))
    epochs = np.arange(curves.shape[1]) - (curves.shape[1] - 1) / 2
    centred = curves - curves.mean(1, keepdims=True)
    slope = centred @ epochs / (epochs @ epochs)
    total = np.square(centred).sum(1)
    explained = np.divide(slope**2 * (epochs @ epochs), total, out=np.zeros(len(curves)), where=total > 1e-12)
    return np.nonzero((slope > 0) & (explained >= fit))[0]
