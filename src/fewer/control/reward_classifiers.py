"""Rewards from a classifier of success: trained beforehand on examples, or while learning (VICE).

A classifier c gives each observation a logit of success, and a step pays 1 where sigmoid(c(s')) is at least a half, else 0.

Beforehand, it is trained by cross-entropy on batches of which half are successes, and a success ends the episode.  What the
environment says of rewards and success is not looked at.

VICE has examples of success only, and takes for failures whatever the policy reaches.  With a batch of both halves, labels
smoothed to 0.1 and 0.9, and every row x mixed with another one of the batch, x = m x_1 + (1 - m) x_2 with m ~ Beta(1, 1)::

    loss = m BCE(c(x), y_1) + (1 - m) BCE(c(x), y_2)  +  10 mean (|grad_z c(z)| - 1)^2

where z lies at a random place between a row of the one half of mixed rows and one of the other.  So the classifier stays
undecided and smooth, and does not come to reject everything new.  As it changes, rewards are said anew whenever a batch is
drawn.

References
----------
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
Fu et al., "Variational Inverse Control with Events", NeurIPS 2018, arXiv:1805.11686.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.control.environments import Environment, Step
from fewer.control.loop import Judge, OffPolicyState
from fewer.control.policies import adam, step
from fewer.control.prior_data import given_demonstrations
from fewer.control.replay import Batch, Replay
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive
from fewer.core.shared_start import shared_start
from fewer.demos.demonstrations import flat

Rows = Float[Tensor, "rows observations"]


class SuccessClassifier(nn.Module):
    """Observations to logits of success: standardised, one hidden layer, dropout, layer norm.

    Parameters
    ----------
    observations : int
        Numbers in one.
    hidden : int, default 256
        Width of the hidden layer.
    dropout : float, default 0.1
        Share of it that is left out while training.
    slope : float, default 0
        Of the activation below 0.

    Examples
    --------
    >>> SuccessClassifier(3)(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, observations: int, hidden: int = 256, dropout: float = 0.1, slope: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(observations))
        self.register_buffer("deviation", torch.ones(observations))
        self.head = nn.Sequential(
            nn.Linear(observations, hidden),
            nn.Dropout(dropout),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(slope),
            nn.Linear(hidden, 1),
        )

    def standardise(self, rows: Rows) -> None:
        """Take scales from some observations; a number that never changes is left alone."""
        deviation = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def features(self, observations: Rows) -> Rows:
        """Standardised observations, which the head sees."""
        return (observations - self.mean) / self.deviation

    def forward(self, observations: Rows) -> Float[Tensor, " rows"]:
        """Logits."""
        return self.head(self.features(observations))[:, 0]

    @torch.no_grad()
    def success(self, observations: Rows) -> Tensor:
        """Whether success is at least as likely as not; nothing is left out."""
        training = self.training
        self.eval()
        found = self(observations) >= 0
        self.train(training)
        return found


def outcomes(environment: Environment, demos: str | None, seed: int) -> tuple[Rows, Rows]:
    """Examples of success and of failure: a task's own, or else the ends of successful demonstrations and what came before.

    Raises
    ------
    FewerError
        If no demonstration is a success, or none says what was seen at its end.
    """
    own: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = getattr(environment, "outcomes", None)
    if demos is None and own is not None:
        good, bad = own(derive(seed, "outcomes"))
        return torch.from_numpy(good.astype(np.float32)), torch.from_numpy(bad.astype(np.float32))
    given = given_demonstrations(environment, demos, seed)
    successes = given.successes
    if successes is None:
        assert given.terminations is not None
        successes = given.terminations[given.offsets[1:] - 1]
    if not successes.any():
        raise FewerError(
            f"{given.name}: no demonstration is a success, and a reward is learned from successes; give one that is, or say "
            "which are with successes"
        )
    if given.final_observations is None:
        raise FewerError(f"{given.name}: what was seen after each episode's last action is missing; record it")
    good, bad = flat(given.final_observations)[successes], flat(given.observations)
    if good.shape[1] != environment.observation_size:
        raise FewerError(
            f"{given.name}: observations have {good.shape[1]} numbers and those of {environment.name} "
            f"{environment.observation_size}; give its own"
        )
    return torch.from_numpy(good.astype(np.float32)), torch.from_numpy(bad.astype(np.float32))


