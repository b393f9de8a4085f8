"""ReMax: REINFORCE whose baseline is the reward of the greedy completion of the same prompt.

    A = clamp(r(x, a) - r(x, a_greedy), -c, c)
    G_t = gamma^(T - t) A - beta (log pi(a_t) - log pi_ref(a_t))          gamma^1 at the last token
    loss = - mean over tokens of G_t log pi(a_t)

One more completion a prompt takes the place of a critic, of advantage estimation along the tokens, and of clipping.  The baseline
does not depend on what was drawn, so the gradient stays unbiased, and what all completions of a prompt get cancels.

References
----------
Li et al., "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning Large Language Models", ICML
2024, arXiv:2310.10505.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, lower, ratio
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import generator
from fewer.models.optimisers import AdamW
from fewer.rollouts.advantages import Advantage
from fewer.rollouts.baselines import reinforce
from fewer.rollouts.chain_sums import ChainSums
from fewer.rollouts.decoding import teacher_forced
from fewer.rollouts.experience import Experience, token_mean
from fewer.rollouts.loop import PostTraining, PostTrainingState
from fewer.rollouts.objectives import PolicyGradient
from fewer.rollouts.problems import Problem


@dataclass(frozen=True)
class GreedyBaseline(Advantage):
    """Rewards less that of the greedy completion; fills the slot ``advantage``.

    Parameters
    ----------
    beta : float, default 0
        Weight of the pull towards the model that the run began with, token by token.
    gamma : float, default 1
        What a reward is worth at each token, counted backwards from the last one, for which it counts once already.
    most : float, default 5
        Largest size of the difference of two rewards.
    standardise : bool, default False
        Divide by the batch's standard deviation; that is another estimator than the paper's.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> advantage = GreedyBaseline()
    >>> advantage.differences(torch.tensor([[2.0, 1.0], [9.0, 1.0]]), torch.tensor([2.0, 1.0])).tolist()
    [[0.0, -1.0], [5.0, 0.0]]
    """

    beta: float = 0.0
    gamma: float = 1.0
    most: float = 5.0
    standardise: bool = False

    def __post_init__(self) -> None:
        if self.beta < 0 or not 0 < self.gamma <= 1 or not self.most > 0:
            raise FewerError(f"remax: beta >= 0, gamma in (0, 1] and most > 0 are needed; given {self}")

    @property
    def greedy(self) -> bool:
        """Always."""
        return True

    @property
    def reference(self) -> bool:
        """Only for the pull."""
        return self.beta > 0

    def differences(
        self, rewards: Float[Tensor, "prompts group"], greedy: Float[Tensor, " prompts"]
    ) -> Float[Tensor, "prompts group"]:
        """Rewards less those of the greedy completions, within bounds."""
        found = (rewards - greedy[:, None]).clamp(-self.most, self.most)
        return found / (found.std(correction=0) + 1e-6) if self.standardise else found

    def __call__(
        self, rewards: Float[Tensor, "prompts group"], experience: Experience
    ) -> Float[Tensor, "rollouts new"]:
        """Of each token."""
        assert experience.greedy is not None
        differences = self.differences(rewards, experience.greedy).reshape(-1, 1)
        returns = differences * discounts(experience.mask, self.gamma)
        if self.beta:
            assert experience.reference is not None
            returns = returns - self.beta * (experience.sampled.logps - experience.reference)
        return torch.where(experience.mask, returns, 0.0)


def discounts(mask: Bool[Tensor, "rollouts new"], gamma: float) -> Float[Tensor, "rollouts new"]:
    """What a reward after the last token is worth at each: gamma at the last one, its square at the one before.

    Examples
    --------
    >>> discounts(torch.tensor([[True, True, False]]), 0.5).tolist()
    [[0.25, 0.5, 0.0]]
    """
    left = mask.flip(1).cumsum(1).flip(1)
    return torch.where(mask, gamma ** left.float(), 0.0)


def ReMax(beta: float = 0.0, gamma: float = 1.0, standardise: bool = False) -> dict[str, Any]:
    """Fill the slots with ReMax; one completion a prompt is its regime, ``post-training(group=1, prompts=64)``.

    Parameters
    ----------
    beta : float, default 0
        Weight of the pull towards the first model; the published training of large models has 0.05.
    gamma : float, default 1
        Per-token discount; that training has 0.99.
    standardise : bool, default False
        Divide advantages by the batch's standard deviation.
    """
    return {"advantage": GreedyBaseline(beta, gamma, standardise=standardise), "objective": PolicyGradient()}


# --- the claims --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredSums(ChainSums):
    """Sums whose rewards are scores: 1, another 1 if right, and what the prompt itself is worth.

    Parameters
    ----------
    spread : float, default 0
        Standard deviation of what prompts are worth.
    """

    spread: float = 0.0

    def worth(self, problem: Problem) -> float:
        """Of a prompt, whatever the completion."""
        return self.spread * float(generator(0, "worth", problem.prompt).standard_normal())

    def verify(self, completion: str, problem: Problem) -> float:
        """The score."""
        return 1 + super().verify(completion, problem) + self.worth(problem)

    def correct(self, reward: float, problem: Problem) -> bool:
        """Whether the score is that of a right completion."""
        return reward - self.worth(problem) > 1.5


def measure_variance(seed: int, tiny: bool) -> Measures:
    """Total variance of the gradient at the first model, over batches of 64 prompts with one completion each."""
    batches, prompts = (3, 4) if tiny else (40, 64)
    measured: dict[str, dict[str, float]] = {}
    for spread, said in ((0.0, ""), (2.0, ", prompts of different worth")):
        task = ScoredSums(steps=5, spread=spread) if tiny else ScoredSums(spread=spread)
        loop = PostTraining(**ReMax(), prompts=prompts, group=1)
        with own_randomness(seed, "start"):
            state = loop.start(task, 10**9, seed)
        gradients: dict[str, list[Tensor]] = {}
        for batch in range(batches):
            with own_randomness(seed, "batch", batch):
                experience = loop.explore(state)
            rewards = experience.rewards.float()
            for name, advantages in {
                "reinforce": rewards,
                "batch mean": rewards - rewards.mean(),
                "remax": loop.advantage(rewards, experience),
            }.items():
                gradients.setdefault(name + said, []).append(_gradient(state, experience, advantages))
        for name, each in gradients.items():
            # of a model that is never right, as in the tiny form, all gradients may be 0
            measured[name] = {"variance": float(torch.stack(each).var(0).sum()) + 1e-12}
    return measured


def _gradient(state: PostTrainingState, experience: Experience, advantages: Tensor) -> Tensor:
    logps = teacher_forced(state.network, experience.sampled)
    weights = advantages.expand(logps.shape) if advantages.shape != logps.shape else advantages
    # of each batch the sum over its tokens, for the mean over them would depend on what was drawn
    loss = token_mean(-logps * weights, experience.mask) * experience.mask.sum() / len(logps)
    found = torch.autograd.grad(loss, list(state.network.parameters()))
    return torch.cat([each.flatten() for each in found])


def measure_learning(seed: int, tiny: bool) -> Measures:
    """Accuracy after sixty steps of as many completions, greedy ones included."""
    task = ScoredSums(steps=5, spread=2.0) if tiny else ScoredSums(spread=2.0)
    count, steps = (4, 2) if tiny else (64, 60)
    arms: dict[str, tuple[dict[str, Any], int]] = {
        "remax": (ReMax(), count),
        "reinforce": (reinforce(), 2 * count),
        "batch mean": (reinforce(centred=True), 2 * count),
    }
    measured: dict[str, dict[str, float]] = {}
    for name, (slots, prompts) in arms.items():
        loop = PostTraining(**slots, prompts=prompts, group=1, optimiser=AdamW(5e-4, 0.0), asked=512, points=1)
        learned = loop.learn(task, steps * 2 * count, seed)
        measured[name] = {"accuracy": learned.curve.final}
    return measured


def measure_memory(seed: int, tiny: bool) -> Measures:
    """Bytes of weights, gradients and the optimiser's moments, with and without a critic of the same size."""
    task = ScoredSums(steps=5) if tiny else ScoredSums()
    loop = PostTraining(**ReMax(), prompts=4, group=1)
    with own_randomness(seed, "start"):
        state = loop.start(task, 10**9, seed)
    with own_randomness(seed, "step"):
        experience = loop.explore(state)
        loop.learn_from(state, experience, torch.ones(experience.mask.shape), experience.mask)
    parameters = list(state.network.parameters())
    held = [*parameters, *(each.grad for each in parameters if each.grad is not None)]
    held += [value for each in state.optimiser.state.values() for value in each.values() if isinstance(value, Tensor)]
    own = float(np.sum([each.numel() * each.element_size() for each in held]))
    # the critic is the same network with a head of one number in place of the vocabulary's
    last = next(reversed(parameters))
    critic = own - 4 * 4 * (last.numel() - last.shape[-1])
    return {"remax": {"bytes": own}, "with a critic": {"bytes": own + critic}}


