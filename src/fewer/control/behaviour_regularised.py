"""A generative policy that imitates what was done and is drawn towards what the critic values.

    loss = imitation loss - alpha E Q(s, a_theta(s, e)),      alpha = eta / E|Q|  (without gradient)

where the two members of the critic take turns at random as the one that is improved and the one that scales.  The critic's
target acts with a slow copy of the policy.  With eta = 0 this is imitation; which policy it is decides what the method is
called: a chain of denoising steps is diffusion Q-learning, an average velocity one-step flow Q-learning.

References
----------
Wang, Hunt and Zhou, "Diffusion Policies as an Expressive Policy Class for Offline Reinforcement Learning", ICLR 2023,
arXiv:2208.06193.
Nguyen and Yoo, "Revisiting Diffusion Q-Learning", 2025, arXiv:2508.13904.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewer.control.generative_policies import GenerativePolicy
from fewer.control.mean_flow import MeanFlow
from fewer.control.policies import Actions, Actor, Observations, Value, adam
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.models.moving_average import follow

if TYPE_CHECKING:
    from fewer.control.critics import QEnsemble


@dataclass(frozen=True)
class BehaviourRegularised:
    """Imitation, drawn towards value.

    Parameters
    ----------
    generator : GenerativePolicy, default MeanFlow()
        What turns noise into actions.
    eta : float, default 0.1
        Weight of the value, in units of its mean size; 0 imitates.
    lr : float, default 3e-4
        Learning rate of Adam.
    candidates : int, default 50
        Actions drawn where the best known one is asked for; one of them is taken, with weights exp(Q) by the slow critic.
    clip : float, optional
        Bound of the gradient's norm.
    tau : float, default 0.005
        Share of the way that the slow copy moves at a time.
    slow_every, slow_from : int, default 5 and 1000
        Steps of the policy from one such move to the next, and before the first.
    shortcut : bool, default False
        Act by the generator's ``generate`` in place of the ``draw`` that it is trained with, where they differ: for a chain
        of denoising steps, a few steps without chance.
    """

    generator: GenerativePolicy = field(default_factory=MeanFlow)
    eta: float = 0.1
    lr: float = 3e-4
    candidates: int = 50
    clip: float | None = None
    tau: float = 0.005
    slow_every: int = 5
    slow_from: int = 1000
    shortcut: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise FewerError(f"behaviour-regularised policy: eta is the weight of the value; it is {self.eta}")
        if not (self.lr > 0 and self.candidates >= 1 and 0 < self.tau <= 1 and self.slow_every >= 1):
            raise FewerError(
                "behaviour-regularised policy: lr, candidates and slow_every must be positive and tau in (0, 1]; given "
                f"{self}"
            )
        if self.slow_from < 0 or (self.clip is not None and not self.clip > 0):
            raise FewerError(f"behaviour-regularised policy: slow_from is 0 or more and clip positive; given {self}")

    def build(self, observations: int, actions: int) -> RegularisedActor:
        """Make it."""
        return RegularisedActor(observations, actions, self)


class RegularisedActor(Actor):
    """What :class:`BehaviourRegularised` builds."""

    improved: Tensor

    def __init__(self, observations: int, actions: int, settings: BehaviourRegularised) -> None:
        super().__init__()
        self.settings, self.action_size = settings, actions
        self.generator = settings.generator.build(observations, actions)
        self.slow = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("improved", torch.zeros((), dtype=torch.int64))
        self._critic: list[nn.Module] = []
        self._parameters_list = list(self.generator.parameters())
        self.optimiser = adam(self._parameters_list, settings.lr)

    def attach(self, critic: QEnsemble, slow: QEnsemble) -> None:
        """Candidates are weighed by the slow critic."""
        self._critic = [slow]

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """Draw an action; where the best is asked for, several, and take one with weights exp(Q)."""
        if deterministic and self._critic and self.settings.candidates > 1:
            return self.choose(observations, self.settings.candidates)
        return self._draw(observations)

    def _draw(self, observations: Observations) -> Actions:
        act = self.generator.generate if self.settings.shortcut else self.generator.draw
        return act(observations, torch.randn(len(observations), self.action_size))

    @property
    def attached(self) -> nn.Module:
        """The slow critic that candidates are weighed by."""
        if not self._critic:
            raise FewerError("behaviour-regularised policy: it has no critic to choose by; ask for one candidate")
        return self._critic[0]

    def choose(self, observations: Observations, candidates: int) -> Actions:
        """Draw so many actions for each observation and take one of them, with weights exp(Q) by the slow critic."""
        if candidates == 1:
            return self._draw(observations)
        repeated = observations.repeat_interleave(candidates, dim=0)
        actions = self._draw(repeated)
        values = self.attached(repeated, actions).amin(0).reshape(-1, candidates)
        chosen = torch.multinomial(values.softmax(dim=1), 1)
        return actions.reshape(len(observations), candidates, -1)[torch.arange(len(observations)), chosen[:, 0]]

    def successor(self, observations: Observations) -> tuple[Actions, float]:
        """Of the slow copy."""
        return self.slow.draw(observations, torch.randn(len(observations), self.action_size)), 0.0

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Towards what was done, and towards value."""
        imitation = self.generator.imitation_loss(batch.observations, batch.actions).mean()
        loss = imitation
        if self.settings.eta:
            actions = self.generator.draw(batch.observations, torch.randn_like(batch.actions))
            values = value(batch.observations, actions)
            # by turns one member is pleased, and the size of another one sets the scale
            pleased, scale = torch.randperm(len(values))[:2].tolist() if len(values) > 1 else (0, 0)
            size = values[scale].detach().abs().mean().clamp_min(1e-6)
            loss = imitation - self.settings.eta * values[pleased].mean() / size
        gradients = torch.autograd.grad(loss, self._parameters_list)
        for parameter, gradient in zip(self._parameters_list, gradients, strict=True):
            parameter.grad = gradient
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters_list, self.settings.clip)
        self.optimiser.step()
        self.improved += 1
        done = int(self.improved)
        if done > self.settings.slow_from and done % self.settings.slow_every == 0:
            follow(self.slow, self.generator, self.settings.tau)
        return {"imitation_loss": imitation.detach()}
