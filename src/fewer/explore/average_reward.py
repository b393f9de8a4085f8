"""Exploration without end: one stream of experience, no episodes, and the average reward is what counts.

An agent keeps a policy, acts by it, and learns from each step.  Regret after T steps is T times the greatest average
reward there is, less what came.  Several independent copies of the whole run are played at once, as one row of every
array each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float, Int

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.seeding import generator
from fewer.explore.endless_worlds import Endless, Stream
from fewer.explore.hypotheses import Hypotheses


@dataclass
class Account:
    """What an agent is called with: the sizes of the world, what is known of it, its own notes, and its randomness.

    Parameters
    ----------
    runs, states, actions : int
        Copies played at once, and the sizes of the world.
    rewards : (float, float)
        Least and greatest reward of a step.
    steps : int
        Planned in all, for each copy.
    taken : int
        Done.
    rng : numpy Generator
        The agent's randomness.
    memory : dict
        What it knows: arrays with a leading axis of runs, numbers; saved in checkpoints.
    report : dict of str to float
        Its counters, for the point's ``extras``.
    hypotheses : Hypotheses, optional
        A class that the world is known to be of.
    basis : float array (dimensions, states, actions, states), optional
        What transitions are a mixture of.
    features : float array (states, actions, dimensions), optional
        In which transitions and rewards are linear.
    pays : float array (states, actions), optional
        Mean rewards, where agents are told them.
    """

    runs: int
    states: int
    actions: int
    rewards: tuple[float, float]
    steps: int
    taken: int
    rng: np.random.Generator
    memory: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    hypotheses: Hypotheses | None = None
    basis: Float[np.ndarray, "dimensions states actions states"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    pays: Float[np.ndarray, "states actions"] | None = None


@dataclass(frozen=True)
class Step:
    """One step of every copy.

    Parameters
    ----------
    states, actions, following : int array (runs,)
        Where, what was done, and where it led.
    rewards : float array (runs,)
        What it paid.
    """

    states: Int[np.ndarray, " runs"]
    actions: Int[np.ndarray, " runs"]
    rewards: Float[np.ndarray, " runs"]
    following: Int[np.ndarray, " runs"]


class Agent(Protocol):
    """Who explores."""

    def begin(self, account: Account) -> None:
        """Lay out what is known before the first step, in ``account.memory``."""
        ...

    def plan(self, account: Account) -> Int[np.ndarray, "runs states"]:
        """The action of the next step in each state; asked before every step, so usually what it was before."""
        ...

    def learn(self, account: Account, step: Step) -> None:
        """Take in what was seen."""
        ...


def _default() -> Agent:
    from fewer.explore.ucrl2 import UCRL2

    return UCRL2()


@dataclass
class AverageRewardState(State):
    """The world in progress, what the agent knows, and the regret so far."""

    saved: ClassVar[tuple[str, ...]] = ("stream", "memory", "report", "agent_rng", "lost", "gained")

    world: Endless = field(kw_only=True)
    stream: Stream = field(kw_only=True)
    memory: dict[str, Any] = field(kw_only=True)
    report: dict[str, float] = field(kw_only=True)  # of the last plan, which may be long ago
    agent_rng: np.random.Generator = field(kw_only=True)
    lost: Float[np.ndarray, " runs"] = field(kw_only=True)
    gained: Float[np.ndarray, " runs"] = field(kw_only=True)


@dataclass(frozen=True)
class AverageReward(Loop[Endless, AverageRewardState]):
    """An agent explores a world without end; the curve is the mean reward against steps.

    The score of a point is the mean reward of the steps since the last one.  Where the world's model is known,
    ``extras["regret"]`` is the greatest average reward times the steps, less what came, and ``extras["mistakes"]`` the sum of
    what each action gave away to the best one: the same in expectation, but for a start and an end, without the luck of
    the draw.

    Parameters
    ----------
    agent : Agent, default UCRL2()
        Who explores.
    copies : int, default 1
        Independent runs at once; scores and counters are their means, and a step of all of them counts as one.
    points : int, default 20
        How many points the curve has.

    Examples
    --------
    >>> from fewer.explore.endless_worlds import endless_river
    >>> learned = AverageReward(copies=2).learn(endless_river(4), budget=200)
    >>> learned.curve.points[-1].spent, learned.result.shape
    (200, (2, 4))
    """

    unit: ClassVar[str] = "steps"
    accepts: ClassVar[type[Endless]] = Endless

    agent: Agent = field(default_factory=_default)
    copies: int = 1
    points: int = 20

    def __post_init__(self) -> None:
        if self.copies < 1 or self.points < 1:
            raise FewerError(f"copies and points must be at least 1; they are {self.copies} and {self.points}")

    def start(self, task: Endless, budget: int, seed: int) -> AverageRewardState:
        """Make the copies, and let the agent lay out what it knows."""
        state = AverageRewardState(
            budget,
            seed,
            Ledger({"steps": 1.0}),
            world=task,
            stream=task.stream(self.copies, generator(seed, "world")),
            memory={},
            report={},
            agent_rng=generator(seed, "agent"),
            lost=np.zeros(self.copies),
            gained=np.zeros(self.copies),
        )
        self.agent.begin(self._account(state))
        return state

    def advance(self, state: AverageRewardState) -> Point:
        """Step up to the next point."""
        stop = max(state.budget * (state.points + 1) // self.points, state.ledger.spent + 1)
        stop, first = min(stop, state.budget), state.ledger.spent
        before, every = state.gained.copy(), np.arange(self.copies)
        account = self._account(state)
        for taken in range(first, stop):
            account.taken = taken
            at = state.stream.at
            actions = self.agent.plan(account)[every, at]
            rewards = state.stream.step(actions)
            state.gained += rewards
            self.agent.learn(account, Step(at, actions, rewards, state.stream.at))
        state.ledger.add("steps", stop - first)
        score = float((state.gained - before).mean() / (stop - first))
        regret = {}
        if state.stream.gains is not None:
            assert state.stream.mistakes is not None
            state.lost = stop * state.stream.gains - state.gained
            regret = {"regret": float(state.lost.mean()), "mistakes": float(state.stream.mistakes.mean())}
        return Point(stop, score, {**regret, **account.report})

    def result(self, state: AverageRewardState) -> Int[np.ndarray, "runs states"]:
        """The policy that would be played next."""
        return self.agent.plan(self._account(state))

    def _account(self, state: AverageRewardState) -> Account:
        world = state.world
        return Account(
            self.copies,
            world.states,
            world.actions,
            world.rewards,
            state.budget,
            state.ledger.spent,
            state.agent_rng,
            state.memory,
            state.report,
            hypotheses=world.hypotheses,
            basis=world.basis,
            features=world.features,
            pays=world.pays,
        )
