"""Post-training of a language model from rewards that can be verified.

Draw prompts, let the model complete each several times, let the verifier judge, and make likelier what was better than
expected.  The loop owns the model, the count of rollouts and the order of things; slots decide which prompts come, how long
completions may be, how they are drawn, what they are worth, which of them are learned from, and how.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.samples import Sample
from fewer.core.seeding import derive, torch_generator
from fewer.models.optimisers import AdamW, Constant, Optimiser, Schedule, parameter_groups, set_rate
from fewer.rollouts.advantages import Advantage, GroupRelative
from fewer.rollouts.curations import Curation, PromptStream, Uniform
from fewer.rollouts.decoding import KEPT, Sampled, decode, remembered, sizes_of, teacher_forced, vocabulary_of
from fewer.rollouts.evaluation import SHOWN, completions, evaluate, judged
from fewer.rollouts.experience import Experience, sequence_mean, token_mean
from fewer.rollouts.objectives import Clipped, Objective
from fewer.rollouts.policy import TrainedPolicy
from fewer.rollouts.problems import Language, Problem, Problems, prompt_tokens
from fewer.rollouts.slots import Adapter, Ancestral, FixedLength, Lengths, Sampler, Selector, Shaping

ROOM = 3 * 2**30
"""Bytes that a gradient's activations may take, about, where ``rows`` does not say how many rollouts it is computed for."""


