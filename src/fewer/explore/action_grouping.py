"""Action grouping: learn about groups of actions, as coarse as the samples at hand ask for.

Actions that do almost the same are learned about together: each group pools the samples of its members, and a uniform
member of the best group is played.  Coarser groups leave less to chance and treat more unlike actions as equal, so the
grouping is chosen by a bound of both errors, which needs only how many groups there are and how unlike their members.

With rewards in [0, 1], ``n`` samples of each of ``S K`` pairs of state and group, and members of a group unlike by
``beta_P`` in where they lead and by ``beta_r`` in what they pay (see :mod:`fewer.explore.group_betas`), the policy that
plans over groups loses at most

    V* - V <= a [beta_r / (1 - gamma) + gamma beta_P / (1 - gamma)^2]
              + e sqrt(log(S K / ((1 - gamma) delta)) / ((1 - gamma)^3 n)).

With the true betas and no chance the first term holds with ``a = 1``; ``e = 1/3``, which is not from the paper, weighs
the second about as simulations do.  The betas are measured on a pilot: how far the members' means are apart, less (in
squares) how far they would be were the samples dealt out to the members at random.  So what the choice costs depends on
the pilot and on the number of groupings.

References
----------
Y. Li, P. Ju and N. Shroff, "Achieving Sample and Computational Efficient Reinforcement Learning by Action Space
Reduction via Grouping", 2023, arXiv:2306.12981.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from fewer.claim import Claim, Condition, Evidence, Judgement, Measures, Tiny, higher, lower, ratio
from fewer.core.errors import FewerError
from fewer.core.stats import paired_ratio
from fewer.explore.generative import Account, GenerativeLearning, Samples
from fewer.explore.group_betas import betas_of_levels
from fewer.explore.group_learners import AveragedModel, GroupedQLearning
from fewer.explore.groupings import ActionGrouping, GivenGroups, NeighbourGroups, Ungrouped, halved, merged
from fewer.explore.sampled_worlds import DiscountedMDP, grouped_actions


@dataclass(frozen=True)
class Level:
    """What the bound says of one grouping.

    Parameters
    ----------
    groups : int
        How many.
    each : float
        Samples of each state and group.
    beta_P, beta_r : float
        How unlike the members of a group are in where they lead and in what they pay.
    approximation, estimation : float
        The two terms of the bound, in units of value.
    operations : int
        Multiplications of one sweep of planning over groups.
    bound : float
        The two terms, and the operations times their price.
    """

    groups: int
    each: float
    beta_P: float
    beta_r: float
    approximation: float
    estimation: float
    operations: int
    bound: float


@dataclass(frozen=True)
class Selection:
    """A grouping, and why.

    Parameters
    ----------
    grouping : ActionGrouping
        The chosen one.
    index : int
        Its place in the family.
    levels : tuple of Level
        The bound of each grouping of the family.
    """

    grouping: ActionGrouping
    index: int
    levels: tuple[Level, ...]

    def __str__(self) -> str:
        lines = ["groups  samples each  beta P  beta r  approximation  estimation  bound"]
        for place, level in enumerate(self.levels):
            lines.append(
                f"{level.groups:6d}  {level.each:12.1f}  {level.beta_P:6.3f}  {level.beta_r:6.3f}  "
                f"{level.approximation:13.2f}  {level.estimation:10.2f}  {level.bound:5.2f}"
                + ("  <- chosen" if place == self.index else "")
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class LossBound:
    """The bound of what a policy over groups loses.

    Parameters
    ----------
    scales : (float, float), default (1, 1/3)
        Factors of the approximation and the estimation term.
    delta : float, default 0.05
        Probability with which the estimation may be worse.
    price : float, default 0
        Of one multiplication in planning, in units of value, where computing is dear as well.
    """

    scales: tuple[float, float] = (1.0, 1 / 3)
    delta: float = 0.05
    price: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.delta < 1 and min(self.scales) > 0 and self.price >= 0):
            raise FewerError(
                "action-grouping: delta lies between 0 and 1, scales are above 0 and price is not below; "
                f"given {self.delta:g}, {self.scales} and {self.price:g}"
            )

    def terms(
        self,
        groups: Int[np.ndarray, " levels"],
        betas: Float[np.ndarray, "two levels *runs"],
        states: int,
        samples: int,
        gamma: float,
    ) -> tuple[Float[np.ndarray, "levels *runs"], Float[np.ndarray, " levels"], Float[np.ndarray, "levels *runs"]]:
        """Approximation, estimation and all together, which is infinite where a state and group gets no sample.

        Parameters
        ----------
        groups : int array (levels,)
            How many groups each grouping has.
        betas : float array (2, levels, *runs)
            How unlike members are, in where they lead and in what they pay.
        states, samples : int
            How many there are, and are planned in all.
        gamma : float
            Discount.

        Examples
        --------
        >>> LossBound().terms(np.array([2, 4]), np.array([[0.1, 0.0], [0.0, 0.0]]), 1, 1000, 0.5)[0]
        array([0.2, 0. ])
        """
        cells = states * groups
        approximation = self.scales[0] * (betas[1] / (1 - gamma) + gamma * betas[0] / (1 - gamma) ** 2)
        logarithm = np.log(cells / ((1 - gamma) * self.delta))
        estimation = self.scales[1] * np.sqrt(logarithm * cells / ((1 - gamma) ** 3 * samples))
        estimation = np.where(cells <= samples, estimation, np.inf)
        by_level = (estimation + self.price * states * cells).reshape(-1, *[1] * (betas.ndim - 2))
        return approximation, estimation, approximation + by_level

    def best(
        self, groups: Int[np.ndarray, " levels"], bound: Float[np.ndarray, "levels *runs"], states: int, samples: int
    ) -> Int[np.ndarray, " *runs"]:
        """The level of the least bound.

        Raises
        ------
        FewerError
            If there is none, for want of samples or because no two actions of a group were tried.
        """
        if np.isnan(bound).any():
            raise FewerError(
                "action-grouping: no group of the coarsest grouping had two actions tried in one state, so how unlike they "
                "are is not known; add a coarser grouping, or try more actions in each state"
            )
        if np.isinf(bound).all(axis=0).any():
            raise FewerError(
                f"action-grouping: {samples} samples are fewer than the {states * groups[0]} pairs of a state and a "
                f"group of the coarsest grouping; give a coarser one (at most {samples // states} groups) or more samples"
            )
        return bound.argmin(axis=0)


def select_grouping(
    states: Int[Any, " n"],
    actions: Int[Any, " n"],
    following: Int[Any, " n"],
    rewards: Float[Any, " n"],
    family: Sequence[ActionGrouping],
    *,
    samples: int,
    gamma: float,
    number_of_states: int | None = None,
    rewards_range: tuple[float, float] = (0.0, 1.0),
    bound: LossBound = LossBound(),
    seed: int = 0,
) -> Selection:
    """Choose one of several groupings by the bound of what its policy loses.

    What this costs depends on the number of groupings and of pilot samples, not on the number of actions.

    Parameters
    ----------
    states, actions, following : int arrays (n,)
        Pilot samples, from a sampler or a log: what was tried, and where it led.  Actions that share a group should have
        been tried alike, and at least some of them twice.
    rewards : float array (n,)
        What it paid.
    family : sequence of ActionGrouping
        Nested, from coarse to fine (see :func:`fewer.explore.groupings.halved` and ``merged``).
    samples : int
        Planned in all, for learning.
    gamma : float
        Discount, in (0, 1).
    number_of_states : int, optional
        By default one more than the greatest state seen.
    rewards_range : (float, float), default (0, 1)
        Least and greatest mean reward; the bound is in units of the difference.
    bound : LossBound, optional
        Its factors.
    seed : int, default 0
        Of the random dealing that tells unlike from noisy.

    Returns
    -------
    Selection
        The grouping, with the bound of each level; printing it shows the table.

    Raises
    ------
    FewerError
        If even the coarsest grouping leaves a state and group without a sample, if no two actions of a group were tried,
        or if the input does not fit together.

    Examples
    --------
    Four actions of two kinds, with few and with many samples to come.

    >>> rng = np.random.default_rng(0)
    >>> actions = np.tile(np.arange(4), 50)
    >>> log = (0 * actions, actions, 0 * actions, 0.6 * (actions > 1) + 0.1 * (actions % 2))
    >>> family = [ActionGrouping(labels) for labels in ([0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3])]
    >>> [select_grouping(*log, family, samples=n, gamma=0.5).grouping.groups for n in (200, 20_000)]
    [2, 4]
    """
    s, a, next_ones, paid = (np.asarray(each).reshape(1, -1) for each in (states, actions, following, rewards))
    if len({each.size for each in (s, a, next_ones, paid)}) > 1 or s.size == 0:
        raise FewerError(
            "action-grouping: states, actions, following and rewards must be of one length and not empty; their lengths are "
            f"{s.size}, {a.size}, {next_ones.size} and {paid.size}"
        )
    for what, column in (("states", s), ("actions", a), ("following", next_ones)):
        if not np.issubdtype(column.dtype, np.integer) or column.min() < 0:
            raise FewerError(f"action-grouping: {what} must be whole numbers from 0; {column.dtype} ones were given")
    if not np.isfinite(paid).all():
        raise FewerError(f"action-grouping: reward {int(np.isfinite(paid).argmin())} is not finite; drop the row")
    seen = int(max(s.max(), next_ones.max())) + 1
    count = number_of_states or seen
    low, high = rewards_range
    if count < seen or not high > low or not 0 < gamma < 1 or samples < 1:
        raise FewerError(
            f"action-grouping: the samples name {seen} states, gamma lies between 0 and 1, samples are at least 1 and "
            f"rewards_range is (least, greatest); given {count}, {gamma:g}, {samples} and {rewards_range}"
        )
    groups = np.array([each.groups for each in family])
    if not len(groups) or (np.diff(groups) < 0).any():
        raise FewerError(f"action-grouping: the family must go from coarse to fine; it has {groups.tolist()} groups")
    for each in family:
        each.check(count, max(each.actions, int(a.max()) + 1), "action-grouping")
    betas = betas_of_levels(s, a, next_ones, (paid - low) / (high - low), [list(family)], np.random.default_rng(seed))[
        ..., 0
    ]
    approximation, estimation, total = bound.terms(groups, betas, count, samples, gamma)
    best = int(bound.best(groups, total, count, samples))
    columns = (groups, samples / (count * groups), *betas, approximation, estimation, count**2 * groups, total)
    rows = zip(*(each.tolist() for each in columns), strict=True)
    return Selection(family[best], best, tuple(Level(*row) for row in rows))


@dataclass(frozen=True)
class BoundedGrouping:
    """Try some actions, measure how unlike groups of them are, and choose the grouping of the least bound.

    What is tried counts, and the learner gets it.

    Parameters
    ----------
    family : {"neighbours", "features", "pilot"}, default "neighbours"
        The groupings to choose from: of neighbouring action numbers (as made by discretising an axis); of actions merged
        by the features that the task brings; or merged by what a first half of the pilot has seen of them, which must
        then reach every action of every state.
    by_state : bool, default False
        With ``"pilot"``, a partition for each state.
    levels : tuple of int, optional
        Numbers of groups; by default 1, 2, 4 and so on, and all.
    share : float, default 0.5
        Most of the budget that the pilot takes: it tries all actions of a state equally often, or random ones twice.
    scales, delta, price
        See :class:`LossBound`.
    """

    family: Literal["neighbours", "features", "pilot"] = "neighbours"
    by_state: bool = False
    levels: tuple[int, ...] = ()
    share: float = 0.5
    scales: tuple[float, float] = (1.0, 1 / 3)
    delta: float = 0.05
    price: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in ("neighbours", "features", "pilot"):
            raise FewerError(f"action-grouping: unknown family {self.family!r}; choose neighbours, features or pilot")
        if not 0 < self.share <= 1:
            raise FewerError(f"action-grouping: share lies in (0, 1]; {self.share:g} was given")
        _ = self.bound  # what is wrong with its factors is said now

    @property
    def bound(self) -> LossBound:
        """What is minimised."""
        return LossBound(self.scales, self.delta, self.price)

    def choose(self, account: Account) -> list[ActionGrouping]:
        """One partition for each copy."""
        if self.family == "pilot":
            families, pilot = self._merge(account)
        else:
            families, pilot = [self._family(account)], self._try(account, *self._plan(account))
        if account.allowed is not None:
            families = [tuple(each.allowed(account.allowed) for each in family) for family in families]
        betas = betas_of_levels(
            pilot.states, pilot.actions, pilot.next, self._scaled(account, pilot), families, account.rng
        )
        groups, sizes = np.array([each.groups for each in families[0]]), (account.states, account.samples)
        bound = self.bound.terms(groups, betas, *sizes, account.gamma)[2]
        best = self.bound.best(groups, bound, *sizes)
        account.report["bound"] = float(np.take_along_axis(bound, best[None], axis=0).mean())
        return [families[run % len(families)][level] for run, level in enumerate(best)]

    def _family(self, account: Account) -> tuple[ActionGrouping, ...]:
        if self.family == "neighbours":
            return halved(account.actions, self.levels)
        if account.features is None:
            raise FewerError(
                "action-grouping: this task brings no features of its actions to merge them by; choose the family neighbours "
                "or pilot"
            )
        return merged(account.features, self.levels)

    def _plan(self, account: Account, least: int = 2) -> tuple[int, int]:
        """How many actions to try in each state, and how often each, which is at least ``least``."""
        each = int(account.samples * self.share) // account.states
        often = max(each // account.actions, least)
        return min(account.actions, each // often), often

    def _try(self, account: Account, count: int, often: int) -> Samples:
        """Try ``count`` random actions of each state ``often`` times each."""
        if count < min(2, account.actions):
            raise FewerError(
                f"action-grouping: a pilot of {self.share:g} of {account.samples} samples does not reach two actions twice in "
                f"each of {account.states} states; raise the budget to {math.ceil(4 * account.states / self.share)}, or give "
                "the groups"
            )
        keys, most = account.rng.random((account.runs, account.states, account.actions)), np.array([account.actions])
        if account.allowed is not None:
            keys, most = np.where(account.allowed, keys, 2.0), account.allowed.sum(axis=1)
        chosen = np.argpartition(keys, count - 1, axis=-1)[..., :count]
        if account.allowed is not None:  # those that are there come first
            chosen = np.take_along_axis(chosen, np.take_along_axis(keys, chosen, axis=-1).argsort(axis=-1), axis=-1)
        state, place = np.nonzero(np.broadcast_to(np.arange(count) < most[:, None], (account.states, count)))
        actions = chosen[:, state, place].repeat(often, axis=-1)
        return account.sample(np.broadcast_to(state.repeat(often), actions.shape), actions)

    def _merge(self, account: Account) -> tuple[list[tuple[ActionGrouping, ...]], Samples]:
        """A family for each copy from the first half of a pilot, and the other half to judge it by."""
        if account.allowed is not None:
            raise FewerError(
                "action-grouping: some states lack actions, so what was seen of actions cannot be compared over states; "
                "choose another family"
            )
        count, often = self._plan(account, 4)
        if count < account.actions:
            raise FewerError(
                f"action-grouping: merging by what was seen tries all {account.actions} actions of {account.states} states four "
                f"times; raise the budget to {math.ceil(4 * account.actions * account.states / self.share)}, or choose another "
                "family"
            )
        first = self._try(account, count, often // 2)
        shape = (account.runs, account.states, account.actions)
        run = np.broadcast_to(np.arange(account.runs)[:, None], first.states.shape)
        place = np.ravel_multi_index((run, first.states, first.actions), shape)
        paid = np.bincount(place.ravel(), self._scaled(account, first).ravel(), math.prod(shape)).reshape(*shape, 1)
        led = np.bincount((place * account.states + first.next).ravel(), minlength=math.prod(shape) * account.states)
        # on the scale of the values that they may lead to
        led = led.reshape(*shape, account.states) * (account.gamma / (1 - account.gamma) / 2)
        features = np.concatenate([paid, led], axis=-1) / (often // 2)
        if not self.by_state:
            features = features.transpose(0, 2, 1, 3).reshape(account.runs, account.actions, -1)
        families = [merged(each, self.levels) for each in features]
        # judged by other samples than it was made by: what was merged for its noise would look alike
        return families, self._try(account, count, often - often // 2)

    @staticmethod
    def _scaled(account: Account, samples: Samples) -> Float[np.ndarray, "runs n"]:
        low, high = account.rewards
        return (samples.rewards - low) / (high - low)


# --- what is claimed -------------------------------------------------------------------------------------------------

_LEVELS = (1, 2, 4, 8, 16, 32, 64)
_BUDGETS = (1, 4, 16, 64)  # samples for each pair of a state and an action


@dataclass(frozen=True, eq=False)
class _Shuffled:
    """Random groups of the sizes that were chosen, for each copy."""

    labels: Int[np.ndarray, "runs one actions"]

    def choose(self, account: Account) -> list[ActionGrouping]:
        return [ActionGrouping(each) for each in account.rng.permuted(self.labels[:, 0], axis=1)]


def measure_loss(seed: int, tiny: bool) -> Measures:
    """Loss of groupings of 64 actions of 8 kinds at four budgets: fixed ones, the chosen one, and its rivals."""
    world = grouped_actions(states=3 if tiny else 10, seed=seed)
    copies, measured = 1 if tiny else 16, {}

    def note(entry: str, budget: int, grouping: Any, learner: Any = None) -> Any:
        loop = GenerativeLearning(grouping, learner or AveragedModel(), copies=copies, points=1)
        state = loop.start(world, budget * world.states * world.actions, seed)
        measured.setdefault(entry, {})[f"loss at {budget}x"] = loop.advance(state).extras["loss"]
        return state

    for budget in _BUDGETS:
        for groups in _LEVELS:
            note(f"{groups} groups", budget, NeighbourGroups(groups))
        chosen = note("chosen", budget, BoundedGrouping())
        measured["chosen"][f"groups at {budget}x"] = chosen.report["groups"]
        note("random groups", budget, _Shuffled(chosen.labels))
        note("Q-learning on chosen", budget, BoundedGrouping(), GroupedQLearning())
    return measured


def measure_growth(seed: int, tiny: bool) -> Measures:
    """Log-log slopes of the loss with equal actions in each group: over samples, and over the number of actions."""
    copies, measured = 2 if tiny else 16, {}
    budgets, sizes = [160, 320, 640, 1280, 2560], [16, 32, 64, 128, 256]
    worlds = [grouped_actions(actions=size, unlike=0.0, seed=seed) for size in sizes]

    def loss(world: DiscountedMDP, budget: int, loop: GenerativeLearning) -> float:
        points = loop.learn(world, budget, seed).curve.points
        return max(points[-1].extras["loss"], 1e-6)  # a policy that is exactly the best has no logarithm

    for entry, grouping in (("true groups", GivenGroups()), ("no groups", Ungrouped())):
        loop = GenerativeLearning(grouping, copies=copies, points=1)
        over_actions = [loss(world, 2560, loop) for world in worlds]
        over_samples = [loss(worlds[0], budget, loop) for budget in budgets]
        measured[entry] = {
            "slope over samples": _slope(budgets, over_samples),
            "slope over actions": _slope(sizes, over_actions),
        }
    return measured


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def near_the_least(metric: str, entry: str, others: Sequence[str], at_most: float) -> Condition:
    """A metric, lower is better, is within a ratio of the least of several entries' means over all seeds."""

    def judge(evidence: Evidence) -> Judgement:
        values = [evidence.values(metric, each) for each in others]
        # the least of the same seeds flatters the others, not the entry
        found = paired_ratio(evidence.values(metric, entry), min(values, key=np.mean))
        verdict = "holds" if found.high <= at_most else "does not hold" if found.low > at_most else "unclear"
        return Judgement("", verdict, found.estimate, found.low, found.high)

    return Condition(f"{metric}: {entry} is at most {at_most:g} times the least of ({', '.join(others)})", judge)


