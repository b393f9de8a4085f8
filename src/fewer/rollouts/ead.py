"""Exploratory annealed decoding: each completion begins hot and cools down.

    tau_t = 1                                               for the first ``hold`` tokens
    tau_t = max(1 + tau_max - exp(t / d_s), tau_min)        after them, t counted from the beginning
    d_s   = min(d0 + growth * s, 40000)                     grows with the step s, as completions get longer

The first tokens decide what a completion will be, the later ones carry it out: variety where it helps, care where it does not.
What is drawn is then not drawn from the model itself; three corrections are there.

References
----------
Yang, Gui et al., "Let it Calm: Exploratory Annealed Decoding for Verifiable Reinforcement Learning", 2025, arXiv:2510.05251.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.rollouts.baselines import grpo
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.decoding import Sampled, decode
from fewer.rollouts.evaluation import judged
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.slots import Sampler

SLOWEST = 40_000
"""Tokens that the scale of the decay does not go beyond."""


@dataclass(frozen=True)
class AnnealedTemperature(Sampler):
    """Temperature by a token's place in its completion; fills the slot ``sampler``.

    Parameters
    ----------
    tau_max, tau_min : float, default 1.2 and 0.1
        Where it begins, and below which it does not go.
    d0 : float, default 500
        Scale of the decay in tokens, at the first step; three quarters of it later the floor is reached.
    growth : float, default 100
        How much longer it gets with each step.
    hold : int, default 10
        Tokens at the beginning that are drawn at 1, such as those of a template.
    correction : {"none", "tis", "tempered-old"}
        What is done about completions being drawn from another distribution than the model's: nothing; losses are weighed by
        how much likelier the model finds a token than it was when drawn, at most ``cap``; or ratios are taken to the
        probabilities that were drawn from.
    cap : float, default 2
        Largest weight of ``tis``.
    top_p : float, default 1
        Smallest share of the probability that is drawn from, after the temperature.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> cooling = AnnealedTemperature(tau_max=1.3, tau_min=0.3, d0=8, growth=0, hold=0)
    >>> [round(cooling.at(place, step=0), 2) for place in (0, 1, 2, 4, 8)]
    [1.3, 1.17, 1.02, 0.65, 0.3]
    """

    tau_max: float = 1.2
    tau_min: float = 0.1
    d0: float = 500.0
    growth: float = 100.0
    hold: int = 10
    correction: Literal["none", "tis", "tempered-old"] = "none"
    cap: float = 2.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.tau_min <= self.tau_max or not self.d0 > 0 or self.growth < 0 or self.hold < 0:
            raise FewerError(f"ead: 0 < tau_min <= tau_max, d0 > 0, growth >= 0 and hold >= 0 are needed; given {self}")
        if self.correction not in ("none", "tis", "tempered-old") or not self.cap > 0 or not 0 < self.top_p <= 1:
            raise FewerError(
                f"ead: correction is none, tis or tempered-old, cap positive and top_p in (0, 1]; given {self}"
            )

    def scale(self, step: int) -> float:
        """Of the decay, in tokens, at a step."""
        return min(self.d0 + self.growth * step, max(SLOWEST, self.d0))

    def at(self, place: int, step: int = 0) -> float:
        """Temperature of a token, by its place from 0 on."""
        if place < self.hold:
            return 1.0
        # beyond this the floor is reached whatever the scale, and exp would not be finite
        away = min(place / self.scale(step), math.log(1 + self.tau_max))
        return max(1 + self.tau_max - math.exp(away), self.tau_min)

    def temperature(self, step: int) -> Callable[[int], float]:
        """At a step, by a token's place."""
        return lambda place: self.at(place, step)

    def check(self, longest: int) -> None:
        """Warn where completions of so many tokens never get to a temperature of 1."""
        if self.at(longest - 1) > 1:
            warnings.warn(
                f"ead: within {longest} tokens the temperature stays above 1 (d0 is {self.d0:g}): that is hot sampling; lower d0",
                stacklevel=2,
            )

    def old(self, sampled: Sampled) -> Float[Tensor, "rollouts new"]:
        """Log-probabilities that ratios are taken to."""
        return sampled.behaviour if self.correction == "tempered-old" else sampled.logps

    def weights(self, sampled: Sampled) -> Float[Tensor, "rollouts new"] | None:
        """Truncated importance weights, with the correction ``tis``."""
        if self.correction != "tis":
            return None
        return truncated_weights(sampled.logps, sampled.behaviour, self.cap)


def truncated_weights(
    logps: Float[Tensor, "rollouts new"], behaviour: Float[Tensor, "rollouts new"], cap: float
) -> Float[Tensor, "rollouts new"]:
    """How much likelier a model finds tokens than what they were drawn from, at most ``cap``.

    Examples
    --------
    >>> import torch
    >>> truncated_weights(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -3.0]]), cap=2.0).tolist()
    [[1.0, 2.0]]
    """
    return (logps - behaviour).exp().clamp(max=cap)


