"""Continue a learning curve: the distribution of every later score, and the chance to reach a target, in one pass.

A curve is brought to the frame of the network: samples to positions between 0 and 100, where 100 is the
*horizon*, and scores to [0, 1], where more is better.  What the network says there is brought back.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewer.core.curve import Curve
from fewer.core.errors import FewerError
from fewer.incontext.bar_distribution import BarDistribution
from fewer.incontext.lc_pfn import FORMAT, tokenise
from fewer.incontext.loop import Prompts, frozen
from fewer.incontext.prior_fitted_network import PriorFitted, PriorFittedNetwork

Array = np.ndarray


@dataclass(frozen=True)
class ScoreRange:
    """How scores are brought to [0, 1], where more is better, and back.

    With two finite bounds the map is linear.  Where a bound is infinite, the *typical* range is mapped to
    the part of a logistic curve between -1 and 1, where it is nearly straight, and that curve is stretched
    so that the bounds come to 0 and 1; with finite bounds and a typical range likewise.

    Parameters
    ----------
    low, high : float, default 0 and 1
        The scores lie between these; may be infinite.
    typical : tuple of two floats, optional
        Where most scores lie; needed with an infinite bound.
    lower_is_better : bool, default False
        For losses and errors.

    Raises
    ------
    FewerError
        If the bounds are out of order, or one is infinite and no typical range is given.

    Examples
    --------
    >>> ScoreRange(0, 100).to_unit(np.array([25.0]))
    array([0.25])
    >>> loss = ScoreRange(0, np.inf, typical=(0, 2.3), lower_is_better=True)
    >>> loss.to_unit(np.array([0.0, 2.3, 50.0])).round(2), loss.from_unit(loss.to_unit(np.array([0.7]))).round(6)
    (array([1.  , 0.37, 0.  ]), array([0.7]))
    """

    low: float = 0.0
    high: float = 1.0
    typical: tuple[float, float] | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise FewerError(f"score range: the lower bound must be below the upper one; given {self.low}, {self.high}")
        if self.typical is None and not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise FewerError("score range: with an infinite bound, say where scores typically lie")
        if self.typical is not None and not (
            self.low <= self.typical[0] < self.typical[1] <= self.high and all(map(math.isfinite, self.typical))
        ):
            raise FewerError(
                f"score range: the typical range must be finite and lie within {self.low:g} to {self.high:g}; "
                f"given {self.typical}"
            )

    def to_unit(self, scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Map scores to [0, 1]."""
        if self.typical is None:
            unit = (scores - self.low) / (self.high - self.low)
        else:
            bottom, top = self._bounds
            unit = (_logistic(self._straight(scores)) - bottom) / (top - bottom)
        return 1 - unit if self.lower_is_better else unit

    def from_unit(self, unit: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Map back; what lies outside [0, 1] comes to the nearest bound."""
        unit = np.clip(1 - unit if self.lower_is_better else unit, 0, 1)
        if self.typical is None:
            return self.low + unit * (self.high - self.low)
        bottom, top = self._bounds
        share = bottom + unit * (top - bottom)
        low, high = self.typical
        with np.errstate(divide="ignore"):
            straight = np.log(share) - np.log1p(-share)
        return np.clip((straight + 1) / 2 * (high - low) + low, self.low, self.high)

    def check(self, scores: Float[Array, " points"]) -> None:
        """Refuse scores outside the bounds."""
        out = scores[(scores < self.low) | (scores > self.high)]
        if len(out):
            raise FewerError(
                f"a score of {out[0]:g} is outside the range {self.low:g} to {self.high:g}; give the range that "
                "scores can have (in the command: --range 0,100)"
            )

    def _straight(self, scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        assert self.typical is not None
        low, high = self.typical
        return 2 * (scores - low) / (high - low) - 1

    @functools.cached_property
    def _bounds(self) -> tuple[float, float]:
        bounds = _logistic(self._straight(np.array([self.low, self.high], dtype=np.float64)))
        return float(bounds[0]), float(bounds[1])


UNIT = ScoreRange()
"""Scores that lie in [0, 1] as they are."""


def _logistic(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


@dataclass(frozen=True)
class Continuation:
    """The distribution of a curve's later scores, one for each number of samples that was asked about.

    Parameters
    ----------
    at : float array (queries,)
        Numbers of samples.
    logits : float tensor (queries, bars)
        Of the bars' masses, in the network's frame.
    distribution : BarDistribution
        The bars.
    scores : ScoreRange
        How scores were mapped.
    """

    at: Float[Array, " queries"]
    logits: Float[Tensor, "queries bars"]
    distribution: BarDistribution
    scores: ScoreRange

    @property
    def mean(self) -> Float[Array, " queries"]:
        """Expected score; where the range is bent, the expectation is taken in the network's frame."""
        return self.scores.from_unit(self.distribution.mean(self.logits).double().numpy())

    def quantile(self, chance: float) -> Float[Array, " queries"]:
        """The score with ``chance`` below it."""
        flipped = 1 - chance if self.scores.lower_is_better else chance
        return self.scores.from_unit(self.distribution.quantile(self.logits, flipped).double().numpy())

    def chance_of(self, target: float) -> Float[Array, " queries"]:
        """Chance that the score measured there is at least as good as ``target``."""
        unit = torch.as_tensor(self.scores.to_unit(np.array(target, dtype=np.float64)), dtype=self.logits.dtype)
        return 1 - self.distribution.cdf(self.logits, unit).double().numpy()


class LearningCurveExtrapolator:
    """A trained network, as a function of the beginning of a curve.

    Parameters
    ----------
    network : PriorFittedNetwork
        Trained on the family of curves.
    distribution : BarDistribution
        What its outputs mean.
    length : int
        Of the curves it was trained on.

    Examples
    --------
    >>> extrapolator = LearningCurveExtrapolator.load()
    >>> seen = Curve.of((epoch, 0.9 - 0.5 / epoch) for epoch in range(1, 21))
    >>> later = extrapolator.predict(seen, at=[50, 100], horizon=100)
    >>> bool((later.quantile(0.1) < 0.9).all() and (later.quantile(0.9) > 0.88).all())
    True
    >>> bool(extrapolator.chance_to_reach(seen, 0.99, horizon=100) < 0.05)
    True
    """

    def __init__(self, network: PriorFittedNetwork, distribution: BarDistribution, length: int) -> None:
        self.network, self.distribution, self.length = network.eval(), distribution, length
        self.answer = frozen(network, block=32)  # so many curves at once stay in a core's cache

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> LearningCurveExtrapolator:
        """Load weights that ``python -m fewer.incontext.train_lc_pfn`` wrote; by default those that come along.

        Raises
        ------
        FewerError
            If the file is missing, damaged, or of another kind.
        """
        return _shipped() if path is None else cls._read(Path(path))

    @classmethod
    def _read(cls, path: Path) -> LearningCurveExtrapolator:
        advice = "write one with python -m fewer.incontext.train_lc_pfn"
        if not path.is_file():
            raise FewerError(f"there are no weights at {path}; {advice}")
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {}).get("fewer", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if not isinstance(described, dict) or described.get("format") != FORMAT:
                raise FewerError(f"{path} holds no weights of this kind ({FORMAT}); {advice}")
            borders = tensors.pop("borders")
            network = PriorFitted(**described["architecture"]).build(2, len(borders) - 1, 0)
            network.load_state_dict(tensors)
            return cls(network, BarDistribution(borders), int(described["prior"]["length"]))
        except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
            line = str(error).splitlines()[0]
            raise FewerError(f"{path} is damaged ({line}); {advice}") from error

    def predict(
        self,
        curve: Curve | Sequence[float] | Float[Array, " points"],
        at: Sequence[float] | Float[Array, " queries"] | None = None,
        *,
        horizon: float | None = None,
        scores: ScoreRange = UNIT,
    ) -> Continuation:
        """The distribution of later scores.

        Parameters
        ----------
        curve : Curve, or sequence of float
            What was measured: a curve of scores against samples, or the scores of epochs 1, 2, 3 …
        at : sequence of float, optional
            Numbers of samples after the last one that was measured, up to the horizon; by default a
            hundredth of the horizon apart.
        horizon : float, optional
            The greatest number of samples of interest; by default that of the network, 100.  Curves are
            seen on this scale: points before a hundredth of it are not used, and of several within
            one hundredth the last one is.
        scores : ScoreRange, default ScoreRange()
            What scores can be.

        Raises
        ------
        FewerError
            If there is no point or a score is NaN or out of range; if the horizon is not beyond the last
            point, or so far that no point is left; if ``at`` lies outside.
        """
        horizon = float(self.length if horizon is None else horizon)
        x, y = self.frame(curve, horizon, scores)
        last = _last(curve)
        if not len(x):
            raise FewerError(
                f"extrapolation: the horizon ({horizon:g}) is more than {self.length} times the samples of the last "
                f"point ({last:g}); lower it"
            )
        queries = self.grid(last, horizon) if at is None else np.asarray(at, dtype=np.float64)
        if queries.ndim != 1 or not len(queries) or not ((queries > last) & (queries <= horizon)).all():
            raise FewerError(
                f"extrapolation: ask about numbers of samples after the last point ({last:g}) and up to the horizon "
                f"({horizon:g}); given {', '.join(f'{each:g}' for each in queries.flat) or 'none'}"
            )
        positions = torch.from_numpy(np.concatenate([x, queries * (self.length / horizon)])).float()
        values = torch.zeros_like(positions)
        values[: len(y)] = torch.from_numpy(y).float()
        tokens = tokenise(positions[None], values[None], self.length)
        logits = self.answer(Prompts(tokens, values[None], observed=len(x)))[0]
        return Continuation(queries, logits, self.distribution, scores)

    def chance_to_reach(
        self,
        curve: Curve | Sequence[float] | Float[Array, " points"],
        target: float,
        *,
        horizon: float | None = None,
        scores: ScoreRange = UNIT,
    ) -> float:
        """Chance that the score measured at the horizon is at least as good as the target."""
        end = float(self.length if horizon is None else horizon)
        return float(self.predict(curve, [end], horizon=end, scores=scores).chance_of(target)[0])

    def grid(self, last: float, horizon: float) -> Float[Array, " queries"]:
        """Numbers of samples after ``last`` and up to the horizon, a hundredth of it apart."""
        first = math.floor(last * self.length / horizon + 1e-9) + 1
        return np.append(np.arange(first, self.length) * (horizon / self.length), horizon)

    def frame(
        self, curve: Curve | Sequence[float] | Float[Array, " points"], horizon: float, scores: ScoreRange
    ) -> tuple[Float[Array, " used"], Float[Array, " used"]]:
        """Positions and scores of the points that the network is shown; none before a hundredth of the horizon."""
        if isinstance(curve, Curve):
            spent = np.array([point.spent for point in curve], dtype=np.float64)
            values = np.array([point.score for point in curve], dtype=np.float64)
        else:
            values = np.asarray(curve, dtype=np.float64)
            spent = np.arange(1.0, values.size + 1)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise FewerError("extrapolation: a curve is one score or more, and none of them NaN or infinite")
        scores.check(values)
        if not horizon > spent[-1]:
            raise FewerError(
                f"extrapolation: the horizon ({horizon:g}) must lie beyond the last point ({spent[-1]:g}); raise it"
            )
        x = spent * (self.length / horizon)
        use = x >= 1 - 1e-9
        cells = np.round(x)
        use[:-1] &= cells[1:] != cells[:-1]
        return x[use], scores.to_unit(values[use])


def _last(curve: Curve | Sequence[float] | Float[Array, " points"]) -> float:
    return float(curve.points[-1].spent if isinstance(curve, Curve) else len(curve))


@functools.cache
def _shipped() -> LearningCurveExtrapolator:
    with as_file(files("fewer.incontext") / "lc_pfn.safetensors") as path:
        return LearningCurveExtrapolator._read(path)


@dataclass
class StopHopeless:
    """Stop a run that will hardly end above the best one: the predictive early stopping of LC-PFN.

    Parameters
    ----------
    horizon : float
        Samples, epochs or steps that each run may spend.
    confidence : float, default 0.95
        A run is stopped when its chance to end above the best is below one minus this.
    least : int, default 3
        Points that the network must see of a run before it is judged: in different hundredths of the horizon.
    scores : ScoreRange, default ScoreRange()
        What scores can be.
    extrapolator : LearningCurveExtrapolator, optional
        By default with the weights that come along.

    Raises
    ------
    FewerError
        If ``confidence`` is not in (0, 1), or ``least`` is below 1.

    Examples
    --------
    >>> rule = StopHopeless(horizon=50)
    >>> poor = [0.5 - 0.3 / epoch for epoch in range(1, 21)]
    >>> rule(poor, best=0.9), rule(poor, best=0.4)
    (True, False)
    """

    horizon: float
    confidence: float = 0.95
    least: int = 3
    scores: ScoreRange = field(default_factory=ScoreRange)
    extrapolator: LearningCurveExtrapolator | None = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or self.least < 1:
            raise FewerError(
                f"stop hopeless: confidence must lie in (0, 1) and least be at least 1; given {self.confidence} "
                f"and {self.least}"
            )

    def __call__(self, curve: Curve | Sequence[float] | Float[Array, " points"], best: float | None) -> bool:
        """Whether to stop a run with this curve, when ``best`` is the best score of the others (None: there is none)."""
        if best is None or len(curve) < self.least or _last(curve) >= self.horizon:
            return False
        seen, _ = self._network.frame(curve, self.horizon, self.scores)
        return len(seen) >= self.least and self.chance(curve, best) < 1 - self.confidence

    def chance(self, curve: Curve | Sequence[float] | Float[Array, " points"], best: float) -> float:
        """Chance that the run ends at least as good as ``best``."""
        return self._network.chance_to_reach(curve, best, horizon=self.horizon, scores=self.scores)

    @property
    def _network(self) -> LearningCurveExtrapolator:
        return self.extrapolator or LearningCurveExtrapolator.load()
