"""Heavy learning from the first few transitions, after which a network hardly learns any more; and what can be given back."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from fewer.claim import Measures
from fewer.control.activity import FAUMonitor
from fewer.control.baselines import td3
from fewer.control.environments import gym
from fewer.control.loop import FixedSchedule, OffPolicy, OffPolicyState, Schedule
from fewer.control.plasticity import PlasticityInjection
from fewer.core.loop import own_randomness


@dataclass(frozen=True)
class Primed:
    """Many updates after a few transitions, and one for each from then on.

    Parameters
    ----------
    after : int
        Transitions.
    updates : int
        At that moment.
    """

    after: int
    updates: int

    def build(self, state: OffPolicyState) -> Schedule:
        """Make it."""
        return _Primed(self.after, self.updates)


class _Primed(FixedSchedule):
    def __init__(self, after: int, updates: int) -> None:
        super().__init__(1.0)
        self.after, self.at_once = after, float(updates)

    def updates(self, state: OffPolicyState) -> float:
        return self.at_once if state.ledger.spent == self.after else float(state.ledger.spent > self.after)


def measure_priming(seed: int, tiny: bool) -> Measures:
    """Swing a pendulum up after heavy learning from the first 300 steps, with new plasticity for one network or none."""
    first, updates, points = (40, 20, 2) if tiny else (300, 20_000, 6)
    task = gym("Pendulum-v1")

    def state_after(count: int) -> OffPolicyState:
        loop = OffPolicy(
            **td3(hidden=(128, 128), lr=1e-3, noise=0.2),
            ratio=Primed(first, count),
            discount=0.98,
            batch=128,
            learning_starts=first - 1,
            episodes=1 if tiny else 10,
            points=points,
        )
        with own_randomness(seed, "start"):
            state = loop.start(task, first * points, seed)
        with own_randomness(seed, "priming"):
            loop.advance(state)
        state.points += 1
        return state

    primed = state_after(updates)
    arms = {"not primed": state_after(1), "primed": primed}
    arms |= {f"injected into the {part}": copy.deepcopy(primed) for part in ("critic", "actor")}
    measured: dict[str, dict[str, float]] = {}
    for name, state in arms.items():
        batch, monitor = state.replay.take(torch.arange(first)), FAUMonitor(state.critic)
        with torch.no_grad(), monitor:
            state.critic(batch.observations, batch.actions)
        if "injected" in name:
            with own_randomness(seed, "injection"):
                PlasticityInjection(0, "critic" if "critic" in name else "actor").build(state).intervene()
        scores = []
        while state.ledger.spent < state.budget:
            with own_randomness(seed, "afterwards", state.points):
                scores.append(state.loop.advance(state).score)
            state.points += 1
        measured[name] = {"active units": monitor.average(), "return": float(np.mean(scores))}
    return measured
