"""Exploration in episodes: an agent plays a finite world, and each episode is what it pays.

An agent keeps what it knows of the world, plans a policy for the next episode, and learns from what it
saw.  The loop owns the world, the budget and the account of regret; several independent copies of the
whole run are played at once, as one row of every array each.
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
from fewer.explore.planning import draw
from fewer.explore.trajectories import Trajectories
from fewer.explore.worlds import Episodic, Play


@dataclass
class Account:
    """What an agent is called with: the sizes of the world, its own notes, and its randomness.

    Parameters
    ----------
    runs, states, actions, horizon : int
        Copies played at once, and the sizes of the world.
    rewards : (float, float)
        Least and greatest reward of a step.
    episodes : int
        Planned in all, for each copy.
    played : int
        Finished.
    rng : numpy Generator
        The agent's randomness.
    memory : dict
        What it knows: arrays with a leading axis of runs, numbers; saved in checkpoints.
    report : dict of str to float
        Its counters, for the point's ``extras``.
    pays : float array (states, actions), optional
        Mean rewards, where agents are told them.
    features : float array (states, actions, dimensions), optional
        In which transitions and rewards are linear, where the world has such.
    demonstrations : Trajectories, optional
        What the agent is shown before its first episode.
    vectors : float array (states, dimensions), optional
        What a state looks like, where like states look alike.
    levels : int array (states,), optional
        The step in which a state may come, where each comes in one only.
    players : (int, int), optional
        Actions of the two players of a zero-sum game, of which actions number the pairs.
    """

    runs: int
    states: int
    actions: int
    horizon: int
    rewards: tuple[float, float]
    episodes: int
    played: int
    rng: np.random.Generator
    memory: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    pays: Float[np.ndarray, "states actions"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    demonstrations: Trajectories | None = None
    vectors: Float[np.ndarray, "states dimensions"] | None = None
    levels: Int[np.ndarray, " states"] | None = None
    players: tuple[int, int] | None = None


@dataclass(frozen=True)
class Episode:
    """One episode of every copy.

    Parameters
    ----------
    states : int array (runs, horizon + 1)
        The last one is the state after the last action.
    actions : int array (runs, horizon)
        What was done.
    rewards : float array (runs, horizon)
        What it paid.
    """

    states: Int[np.ndarray, "runs horizon+1"]
    actions: Int[np.ndarray, "runs horizon"]
    rewards: Float[np.ndarray, "runs horizon"]


class Agent(Protocol):
    """Who explores.

    An agent that would hand on another policy than it plays, because it plays to learn, has a method ``recommend`` like
    ``plan``; one that knows when it has learned enough, a method ``finished(account) -> bool``.
    """

    def begin(self, account: Account) -> None:
        """Lay out what is known before the first episode, in ``account.memory``."""
        ...

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The policy of the next episode: probabilities of actions for each step and state."""
        ...

    def learn(self, account: Account, episode: Episode) -> None:
        """Take in what was seen."""
        ...


def _default() -> Agent:
    from fewer.explore.ucbvi import UCBVI

    return UCBVI()