def EAD(
    tau_max: float = 1.2,
    tau_min: float = 0.1,
    d0: float = 500.0,
    growth: float = 100.0,
    hold: int = 10,
    correction: Literal["none", "tis", "tempered-old"] = "none",
) -> AnnealedTemperature:
    """Fill the slot ``sampler`` with annealed decoding.

    Parameters
    ----------
    tau_max, tau_min : float, default 1.2 and 0.1
        Where the temperature begins, and below which it does not go.
    d0, growth : float, default 500 and 100
        Scale of the decay in tokens, and how much it grows with each step.
    hold : int, default 10
        Tokens at the beginning that are drawn at 1.
    correction : {"none", "tis", "tempered-old"}
        What is done about drawing from another distribution than the model's.
    """
    return AnnealedTemperature(tau_max, tau_min, d0, growth, hold, correction)


def logits_processor(schedule: AnnealedTemperature, prompt: int, step: int = 0) -> Any:
    """The schedule as a logits processor of ``transformers``, for ``model.generate``.

    Parameters
    ----------
    schedule : AnnealedTemperature
        Its numbers.
    prompt : int
        Columns of ``input_ids`` that belong to the prompts.
    step : int, default 0
        Of the training.
    """
    from transformers import LogitsProcessor

    class Annealed(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores / schedule.at(input_ids.shape[1] - prompt, step)

    return Annealed()


# --- the claims --------------------------------------------------------------------------------------------------------

COOLING = AnnealedTemperature(tau_max=1.3, tau_min=0.3, d0=8.0, growth=0.0, hold=0)
"""For completions of about ten tokens."""


def measure_variety(seed: int, tiny: bool) -> Measures:
    """How often completions of one model are right, and how many beginnings a prompt's completions have."""
    task, prompts, group = (ChainSums(steps=5), 4, 4) if tiny else (ChainSums(), 256, 16)
    language = task.language(0)
    problems = list(task.training(seed))[:prompts]
    warm: dict[str, float | Callable[[int], float]] = {
        "1": 1.0,
        "1.2": 1.2,
        "annealed": COOLING.at,
        "reversed": lambda place: COOLING.at(max(0, 7 - place)),
    }
    measured: dict[str, dict[str, float]] = {}
    for name, temperature in warm.items():
        sampled = decode(
            language.network,
            [language.encode(problem.prompt) for problem in problems],
            new=task.longest,
            end=language.end,
            pad=language.pad,
            temperature=temperature,
            draws=torch_generator(seed, "variety", name),
            group=group,
        )
        said = judged(task, language, [each for each in problems for _ in range(group)], sampled)
        beginnings = [tuple(each[:3]) for each in sampled.completions()]
        distinct = [len(set(beginnings[row : row + group])) for row in range(0, len(beginnings), group)]
        measured[name] = {"accuracy": float(said.correct.mean()), "beginnings": sum(distinct) / len(distinct)}
    return measured


def measure_learning(seed: int, tiny: bool) -> Measures:
    """Mean greedy accuracy along sixty steps with four rollouts of each prompt."""
    task = ChainSums(steps=5) if tiny else ChainSums()
    sizes: dict[str, Any]
    sizes, budget = ({"prompts": 2, "group": 2, "points": 2}, 16) if tiny else ({"group": 4, "points": 15}, 60 * 128)
    arms = {"1": grpo(), "annealed": grpo() | {"sampler": EAD(1.3, 0.3, 7.0, 0.14, 0)}}
    return {
        name: {"area": _mean_greedy(PostTraining(**slots, **sizes, asked=128), task, budget, seed)}
        for name, slots in arms.items()
    }


def _mean_greedy(loop: PostTraining, task: ChainSums, budget: int, seed: int) -> float:
    points = loop.learn(task, budget, seed).curve.points
    return sum(point.extras["greedy accuracy"] for point in points) / len(points)


claim = (
    Claim(
        says="Completions that begin hot and cool down begin in more ways than at a temperature of one and are right more often; "
        "against a hot temperature throughout they are right far more often and begin in about as many ways.",
        measure=measure_variety,
        seeds=5,
        holds=[
            higher("beginnings", "annealed", than="1"),
            higher("accuracy", "annealed", than="1"),
            higher("accuracy", "annealed", than="1.2", by=0.05),
            ratio("beginnings", "annealed", to="1.2", at_least=0.9),
        ],
        tiny=Tiny(seeds=2),
        note="Sums of digits, 256 prompts with 16 completions each, from 1.3 down to 0.3 within about seven tokens. Beginnings "
        "are different first three tokens of a prompt's completions. The reverse, cold and then hot, is measured beside it.",
    ),
    Claim(
        says="Training on such completions is faster than on those at a temperature of one.",
        measure=measure_learning,
        seeds=5,
        holds=[higher("area", "annealed", than="1")],
        tiny=Tiny(seeds=2),
        note="Sixty steps of 32 prompts with four rollouts each; the area is the mean greedy accuracy of fifteen points of the "
        "curve. Ratios are taken to the model's own probabilities, as in the published recipe.",
    ),
)
