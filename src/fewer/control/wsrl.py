"""WSRL: fine-tune what was learned offline without keeping the offline data.

When learning goes on in the environment and the offline data are gone, a pessimistic critic meets its policy's own states with
values that do not fit them, the values run away and the policy is unlearned; keeping the data only hides this.  So the frozen
pre-trained policy first acts for a while to fill an empty memory (no update is made), and then a plain off-policy method that
learns fast, without pessimism, goes on from the pre-trained policy *and* critic::

    offline   Cal-QL with an ensemble of normalised critics (see fewer.control.cal_ql)
    warm-up   K steps with the frozen policy, drawn, not its mean; no update
    online    y = r + gamma min_{i in M} Q_slow,i(s', a'),  a' ~ pi(s'),  M: 2 of 10 members, no entropy in it;
              4 steps of the critic for each step in the environment, then one of the policy on all four batches,
              E[ temperature * log pi(a|s) - min_i Q_i(s, a) ],  i over all members

Beside it are its rivals, which keep the conservative term while they learn online: without offline data (``finetune-noretain``),
and with half of each batch from them (``finetune-retain``).

References
----------
Zhiyuan Zhou, Andy Peng, Qiyang Li, Sergey Levine and Aviral Kumar, "Efficient Online Reinforcement Learning Fine-Tuning Need Not
Retain Offline Data", ICLR 2025, arXiv:2412.07762.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from fewer.claim import Claim, Measures, Tiny, higher, lower, no_worse
from fewer.control.action_chunks import ActionChunks
from fewer.control.baselines import rlpd
from fewer.control.cal_ql import CalQL, Conservative, OfflineData, value_gap
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.loop import FixedRatio, OffPolicy, OffPolicyState, Source, Uniform
from fewer.control.policies import Gaussian
from fewer.control.prior_data import given_demonstrations
from fewer.control.replay import Batch, Replay
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive


@dataclass(frozen=True)
class Retain:
    """A share of each batch from the data that were pre-trained on, with the returns that followed them.

    Parameters
    ----------
    demos : str, optional
        Where they are; by default the task's own.
    share : float, default 0.5
        Of each batch.
    """

    demos: str | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise FewerError(f"retain: the share of offline data is {self.share}; give more than 0 and at most 1")

    def build(self, state: OffPolicyState) -> Source:
        """Load them."""
        given = given_demonstrations(state.task, self.demos, state.seed)
        return RetainingSource(state.replay, OfflineData(state.task, given, state.loop.discount), self.share)


class RetainingSource(OfflineData):
    """What :class:`Retain` builds.

    Parameters
    ----------
    online : Replay
        What was experienced.
    offline : OfflineData
        What was given.
    share : float
        Of each batch, from ``offline``.
    """

    def __init__(self, online: Replay, offline: OfflineData, share: float) -> None:
        self.online, self.rows, self.share = online, offline.rows, share

    def draw(self, count: int) -> Batch:
        """Draw; the offline rows come last."""
        given = round(count * self.share)
        if given == count:
            return super().draw(count)
        fresh = self.online.sample(count - given)
        return Batch.join(fresh, super().draw(given)) if given else fresh


@dataclass(frozen=True)
class OfflineBuffer:
    """Pre-train, and fill the memory with random offline transitions in place of a warm-up.

    Parameters
    ----------
    pretraining : CalQL
        What comes first.
    count : int
        Transitions that are put into the memory.
    """

    pretraining: CalQL
    count: int

    def initialise(self, state: OffPolicyState) -> None:
        """Train and fill."""
        self.pretraining.initialise(state)
        given = given_demonstrations(state.task, self.pretraining.demos, state.seed)
        with own_randomness(state.seed, "offline-buffer"):
            batch = OfflineData(state.task, given, state.loop.discount).draw(min(self.count, state.replay.capacity))
        state.replay.add(
            batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues == 0
        )


def warm_start(
    demos: str | None = None,
    warm_up: int = 5000,
    retain: float = 0.0,
    start: Literal["warm-up", "offline"] = "warm-up",
    pretraining: int = 250_000,
    alpha: float = 5.0,
    gap: float | None = None,
    samples: int = 10,
    candidates: int = 1,
    calibrated: bool = True,
    at_least: float | None = None,
    batch: int = 256,
    hidden: tuple[int, ...] = (256, 256),
    members: int = 10,
    subset: int = 2,
    ratio: int = 4,
    lr: float = 3e-4,
    policy_lr: float = 1e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float | None = None,
    compiled: bool = False,
    **left: None,
) -> dict[str, Any]:
    """Fill the slots with offline pre-training, a warm-up and fast online learning.

    Parameters
    ----------
    demos : str, optional
        Where the offline data are: a file, a folder, or the id of a Minari data set; by default the task's own.
    warm_up : int, default 5000
        Environment steps of the frozen pre-trained policy before anything is learned.
    retain : float, default 0
        Share of each online batch from offline data.
    start : {"warm-up", "offline"}
        Fill the memory by the warm-up, or with as many random offline transitions instead.
    pretraining : int, default 250,000
        Offline steps; with 0 there is no pre-training, and learning starts from scratch.
    alpha, gap, samples, calibrated, at_least
        Of the pre-training, see :class:`~fewer.control.cal_ql.CalQL`.
    candidates : int, default 1
        Actions of the policy that an online target looks at; the best of them counts.  Offline there are ``samples``.
    batch : int, default 256
        Transitions of an offline step; the loop's own ``batch`` says how many are drawn online.
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    members, subset : int, default 10 and 2
        Critics, and how many of them, drawn with replacement, a target is the least of.
    ratio : int, default 4
        Steps of the critic for each transition; the policy makes one.
    lr, policy_lr : float, default 3e-4 and 1e-4
        Of Adam, of the critic and of the policy with its temperature.
    tau : float, default 0.005
        Speed of the slow critics.
    temperature : float, default 1
        At the start.
    target_entropy : float, optional
        By default minus the number of actions.
    compiled : bool, default False
        Let ``torch.compile`` translate updates; see :class:`Critics`.
    **left : None
        Names of slots that are left to another filling: ``policy=None, critic=None, sampler=None, initialisation=None``
        leaves the warm-up and the ratio.

    Raises
    ------
    FewerError
        If ``start`` is unknown, a number is out of its range, or a slot is left that is not filled here.

    Examples
    --------
    >>> sorted(warm_start())
    ['critic', 'initialisation', 'learning_starts', 'policy', 'ratio', 'sampler', 'start_with']
    """
    if start not in ("warm-up", "offline"):
        raise FewerError(f"wsrl: start is 'warm-up' or 'offline'; it is {start!r}")
    if warm_up < 0 or pretraining < 0:
        raise FewerError(f"wsrl: warm_up and pretraining must not be negative; given {warm_up} and {pretraining}")
    if not 0 <= retain <= 1:
        raise FewerError(f"wsrl: retain is the share of offline data in a batch, from 0 to 1; it is {retain}")
    offline = (
        CalQL(demos, pretraining, alpha, gap, samples, samples, batch, calibrated, at_least) if pretraining else None
    )
    filled = start == "offline" and offline is not None and warm_up > 0
    filling = {
        "initialisation": OfflineBuffer(offline, warm_up) if filled and offline is not None else offline,
        "policy": Gaussian(
            hidden,
            policy_lr,
            temperature,
            target_entropy,
            backup_entropy=False,
            delay=ratio,
            rows="all",
            entropy_at="next_observations",
        ),
        "critic": Critics(
            members,
            subset,
            hidden,
            layer_norm=True,
            lr=lr,
            tau=tau,
            replacement=True,
            candidates=candidates,
            compiled=compiled,
        ),
        "sampler": Retain(demos, retain) if retain else Uniform(),
        "ratio": FixedRatio(ratio),
        "learning_starts": 0 if filled else warm_up,
        # from scratch there is no policy worth following
        "start_with": "policy" if pretraining else "random",
    }
    for slot, value in left.items():
        if value is not None or slot not in filling:
            raise FewerError(f"wsrl: {slot}={value!r} does not fit; only its own slots can be left, by giving None")
    return {slot: value for slot, value in filling.items() if slot not in left}


def finetune_noretain(
    alpha: float = 5.0, warm_up: int = 0, online_alpha: float | None = None, **settings: Any
) -> dict[str, Any]:
    """Fill the slots with the same pre-training, and go on with its conservative term and without its data.

    Parameters
    ----------
    alpha : float, default 5
        Weight of the conservative term offline.
    warm_up : int, default 0
        Environment steps before anything is learned.
    online_alpha : float, optional
        Its weight online; by default the same.
    **settings
        As of :func:`warm_start`.
    """
    filled = warm_start(alpha=alpha, warm_up=warm_up, **settings)
    samples, calibrated = settings.get("samples", 10), settings.get("calibrated", True)
    return filled | {"critic_term": Conservative(alpha if online_alpha is None else online_alpha, samples, calibrated)}


def finetune_retain(
    alpha: float = 5.0, warm_up: int = 0, online_alpha: float | None = None, retain: float = 0.5, **settings: Any
) -> dict[str, Any]:
    """Fill the slots with the same pre-training, and go on with its conservative term and with its data in each batch.

    Parameters
    ----------
    alpha, warm_up, online_alpha
        As of :func:`finetune_noretain`.
    retain : float, default 0.5
        Share of each batch from offline data.
    **settings
        As of :func:`warm_start`.
    """
    return finetune_noretain(alpha, warm_up, online_alpha, retain=retain, **settings)


def warm_up(steps: int = 5000) -> dict[str, Any]:
    """Fill the slots ``learning_starts`` and ``start_with`` alone: the policy of another method acts first, unchanged.

    Parameters
    ----------
    steps : int, default 5000
        Environment steps before anything is learned.

    Examples
    --------
    >>> warm_up(100)
    {'learning_starts': 100, 'start_with': 'policy'}
    """
    return {"learning_starts": steps, "start_with": "policy"}


# --- the claim -----------------------------------------------------------------------------------


def offline_rows(state: OffPolicyState, offline: Batch) -> int:
    """How many offline transitions a batch can hold: those in memory, found by their numbers, and those of the sampler.

    Parameters
    ----------
    state : OffPolicyState
        Of a run.
    offline : Batch
        What was pre-trained on.
    """
    count = len(state.source.rows) if isinstance(state.source, OfflineData) else 0
    if not len(state.replay):
        return count
    held = state.replay.take(torch.arange(len(state.replay)))
    rows = {row.tobytes() for row in torch.cat([offline.observations, offline.actions], 1).numpy()}
    return count + sum(row.tobytes() in rows for row in torch.cat([held.observations, held.actions], 1).numpy())


CHUNK, BUDGET, DISCOUNT = 4, 1920, 0.95
"""Steps of a decision, environment steps of a run, and what the next decision is worth."""


def measure(seed: int, tiny: bool) -> Measures:
    """Success while six ways of learning go on in the environment, five of them from one pre-trained policy and critic."""
    task = dock_2d(4 if tiny else 300, noise=0.35, speed=0.8)
    networks: dict[str, Any] = {"hidden": (8,) if tiny else (64, 64), "members": 5, "lr": 1e-3, "tau": 0.01}
    networks["temperature"] = 0.05
    pretrained = networks | {
        "policy_lr": 1e-3,
        "pretraining": 4 if tiny else 3000,
        "samples": 2,
        "batch": 8 if tiny else 128,
        "at_least": None if tiny else 0.25,
    }
    early = CHUNK * (2 if tiny else 20)
    fillings = {
        "wsrl": warm_start(warm_up=CHUNK * (4 if tiny else 120), **pretrained),
        "wsrl-nowarmup": warm_start(warm_up=early, **pretrained),
        "finetune-noretain": finetune_noretain(warm_up=early, **pretrained),
        "finetune-noretain, retuned": finetune_noretain(warm_up=early, online_alpha=ONLINE_ALPHA, **pretrained),
        "finetune-retain": finetune_retain(warm_up=early, online_alpha=ONLINE_ALPHA, **pretrained),
        "rlpd": rlpd(ratio=4, **networks) | {"learning_starts": early},
    }
    measured: dict[str, dict[str, float]] = {}
    for name, filling in fillings.items():
        loop = OffPolicy(
            **filling,
            action_map=ActionChunks(CHUNK),
            discount=DISCOUNT,
            batch=8 if tiny else 128,
            episodes=4 if tiny else 100,
            points=4 if tiny else 12,
        )
        budget = 48 if tiny else BUDGET
        with own_randomness(seed, "start"):
            state = loop.start(task, budget, seed)
        before = loop.score(state, derive(seed, "evaluation"))[0]
        scores = []
        while state.ledger.spent < budget and not state.exhausted:
            with own_randomness(seed, "advance", state.points):
                scores.append(loop.advance(state).score)
            state.points += 1
        offline = OfflineData(state.task, given_demonstrations(state.task, None, seed), DISCOUNT).rows
        held = offline_rows(state, offline)
        if name == "wsrl" and held:
            raise FewerError(
                f"wsrl: {held} offline transitions can be drawn while it learns online; there should be none"
            )
        measured[name] = {
            "late success": float(np.mean(scores[-max(1, len(scores) // 4) :])),
            "lowest success": float(min(scores)),
            "success before": float(before),
            "value gap": value_gap(state, loop.episodes, derive(seed, "value")).gap,
            "offline transitions": float(held),
        }
    return measured


ONLINE_ALPHA = 0.2
"""Weight of the conservative term online where it is not that of before: the best of 5, 1 and 0.2 on other seeds."""

claim = Claim(
    says="Fine-tuning needs no offline data: a policy and a critic from offline reinforcement learning go on learning without "
    "them after a short warm-up, and end far above going on conservatively without the data, no lower than with them, and above "
    "learning from scratch with half of each batch from them; and the critic's promises stay nearer to what is earned.",
    measure=measure,
    seeds=5,
    holds=[
        higher("late success", "wsrl", than="finetune-noretain", by=0.4),
        higher("late success", "wsrl", than="rlpd"),
        no_worse("late success", "wsrl", than="finetune-retain", within=0.02),
        lower("value gap", "wsrl", than="finetune-noretain"),
    ],
    tiny=Tiny(seeds=2),
    note="A point in the plane and two docks instead of the paper's robots and ant mazes: 300 scripted episodes of which "
    "half go to the wrong dock, decisions of four steps, 480 decisions online of which 120 are the warm-up, five critics of two "
    "layers of 64, 3,000 offline updates or as many more as give a success of 0.25 before. Late success is the mean of the "
    "last quarter of evaluations of 100 episodes. Going on without the data keeps the conservative term as it was; with a weight "
    "of a twenty-fifth online, which is what finetune-retain has, it recovers here as well (finetune-noretain, retuned). That a "
    "memory without offline rows was used is asserted, not judged.",
)
