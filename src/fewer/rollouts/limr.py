"""LIMR: of all prompts, learn from those whose learning curves go with the average one.

A first run goes over all prompts and notes, for each prompt i and epoch k, which share r_i^k of its completions was right.

    s_i = 1 - sum_k (r_i^k - mean^k)^2 / sum_k (1 - mean^k)^2          mean^k = average of r_i^k over prompts

Prompts that are solved from the start have s = 0, prompts that never are a lower one (as long as the average is above a half),
and those that are learned while others are learned come near 1.  Training begins anew with those above a threshold.

References
----------
Li, Zou and Liu, "LIMR: Less is More for RL Scaling", 2025, arXiv:2502.11886.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fewer.claim import Claim, Measures, Tiny, higher, no_worse
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import generator
from fewer.rollouts.curations import Chosen, Curation, PromptStream
from fewer.rollouts.impact_scores import LIM
from fewer.rollouts.loop import PostTraining
from fewer.rollouts.mixed_sums import MixedSums
from fewer.tasks.rounds import Rounds


@dataclass(frozen=True)
class LearningImpact(Curation):
    """Learn from all prompts for some epochs, then begin anew with those that are kept; fills the slot ``curation``.

    The first run is a part of the budget.

    Parameters
    ----------
    epochs : int, default 10
        Of the first run.
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.
    """

    epochs: int = 10
    threshold: float = 0.6
    most: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 2 or (self.most is not None and self.most < 1):
            raise FewerError(f"limr: epochs must be at least 2 and most at least 1; given {self}")

    def build(self, prompts: int, seed: int) -> PromptStream:
        """Begin the first run."""
        return ImpactStream(self, prompts, seed)

    def least(self, prompts: int) -> int:
        """All prompts in each epoch, and one of those that are kept."""
        return prompts * self.epochs + 1


class ImpactStream(PromptStream):
    """What :class:`LearningImpact` builds.

    Parameters
    ----------
    settings : LearningImpact
        Its numbers.
    prompts : int
        How many there are.
    seed : int
        Of their order.
    """

    def __init__(self, settings: LearningImpact, prompts: int, seed: int) -> None:
        self.settings, self.prompts, self.seed = settings, prompts, seed
        self.curves = np.full((prompts, settings.epochs), np.nan)
        self.kept: Int[np.ndarray, " kept"] | None = None
        self.left = np.zeros(0, dtype=np.int64)
        self.epoch = -1
        self.rng = generator(seed, "prompts")
        self.rounds: Rounds | None = None

    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """The next of an epoch, which ends with all prompts tried; later, the next of those that are kept."""
        if self.rounds is not None:
            assert self.kept is not None
            return self.kept[self.rounds.draw(count)]
        if not len(self.left):
            self.left, self.epoch = self.rng.permutation(self.prompts), self.epoch + 1
        chosen, self.left = self.left[:count], self.left[count:]
        return chosen

    def record(self, places: Int[np.ndarray, " prompts"], correct: Float[np.ndarray, " prompts"]) -> bool:
        """Note the curves; after the last epoch of the first run, select and let the model begin anew."""
        if self.kept is not None:
            return False
        self.curves[places, self.epoch] = correct
        if len(self.left) or self.epoch + 1 < self.settings.epochs:
            return False
        self._keep(LIM(self.settings.threshold, self.settings.most).fit(self.curves).kept_)
        return True

    def _keep(self, kept: Int[np.ndarray, " kept"]) -> None:
        self.kept = kept
        self.rounds = Rounds(len(kept), generator(self.seed, "kept prompts"))

    def state_dict(self) -> dict[str, Any]:
        """Curves, what is kept, and where the order stands."""
        rounds = None if self.rounds is None else self.rounds.state_dict()
        return {
            "curves": self.curves,
            "kept": self.kept,
            "left": self.left,
            "epoch": self.epoch,
            "rng": self.rng,
            "rounds": rounds,
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        self.curves, self.left, self.epoch, self.rng = (tree[name] for name in ("curves", "left", "epoch", "rng"))
        if tree["kept"] is not None:
            self._keep(tree["kept"])
            assert self.rounds is not None
            self.rounds.load_state_dict(tree["rounds"])


def LIMR(epochs: int = 10, threshold: float = 0.6, most: int | None = None) -> LearningImpact:
    """Fill the slot ``curation`` with LIMR.

    Parameters
    ----------
    epochs : int, default 10
        Of the first run, over all prompts.
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.
    """
    return LearningImpact(epochs, threshold, most)


# --- the claim ---------------------------------------------------------------------------------------------------------


def measure(seed: int, tiny: bool) -> Measures:
    """Note the curves of a pool, keep a quarter of it, and train from the beginning on that, on as many by chance, and on all."""
    task = MixedSums(rows=12, steps=5) if tiny else MixedSums()
    sizes: dict[str, Any] = {"prompts": 4, "group": 2} if tiny else {"prompts": 32, "group": 8}
    epochs, steps, count = (2, 2, 3) if tiny else (8, 30, 60)
    curation = LearningImpact(epochs, most=count)
    loop = PostTraining(**sizes, curation=curation)
    with own_randomness(seed, "start"):
        state = loop.start(task, (epochs * task.rows + 1) * sizes["group"], seed)
    stream = state.stream
    assert isinstance(stream, ImpactStream)
    while stream.kept is None:
        with own_randomness(seed, "curves", state.step, stream.epoch):
            loop.learn_once(state)
    by_chance = generator(seed, "by chance").choice(task.rows, count, replace=False)
    kinds = np.array([problem.row["kind"] for problem in task.training(seed)])
    measured: dict[str, dict[str, float]] = {}
    arms = {"limr": stream.kept, "by chance": by_chance, "all": np.arange(task.rows)}
    for name, places in arms.items():
        again = PostTraining(**sizes, curation=Chosen(tuple(places.tolist())), asked=512, points=1)
        budget = steps * sizes["prompts"] * sizes["group"] if not tiny else 8
        point = again.learn(task, budget, seed).curve.points[-1]
        measured[name] = {"accuracy": point.score, "learnable": float((kinds[places] == "learnable").mean())}
    return measured


claim = Claim(
    says="Of a pool of prompts that are trivial, unlearnable or learnable, those whose curves go with the average one are the "
    "learnable ones; training on this quarter is better than on as many by chance, and no worse than on all.",
    measure=measure,
    seeds=3,
    holds=[
        higher("accuracy", "limr", than="by chance", by=0.05),
        no_worse("accuracy", "limr", than="all", within=0.02),
        higher("learnable", "limr", than=0.8),
    ],
    tiny=Tiny(seeds=2),
    note="240 sums of digits: two fifths of two digits, three tenths of six to eight digits, three tenths whose answers are made "
    "up. A first run of eight epochs, of which the best 60 prompts are kept, then 30 steps of 32 prompts with 8 rollouts each "
    "from the beginning; what the first run costs is not part of the comparison. Accuracy is that on new sums of six to eight "
    "digits.",
)
