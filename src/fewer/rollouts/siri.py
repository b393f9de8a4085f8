"""SIRI: the most tokens a completion may have go down and up again, cycle by cycle.

    cosine        L(t) = (max + min) / 2 + (max - min) / 2 * cos(2 pi t / T)
    stair         L(t) = min in the first half of a cycle, max in the second
    stair-cosine  plateaus of a quarter of a cycle at both ends, and half cosines between them

There is no penalty of length.  What is cut off before its answer is worth 0 and stays in its group, so that compression keeps the
steps that matter, and expansion gives the room back for exploration.

References
----------
Wen et al., "SIRI: Scaling Iterative Reinforcement Learning with Interleaved Compression", 2025, arXiv:2509.25176.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from fewer.claim import Claim, Measures, Tiny, higher, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.rollouts.advantages import GroupRelative
from fewer.rollouts.baselines import clip_higher
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.objectives import Clipped
from fewer.rollouts.slots import FixedLength, Lengths


@dataclass(frozen=True)
class InterleavedCompression(Lengths):
    """How many tokens a completion may have, at each step; fills the slot ``lengths``.

    Parameters
    ----------
    least : int, optional
        Tokens at the end of a compression; by default half of the most, as published.
    most : int, optional
        Tokens at the end of an expansion; by default as many as the task allows.
    cycle : int, default 640
        Steps from one beginning of a compression to the next.
    shape : {"cosine", "stair", "stair-cosine"}
        How it goes from one to the other.

    Raises
    ------
    FewerError
        If ``least`` is not below ``most``, or a cycle has fewer than two steps.

    Examples
    --------
    >>> lengths = InterleavedCompression(least=10, cycle=8)
    >>> [lengths.cap(step, 30) for step in range(9)]
    [30, 27, 20, 13, 10, 13, 20, 27, 30]
    """

    least: int | None = None
    most: int | None = None
    cycle: int = 640
    shape: Literal["cosine", "stair", "stair-cosine"] = "cosine"

    def __post_init__(self) -> None:
        if self.least is not None and (self.least < 1 or (self.most is not None and self.least >= self.most)):
            raise FewerError(
                f"siri: least must be at least 1 and below most; given least={self.least}, most={self.most}"
            )
        if self.cycle < 2:
            raise FewerError(f"siri: a cycle has two steps or more; given cycle={self.cycle}")
        if self.shape not in ("cosine", "stair", "stair-cosine"):
            raise FewerError(f"siri: shape is {self.shape!r}; choose cosine, stair or stair-cosine")

    def cap(self, step: int, longest: int) -> int:
        """Tokens at a step.

        Raises
        ------
        FewerError
            If the task allows fewer than ``least`` and one, or fewer than ``most``.
        """
        most = longest if self.most is None else self.most
        least = most // 2 if self.least is None else self.least
        if not 1 <= least < most <= longest:
            raise FewerError(
                f"siri: from {least} to {most} tokens were asked for, and the task allows {longest}; lower them, or let "
                "the task have longer completions"
            )
        return round(least + (most - least) * self.share(step))

    def share(self, step: int) -> float:
        """How far it is expanded, from 0 to 1."""
        phase = 2 * math.pi * (step % self.cycle) / self.cycle
        if self.shape == "stair":
            return 0.0 if phase < math.pi else 1.0
        if self.shape == "stair-cosine":
            eighth = math.pi / 4
            if phase < eighth or phase >= 7 * eighth:
                return 1.0
            if 3 * eighth <= phase < 5 * eighth:
                return 0.0
            phase = 2 * (phase - (eighth if phase < 3 * eighth else 3 * eighth))
        return (1 + math.cos(phase)) / 2


def SIRI(
    least: int | None = None,
    most: int | None = None,
    cycle: int = 640,
    shape: Literal["cosine", "stair", "stair-cosine"] = "cosine",
) -> dict[str, Any]:
    """Fill the slots with SIRI: the schedule of lengths, and GRPO with more room upwards and no pull to the first model.

    Parameters
    ----------
    least, most : int, optional
        Fewest and most tokens; by default half of the most, and those that the task allows.
    cycle : int, default 640
        Steps of a cycle.
    shape : {"cosine", "stair", "stair-cosine"}
        How lengths go down and up.
    """
    return {
        "lengths": InterleavedCompression(least, most, cycle, shape),
        "advantage": GroupRelative(),
        "objective": Clipped(high=1.28),
    }


# --- the claim ---------------------------------------------------------------------------------------------------------


def measure(seed: int, tiny: bool) -> Measures:
    """Sixty steps with two cycles between 30 and 10 tokens, against lengths that stay at either end."""
    task = ChainSums("copies", steps=5) if tiny else ChainSums("copies")
    sizes: dict[str, Any]
    sizes, budget = ({"prompts": 2, "group": 2}, 16) if tiny else ({"prompts": 32, "group": 8}, 60 * 256)
    arms: dict[str, dict[str, Any]] = {
        "most": clip_higher(),
        "siri": SIRI(least=10, cycle=30),
        "least": clip_higher() | {"lengths": FixedLength(10)},
    }
    measured: dict[str, dict[str, float]] = {}
    for name, slots in arms.items():
        learned = PostTraining(**slots, **sizes, asked=512, points=1).learn(task, budget, seed)
        point = learned.curve.points[-1]
        measured[name] = {
            "accuracy": point.score,
            "length": point.extras["held-out length"],
            "tokens": learned.ledger["tokens"],
        }
    return measured


claim = Claim(
    says="With the most tokens of a completion going down and up again, completions end shorter and training writes fewer tokens "
    "than with the most all along, at about the same accuracy, which is above that with the fewest all along.",
    measure=measure,
    seeds=3,
    holds=[
        ratio("length", "siri", to="most", at_most=0.92),
        no_worse("accuracy", "siri", than="most", within=0.03),
        ratio("tokens", "siri", to="most", at_most=0.9),
        higher("accuracy", "siri", than="least"),
    ],
    tiny=Tiny(seeds=2),
    note="Sums of digits by a model that repeats itself without need, 60 steps of 32 prompts with 8 rollouts each, two cycles "
    "between 30 and 10 tokens. On sums without anything superfluous it ends as long and as accurate as with the most all along.",
)
