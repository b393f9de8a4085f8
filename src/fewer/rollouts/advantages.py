"""Rewards of a group to advantages: how much better each completion is than what was to be expected of its prompt.

References
----------
Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models" (GRPO), 2024,
arXiv:2402.03300.  Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback
in LLMs" (RLOO), ACL 2024, arXiv:2402.14740.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.rollouts.experience import Experience


class Advantage(Protocol):
    """How rewards become advantages: nothing else is needed for it, by default, and groups may be of any size."""

    @property
    def greedy(self) -> bool:
        """Whether it reads the reward of each prompt's greedy completion."""
        return False

    @property
    def reference(self) -> bool:
        """Whether it reads log-probabilities of the model that the run began with."""
        return False

    def check(self, group: int) -> None:
        """Refuse groups that are too small."""

    @abstractmethod
    def __call__(
        self, rewards: Float[Tensor, "prompts group"], experience: Experience
    ) -> Float[Tensor, "rollouts new"] | Float[Tensor, "prompts group"]:
        """Of each rollout, or of each of its tokens."""
        ...


def need_groups(who: str, group: int) -> None:
    """Refuse a group of one.

    Raises
    ------
    FewerError
        If there is nothing to compare with.
    """
    if group < 2:
        raise FewerError(
            f"{who}: rollouts of a prompt are compared with each other, and group is {group}; take 2 or more"
        )


def group_relative(
    rewards: Float[Tensor, "prompts group"], scale: bool = True, epsilon: float = 1e-6
) -> Float[Tensor, "prompts group"]:
    """Rewards less the mean of their group, divided by its standard deviation (of the population).

    Examples
    --------
    >>> import torch
    >>> group_relative(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])).round(decimals=3).tolist()
    [[1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, correction=0, keepdim=True) + epsilon) if scale else centred


def leave_one_out(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """Rewards less the mean of the others in their group.

    Examples
    --------
    >>> import torch
    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5]])).tolist()
    [[0.75, -0.75, 0.0]]
    """
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)


@dataclass(frozen=True)
class GroupRelative(Advantage):
    """GRPO's: see :func:`group_relative`.

    Parameters
    ----------
    scale : bool, default True
        Divide by the group's standard deviation.
    """

    scale: bool = True

    def check(self, group: int) -> None:
        """Two or more."""
        need_groups("grpo", group)

    def __call__(
        self, rewards: Float[Tensor, "prompts group"], experience: Experience
    ) -> Float[Tensor, "prompts group"]:
        """Of each rollout."""
        return group_relative(rewards, self.scale)


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """RLOO's: see :func:`leave_one_out`."""

    def check(self, group: int) -> None:
        """Two or more."""
        need_groups("rloo", group)

    def __call__(
        self, rewards: Float[Tensor, "prompts group"], experience: Experience
    ) -> Float[Tensor, "prompts group"]:
        """Of each rollout."""
        return leave_one_out(rewards)


@dataclass(frozen=True)
class Reward(Advantage):
    """REINFORCE's: the reward itself, or less the mean of its batch.

    Parameters
    ----------
    centred : bool, default False
        Take the batch's mean away.
    """

    centred: bool = False

    def __call__(
        self, rewards: Float[Tensor, "prompts group"], experience: Experience
    ) -> Float[Tensor, "prompts group"]:
        """Of each rollout."""
        return rewards - rewards.mean() if self.centred else rewards
