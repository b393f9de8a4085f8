"""What learning curves look like before one is seen: sums of parametric growth curves, with noise.

    f(x) = sum over components of weight * g(x; parameters),   weight ~ U(0, 1),   x = 1 … length
    y(x) = f(x) + N(0, noise),                                 log noise ~ N(-4, 1), one a curve

A draw is kept if f ends above where it began and never leaves [0, 1].  The growth curves and the
distributions of their parameters are those of Domhan et al. (2015), as chosen in Adriaensen et al.
(arXiv 2310.20447).  Every parameter is a uniform or a normal number, or a simple function of one; in
those *raw* numbers the prior's density is plain, which is what a sampler such as MCMC needs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from fewer.core.errors import FewerError, nearest

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of a growth curve, and how it is drawn.

    Parameters
    ----------
    kind : "uniform" or "normal"
        Of the raw number.
    first, second : float
        Its bounds, or its mean and standard deviation.
    through : "itself", "exp" or "one minus exp"
        What makes the parameter of the raw number.
    """

    kind: Literal["uniform", "normal"]
    first: float
    second: float
    through: Literal["itself", "exp", "one minus exp"] = "itself"


def _uniform(low: float, high: float) -> Parameter:
    return Parameter("uniform", low, high)


def _normal(mean: float, std: float) -> Parameter:
    return Parameter("normal", mean, std)


def _log_uniform(low: float, high: float) -> Parameter:
    return Parameter("uniform", low, high, "exp")


def _log_normal(mean: float, std: float) -> Parameter:
    return Parameter("normal", mean, std, "exp")


@dataclass(frozen=True, slots=True)
class Growth:
    """A growth curve: its formula and the prior of its parameters, in the order the formula takes them."""

    formula: Callable[..., Array]
    parameters: tuple[Parameter, ...]


def _pow3(x: Array, c: Array, a: Array, alpha: Array) -> Array:
    return c - a * x**-alpha


def _ilog2(x: Array, c: Array, a: Array) -> Array:
    return c - a / np.log(x + 1)


def _janoschek(x: Array, a: Array, beta: Array, k: Array, delta: Array) -> Array:
    return a - (a - beta) * np.exp(-k * x**delta)


def _log_power(x: Array, a: Array, b: Array, c: Array) -> Array:
    return a / (1 + (x / np.exp(b)) ** c)


def _weibull(x: Array, alpha: Array, beta: Array, kappa: Array, delta: Array) -> Array:
    return alpha - (alpha - beta) * np.exp(-((kappa * x) ** delta))


def _mmf(x: Array, alpha: Array, beta: Array, kappa: Array, delta: Array) -> Array:
    return alpha - (alpha - beta) / (1 + (kappa * x) ** delta)


def _vap(x: Array, a: Array, b: Array, c: Array) -> Array:
    return np.exp(a + b / x + c * np.log(x))


def _loglog_linear(x: Array, a: Array, b: Array) -> Array:
    return np.log(a * np.log(x) + b)


def _exp4(x: Array, c: Array, a: Array, b: Array, alpha: Array) -> Array:
    return c - np.exp(b - a * x**alpha)


def _pow4(x: Array, c: Array, a: Array, b: Array, alpha: Array) -> Array:
    return c - (a * x + b) ** -alpha


def _dr_hill(x: Array, theta: Array, eta: Array, kappa: Array) -> Array:
    return theta * x**eta / (kappa**eta + x**eta)


GROWTH: dict[str, Growth] = {
    "pow3": Growth(_pow3, (_uniform(0, 1.25), _uniform(-0.6, 0.6), _log_normal(0, 2))),
    "ilog2": Growth(_ilog2, (_uniform(0, 1), _uniform(-0.5, 0.5))),
    "janoschek": Growth(_janoschek, (_uniform(0, 1), _uniform(0, 2), _log_normal(-2, 1), _log_normal(0, 0.5))),
    "log_power": Growth(_log_power, (_normal(0.8, 0.1), _normal(1, 1), _uniform(-3, 0))),
    "weibull": Growth(_weibull, (_uniform(0, 1.5), _uniform(0, 1), _log_normal(-2, 1), _log_normal(0, 0.5))),
    "mmf": Growth(_mmf, (_normal(0.8, 0.1), _normal(0.2, 0.1), _log_normal(0, 2), _log_normal(0, 1))),
    "vap": Growth(_vap, (_uniform(-2, 0), _uniform(-4, 0), _log_uniform(-8, 0))),
    "loglog_linear": Growth(_loglog_linear, (_log_normal(-2, 1), _log_uniform(0, 1))),
    "exp4": Growth(_exp4, (_normal(0.8, 0.1), _log_normal(-2, 1), _log_normal(0, 0.5), _log_normal(0, 1))),
    "pow4": Growth(
        _pow4,
        (Parameter("uniform", -5, 0, "one minus exp"), _log_normal(-3, 2), _log_uniform(0, 1), _log_normal(0, 1)),
    ),
    "dr_hill": Growth(_dr_hill, (_normal(0.8, 0.1), _log_normal(1, 1), _log_normal(1, 2))),
}
"""Growth curves by name."""


