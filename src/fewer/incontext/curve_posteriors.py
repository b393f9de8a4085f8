"""What a network of curves is measured against: sampling the prior's own posterior, and two plain rules.

All answer the same question: the log density of later scores, given the first scores of a curve.  Importance
sampling is close to exact while few points are known; the Markov chain is what was done before.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import logsumexp

from fewer.incontext.curve_prior import CurvePrior

Array = np.ndarray


@dataclass(frozen=True)
class Answer:
    """What is said of the later points of curves.

    Parameters
    ----------
    log_density : float array (curves, later)
        Of the scores that came.
    mean : float array (curves, later)
        Expected scores.
    """

    log_density: Float[Array, "curves later"]
    mean: Float[Array, "curves later"]


class ImportanceSampling:
    """Draw many curves once, and weigh them by how well each explains the beginning of a given one.

    Parameters
    ----------
    prior : CurvePrior
        Where curves come from.
    draws : int
        How many.
    rng : NumPy generator
        Of the draws.
    """

    def __init__(self, prior: CurvePrior, draws: int, rng: np.random.Generator) -> None:
        raw = prior.draw(draws, rng)
        self.clean, self.log_noise = prior.clean(raw, prior.positions).astype(np.float32), raw[:, -1]

    def answer(self, curves: Float[Array, "curves length"], cut: int) -> Answer:
        """Continue curves from their first ``cut`` scores."""
        density, mean = [], []
        for curve in curves:
            off = ((curve[:cut] - self.clean[:, :cut]) ** 2).sum(axis=1)
            weights = -0.5 * off / np.exp(2 * self.log_noise) - cut * self.log_noise
            chosen = np.argsort(weights)[-2000:]  # the others weigh next to nothing
            weights = weights[chosen] - logsumexp(weights[chosen])
            later = self.clean[chosen, cut:]
            density.append(_mixture(curve[cut:], later, self.log_noise[chosen], weights))
            mean.append(np.exp(weights) @ later)
        return Answer(np.array(density), np.array(mean))


@dataclass(frozen=True)
class MarkovChain:
    """Affine-invariant ensemble sampling (Goodman and Weare, 2010) of the posterior over a curve's raw numbers.

    Each half of the walkers moves along lines through the other half.  The walkers begin at draws of the
    prior, chosen by their likelihood; the second half of the steps is kept.

    Parameters
    ----------
    prior : CurvePrior
        Where curves come from.
    walkers, steps : int, default 100 and 2000
        Walkers for each curve, and how often each of them moves.
    """

    prior: CurvePrior
    walkers: int = 100
    steps: int = 2000

    def answer(self, curves: Float[Array, "curves length"], cut: int, rng: np.random.Generator) -> Answer:
        """Continue curves from their first ``cut`` scores."""
        x, half = self.prior.positions, self.walkers // 2
        seen = curves[:, None, :cut]
        raw = np.stack([self._begin(curve[:cut], rng) for curve in curves])
        now = self._density(raw, seen)
        kept = []
        for step in range(self.steps):
            for one, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
                self._move(raw, now, one, other, seen, rng)
            if step >= self.steps // 2 and step % (self.steps // 20) == 0:
                kept.append(raw.copy())
        samples = np.concatenate(kept, axis=1)
        density, mean = [], []
        for curve, drawn in zip(curves, samples, strict=True):
            later = self.prior.clean(drawn, x[cut:])
            density.append(_mixture(curve[cut:], later, drawn[:, -1], np.full(len(drawn), -math.log(len(drawn)))))
            mean.append(later.mean(axis=0))
        return Answer(np.array(density), np.array(mean))

    def _begin(self, seen: Float[Array, " cut"], rng: np.random.Generator) -> Float[Array, "walkers raw"]:
        raw = self.prior.draw(20 * self.walkers, rng)
        keys = self.prior.log_likelihood(raw, self.prior.positions[: len(seen)], seen) + rng.gumbel(size=len(raw))
        return raw[np.argsort(keys)[-self.walkers :]]

    def _density(
        self, raw: Float[Array, "curves walkers raw"], seen: Float[Array, "curves 1 cut"]
    ) -> Float[Array, "curves walkers"]:
        flat = raw.reshape(-1, raw.shape[-1])
        every = np.broadcast_to(seen, (*raw.shape[:2], seen.shape[-1])).reshape(len(flat), -1)
        density = self.prior.log_raw(flat)
        inside = density > -np.inf
        density[inside] += self.prior.log_likelihood(
            flat[inside], self.prior.positions[: seen.shape[-1]], every[inside]
        )
        return density.reshape(raw.shape[:2])

    def _move(
        self,
        raw: Float[Array, "curves walkers raw"],
        now: Float[Array, "curves walkers"],
        one: slice,
        other: slice,
        seen: Float[Array, "curves 1 cut"],
        rng: np.random.Generator,
    ) -> None:
        """Move half of the walkers; the constraints are looked at last, where all else says yes."""
        mine, others = raw[:, one], raw[:, other]
        partner = rng.integers(others.shape[1], size=mine.shape[:2])
        stretch = (rng.random(mine.shape[:2]) + 1) ** 2 / 2
        from_ = np.take_along_axis(others, partner[..., None], axis=1)
        proposed = from_ + stretch[..., None] * (mine - from_)
        density = self._density(proposed, seen)
        chance = (raw.shape[-1] - 1) * np.log(stretch) + density - now[:, one]
        moved = np.log(rng.random(chance.shape)) < chance
        moved[moved] = self.prior.allowed(proposed[moved])
        mine[moved] = proposed[moved]
        now[:, one][moved] = density[moved]


def last_value(curves: Float[Array, "curves length"], cut: int, prior: CurvePrior, rng: np.random.Generator) -> Answer:
    """The last score goes on, with the Gaussian spread that suits the prior's curves best at this cut-off."""
    _, noisy = prior.sample(2000, rng)
    spread = math.sqrt(((noisy[:, cut:] - noisy[:, cut - 1 : cut]) ** 2).mean())
    mean = np.broadcast_to(curves[:, cut - 1 : cut], (len(curves), curves.shape[1] - cut))
    return Answer(_gaussian(curves[:, cut:], mean, math.log(spread)), mean)


