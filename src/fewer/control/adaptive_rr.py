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

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewer.claim import Claim, Measures, higher, lower, no_worse
from fewer.control.activity import FAUMonitor
from fewer.control.baselines import td3
from fewer.control.environments import gym
from fewer.control.loop import FixedRatio, FixedSchedule, OffPolicy, OffPolicyState, Schedule
from fewer.control.plasticity import PlasticityInjection
from fewer.control.policies import mlp
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.tasks.classification import Split
from fewer.tasks.mnist import mnist5k


class SettlingSwitch:
    """A number that goes from low to high, once, when what is observed has stopped changing.

    Parameters
    ----------
    low, high : float
        The number before and after.
    tol : float
        By how much two observations in a row may differ at most to count as settled.

    Examples
    --------
    >>> switch = SettlingSwitch(low=0.5, high=2, tol=0.001)
    >>> [switch.observe(share) for share in (0.5, 0.40, 0.36, 0.3595, 0.5)]
    [0.5, 0.5, 0.5, 2, 2]
    """

    def __init__(self, low: float, high: float, tol: float) -> None:
        self.low, self.high, self.tol = low, high, tol
        self.last: float | None = None
        self.switched = False

    @property
    def ratio(self) -> float:
        """The number now."""
        return self.high if self.switched else self.low

    def observe(self, share: float) -> float:
        """Take one observation in, and give the number from here on; the first is what the second is compared with."""
        if not math.isfinite(share):
            raise FewerError(f"adaptive replay ratio: the share of active units is {share}; the network has diverged")
        self.switched = self.switched or (self.last is not None and abs(share - self.last) <= self.tol)
        self.last = share
        return self.ratio

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"last": self.last, "switched": self.switched}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where it stood."""
        self.last, self.switched = tree["last"], tree["switched"]


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


def measure_drift(seed: int, tiny: bool) -> Measures:
    """Learn digits whose labels are drawn at random at first and become true by and by, as early targets of a critic do.

    In phase i of T each row has its true label with probability i/T and a new random one otherwise.  The ratio is the number
    of updates in a phase.
    """
    split = mnist5k(test=1000).split(seed)
    phases, seldom, often = (3, 2, 4) if tiny else (20, 50, 400)
    arms = {
        "low": (SettlingSwitch(seldom, seldom, 1e-9), False),
        "high": (SettlingSwitch(often, often, 1e-9), False),
        "adaptive": (SettlingSwitch(seldom, often, 0.005), False),
        "high, shifted images": (SettlingSwitch(often, often, 1e-9), True),
    }
    return {name: _drift(split, seed, switch, shift, phases) for name, (switch, shift) in arms.items()}


def _drift(split: Split, seed: int, switch: SettlingSwitch, shift: bool, phases: int) -> dict[str, float]:
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    padded, side = functional.pad(x, (2, 2, 2, 2)), x.shape[-1]
    updates = 0
    with own_randomness(seed, "drift"):
        network = nn.Sequential(*mlp(x[0].numel(), (128, 128), 10))
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        monitor = FAUMonitor(network)
        for phase in range(1, phases + 1):
            labels = torch.where(torch.rand(len(y)) < phase / phases, y, torch.randint(10, (len(y),)))
            monitor.reset()
            for _ in range(int(switch.ratio)):
                rows, down, right = torch.randint(len(y), (256,)), 2, 2
                if shift:
                    down, right = torch.randint(5, (2,)).tolist()
                images = padded[rows, :, down : down + side, right : right + side]
                with monitor:
                    predicted = network(images.flatten(1))
                optimiser.zero_grad()
                functional.cross_entropy(predicted, labels[rows]).backward()
                optimiser.step()
                updates += 1
                if switch.last is None:
                    switch.observe(monitor.average())
            switch.observe(monitor.average())
        with torch.inference_mode():
            test = network(torch.from_numpy(split.test_x).flatten(1)).argmax(1) == torch.from_numpy(split.test_y)
        # what is still learned of labels that mean nothing
        left = _left_of_new_labels(network, x.flatten(1), torch.randint(10, (len(y),)), 3 if phases < 10 else 300)
    return {
        "active units": monitor.average(),
        "accuracy": float(test.float().mean()),
        "updates": updates,
        "error left on new labels": left,
    }


def _left_of_new_labels(network: nn.Module, x: Tensor, labels: Tensor, steps: int) -> float:
    """Cross-entropy after some steps of Adam."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        optimiser.zero_grad()
        functional.cross_entropy(network(x[rows]), labels[rows]).backward()
        optimiser.step()
    with torch.inference_mode():
        return float(functional.cross_entropy(network(x), labels))


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
