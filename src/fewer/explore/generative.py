"""Learning from a sampler: any action may be tried in any state, and each try is what is paid for.

A world without end is discounted.  A grouping says which actions are learned about together; the samples are spread
evenly over the pairs of a state and a group, each one of a uniform member, and a learner turns them into a policy.
Several independent copies of the whole run are made at once, as one row of every array each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.seeding import generator
from fewer.explore.group_learners import AveragedModel
from fewer.explore.groupings import ActionGrouping, Members, Ungrouped
from fewer.explore.sampled_worlds import Sampled


@dataclass(frozen=True)
class Samples:
    """What was tried, and what came of it; one row a copy.

    Parameters
    ----------
    states, actions : int arrays (runs, n)
        What was tried.
    next : int array (runs, n)
        The states that followed.
    rewards : float array (runs, n)
        What it paid.
    """

    states: Int[np.ndarray, "runs n"]
    actions: Int[np.ndarray, "runs n"]
    next: Int[np.ndarray, "runs n"]
    rewards: Float[np.ndarray, "runs n"]


@dataclass
class Account:
    """What a grouping and a learner are called with.

    Parameters
    ----------
    runs, states, actions : int
        Copies at once, and the sizes of the world.
    gamma : float
        Discount.
    rewards : (float, float)
        Least and greatest mean reward.
    allowed : bool array (states, actions), optional
        Which actions a state has.
    groups : ActionGrouping, optional
        A partition that the task brings.
    features : float array (actions, dimensions), optional
        What the task tells of each action.
    samples : int
        Planned in all, for each copy.
    rng : numpy Generator
        For the grouping's and the learner's own draws.
    sample : callable
        ``sample(states, actions) -> Samples``, for groupings: what is tried before one decides draws on the budget, and
        the learner gets it afterwards.  Where a state is tried, its actions must be drawn alike, so that what a group
        is seen to do is what a uniform member does.
    members : Members
        Who is in which group, once that is decided.
    memory : dict
        What the learner knows; saved in checkpoints.
    report : dict of str to float
        Counters, for the point's ``extras``; saved in checkpoints.
    """

    runs: int
    states: int
    actions: int
    gamma: float
    rewards: tuple[float, float]
    allowed: Bool[np.ndarray, "states actions"] | None
    groups: ActionGrouping | None
    features: Float[np.ndarray, "actions dimensions"] | None
    samples: int
    rng: np.random.Generator
    sample: Callable[[Int[np.ndarray, "runs n"], Int[np.ndarray, "runs n"]], Samples]
    members: Members
    memory: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)


class Grouping(Protocol):
    """Which actions are learned about together."""

    def choose(self, account: Account) -> Sequence[ActionGrouping]:
        """One partition for all copies, or one for each."""
        ...


class Learner(Protocol):
    """What makes a policy of samples."""

    def begin(self, account: Account) -> None:
        """Lay out what is known of the groups of ``account.members``, in ``account.memory``."""
        ...

    def learn(self, account: Account, samples: Samples) -> None:
        """Take in what was tried."""
        ...

    def policy(self, account: Account) -> Float[np.ndarray, "runs states actions"]:
        """The policy to play, as probabilities of actions."""
        ...


@dataclass
class GenerativeState(State):
    """The grouping, what the learner knows, and how often each group was tried."""

    saved: ClassVar[tuple[str, ...]] = ("labels", "memory", "report", "tried", "rngs")

    world: Sampled = field(kw_only=True)
    rngs: dict[str, np.random.Generator] = field(kw_only=True)
    labels: Int[np.ndarray, "runs states actions"] = field(kw_only=True)
    tried: Int[np.ndarray, "runs cells"] = field(kw_only=True)
    memory: dict[str, Any] = field(default_factory=dict, kw_only=True)
    report: dict[str, float] = field(default_factory=dict, kw_only=True)

    @property
    def members(self) -> Members:
        """Who is in which group; all in one before that is decided."""
        if self._made is None or self._made.labels is not self.labels:
            self._made = Members(self.labels, int(self.labels.max()) + 1)
        return self._made

    _made: Members | None = field(default=None, init=False, repr=False)


@dataclass(frozen=True)
class GenerativeLearning(Loop[Sampled, GenerativeState]):
    """Samples of any action in any state are turned into a policy; the curve is its value against samples.

    The score of a point is the discounted return of the policy, as the mean over all first states: exact where the
    world's model is known, else simulated.  ``extras["loss"]`` is what it lacks to the best policy, where the model is
    known, and ``extras["groups"]`` the number of groups.

    Parameters
    ----------
    grouping : Grouping, default Ungrouped()
        Which actions are learned about together; decided once, before the first point.
    learner : Learner, default AveragedModel()
        What makes a policy of samples.
    copies : int, default 1
        Independent runs at once; scores and counters are their means, and a sample in each counts as one.
    points : int, default 10
        How many points the curve has, at most.

    Examples
    --------
    >>> from fewer.explore.sampled_worlds import grouped_actions
    >>> world = grouped_actions(states=4, actions=6, groups=3)
    >>> learned = GenerativeLearning(copies=3, points=2).learn(world, budget=240)
    >>> [point.spent for point in learned.curve], learned.result.shape
    ([120, 240], (3, 4, 6))
    """

    unit: ClassVar[str] = "samples"
    accepts: ClassVar[type[Sampled]] = Sampled

    grouping: Grouping = field(default_factory=Ungrouped)
    learner: Learner = field(default_factory=AveragedModel)
    copies: int = 1
    points: int = 10

    def __post_init__(self) -> None:
        if self.copies < 1 or self.points < 1:
            raise FewerError(f"copies and points must be at least 1; they are {self.copies} and {self.points}")

    def least(self, task: Sampled) -> int:
        """One sample a state: the coarsest grouping needs no less."""
        return task.states

    def start(self, task: Sampled, budget: int, seed: int) -> GenerativeState:
        """Nothing is tried yet, and no grouping chosen."""
        # streams of their own, so that which member is drawn does not change what the world answers
        names = ("world", "members", "order", "choices", "evaluation")
        return GenerativeState(
            budget,
            seed,
            Ledger({"samples": 1.0}),
            world=task,
            rngs={name: generator(seed, name) for name in names},
            labels=np.zeros((1, 1, task.actions), dtype=np.int64),
            tried=np.zeros((self.copies, 0), dtype=np.int64),
        )

    def advance(self, state: GenerativeState) -> Point:
        """Choose the grouping if there is none yet, sample up to the next point, and judge the policy."""
        least = state.ledger.spent + 1
        if not state.tried.size:
            self._group(state)
            least = max(state.ledger.spent, 1)  # what was tried for the grouping may make the first point alone
        spent = state.ledger.spent
        marks = (state.budget * point // self.points for point in range(1, self.points + 1))
        stop = next(mark for mark in marks if mark >= least)
        account = self._account(state)
        self._sample_evenly(state, account, stop - spent)
        policy = self.learner.policy(account)
        value = float(state.world.value(policy, state.rngs["evaluation"]).mean())
        if state.world.optimum is not None:
            state.report["loss"] = state.world.optimum - value
        return Point(state.ledger.spent, value, dict(state.report))

    def result(self, state: GenerativeState) -> Float[np.ndarray, "runs states actions"]:
        """The policy that has been learned."""
        return self.learner.policy(self._account(state))

    def _group(self, state: GenerativeState) -> None:
        """Let the grouping decide, and the learner take in what was tried for it."""
        world, account, pilot = state.world, self._account(state), []

        def sample(states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"]) -> Samples:
            pilot.append(self._sample(state, states, actions))
            return pilot[-1]

        account.sample = sample
        chosen = list(self.grouping.choose(account))
        for each in chosen:
            each.check(world.states, world.actions, world.name)
        if world.allowed is not None:
            chosen = [each.allowed(world.allowed) for each in chosen]
        rows = max(len(each.labels) for each in chosen)
        state.labels = np.stack([np.broadcast_to(each.labels, (rows, world.actions)) for each in chosen])
        account = self._account(state)
        cells = int(account.members.size.astype(bool).sum(axis=(1, 2)).max()) * (world.states // rows)
        if cells > state.budget:
            raise FewerError(
                f"{state.budget} samples are fewer than the {cells} pairs of a state and a group; group the actions more "
                f"coarsely (at most {state.budget // world.states} groups), or raise the budget to {cells}"
            )
        state.tried = np.zeros((self.copies, world.states * account.members.groups), dtype=np.int64)
        state.report |= {"groups": float(np.mean([each.groups for each in chosen])), "pilot": float(state.ledger.spent)}
        self.learner.begin(account)
        for each in pilot:
            self._take_in(state, account, each)

    def _sample(
        self, state: GenerativeState, states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"]
    ) -> Samples:
        """Try, and pay."""
        state.ledger.add("samples", states.shape[1])
        if state.ledger.spent > state.budget:
            raise FewerError(f"{type(self.grouping).__name__} tried more than the budget of {state.budget} samples")
        return Samples(states, actions, *state.world.sample(states, actions, state.rngs["world"]))

    def _take_in(self, state: GenerativeState, account: Account, samples: Samples) -> None:
        groups = account.members.of(samples.states, samples.actions)
        cells = samples.states * account.members.groups + groups
        np.add.at(state.tried, (np.arange(self.copies)[:, None], cells), 1)
        self.learner.learn(account, samples)

    def _sample_evenly(self, state: GenerativeState, account: Account, count: int) -> None:
        """Try the pairs of a state and a group that were tried least, a uniform member each time."""
        members = account.members
        there = np.broadcast_to(members.size > 0, (self.copies, state.world.states, members.groups)).reshape(
            self.copies, -1
        )
        block = max(2**20 // self.copies, there.shape[1])  # bounds what is held in memory at once
        for first in range(0, count, block):
            extra = level_out(state.tried, there, min(block, count - first), state.rngs["order"])
            cells = np.repeat(np.tile(np.arange(extra.shape[1]), self.copies), extra.ravel()).reshape(self.copies, -1)
            states, groups = np.divmod(cells, members.groups)
            actions = members.draw(states, groups, state.rngs["members"])
            self._take_in(state, account, self._sample(state, states, actions))

    def _account(self, state: GenerativeState) -> Account:
        world = state.world
        return Account(
            self.copies,
            world.states,
            world.actions,
            world.gamma,
            world.rewards,
            world.allowed,
            world.groups,
            world.features,
            state.budget,
            state.rngs["choices"],
            partial(self._sample, state),
            state.members,
            state.memory,
            state.report,
        )


def level_out(
    tried: Int[np.ndarray, "runs cells"], there: Bool[np.ndarray, "runs cells"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "runs cells"]:
    """How often to try each cell so that all have been tried as evenly as can be.

    Parameters
    ----------
    tried : int array (runs, cells)
        How often each was tried.
    there : bool array (runs, cells)
        Which may be tried.
    count : int
        Tries to hand out, in each run.
    rng : numpy Generator
        Decides who gets the last ones.

    Returns
    -------
    int array (runs, cells)
        Each row sums to ``count``.

    Examples
    --------
    >>> level_out(np.array([[5, 0, 1]]), np.ones((1, 3), bool), 5, np.random.default_rng(0))
    array([[0, 3, 2]])
    """
    low, high = np.zeros(len(tried), dtype=np.int64), tried.max(axis=1) + count + 1
    while (high - low > 1).any():  # the greatest level that the tries can fill
        middle = (low + high) // 2
        fits = (np.maximum(middle[:, None] - tried, 0) * there).sum(axis=1) <= count
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    extra = np.maximum(low[:, None] - tried, 0) * there
    left = count - extra.sum(axis=1, keepdims=True)
    next_ones = np.where(there & (tried + extra == low[:, None]), rng.random(tried.shape), 2.0)
    return extra + (next_ones.argsort(axis=1).argsort(axis=1) < left)