claim = (
    Claim(
        says="With rewards that are not centred, the greedy baseline halves the gradient's variance at least; where prompts "
        "differ in worth, it is below that with the batch's mean, too.",
        measure=measure_variance,
        seeds=3,
        holds=[
            ratio("variance", "remax", to="reinforce", at_most=0.5),
            lower(
                "variance",
                "remax, prompts of different worth",
                than="batch mean, prompts of different worth",
            ),
        ],
        tiny=Tiny(seeds=2),
        note="Sums of digits, rewards 1 and 2, or these with an offset of standard deviation 2 for each prompt; 40 batches of 64 "
        "prompts at the model that training begins with. Where all prompts are worth the same, the batch's mean has less "
        "variance than the greedy baseline, since greedy completions are better than others.",
    ),
    Claim(
        says="Where prompts differ in worth it learns faster than REINFORCE from as many completions.",
        measure=measure_learning,
        seeds=3,
        holds=[higher("accuracy", "remax", than="reinforce", by=0.05)],
        tiny=Tiny(seeds=2),
        note="Sixty steps of 128 completions, of which half are greedy ones for ReMax. With rewards of 0 and 1 alone, both get "
        "as far.",
    ),
    Claim(
        says="Without a critic, weights, gradients and moments take about half as much memory.",
        measure=measure_memory,
        seeds=3,
        holds=[ratio("bytes", "remax", to="with a critic", at_most=0.55)],
        tiny=Tiny(seeds=2),
        note="Counted. The critic is the same network with a single number in place of the vocabulary.",
    ),
)