@dataclass
class ExploreState(State):
    """The world in progress, what the agent knows, and the regret so far."""

    saved: ClassVar[tuple[str, ...]] = ("memory", "agent_rng", "world_rng", "lost", "gained")

    world: Episodic = field(kw_only=True)
    play: Play = field(kw_only=True)
    memory: dict[str, Any] = field(kw_only=True)
    agent_rng: np.random.Generator = field(kw_only=True)
    world_rng: np.random.Generator = field(kw_only=True)
    lost: Float[np.ndarray, " runs"] = field(kw_only=True)
    gained: Float[np.ndarray, " runs"] = field(kw_only=True)
    policy: Float[np.ndarray, "runs horizon states actions"] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Exploration(Loop[Episodic, ExploreState]):
    """An agent explores a finite world; the curve is the mean return against episodes.

    The score of a point is the mean return of the episodes since the last one: expected under the policies
    that were played where the world's model is known, else as it came.  ``extras["regret"]`` is what has been
    lost to the best policy since the start, summed over episodes, where the model is known.

    Parameters
    ----------
    agent : Agent, default UCBVI()
        Who explores.
    copies : int, default 1
        Independent runs at once; scores and counters are their means, and an episode of all of them counts as
        one.
    points : int, default 20
        How many points the curve has.

    Examples
    --------
    >>> from fewer.explore.worlds import riverswim
    >>> learned = Exploration(copies=4).learn(riverswim(5, horizon=12), budget=40)
    >>> learned.curve.points[-1].spent, sorted(learned.curve.points[-1].extras)[:1]
    (40, ['regret'])
    """

    unit: ClassVar[str] = "episodes"
    accepts: ClassVar[type[Episodic]] = Episodic

    agent: Agent = field(default_factory=_default)
    copies: int = 1
    points: int = 20

    def __post_init__(self) -> None:
        if self.copies < 1 or self.points < 1:
            raise FewerError(f"copies and points must be at least 1; they are {self.copies} and {self.points}")

    def start(self, task: Episodic, budget: int, seed: int) -> ExploreState:
        """Make the copies, and let the agent lay out what it knows."""
        world_rng, agent_rng = generator(seed, "world"), generator(seed, "agent")
        state = ExploreState(
            budget,
            seed,
            Ledger({"episodes": 1.0}),
            world=task,
            play=task.play(self.copies, world_rng),
            memory={},
            agent_rng=agent_rng,
            world_rng=world_rng,
            lost=np.zeros(self.copies),
            gained=np.zeros(self.copies),
        )
        account = self._account(state)
        account.demonstrations = task.demonstrations(self.copies, generator(seed, "demonstrations"))
        self.agent.begin(account)
        return state

    def advance(self, state: ExploreState) -> Point:
        """Play up to the next point."""
        stop = max(state.budget * (state.points + 1) // self.points, state.ledger.spent + 1)
        stop, first = min(stop, state.budget), state.ledger.spent
        before = state.gained.copy()
        account = self._account(state)
        finished = getattr(self.agent, "finished", lambda account: False)
        while state.ledger.spent < stop and not state.exhausted:
            account.played = state.ledger.spent
            state.policy = self.agent.plan(account)
            episode = play_episode(state.play, state.policy, state.world.horizon, state.world_rng)
            expected = state.world.value(state.policy)
            state.gained += episode.rewards.sum(axis=1) if expected is None else expected
            if expected is not None and state.world.optimum is not None:
                state.lost += state.world.optimum - expected
            self.agent.learn(account, episode)
            state.ledger.add("episodes", 1)
            state.exhausted = finished(account)
        score = float((state.gained - before).mean() / (state.ledger.spent - first))
        regret = {"regret": float(state.lost.mean())} if state.world.optimum is not None else {}
        return Point(state.ledger.spent, score, {**regret, **account.report})

    def result(self, state: ExploreState) -> Float[np.ndarray, "runs horizon states actions"]:
        """The policy that would be played next, or what the agent recommends instead."""
        account = self._account(state)
        account.played = state.ledger.spent
        return getattr(self.agent, "recommend", self.agent.plan)(account)

    def resume(self, state: ExploreState, tree: dict[str, Any]) -> None:
        """Load the state; the world goes on with the loaded stream."""
        super().resume(state, tree)
        state.play = state.world.play(self.copies, state.world_rng)

    def _account(self, state: ExploreState) -> Account:
        world = state.world
        return Account(
            self.copies,
            world.states,
            world.actions,
            world.horizon,
            world.rewards,
            state.budget,
            state.ledger.spent,
            state.agent_rng,
            state.memory,
            pays=world.pays,
            features=world.features,
            vectors=world.vectors,
            levels=world.levels,
            players=world.players,
        )


def play_episode(
    play: Play,
    policy: Float[np.ndarray, "runs horizon states actions"],
    horizon: int,
    rng: np.random.Generator,
) -> Episode:
    """Play one episode in every copy.

    A copy whose episode is over stays in its last state without reward until all are over.
    """
    runs = len(policy)
    at, every = play.reset(), np.arange(runs)
    states = np.empty((runs, horizon + 1), dtype=np.int64)
    actions, rewards = np.empty((runs, horizon), dtype=np.int64), np.empty((runs, horizon))
    states[:, 0] = at
    for step in range(horizon):
        actions[:, step] = draw(policy[every, step, at], rng)
        at, rewards[:, step], _ = play.step(actions[:, step])
        states[:, step + 1] = at
    return Episode(states, actions, rewards)
