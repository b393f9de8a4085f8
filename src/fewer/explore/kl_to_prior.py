"""The price of leaving a prior policy, for deep agents: a term of the actor's loss, and a shaped reward.

The same objective as :mod:`fewer.explore.demo_regularized`, return less lambda times KL(pi || prior), where the policy is a
network and the prior a clone of demonstrations, or the model that training began from.

References
----------
Daniil Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv:2310.17303.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, kl_divergence

from fewer.core.errors import FewerError


class KLToPrior(nn.Module):
    """What a policy pays for leaving a prior.

    Parameters
    ----------
    prior : callable
        From observations to a ``torch.distributions.Distribution`` over actions, or to logits (batch, actions).  It is not
        trained: its parameters get no gradient.
    strength : float
        Lambda, positive, in units of reward a nat.

    Raises
    ------
    FewerError
        If ``strength`` is not positive, or the prior gives an action no probability (smooth it).

    Examples
    --------
    >>> price = KLToPrior(lambda observations: torch.zeros(len(observations), 2), strength=0.5)
    >>> observations, logits = torch.zeros(3, 4), torch.tensor([[0.0, 0.0]] * 3)
    >>> price(logits, observations)
    tensor([0., 0., 0.])
    """

    def __init__(self, prior: Callable[[Any], Distribution | Tensor], strength: float) -> None:
        super().__init__()
        if not 0 < strength < math.inf:
            raise FewerError(f"kl-to-prior: strength must be positive and finite; {strength} was given")
        self.prior, self.strength = prior, strength

    def forward(
        self, policy: Distribution | Float[Tensor, "batch actions"], observations: Any
    ) -> Float[Tensor, " batch"]:
        """Lambda times the divergence at each observation, to be added to an actor's loss.

        Parameters
        ----------
        policy : Distribution, or float tensor (batch, actions)
            The actor's distribution, or its logits; differentiable.
        observations : tensor, or whatever the prior takes
            Where.
        """
        return self.strength * kl_divergence(_distribution(policy), self._prior(observations))

    def penalty(
        self, log_probability: Float[Tensor, " batch"], actions: Tensor, observations: Any
    ) -> Float[Tensor, " batch"]:
        """Lambda times the log-ratio of what was done: its mean over the policy's actions is :meth:`forward`.

        Subtract it from rewards, or add it to the loss of a reparameterised actor.

        Parameters
        ----------
        log_probability : float tensor (batch,)
            Of the actions, under the policy that chose them.
        actions : tensor (batch, ...)
            What was done.
        observations : tensor, or whatever the prior takes
            Where.
        """
        return self.strength * (log_probability - self._prior(observations, gradient=True).log_prob(actions))

    def soft_values(self, values: Float[Tensor, "batch actions"], observations: Any) -> Float[Tensor, " batch"]:
        """The best that a policy of numbered actions can make of their values if it pays: a soft target for critics."""
        return self.strength * torch.logsumexp(values / self.strength + self._logits(observations), dim=-1)

    def soft_policy(self, values: Float[Tensor, "batch actions"], observations: Any) -> Float[Tensor, "batch actions"]:
        """Its probabilities."""
        return torch.softmax(values / self.strength + self._logits(observations), dim=-1)

    def _prior(self, observations: Any, gradient: bool = False) -> Distribution:
        # the prior's parameters stay as they are, but a reparameterised action's gradient goes through its density
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            given = _distribution(self.prior(observations))
        if isinstance(given, Categorical) and not torch.isfinite(given.logits).all():
            raise FewerError(
                "kl-to-prior: the prior gives some action no probability, so its price would be infinite; mix in a share "
                "of uniform actions"
            )
        return given

    def _logits(self, observations: Any) -> Tensor:
        given = self._prior(observations)
        if not isinstance(given, Categorical):
            raise FewerError(f"kl-to-prior: soft values need numbered actions; the prior is a {type(given).__name__}")
        return given.logits


def strength_for(demonstrations: int, base: float = 0.02) -> float:
    """Lambda for a number of demonstrations: it grows with their square root.

    Examples
    --------
    >>> strength_for(100)
    0.2
    """
    if demonstrations < 1 or not base > 0:
        raise FewerError(
            f"kl-to-prior: at least one demonstration and a positive base are needed; given {demonstrations} and {base}"
        )
    return base * math.sqrt(demonstrations)


def _distribution(given: Distribution | Tensor) -> Distribution:
    return given if isinstance(given, Distribution) else Categorical(logits=given)
