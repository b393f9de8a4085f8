"""DSRL: steer a frozen policy by the noise it begins from.

A cloned diffusion or flow policy that is sampled deterministically is a function a = f(s, w) of the observation and of the
noise w.  A small policy p(w | s) learns which noise to feed it; the weights of f never change, and no gradient passes through.

With noise aliasing (DSRL-NA), two critics are learned.  Q(s, a) values actions, so that memory may hold anybody's actions:

    y = r + gamma (1 - d) [ min_k Qbar_k(s', f(s', w')) - alpha log p(w' | s') ],   w' ~ p(. | s'),

and V_k(s, w) <- Q_k(s, f(s, w)) with w of a standard Gaussian distils each into noise space, where the policy goes up

    min_k V_k(s, w) - alpha log p(w | s),

densities being those of tanh, before it is scaled to noise in [-b, b].  In its simple form (DSRL-SAC), noise is the action
of an ordinary soft actor-critic.  Until something has been learned, the base policy acts with noise of a standard Gaussian.

References
----------
Wagenmaker et al., "Steering Your Diffusion Policy with Latent Space Reinforcement Learning", CoRL 2025, arXiv:2506.15799.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.claim import Claim, Measures, higher, identical
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Base, Imitate, base_policy, described, digest, left_out
from fewer.control.baselines import rlpd
from fewer.control.critics import Critics, QEnsemble
from fewer.control.dock_world import dock_2d
from fewer.control.generative_policies import FlowMatching, GenerativePolicy, Generator
from fewer.control.latent_noise import LatentNoise, check_magnitude, latent_noise
from fewer.control.loop import OffPolicy
from fewer.control.policies import Actions, Actor, Gaussian, Observations, Value, adam, step
from fewer.control.replay import Batch
from fewer.core.errors import FewerError


@dataclass(frozen=True)
class LatentSteering:
    """A policy over the noise of a frozen base policy, with a critic of noise that is distilled from one of actions.

    Parameters
    ----------
    base : GenerativePolicy, default FlowMatching()
        What turns noise into actions.
    magnitude : float, default 1.5
        Bound b of each number of the noise; beyond 2.5 the critic of noise has seen next to nothing.
    hidden : tuple of int, default (128, 128, 128)
        Widths of the steering policy and of the critic of noise.
    lr : float, default 3e-4
        Of Adam.
    temperature : float, default 1
        What a nat of entropy is worth at the start; it is learned.
    target_entropy : float, default 0
        Which entropy the temperature aims at, in nats before scaling.
    distillations : int, default 10
        Steps of the critic of noise after each environment step's updates.
    """

    base: GenerativePolicy = field(default_factory=FlowMatching)
    magnitude: float = 1.5
    hidden: tuple[int, ...] = (128, 128, 128)
    lr: float = 3e-4
    temperature: float = 1.0
    target_entropy: float = 0.0
    distillations: int = 10

    def __post_init__(self) -> None:
        check_magnitude(self.magnitude)
        if self.distillations < 1:
            raise FewerError(
                f"latent steering: the policy learns from the distilled critic alone, and {self.distillations} distillations "
                "were asked for; give 1 or more"
            )
        self.steering()

    def steering(self) -> Gaussian:
        """The policy over noise."""
        return Gaussian(self.hidden, self.lr, self.temperature, self.target_entropy, activation="tanh", layer_norm=True)

    def build(self, observations: int, actions: int) -> LatentSteeringActor:
        """Make it."""
        return LatentSteeringActor(observations, actions, self)


class LatentSteeringActor(Actor):
    """What :class:`LatentSteering` builds.

    Examples
    --------
    >>> actor = LatentSteering(FlowMatching((16,), 2), hidden=(16,)).build(3, 2)
    >>> actor.act(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    steers: Tensor
    noise_critic: QEnsemble

    def __init__(self, observations: int, actions: int, settings: LatentSteering) -> None:
        super().__init__()
        self.settings, self.sizes = settings, (observations, actions)
        self.base: Generator = settings.base.build(observations, actions).requires_grad_(False).eval()
        self.steering = settings.steering().build(observations, actions)
        self.register_buffer("steers", torch.zeros((), dtype=torch.bool))
        self._distil_into(members=2)

    def _distil_into(self, members: int) -> None:
        settings = self.settings
        self.noise_critic = QEnsemble(*self.sizes, members, settings.hidden, layer_norm=True, activation="tanh")
        self.train_what_requires_it()

    def train_what_requires_it(self) -> None:
        """Begin the optimiser anew: one of both networks, so that a run saves both, though each step is of one of them."""
        steering = [*self.steering.net.parameters(), self.steering.log_temperature]
        self._of_steering = self.steering._parameters_list = [each for each in steering if each.requires_grad]
        self._of_critic = [each for each in self.noise_critic.parameters() if each.requires_grad]
        self.optimiser = self.steering.optimiser = adam([*self._of_steering, *self._of_critic], self.settings.lr)

    def attach(self, critic: QEnsemble, slow: QEnsemble) -> None:
        """Distil as many critics as there are."""
        with torch.no_grad():
            members = len(critic(torch.zeros(1, self.sizes[0]), torch.zeros(1, self.sizes[1])))
        if members != 2:
            self._distil_into(members)

    def take_base(self, trained: Generator) -> None:
        """Begin with these weights."""
        self.base.load_state_dict(trained.state_dict())

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """What the base policy makes of the noise that was chosen; until anything is learned, of noise by chance."""
        if self.steers:
            noise = self.settings.magnitude * self.steering.act(observations, deterministic)
        else:
            noise = torch.randn(len(observations), self.sizes[1])
        return self.base.generate(observations, noise)

    def successor(self, observations: Observations) -> tuple[Actions, Float[Tensor, " batch"]]:
        """What would be done; surprise in noise space costs."""
        latent, density = self.steering.sample(observations)
        actions = self.base.generate(observations, self.settings.magnitude * latent)
        return actions, self.steering.log_temperature.exp() * density

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Towards noise of more value; actions have no say in it."""
        self.steers.fill_(True)
        self._rows = len(batch)
        report = self.steering.improve(batch, self.noise_critic)
        _clear(self._of_steering)
        return report

    def settle(self, draw: Callable[[int], Batch], value: Value) -> dict[str, Tensor]:
        """Distil the critic of actions into the critic of noise, each member into its own."""
        times, rows = self.settings.distillations, self._rows
        seen = Batch.join(*[draw(rows) for _ in range(times)]).observations
        noise = torch.randn(len(seen), self.sizes[1])
        with torch.no_grad():
            # nothing of this changes in between, so it is computed for all steps at once
            wanted = value(seen, self.base.generate(seen, noise))
        loss = torch.zeros(())
        for observations, latent, aim in zip(
            seen.split(rows), (noise / self.settings.magnitude).split(rows), wanted.split(rows, dim=1), strict=True
        ):
            loss = 0.5 * (self.noise_critic(observations, latent) - aim).square().mean(1).sum()
            step(self.optimiser, loss, self._of_critic)
            _clear(self._of_critic)
        return {"distillation_loss": loss.detach()}


def _clear(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def dsrl_na(
    base: Base = "flow",
    demos: str | None = None,
    magnitude: float = 1.5,
    hidden: tuple[int, ...] = (128, 128, 128),
    ratio: int | None = 20,
    distillations: int = 10,
    learning_starts: int | None = 1_500,
    start_with: Literal["policy", "random"] | None = "policy",
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float = 0.0,
    members: int = 2,
    base_hidden: tuple[int, ...] | None = None,
    base_steps: int | None = None,
    base_updates: int = 10_000,
) -> dict[str, Any]:
    """Fill the slots with steering by noise, valued by a critic of actions.

    Parameters
    ----------
    base : {"flow", "diffusion", "mean-flow"}, GenerativePolicy or callable
        What is steered; one that is named or described is cloned from demonstrations first.  A callable takes observations
        (batch, observations) and noise (batch, 1, actions), see :class:`fewer.control.base_policies.Given` for chunks.
    demos : str, optional
        Where demonstrations are; by default the task's own.
    magnitude : float, default 1.5
        Bound of each number of the noise; what to tune first, with ``ratio``.
    hidden : tuple of int, default (128, 128, 128)
        Widths of all networks; the paper takes 128 to 2048, by task.
    ratio : int, default 20
        Updates for each transition.
    distillations : int, default 10
        Steps of the critic of noise after them.
    learning_starts : int, default 1,500
        Environment steps before anything is learned.
    start_with : {"policy", "random"}
        Who acts until then: the base policy.  With None, this slot and the two above are left to others.
    lr, tau : float, default 3e-4 and 0.005
        Of Adam, and the speed of the slow critics.
    temperature : float, default 1
        At the start; 0.05 where a run is short, since the entropy of chunks outweighs all values at first.
    target_entropy : float, default 0
        In nats before scaling.
    members : int, default 2
        Critics; the least counts.
    base_hidden : tuple of int, optional
        Widths of a named base policy.
    base_steps : int, optional
        From noise to an action, of a named base policy.
    base_updates : int, default 10,000
        Gradient steps of its cloning.

    Examples
    --------
    >>> sorted(dsrl_na())
    ['critic', 'initialisation', 'learning_starts', 'policy', 'ratio', 'start_with']
    """
    policy = described(base, hidden=base_hidden, steps=base_steps)
    return {
        "policy": LatentSteering(policy, magnitude, hidden, lr, temperature, target_entropy, distillations),
        "critic": Critics(members, hidden=hidden, layer_norm=True, lr=lr, tau=tau, activation="tanh"),
        "initialisation": Imitate(policy, demos, base_updates),
        **left_out(ratio, learning_starts=learning_starts, start_with=start_with),
    }


def dsrl_sac(
    base: Base = "flow",
    demos: str | None = None,
    magnitude: float = 1.5,
    chunk: int = 1,
    hidden: tuple[int, ...] = (128, 128, 128),
    ratio: int | None = 20,
    learning_starts: int | None = 1_500,
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float = 0.0,
    members: int = 2,
    base_hidden: tuple[int, ...] | None = None,
    base_steps: int | None = None,
    base_updates: int = 10_000,
) -> dict[str, Any]:
    """Fill the slots with soft actor-critic whose action is the noise of a frozen base policy.

    Parameters
    ----------
    base, demos, magnitude, hidden, ratio, learning_starts, lr, tau, temperature, target_entropy, members
        As in :func:`dsrl_na`.
    base_hidden, base_steps, base_updates
        As there.
    chunk : int, default 1
        Actions that the base policy decides at once.

    Examples
    --------
    >>> sorted(dsrl_sac())
    ['action_map', 'critic', 'initialisation', 'learning_starts', 'policy', 'ratio']
    """
    return {
        "policy": Gaussian(hidden, lr, temperature, target_entropy, activation="tanh", layer_norm=True),
        "critic": Critics(members, hidden=hidden, layer_norm=True, lr=lr, tau=tau, activation="tanh"),
        **left_out(ratio, learning_starts=learning_starts),
        **latent_noise(base, demos, magnitude, chunk, base_hidden, base_steps, base_updates),
    }


# --- the claim -----------------------------------------------------------------------------------


def weights_as_number(base: nn.Module) -> float:
    """The first 48 bits of the SHA-256 of all weights."""
    return float(int(digest(base)[:12], 16))


_BUDGET, _POINTS = 1920, 16


def _loops(tiny: bool) -> dict[str, OffPolicy]:
    """All arms: one base policy, as many updates, batches of equal size."""
    wide = (16,) * 3 if tiny else (128,) * 3
    base = FlowMatching((16,) * 2 if tiny else (128,) * 3, steps=5)
    cloning = Imitate(base, updates=20 if tiny else 2_500, lr=3e-3)
    common: dict[str, Any] = {
        "discount": 0.95,
        "batch": 16 if tiny else 128,
        "points": _POINTS,
        "episodes": 10 if tiny else 100,
    }
    learning: dict[str, Any] = {"hidden": wide, "ratio": 2 if tiny else 8, "lr": 1e-3, "tau": 0.01, "temperature": 0.05}
    chunks = {"action_map": ActionChunks(4)}
    rollouts: dict[str, Any] = {"learning_starts": 64 if tiny else 600}
    sac = dsrl_sac(base, chunk=4, **learning, **rollouts)
    noise = LatentNoise(cloning, magnitude=1.5, chunk=4)
    return {
        "dsrl-na": OffPolicy(
            **dsrl_na(base, **learning, **rollouts, distillations=5) | chunks | {"initialisation": cloning}, **common
        ),
        "dsrl-sac": OffPolicy(**sac | {"action_map": noise, "initialisation": noise}, **common),
        "rlpd": OffPolicy(**rlpd(members=5, **learning) | chunks, **common),
        "base": OffPolicy(**base_policy(base) | chunks | {"initialisation": cloning}, **common),
    }


def measure(seed: int, tiny: bool = False) -> Measures:
    """All arms on one seed's demonstrations, and the base policy's weights afterwards."""
    task = dock_2d(demonstrations=20) if tiny else dock_2d()
    budget = 160 if tiny else _BUDGET
    found: dict[str, dict[str, float]] = {}
    for name, loop in _loops(tiny).items():
        learned = loop.learn(task, budget, seed)
        scores = [(point.spent / budget, point.score) for point in learned.curve]
        found[name] = {
            "success in the last quarter": _mean(score for share, score in scores if share > 0.75),
            "success in the second half": _mean(score for share, score in scores if share > 0.5),
        }
        if name in ("base", "dsrl-na"):
            found[name]["weights of the base"] = weights_as_number(learned.result.actor.base)
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


claim = Claim(
    says="Steering a frozen policy by its noise reaches what imitation cannot know within 480 decisions, and sooner than "
    "learning to act from demonstrations and experience.",
    measure=measure,
    seeds=5,
    holds=[
        higher("success in the last quarter", "dsrl-na", than=0.9),
        higher("success in the last quarter", "dsrl-na", than="base", by=0.3),
        higher("success in the second half", "dsrl-na", than="rlpd"),
        identical("weights of the base", "dsrl-na", to="base"),
    ],
    note="Two docks, 300 demonstrations that go to either, chunks of 4 actions; the first 150 of 480 decisions are the base "
    "policy's, a flow of five steps.  RLPD learns from the 26th decision on, with the same updates and demonstrations in half of "
    "each batch, which DSRL has not.  Temperatures begin at 0.05: the published 1 outweighs all values for longer than this "
    "budget.  Soft actor-critic on the noise (dsrl-sac) is reported beside it.",
)