@dataclass(frozen=True)
class RewardClassifier:
    """A classifier of success that is trained before the first step.

    Parameters
    ----------
    demos : str, optional
        Demonstrations: ends of successes are successes, all before are not; by default the task's own examples.
    steps : int, default 100
        Gradient steps.
    batch : int, default 256
        Of each, half of them successes.
    hidden : int, default 256
        Width of the hidden layer.
    lr : float, default 1e-4
        Learning rate of Adam.
    """

    demos: str | None = None
    steps: int = 100
    batch: int = 256
    hidden: int = 256
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if min(self.steps, self.hidden) < 1 or self.batch < 2 or not self.lr > 0:
            raise FewerError(
                f"reward classifier: steps, hidden and lr must be positive, batch at least 2; given {self}"
            )

    def build(self, state: OffPolicyState) -> Judge:
        """Train, or find what was trained before."""
        task, seed = state.task, state.seed
        good, bad = outcomes(task, self.demos, seed)
        with own_randomness(seed, "reward-classifier"):
            classifier = SuccessClassifier(task.observation_size, self.hidden)

            def make() -> dict[str, Tensor]:
                self.fit(classifier, good, bad)
                return dict(classifier.state_dict())

            content = str([float(each.sum(dtype=torch.float64)) for each in (good, bad)])
            named = (task.fingerprint(), repr(self), str(seed), content)
            classifier.load_state_dict(shared_start("reward-classifier", named, make))
        return TrainedJudge(classifier.requires_grad_(False).eval())

    def fit(self, classifier: SuccessClassifier, good: Rows, bad: Rows) -> None:
        """Train on examples, from torch's global generator.

        Parameters
        ----------
        classifier : SuccessClassifier
            Changed.
        good, bad : float tensor (rows, observations)
            Successes, and others.

        Raises
        ------
        FewerError
            If there are none of either, or their shapes differ.
        """
        if not (len(good) and len(bad)) or good.shape[1:] != bad.shape[1:]:
            raise FewerError(
                f"reward classifier: examples of success have shape {tuple(good.shape)}, the others {tuple(bad.shape)}; "
                "give at least one of each, of one shape"
            )
        classifier.standardise(torch.cat([good, bad]))
        classifier.train()
        parameters = list(classifier.parameters())
        optimiser = adam(parameters, self.lr)
        half = self.batch // 2
        labels = torch.cat([torch.ones(half), torch.zeros(half)])
        for _ in range(self.steps):
            rows = torch.cat([good[torch.randint(len(good), (half,))], bad[torch.randint(len(bad), (half,))]])
            step(optimiser, functional.binary_cross_entropy_with_logits(classifier(rows), labels), parameters)


