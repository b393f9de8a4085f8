"""Exits after some models of a cascade, over outputs that are there already or asked for one by one.

It knows arrays and functions of row numbers, no models; :mod:`fewer.nets.window_cascade` says what is published about it
and puts fitted classifiers in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import generator
from fewer.nets.selective_prediction import (
    Kind,
    RiskCoverage,
    Score,
    check_score,
    confidence,
    mistakes,
    outputs_array,
    probabilities_of,
    risk_coverage,
    score_probabilities,
)

Target = tuple[Literal["risk", "coverage", "tpr"], float]
Rule = Literal["window", "single-threshold", "random", "single", "ensemble"]
Read = Callable[[int, Int[np.ndarray, " rows"]], tuple[Float[np.ndarray, "rows classes"], Float[np.ndarray, " rows"]]]
"""Asks a stage about some rows: ``(stage, rows) -> (probabilities, scores)``."""

LEAST_FOR_RISK = 200
"""Validation rows below which a share of mistakes says too little about a risk."""


@dataclass(frozen=True)
class Window:
    """Where a stage is unsure enough: scores from ``low`` to ``high`` are passed on, around the ``threshold``.

    An end that would reach past the lowest or the highest validation score is open.
    """

    low: float
    threshold: float
    high: float

    def holds(self, scores: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Which rows are passed on."""
        return (scores >= self.low) & (scores <= self.high)


@dataclass(frozen=True)
class Exits:
    """What a cascade gives for some rows.

    Parameters
    ----------
    probabilities : float array (rows, classes)
        Mean over the models that were asked.
    scores : float array (rows,)
        Confidence.
    passes : int array (rows,)
        How many models were asked.
    accepted : bool array (rows,)
        Whether the score reaches the threshold of the operating point.
    stages : int
        How many models there are.
    """

    probabilities: Float[np.ndarray, "rows classes"]
    scores: Float[np.ndarray, " rows"]
    passes: Int[np.ndarray, " rows"]
    accepted: Bool[np.ndarray, " rows"]
    stages: int

    @property
    def predictions(self) -> Int[np.ndarray, " rows"]:
        """The most probable class of each row, by number."""
        return self.probabilities.argmax(axis=1)

    @property
    def calls(self) -> Int[np.ndarray, " stages"]:
        """How many rows each model was asked about."""
        return np.array([np.count_nonzero(self.passes > stage) for stage in range(self.stages)])

    @property
    def saved(self) -> float:
        """Share of the passes saved, of those that asking every model about every row takes."""
        return 1 - float(self.passes.mean()) / self.stages

    def cost(self, costs: Sequence[float]) -> float:
        """Mean cost of a row, given the cost of each model (operations, seconds, money)."""
        if len(costs) != self.stages:
            raise FewerError(f"the cascade has {self.stages} models and {len(costs)} costs were given; give one each")
        return float(self.calls @ np.asarray(costs, dtype=np.float64)) / len(self.passes)


