"""Off-policy control: act, remember, and learn from what is remembered.

The loop owns the environment, the account of its steps and the order of things; slots decide who acts, how
actions are valued, what is drawn from memory, how often is learned from it, and how unknown actions are tried.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fewer.control.critics import Critics, QEnsemble, Values, held
from fewer.control.environments import Environment, Step, Worlds
from fewer.control.frame_replay import memory_for
from fewer.control.observed import Observed
from fewer.control.policies import Actor, Gaussian, Policy, adam, descend
from fewer.control.recording import check_renders, record
from fewer.control.replay import Batch, Replay
from fewer.control.seeing import ImageFeatures, Seeing, SeeingCritics, SmallImages
from fewer.control.trained import TrainedPolicy
from fewer.control.whole_update import whole_update
from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import derive
from fewer.models.moving_average import follow


@dataclass(frozen=True)
class Update:
    """What a slot is called with during a step of the critic.

    Parameters
    ----------
    batch : Batch
        What was drawn.
    values : float tensor (members, batch)
        Of the batch's own pairs, differentiable in the critic's weights.
    critic : QEnsemble
        The networks.
    actor : Actor
        The policy.
    """

    batch: Batch
    values: Values
    critic: QEnsemble
    actor: Actor


class CriticTerm(Protocol):
    """What is added to the critic's loss."""

    def __call__(self, update: Update) -> Float[Tensor, ""]:
        """The term, to be made small."""
        ...


class Exploration(Protocol):
    """How actions that the policy would not choose are tried."""

    def disturb(self, actions: Float[Tensor, "copies actions"], progress: float) -> Float[Tensor, "copies actions"]:
        """Change actions, when ``progress`` (0 to 1) of the run is over; stay in [-1, 1]."""
        ...


class Built(Protocol):
    """What a description builds for one run; its state is saved with the run."""

    def state_dict(self) -> dict[str, Any]:
        """What changes while the run goes on."""
        ...

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where it stood."""
        ...


class Stateless:
    """Something built that does not change."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Nothing to take up."""


class Source(Built, Protocol):
    """Where batches come from."""

    def draw(self, count: int) -> Batch:
        """Draw transitions, from torch's global generator."""
        ...


class Sampler(Protocol):
    """Describes what is drawn from memory."""

    def build(self, state: OffPolicyState) -> Source:
        """Make it for a run whose networks and memory are there."""
        ...


class Schedule(Built, Protocol):
    """How often is learned, in one run."""

    def updates(self, state: OffPolicyState) -> float:
        """Steps of the critic for each transition that was just remembered; fractions add up."""
        ...

    def watch(self) -> AbstractContextManager[object]:
        """A context in which the critic values a batch that it learns from; to look at its activations."""
        ...

    def measures(self) -> dict[str, float]:
        """What the curve's points should say of it."""
        ...


class ReplayRatio(Protocol):
    """Describes how often is learned from memory."""

    def build(self, state: OffPolicyState) -> Schedule:
        """Make it for a run whose networks are there."""
        ...


class Intervention(Built, Protocol):
    """What is done to networks while they learn, in one run."""

    def intervene(self) -> None:
        """Change them, or not; called after each update."""
        ...


class Plasticity(Protocol):
    """Describes how networks are kept able to learn."""

    def build(self, state: OffPolicyState) -> Intervention:
        """Make it for a run whose networks are there."""
        ...


class Judge(Built, Protocol):
    """Who says what a step paid, in one run."""

    def judge(self, step: Step) -> Step:
        """Say it of steps as they come, before they are remembered; may end their episodes."""
        ...

    def relabel(self, batch: Batch) -> Batch:
        """Say it of transitions that were drawn, before anything is learned from them."""
        ...

    def learn(self) -> dict[str, Tensor]:
        """Learn to judge better, after the updates that an environment step gave rise to."""
        ...