def power_law(curves: Float[Array, "curves length"], cut: int) -> Answer:
    """The power law c - a x^-alpha that fits best, with the Gaussian spread of what it leaves over."""
    length = curves.shape[1]
    x = np.arange(1, length + 1, dtype=np.float64)
    bounds = ([-0.5, -1.0, 0.01], [1.5, 2.0, 5.0])
    mean, density = [], []
    for curve in curves:
        start = (float(np.clip(curve[cut - 1], -0.4, 1.4)), 0.1, 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # too few points for a covariance, which nobody reads
            try:
                best, _ = curve_fit(_pow3, x[:cut], curve[:cut], start, bounds=bounds, max_nfev=500)
            except RuntimeError:  # it does not come to an end
                best = (start[0], 0.0, 1.0)
        fitted = _pow3(x, *best)
        spread = math.sqrt(((curve - fitted)[:cut] ** 2).sum() / max(cut - 3, 1))
        mean.append(fitted[cut:])
        density.append(_gaussian(curve[cut:], fitted[cut:], math.log(max(spread, 1e-3))))
    return Answer(np.array(density), np.array(mean))


def _pow3(x: Array, c: float, a: float, alpha: float) -> Array:
    return c - a * x**-alpha


def _gaussian(y: Array, mean: Array, log_noise: Array | float) -> Array:
    return -0.5 * ((y - mean) / np.exp(log_noise)) ** 2 - log_noise - 0.5 * math.log(2 * math.pi)


def _mixture(
    y: Float[Array, " later"],
    means: Float[Array, "draws later"],
    log_noise: Float[Array, " draws"],
    log_weights: Float[Array, " draws"],
) -> Float[Array, " later"]:
    return np.asarray(logsumexp(_gaussian(y, means, log_noise[:, None]) + log_weights[:, None], axis=0))
