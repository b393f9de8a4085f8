"""Rules that choose an arm from what each arm has paid: the rivals of a network that was trained to.

All bandits of a batch are decided at once, from how often each arm was pulled and what it paid in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

Counts = Float[Tensor, "bandits arms"]


class Rule(Protocol):
    """Chooses an arm of each bandit."""

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """Look at pulls and payments so far; draws only from ``generator``."""
        ...


@dataclass(frozen=True)
class RandomArm:
    """Any arm."""

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """Draw."""
        return torch.randint(counts.shape[1], (len(counts),), generator=generator)


@dataclass(frozen=True)
class EmpiricalMean:
    """The arm that paid most on the mean.

    Parameters
    ----------
    explore : bool, default True
        Pull each arm once first; without it, an arm that was never pulled is never chosen.
    """

    explore: bool = True

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """Greedy."""
        return _untried(sums / counts.clamp(min=1), counts, self.explore).argmax(-1)


@dataclass(frozen=True)
class UpperConfidenceBound:
    """Mean plus ``width / sqrt(pulls)``; each arm once first.

    Parameters
    ----------
    width : float, default 1
        How far it hopes.
    """

    width: float = 1.0

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """The most hopeful arm."""
        pulls = counts.clamp(min=1)
        return _untried(sums / pulls + self.width / pulls.sqrt(), counts, True).argmax(-1)


@dataclass(frozen=True)
class LowerConfidenceBound:
    """Mean less ``width / sqrt(pulls)``: for data that one cannot add to.  An arm that was never pulled is never chosen.

    Parameters
    ----------
    width : float, default 0.8
        How far it fears.
    """

    width: float = 0.8

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """The safest arm."""
        pulls = counts.clamp(min=1)
        return _untried(sums / pulls - self.width / pulls.sqrt(), counts, False).argmax(-1)


@dataclass(frozen=True)
class ThompsonSampling:
    """The best arm of a draw from the posterior, with normal prior and noise; of several draws the commonest.

    Parameters
    ----------
    mean, variance : float, default 0.5 and 1/12
        Of the prior of an arm's mean; these are a uniform distribution's.
    noise : float, default 0.3
        Standard deviation of a payment.
    draws : int, default 1
        1 while exploring; 100 for data that one cannot add to.
    """

    mean: float = 0.5
    variance: float = 1 / 12
    noise: float = 0.3
    draws: int = 1

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """Draw, and take the best."""
        mean, variance = normal_posterior(counts, sums, self.mean, self.variance, self.noise)
        noise = torch.randn(self.draws, *counts.shape, generator=generator)
        best = (mean + variance.sqrt() * noise).argmax(-1)
        return best[0] if self.draws == 1 else _commonest(best, counts.shape[1])


@dataclass(frozen=True)
class PosteriorMean:
    """The arm of the highest posterior mean: the best that can be done with given data, if the prior is right.

    Parameters
    ----------
    mean, variance, noise : float
        As in :class:`ThompsonSampling`.
    """

    mean: float = 0.5
    variance: float = 1 / 12
    noise: float = 0.3

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """The best on the mean."""
        return normal_posterior(counts, sums, self.mean, self.variance, self.noise)[0].argmax(-1)


@dataclass(frozen=True)
class LinearThompson:
    """Thompson sampling where an arm pays ``features . theta``, with a normal prior of ``theta`` around zero.

    Parameters
    ----------
    features : float tensor (arms, dimension)
        Known.
    variance : float, default 1
        Of the prior of each place of ``theta``.
    noise : float, default 0.3
        Standard deviation of a payment.
    draws : int, default 1
        As in :class:`ThompsonSampling`.
    """

    features: Float[Tensor, "arms dimension"]
    variance: float = 1.0
    noise: float = 0.3
    draws: int = 1

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """Draw, and take the best."""
        mean, covariance = linear_posterior(self.features, counts, sums, self.variance, self.noise)
        root = torch.linalg.cholesky(covariance)
        noise = torch.randn(self.draws, *mean.shape, generator=generator, dtype=mean.dtype)
        drawn = mean + (root @ noise[..., None]).squeeze(-1)
        best = (drawn @ self.features.to(mean.dtype).T).argmax(-1)
        return best[0] if self.draws == 1 else _commonest(best, len(self.features))


@dataclass(frozen=True)
class LinearUpperConfidenceBound:
    """LinUCB: the mean that the fit expects plus ``width`` standard deviations; with ``width=0`` the posterior mean's arm.

    Parameters
    ----------
    features : float tensor (arms, dimension)
        Known.
    width : float, default 1
        How far it hopes.
    variance : float, default 1
        Of the prior of each place of ``theta``.
    noise : float, default 0.3
        Standard deviation of a payment.
    """

    features: Float[Tensor, "arms dimension"]
    width: float = 1.0
    variance: float = 1.0
    noise: float = 0.3

    def choose(self, counts: Counts, sums: Counts, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """The most hopeful arm."""
        mean, covariance = linear_posterior(self.features, counts, sums, self.variance, self.noise)
        features = self.features.to(mean.dtype)
        spread = ((features @ covariance) * features).sum(-1).sqrt()
        return (mean @ features.T + self.width * spread).argmax(-1)


def normal_posterior(
    counts: Counts, sums: Counts, mean: float, variance: float, noise: float
) -> tuple[Float[Tensor, "bandits arms"], Float[Tensor, "bandits arms"]]:
    """Mean and variance of what each arm pays, given a normal prior and normal payments.

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> [float(each) for each in normal_posterior(4 * one, 4 * one, mean=0.0, variance=1.0, noise=2.0)]
    [0.5, 0.5]
    """
    precision = 1 / variance + counts / noise**2
    return (mean / variance + sums / noise**2) / precision, 1 / precision


def linear_posterior(
    features: Float[Tensor, "arms dimension"], counts: Counts, sums: Counts, variance: float, noise: float
) -> tuple[Float[Tensor, "bandits dimension"], Float[Tensor, "bandits dimension dimension"]]:
    """Mean and covariance of ``theta``, given a normal prior around zero and normal payments."""
    features = features.double()
    weighted = features.T @ (counts.double()[..., None] * features) / noise**2
    precision = weighted + torch.eye(features.shape[1], dtype=features.dtype) / variance
    covariance = torch.linalg.inv(precision)
    right = sums.double() @ features / noise**2
    return (covariance @ right[..., None]).squeeze(-1), covariance


def _untried(values: Tensor, counts: Tensor, explore: bool) -> Tensor:
    return values.masked_fill(counts == 0, math.inf if explore else -math.inf)


def _commonest(best: Int[Tensor, "draws bandits"], arms: int) -> Int[Tensor, " bandits"]:
    return torch.nn.functional.one_hot(best, arms).sum(0).argmax(-1)
