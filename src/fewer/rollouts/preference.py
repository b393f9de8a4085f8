"""Learning from comparisons: which of two completions of a prompt is better, asked online.

One completion is drawn from the model as it is, another from it or from the one that the run began with; an oracle says which is
better, and the model learns from all comparisons so far.  The loop owns the model, the count of comparisons and the pairs; slots
decide where the second completion comes from and what is made small.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.samples import Sample
from fewer.core.seeding import generator, torch_generator
from fewer.models.optimisers import AdamW, Constant, Optimiser, Schedule, parameter_groups, set_rate
from fewer.rollouts.decoding import Sampled, decode, teacher_forced
from fewer.rollouts.evaluation import SHOWN, completions
from fewer.rollouts.objectives import divergence
from fewer.rollouts.policy import TrainedPolicy
from fewer.rollouts.problems import Language, Problem, Problems, prompt_tokens, verdicts
from fewer.tasks.rounds import Rounds


class Preferences(Problems):
    """Problems whose completions are compared.

    Attributes
    ----------
    metric : str
        What the score is: the mean of what :meth:`verify` says of held-out completions.
    slope : float
        How reliably the oracle prefers what is better, see :meth:`prefer`.
    """

    metric: str = "mean reward"
    slope: float = 1.0

    def prefer(self, problem: Problem, one: str, other: str) -> float:
        """How likely ``one`` is said to be better; by default by the difference of what :meth:`verify` says (Bradley-Terry)."""
        difference = self.verify(one, problem) - self.verify(other, problem)
        return float(1 / (1 + np.exp(-self.slope * difference)))


@dataclass(frozen=True)
class Comparisons:
    """Pairs with what was said of them, as the objective sees them: log-probabilities of whole completions.

    Parameters
    ----------
    chosen, rejected : float tensor (pairs,)
        Under the model that learns.
    reference_chosen, reference_rejected : float tensor (pairs,)
        Under the model that the run began with.
    second_chosen : bool tensor (pairs,)
        Whether the second completion was preferred.
    different : bool tensor (pairs,)
        False where both completions are the same, which teaches nothing.
    """

    chosen: Float[Tensor, " pairs"]
    rejected: Float[Tensor, " pairs"]
    reference_chosen: Float[Tensor, " pairs"]
    reference_rejected: Float[Tensor, " pairs"]
    second_chosen: Bool[Tensor, " pairs"]
    different: Bool[Tensor, " pairs"]


class PairObjective(Protocol):
    """What is made small."""

    def losses(self, pairs: Comparisons, progress: float) -> Float[Tensor, " pairs"]:
        """Of each pair, when ``progress`` (0 to 1) of the run is over."""
        ...


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation.

    Parameters
    ----------
    beta : float, default 0.1
        Weight of the divergence from the first model that is implied.
    kind : {"sigmoid", "ipo"}
        The logistic loss, or the squared distance of the margin from 1 / (2 beta).
    """

    beta: float = 0.1
    kind: Literal["sigmoid", "ipo"] = "sigmoid"

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.kind not in ("sigmoid", "ipo"):
            raise FewerError(f"dpo: beta must be positive and kind sigmoid or ipo; given {self}")

    def losses(self, pairs: Comparisons, progress: float) -> Float[Tensor, " pairs"]:
        """Of each pair; 0 for two equal completions."""
        margin = (pairs.chosen - pairs.reference_chosen) - (pairs.rejected - pairs.reference_rejected)
        logistic = -nn.functional.logsigmoid(self.beta * margin)
        losses = (margin - 1 / (2 * self.beta)).square() if self.kind == "ipo" else logistic
        return torch.where(pairs.different, losses, 0.0)


