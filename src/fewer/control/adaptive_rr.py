"""A replay ratio that waits: learn seldom until the critic's share of active units has settled, then often.

Early in a run a high replay ratio costs a critic its plasticity for good; later the same ratio is harmless and useful.  The
share of active units Phi (:mod:`fewer.control.activity`), counted on the batches that the critic learns from, says when:

    ratio = low;  Phi_last = Phi of the first batch
    every I episodes:  Phi_now = mean of Phi over the batches since the last check
                       if |Phi_now - Phi_last| <= tol:  ratio = high, from here on
                       Phi_last = Phi_now

The paper's constants are low 0.5, high 2, I = 50 and tol = 0.001, for updates per decision of an agent that sees pixels.

References
----------
Ma, Li et al., "Revisiting Plasticity in Visual Reinforcement Learning: Data, Modules and Training Stages", ICLR 2024,
arXiv:2310.07418.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewer.claim import Claim, Measures, higher, lower, no_worse
from fewer.control.activity import FAUMonitor
from fewer.control.baselines import td3
from fewer.control.drifting_labels import measure_drift
from fewer.control.environments import gym
from fewer.control.loop import FixedRatio, OffPolicy, OffPolicyState, Schedule
from fewer.control.priming import measure_priming
from fewer.control.settling import SettlingSwitch
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness


@dataclass(frozen=True)
class AdaptiveRR:
    """A low replay ratio until the critic's share of active units has settled, and a high one from then on.

    It fills the slot ``ratio`` of :class:`fewer.control.loop.OffPolicy`, with any policy and critic whose units are
    rectified.

    Parameters
    ----------
    low, high : float, default 0.5 and 2
        Updates for each transition before and after.
    every_episodes : int, default 50
        Episodes from one look at the share to the next; they are counted from the first update on.
    tol : float, default 0.001
        By how much the shares of two looks may differ to count as settled.  Infinite switches at the first look.

    Raises
    ------
    FewerError
        If a number is out of range; when it is built, if the critic has no rectified units; and at a look, if no update
        was made since the last one.

    Examples
    --------
    >>> from fewer.control import OffPolicy, sac
    >>> loop = OffPolicy(**sac(), ratio=AdaptiveRR(low=0.5, high=4, every_episodes=5, tol=0.005))
    >>> loop.ratio.tol
    0.005
    """

    low: float = 0.5
    high: float = 2.0
    every_episodes: int = 50
    tol: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise FewerError(
                f"adaptive replay ratio: low is {self.low} and high {self.high}; give 0 < low <= high, in updates for "
                "each transition"
            )
        if not self.tol > 0:
            raise FewerError(
                f"adaptive replay ratio: tol is {self.tol}, and nothing stays that still; give more than 0"
            )
        if self.every_episodes < 1:
            raise FewerError(f"adaptive replay ratio: every_episodes is {self.every_episodes}; give 1 or more")

    def build(self, state: OffPolicyState) -> Schedule:
        """Watch the critic of a run."""
        return AdaptiveSchedule(self, FAUMonitor(state.critic))


class AdaptiveSchedule:
    """What :class:`AdaptiveRR` builds.

    Attributes
    ----------
    first : float
        The share of active units in the first batch.
    looks : list of (int, float, float)
        Environment steps so far, the share of active units, and the ratio from there on, for each look.
    switched_at : int or None
        The environment step of the switch.
    """

    def __init__(self, settings: AdaptiveRR, monitor: FAUMonitor) -> None:
        self.settings, self.monitor = settings, monitor
        self.switch = SettlingSwitch(settings.low, settings.high, settings.tol)
        self.looks: list[tuple[int, float, float]] = []
        self.first = math.nan
        self.looked_at: int | None = None
        self.switched_at: int | None = None

    def updates(self, state: OffPolicyState) -> float:
        """The ratio; where enough episodes are over, look first."""
        episodes = sum(state.episodes)
        if self.looked_at is None:
            self.looked_at = episodes
        elif episodes - self.looked_at >= self.settings.every_episodes:
            self._look(state.ledger.spent, episodes)
        return self.switch.ratio

    def _look(self, spent: int, episodes: int) -> None:
        assert self.looked_at is not None
        if not self.monitor.seen:
            raise FewerError(
                f"adaptive replay ratio: no update was made in the {episodes - self.looked_at} episodes before step "
                f"{spent}, so there is no share of active units to compare; raise low or every_episodes"
            )
        before, share = self.switch.switched, self.monitor.average()
        self.looks.append((spent, share, self.switch.observe(share)))
        if self.switch.switched and not before:
            self.switched_at = spent
        self.monitor.reset()
        self.looked_at = episodes

    def watch(self) -> AbstractContextManager[object]:
        """Count the active units of the pass that is made meanwhile."""
        return self.monitor if self.switch.last is not None else self._first()

    @contextmanager
    def _first(self) -> Iterator[None]:
        with self.monitor:
            yield
        # the first look is compared with the first batch
        self.first = self.monitor.average()
        self.switch.observe(self.first)

    def measures(self) -> dict[str, float]:
        """The last share that was looked at, the ratio, and the step of the switch (-1 before it)."""
        share = self.switch.last
        return {
            "replay_ratio": self.switch.ratio,
            "switched_at": -1.0 if self.switched_at is None else float(self.switched_at),
        } | ({} if share is None else {"active_units": share})

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "monitor": self.monitor.state_dict(),
            "switch": self.switch.state_dict(),
            "first": self.first,
            "looks": [list(look) for look in self.looks],
            "looked_at": self.looked_at,
            "switched_at": self.switched_at,
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where it stood."""
        self.monitor.load_state_dict(tree["monitor"])
        self.switch.load_state_dict(tree["switch"])
        self.looks = [(int(spent), float(share), float(ratio)) for spent, share, ratio in tree["looks"]]
        self.first, self.looked_at, self.switched_at = tree["first"], tree["looked_at"], tree["switched_at"]


