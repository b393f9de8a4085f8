"""GRPO-lambda: short completions are rewarded only where the model is right already.

Groups are ranked by the share of right completions.  In the first lambda of them, a right completion is worth

    r = 1 - alpha * sigmoid((length - mean) / deviation),      mean and deviation over the group's right completions,

and in all others 1; what is wrong is worth 0 everywhere.  A penalty in all groups makes unreliable ones short before they are
right, and accuracy collapses.

References
----------
Dai, Liu and Si, "Stable Reinforcement Learning for Efficient Reasoning", 2025, arXiv:2505.18086.
Arora and Zanette, "Training Language Models to Reason Efficiently", 2025, arXiv:2502.04463 (the penalty).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.rollouts.advantages import GroupRelative
from fewer.rollouts.baselines import grpo
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.objectives import Clipped
from fewer.rollouts.slots import Shaping


@dataclass(frozen=True)
class EfficiencyWhereRight(Shaping):
    """Rewards that count length in the groups with most right completions; fills the slot ``shaping``.

    Parameters
    ----------
    lam : float, default 0.2
        Share of groups, rounded up, in which length counts; 0 for none, 1 for all.
    alpha : float, default 0.2
        What length can cost at most.
    min_ratio : float, default 0
        Share of right completions that such a group must have.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> shaping = EfficiencyWhereRight(lam=0.5, alpha=0.4)
    >>> correct, lengths = torch.tensor([[True, True], [True, False]]), torch.tensor([[4, 8], [6, 6]])
    >>> shaping(correct.double(), correct, lengths).round(decimals=3).tolist()
    [[0.892, 0.708], [1.0, 0.0]]
    """

    lam: float = 0.2
    alpha: float = 0.2
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.lam <= 1 and 0 <= self.alpha < 1 and 0 <= self.min_ratio <= 1):
            raise FewerError(f"grpo-lambda: lam and min_ratio lie in [0, 1], alpha in [0, 1); given {self}")

    def groups(self, correct: Bool[Tensor, "prompts group"]) -> Bool[Tensor, " prompts"]:
        """In which groups length counts: those with the most right completions, of equal ones the first."""
        ratio = correct.double().mean(1)
        count = math.ceil(self.lam * len(ratio) - 1e-9)
        chosen = torch.zeros_like(ratio, dtype=torch.bool)
        chosen[ratio.sort(descending=True, stable=True).indices[:count]] = True
        return chosen & (ratio >= self.min_ratio)

    def __call__(
        self,
        rewards: Float[Tensor, "prompts group"],
        correct: Bool[Tensor, "prompts group"],
        lengths: Int[Tensor, "prompts group"],
    ) -> Float[Tensor, "prompts group"]:
        """Of each completion."""
        penalised = 1 - self.alpha * torch.sigmoid(standardised(lengths, correct))
        worth = torch.where(self.groups(correct)[:, None], penalised, 1.0)
        return torch.where(correct, worth, 0.0).to(rewards.dtype)


def standardised(
    lengths: Int[Tensor, "prompts group"], correct: Bool[Tensor, "prompts group"]
) -> Float[Tensor, "prompts group"]:
    """Lengths in standard deviations from the mean of the group's right completions; 0 where these are all of one length.

    Examples
    --------
    >>> standardised(torch.tensor([[4, 8, 99]]), torch.tensor([[True, True, False]]))[:, :2].tolist()
    [[-1.0, 1.0]]
    """
    counted = lengths.double()
    right = correct.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(correct, counted, 0.0).sum(1, keepdim=True) / right
    spread = torch.where(correct, (counted - mean).square(), 0.0).sum(1, keepdim=True).div(right).sqrt()
    return torch.where(spread > 0, (counted - mean) / spread.clamp(min=1e-4), 0.0)


def GRPOLambda(lam: float = 0.2, alpha: float = 0.2, min_ratio: float = 0.0, scale: bool = True) -> dict[str, Any]:
    """Fill the slots with GRPO-lambda.

    Parameters
    ----------
    lam : float, default 0.2
        Share of groups in which length counts.
    alpha : float, default 0.2
        What length can cost at most.
    min_ratio : float, default 0
        Share of right completions that such a group must have.
    scale : bool, default True
        Divide advantages by the group's standard deviation, which makes small differences of length large.
    """
    return {
        "shaping": EfficiencyWhereRight(lam, alpha, min_ratio),
        "advantage": GroupRelative(scale),
        "objective": Clipped(),
    }


def length_penalty(alpha: float = 0.2) -> dict[str, Any]:
    """Fill the slots with GRPO where length counts in all groups.

    Parameters
    ----------
    alpha : float, default 0.2
        What length can cost at most.
    """
    return GRPOLambda(1.0, alpha)


def shaped_rewards(
    correct: Sequence[float], lengths: Sequence[int], prompts: Sequence[Any], lam: float = 0.2, alpha: float = 0.2
) -> list[float]:
    """Rewards of a flat batch, for a trainer that asks for a reward of each completion.

    Parameters
    ----------
    correct : sequence of 0 or 1
        Which completions are right.
    lengths : sequence of int
        Tokens of each.
    prompts : sequence
        Which prompt each belongs to; all prompts have as many completions.
    lam, alpha : float, default 0.2
        As in :class:`EfficiencyWhereRight`.

    Raises
    ------
    FewerError
        If sizes do not fit, or something is neither right nor wrong.

    Examples
    --------
    >>> [round(each, 3) for each in shaped_rewards([1, 0, 1, 1], [4, 6, 8, 4], ["a", "b", "a", "b"], lam=0.5, alpha=0.4)]
    [0.892, 0.0, 0.708, 1.0]
    """
    if not len(correct) == len(lengths) == len(prompts) or not len(correct):
        raise FewerError(
            f"grpo-lambda: {len(correct)} verdicts, {len(lengths)} lengths and {len(prompts)} prompts were given; give one each"
        )
    if not set(map(float, correct)) <= {0.0, 1.0}:
        raise FewerError(
            "grpo-lambda: each completion is right (1) or wrong (0); turn other scores into that by a threshold"
        )
    names = list(dict.fromkeys(prompts))
    places = [[place for place, each in enumerate(prompts) if each == name] for name in names]
    if len({len(each) for each in places}) > 1:
        raise FewerError("grpo-lambda: all prompts need as many completions; these have groups of different sizes")
    order = np.array(places)
    right, counted = torch.tensor(correct).bool()[order], torch.tensor(lengths)[order]
    shaped = EfficiencyWhereRight(lam, alpha)(right.float(), right, counted)
    flat = [0.0] * len(correct)
    for place, value in zip(order.ravel().tolist(), shaped.ravel().tolist(), strict=True):
        flat[place] = value
    return flat


# --- the claims --------------------------------------------------------------------------------------------------------

ALPHA = 0.4
"""A strong penalty, so that what it costs is seen."""


def measure_copies(seed: int, tiny: bool) -> Measures:
    """Sixty steps of a model that repeats itself without need."""
    return _raced(ChainSums("copies", steps=5 if tiny else 600), 60, seed, tiny)


def measure_strides(seed: int, tiny: bool) -> Measures:
    """Fifty steps of a model that works in long or short steps, of which the short ones fail on long problems."""
    return _raced(ChainSums("strides", steps=5 if tiny else 700), 50, seed, tiny)


def _raced(task: ChainSums, steps: int, seed: int, tiny: bool) -> Measures:
    sizes: dict[str, Any]
    sizes, budget = ({"prompts": 2, "group": 2}, 16) if tiny else ({"prompts": 32, "group": 8}, steps * 256)
    arms = {"grpo": grpo(), "grpo-lambda": GRPOLambda(0.2, ALPHA), "length penalty": length_penalty(ALPHA)}
    measured: dict[str, dict[str, float]] = {}
    for name, slots in arms.items():
        point = PostTraining(**slots, **sizes, asked=512, points=1).learn(task, budget, seed).curve.points[-1]
        measured[name] = {"accuracy": point.score, "length": point.extras["held-out length"]}
    return measured


claim = (
    Claim(
        says="Rewarding short completions only where the model is mostly right shortens what is superfluous, at about the same "
        "accuracy.",
        measure=measure_copies,
        seeds=3,
        holds=[
            ratio("length", "grpo-lambda", to="grpo", at_most=0.92),
            no_worse("accuracy", "grpo-lambda", than="grpo", within=0.03),
        ],
        tiny=Tiny(seeds=2),
        note="Sums of digits by a model that repeats itself without need, 60 steps of 32 prompts with 8 rollouts each, lambda "
        "0.2, alpha 0.4. A penalty in all groups is measured beside it; of pure repetition it may take as much.",
    ),
    Claim(
        says="A penalty of length in all groups costs accuracy early on, where that in the most reliable fifth does not.",
        measure=measure_strides,
        seeds=3,
        holds=[higher("accuracy", "grpo-lambda", than="length penalty", by=0.03)],
        tiny=Tiny(seeds=2),
        note="Sums of digits by a model that chooses between all steps, every second one and none, 50 steps of 32 prompts with 8 "
        "rollouts each, alpha 0.4.",
    ),
)
