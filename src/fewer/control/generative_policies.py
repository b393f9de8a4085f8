"""Policies that turn noise into actions, and learn it by imitation: the base that other methods steer, edit or improve.

Times run from data to noise: with an action a and noise e of a standard Gaussian, a_t = (1 - t) a + t e, whose velocity is
e - a.  A network that has learned the mean velocity at each a_t is followed from t = 1 back to t = 0 in a few steps.

References
----------
Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, arXiv:2210.02747.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.environments import Environment
from fewer.control.policies import Actions, Observations, adam, mlp, step
from fewer.control.replay import Batch
from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.shared_start import shared_start


class Generator(nn.Module):
    """Observations and noise to actions; with equal noise, to equal actions."""

    def generate(self, observations: Observations, noise: Actions) -> Actions:
        """Turn noise, one number for each of an action, into actions in [-1, 1]."""
        raise NotImplementedError

    def draw(self, observations: Observations, noise: Actions) -> Actions:
        """Actions as they were imitated, beginning at this noise: the same, unless there is more chance on the way."""
        return self.generate(observations, noise)

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """What is made small to act as was shown, for each pair; draws from torch's global generator."""
        raise NotImplementedError


class GenerativePolicy(Protocol):
    """Describes such a policy; two equal descriptions build equal shapes."""

    def build(self, observations: int, actions: int) -> Generator:
        """Make it, from torch's global generator."""
        ...


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a few waves of different lengths, mixed by two layers.

    Parameters
    ----------
    width : int, default 16
        Numbers that come out; even.
    rates : (float, float), default (1.5, 100)
        Of the slowest and the fastest wave, in radians: by default from a quarter of a wave to many in the unit of time.
    """

    rates: Tensor

    def __init__(self, width: int = 16, rates: tuple[float, float] = (1.5, 100.0)) -> None:
        super().__init__()
        slowest, fastest = map(math.log, rates)
        self.register_buffer("rates", torch.exp(torch.linspace(slowest, fastest, width // 2)))
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.Mish(), nn.Linear(2 * width, width))

    def forward(self, time: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Embed."""
        angles = time[:, None] * self.rates
        return self.mix(torch.cat([angles.sin(), angles.cos()], dim=-1))


class VelocityNet(nn.Module):
    """Noisy actions, times and observations to velocities.

    Parameters
    ----------
    observations, actions : int
        Numbers in each.
    hidden : tuple of int
        Widths of the hidden layers; Mish between them, whose second derivative is not zero.
    times : int, default 1
        How many times the velocity depends on.
    rates : (float, float), default (1.5, 100)
        Of the slowest and the fastest wave that a time is embedded as.

    Examples
    --------
    >>> VelocityNet(3, 2, (16,))(torch.zeros(5, 2), torch.zeros(5, 3), torch.zeros(5)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: tuple[int, ...],
        times: int = 1,
        rates: tuple[float, float] = (1.5, 100.0),
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([TimeEmbedding(rates=rates) for _ in range(times)])
        self.net = mlp(actions + 16 * times + observations, hidden, actions, "mish")

    def forward(self, noisy: Actions, observations: Observations, *times: Float[Tensor, " batch"]) -> Actions:
        """Velocities."""
        embedded = [embedding(time) for embedding, time in zip(self.embeddings, times, strict=True)]
        return self.net(torch.cat([noisy, *embedded, observations], dim=-1))


@dataclass(frozen=True)
class FlowMatching:
    """A flow that is followed in a few steps.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256, 256)
        Widths of the hidden layers.
    steps : int, default 5
        Steps from noise to an action.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    steps: int = 5

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.hidden or min(self.hidden) < 1:
            raise FewerError(f"flow matching: steps and hidden must be positive; given {self}")

    def build(self, observations: int, actions: int) -> Flow:
        """Make it."""
        return Flow(VelocityNet(observations, actions, self.hidden), self.steps)


class Flow(Generator):
    """What :class:`FlowMatching` builds.

    Parameters
    ----------
    net : VelocityNet
        Of one time.
    steps : int
        Steps from noise to an action.
    """

    def __init__(self, net: VelocityNet, steps: int) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def generate(self, observations: Observations, noise: Actions) -> Actions:
        """Follow the flow back from the noise."""
        actions = noise
        for number in range(self.steps, 0, -1):
            time = torch.full_like(noise[:, 0], number / self.steps)
            actions = actions - self.net(actions, observations, time) / self.steps
        return actions.clamp(-1, 1)

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """Squared error of the velocity at a random time."""
        noise, time = torch.randn_like(actions), torch.rand(len(actions))
        noisy = torch.lerp(actions, noise, time[:, None])
        return (self.net(noisy, observations, time) - (noise - actions)).square().sum(dim=-1)


@dataclass(frozen=True)
class Cloned:
    """How a generative policy is trained on what was shown.

    Parameters
    ----------
    policy : GenerativePolicy, default FlowMatching()
        What is trained.
    steps : int, default 10,000
        Gradient steps.
    batch : int, default 256
        Pairs of each.
    lr : float, default 3e-4
        Learning rate of Adam, falling to nothing by a cosine.
    """

    policy: GenerativePolicy = FlowMatching()
    steps: int = 10_000
    batch: int = 256
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not self.lr > 0:
            raise FewerError(f"cloned policy: steps, batch and lr must be positive; given {self}")

    def train(self, environment: Environment, shown: Batch, seed: int) -> Generator:
        """Train on all pairs of observation and action, or find what was trained before on the same.

        Parameters
        ----------
        environment : Environment
            Its sizes and its name are used.
        shown : Batch
            The pairs.
        seed : int
            Of weights and batches.
        """
        with own_randomness(seed, "cloned"):
            generator = self.policy.build(environment.observation_size, environment.action_size)

            def make() -> dict[str, Tensor]:
                self._fit(generator, shown)
                return dict(generator.state_dict())

            named = (
                environment.fingerprint(),
                repr(self),
                str(seed),
                str(float(shown.actions.sum(dtype=torch.float64))),
            )
            generator.load_state_dict(shared_start("cloned-policy", named, make))
        return generator.requires_grad_(False).eval()

    def _fit(self, generator: Generator, shown: Batch) -> None:
        parameters = list(generator.parameters())
        optimiser = adam(parameters, self.lr)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for number in range(self.steps):
            rows = torch.randint(len(shown), (self.batch,))
            loss = generator.imitation_loss(shown.observations[rows], shown.actions[rows]).mean()
            step(optimiser, loss, parameters)
            falling.step()
            if number % 500 == 0 and not torch.isfinite(loss):
                raise Diverged(f"cloned policy: the loss became {float(loss)} after {number} steps; lower lr")


Generate = Callable[[Observations, Actions], Actions]
"""Observations and noise to actions in [-1, 1]; with equal noise, to equal actions."""
