"""What a step of post-training learns from: completions, what they were worth, and under which odds they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.rollouts.decoding import Sampled
from fewer.rollouts.problems import Problem


@dataclass(frozen=True)
class Experience:
    """Groups of completions, one group for each prompt; rollouts come prompt by prompt.

    Parameters
    ----------
    sampled : Sampled
        Tokens and their log-probabilities, (rollouts, new).
    problems : sequence of Problem
        One for each prompt.
    places : int tensor (prompts,)
        Where they are in what is learned from.
    rewards : float tensor (prompts, group)
        What the verifier said.
    correct : bool tensor (prompts, group)
        Which are right.
    cap : int
        Tokens that a completion could have.
    greedy : float tensor (prompts,), optional
        Rewards of greedy completions, where the advantage asks for them.
    reference : float tensor (rollouts, new), optional
        Log-probabilities under the model that the run began with, where they are asked for.
    """

    sampled: Sampled
    problems: Sequence[Problem]
    places: Int[Tensor, " prompts"]
    rewards: Float[Tensor, "prompts group"]
    correct: Bool[Tensor, "prompts group"]
    cap: int
    greedy: Float[Tensor, " prompts"] | None = None
    reference: Float[Tensor, "rollouts new"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "rollouts new"]:
        """Which tokens there are."""
        return self.sampled.mask

    @property
    def lengths(self) -> Int[Tensor, "prompts group"]:
        """Tokens of each completion, the one that ends it included."""
        return self.sampled.mask.sum(1).view(self.rewards.shape)

    @property
    def finished(self) -> Bool[Tensor, "prompts group"]:
        """Which completions ended by themselves."""
        return self.sampled.finished.view(self.rewards.shape)


def token_mean(values: Float[Tensor, "rows new"], mask: Bool[Tensor, "rows new"]) -> Float[Tensor, ""]:
    """Mean over all tokens of a batch; 0 if there is none.

    Examples
    --------
    >>> token_mean(torch.tensor([[1.0, 2.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])).item()
    2.6666667461395264
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def sequence_mean(values: Float[Tensor, "rows new"], mask: Bool[Tensor, "rows new"]) -> Float[Tensor, ""]:
    """Mean over rows of the mean over each row's tokens.

    Examples
    --------
    >>> sequence_mean(torch.tensor([[1.0, 2.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])).item()
    3.25
    """
    each = torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    return each.sum() / mask.any(1).sum().clamp(min=1)
