"""What is made small: token by token, from log-probabilities now and then, and advantages.

References
----------
Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347.  Yu et al., "DAPO: An Open-Source LLM
Reinforcement Learning System at Scale" (the upper bound apart from the lower one), 2025, arXiv:2503.14476.  John Schulman,
"Approximating KL Divergence", 2020 (the estimators k1, k2 and k3).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.core.errors import FewerError

Tokens = Float[Tensor, "rows new"]


class Objective(Protocol):
    """What is made small: the losses of tokens, which depend on nothing else by default."""

    @property
    def reference(self) -> bool:
        """Whether it reads log-probabilities of the model that the run began with."""
        return False

    @property
    def fits(self) -> bool:
        """Whether it changes with each batch; then the loop computes log-probabilities before it asks for losses."""
        return False

    @property
    def everywhere(self) -> bool:
        """Whether something may be learned from tokens whose advantage is zero; False spares rollouts of such tokens a gradient.

        An objective that says False must have losses of zero at these tokens, and no gradient, whatever the log-probabilities.
        """
        return True

    def fitted(
        self, logps: Tokens, old: Tokens, advantages: Tokens, mask: Bool[Tensor, "rows new"]
    ) -> tuple[Objective, dict[str, float]]:
        """The objective for one update, from all of the update's tokens, and what is to be noted of it."""
        return self, {}

    @abstractmethod
    def losses(self, logps: Tokens, old: Tokens, advantages: Tokens, reference: Tokens | None) -> Tokens:
        """Of each token; whoever calls takes the mean."""
        ...


def ratios(logps: Tokens, old: Tokens) -> Tokens:
    """How much likelier each token has become; the logarithm is kept within 20.

    Examples
    --------
    >>> ratios(torch.tensor([[0.0, 50.0]]), torch.zeros(1, 2)).tolist()
    [[1.0, 485165184.0]]
    """
    return (logps - old).clamp(-20, 20).exp()


def clipped_surrogate(ratio: Tokens, advantages: Tokens, low: float, high: float, dual: float | None = None) -> Tokens:
    """PPO's clipped surrogate of each token, to be made large; bounds are those of the ratio.

    Parameters
    ----------
    ratio, advantages : float tensor (rows, new)
        As they are.
    low, high : float
        No gain is seen in a ratio below the one or above the other.
    dual : float, optional
        No loss of a token of negative advantage counts for more than this times the advantage.

    Examples
    --------
    >>> ratio, advantages = torch.tensor([[2.0, 2.0, 0.5, 0.5]]), torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    >>> clipped_surrogate(ratio, advantages, 0.8, 1.25).tolist()
    [[1.25, -2.0, 0.5, -0.800000011920929]]
    """
    least = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    return least if dual is None else torch.where(advantages < 0, torch.maximum(least, dual * advantages), least)


def divergence(logps: Tokens, reference: Tokens, kind: Literal["k1", "k2", "k3"] = "k3") -> Tokens:
    """Estimate how far a policy is from a reference, at tokens that the policy drew.

    Examples
    --------
    >>> logps, reference = torch.tensor([[-1.0]]), torch.tensor([[-1.5]])
    >>> [round(float(divergence(logps, reference, kind)), 4) for kind in ("k1", "k2", "k3")]
    [0.5, 0.125, 0.1065]
    """
    away = reference - logps
    if kind == "k1":
        return -away
    if kind == "k2":
        return away.square() / 2
    if kind == "k3":
        return away.exp() - 1 - away
    raise FewerError(f"divergence: kind is {kind!r}; choose k1, k2 or k3")


@dataclass(frozen=True)
class Clipped(Objective):
    """PPO's clipped surrogate, with a pull towards the first model where one is wanted.

    Parameters
    ----------
    low, high : float, default 0.8 and 1.2
        Bounds of the ratio; DAPO's are 0.8 and 1.28.
    kl : float, default 0
        Weight of the divergence from the model that the run began with, by its estimator k3.
    dual : float, optional
        See :func:`clipped_surrogate`.

    Raises
    ------
    FewerError
        If 1 is not between the bounds, or a weight is negative.
    """

    low: float = 0.8
    high: float = 1.2
    kl: float = 0.0
    dual: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high or self.kl < 0:
            raise FewerError(f"clipped objective: low <= 1 <= high and kl >= 0 are needed; given {self}")

    @property
    def reference(self) -> bool:
        """Only for the divergence."""
        return self.kl > 0

    @property
    def everywhere(self) -> bool:
        """Only by the divergence, or by losses that a subclass writes itself."""
        return self.kl > 0 or type(self).losses is not Clipped.losses

    def losses(self, logps: Tokens, old: Tokens, advantages: Tokens, reference: Tokens | None) -> Tokens:
        """Of each token."""
        losses = -clipped_surrogate(ratios(logps, old), advantages, self.low, self.high, self.dual)
        if self.kl:
            assert reference is not None
            losses = losses + self.kl * divergence(logps, reference)
        return losses


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """REINFORCE: log-probabilities weighed by advantages."""

    @property
    def everywhere(self) -> bool:
        """Only by losses that a subclass writes itself."""
        return type(self).losses is not PolicyGradient.losses

    def losses(self, logps: Tokens, old: Tokens, advantages: Tokens, reference: Tokens | None) -> Tokens:
        """Of each token."""
        return -logps * advantages
