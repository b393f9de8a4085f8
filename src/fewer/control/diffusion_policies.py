"""A policy that denoises: it predicts the noise in an action, and takes it out in steps.

With betas of a variance-preserving process, t = 1 … T,

    beta_t = 1 - exp(-0.1 / T - 0.5 (10 - 0.1) (2 t - 1) / T^2),   alpha_t = 1 - beta_t,   abar_t = alpha_1 … alpha_t,

an action a and noise e give a_t = sqrt(abar_t) a + sqrt(1 - abar_t) e, and the network learns e from a_t, t and what is seen.
Actions are drawn by the ancestral sampler, with new noise at each step, or without (DDIM) where equal noise must give equal
actions.  Either way they are kept in [-1, 1].

References
----------
Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
Hansen-Estruch et al., "IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion Policies", 2023, arXiv:2304.10573.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.control.generative_policies import Generator
from fewer.control.policies import Actions, Observations
from fewer.core.errors import FewerError

LEAST_BETA, GREATEST_BETA = 0.1, 10.0
"""Of the process in continuous time."""


def variance_preserving(steps: int) -> Float[Tensor, " steps"]:
    """Betas of a variance-preserving process in so many steps.

    Examples
    --------
    >>> [round(beta, 4) for beta in variance_preserving(10).tolist()[:2]]
    [0.0578, 0.1466]
    """
    number = torch.arange(1, steps + 1, dtype=torch.float64)
    rate = LEAST_BETA / steps + 0.5 * (GREATEST_BETA - LEAST_BETA) * (2 * number - 1) / steps**2
    return (1 - torch.exp(-rate)).float()


@dataclass(frozen=True)
class Diffusion:
    """A denoising policy.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256, 256)
        One residual block for each; all of one width, and a block's inner layer is four times as wide.
    steps : int, default 10
        From noise to an action.
    jumps : int, optional
        Steps of the sampler without noise of its own; by default all.
    time_features : int, default 128
        Waves and phases of the step's number, whose rates are learned.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    steps: int = 10
    jumps: int | None = None
    time_features: int = 128

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.hidden or min(self.hidden) < 1 or len(set(self.hidden)) != 1:
            raise FewerError(f"diffusion: steps must be positive and hidden blocks of one width; given {self}")
        if self.jumps is not None and not 1 <= self.jumps <= self.steps:
            raise FewerError(
                f"diffusion: {self.jumps} jumps over {self.steps} steps were asked for; give 1 to {self.steps}"
            )
        if self.time_features < 2 or self.time_features % 2:
            raise FewerError(f"diffusion: time_features is an even number; it is {self.time_features}")

    def build(self, observations: int, actions: int) -> Denoiser:
        """Make it."""
        net = NoiseNet(observations, actions, self.hidden, self.time_features)
        return Denoiser(net, self.steps, self.jumps or self.steps)


class NoiseNet(nn.Module):
    """Noisy actions, steps and observations to the noise.

    Parameters
    ----------
    observations, actions : int
        Numbers in each.
    hidden : tuple of int
        Width of each residual block, all the same.
    time_features : int
        Even.
    """

    def __init__(self, observations: int, actions: int, hidden: tuple[int, ...], time_features: int) -> None:
        super().__init__()
        width = hidden[0]
        self.rates = nn.Parameter(0.2 * torch.randn(time_features // 2))
        self.time = nn.Sequential(nn.Linear(time_features, width), nn.SiLU(), nn.Linear(width, width))
        self.inputs = nn.Linear(actions + observations + width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in hidden
        )
        self.outputs = nn.Sequential(nn.SiLU(), nn.Linear(width, actions))

    def forward(self, noisy: Actions, observations: Observations, number: Float[Tensor, " batch"]) -> Actions:
        """Noise in actions at these steps, 0 being the first."""
        angles = 2 * math.pi * number[:, None] * self.rates
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        inner = self.inputs(torch.cat([noisy, observations, time], dim=-1))
        for block in self.blocks:
            inner = inner + block(inner)
        return self.outputs(inner)


class Denoiser(Generator):
    """What :class:`Diffusion` builds.

    Parameters
    ----------
    net : NoiseNet
        Predicts noise.
    steps, jumps : int
        Of the process, and of the sampler without noise.
    """

    kept: Tensor

    def __init__(self, net: nn.Module, steps: int, jumps: int) -> None:
        super().__init__()
        self.net, self.steps, self.jumps = net, steps, jumps
        betas = variance_preserving(steps)
        self.betas = betas.tolist()
        # of the action's variance, after each step
        self.register_buffer("kept", torch.cumprod(1 - betas, 0), persistent=False)
        self._kept = self.kept.tolist()

    def generate(self, observations: Observations, noise: Actions) -> Actions:
        """Denoise, with no noise but this: at each step the action is guessed, and the step before mixed anew."""
        numbers = torch.linspace(self.steps - 1, 0, self.jumps).round().int().tolist()
        actions, guess = noise, noise
        for place, number in enumerate(numbers):
            kept = self._kept[number]
            predicted = self.net(actions, observations, torch.full_like(noise[:, 0], number))
            guess = ((actions - math.sqrt(1 - kept) * predicted) / math.sqrt(kept)).clamp(-1, 1)
            if place + 1 < len(numbers):
                before = self._kept[numbers[place + 1]]
                actions = math.sqrt(before) * guess + math.sqrt(1 - before) * predicted
        return guess

    def draw(self, observations: Observations, noise: Actions) -> Actions:
        """Denoise with new noise at each step, drawn from torch's global generator."""
        actions = noise
        for number in range(self.steps - 1, -1, -1):
            beta, kept = self.betas[number], self._kept[number]
            predicted = self.net(actions, observations, torch.full_like(noise[:, 0], number))
            actions = (actions - beta / math.sqrt(1 - kept) * predicted) / math.sqrt(1 - beta)
            if number:
                actions = actions + math.sqrt(beta) * torch.randn_like(actions)
            actions = actions.clamp(-1, 1)
        return actions

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """Squared error of the noise at a random step."""
        number: Int[Tensor, " batch"] = torch.randint(self.steps, (len(actions),))
        noise, kept = torch.randn_like(actions), self.kept[number][:, None]
        noisy = kept.sqrt() * actions + (1 - kept).sqrt() * noise
        return (self.net(noisy, observations, number.to(actions.dtype)) - noise).square().sum(dim=-1)
