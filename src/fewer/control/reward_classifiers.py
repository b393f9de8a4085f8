"""Rewards from a classifier of success that is trained beforehand on examples.

It is trained by cross-entropy on batches of which half are successes; a step pays 1 where success is at least as likely as not,
and a success ends the episode.  One that learns while the policy does is in fewer.control.vice.

References
----------
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewer.control.environments import Step
from fewer.control.loop import Judge, OffPolicyState
from fewer.control.policies import adam, step
from fewer.control.replay import Batch
from fewer.control.success_classifiers import Rows, SuccessClassifier, outcomes
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.shared_start import shared_start


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
