"""Policies that are improved by a critic's gradient: a Gaussian with entropy (SAC), and one action (TD3).

A policy has two faces: ``act`` says what to do, ``propose`` gives several candidates to choose among.  It knows what
its own next action costs in the critic's target, and how to make one step of improvement.

References
----------
Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905.
Fujimoto, van Hoof and Meger, "Addressing Function Approximation Error in Actor-Critic Methods", ICML 2018,
arXiv:1802.09477.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.control.critics import activations
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.models.moving_average import follow
from fewer.models.quick_adam import QuickAdam

if TYPE_CHECKING:
    from fewer.control.critics import QEnsemble

Observations = Float[Tensor, "batch observations"]
Actions = Float[Tensor, "batch actions"]
Value = Callable[[Observations, Actions], Float[Tensor, "members batch"]]

LEAST, GREATEST = -20.0, 2.0
"""Bounds of the logarithm of a Gaussian policy's deviation."""


class Policy(Protocol):
    """Describes a policy; two equal descriptions build equal shapes."""

    def build(self, observations: int, actions: int) -> Actor:
        """Make it, from torch's global generator."""
        ...


class Actor(nn.Module):
    """A policy being learned.

    Attributes
    ----------
    optimiser : torch optimiser
        Of its parameters.
    delay : int
        Steps of the critic for each step of improvement.
    rows : {"last", "all"}
        Whether it improves on the batch that the critic saw last, or on all since its own last step.
    """

    optimiser: torch.optim.Optimizer
    delay: int = 1
    rows: Literal["last", "all"] = "last"

    def attach(self, critic: QEnsemble, slow: QEnsemble) -> None:
        """Take hold of the critic and its slow copies; only for policies that choose by value."""

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """What to do, in [-1, 1]."""
        raise NotImplementedError

    def propose(self, observations: Observations, count: int) -> Float[Tensor, "count batch actions"]:
        """Candidates to choose among."""
        actions = self.act(observations.repeat(count, 1))
        return actions.reshape(count, len(observations), -1)

    def successor(self, observations: Observations) -> tuple[Actions, Float[Tensor, " batch"] | float]:
        """The action that the critic's target looks ahead to, and what is taken off its value."""
        raise NotImplementedError

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Make one step towards actions of more value; give counters for the report."""
        raise NotImplementedError

    def train_what_requires_it(self) -> None:
        """Begin the optimiser anew, with what requires gradients, after a network was changed."""
        self._parameters_list = [each for each in self.parameters() if each.requires_grad]
        self.optimiser = adam(self._parameters_list, self.optimiser.param_groups[0]["lr"])

    def begin_again(self, drawn: Actor) -> None:
        """Take the weights of one that was newly drawn, and forget what the optimiser knows."""
        self.load_state_dict(drawn.state_dict())
        self.optimiser.state.clear()

    def settle(self, draw: Callable[[int], Batch], value: Value) -> dict[str, Tensor]:
        """Learn more, from batches of its own, after all updates that an environment step gave rise to."""
        return {}


def mlp(
    inputs: int, hidden: tuple[int, ...], outputs: int, activation: str = "relu", layer_norm: bool = False
) -> nn.Sequential:
    """Linear layers with an activation between them, and a layer norm before it where wanted."""
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Linear(before, after))
        if layer_norm:
            layers.append(nn.LayerNorm(after))
        layers.append(activations()[activation]())
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam, as all networks of this room are trained."""
    return QuickAdam(parameters, lr=lr)


