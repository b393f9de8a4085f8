"""BAPO: clip bounds that are moved at each update until good tokens carry a set share of the gradient.

    rho(low, high) = |sum over A > 0 of pi_old min(r A, high A)| / sum of pi_old |min(r A, clip(r, low, high) A)|

Beginning with (low, high) = (a-, a+), as long as rho is below its target, the upper bound is raised by a step until it is b+,
then the lower one until it is b-.  Raising the upper bound lets unlikely good tokens in, which fixed clipping shuts out; raising
the lower one shuts out bad tokens that have become unlikely already.  Where stale rollouts are used again and again, that keeps
bad tokens from dominating the gradient.

References
----------
Xi et al., "BAPO: Stabilizing Off-Policy Reinforcement Learning for LLMs via Balanced Policy Optimization with Adaptive Clipping",
2025, arXiv:2510.18927.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, lower, no_worse
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.rollouts.advantages import GroupRelative, group_relative
from fewer.rollouts.baselines import clip_higher, grpo
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.decoding import teacher_forced
from fewer.rollouts.experience import token_mean
from fewer.rollouts.loop import PostTraining, PostTrainingState
from fewer.rollouts.objectives import Clipped, Objective, Tokens, clipped_surrogate, ratios


def positive_share(
    ratio: Tokens, advantages: Tokens, old: Tokens, mask: Bool[Tensor, "rows new"], low: float, high: float
) -> float:
    """Share of the surrogate's size that comes from tokens of positive advantage, each weighed by its old probability.

    Parameters
    ----------
    ratio, advantages, old : float tensor (rows, new)
        How much likelier each token has become, its advantage, and its log-probability when it was drawn.
    mask : bool tensor (rows, new)
        Tokens that count.
    low, high : float
        Bounds of the ratio.

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.5]]).log()
    >>> ratio, advantages = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    >>> round(positive_share(ratio, advantages, half, torch.ones(1, 2).bool(), 0.6, 1.2), 3)
    0.545
    """
    sizes = old.exp() * clipped_surrogate(ratio, advantages, low, high).abs()
    sizes = torch.where(mask, sizes, 0.0)
    return float(torch.where(advantages > 0, sizes, 0.0).sum() / sizes.sum().clamp(min=1e-30))


def positive_to_negative(
    ratio: Tokens, advantages: Tokens, old: Tokens, mask: Bool[Tensor, "rows new"], low: float, high: float
) -> float:
    """The surrogate's size from tokens of positive advantage over that from the others, none weighed: the published code's.

    Examples
    --------
    >>> ratio, advantages = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    >>> round(positive_to_negative(ratio, advantages, ratio, torch.ones(1, 2).bool(), 0.6, 1.2), 3)
    1.2
    """
    sizes = torch.where(mask, clipped_surrogate(ratio, advantages, low, high).abs(), 0.0)
    positive = torch.where(advantages > 0, sizes, 0.0).sum()
    return float(positive / (sizes.sum() - positive).clamp(min=1e-30))


@dataclass(frozen=True)
class Balanced(Objective):
    """The clipped surrogate between bounds that are searched for at each update; fills the slot ``objective``.

    Parameters
    ----------
    target : float, default 0.4
        Share of positive tokens that is asked for.
    low : (float, float), default (0.6, 0.9)
        Where the lower bound begins, and the most that it is raised to.
    high : (float, float), default (1.2, 3)
        Where the upper bound begins, and the most that it is raised to.
    steps : (float, float), default (0.02, 0.05)
        By how much the lower and the upper bound are raised at a time.
    variant : {"paper", "repo"}
        The share of the paper, and the upper bound first; or, as the published code has it, positive over negative, the lower
        bound first, and no loss of a negative token above three times its advantage.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> draws = torch.Generator().manual_seed(0)
    >>> old = -torch.rand(8, 5, generator=draws)
    >>> advantages = torch.where(torch.arange(8)[:, None] < 2, 1.0, -1.0).expand(8, 5)
    >>> fitted, noted = Balanced().fitted(old + 0.3, old, advantages, torch.ones(8, 5).bool())
    >>> {name: round(value, 2) for name, value in noted.items()}
    {'clip low': 0.9, 'clip high': 3.0, 'positive share': 0.24}
    """

    target: float = 0.4
    low: tuple[float, float] = (0.6, 0.9)
    high: tuple[float, float] = (1.2, 3.0)
    steps: tuple[float, float] = (0.02, 0.05)
    variant: Literal["paper", "repo"] = "paper"

    def __post_init__(self) -> None:
        if not 0 < self.target < (1 if self.variant == "paper" else float("inf")):
            raise FewerError(f"bapo: the target is a share between 0 and 1; it is {self.target}")
        if not (0 <= self.low[0] <= self.low[1] <= 1 <= self.high[0] <= self.high[1]) or min(self.steps) <= 0:
            raise FewerError(
                f"bapo: bounds are raised, the lower ones below 1 and the upper ones above it, by positive steps; given {self}"
            )
        if self.variant not in ("paper", "repo"):
            raise FewerError(f"bapo: variant is {self.variant!r}; choose paper or repo")

    @property
    def fits(self) -> bool:
        """Always."""
        return True

    @property
    def everywhere(self) -> bool:
        """Only by losses that a subclass writes itself."""
        return type(self).losses is not Balanced.losses

    @torch.no_grad()
    def fitted(
        self, logps: Tokens, old: Tokens, advantages: Tokens, mask: Bool[Tensor, "rows new"]
    ) -> tuple[Objective, dict[str, float]]:
        """Search for the bounds of one update, on all of its tokens.

        Raises
        ------
        FewerError
            If there is no token, or a log-probability is not finite; the row is named.
        """
        if not bool(mask.any()):
            raise FewerError("bapo: no token of the batch is learned from; give a mask with at least one")
        broken = torch.nonzero((mask & ~torch.isfinite(logps - old)).any(1))[:, 0]
        if len(broken):
            raise FewerError(f"bapo: log-probabilities of row {int(broken[0])} are not finite; lower the learning rate")
        ratio = ratios(torch.where(mask, logps, 0.0), torch.where(mask, old, 0.0))
        low, high, share = self.bounds(ratio, advantages, old, mask)
        noted = {"clip low": low, "clip high": high, "positive share": share}
        return Clipped(low, high, dual=None if self.variant == "paper" else 3.0), noted

    def bounds(
        self, ratio: Tokens, advantages: Tokens, old: Tokens, mask: Bool[Tensor, "rows new"]
    ) -> tuple[float, float, float]:
        """Bounds, and the share that they give."""
        measure = positive_share if self.variant == "paper" else positive_to_negative
        low, high = self.low[0], self.high[0]
        share = measure(ratio, advantages, old, mask, low, high)
        if not bool((mask & (advantages > 0)).any()):
            return low, high, share  # no bounds would change that
        while share < self.target:
            higher, lower = high + self.steps[1] <= self.high[1] + 1e-9, low + self.steps[0] <= self.low[1] + 1e-9
            if not (higher or lower):
                break
            if higher and (self.variant == "paper" or not lower):
                high += self.steps[1]
            else:
                low += self.steps[0]
            share = measure(ratio, advantages, old, mask, low, high)
        return low, high, share

    def losses(
        self, logps: Tokens, old: Tokens, advantages: Tokens, reference: Float[Tensor, "rows new"] | None
    ) -> Tokens:
        """Between the bounds that all tokens given here ask for."""
        fitted, _ = self.fitted(logps, old, advantages, torch.ones_like(logps, dtype=torch.bool))
        return fitted.losses(logps, old, advantages, reference)


def BAPO(
    target: float = 0.4,
    low: tuple[float, float] = (0.6, 0.9),
    high: tuple[float, float] = (1.2, 3.0),
    steps: tuple[float, float] = (0.02, 0.05),
    variant: Literal["paper", "repo"] = "paper",
    epochs: int = 2,
    parts: int = 4,
) -> dict[str, Any]:
    """Fill the slots with BAPO, and let each step's rollouts be used several times.

    Parameters
    ----------
    target : float, default 0.4
        Share of positive tokens that is asked for.
    low, high : (float, float), default (0.6, 0.9) and (1.2, 3)
        Where the bounds begin, and the most that they are raised to.
    steps : (float, float), default (0.02, 0.05)
        By how much they are raised.
    variant : {"paper", "repo"}
        As published in the paper, or in its code.
    epochs, parts : int, default 2 and 4
        How often a step's rollouts are gone through, and in how many updates each time.
    """
    return {
        "advantage": GroupRelative(),
        "objective": Balanced(target, low, high, steps, variant),
        "epochs": epochs,
        "parts": parts,
    }


# --- the claims --------------------------------------------------------------------------------------------------------

ACTIONS, INSTANCES = 20, 200


def measure_entropy(seed: int, tiny: bool) -> Measures:
    """How a step of the clipped surrogate changes the entropy of a policy of one token, enumerated, by the bounds."""
    bounds = {"0.8 to 1.2": (0.8, 1.2), "0.8 to 2": (0.8, 2.0), "0.5 to 1.2": (0.5, 1.2)}
    draws = torch_generator(seed, "policies")
    changed: dict[str, list[float]] = {name: [] for name in bounds}
    agreed = []
    for _ in range(4 if tiny else INSTANCES):
        logits = 1.5 * torch.randn(ACTIONS, generator=draws, dtype=torch.float64)
        advantages = torch.randn(ACTIONS, generator=draws, dtype=torch.float64)
        advantages = advantages - advantages.mean()
        old = torch.log_softmax(logits, 0)
        for _ in range(8):  # steps since the actions were drawn, on advantages that are partly others
            other = advantages + torch.randn(ACTIONS, generator=draws, dtype=torch.float64)
            logits = logits + 2.0 * _ascent(logits, old, other, 0.0, 1e9)
        for name, (low, high) in bounds.items():
            step = _ascent(logits, old, advantages, low, high)
            change = _entropy(logits + 0.1 * step) - _entropy(logits)
            changed[name].append(float(change))
            agreed.append(float(torch.sign(change) == torch.sign(_foretold(logits, old, advantages, low, high))))
    measured = {name: {"entropy": sum(each) / len(each)} for name, each in changed.items()}
    return measured | {"first order": {"agreement": sum(agreed) / len(agreed)}}


def _ascent(logits: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Gradient of the surrogate in the logits, over all actions with their old probabilities."""
    logits = logits.detach().requires_grad_()
    ratio = (torch.log_softmax(logits, 0) - old).exp()
    (found,) = torch.autograd.grad((old.exp() * clipped_surrogate(ratio, advantages, low, high)).sum(), logits)
    return found


