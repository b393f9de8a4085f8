"""VICE: rewards from a classifier of success that learns while the policy does.

It has examples of success only, and takes for failures whatever the policy reaches.  With a batch of both halves, labels
smoothed to 0.1 and 0.9, and every row x mixed with another one of the batch, x = m x_1 + (1 - m) x_2 with m ~ Beta(1, 1)::

    loss = m BCE(c(x), y_1) + (1 - m) BCE(c(x), y_2)  +  10 mean (|grad_z c(z)| - 1)^2

where z lies at a random place between a row of the one half of mixed rows and one of the other.  So the classifier stays
undecided and smooth, and does not come to reject everything new.  As it changes, rewards are said anew whenever a batch is
drawn.

References
----------
Fu et al., "Variational Inverse Control with Events", NeurIPS 2018, arXiv:1805.11686.
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.control.environments import Step
from fewer.control.loop import Judge, OffPolicyState
from fewer.control.policies import adam, step
from fewer.control.replay import Batch, Replay
from fewer.control.success_classifiers import Rows, SuccessClassifier, outcomes
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness


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
