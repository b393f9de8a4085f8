"""D3S: learn from those rollouts whose advantages vary most, and from their tokens of high advantage times entropy.

Of each group those rollouts stay whose advantages have the largest variance, and of all groups' rollouts together again, the root
of the share each time.  A set of largest variance is made of the largest and the smallest values, so trying each split of a
sorted list finds it.  Of the tokens of what stays, the share with the largest |A| * H is learned from.  Both shares grow with the
run, from few to all.  Advantages are those of whole groups and are not standardised again, which would undo it.

References
----------
Wang et al., "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy Optimization", ICLR 2026,
arXiv:2509.22115.  Xu et al., "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning" (PODS), 2025,
arXiv:2504.13818.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.rollouts.baselines import grpo
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.evaluation import evaluate
from fewer.rollouts.experience import Experience
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.slots import Selector


def most_varied(values: Float[Tensor, "sets values"], count: int) -> Int[Tensor, "sets count"]:
    """Places of the ``count`` values of largest variance in each set.

    Parameters
    ----------
    values : float tensor (sets, values)
        Of each set separately.
    count : int
        From 1 to the number of values.

    Returns
    -------
    int tensor (sets, count)
        Of equal choices, that with more of the largest values.

    Examples
    --------
    >>> most_varied(torch.tensor([[0.0, 3.0, 1.0, -1.0], [2.0, 1.0, 1.0, 1.0]]), 2).sort().values.tolist()
    [[1, 3], [0, 3]]
    """
    size = values.shape[1]
    ordered, places = values.double().sort(dim=1, stable=True)
    sums, squares = (nothing_before(each.cumsum(1)) for each in (ordered, ordered.square()))
    small = torch.arange(count + 1, device=values.device)  # this many of the smallest, the rest of the largest
    first = size - count + small

    def of_split(cumulated: Float[Tensor, "sets more"]) -> Float[Tensor, "sets splits"]:
        return cumulated[:, small] + cumulated[:, -1:] - cumulated[:, first]

    variance = of_split(squares) / count - (of_split(sums) / count).square()
    # rounding must not decide between equal splits
    best = (variance >= variance.amax(1, keepdim=True) - 1e-12).double().argmax(1)
    index = torch.arange(count, device=values.device).expand(len(values), count)
    chosen = torch.where(index < best[:, None], index, index + size - count)
    return places.gather(1, chosen)


def nothing_before(cumulated: Float[Tensor, "sets values"]) -> Float[Tensor, "sets more"]:
    """A cumulated sum that begins with 0."""
    return torch.nn.functional.pad(cumulated, (1, 0))


@dataclass(frozen=True)
class DualDownSampling(Selector):
    """Which rollouts and tokens are learned from; fills the slot ``selector``.

    Parameters
    ----------
    samples : (float, float), default (0.25, 1)
        Share of rollouts at the beginning and at the end of the run.
    tokens : (float, float), default (0.2, 1)
        Share of the tokens of these rollouts, likewise.
    across : bool, default True
        Choose among all groups' rollouts as well; otherwise in each group alone.

    Raises
    ------
    FewerError
        If a share is not in (0, 1].
    """

    samples: tuple[float, float] = (0.25, 1.0)
    tokens: tuple[float, float] = (0.2, 1.0)
    across: bool = True

    def __post_init__(self) -> None:
        if not all(0 < each <= 1 for each in (*self.samples, *self.tokens)):
            raise FewerError(f"d3s: shares lie in (0, 1]; given samples={self.samples}, tokens={self.tokens}")
        if self.samples[0] > self.samples[1] or self.tokens[0] > self.tokens[1]:
            warnings.warn(
                "d3s: a share that falls along the run learns from ever less, which is not what was published",
                stacklevel=2,
            )

    def __call__(
        self, advantages: Float[Tensor, "rollouts new"], experience: Experience, progress: float
    ) -> Bool[Tensor, "rollouts new"]:
        """Tokens that are kept."""
        mask = experience.mask
        count = mask.sum(1)
        # of advantages that differ from token to token, a rollout's is their mean
        means = torch.where(mask, advantages, 0.0).sum(1) / count.clamp(min=1)
        kept = self.rollouts(means.view(experience.rewards.shape), progress)
        return kept[:, None] & self.of_tokens(advantages, experience.sampled.entropy, mask & kept[:, None], progress)

    def share(self, ends: tuple[float, float], progress: float) -> float:
        """Between the shares at both ends."""
        return ends[0] + (ends[1] - ends[0]) * min(max(progress, 0.0), 1.0)

    def rollouts(self, advantages: Float[Tensor, "prompts group"], progress: float) -> Bool[Tensor, " rollouts"]:
        """Rollouts that are kept; those without an advantage only where nothing else is left."""
        prompts, group = advantages.shape
        share = self.share(self.samples, progress)
        # both levels leave out as much: were groups cut down to the whole share, nothing would be left to choose across them
        each = math.ceil((share**0.5 if self.across else share) * group - 1e-9)
        each = min(max(each, 2 if self.across else 1), group)
        kept = torch.zeros(prompts, group, dtype=torch.bool, device=advantages.device)
        kept.scatter_(1, most_varied(advantages, each), True)
        candidates = torch.nonzero(kept.flatten())[:, 0]
        total = min(max(1, round(share * prompts * group)), len(candidates))
        if self.across and total < len(candidates):
            chosen = candidates[most_varied(advantages.flatten()[candidates][None], total)[0]]
            kept = torch.zeros(prompts * group, dtype=torch.bool, device=advantages.device)
            kept[chosen] = True
        return kept.flatten()

    def of_tokens(
        self,
        advantages: Float[Tensor, "rollouts new"],
        entropy: Float[Tensor, "rollouts new"],
        mask: Bool[Tensor, "rollouts new"],
        progress: float,
    ) -> Bool[Tensor, "rollouts new"]:
        """Tokens of the kept rollouts with the largest |advantage| times entropy, of equal ones the first."""
        places = torch.nonzero(mask.flatten())[:, 0]
        count = round(self.share(self.tokens, progress) * len(places))
        worth = (advantages.abs() * entropy).flatten()[places]
        chosen = places[worth.sort(descending=True, stable=True).indices[:count]]
        kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
        kept[chosen] = True
        return kept.view(mask.shape)


def D3S(
    samples: tuple[float, float] = (0.25, 1.0), tokens: tuple[float, float] = (0.2, 1.0), across: bool = True
) -> DualDownSampling:
    """Fill the slot ``selector`` with D3S.

    Parameters
    ----------
    samples, tokens : (float, float), default (0.25, 1) and (0.2, 1)
        Shares of rollouts and of their tokens at the beginning and at the end of the run.
    across : bool, default True
        Choose among all groups' rollouts as well.
    """
    return DualDownSampling(samples, tokens, across)


@dataclass(frozen=True)
class RewardDownSampling(Selector):
    """In each group, the rollouts whose rewards vary most, all tokens of them: PODS; fills the slot ``selector``.

    Parameters
    ----------
    share : float, default 0.5
        Of each group.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise FewerError(f"pods: the share lies in (0, 1]; it is {self.share}")

    def __call__(
        self, advantages: Float[Tensor, "rollouts new"], experience: Experience, progress: float
    ) -> Bool[Tensor, "rollouts new"]:
        """Tokens that are kept."""
        rewards = experience.rewards
        kept = torch.zeros(rewards.shape, dtype=torch.bool, device=rewards.device)
        kept.scatter_(1, most_varied(rewards, max(1, round(self.share * rewards.shape[1]))), True)
        return kept.flatten()[:, None] & experience.mask