@dataclass
class PostTrainingState(State):
    """The model, its optimiser, which prompts come next, and what is drawn."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "stream", "draws", "step", "after")

    task: Problems = field(kw_only=True)
    language: Language = field(kw_only=True)
    network: nn.Module = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    training: list[Problem] = field(kw_only=True)
    held_out: list[Problem] = field(kw_only=True)
    stream: PromptStream = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)
    step: int = field(default=0, kw_only=True)
    after: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class PostTraining(Loop[Problems, PostTrainingState]):
    """Learn from verified rollouts; with its defaults, GRPO.

    Parameters
    ----------
    curation : Curation, default Uniform()
        Which prompts come.
    lengths : Lengths, default FixedLength()
        How long completions may be while learning.
    sampler : Sampler, default Ancestral()
        How they are drawn while learning.
    shaping : Shaping, optional
        What they are worth; what the verifier says, by default.
    advantage : Advantage, default GroupRelative()
        How much better than expected that is.
    selector : Selector, optional
        What is learned from; everything, by default.
    objective : Objective, default Clipped()
        What is made small.
    adapter : Adapter, optional
        What learns in place of the model's own parameters.
    optimiser : Optimiser, default AdamW(lr=3e-4, weight_decay=0)
        How parameters move; rates near 1e-6 are usual for models of billions of parameters.
    schedule : Schedule, default Constant()
        Learning rate over the run.
    aggregate : {"tokens", "sequences"}
        Whether losses are averaged over all tokens at once, or over each completion first.
    prompts, group : int, default 32 and 8
        Prompts a step, and rollouts of each.
    epochs, parts : int, default 1 and 1
        How often a step's rollouts are gone through, and in how many updates each time.
    clip : float, default 1
        Largest norm of the gradient; 0 for none.
    rows : int, default 0
        Rollouts that gradients are computed for at once; with 0, as many as need about three gigabytes.
    asked : int, default 256
        Held-out problems at each point of the curve, at most.
    points : int, default 5
        How many points the curve has.
    """

    unit: ClassVar[str] = "rollouts"
    accepts: ClassVar[type[Problems]] = Problems
    watched: ClassVar[tuple[str, ...]] = ("reward", "accuracy while learning", "length", "entropy", "tokens per second")

    curation: Curation = field(default_factory=Uniform)
    lengths: Lengths = field(default_factory=FixedLength)
    sampler: Sampler = field(default_factory=Ancestral)
    shaping: Shaping | None = None
    advantage: Advantage = field(default_factory=GroupRelative)
    selector: Selector | None = None
    objective: Objective = field(default_factory=Clipped)
    adapter: Adapter | None = None
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=3e-4, weight_decay=0.0))
    schedule: Schedule = field(default_factory=Constant)
    aggregate: Literal["tokens", "sequences"] = "tokens"
    prompts: int = 32
    group: int = 8
    epochs: int = 1
    parts: int = 1
    clip: float = 1.0
    rows: int = 0
    asked: int = 256
    points: int = 5

    def __post_init__(self) -> None:
        if min(self.prompts, self.group, self.epochs, self.parts, self.asked, self.points) < 1:
            raise FewerError(
                f"post-training: prompts, group, epochs, parts, asked and points must be at least 1; given {self}"
            )
        if self.clip < 0 or self.rows < 0 or self.aggregate not in ("tokens", "sequences"):
            raise FewerError(
                f"post-training: clip and rows must be at least 0, and aggregate tokens or sequences; given {self}"
            )
        self.advantage.check(self.group)

    @property
    def of_prompt(self) -> int:
        """Rollouts that one prompt costs."""
        return self.group + self.advantage.greedy

    def least(self, task: Problems) -> int:
        """One prompt."""
        return self.of_prompt

    def check(self, task: Task, budget: int) -> None:
        """Refuse lengths that the task does not allow."""
        super().check(task, budget)
        self._cap(cast(Problems, task), 0)

    def start(self, task: Problems, budget: int, seed: int) -> PostTrainingState:
        """Find the model and the problems."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        language = task.language(seed)
        training, held_out = list(task.training(seed)), list(task.held_out(seed))[: self.asked]
        if not training or not held_out:
            raise FewerError(f"{task.name} has {len(training)} problems to learn from and {len(held_out)} held out")
        needed = self.curation.least(len(training)) * self.of_prompt
        if budget < needed:
            raise FewerError(
                f"{type(self.curation).__name__} of {len(training)} prompts takes {needed} rollouts, and {budget} may be spent; "
                "raise the budget, take fewer epochs, or give the task fewer problems"
            )
        self.sampler.check(task.longest)
        network = self._network(language, seed).to(where)
        # the first model needs as much memory again, and goes where nobody compares with it
        first = language.network.to(where).eval().requires_grad_(False) if self._compares else network
        return PostTrainingState(
            budget,
            seed,
            Ledger({"rollouts": 1.0}),
            task=task,
            language=replace(language, network=first),
            network=network,
            optimiser=self._optimiser(network),
            training=training,
            held_out=held_out,
            stream=self.curation.build(len(training), seed),
            draws=torch_generator(seed, "rollouts"),
        )

    @property
    def _compares(self) -> bool:
        """Whether the first model's probabilities are needed."""
        return self.advantage.reference or self.objective.reference

    def _network(self, language: Language, seed: int) -> nn.Module:
        network = copy.deepcopy(language.network).requires_grad_(True)
        if self.adapter is not None:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(derive(seed, "weights"))
                network = self.adapter.attach(network.requires_grad_(False))
        return network.eval()  # drawing and learning see one and the same model: no dropout

    def _optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(network)
        return self.optimiser.make(
            [{**group, "params": [each for each in group["params"] if each.requires_grad]} for group in groups]
        )

    def advance(self, state: PostTrainingState) -> Point:
        """Learn until the next point, then let held-out problems be solved."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        reports: list[dict[str, float]] = []
        while state.ledger.spent < until and not state.exhausted:
            with memory_is_named():
                reports.append(self.learn_once(state))
            state.exhausted = state.budget - state.ledger.spent < self.of_prompt
        score, measured = evaluate(
            state.task, replace(state.language, network=state.network), state.held_out, state.seed
        )
        for name in dict.fromkeys(name for each in reports for name in each):
            measured[name] = float(np.mean([each[name] for each in reports if name in each]))
        counts = ("tokens", "gradient_tokens", "updates", "dead_groups", "truncated", "verifier_failures")
        measured |= {name.replace("_", " "): state.ledger[name] for name in counts}
        return Point(state.ledger.spent, score, measured)

    def result(self, state: PostTrainingState) -> TrainedPolicy:
        """The model as it is now."""
        return TrainedPolicy(replace(state.language, network=state.network), state.task.longest)

    def samples(self, state: PostTrainingState) -> list[Sample]:
        """Completions of the first held-out problems."""
        language = replace(state.language, network=state.network)
        with memory_is_named():
            return completions(state.task, language, state.held_out[:SHOWN], state.seed)

    def receive(self, state: PostTrainingState, artefact: Any) -> None:
        """Begin from the model that an earlier stage trained."""
        if not isinstance(artefact, TrainedPolicy):
            raise FewerError(f"post-training begins from a trained policy; {type(artefact).__name__} was given")
        state.network.load_state_dict(artefact.language.network.state_dict())

    # --- one step -------------------------------------------------------------------------------------------------

    def learn_once(self, state: PostTrainingState) -> dict[str, float]:
        """One step: explore, judge, and learn from it."""
        progress = (state.ledger.spent - state.after) / (state.budget - state.after)
        set_rate(state.optimiser, self.schedule.factor(progress))
        state.optimiser.zero_grad(set_to_none=True)  # no gradients lie about while rollouts are written
        began = time.perf_counter()
        experience = self.explore(state)
        seconds = time.perf_counter() - began
        rewards = experience.rewards.float()
        if self.shaping is not None:
            rewards = self.shaping(rewards, experience.correct, experience.lengths)
        advantages = self.advantage(rewards, experience)
        if advantages.shape == rewards.shape:
            advantages = advantages.reshape(-1, 1).expand(experience.mask.shape)
        keep = experience.mask
        if self.selector is not None:
            keep = keep & self.selector(advantages, experience, progress)
        report = self.learn_from(state, experience, advantages, keep)
        sampled = experience.sampled
        state.step += 1
        if state.stream.record(experience.places.numpy(), experience.correct.double().mean(1).cpu().numpy()):
            self._begin_anew(state)
        return report | {
            "reward": float(experience.rewards.mean()),
            "accuracy while learning": float(experience.correct.double().mean()),
            "length": float(experience.lengths.double().mean()),
            "entropy": float(token_mean(sampled.entropy, sampled.mask)),
            "cap": float(experience.cap),
            "tokens per second": float(sampled.mask.sum()) / max(seconds, 1e-9),
        }

    def explore(self, state: PostTrainingState) -> Experience:
        """Draw prompts and let the model complete them; counts what that costs."""
        most = min(self.prompts, (state.budget - state.ledger.spent) // self.of_prompt)
        places = state.stream.draw(most)
        problems = [state.training[place] for place in places]
        cap = self._cap(state.task, state.step)
        language = replace(state.language, network=state.network)
        prompts = [prompt_tokens(language, problem, state.task.longest) for problem in problems]
        options = {"new": cap, "end": language.end, "pad": language.pad}
        sampled = decode(
            state.network,
            prompts,
            temperature=self.sampler.temperature(state.step),
            top_p=self.sampler.top_p,
            draws=state.draws,
            group=self.group,
            **options,
        )
        shape, where = (len(problems), self.group), sampled.mask.device
        found = judged(state.task, language, [each for each in problems for _ in range(self.group)], sampled)
        greedy = reference = None
        if self.advantage.greedy:
            best = decode(state.network, prompts, greedy=True, draws=None, **options)
            greedy = torch.from_numpy(judged(state.task, language, problems, best).rewards).float().to(where)
            state.ledger.add("tokens", float(best.mask.sum()))
        if self._compares:
            with torch.no_grad():
                reference = self._logps(state.language.network, sampled)
        experience = Experience(
            sampled,
            problems,
            torch.from_numpy(places),
            torch.from_numpy(found.rewards).view(shape).to(where),
            torch.from_numpy(found.correct).view(shape).to(where),
            cap,
            greedy,
            reference,
        )
        ledger = state.ledger
        ledger.add("rollouts", len(places) * self.of_prompt)
        ledger.add("tokens", float(sampled.mask.sum()))
        ledger.add("truncated", float((~sampled.finished).sum()))
        ledger.add("dead_groups", float((experience.rewards == experience.rewards[:, :1]).all(1).sum()))
        ledger.add("verifier_failures", found.failures)
        return experience

    def _cap(self, task: Problems, step: int) -> int:
        cap = self.lengths.cap(step, task.longest)
        if not 1 <= cap <= task.longest:
            raise FewerError(
                f"the length schedule gave {cap} tokens at step {step}; {task.name} allows 1 to {task.longest}"
            )
        return cap

    def learn_from(
        self,
        state: PostTrainingState,
        experience: Experience,
        advantages: Float[Tensor, "rollouts new"],
        keep: Bool[Tensor, "rollouts new"],
    ) -> dict[str, float]:
        """Go through the kept tokens of a step."""
        sampled = experience.sampled
        old, weights = self.sampler.old(sampled), self.sampler.weights(sampled)
        reports: list[dict[str, float]] = []
        kept = torch.nonzero(keep.any(1))[:, 0]
        # a step without anything to learn from moves nothing, not even by momentum
        if not bool((advantages * keep).any()):
            return {}
        for _ in range(self.epochs):
            order = kept[torch.randperm(len(kept), generator=state.draws)] if self.parts > 1 else kept
            for rows in order.tensor_split(min(self.parts, len(order))):
                reports.append(self._update(state, experience, rows, old, weights, advantages, keep))
        return {name: float(np.mean([each[name] for each in reports])) for name in reports[0]}

    def _update(
        self,
        state: PostTrainingState,
        experience: Experience,
        rows: Int[Tensor, " rows"],
        old: Float[Tensor, "rollouts new"],
        weights: Float[Tensor, "rollouts new"] | None,
        advantages: Float[Tensor, "rollouts new"],
        keep: Bool[Tensor, "rollouts new"],
    ) -> dict[str, float]:
        mean = {"tokens": token_mean, "sequences": sequence_mean}[self.aggregate]
        rows = rows.sort().values  # those of a prompt side by side, so that they are worked on together
        sampled, mask = experience.sampled.select(rows), keep[rows]
        objective, noted = self.objective, {}
        if objective.fits:
            with torch.no_grad():
                logps = self._logps(state.network, sampled)
            objective, noted = objective.fitted(logps, old[rows], advantages[rows], mask)
        state.optimiser.zero_grad(set_to_none=True)
        whole = mask.sum() if self.aggregate == "tokens" else mask.any(1).sum()
        total = 0.0
        moving = _moving(objective, advantages[rows], mask)
        for chunk in moving.split(self._at_once(state.network, sampled.select(moving))):
            here = rows[chunk]
            logps = teacher_forced(state.network, sampled.select(chunk))
            reference = None if experience.reference is None else experience.reference[here]
            losses = objective.losses(logps, old[here], advantages[here], reference)
            if weights is not None:
                losses = losses * weights[here]
            count = mask[chunk].sum() if self.aggregate == "tokens" else mask[chunk].any(1).sum()
            loss = mean(losses, mask[chunk]) * count / whole
            loss.backward()
            total += float(loss.detach())
        if not np.isfinite(total):
            raise Diverged(f"the loss became {total} at step {state.step}; lower the learning rate")
        moving = [each for group in state.optimiser.param_groups for each in group["params"]]
        norm = nn.utils.clip_grad_norm_(moving, self.clip or float("inf"))
        state.optimiser.step()
        state.ledger.add("gradient_tokens", float(mask.sum()))
        state.ledger.add("updates")
        return noted | {"loss": total, "gradient norm": float(norm)}

    def _logps(self, network: nn.Module, sampled: Sampled) -> Float[Tensor, "rollouts new"]:
        rows = torch.arange(len(sampled.mask), device=sampled.mask.device)
        parts = rows.split(self._at_once(network, sampled))
        return torch.cat([teacher_forced(network, sampled.select(each)) for each in parts])

    def _at_once(self, network: nn.Module, sampled: Sampled) -> int:
        """Rollouts that are worked on together; whole groups if possible, which share what is made of their prompt."""
        if self.rows:
            return self.rows
        rows, prompts, prompt, new = sizes_of(sampled)
        vocabulary, memory = vocabulary_of(network), remembered(network)
        if memory:
            a_token = bytes_a_token(network, vocabulary)
            once, each = prompt * a_token, new * a_token + prompt * memory * next(network.parameters()).element_size()
        else:
            once, each = 0, (prompt + new) * bytes_a_token(network)
        logits = 4 * vocabulary * new

        def fitting(of_row: float, room: float) -> int:
            """Rows of so many bytes each, of whose logits some are kept: all, or as many as are kept at most."""
            return int(max(room // (of_row + logits), (room - 4 * KEPT) // of_row))

        found = fitting(each + once * prompts / rows, ROOM)
        if found < rows / prompts:  # some rows of one prompt
            found = max(1, fitting(each, ROOM - once))
        if found >= self.group:
            return found // self.group * self.group
        return -(-self.group // -(-self.group // found))  # equal parts of a group

    def _begin_anew(self, state: PostTrainingState) -> None:
        """The first model and a fresh optimiser; what was spent stays spent."""
        state.network.load_state_dict(self._network(state.task.language(state.seed), state.seed).state_dict())
        state.optimiser = self._optimiser(state.network)
        state.step, state.after = 0, state.ledger.spent


def _moving(
    objective: Objective, advantages: Float[Tensor, "rows new"], mask: Bool[Tensor, "rows new"]
) -> Int[Tensor, " some"]:
    """Rollouts that there is something to learn from; at least one, so that parameters have gradients, if only of zeros.

    The others have losses of zero and no gradient.  They count in the means as before, so that to leave them out changes the
    order of sums, and what the optimiser is given by no more than their rounding.
    """
    some = torch.nonzero((mask if objective.everywhere else mask & (advantages != 0)).any(1))[:, 0]
    return some if len(some) else torch.zeros(1, dtype=torch.int64, device=mask.device)


def bytes_a_token(network: nn.Module, logits: int = 0) -> int:
    """About what a gradient keeps of each token: inputs and outputs of all maps, and as much again between them.

    Maps with so many outputs as there are ``logits`` are left out.

    Examples
    --------
    >>> bytes_a_token(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10)))
    480
    """
    maps = (each for each in network.modules() if not isinstance(each, nn.Embedding))
    weights = [getattr(each, "weight", None) for each in maps]
    counted = (w for w in weights if isinstance(w, Tensor) and w.ndim == 2 and w.shape[0] != logits)
    # a weight that two maps share is counted with both
    return max(1, 2 * sum(w.element_size() * sum(w.shape) for w in counted))


@contextmanager
def memory_is_named() -> Iterator[None]:
    """Say what to lower where memory runs out.

    Raises
    ------
    FewerError
        In place of torch's own error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise FewerError(
            "post-training: memory ran out; set rows to fewer rollouts at once, or lower prompts, group or the task's longest "
            "completion"
        ) from error