class Reward(Protocol):
    """Describes where rewards come from, where the environment's own are not used."""

    def build(self, state: OffPolicyState) -> Judge:
        """Make it for a run whose networks and memory are there."""
        ...


class Initialisation(Protocol):
    """What networks know before the first step."""

    def initialise(self, state: OffPolicyState) -> None:
        """Change the actor, the critic and its slow copies."""
        ...


class Augmentation(Protocol):
    """How images are changed before anything is learned from them."""

    def augment(
        self, rows: Float[Tensor, "batch observations"], observed: Observed
    ) -> Float[Tensor, "batch observations"]:
        """Give other rows; called once with a batch's observations and once with their successors."""
        ...


class ActionMap(Protocol):
    """What the actions of the loop are, where they are not the environment's."""

    def wrap(self, environment: Environment) -> Environment:
        """Give an environment with other actions."""
        ...


@dataclass(frozen=True)
class Uniform:
    """All that is remembered, with equal chance."""

    def build(self, state: OffPolicyState) -> Source:
        """Draw from the run's memory."""
        return _FromMemory(state.replay)


class _FromMemory(Stateless):
    def __init__(self, replay: Replay) -> None:
        self.draw = replay.sample


@dataclass(frozen=True)
class FixedRatio:
    """The same throughout.

    Parameters
    ----------
    ratio : float, default 1
        Steps of the critic for each transition.
    """

    ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < float("inf"):
            raise FewerError(f"replay ratio: {self.ratio} was given; give 0 or more")

    def build(self, state: OffPolicyState) -> Schedule:
        """Make it."""
        return FixedSchedule(self.ratio)


class FixedSchedule(Stateless):
    """What :class:`FixedRatio` builds."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def updates(self, state: OffPolicyState) -> float:
        """The ratio."""
        return self.ratio

    def watch(self) -> AbstractContextManager[object]:
        """Look at nothing."""
        return nullcontext()

    def measures(self) -> dict[str, float]:
        """Nothing that was not known before."""
        return {}


@dataclass(frozen=True)
class GaussianNoise:
    """Independent noise on each action.

    Parameters
    ----------
    deviation : float, default 0.1
        In units of an action's half range.
    """

    deviation: float = 0.1

    def __post_init__(self) -> None:
        if not self.deviation >= 0:
            raise FewerError(f"gaussian noise: the deviation is {self.deviation}; give 0 or more")

    def disturb(self, actions: Float[Tensor, "copies actions"], progress: float) -> Float[Tensor, "copies actions"]:
        """Add noise."""
        return (actions + self.deviation * torch.randn_like(actions)).clamp(-1, 1)


class Pending:
    """Batches that the critic has learned from since the actor's last step, for actors that learn from all of them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        return {"batches": [vars(batch) for batch in self.batches]}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up."""
        self.batches = [Batch(**fields) for fields in tree["batches"]]


@dataclass
class OffPolicyState(State):
    """Networks, memory, and the episodes in progress."""

    saved: ClassVar[tuple[str, ...]] = (
        "intervention",  # first: it may change the shape of networks
        "judge",
        "actor",
        "actor_optimiser",
        "critic",
        "critic_optimiser",
        "slow",
        "replay",
        "source",
        "schedule",
        "pending",
        "credit",
        "updates",
        "episodes",
        "taken",
        "gained",
        "returns",
    )

    task: Environment = field(kw_only=True)
    worlds: Worlds = field(kw_only=True)
    actor: Actor = field(kw_only=True)
    critic: QEnsemble = field(kw_only=True)
    slow: QEnsemble = field(kw_only=True)
    critic_optimiser: torch.optim.Optimizer = field(kw_only=True)
    replay: Replay = field(kw_only=True)
    observations: np.ndarray = field(kw_only=True)
    loop: OffPolicy = field(kw_only=True)
    source: Source = field(init=False)
    schedule: Schedule = field(init=False)
    intervention: Built = field(default_factory=lambda: Stateless(), kw_only=True)
    judge: Built = field(default_factory=lambda: Stateless(), kw_only=True)
    pending: Pending = field(default_factory=lambda: Pending(), kw_only=True)
    credit: float = field(default=0.0, kw_only=True)
    updates: int = field(default=0, kw_only=True)
    episodes: list[int] = field(kw_only=True)
    taken: list[list[np.ndarray]] = field(kw_only=True)
    gained: np.ndarray = field(kw_only=True)
    returns: list[float] = field(default_factory=list, kw_only=True)

    @property
    def actor_optimiser(self) -> torch.optim.Optimizer:
        """The actor's own."""
        return self.actor.optimiser