def _entropy(logits: Tensor) -> Tensor:
    logps = torch.log_softmax(logits, 0)
    return -(logps.exp() * logps).sum()


def _foretold(logits: Tensor, old: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Minus the covariance of log-probabilities with what they gain: advantages that the bounds let through, times odds."""
    logps = torch.log_softmax(logits, 0)
    policy, ratio = logps.exp(), (logps - old).exp()
    through = torch.where(advantages > 0, ratio <= high, ratio >= low)
    gain = policy * advantages * through - policy * (policy * advantages * through).sum()
    return -(policy * (logps - (policy * logps).sum()) * gain).sum()


def measure_balance(seed: int, tiny: bool) -> Measures:
    """Share of good tokens, and size of the gradient, in rollouts that are 16 updates old and whose failures are long."""
    loop, state = _long_failures(grpo(), seed, tiny)
    with own_randomness(seed, "balance"):
        experience = loop.explore(state)
        advantages = group_relative(experience.rewards.float()).reshape(-1, 1).expand(experience.mask.shape)
        loop.learn_from(state, experience, advantages, experience.mask)
    logps, old, mask = teacher_forced(state.network, experience.sampled), experience.sampled.logps, experience.mask
    fitted, noted = Balanced().fitted(logps, old, advantages, mask)
    with torch.no_grad():
        ratio = ratios(logps, old)
        share = positive_share(ratio, advantages, old, mask, 0.8, 1.2)
    norms = {}
    for name, objective in (("bapo", fitted), ("unclipped", Clipped(0.0, 1e9))):
        loss = token_mean(objective.losses(logps, old, advantages, None), mask)
        found = torch.autograd.grad(loss, list(state.network.parameters()), retain_graph=True)
        norms[name] = float(torch.stack([each.norm() for each in found]).norm())
    return {
        "bapo": {"positive share": noted["positive share"], "gradient norm": norms["bapo"]},
        "0.8 to 1.2": {"positive share": share},
        "unclipped": {"gradient norm": norms["unclipped"]},
    }


def _long_failures(slots: dict[str, Any], seed: int, tiny: bool) -> tuple[PostTraining, PostTrainingState]:
    task = ChainSums("wanders", steps=5, longest=40) if tiny else ChainSums("wanders", longest=40)
    sizes: dict[str, Any] = {"prompts": 4, "group": 4} if tiny else {"prompts": 32, "group": 8}
    loop = PostTraining(**slots | {"epochs": 4, "parts": 4}, **sizes, asked=512, points=1)
    with own_randomness(seed, "start"):
        return loop, loop.start(task, (2 if tiny else 20) * sizes["prompts"] * sizes["group"], seed)


def measure_learning(seed: int, tiny: bool) -> Measures:
    """Accuracy after 20 steps whose rollouts are gone through four times, in four updates each time."""
    measured: dict[str, dict[str, float]] = {}
    for name, slots in {"grpo": grpo(), "clip-higher": clip_higher(), "bapo": BAPO()}.items():
        loop, state = _long_failures(slots, seed, tiny)
        with own_randomness(seed, "advance"):
            point = loop.advance(state)
        measured[name] = {"accuracy": point.score, "entropy": point.extras["entropy"]}
    return measured


claim = (
    Claim(
        says="A higher upper bound lets the entropy rise, a lower lower bound lets it fall, and in which direction a step goes "
        "is foretold by the covariance of log-probabilities with what the bounds let through.",
        measure=measure_entropy,
        seeds=5,
        holds=[
            higher("entropy", "0.8 to 2", than="0.8 to 1.2"),
            lower("entropy", "0.5 to 1.2", than="0.8 to 1.2"),
            higher("agreement", "first order", than=0.95),
        ],
        tiny=Tiny(seeds=2),
        note="Enumerated: 200 policies over 20 actions, each eight steps away from the one that actions are drawn from.",
    ),
    Claim(
        says="Where failures are long and rollouts old, the bounds that are found give good tokens at least the share that usual "
        "bounds give them, and the gradient is no larger than without bounds.",
        measure=measure_balance,
        seeds=5,
        holds=[
            no_worse("positive share", "bapo", than="0.8 to 1.2", within=0.0),
            lower("gradient norm", "bapo", than="unclipped"),
        ],
        tiny=Tiny(seeds=2),
        note="Sums of digits by a model whose failures are two to three times as long as its successes; a batch of 256 "
        "rollouts that 16 updates have been made from.",
    ),
    Claim(
        says="With rollouts that are used for 16 updates it learns faster than between usual symmetric bounds.",
        measure=measure_learning,
        seeds=3,
        holds=[higher("accuracy", "bapo", than="grpo")],
        tiny=Tiny(seeds=2),
        note="Twenty steps of 256 rollouts of the same model. A fixed upper bound of 1.28 is measured beside it, and may do as "
        "well. The published effects on the entropy of large models do not show on such short problems: as learning is faster, "
        "entropy falls as fast.",
    ),
)
