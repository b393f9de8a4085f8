"""Two agents of which each undoes what the other did, so that nobody has to put things back between episodes.

The forward agent acts until it succeeds or its time is over; then the backward agent takes the scene as it stands and brings it
back to where the forward task begins; and so on.  Each has networks, memory, demonstrations and rewards of its own, and is an
ordinary off-policy run that sees an environment whose episodes begin where the other one's have ended.

References
----------
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from fewer.control.environments import Environment, Worlds
from fewer.control.loop import OffPolicy, OffPolicyState
from fewer.control.trained import TrainedPolicy
from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import derive


class LinkedWorlds(Worlds, Protocol):
    """One of two views of a scene that is never put back: its ``reset`` begins an episode in the scene as it stands."""

    def state_dict(self) -> dict[str, Any]:
        """The scene."""
        ...

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Put the scene as it was."""
        ...


class ThereAndBack(Task):
    """Two tasks of one scene.

    Attributes
    ----------
    forward, backward : Environment
        Each with episodes that begin afresh; for evaluation, demonstrations and sizes.
    """

    forward: Environment
    backward: Environment

    def link(self, seed: int) -> tuple[LinkedWorlds, LinkedWorlds]:
        """Make one scene, and views of it for either task, one copy each."""
        raise NotImplementedError


class Linked(Environment):
    """One of the two tasks, played in a scene that is shared.

    Parameters
    ----------
    inner : Environment
        The task.
    worlds : LinkedWorlds
        Its view of the scene.
    """

    def __init__(self, inner: Environment, worlds: LinkedWorlds) -> None:
        self.inner, self.worlds = inner, worlds
        self.name, self.metric, self.longest = inner.name, inner.metric, inner.longest
        self.observation_size, self.action_size = inner.observation_size, inner.action_size
        self.observed = inner.observed
        self.low, self.high = inner.low, inner.high

    def __getattr__(self, name: str) -> Any:
        """What else the task offers, such as examples of success."""
        if name == "inner":  # while it is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def fingerprint(self) -> str:
        """The task's."""
        return self.inner.fingerprint()

    def make(self, copies: int) -> Worlds:
        """The scene itself, for the one who learns."""
        if copies != 1:
            raise FewerError(f"forward-backward: there is one scene, and {copies} copies were asked for; give copies=1")
        return self.worlds

    def demonstrations(self, seed: int) -> Any:
        """The task's."""
        return self.inner.demonstrations(seed)

    def evaluate(self, act: Any, episodes: int, seed: int) -> tuple[float, dict[str, float]]:
        """In scenes of their own."""
        return self.inner.evaluate(act, episodes, seed)


@dataclass
class ForwardBackwardState(State):
    """Both agents, and whose turn it is."""

    saved: ClassVar[tuple[str, ...]] = ("turn", "switches", "reached")

    agents: tuple[OffPolicyState, OffPolicyState] = field(kw_only=True)
    scenes: tuple[LinkedWorlds, LinkedWorlds] = field(kw_only=True)
    task: ThereAndBack = field(kw_only=True)
    turn: int = field(default=0, kw_only=True)
    switches: int = field(default=0, kw_only=True)
    reached: list[list[float]] = field(default_factory=lambda: [[], []], kw_only=True)

    def state_dict(self) -> dict[str, Any]:
        """Both agents and the scene."""
        return {
            **super().state_dict(),
            "agents": [agent.state_dict() for agent in self.agents],
            "scenes": [scene.state_dict() for scene in self.scenes],
            "views": [agent.observations for agent in self.agents],
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up; the scene is put as it was, so no action needs to be repeated."""
        super().load_state_dict(tree)
        for scene, saved in zip(self.scenes, tree["scenes"], strict=True):
            scene.load_state_dict(saved)
        for agent, saved, view in zip(self.agents, tree["agents"], tree["views"], strict=True):
            agent.load_state_dict(saved)
            agent.observations = view


@dataclass(frozen=True)
class ForwardBackward(Loop[ThereAndBack, ForwardBackwardState]):
    """Learn a task and the way back from it in one scene that nobody resets.

    The curve is the score of the forward agent's evaluation episodes, which begin afresh, against the environment steps of both.

    Parameters
    ----------
    forward, backward : OffPolicy
        How either learns; with one copy.
    points : int, default 20
        How many points the curve has.
    """

    unit: ClassVar[str] = "environment steps"
    accepts: ClassVar[type[Task]] = ThereAndBack

    forward: OffPolicy = field(default_factory=OffPolicy)
    backward: OffPolicy = field(default_factory=OffPolicy)
    points: int = 20

    def __post_init__(self) -> None:
        if max(self.forward.copies, self.backward.copies) > 1 or self.points < 1:
            raise FewerError(
                f"forward-backward: there is one scene, so copies must be 1, and points positive; given "
                f"{self.forward.copies}, {self.backward.copies} and {self.points}"
            )

    def start(self, task: ThereAndBack, budget: int, seed: int) -> ForwardBackwardState:
        """Build both, and begin with the forward one."""
        scenes = task.link(derive(seed, "scene"))
        agents = tuple(
            loop.start(Linked(inner, scene), budget, derive(seed, name))
            for loop, inner, scene, name in zip(
                (self.forward, self.backward),
                (task.forward, task.backward),
                scenes,
                ("forward", "backward"),
                strict=True,
            )
        )
        state = ForwardBackwardState(
            budget,
            seed,
            Ledger({"environment_steps": 1.0}),
            agents=agents,  # pyright: ignore[reportArgumentType]
            scenes=scenes,
            task=task,
        )
        self._hand_over(state, 0)
        return state

    def advance(self, state: ForwardBackwardState) -> Point:
        """Act and learn in turns until the next point, then evaluate both."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        while state.ledger.spent < until and not state.exhausted:
            self._step(state)
        score, measures = self.forward.score(state.agents[0], derive(state.seed, "evaluation"))
        back, _ = self.backward.score(state.agents[1], derive(state.seed, "evaluation"))
        extras = measures | {"backward": back, "switches": float(state.switches)}
        for name, reached in zip(("forward", "backward"), state.reached, strict=True):
            if reached:
                extras[f"{name}_return"] = sum(reached) / len(reached)
        return Point(state.ledger.spent, score, extras)

    def result(self, state: ForwardBackwardState) -> tuple[TrainedPolicy, TrainedPolicy]:
        """Both policies, the forward one first."""
        return self.forward.result(state.agents[0]), self.backward.result(state.agents[1])

    def _step(self, state: ForwardBackwardState) -> None:
        turn = state.turn
        loop, agent = (self.forward, self.backward)[turn], state.agents[turn]
        before, episodes = agent.ledger.spent, agent.episodes[0]
        count = loop._act(agent)
        state.ledger.add("environment_steps", agent.ledger.spent - before)
        longest = max(each.task.longest for each in state.agents)
        state.exhausted = state.budget - state.ledger.spent < longest
        if agent.ledger.spent > loop.learning_starts:
            loop._learn(agent, count)
        if agent.episodes[0] > episodes:
            state.reached[turn] = [*state.reached[turn], agent.returns[-1]][-10:]
            self._hand_over(state, 1 - turn)
            state.switches += 1

    def _hand_over(self, state: ForwardBackwardState, turn: int) -> None:
        """The other one begins an episode in the scene as it stands."""
        state.turn = turn
        agent = state.agents[turn]
        seed = derive(agent.seed, "episode", 0, agent.episodes[0])
        agent.observations = agent.worlds.reset({0: seed}).copy()