@dataclass(frozen=True)
class CurvePrior:
    """A distribution over increasing learning curves with scores in [0, 1].

    Parameters
    ----------
    components : tuple of str, default ("pow3", "ilog2", "janoschek")
        Names out of :data:`GROWTH`.
    length : int, default 100
        Curves are held to their constraints at x = 1 … length.

    Raises
    ------
    FewerError
        If a component is unknown or named twice, or there is none, or ``length`` is below 2.

    Examples
    --------
    >>> clean, noisy = CurvePrior(length=50).sample(200, np.random.default_rng(0))
    >>> clean.shape, bool((clean[:, -1] > clean[:, 0]).all()), bool((clean >= 0).all() and (clean <= 1).all())
    ((200, 50), True, True)
    """

    components: tuple[str, ...] = ("pow3", "ilog2", "janoschek")
    length: int = 100

    def __post_init__(self) -> None:
        for name in self.components:
            if name not in GROWTH:
                raise FewerError(f"curve prior: there is no component {name!r}; {nearest(name, GROWTH)}")
        if not self.components or len(set(self.components)) < len(self.components) or self.length < 2:
            raise FewerError(
                "curve prior: give at least one component, none twice, and a length of at least 2; "
                f"given {', '.join(self.components) or 'no component'} and {self.length}"
            )

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the raw numbers, in order: for each component its weight and its parameters, and the noise last."""
        parts: list[Parameter] = []
        for name in self.components:
            parts += [_uniform(0, 1), *GROWTH[name].parameters]
        return (*parts, _log_normal(-4, 1))

    @property
    def positions(self) -> Float[Array, " length"]:
        """The grid 1 … length."""
        return np.arange(1, self.length + 1, dtype=np.float64)

    def propose(self, count: int, rng: np.random.Generator) -> Float[Array, "count raw"]:
        """Draw raw numbers without looking at the curves they make."""
        uniform, first, second = self._table
        drawn = np.empty((count, len(uniform)))
        drawn[:, uniform] = rng.random((count, int(uniform.sum())))
        drawn[:, ~uniform] = rng.standard_normal((count, int((~uniform).sum())))
        return first + drawn * np.where(uniform, second - first, second)

    def clean(self, raw: Float[Array, "count raw"], x: Float[Array, " positions"]) -> Float[Array, "count positions"]:
        """The curves of raw numbers, without noise; NaN and infinity where a formula has no value."""
        total = np.zeros((len(raw), len(x)))
        at = 0
        with np.errstate(all="ignore"):
            for name in self.components:
                growth = GROWTH[name]
                columns = raw[:, at + 1 : at + 1 + len(growth.parameters)]
                values = [_through(part, columns[:, i, None]) for i, part in enumerate(growth.parameters)]
                total += raw[:, at, None] * growth.formula(x, *values)
                at += 1 + len(values)
        return total

    def allowed(self, raw: Float[Array, "count raw"]) -> Bool[Array, " count"]:
        """Which curves end above their beginning and stay inside [0, 1]."""
        ends = self.clean(raw, np.array([1.0, self.length]))
        with np.errstate(invalid="ignore"):
            good = (ends[:, 1] > ends[:, 0]) & (ends >= 0).all(axis=1) & (ends <= 1).all(axis=1)
            whole = self.clean(raw[good], self.positions)  # most are refused by their ends alone
            good[good] = (whole >= 0).all(axis=1) & (whole <= 1).all(axis=1)
        return good

    def draw(self, count: int, rng: np.random.Generator) -> Float[Array, "count raw"]:
        """Draw the raw numbers of ``count`` allowed curves."""
        if count < 1:
            raise FewerError(f"curve prior: at least one curve must be drawn; {count} were asked for")
        kept: list[Array] = []
        have, asked, share = 0, 0, 0.2
        while have < count:
            wanted = min(math.ceil((count - have) / share * 1.1) + 16, 2_000_000 // self.length + 16)
            raw = self.propose(wanted, rng)
            raw = raw[self.allowed(raw)]
            kept.append(raw)
            have, asked = have + len(raw), asked + wanted
            share = max(have / asked, 1e-3)
        return np.concatenate(kept)[:count]

    def sample(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Float[Array, "count length"], Float[Array, "count length"]]:
        """Draw curves: without noise, and as they would be measured."""
        raw = self.draw(count, rng)
        clean = self.clean(raw, self.positions)
        return clean, clean + np.exp(raw[:, -1:]) * rng.standard_normal(clean.shape)

    def log_raw(self, raw: Float[Array, "count raw"]) -> Float[Array, " count"]:
        """Log density of raw numbers as :meth:`propose` draws them, up to a constant; minus infinity out of bounds."""
        uniform, first, second = self._table
        inside = ((raw >= first) & (raw <= second))[:, uniform].all(axis=1)
        off = (raw - first)[:, ~uniform] / second[~uniform]
        return np.where(inside, -0.5 * (off**2).sum(axis=1), -np.inf)

    def log_prior(self, raw: Float[Array, "count raw"]) -> Float[Array, " count"]:
        """The same of the curves that are allowed; minus infinity for all others."""
        density = self.log_raw(raw)
        inside = density > -np.inf
        density[inside] = np.where(self.allowed(raw[inside]), density[inside], -np.inf)
        return density

    def log_likelihood(
        self, raw: Float[Array, "count raw"], x: Float[Array, " seen"], y: Float[Array, "*rows seen"]
    ) -> Float[Array, " count"]:
        """Log density of what was measured, for each row of raw numbers; ``y`` may have a row for each too."""
        with np.errstate(all="ignore"):
            off = (y - self.clean(raw, x)) / np.exp(raw[:, -1:])
            density = -0.5 * (off**2).sum(axis=1) - len(x) * (raw[:, -1] + 0.5 * math.log(2 * math.pi))
        return np.where(np.isfinite(density), density, -np.inf)

    @functools.cached_property
    def _table(self) -> tuple[Array, Array, Array]:
        parts: Sequence[Parameter] = self.parameters
        uniform = np.array([part.kind == "uniform" for part in parts])
        return uniform, np.array([part.first for part in parts]), np.array([part.second for part in parts])


def _through(parameter: Parameter, raw: Array) -> Array:
    if parameter.through == "itself":
        return raw
    return np.exp(raw) if parameter.through == "exp" else 1 - np.exp(raw)