class TrainedJudge:
    """What :class:`RewardClassifier` builds: it judges steps as they come, and does not change.

    Parameters
    ----------
    classifier : SuccessClassifier
        Trained.
    """

    def __init__(self, classifier: SuccessClassifier) -> None:
        self.classifier = classifier

    def judge(self, step: Step) -> Step:
        """Pay 1 for success and end its episode; an episode that the world ended for a success of its own is cut off."""
        success = self.classifier.success(torch.from_numpy(step.observations)).numpy()
        terminated = (step.terminated & ~step.success) | success
        return replace(
            step,
            rewards=success.astype(np.float64),
            terminated=terminated,
            truncated=(step.truncated | step.terminated) & ~terminated,
        )

    def relabel(self, batch: Batch) -> Batch:
        """As it was said; demonstrations keep what they came with."""
        return batch

    def learn(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The classifier."""
        return {"classifier": self.classifier.state_dict()}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        self.classifier.load_state_dict(tree["classifier"])


@dataclass(frozen=True)
class VICE:
    """A classifier that is trained while learning, on examples of success and on what the policy reaches.

    Parameters
    ----------
    demos : str, optional
        Demonstrations whose successful ends are the examples; by default the task's own.
    batch : int, default 256
        Of each step, half of them successes.
    every : int, default 1
        Environment steps from one of its steps to the next.
    hidden : int, default 256
        Width of the hidden layer.
    lr : float, default 3e-4
        Learning rate of Adam.
    penalty : float, default 10
        Weight of the gradient penalty.
    """

    demos: str | None = None
    batch: int = 256
    every: int = 1
    hidden: int = 256
    lr: float = 3e-4
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if min(self.every, self.hidden) < 1 or self.batch < 2 or not (self.lr > 0 and self.penalty >= 0):
            raise FewerError(
                f"vice: every, hidden and lr must be positive, batch at least 2 and penalty not negative; given {self}"
            )

    def build(self, state: OffPolicyState) -> Judge:
        """Make it, with the examples."""
        good, bad = outcomes(state.task, self.demos, state.seed)
        with own_randomness(state.seed, "vice"):
            classifier = SuccessClassifier(state.task.observation_size, self.hidden, slope=0.01)
        # scales are of what may be seen; whether it was a success is not looked at
        classifier.standardise(torch.cat([good, bad]))
        return LearningJudge(classifier, good, state.replay, self)


class LearningJudge:
    """What :class:`VICE` builds.

    Parameters
    ----------
    classifier : SuccessClassifier
        To be trained.
    goals : float tensor (rows, observations)
        Examples of success.
    reached : Replay
        What the policy experienced.
    settings : VICE
        How.
    """

    def __init__(self, classifier: SuccessClassifier, goals: Rows, reached: Replay, settings: VICE) -> None:
        self.classifier, self.goals, self.reached, self.settings = classifier, goals, reached, settings
        self.parameters = list(classifier.parameters())
        self.optimiser = adam(self.parameters, settings.lr)
        self.steps = 0

    def judge(self, step: Step) -> Step:
        """Leave steps as they are: what they pay is said when they are drawn."""
        return step

    def relabel(self, batch: Batch) -> Batch:
        """Pay 1 where the classifier sees a success."""
        return replace(batch, rewards=self.classifier.success(batch.next_observations).to(batch.rewards.dtype))

    def learn(self) -> dict[str, Tensor]:
        """Make a step where one is due."""
        self.steps += 1
        if self.steps % self.settings.every:
            return {}
        half = self.settings.batch // 2
        goals = self.goals[torch.randint(len(self.goals), (half,))]
        self.classifier.train()
        loss = vice_loss(
            self.classifier.head,
            self.classifier.features(goals),
            self.classifier.features(self.reached.sample(half).next_observations),
            self.settings.penalty,
        )
        step(self.optimiser, loss, self.parameters)
        self.classifier.eval()
        return {"classifier_loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """The classifier and its optimiser."""
        return {
            "classifier": self.classifier.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up."""
        self.classifier.load_state_dict(tree["classifier"])
        self.optimiser.load_state_dict(tree["optimiser"])
        self.steps = tree["steps"]


def vice_loss(head: nn.Module, goals: Rows, others: Rows, penalty: float = 10.0) -> Float[Tensor, ""]:
    """Mixed, smoothed cross-entropy and the gradient penalty, from torch's global generator.

    Parameters
    ----------
    head : nn.Module
        Features (rows, width) to logits (rows, 1).
    goals, others : float tensor (rows, width)
        Features of successes and of others, as many of each.
    penalty : float, default 10
        Weight of the gradient penalty.
    """
    features = torch.cat([goals, others])
    labels = 0.8 * torch.cat([torch.ones(len(goals)), torch.zeros(len(others))]) + 0.1
    other = torch.randperm(len(features))
    share = torch.rand(len(features))  # Beta(1, 1)
    mixed = share[:, None] * features + (1 - share[:, None]) * features[other]
    logits = head(mixed)[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    entropy_other = functional.binary_cross_entropy_with_logits(logits, labels[other], reduction="none")
    return (share * entropy + (1 - share) * entropy_other).mean() + penalty * gradient_penalty(head, mixed)


def gradient_penalty(head: nn.Module, features: Rows) -> Float[Tensor, ""]:
    """How far the logit's slope is from 1, at random places between the first half of rows and the second.

    Examples
    --------
    >>> head = nn.Linear(3, 1)
    >>> _ = nn.init.constant_(head.weight, 3**-0.5)
    >>> round(gradient_penalty(head, torch.randn(8, 3)).item(), 6)
    0.0
    """
    first, second = features.detach().chunk(2)
    place = torch.rand(len(first), 1)
    between = (place * first + (1 - place) * second).requires_grad_()
    (slope,) = torch.autograd.grad(head(between).sum(), between, create_graph=True)
    return ((slope.square().sum(1) + 1e-6).sqrt() - 1).square().mean()