@dataclass
class EarlyExitCascade:
    """A cascade over stored outputs of two or more models, whatever they are.

    Members of an ensemble, checkpoints, heads at several depths: a stage is an array of logits or of probabilities, or
    a function that gives the rows asked for, which is then only called on rows that got so far.

    Parameters
    ----------
    target : tuple, default ("coverage", 0.8)
        The operating point: ``("risk", r)`` accepts as many rows as a share r of mistakes among them allows,
        ``("coverage", c)`` accepts a share c of the rows, ``("tpr", t)`` a share t of the rows of the validation
        distribution, to tell them from others.  The last two need no labels.
    width : float, default 0.1
        Half of the window, in shares of the rows: at 0 the first model decides alone, at 1 all are asked.
    confidence : {"msp", "entropy", "energy", "max-logit"}, default "msp"
        How sure a model is of a row; see :func:`~fewer.nets.selective_prediction.confidence`.
    kind : {"logits", "probabilities"}, default "logits"
        What the outputs are.
    combine : {"scores", "probabilities"}, default "scores"
        Score several models by the mean of their scores, or by the score of their mean probabilities (not for scores of
        logits).
    rule : str, default "window"
        Also the baselines: ``"single-threshold"`` passes on the share ``2 * width`` that is least sure, ``"random"`` as
        many at random, ``"single"`` none, ``"ensemble"`` all.
    seed : int, default 0
        Of the rule ``"random"``.

    Attributes
    ----------
    windows_ : tuple of Window
        One for each stage but the last.
    threshold_ : float
        What the cascade's own scores must reach to be accepted: the operating point on the validation rows.
    validation_ : Exits
        What the validation rows got.
    stages_, classes_ : int
        How many models and classes.

    Notes
    -----
    The published code takes the coverage whose risk is closest to the one asked for.  Here it is the largest whose risk
    is no higher, which is the definition of coverage at a risk and is not drawn to one crossing among several; the first
    tenth of the curve (500 rows at most) is not looked at, as there.

    References
    ----------
    arXiv:2303.08010.

    Examples
    --------
    Two models of like skill, 2,000 rows to calibrate on and 2,000 to use them on:

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(3, size=4000)
    >>> logits = [2 * np.eye(3)[y] + rng.normal(size=(4000, 3)) for _ in range(2)]
    >>> cascade = EarlyExitCascade(("risk", 0.05)).calibrate([each[:2000] for each in logits], y[:2000])
    >>> exits = cascade.run([each[2000:] for each in logits])
    >>> exits.calls.tolist(), round(exits.saved, 3), round(float(exits.accepted.mean()), 2)
    ([2000, 368], 0.408, 0.84)
    """

    target: Target = ("coverage", 0.8)
    width: float = 0.1
    confidence: Score = "msp"
    kind: Kind = "logits"
    combine: Literal["scores", "probabilities"] = "scores"
    rule: Rule = "window"
    seed: int = 0

    def calibrate(self, outputs: Sequence[Any], y: Any = None) -> EarlyExitCascade:
        """Find the windows and the threshold on validation rows, which no model was fitted on.

        Parameters
        ----------
        outputs : sequence of arrays or tensors (rows, classes)
            One a model, in the order in which they are asked; also one array (models, rows, classes).
        y : int array (rows,), optional
            Classes by number; needed for a risk.

        Raises
        ------
        FewerError
            If there are fewer than two models, their shapes differ, labels are missing or no class numbers, there are
            fewer than 200 rows for a risk, or an argument makes no sense.

        Warns
        -----
        UserWarning
            If no coverage has so low a risk; the least risk there is is aimed at instead.
        """
        check_score(self.confidence, self.kind)
        tables = _tables(outputs)
        rows, self.classes_ = tables[0].shape
        read = self.reader(tables)
        return self.calibrate_by(read, rows, len(tables), y)

    def run(self, outputs: Sequence[Any], rows: int | None = None) -> Exits:
        """Ask stage after stage, each only about the rows that the windows pass on.

        Parameters
        ----------
        outputs : sequence of arrays, tensors or functions
            As for :meth:`calibrate`; a function gets row numbers and gives their outputs, (rows asked for, classes).
        rows : int, optional
            How many rows there are, where every stage is a function.

        Returns
        -------
        Exits
        """
        stages, rows = self._stages(outputs, rows)
        return self.walk(self.reader(stages), rows)

    def adjusted(self, outputs: Sequence[Any]) -> EarlyExitCascade:
        """Fit the windows to unlabelled rows of a shifted distribution, around the same thresholds.

        Where rows come in a batch, the share that is passed on then stays what it was.

        Parameters
        ----------
        outputs : sequence of arrays (rows, classes)
            Of every model but the last, or of all.

        Returns
        -------
        EarlyExitCascade
            A new one.
        """
        check_calibrated(self, "windows_")
        tables = [outputs_array(each, f"outputs of model {index}") for index, each in enumerate(outputs)]
        if len(tables) < self.stages_ - 1:
            raise FewerError(
                f"outputs of {self.stages_ - 1} models are needed to adjust the windows; {len(tables)} given"
            )
        return self.adjusted_by(self.reader(tables), len(tables[0]))

    # --- shared with the cascade of estimators -------------------------------------------------

    def calibrate_by(self, read: Read, rows: int, stages: int, y: Any) -> EarlyExitCascade:
        """Calibrate on whatever ``read`` asks; the last stage is only asked about rows that get there."""
        self.check(rows, y)
        self.stages_ = stages
        every = np.arange(rows)
        known: list[tuple[np.ndarray, np.ndarray]] = []
        windows = []
        for scores, probabilities in self._growing(read, every, stages - 1, known):
            threshold = self._threshold(scores, probabilities, y)
            windows.append(self._window(scores, threshold))
        self.windows_ = tuple(windows)
        self.threshold_ = -np.inf

        def again(stage: int, asked: Int[np.ndarray, " rows"]) -> Any:
            return [part[asked] for part in known[stage]] if stage < len(known) else read(stage, asked)

        exits = self.walk(again, rows)
        self.threshold_ = self._threshold(exits.scores, exits.probabilities, y, warn=True)
        accepted = exits.scores >= self.threshold_
        self.validation_ = Exits(exits.probabilities, exits.scores, exits.passes, accepted, stages)
        return self

    def walk(self, read: Read, rows: int) -> Exits:
        """Ask stage after stage; see :meth:`run`."""
        check_calibrated(self, "windows_")
        asked = np.arange(rows)
        probabilities, scores = read(0, asked)
        probabilities, scores = probabilities.copy(), scores.copy()
        passes = np.ones(rows, dtype=np.int64)
        for stage in range(1, self.stages_):
            asked = asked[self._passed_on(stage - 1, scores[asked])]
            if not len(asked):
                break
            new, new_scores = read(stage, asked)
            probabilities[asked] += (new - probabilities[asked]) / (stage + 1)
            if self.combine == "scores":
                scores[asked] += (new_scores - scores[asked]) / (stage + 1)
            else:
                scores[asked] = score_probabilities(probabilities[asked], self.confidence)
            passes[asked] = stage + 1
        return Exits(probabilities, scores, passes, scores >= self.threshold_, self.stages_)

    def adjusted_by(self, read: Read, rows: int) -> EarlyExitCascade:
        """Adjust to whatever ``read`` asks; see :meth:`adjusted`."""
        made = copy(self)
        grown = self._growing(read, np.arange(rows), self.stages_ - 1, [])
        made.windows_ = tuple(
            self._window(scores, window.threshold) for (scores, _), window in zip(grown, self.windows_, strict=True)
        )
        return made

    def _growing(self, read: Read, rows: np.ndarray, stages: int, known: list[Any]) -> Any:
        """Scores and probabilities of the first model, of the first two, …; what was read is kept in ``known``."""
        probabilities = scores = np.zeros(())
        for stage in range(stages):
            known.append(read(stage, rows))
            new, new_scores = known[-1]
            probabilities = probabilities + (new - probabilities) / (stage + 1)
            if self.combine == "scores":
                scores = scores + (new_scores - scores) / (stage + 1)
            else:
                scores = score_probabilities(probabilities, self.confidence)
            yield scores, probabilities

    def _passed_on(self, stage: int, scores: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        if self.rule == "random":
            return generator(self.seed, "random exits", stage).random(len(scores)) < 2 * self.width
        return self.windows_[stage].holds(scores)

    def _window(self, scores: Float[np.ndarray, " rows"], threshold: float) -> Window:
        if self.rule == "ensemble":
            return Window(-np.inf, threshold, np.inf)
        if self.rule == "single" or self.width == 0:
            return Window(np.inf, threshold, -np.inf)
        if self.rule == "single-threshold":
            share = 2 * self.width
            return Window(-np.inf, threshold, float(np.quantile(scores, share)) if share < 1 else np.inf)
        share = (np.mean(scores < threshold) + np.mean(scores <= threshold)) / 2
        low, high = share - self.width, share + self.width
        return Window(
            float(np.quantile(scores, low)) if low > 0 else -np.inf,
            threshold,
            float(np.quantile(scores, high)) if high < 1 else np.inf,
        )

    def _threshold(self, scores: np.ndarray, probabilities: np.ndarray, y: Any, warn: bool = False) -> float:
        name, value = self.target
        wrong = np.zeros(len(scores), dtype=bool) if name != "risk" else mistakes(probabilities, y, "validation labels")
        curve = risk_coverage(scores, wrong)
        if name != "risk":
            return float(curve.thresholds[curve.at_coverage(value)])
        found = curve.at_risk(value, skip := _unstable(len(scores)))
        if found is None:
            found = _safest(curve, skip)
            if warn:
                warnings.warn(
                    f"window cascade: no coverage has a risk of {value:g} on the validation rows; the least is "
                    f"{curve.risk[found]:.4f} at a coverage of {curve.coverage[found]:.3f}, which is aimed at instead",
                    stacklevel=4,
                )
        return float(curve.thresholds[found])

    def check(self, rows: int, y: Any) -> None:
        """Refuse settings that make no sense, and validation rows that cannot tell the operating point."""
        named = isinstance(self.target, tuple | list) and len(self.target) == 2
        if not named or self.target[0] not in ("risk", "coverage", "tpr") or not 0 < self.target[1] <= 1:
            raise FewerError(
                f"window cascade: target is {self.target!r}; give ('risk', 0.05), ('coverage', 0.8) or ('tpr', 0.95)"
            )
        if not 0 <= self.width <= 1:
            raise FewerError(f"window cascade: width is {self.width}; give a share of the rows between 0 and 1")
        if self.rule not in get_args(Rule):
            raise FewerError(f"window cascade: unknown rule {self.rule!r}; {nearest(self.rule, get_args(Rule))}")
        if self.combine not in ("scores", "probabilities"):
            raise FewerError(f"window cascade: combine is {self.combine!r}; choose 'scores' or 'probabilities'")
        if self.combine == "probabilities" and self.confidence in ("energy", "max-logit"):
            raise FewerError(f"window cascade: mean probabilities have no {self.confidence}; use combine='scores'")
        if not rows:
            raise FewerError("window cascade: there are no validation rows; give some that no model was fitted on")
        if self.target[0] == "risk":
            if y is None:
                raise FewerError(
                    "window cascade: a risk needs the labels of the validation rows; give y, or a coverage"
                )
            if rows < LEAST_FOR_RISK:
                raise FewerError(
                    f"window cascade: {rows} validation rows are too few to tell a risk; give {LEAST_FOR_RISK} or more, "
                    "or a coverage"
                )

    def _stages(self, outputs: Sequence[Any], rows: int | None) -> tuple[list[Any], int]:
        check_calibrated(self, "windows_")
        stages = [
            each if callable(each) else outputs_array(each, f"outputs of model {index}")
            for index, each in enumerate(outputs)
        ]
        if len(stages) != self.stages_:
            raise FewerError(
                f"the cascade was calibrated with {self.stages_} models; outputs of {len(stages)} were given"
            )
        tables = [each for each in stages if not callable(each)]
        lengths = {len(each) for each in tables} | ({rows} if rows is not None else set())
        if len(lengths) != 1:
            given = ", ".join(map(str, sorted(lengths))) or "none, as every stage is a function"
            raise FewerError(f"outputs must be of equally many rows; given: {given}")
        return stages, lengths.pop()

    def reader(self, stages: Sequence[Any]) -> Read:
        """Make probabilities and scores of what stages give, in double precision."""

        def read(stage: int, asked: Int[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
            source = stages[stage]
            if callable(source):
                values = outputs_array(source(asked), f"outputs of model {stage}")
            else:  # checked when it came in
                values = source if len(asked) == len(source) else source[asked]
            if values.shape != (len(asked), self.classes_):
                raise FewerError(
                    f"outputs of model {stage} have the shape {values.shape}; ({len(asked)}, {self.classes_}) was asked for"
                )
            probabilities = probabilities_of(values, self.kind)
            if self.confidence in ("energy", "max-logit"):
                return probabilities, confidence(values, self.confidence, self.kind)
            return probabilities, score_probabilities(probabilities, self.confidence)

        return read


def _tables(outputs: Sequence[Any]) -> list[Float[np.ndarray, "rows classes"]]:
    tables = [outputs_array(each, f"outputs of model {index}") for index, each in enumerate(outputs)]
    if len(tables) < 2:
        raise FewerError(f"a cascade needs the outputs of two models or more; {len(tables)} given")
    for index, table in enumerate(tables[1:], 1):
        if table.shape != tables[0].shape:
            raise FewerError(
                f"outputs of model {index} have the shape {table.shape} and those of model 0 {tables[0].shape}; "
                "give the same rows and classes, in the same order, for every model"
            )
    return tables


def _unstable(rows: int) -> float:
    """Share of the curve where a risk is told by too few rows: the first 500, or a tenth where there are fewer."""
    return min(500, rows // 10) / rows


def _safest(curve: RiskCoverage, skip: float) -> int:
    beyond = np.flatnonzero(curve.coverage > skip)
    return int(beyond[np.argmin(curve.risk[beyond])])


def check_calibrated(cascade: Any, name: str) -> None:
    """Refuse to use a cascade that has not seen validation rows."""
    if not hasattr(cascade, name):
        raise FewerError(f"this {type(cascade).__name__} has no windows yet; call calibrate with validation rows first")
