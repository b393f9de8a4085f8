"""Bandits as a family of tasks: arms with unknown means, contexts that somebody collected, and play with what was learnt.

A bandit has one state, the constant 1.  Regret is counted in means, not in what was paid, so that luck does not show.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import torch_generator
from fewer.core.spec import Call
from fewer.incontext.bandit_rules import (
    EmpiricalMean,
    LinearThompson,
    LinearUpperConfidenceBound,
    LowerConfidenceBound,
    PosteriorMean,
    RandomArm,
    Rule,
    ThompsonSampling,
    UpperConfidenceBound,
)
from fewer.incontext.decisions import (
    Decisions,
    Label,
    Transitions,
    as_tokens,
    next_actions,
    sampled,
    transition_tokens,
)
from fewer.incontext.loop import Predict, Prompts, Reader

RollIn = Literal["mixture", "thompson"]
"""Who collects the transitions of a training prompt: skewed random pulls, or a learner."""


class BanditFamily(Decisions):
    """Bandits whose arms pay a mean and normal noise.

    Parameters
    ----------
    arms : int
        How many.
    context : int
        Most pulls of a prompt.
    noise : float
        Standard deviation of a payment.
    roll_in : {"mixture", "thompson"}
        Who pulls in training prompts.  "mixture" draws each arm from one distribution per bandit, between a random one
        and a single arm; "thompson" is Thompson sampling that takes arms to be independent, and is never shuffled.
    label, empty_context
        As in :class:`~fewer.incontext.decisions.Decisions`.
    """

    metric = "negative suboptimality"

    def __init__(
        self, arms: int, context: int, noise: float, roll_in: RollIn, label: Label, empty_context: bool
    ) -> None:
        super().__init__(1, arms, context, label, empty_context)
        if not noise >= 0:
            raise FewerError(f"bandit: noise must be 0 or more; {noise} was given")
        if roll_in not in ("mixture", "thompson"):
            raise FewerError(f"bandit: roll_in must be 'mixture' or 'thompson'; {roll_in!r} was given")
        self.arms, self.noise, self.roll_in = arms, noise, roll_in

    @abstractmethod
    def means(self, count: int, generator: torch.Generator) -> Float[Tensor, "bandits arms"]:
        """Draw bandits."""

    @abstractmethod
    def behaviour(self) -> Rule:
        """Who pulls when ``roll_in="thompson"``."""

    @abstractmethod
    def rivals(self) -> tuple[Mapping[str, Rule], Mapping[str, Rule]]:
        """Rules that explore, and rules for given data."""

    def fingerprint(self) -> str:
        """Name the law that is drawn from."""
        return fingerprint(self.name)

    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """Prompts to train on."""
        means = self.means(count, generator)
        pulls, payments = self.collected(means, generator)
        if self.label == "optimal":
            target = nn.functional.one_hot(means.argmax(-1), self.arms).float()
        else:
            target = next_actions(pulls, self.arms)
        return Prompts(self.prompts(pulls, payments), target)

    def collected(
        self, means: Float[Tensor, "bandits arms"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "bandits pulls"], Float[Tensor, "bandits pulls"]]:
        """The roll-in: which arms were pulled, and what they paid."""
        if self.roll_in == "thompson":
            rule = RulePlayer(self.behaviour(), len(means), self.arms)
            return play(means, self.noise, rule, self.context, generator)
        # 0, 0.1, ..., 1 of the pulls go to one arm, and the others are spread at random
        share = torch.randint(11, (len(means), 1), generator=generator) / 10
        # a uniform draw is zero once in 2^24 times, and its logarithm no number to divide by
        spread = -torch.rand(means.shape, generator=generator).clamp_min(2.0**-25).log()
        single = torch.randint(self.arms, (len(means),), generator=generator)
        chances = (1 - share) * spread / spread.sum(-1, keepdim=True) + share * nn.functional.one_hot(single, self.arms)
        pulls = torch.multinomial(chances, self.context, replacement=True, generator=generator)
        noise = torch.randn(pulls.shape, generator=generator)
        return pulls, means.gather(1, pulls) + self.noise * noise

    def prompts(
        self, pulls: Int[Tensor, "bandits pulls"], payments: Float[Tensor, "bandits pulls"]
    ) -> Float[Tensor, "bandits length features"]:
        """Tokens of what was pulled and paid."""
        ones = torch.ones(*pulls.shape, 1)
        return as_tokens(torch.ones(len(pulls), 1), Transitions(ones, pulls, ones, payments), self.arms)

    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """How much less the arm named from given data pays than the best, and what exploring costs; beside the best rules."""
        exploring, deciding = self.rivals()
        best = "linear thompson" if "linear thompson" in exploring else "thompson"
        given = self.offline(seed, predict, {"posterior mean": deciding["posterior mean"]})
        regret = self.online(seed, predict, {best: exploring[best]})
        scores = {name: -sum(each.values()) / len(each) for name, each in given.items()}
        return scores["network"], {
            **{f"suboptimality@{pulls}": value for pulls, value in given["network"].items()},
            "posterior mean": scores["posterior mean"],
            "regret": float(regret["network"].sum()),
            f"{best} regret": float(regret[best].sum()),
        }

    def offline(
        self,
        seed: int,
        predict: Predict | None = None,
        rules: Mapping[str, Rule] | None = None,
        count: int = 1000,
        after: Sequence[int] | None = None,
    ) -> dict[str, dict[int, float]]:
        """Suboptimality of the arm named from given data: what the best arm pays more, on the mean.

        Parameters
        ----------
        seed : int
            Which bandits and data; the same for all who are compared.
        predict : Predict, optional
            A trained network, listed as ``"network"``.
        rules : mapping of str to Rule, optional
            Rivals.
        count : int, default 1000
            Bandits.
        after : sequence of int, optional
            After how many pulls; by default a tenth, a quarter, a half and all of the context.
        """
        generator = torch_generator(seed, "given data")
        means = self.means(count, generator)
        pulls, payments = self.collected(means, generator)
        places = sorted({max(self.context * part // 20, 1) for part in (2, 5, 10, 20)}) if after is None else after
        named: dict[str, dict[int, Tensor]] = {}
        if predict is not None:
            tokens = self.prompts(pulls, payments)
            outputs = predict(Prompts(tokens, tokens))
            named["network"] = {at: outputs[:, at].argmax(-1) for at in places}
        for name, rule in (rules or {}).items():
            chance = torch_generator(seed, "given data", name)
            named[name] = {
                at: rule.choose(*_totals(pulls[:, :at], payments[:, :at], self.arms), chance) for at in places
            }
        best = means.amax(-1)
        return {
            name: {at: float((best - _of(means, arm)).mean()) for at, arm in each.items()}
            for name, each in named.items()
        }

    def online(
        self,
        seed: int,
        predict: Predict | None = None,
        rules: Mapping[str, Rule] | None = None,
        count: int = 200,
        steps: int | None = None,
    ) -> dict[str, Float[Tensor, " steps"]]:
        """Regret of each pull while exploring, the mean over bandits; all play the same bandits with the same luck.

        Parameters
        ----------
        seed, predict, rules, count
            As in :meth:`offline`.
        steps : int, optional
            Pulls; by default as many as the context holds.
        """
        steps = self.context if steps is None else steps
        if predict is not None and steps > self.context:
            raise FewerError(f"bandit: {steps} pulls are more than the context of {self.context}; raise context")
        means = self.means(count, torch_generator(seed, "play"))
        players: dict[str, Callable[[], Any]] = {}
        if predict is not None:
            players["network"] = lambda: NetworkPlayer(predict, count, self.arms)
        for name, rule in (rules or {}).items():
            players[name] = lambda rule=rule: RulePlayer(rule, count, self.arms)
        best = means.amax(-1, keepdim=True)
        regrets = {}
        for name, make in players.items():
            pulls, _ = play(
                means, self.noise, make(), steps, torch_generator(seed, "luck"), torch_generator(seed, name)
            )
            regrets[name] = (best - means.gather(1, pulls)).mean(0)
        return regrets


class Bandit(BanditFamily):
    """Arms whose means are uniform in [0, 1].

    Parameters
    ----------
    arms : int, default 5
        How many.
    context : int, default 100
        Most pulls of a prompt; the paper has 500.
    noise : float, default 0.3
        Standard deviation of a payment.
    roll_in : {"mixture", "thompson"}, default "mixture"
        Who pulls in training prompts.
    label : {"optimal", "behaviour"}, default "optimal"
        What is to be said; "behaviour" with "mixture" is behaviour cloning, with "thompson" algorithm distillation.
    empty_context : bool, default True
        Whether the answer without data is trained too.

    Examples
    --------
    >>> family = Bandit(context=20)
    >>> prompts = family.sample(4, torch.Generator().manual_seed(0))
    >>> prompts.tokens.shape, prompts.target.shape
    (torch.Size([4, 21, 8]), torch.Size([4, 5]))
    """

    def __init__(
        self,
        arms: int = 5,
        context: int = 100,
        noise: float = 0.3,
        roll_in: RollIn = "mixture",
        label: Label = "optimal",
        empty_context: bool = True,
    ) -> None:
        super().__init__(arms, context, noise, roll_in, label, empty_context)
        given = {"arms": arms, "context": context, "noise": noise, "roll_in": roll_in, "label": label}
        self.name = self.spec = str(Call("bandit", (), {**given, "empty_context": empty_context}))

    def means(self, count: int, generator: torch.Generator) -> Float[Tensor, "bandits arms"]:
        """Uniform."""
        return torch.rand(count, self.arms, generator=generator)

    def behaviour(self) -> Rule:
        """Thompson sampling with the right prior."""
        return ThompsonSampling(noise=max(self.noise, 1e-3))

    def rivals(self) -> tuple[Mapping[str, Rule], Mapping[str, Rule]]:
        """Thompson sampling, UCB, empirical means; and LCB and the posterior mean for given data."""
        noise = max(self.noise, 1e-3)
        online = {
            "thompson": ThompsonSampling(noise=noise),
            "ucb": UpperConfidenceBound(),
            "empirical": EmpiricalMean(),
            "random": RandomArm(),
        }
        offline = {
            "thompson": ThompsonSampling(noise=noise, draws=100),
            "lcb": LowerConfidenceBound(),
            "empirical": EmpiricalMean(explore=False),
            "posterior mean": PosteriorMean(noise=noise),
            "random": RandomArm(),
        }
        return online, offline


class LinearBandit(BanditFamily):
    """Arms with features that are the same in all tasks and that the network is never shown; ``theta`` is the task.

    Parameters
    ----------
    arms : int, default 10
        How many.
    dimension : int, default 2
        Of the features, which are normal and divided by its root, as ``theta`` is.
    context : int, default 100
        Most pulls of a prompt; the paper has 200.
    noise : float, default 0.3
        Standard deviation of a payment.
    roll_in : {"thompson", "mixture"}, default "thompson"
        Who pulls in training prompts: Thompson sampling that knows nothing of the features.
    label, empty_context
        As in :class:`Bandit`.
    arms_seed : int, default 0
        Which features.
    """

    def __init__(
        self,
        arms: int = 10,
        dimension: int = 2,
        context: int = 100,
        noise: float = 0.3,
        roll_in: RollIn = "thompson",
        label: Label = "optimal",
        empty_context: bool = True,
        arms_seed: int = 0,
    ) -> None:
        super().__init__(arms, context, noise, roll_in, label, empty_context)
        if dimension < 1:
            raise FewerError(f"linear-bandit: dimension must be at least 1; {dimension} was given")
        drawn = torch.randn(arms, dimension, generator=torch_generator(arms_seed, "arms"))
        self.dimension, self.arm_features = dimension, drawn / dimension**0.5
        given = {"arms": arms, "dimension": dimension, "context": context, "noise": noise, "roll_in": roll_in}
        given |= {"label": label, "empty_context": empty_context, "arms_seed": arms_seed}
        self.name = self.spec = str(Call("linear-bandit", (), given))

    def means(self, count: int, generator: torch.Generator) -> Float[Tensor, "bandits arms"]:
        """Features times a normal ``theta``."""
        theta = torch.randn(count, self.dimension, generator=generator) / self.dimension**0.5
        return theta @ self.arm_features.T

    def behaviour(self) -> Rule:
        """Thompson sampling with prior mean 0 and variance 1, arms taken to be independent."""
        return ThompsonSampling(mean=0.0, variance=1.0, noise=max(self.noise, 1e-3))

    def rivals(self) -> tuple[Mapping[str, Rule], Mapping[str, Rule]]:
        """LinUCB and Thompson sampling that know the features, and the rule that collected the data."""
        noise, variance = max(self.noise, 1e-3), 1 / self.dimension
        features = self.arm_features
        online = {
            "linear thompson": LinearThompson(features, variance, noise),
            "linucb": LinearUpperConfidenceBound(features, 1.0, variance, noise),
            "thompson": self.behaviour(),
            "random": RandomArm(),
        }
        offline = {
            "linear thompson": LinearThompson(features, variance, noise, draws=100),
            "posterior mean": LinearUpperConfidenceBound(features, 0.0, variance, noise),
            "lcb": LowerConfidenceBound(),
            "empirical": EmpiricalMean(explore=False),
            "random": RandomArm(),
        }
        return online, offline


# --- play ------------------------------------------------------------------------------------------------------------


class RulePlayer:
    """A rule that keeps the books.

    Parameters
    ----------
    rule : Rule
        Who decides.
    bandits, arms : int
        Of what.
    """

    def __init__(self, rule: Rule, bandits: int, arms: int) -> None:
        self._rule = rule
        self._counts, self._sums = torch.zeros(bandits, arms), torch.zeros(bandits, arms)

    def act(self, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """An arm of each bandit."""
        return self._rule.choose(self._counts, self._sums, generator)

    def observe(self, arms: Int[Tensor, " bandits"], payments: Float[Tensor, " bandits"]) -> None:
        """Book what was paid."""
        self._counts.scatter_add_(1, arms[:, None], torch.ones_like(payments)[:, None])
        self._sums.scatter_add_(1, arms[:, None], payments[:, None])


class NetworkPlayer:
    """A trained network that draws from its answer, and reads each token once.

    Parameters
    ----------
    predict : Predict
        The network.
    bandits, arms : int
        Of what.
    """

    def __init__(self, predict: Predict, bandits: int, arms: int) -> None:
        self._reader, self._arms = Reader(predict), arms
        self._logits = self._reader(as_tokens(torch.ones(bandits, 1), None, arms))[:, -1]

    def act(self, generator: torch.Generator) -> Int[Tensor, " bandits"]:
        """An arm of each bandit."""
        return sampled(self._logits, generator)

    def observe(self, arms: Int[Tensor, " bandits"], payments: Float[Tensor, " bandits"]) -> None:
        """Read what was paid."""
        ones = torch.ones(len(arms), 1, 1)
        tokens = transition_tokens(Transitions(ones, arms[:, None], ones, payments[:, None]), self._arms)
        self._logits = self._reader(tokens)[:, -1]


def play(
    means: Float[Tensor, "bandits arms"],
    noise: float,
    player: RulePlayer | NetworkPlayer,
    steps: int,
    luck: torch.Generator,
    choices: torch.Generator | None = None,
) -> tuple[Int[Tensor, "bandits pulls"], Float[Tensor, "bandits pulls"]]:
    """Pull arms for a while: which, and what they paid.

    Parameters
    ----------
    means : float tensor (bandits, arms)
        What arms pay on the mean.
    noise : float
        Standard deviation of a payment.
    player : RulePlayer or NetworkPlayer
        Who pulls.
    steps : int
        How often.
    luck : torch Generator
        For the noise, which is the same for whichever arm is pulled.
    choices : torch Generator, optional
        For the player's draws; by default ``luck``.
    """
    errors = noise * torch.randn(steps, len(means), generator=luck)
    pulls, payments = [], []
    for error in errors:
        arms = player.act(luck if choices is None else choices)
        paid = _of(means, arms) + error
        player.observe(arms, paid)
        pulls.append(arms)
        payments.append(paid)
    return torch.stack(pulls, 1), torch.stack(payments, 1)


def _of(means: Float[Tensor, "bandits arms"], arms: Int[Tensor, " bandits"]) -> Float[Tensor, " bandits"]:
    return means.gather(1, arms[:, None]).squeeze(1)


def _totals(
    pulls: Int[Tensor, "bandits pulls"], payments: Float[Tensor, "bandits pulls"], arms: int
) -> tuple[Float[Tensor, "bandits arms"], Float[Tensor, "bandits arms"]]:
    """How often each arm was pulled, and what it paid in all."""
    empty = torch.zeros(len(pulls), arms)
    return empty.scatter_add(1, pulls, torch.ones_like(payments)), empty.scatter_add(1, pulls, payments)