_FIXED = tuple(f"{groups} groups" for groups in _LEVELS)

claim = (
    Claim(
        says="With few samples learning about groups of actions loses less than learning about each, with many samples more, "
        "and the bound chooses nearly the best grouping for what there is.",
        measure=measure_loss,
        seeds=10,
        holds=[
            ratio("loss at 1x", "8 groups", to="64 groups", at_most=0.7),
            *(lower("loss at 1x", "8 groups", than=f"{groups} groups") for groups in (1, 2, 4)),
            lower("loss at 64x", "64 groups", than="8 groups"),
            *(near_the_least(f"loss at {budget}x", "chosen", _FIXED, 1.25) for budget in _BUDGETS),
            lower("loss at 1x", "chosen", than="random groups"),
            lower("loss at 1x", "chosen", than="Q-learning on chosen"),
        ],
        tiny=Tiny(seeds=1),
        note="Worlds of 10 states and 64 actions of 8 true kinds, neighbours by number, with 1, 4, 16 and 64 samples for each "
        "state and action in all; each seed is another world, learned 16 times. So the grouping into 8 is the true one. "
        "What the pilot tries is part of the budget.",
    ),
    Claim(
        says="With groups the loss falls with samples at least as fast as the bound, and does not grow with the number of "
        "actions.",
        measure=measure_growth,
        seeds=10,
        holds=[
            lower("slope over samples", "true groups", than=-0.5),
            lower("slope over actions", "true groups", than=0.1),
            higher("slope over actions", "no groups", than="true groups", by=0.25),
        ],
        tiny=Tiny(seeds=1),
        note="Log-log slopes over five steps each, actions of a kind being equal: over 160 to 2,560 samples of 16 actions of "
        "8 kinds in 10 states, and over 16 to 256 actions with 2,560 samples. The bound's slopes are -0.5, 0 and 0.5. Equal "
        "actions answer equal random numbers alike, so the slope of the true groups over actions is 0 exactly. Where actions "
        "are not quite equal, more of them also raise what the best one is worth, and so the loss.",
    ),
)