# --- the claims ----------------------------------------------------------------------------------


def measure_pendulum(seed: int, tiny: bool) -> Measures:
    """Swing a pendulum up with a low ratio, a high one, and one that waits."""
    steps = 240 if tiny else 4000
    task = gym("Pendulum-v1", horizon=20 if tiny else 200)
    adaptive = AdaptiveRR(low=0.5, high=4, every_episodes=2, tol=0.005)
    ratios = {"low": FixedRatio(0.5), "high": FixedRatio(4), "adaptive": adaptive}
    measured: dict[str, dict[str, float]] = {}
    for name, filling in ratios.items():
        loop = OffPolicy(
            **td3(hidden=(64, 64), lr=1e-3, noise=0.2),
            ratio=filling,
            discount=0.98,
            batch=64,
            episodes=1 if tiny else 10,
            points=2 if tiny else 10,
        )
        with own_randomness(seed, "start"):
            state = loop.start(task, steps, seed)
        scores = []
        while state.ledger.spent < steps:
            with own_randomness(seed, "advance", state.points):
                scores.append(loop.advance(state).score)
            state.points += 1
        measured[name] = {"return": float(np.mean(scores)), "updates": state.updates}
        if isinstance(state.schedule, AdaptiveSchedule):
            measured[name] |= _of_the_switch(state.schedule)
    return measured


def _of_the_switch(schedule: AdaptiveSchedule) -> dict[str, float]:
    """How often it switched, and how often that was not where it should be; and when."""
    shares = [schedule.first, *(share for _, share, _ in schedule.looks)]
    ratios = [schedule.settings.low, *(ratio for _, _, ratio in schedule.looks)]
    rises = [number for number in range(1, len(ratios)) if ratios[number] != ratios[number - 1]]
    settled = [abs(shares[number] - shares[number - 1]) <= schedule.settings.tol for number in range(1, len(shares))]
    return {
        "switches": len(rises),
        "switches out of place": sum(settled.index(True) + 1 != number if True in settled else 1 for number in rises),
        "step of the switch": -1 if schedule.switched_at is None else schedule.switched_at,
    }


claim = (
    Claim(
        says="Where targets are random at first and become true by and by, many updates from the start leave fewer active units "
        "than few, and shifted images more; waiting for the share of active units to settle ends above few updates and no "
        "more than a point below many, with fewer of them, and leaves less error on new labels.",
        measure=measure_drift,
        seeds=5,
        holds=[
            lower("active units", "high", than="low"),
            higher("active units", "high, shifted images", than="high"),
            higher("accuracy", "adaptive", than="low"),
            no_worse("accuracy", "adaptive", than="high", within=0.01),
            lower("updates", "adaptive", than="high"),
            lower("error left on new labels", "adaptive", than="high"),
        ],
        note="4,000 digits of 14 by 14 pixels in 20 phases, 50 or 400 updates in each, a network of 128 and 128 units: a "
        "supervised picture of early bootstrapping, where the paper has agents that see pixels.",
    ),
    Claim(
        says="Heavy learning from the first 300 steps leaves fewer active units in the critic; then injecting plasticity into "
        "the critic gives back more of the return than injecting it into the policy.",
        measure=measure_priming,
        seeds=3,
        holds=[
            lower("active units", "primed", than="not primed"),
            higher("return", "injected into the critic", than="injected into the actor"),
        ],
        note="20,000 updates of TD3 on 300 steps of Pendulum-v1, and 1,500 steps after them; the paper has pixels.",
    ),
    Claim(
        says="On Pendulum-v1, a ratio that rises from 0.5 to 4 when the critic's share of active units has settled rises once, "
        "where it should, and ends above the ratio 0.5 with fewer updates than the ratio 4.",
        measure=measure_pendulum,
        seeds=5,
        holds=[
            higher("switches", "adaptive", than=0.99),
            lower("switches", "adaptive", than=1.01),
            lower("switches out of place", "adaptive", than=0.01),
            higher("return", "adaptive", than="low"),
            lower("updates", "adaptive", than="high"),
        ],
        note="With numbers as observations nothing is lost by a high ratio: the ratio 4 from the start learns fastest here, and "
        "that waiting beats it, as the paper has it for pixels over millions of frames, is not claimed.",
    ),
)
