"""A short chain of denoising steps, as diffusion Q-learning has it: a small network, and gradients through all of it.

At each step the action is guessed and kept in bounds, and the step before is drawn from its posterior:

    a^ = clip((x_t - sqrt(1 - abar_t) network) / sqrt(abar_t)),     x_{t-1} ~ N(c1_t a^ + c2_t x_t, s_t^2)

References
----------
Wang, Hunt and Zhou, "Diffusion Policies as an Expressive Policy Class for Offline Reinforcement Learning", ICLR 2023,
arXiv:2208.06193.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.control.diffusion_policies import Denoiser
from fewer.control.generative_policies import VelocityNet
from fewer.control.policies import Actions, Observations
from fewer.core.errors import FewerError

RATES = 0.02, 1.0
"""Of the waves that the number of a step is embedded as."""


@dataclass(frozen=True)
class DenoisingChain:
    """A chain of a few steps.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256, 256)
        Widths of the hidden layers, with Mish between them.
    steps : int, default 5
        Of the chain.
    jumps : int, default 1
        Steps of the sampler without noise of its own.

    Examples
    --------
    >>> chain = DenoisingChain(hidden=(16,)).build(observations=3, actions=2)
    >>> chain.draw(torch.zeros(5, 3), torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    steps: int = 5
    jumps: int = 1

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1 or not 1 <= self.jumps <= self.steps:
            raise FewerError(
                f"denoising chain: hidden and steps must be positive and jumps from 1 to steps; given {self}"
            )

    def build(self, observations: int, actions: int) -> Chain:
        """Make it."""
        return Chain(VelocityNet(observations, actions, self.hidden, rates=RATES), self.steps, self.jumps)


class Chain(Denoiser):
    """What :class:`DenoisingChain` builds."""

    def draw(self, observations: Observations, noise: Actions) -> Actions:
        """Go down the chain, with chance at each step but the last, from torch's global generator."""
        actions = noise
        for number in range(self.steps - 1, -1, -1):
            beta, kept = self.betas[number], self._kept[number]
            predicted = self.net(actions, observations, torch.full_like(noise[:, 0], number))
            guess = ((actions - math.sqrt(1 - kept) * predicted) / math.sqrt(kept)).clamp(-1, 1)
            if not number:
                return guess
            before = self._kept[number - 1]
            mean = (
                math.sqrt(before) * beta / (1 - kept) * guess
                + math.sqrt(1 - beta) * (1 - before) / (1 - kept) * actions
            )
            actions = mean + math.sqrt(beta * (1 - before) / (1 - kept)) * torch.randn_like(actions)
        raise AssertionError("a chain has at least one step")

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """Squared error of the noise at a random step, as the mean over the numbers of an action."""
        return super().imitation_loss(observations, actions) / actions.shape[-1]
