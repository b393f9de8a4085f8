"""Learning to act from data alone: the off-policy loop without a step of the environment.

The budget counts gradient steps; the environment is asked for its data and for evaluation episodes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from fewer.control.environments import Act, Environment, Step, Worlds
from fewer.control.loop import OffPolicy, OffPolicyState, Sampler
from fewer.control.prior_data import Symmetric
from fewer.control.replay import Batch
from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.demos.demonstrations import Demonstrations


def _recorded() -> Sampler:
    return Symmetric(share=1.0)


@dataclass(frozen=True)
class Offline(OffPolicy):
    """Learn to act from recorded transitions; the curve is the score of evaluation episodes against gradient steps.

    Its slots are those of :class:`fewer.control.loop.OffPolicy`.  Nothing is explored and no ratio applies: each unit of the
    budget is a step of the critic, with a step of the policy where one is due.

    Parameters
    ----------
    sampler : Sampler, default Symmetric(share=1)
        The recorded data.

    Examples
    --------
    >>> from fewer.control.dock_world import dock_2d
    >>> from fewer.control.ofql import one_step_flow
    >>> loop = Offline(**one_step_flow(hidden=(16,), candidates=2), batch=16, episodes=2, points=2)
    >>> [point.spent for point in loop.learn(dock_2d(demonstrations=4), budget=10).curve]
    [5, 10]
    """

    unit: ClassVar[str] = "gradient steps"

    sampler: Sampler = field(default_factory=_recorded)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.sampler, Symmetric) and self.sampler.share < 1:
            raise FewerError(
                f"offline: a share of {1 - self.sampler.share:g} of each batch would be from steps of its own, and there are "
                "none; give share=1"
            )

    def least(self, task: Environment) -> int:
        """One step."""
        return 1

    def start(self, task: Environment, budget: int, seed: int) -> OffPolicyState:
        """Build networks and read the data."""
        state = super().start(task, budget, seed)
        state.ledger = Ledger({"gradient_steps": 1.0})
        return state

    def advance(self, state: OffPolicyState) -> Point:
        """Learn until the next point, then evaluate."""
        until = -(-state.budget * (state.points + 1) // self.points)
        report: dict[str, Tensor] = {}
        for _ in range(min(max(until, state.ledger.spent + 1), state.budget) - state.ledger.spent):
            report |= self.learn_once(state)
        return self._point(state, report)

    def learn_once(self, state: OffPolicyState) -> dict[str, Tensor]:
        """One step of the critic, and what follows from it."""
        report = self._update(state) | state.actor.settle(state.source.draw, state.critic)
        state.ledger.add("gradient_steps")
        return report

    def _mapped(self, task: Environment) -> Environment:
        return Unplayed(super()._mapped(task))


class Unplayed(Environment):
    """An environment that is evaluated in, and not played.

    Parameters
    ----------
    inner : Environment
        The environment.
    """

    def __init__(self, inner: Environment) -> None:
        self.inner, self.name, self.metric = inner, inner.name, inner.metric
        self.observation_size, self.action_size = inner.observation_size, inner.action_size
        self.observed = inner.observed
        self.low, self.high, self.longest = inner.low, inner.high, inner.longest

    def fingerprint(self) -> str:
        """The inner one's."""
        return self.inner.fingerprint()

    def make(self, copies: int) -> Worlds:
        """Copies that stand still."""
        return Still(copies, self.observation_size)

    def demonstrations(self, seed: int) -> Demonstrations:
        """The inner one's."""
        return self.inner.demonstrations(seed)

    def transitions(self, demonstrations: Demonstrations, discount: float | None = None) -> Batch:
        """In the units of the inner one."""
        return self.inner.transitions(demonstrations, discount)

    def evaluate(self, act: Act, episodes: int, seed: int) -> tuple[float, dict[str, float]]:
        """In the inner one."""
        return self.inner.evaluate(act, episodes, seed)


class Still:
    """Copies in which nothing happens, for a loop that does not act.

    Parameters
    ----------
    copies, size : int
        How many, and numbers in an observation.
    """

    def __init__(self, copies: int, size: int) -> None:
        self.copies, self.size = copies, size

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Zeros."""
        return np.zeros((len(seeds), self.size), dtype=np.float32)

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """There is none."""
        raise FewerError("offline: nothing is played while learning from data; take the loop off-policy to act")

    def close(self) -> None:
        """Nothing is held."""