def step(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Make one step with the gradient of these parameters alone: a critic takes none from a policy's loss."""
    descend(optimiser, parameters, torch.autograd.grad(loss, parameters))


def descend(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Make one step along these gradients."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()


# --- a Gaussian with entropy ---------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian squashed by tanh, rewarded for its entropy (soft actor-critic).

    Parameters
    ----------
    hidden : tuple of int, default (256, 256)
        Widths of the hidden layers.
    lr : float, default 3e-4
        Learning rate of Adam, of the network and of the temperature.
    temperature : float, default 1
        What a nat of entropy is worth at the start; it is learned.
    target_entropy : float, optional
        Which entropy the temperature aims at, in nats; by default ``entropy_each`` for each number of an action.
    backup_entropy : bool, default True
        Count entropy in the critic's target.
    objective : {"least", "mean"}
        Which of the critic's members it pleases: the one that thinks least of an action, or their mean.
    delay : int, default 1
        Steps of the critic for each step of the policy.
    rows : {"last", "all"}
        Whether it learns from the batch that the critic saw last, or from all since its own last step.
    activation : {"relu", "tanh", "mish"}
        Between layers.
    layer_norm : bool, default False
        Normalise before each activation.
    entropy_at : {"observations", "next_observations"}
        Where the entropy is taken that the temperature looks at.
    entropy_each : float, default -1
        What is aimed at for each number of an action, where ``target_entropy`` is left out.
    """

    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    temperature: float = 1.0
    target_entropy: float | None = None
    backup_entropy: bool = True
    objective: Literal["least", "mean"] = "least"
    delay: int = 1
    rows: Literal["last", "all"] = "last"
    activation: str = "relu"
    layer_norm: bool = False
    entropy_at: Literal["observations", "next_observations"] = "observations"
    entropy_each: float = -1.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.temperature > 0 and self.hidden and min(self.hidden) > 0 and self.delay > 0):
            raise FewerError(f"gaussian policy: lr, temperature, hidden and delay must be positive; given {self}")
        if self.objective not in ("least", "mean") or self.rows not in ("last", "all"):
            raise FewerError(
                f"gaussian policy: objective is 'least' or 'mean' and rows 'last' or 'all'; given {self.objective!r} "
                f"and {self.rows!r}"
            )
        if self.entropy_at not in ("observations", "next_observations"):
            raise FewerError(
                f"gaussian policy: entropy_at is 'observations' or 'next_observations'; it is {self.entropy_at!r}"
            )
        if self.activation not in activations():
            raise FewerError(f"gaussian policy: no activation {self.activation!r}; choose {', '.join(activations())}")

    def build(self, observations: int, actions: int) -> GaussianActor:
        """Make it."""
        return GaussianActor(observations, actions, self)


class GaussianActor(Actor):
    """What :class:`Gaussian` builds.

    Examples
    --------
    >>> actor = Gaussian(hidden=(16,)).build(3, 2)
    >>> actions, density = actor.sample(torch.zeros(5, 3))
    >>> actions.shape, density.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, observations: int, actions: int, settings: Gaussian) -> None:
        super().__init__()
        self.delay, self.rows, self.objective = settings.delay, settings.rows, settings.objective
        self.net = mlp(observations, settings.hidden, 2 * actions, settings.activation, settings.layer_norm)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.temperature)))
        wanted = settings.entropy_each * actions if settings.target_entropy is None else settings.target_entropy
        self.target_entropy = wanted
        self.backup_entropy, self.entropy_at = settings.backup_entropy, settings.entropy_at
        self._parameters_list = [*self.net.parameters(), self.log_temperature]
        self.optimiser = adam(self._parameters_list, settings.lr)

    def sample(self, observations: Observations) -> tuple[Actions, Float[Tensor, " batch"]]:
        """Draw actions, differentiably, with the logarithms of their densities."""
        made = self.net(observations)
        return squashed(made, torch.randn_like(made.chunk(2, dim=-1)[0]))

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """Draw, or take the mean."""
        if deterministic:
            return self.net(observations).chunk(2, dim=-1)[0].tanh()
        return self.sample(observations)[0]

    def successor(self, observations: Observations) -> tuple[Actions, Float[Tensor, " batch"] | float]:
        """Draw; surprise costs."""
        actions, density = self.sample(observations)
        return actions, self.log_temperature.exp() * density if self.backup_entropy else 0.0

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Towards more value and entropy; the temperature towards the entropy aimed at."""
        actions, density = self.sample(batch.observations)
        temperature = self.log_temperature.exp()
        values = value(batch.observations, actions)
        loss = soft_loss(values, density, temperature.detach(), self.objective)
        if self.entropy_at == "next_observations":
            with torch.no_grad():
                density = self.sample(batch.next_observations)[1]
        entropy = -density.detach().mean()
        # the gradient of the second term is all that the temperature has
        step(self.optimiser, loss + self.log_temperature * (entropy - self.target_entropy), self._parameters_list)
        return {"temperature": temperature.detach(), "entropy": entropy}


def soft_loss(
    values: Float[Tensor, "members batch"],
    density: Float[Tensor, " batch"],
    temperature: Float[Tensor, ""],
    objective: str,
) -> Float[Tensor, ""]:
    """What a soft policy makes small: little value, and little entropy.

    Parameters
    ----------
    values : float tensor (members, batch)
        Of what it does.
    density : float tensor (batch,)
        Logarithms.
    temperature : float tensor
        What a nat of entropy is worth.
    objective : {"least", "mean"}
        Whose value counts.

    Examples
    --------
    >>> soft_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([-4.0]), torch.tensor(0.5), "least")
    tensor(-3.)
    """
    return (temperature * density - (values.amin(0) if objective == "least" else values.mean(0))).mean()


def squashed(
    made: Float[Tensor, "batch twice"], noise: Float[Tensor, "batch actions"]
) -> tuple[Actions, Float[Tensor, " batch"]]:
    """Actions of a squashed Gaussian, and the logarithms of their densities.

    Parameters
    ----------
    made : float tensor (batch, 2 * actions)
        Means, and logarithms of deviations.
    noise : float tensor (batch, actions)
        From a standard Gaussian.

    Examples
    --------
    >>> actions, density = squashed(torch.zeros(1, 2), torch.zeros(1, 1))
    >>> actions.item(), round(density.exp().item(), 4)
    (0.0, 0.3989)
    """
    mean, log_deviation = made.chunk(2, dim=-1)
    log_deviation = log_deviation.clamp(LEAST, GREATEST)
    before = torch.addcmul(mean, noise, log_deviation.exp())
    return before.tanh(), _log_density(noise, log_deviation, before)


def _log_density(noise: Tensor, log_deviation: Tensor, before: Tensor) -> Float[Tensor, " batch"]:
    """Of tanh(before), where ``before`` is Gaussian; the slope of tanh in a form that stays finite."""
    # a Gaussian's exponent and its deviation, and twice log(2) - before - softplus(-2 before), the logarithm of the slope;
    # what is the same for all numbers is added at the end
    each = 2 * (before + functional.softplus(-2 * before)) - torch.addcmul(log_deviation, noise, noise, value=0.5)
    return each.sum(dim=-1) - before.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2))


# --- one action ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deterministic:
    """One action for each observation, improved every other step (twin delayed deterministic policy gradient).

    Parameters
    ----------
    hidden : tuple of int, default (256, 256)
        Widths of the hidden layers.
    lr : float, default 3e-4
        Learning rate of Adam.
    delay : int, default 2
        Steps of the critic for each step of the policy.
    smoothing, clip : float, default 0.2 and 0.5
        Deviation and bound of the noise on the target's action, in units of an action's half range.
    tau : float, default 0.005
        Share of the way that the slow copy moves at each of the policy's steps.
    """

    hidden: tuple[int, ...] = (256, 256)
    lr: float = 3e-4
    delay: int = 2
    smoothing: float = 0.2
    clip: float = 0.5
    tau: float = 0.005

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.hidden and min(self.hidden) > 0 and self.delay > 0 and 0 < self.tau <= 1):
            raise FewerError(
                f"deterministic policy: lr, hidden and delay must be positive, tau in (0, 1]; given {self}"
            )
        if self.smoothing < 0 or self.clip < 0:
            raise FewerError(f"deterministic policy: smoothing and clip must not be negative; given {self}")

    def build(self, observations: int, actions: int) -> DeterministicActor:
        """Make it."""
        return DeterministicActor(observations, actions, self)


class DeterministicActor(Actor):
    """What :class:`Deterministic` builds."""

    def __init__(self, observations: int, actions: int, settings: Deterministic) -> None:
        super().__init__()
        self.settings = settings
        self.delay = settings.delay
        self.net = nn.Sequential(*mlp(observations, settings.hidden, actions), nn.Tanh())
        self.slow = copy.deepcopy(self.net).requires_grad_(False)
        self._parameters_list = list(self.net.parameters())
        self.optimiser = adam(self._parameters_list, settings.lr)

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """The action; exploring is another slot's."""
        return self.net(observations)

    def successor(self, observations: Observations) -> tuple[Actions, float]:
        """The slow copy's action, with a little noise."""
        actions = self.slow(observations)
        noise = (torch.randn_like(actions) * self.settings.smoothing).clamp(-self.settings.clip, self.settings.clip)
        return (actions + noise).clamp(-1, 1), 0.0

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Towards more value, by the first member."""
        seen = batch.observations
        step(self.optimiser, -value(seen, self.net(seen))[0].mean(), self._parameters_list)
        follow(self.slow, self.net, self.settings.tau)
        return {}