def _sac() -> Policy:
    return Gaussian()


@dataclass(frozen=True)
class OffPolicy(Loop[Environment, OffPolicyState]):
    """Learn to act from what was experienced; the curve is the score of evaluation episodes against environment steps.

    With its defaults this is soft actor-critic.

    Parameters
    ----------
    policy : Policy, default Gaussian()
        Who acts.
    critic : Critics, default Critics()
        How actions are valued.
    critic_term : CriticTerm, optional
        What is added to the critic's loss.
    exploration : Exploration, optional
        How other actions are tried.
    sampler : Sampler, default Uniform()
        What is drawn from memory.
    ratio : ReplayRatio, default FixedRatio(1)
        How often is learned.
    initialisation : Initialisation, optional
        What networks know before the first step.
    action_map : ActionMap, optional
        What the loop's actions are, where they are not the environment's.
    plasticity : Plasticity, optional
        How networks are kept able to learn.
    reward : Reward, optional
        Where rewards come from, where the environment's own are not used.
    encoder : ImageFeatures, default SmallImages()
        How images become features, where the environment shows images.
    augmentation : Augmentation, optional
        How images are changed before anything is learned from them.
    discount : float, default 0.99
        What the next step's value is worth.
    batch : int, default 256
        Transitions drawn for each step of the critic.
    capacity : int, default 1,000,000
        Transitions remembered.
    learning_starts : int, default 100
        Environment steps before anything is learned.
    start_with : {"random", "policy"}
        Who acts until then.
    copies : int, default 1
        Environments played at once.
    episodes : int, default 10
        Of each evaluation.
    points : int, default 20
        How many points the curve has.

    Examples
    --------
    >>> from fewer.control.environments import gym
    >>> loop = OffPolicy(Gaussian(hidden=(16,)), Critics(hidden=(16,)), batch=16, episodes=1, points=2)
    >>> learned = loop.learn(gym("Pendulum-v1"), budget=220)
    >>> [point.spent for point in learned.curve], learned.result.predict(np.zeros(3))[0].shape
    ([110, 220], (1,))
    """

    unit: ClassVar[str] = "environment steps"
    accepts: ClassVar[type[Environment]] = Environment

    policy: Policy = field(default_factory=_sac)
    critic: Critics = field(default_factory=Critics)
    critic_term: CriticTerm | None = None
    exploration: Exploration | None = None
    sampler: Sampler = field(default_factory=Uniform)
    ratio: ReplayRatio = field(default_factory=FixedRatio)
    initialisation: Initialisation | None = None
    action_map: ActionMap | None = None
    plasticity: Plasticity | None = None
    reward: Reward | None = None
    encoder: ImageFeatures = field(default_factory=SmallImages)
    augmentation: Augmentation | None = None
    discount: float = 0.99
    batch: int = 256
    capacity: int = 1_000_000
    learning_starts: int = 100
    start_with: Literal["random", "policy"] = "random"
    copies: int = 1
    episodes: int = 10
    points: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.policy, Mapping):
            raise FewerError("off-policy: a filling is laid out over the slots with two stars: OffPolicy(**sac())")
        least = {"batch": 1, "capacity": 1, "copies": 1, "episodes": 1, "points": 1, "learning_starts": 0}
        for name, bound in least.items():
            given = getattr(self, name)
            if not isinstance(given, int | np.integer) or given < bound:
                raise FewerError(f"off-policy: {name} is a whole number of at least {bound}; given {given!r}")
        if self.start_with not in ("random", "policy"):
            raise FewerError(f"off-policy: start_with is 'random' or 'policy'; it is {self.start_with!r}")
        if not 0 <= self.discount < 1:
            raise FewerError(f"off-policy: the discount is {self.discount}; give 0 or more, and less than 1")

    def least(self, task: Environment) -> int:
        """A step of each copy."""
        return self.copies * self._mapped(task).longest

    def check(self, task: Task, budget: int) -> None:
        """Refuse a request that cannot run, batches from demonstrations that nobody has included."""
        if isinstance(task, str) or hasattr(task, "action_space"):
            raise FewerError(
                f"off-policy: it learns in a task, not in a {type(task).__name__}; give fewer.control.environments.gym(id), or "
                "take an Agent, which takes names and environments of Gymnasium as well"
            )
        super().check(task, budget)
        asked = getattr(self.sampler, "demos", "") is None
        if asked and isinstance(task, Environment) and type(task).demonstrations is Environment.demonstrations:
            task.demonstrations(0)

    def start(self, task: Environment, budget: int, seed: int) -> OffPolicyState:
        """Build networks and memory, and begin an episode in each copy."""
        task = self._mapped(task)
        # first, since it may not fit; no more can come than the budget allows
        memory = memory_for(task, min(self.capacity, budget))
        loop = self._seeing(task)
        actor = loop.policy.build(task.observation_size, task.action_size)
        critic = loop.critic.build(task.observation_size, task.action_size)
        worlds = task.make(self.copies)
        observations = worlds.reset({each: derive(seed, "episode", each, 0) for each in range(self.copies)})
        state = OffPolicyState(
            budget,
            seed,
            Ledger({"environment_steps": 1.0}),
            loop=loop,
            task=task,
            worlds=worlds,
            actor=actor,
            critic=critic,
            slow=copy.deepcopy(critic).requires_grad_(False),
            critic_optimiser=adam(list(critic.parameters()), self.critic.lr),
            replay=memory,
            observations=observations.copy(),
            episodes=[0] * self.copies,
            taken=[[] for _ in range(self.copies)],
            gained=np.zeros(self.copies),
        )
        actor.attach(state.critic, state.slow)
        state.source, state.schedule = self.sampler.build(state), self.ratio.build(state)
        if self.plasticity is not None:
            state.intervention = self.plasticity.build(state)
        if self.reward is not None:
            state.judge = self.reward.build(state)
        if self.initialisation is not None:
            self.initialisation.initialise(state)
        return state

    def advance(self, state: OffPolicyState) -> Point:
        """Act and learn until the next point, then evaluate."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        report: dict[str, Tensor] = {}
        while state.ledger.spent < until and not state.exhausted:
            count = self._act(state)
            state.exhausted = state.budget - state.ledger.spent < state.task.longest
            if state.ledger.spent > self.learning_starts:
                report = self._learn(state, count) or report
        return self._point(state, report)

    def _point(self, state: OffPolicyState, report: dict[str, Tensor]) -> Point:
        """Evaluate, and say what else is known."""
        score, measures = self.score(state, derive(state.seed, "evaluation"))
        extras = measures | {name: float(value) for name, value in report.items()} | {"updates": float(state.updates)}
        extras |= state.schedule.measures()
        if state.returns:
            extras["training_return"] = float(np.mean(state.returns))
        return Point(state.ledger.spent, score, extras)

    def score(self, state: OffPolicyState, seed: int) -> tuple[float, dict[str, float]]:
        """Evaluate the policy as it stands, deterministically, from starts that depend on the seed."""
        return state.task.evaluate(BestKnown(state.actor), self.episodes, seed)

    def result(self, state: OffPolicyState) -> TrainedPolicy:
        """The policy."""
        return TrainedPolicy.of(state)

    def film(self, state: OffPolicyState, path: Path) -> None:
        """Film an evaluation episode."""
        record(state.task, BestKnown(state.actor), path, 1, derive(state.seed, "film"))

    def check_film(self, task: Environment) -> None:
        """Refuse a task that does not render."""
        check_renders(task)

    def resume(self, state: OffPolicyState, tree: dict[str, Any]) -> None:
        """Take up networks and memory, and bring the environments back to where they stood."""
        # a tree may come without what was remembered
        super().resume(state, {"replay": state.replay.state_dict(), **tree})
        state.taken = [[np.asarray(action) for action in actions] for actions in state.taken]
        seeds = {each: derive(state.seed, "episode", each, number) for each, number in enumerate(state.episodes)}
        late = [max(map(len, state.taken)) - len(actions) for actions in state.taken]
        state.observations = state.observations.copy()
        for step in range(max(map(len, state.taken)) + 1):
            # no copy can wait for another, so each begins so late that all are where they stood at the same time
            if beginning := {each: seeds[each] for each in range(self.copies) if late[each] == step}:
                state.observations[list(beginning)] = state.worlds.reset(beginning)
            going = [each for each in range(self.copies) if 0 <= step - late[each] < len(state.taken[each])]
            if not going:
                continue
            actions = np.zeros((self.copies, state.task.action_size), dtype=np.float32)
            for each in going:
                actions[each] = state.taken[each][step - late[each]]
            made = state.worlds.step(actions)
            state.observations[going] = made.observations[going]

    # --- one step --------------------------------------------------------------------------------

    def _act(self, state: OffPolicyState) -> int:
        """A step of each copy, or of as many as the budget has left; gives how many."""
        spent = state.ledger.spent
        starting = spent < self.learning_starts
        if starting and self.start_with == "random":
            actions = state.task.random_actions(self.copies)
        else:
            with torch.no_grad():
                actions = state.actor.act(torch.from_numpy(state.observations))
            if self.exploration is not None and not starting:
                actions = self.exploration.disturb(actions, spent / state.budget)
        if not actions.isfinite().all():
            raise Diverged(f"an action of the policy became NaN after {state.updates} updates; lower the learning rate")
        done = actions.numpy()
        step = state.worlds.step(done)
        if self.reward is not None:
            step = cast(Judge, state.judge).judge(step)
        if step.done is not None:
            done = step.done.astype(np.float32)
            actions = torch.from_numpy(done)
        count = min(self.copies, (state.budget - spent) // state.task.longest)
        state.replay.add(
            torch.from_numpy(state.observations[:count]),
            actions[:count],
            torch.from_numpy(step.rewards[:count].astype(np.float32)),
            torch.from_numpy(step.observations[:count]),
            torch.from_numpy(step.terminated[:count]),
        )
        state.ledger.add("environment_steps", int(step.taken[:count].sum()))
        state.observations, state.gained = step.observations, state.gained + step.rewards
        ended = np.flatnonzero(step.terminated | step.truncated).tolist()
        for each in range(self.copies):
            state.taken[each].append(done[each])
        if ended:
            for each in ended:
                state.episodes[each] += 1
                state.taken[each] = []
            state.returns = [*state.returns, *state.gained[ended].tolist()][-10:]
            state.gained[ended] = 0
            seeds = {each: derive(state.seed, "episode", each, state.episodes[each]) for each in ended}
            state.observations = state.observations.copy()
            state.observations[ended] = state.worlds.reset(seeds)
        return count

    def _learn(self, state: OffPolicyState, count: int) -> dict[str, Tensor]:
        """As many updates as the ratio allows, after this many new transitions."""
        report: dict[str, Tensor] = {}
        state.credit += count * state.schedule.updates(state)
        learned = state.credit >= 1 - 1e-9  # thirds add up to one
        while state.credit >= 1 - 1e-9:
            state.credit -= 1
            report |= self._update(state)
        if learned and self.reward is not None:
            report |= cast(Judge, state.judge).learn()
        return report | state.actor.settle(state.source.draw, state.critic) if learned else report

    def _mapped(self, task: Environment) -> Environment:
        return task if self.action_map is None else self.action_map.wrap(task)

    def _seeing(self, task: Environment) -> OffPolicy:
        """The same loop, with networks that see where the environment shows images."""
        if task.observed is None:
            if self.augmentation is not None:
                raise FewerError(
                    f"{task.name} shows no images, so there is nothing to augment; leave {type(self.augmentation).__name__} "
                    "out, or take a task with images"
                )
            return self
        return replace(
            self,
            policy=Seeing(self.policy, task.observed, self.encoder),
            critic=SeeingCritics.around(self.critic, task.observed, self.encoder),
        )

    def _update(self, state: OffPolicyState) -> dict[str, Tensor]:
        """One step of the critic, and one of the policy where it is due."""
        batch = state.source.draw(self.batch)
        if self.reward is not None:
            batch = cast(Judge, state.judge).relabel(batch)
        if self.augmentation is not None:
            change, observed = self.augmentation.augment, cast(Observed, state.task.observed)
            before, after = change(batch.observations, observed), change(batch.next_observations, observed)
            batch = replace(batch, observations=before, next_observations=after)
        report = whole_update(self, state, batch) if self.critic.compiled else None
        if report is None:
            report = self._in_parts(state, batch)
        state.updates += 1
        if state.updates % self.critic.every == 0 and not math.isfinite(loss := report["critic_loss"].item()):
            raise Diverged(f"the critic's loss became {loss} after {state.updates} updates; lower the learning rate")
        if self.plasticity is not None:
            cast(Intervention, state.intervention).intervene()
        return report

    def _in_parts(self, state: OffPolicyState, batch: Batch) -> dict[str, Tensor]:
        """The target, the critic's step, that of the policy, and that of the slow copies."""
        actor, critic, number = state.actor, state.critic, state.updates + 1
        with torch.no_grad():
            candidates = self.critic.candidates
            ahead_of = batch.next_observations if candidates == 1 else batch.next_observations.repeat(candidates, 1)
            following, cost = actor.successor(ahead_of)
            ahead = state.slow(ahead_of, following, self.critic.drawn()).amin(0) - cost
            if candidates > 1:
                ahead = ahead.reshape(candidates, -1).amax(0)
            target = torch.addcmul(batch.rewards, batch.continues, ahead, value=self.discount)
        parameters = [each for each in state.critic_optimiser.param_groups[0]["params"] if each.requires_grad]
        if self.critic_term is None:
            with state.schedule.watch():
                values, loss, gradients = critic.regress(batch.observations, batch.actions, target, parameters)
        else:
            with state.schedule.watch():
                values = critic(batch.observations, batch.actions)
            loss = (values - target).square().mean(1).sum() + self.critic_term(Update(batch, values, critic, actor))
            gradients = torch.autograd.grad(loss, parameters)
        descend(state.critic_optimiser, parameters, gradients)
        report: dict[str, Tensor] = {}
        if actor.rows == "all" and actor.delay > 1:
            state.pending.batches.append(batch)
        if number % actor.delay == 0:
            with held(parameters):
                report = actor.improve(Batch.join(*state.pending.batches) if state.pending.batches else batch, critic)
            state.pending.batches.clear()
        if number % self.critic.every == 0:
            follow(state.slow, critic, self.critic.tau)
        return report | {"critic_loss": loss.detach(), "value": values.detach().mean()}


@dataclass(frozen=True)
class BestKnown:
    """A policy as evaluation calls it: no chance in it.

    Parameters
    ----------
    actor : Actor
        The policy.
    """

    actor: Actor

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Act."""
        with torch.inference_mode():
            return self.actor.act(torch.from_numpy(observations), deterministic=True).numpy()