@dataclass(frozen=True)
class RandomDownSampling(Selector):
    """Rollouts by chance, as many as D3S keeps, and all of their tokens: the control; fills the slot ``selector``.

    Parameters
    ----------
    samples : (float, float), default (0.25, 1)
        Share of rollouts at the beginning and at the end of the run.
    """

    samples: tuple[float, float] = (0.25, 1.0)

    def __post_init__(self) -> None:
        if not all(0 < each <= 1 for each in self.samples):
            raise FewerError(f"random rollouts: shares lie in (0, 1]; given {self.samples}")

    def __call__(
        self, advantages: Float[Tensor, "rollouts new"], experience: Experience, progress: float
    ) -> Bool[Tensor, "rollouts new"]:
        """Tokens that are kept; drawn from torch's global generator."""
        rows = len(advantages)
        count = max(1, round((self.samples[0] + (self.samples[1] - self.samples[0]) * progress) * rows))
        kept = torch.zeros(rows, dtype=torch.bool, device=advantages.device)
        kept[torch.randperm(rows)[:count]] = True
        return kept[:, None] & experience.mask


# --- the claim ---------------------------------------------------------------------------------------------------------

STEPS = 40
GOAL = 0.8
"""Share of a step's rollouts that are right."""


def measure(seed: int, tiny: bool) -> Measures:
    """Tokens that were gone backward through until a step's rollouts are mostly right, and what is reached in the end."""
    steps = 3 if tiny else STEPS
    task = ChainSums(steps=5) if tiny else ChainSums()
    sizes: dict[str, Any] = {"prompts": 4, "group": 4} if tiny else {"prompts": 32, "group": 8}
    arms: dict[str, dict[str, Any]] = {
        "grpo": grpo(),
        "random rollouts": grpo() | {"selector": RandomDownSampling()},
        "d3s": grpo() | {"selector": DualDownSampling()},
    }
    measured: dict[str, dict[str, float]] = {}
    for name, slots in arms.items():
        loop = PostTraining(**slots, **sizes, asked=512)
        with own_randomness(seed, "start"):
            state = loop.start(task, steps * sizes["prompts"] * sizes["group"], seed)
        norms, needed = [], 0.0
        for step in range(steps):
            with own_randomness(seed, "step", step):
                report = loop.learn_once(state)
            norms.append(report.get("gradient norm", 0.0))
            if not needed and report["accuracy while learning"] >= GOAL:
                needed = state.ledger["gradient_tokens"]
        accuracy, _ = evaluate(task, replace(state.language, network=state.network), state.held_out, seed)
        measured[name] = {
            "gradient tokens": needed or max(10 * state.ledger["gradient_tokens"], 1.0),  # it was not reached
            "accuracy": accuracy,
            "gradient norm at first": sum(norms[:10]) / len(norms[:10]),
        }
    return measured


claim = Claim(
    says="Learning from the rollouts whose advantages vary most and from their tokens of high advantage times entropy takes far "
    "fewer tokens backward, and ends about as well after as many steps.",
    measure=measure,
    seeds=3,
    holds=[
        ratio("gradient tokens", "d3s", to="grpo", at_most=0.4),
        no_worse("accuracy", "d3s", than="grpo", within=0.02),
        higher("gradient norm at first", "d3s", than="grpo"),
    ],
    tiny=Tiny(seeds=2),
    note="Sums of digits by a model of a tenth of a million parameters, 40 steps of 32 prompts with 8 rollouts each. Gradient "
    "tokens are those until four fifths of a step's rollouts are right; ten times all of a run's where they never are. At an "
    "equal learning rate it saves tokens backward, not rollouts. The published shares are not known; these are a quarter of "
    "the rollouts and a fifth of their tokens at first, all at last. As many rollouts by chance are measured beside it.",
)