@dataclass
class PreferenceState(State):
    """The model, its optimiser, and all pairs so far."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "rounds", "draws", "pairs")

    task: Preferences = field(kw_only=True)
    language: Language = field(kw_only=True)
    network: nn.Module = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    training: list[Problem] = field(kw_only=True)
    held_out: list[Problem] = field(kw_only=True)
    prompt: int = field(kw_only=True)
    rounds: Rounds = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)
    pairs: dict[str, Tensor] = field(kw_only=True)


@dataclass(frozen=True)
class PreferenceLearning(Loop[Preferences, PreferenceState]):
    """Ask which of two completions is better, and learn from the answers; with its defaults, online DPO.

    Parameters
    ----------
    objective : PairObjective, default DPO()
        What is made small.
    first, second : {"policy", "reference"}, default "policy" and "reference"
        Whether a pair's completions are drawn from the model as it is, or from the one that the run began with.
    temperature : float, default 1
        At which the model as it is is drawn from; the other one always at 1.
    optimiser : Optimiser, default AdamW(lr=3e-4, weight_decay=0)
        How parameters move.
    schedule : Schedule, default Constant()
        Learning rate over the run.
    prompts : int, default 8
        Comparisons before each learning.
    updates, batch : int, default 4 and 64
        Steps of each learning, and pairs of each step.
    fresh : bool, default False
        Learn from the newest comparisons only, not from all so far.
    clip : float, default 1
        Largest norm of the gradient; 0 for none.
    asked : int, default 256
        Held-out problems at each point of the curve, at most.
    points : int, default 5
        How many points the curve has.
    """

    unit: ClassVar[str] = "comparisons"
    accepts: ClassVar[type[Preferences]] = Preferences
    watched: ClassVar[tuple[str, ...]] = ("divergence", "length", "loss")

    objective: PairObjective = field(default_factory=DPO)
    first: Literal["policy", "reference"] = "policy"
    second: Literal["policy", "reference"] = "reference"
    temperature: float = 1.0
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=3e-4, weight_decay=0.0))
    schedule: Schedule = field(default_factory=Constant)
    prompts: int = 8
    updates: int = 4
    batch: int = 64
    fresh: bool = False
    clip: float = 1.0
    asked: int = 256
    points: int = 5

    def __post_init__(self) -> None:
        if min(self.prompts, self.updates, self.batch, self.asked, self.points) < 1 or self.clip < 0:
            raise FewerError(
                f"preference: prompts, updates, batch, asked and points must be at least 1, clip at least 0; given {self}"
            )
        if not self.temperature > 0 or not {self.first, self.second} <= {"policy", "reference"}:
            raise FewerError(
                f"preference: temperature is positive, first and second are policy or reference; given {self}"
            )

    def start(self, task: Preferences, budget: int, seed: int) -> PreferenceState:
        """Find the model and the problems."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        language = task.language(seed)
        training, held_out = list(task.training(seed)), list(task.held_out(seed))[: self.asked]
        if not training or not held_out:
            raise FewerError(f"{task.name} has {len(training)} problems to learn from and {len(held_out)} held out")
        network = copy.deepcopy(language.network).requires_grad_(True).to(where).eval()
        prompt = max(len(prompt_tokens(language, problem, task.longest)) for problem in training)
        return PreferenceState(
            budget,
            seed,
            Ledger({"comparisons": 1.0}),
            task=task,
            language=replace(language, network=language.network.to(where).eval().requires_grad_(False)),
            network=network,
            optimiser=self.optimiser.make(parameter_groups(network)),
            training=training,
            held_out=held_out,
            prompt=prompt,
            rounds=Rounds(len(training), generator(seed, "prompts")),
            draws=torch_generator(seed, "pairs"),
            pairs={},
        )

    def advance(self, state: PreferenceState) -> Point:
        """Compare and learn until the next point, then let held-out problems be completed."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        reports: list[dict[str, float]] = []
        while state.ledger.spent < until:
            self._compare(state)
            reports += [self._update(state) for _ in range(self.updates)]
        score, measured = self._evaluate(state)
        for name in reports[0]:
            measured[name] = float(np.mean([each[name] for each in reports]))
        return Point(state.ledger.spent, score, measured | {"equal pairs": state.ledger["equal_pairs"]})

    def result(self, state: PreferenceState) -> TrainedPolicy:
        """The model as it is now."""
        return TrainedPolicy(replace(state.language, network=state.network), state.task.longest)

    def samples(self, state: PreferenceState) -> list[Sample]:
        """Completions of the first held-out problems."""
        language = replace(state.language, network=state.network)
        return completions(state.task, language, state.held_out[:SHOWN], state.seed)

    # --- one round ------------------------------------------------------------------------------------------------

    def _compare(self, state: PreferenceState) -> None:
        most = min(self.prompts, state.budget - state.ledger.spent)
        problems = [state.training[place] for place in state.rounds.draw(most)]
        count = len(problems)
        both = [self._drawn(state, problems, each) for each in (self.first, self.second)]
        with torch.no_grad():
            reference = torch.stack([whole(state.language.network, each) for each in both], dim=1)
        texts = [state.language.texts(each.completions()) for each in both]
        chances = torch.tensor(
            [asked(state.task, problem, one, other) for problem, one, other in zip(problems, *texts, strict=True)]
        )
        second = torch.rand(count, generator=state.draws) >= chances
        new = {
            "tokens": torch.stack([each.tokens for each in both], dim=1),
            "mask": torch.stack([each.mask for each in both], dim=1),
            "padding": torch.stack([each.padding for each in both], dim=1),
            "reference": reference,
            "second_chosen": second,
            "different": torch.tensor([one != other for one, other in zip(*texts, strict=True)]),
        }
        new = {name: value.cpu() for name, value in new.items()}
        old = {} if self.fresh else state.pairs
        state.pairs = {name: torch.cat([old[name], value]) if old else value for name, value in new.items()}
        state.ledger.add("comparisons", count)
        state.ledger.add("equal_pairs", float((~new["different"]).sum()))
        state.ledger.add("tokens", float(new["mask"].sum()))

    def _drawn(self, state: PreferenceState, problems: list[Problem], source: str) -> Sampled:
        """Completions of one length and prompts of one width, so that all rounds fit together."""
        language, longest = state.language, state.task.longest
        sampled = decode(
            state.network if source == "policy" else language.network,
            [prompt_tokens(language, problem, longest) for problem in problems],
            new=longest,
            end=language.end,
            pad=language.pad,
            temperature=self.temperature if source == "policy" else 1.0,
            draws=state.draws,
        )
        more, longer = state.prompt - sampled.prompt, longest - sampled.mask.shape[1]
        pad = nn.functional.pad
        return Sampled(
            pad(sampled.tokens, (more, longer), value=language.pad),
            state.prompt,
            pad(sampled.mask, (0, longer)),
            sampled.padding + more,
            pad(sampled.logps, (0, longer)),
            pad(sampled.behaviour, (0, longer)),
            pad(sampled.entropy, (0, longer)),
            sampled.finished,
        )

    def _update(self, state: PreferenceState) -> dict[str, float]:
        progress = state.ledger.spent / state.budget
        set_rate(state.optimiser, self.schedule.factor(progress))
        where = next(state.network.parameters()).device
        count = len(state.pairs["different"])
        rows = torch.randperm(count, generator=state.draws)[: self.batch]
        here = {name: value[rows].to(where) for name, value in state.pairs.items()}
        size, width = len(rows), here["tokens"].shape[2]
        nothing = torch.zeros(2 * size, here["mask"].shape[2], device=here["mask"].device)
        sampled = Sampled(
            here["tokens"].reshape(2 * size, width),
            state.prompt,
            here["mask"].reshape(2 * size, -1),
            here["padding"].reshape(-1),
            *(nothing, nothing, nothing),
            torch.zeros(2 * size, dtype=torch.bool),
        )
        logps = whole(state.network, sampled).view(size, 2)
        order = torch.stack([here["second_chosen"], ~here["second_chosen"]], dim=1).long()
        chosen, rejected = logps.gather(1, order).unbind(1)
        reference = here["reference"].gather(1, order)
        pairs = Comparisons(
            chosen, rejected, reference[:, 0], reference[:, 1], here["second_chosen"], here["different"]
        )
        losses = self.objective.losses(pairs, progress)
        loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            raise Diverged(
                f"the loss became {float(loss)} after {state.ledger.spent} comparisons; lower the learning rate"
            )
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(state.network.parameters()), self.clip or float("inf"))
        state.optimiser.step()
        state.ledger.add("updates")
        return {"loss": float(loss.detach()), "gradient norm": float(norm)}

    @torch.no_grad()
    def _evaluate(self, state: PreferenceState) -> tuple[float, dict[str, float]]:
        language, longest = replace(state.language, network=state.network), state.task.longest
        sampled = decode(
            state.network,
            [prompt_tokens(language, problem, longest) for problem in state.held_out],
            new=longest,
            end=language.end,
            pad=language.pad,
            draws=torch_generator(state.seed, "held out"),
        )
        rewards = verdicts(state.task, state.held_out, language.texts(sampled.completions())).rewards
        away = divergence(sampled.logps, teacher_forced(state.language.network, sampled), "k1")
        far = torch.where(sampled.mask, away, 0.0).sum(1).mean()
        return float(np.mean(rewards)), {"divergence": float(far), "length": float(sampled.mask.sum(1).double().mean())}


def whole(network: nn.Module, sampled: Sampled) -> Float[Tensor, " rows"]:
    """Log-probabilities of whole completions: sums over their tokens."""
    return torch.where(sampled.mask, teacher_forced(network, sampled), 0.0).sum(1)


def asked(task: Preferences, problem: Problem, one: str, other: str) -> float:
    """Ask the oracle.

    Raises
    ------
    FewerError
        If it says something that is no probability.
    """
    said = float(task.prefer(problem, one, other))
    if not 0 <= said <= 1:
        raise FewerError(
            f"preference: the oracle says {said} of two completions of {problem.prompt[:60]!r}; it gives a probability, 0 to 1"
        )
    return said
