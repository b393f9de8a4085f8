"""Data quality in imitation learning: good demonstrations keep the learner where the demonstrations are.

Two things decide: *action divergence*, how far the learner's actions will be from the expert's at the states it visits, which
demonstrations raise that do different things in the same place; and *transition diversity*, the noise of the next
state given the state and the action, which shows how to come back from beside the path.  States that are spread out are no
virtue by themselves.

For policies A and E, their visited states rho over T steps, and time t from 1,

    KL(rho_A, rho_E) <= 1/T sum_t (T - t) E_{s ~ rho_A^t} KL(pi_A(.|s), pi_E(.|s)),

so what diverges early costs most.  Measured on episodes (s_t, a_t), standardised, with C(s) the states of *other* episodes
within eps of s (an episode agrees with itself):

    action variance      = mean over (s, a) of |a - mean{a' : (s', a') in C(s)}|^2
    between episodes     = variance between episodes of their mean action in one of 16 cells of states, noise taken off
    state similarity     = mean over s of |C(s)| / |D|
    transition diversity = variance of s' that is left when s and a are known
    action divergence    = mean over (s, a) of (T - t) |pi(s) - a|^2, for a policy learned from other episodes

References
----------
S. Belkhale, Y. Cui and D. Sadigh, "Data Quality in Imitation Learning", NeurIPS 2023, arXiv:2306.02437.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from fewer.claim import Claim, Measures, Tiny, higher, lower, no_worse, ratio
from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, check_alike, parts
from fewer.demos.neighbourhoods import between_episodes, in_cells, transition_spread, typical_radius, within
from fewer.demos.report import BETTER, Quality, QualityReport
from fewer.demos.samples import Encoder, Sample, Scale, sample

if TYPE_CHECKING:
    from fewer.demos.loop import Imitator, Lesson
    from fewer.demos.rollouts import Play

LIMIT = 50_000
"""States that are compared with one another; of more, so many are drawn."""
ROOMS = 16
"""Cells in which the mean actions of episodes are compared: an episode is to stay in one for several steps."""
NEAREST = 10
"""Transitions that a next state is compared with."""


def quality_report(
    demonstrations: Demonstrations,
    other: Demonstrations | None = None,
    *,
    eps: float | None = None,
    neighbours: int = 20,
    cells: int | None = None,
    standardise: bool = True,
    leave_out: bool = True,
    encoder: Encoder | None = None,
    imitator: Imitator | None = None,
    limit: int = LIMIT,
    seed: int = 0,
) -> QualityReport:
    """Measure how good demonstrations are to imitate.

    Parameters
    ----------
    demonstrations : Demonstrations
        The set to judge.
    other : Demonstrations, optional
        Another set of the same task, to compare with: both are standardised alike and seen through the same radius.
    eps : float, optional
        Radius of a neighbourhood, in units of standardised states.  By default the median distance of a state to its
        ``neighbours``-th neighbour in other episodes; of two sets, the larger one.
    neighbours : int, default 20
        See ``eps``.
    cells : int, optional
        In place of a radius, cut the states into so many cells by k-means.
    standardise : bool, default True
        Give each dimension of states and actions mean 0 and deviation 1.  Dimensions that never change are left out.
    leave_out : bool, default True
        Leave a state's own episode out of its neighbours.
    encoder : callable, optional
        Makes a table (n, features) of observations, such as images.  Without it, observations of more than 256 numbers
        are projected at random to 64, and the report says so.
    imitator : Imitator, optional
        What to clone with for the action divergence, such as ``BehaviourCloning()``; it is learned twice, each time
        from half of the episodes.  Without it, that is not measured.
    limit : int, default 50,000
        Of more states, so many are drawn, in each episode its share; the report says so.
    seed : int, default 0
        Of everything that is drawn.

    Returns
    -------
    QualityReport
        Measures of each set and of each episode; prints as a table.

    Raises
    ------
    FewerError
        If the two sets are not of one task, or an argument is outside its range.

    Examples
    --------
    Half of the demonstrations go around an obstacle on one side, half on the other.

    >>> from fewer.demos.point_worlds import Obstacle
    >>> from fewer.demos.rollouts import collect
    >>> above, both = (collect(Obstacle(below=b).play(20), Obstacle(below=b).expert(), 20).demonstrations for b in (0, 0.5))
    >>> first, second = quality_report(above, both).sets
    >>> second.metrics["between episodes"] > 0.05 > first.metrics["between episodes"]
    True
    >>> second.metrics["state similarity"] < first.metrics["state similarity"]
    True
    """
    if limit < 2 or neighbours < 1 or (cells is not None and cells < 1) or (eps is not None and not eps > 0):
        raise FewerError(
            "quality: limit must be at least 2, neighbours and cells at least 1 and eps above 0; given "
            f"{limit}, {neighbours}, {cells} and {eps}"
        )
    given = [demonstrations] if other is None else [demonstrations, other]
    if other is not None:
        check_alike(demonstrations, other)
    numbers = np.unique(np.concatenate([each.actions for each in given])) if demonstrations.discrete else None
    samples = [sample(each, encoder, limit, seed, alternatives=numbers) for each in given]
    states = Scale.of([each.states for each in samples], standardise)
    actions = Scale.of([each.actions for each in samples], standardise)
    scaled = [_standardised(each, states, actions) for each in samples]
    if cells is None and eps is None:
        radii = [typical_radius(each.states, each.episode, neighbours, derive(seed, "radius")) for each in scaled]
        # the radius of two sets must be one; the larger one leaves neither without neighbours
        eps = float(np.nanmax(radii)) if np.isfinite(radii).any() else math.nan
    # the mean action of an episode in a cell is that of all its steps there: episodes are drawn, not steps
    wholes = [
        each
        if len(each.rows) == set_.steps
        else _standardised(sample(set_, encoder, limit, seed, whole=True, alternatives=numbers), states, actions)
        for set_, each in zip(given, scaled, strict=True)
    ]
    every = [each.states for each in wholes]
    enough = states.changes.any() and sum(map(len, every)) >= ROOMS
    rooms = _cells(every, ROOMS, seed) if enough else [None] * len(every)
    cell = _cells([each.states for each in scaled], cells, seed) if cells is not None else [None] * len(every)
    sets = []
    for demonstrations, taken, where, whole, room in zip(given, scaled, cell, wholes, rooms, strict=True):
        judge = _Judge(demonstrations, taken)
        judge.lengths()
        judge.actions(eps, where, leave_out)
        judge.between(whole, room)
        judge.transitions(states)
        if imitator is not None:
            judge.divergence(imitator, actions, seed)
        judge.left_out("observation", states)
        judge.left_out("action", actions)
        sets.append(judge.quality())
    return QualityReport(tuple(sets), eps if cells is None else None, int(actions.changes.sum()))


def _standardised(taken: Sample, states: Scale, actions: Scale) -> Sample:
    return replace(taken, states=states(taken.states), actions=actions(taken.actions))


def _cells(states: list[np.ndarray], cells: int, seed: int) -> list[np.ndarray]:
    """The cell of each state, by one k-means of all sets."""
    from sklearn.cluster import MiniBatchKMeans

    every = np.concatenate(states)
    if every.shape[1] == 0 or len(every) < cells:
        raise FewerError(
            f"quality: {cells} cells were asked for and there are {len(every)} states with {every.shape[1]} dimensions that "
            "change; ask for fewer, or leave cells out"
        )
    order = np.lexsort(every.T)  # so that the order of the episodes does not matter
    found = np.empty(len(every), dtype=np.int64)
    found[order] = MiniBatchKMeans(cells, random_state=derive(seed, "cells") % 2**31, n_init="auto").fit_predict(
        every[order]
    )
    return np.split(found, np.cumsum([len(each) for each in states])[:-1])


class _Judge:
    """Measures one set, a few measures at a time."""

    def __init__(self, demonstrations: Demonstrations, taken: Sample) -> None:
        self.demonstrations, self.taken = demonstrations, taken
        self.metrics: dict[str, float] = {
            "episodes": float(len(demonstrations)),
            "steps": float(demonstrations.steps),
        }
        self.episodes: dict[str, np.ndarray] = {}
        self.variance: np.ndarray | None = None
        self.notes = list(taken.notes)

    def quality(self) -> Quality:
        return Quality(self.demonstrations.name, self.metrics, self.episodes, self.variance, tuple(self.notes))

    def lengths(self) -> None:
        lengths, good = self.demonstrations.lengths, self.demonstrations.successes
        self.metrics["horizon"] = float(lengths.mean())
        self.episodes["horizon"] = lengths.astype(float)
        if good is not None:
            self.metrics["success rate"] = float(good.mean())
            self.metrics["horizon of successes"] = float(lengths[good].mean()) if good.any() else math.nan

    def actions(self, eps: float | None, cell: np.ndarray | None, leave_out: bool) -> None:
        taken, copies = self.taken, self.taken.copies
        once = np.ones_like(copies)
        if len(once) == 1:
            self.notes.append("there is one episode: what compares episodes is unknown")
        names = ("action variance", "state similarity", "similarity across episodes")
        if cell is None and (eps is None or not np.isfinite(eps)):
            for name in names:
                self._settle(name, np.full(len(taken.rows), np.nan), once)
            self.metrics["coverage"] = 0.0
            return
        if cell is None:
            assert eps is not None
            found = within(eps, taken.states, taken.actions, taken.episode, copies, leave_out)
        else:
            found = in_cells(cell, taken.actions, taken.episode, copies, leave_out)
        size = np.bincount(taken.episode)
        everything = float((copies * size).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            across = found.near_across / (everything - size[taken.episode])
        self._settle(names[0], (found.deviation**2).sum(axis=1), once)
        self._settle(names[1], (found.near - 1) / max(everything - 1, 1.0), copies)
        self._settle(names[2], across, copies)
        self.metrics["coverage"] = float((found.strangers > 0).mean())
        if len(taken.distinct) > 1 and self.metrics["coverage"] < 0.5:
            self.notes.append(
                f"{1 - self.metrics['coverage']:.0%} of the states have no neighbour in another episode; give a larger eps, "
                "or cells"
            )

    def between(self, taken: Sample, cell: np.ndarray | None) -> None:
        follows = np.flatnonzero((np.diff(taken.rows) == 1) & (np.diff(taken.episode) == 0))
        self.metrics["between episodes"] = (
            math.nan if cell is None else between_episodes(cell, taken.actions, taken.episode, follows)
        )

    def transitions(self, scale: Scale) -> None:
        taken = self.taken
        following, known = self.demonstrations.next_observations(taken.rows)
        rows = np.flatnonzero(known)
        if len(rows) <= NEAREST or taken.states.shape[1] == 0:
            self._settle("transition diversity", np.full(len(taken.rows), np.nan), taken.copies)
            self.notes.append("there are too few transitions to know their diversity")
            return
        if isinstance(following, np.ndarray):
            after = taken.encode(following[rows])
        else:
            after = taken.encode({key: array[rows] for key, array in following.items()})
        squares = transition_spread(taken.states[rows], taken.actions[rows], scale(after) - taken.states[rows], NEAREST)
        self._settle("transition diversity", squares.mean(axis=1), np.ones_like(taken.distinct), rows)
        self.variance = squares.mean(axis=0) * scale.deviation[scale.changes] ** 2

    def divergence(self, imitator: Imitator, scale: Scale, seed: int) -> None:
        lengths, begin = self.demonstrations.lengths, self.demonstrations.offsets[:-1]
        if len(lengths) < 2:
            self.metrics |= {"action divergence": math.nan, "action divergence over time": math.nan}
            return
        error = held_out_error(self.demonstrations, imitator, seed=seed).reshape(self.demonstrations.steps, -1)
        squares = ((error / scale.deviation) ** 2)[:, scale.changes].sum(axis=1)
        self.metrics["action divergence"] = float(squares.mean())
        timed = np.add.reduceat(squares * remaining(lengths), begin) / lengths
        self.metrics["action divergence over time"] = float(timed.mean())
        self.episodes["action divergence"] = np.add.reduceat(squares, begin) / lengths

    def left_out(self, what: str, scale: Scale) -> None:
        still = np.flatnonzero(~scale.changes)
        if len(still):
            shown = ", ".join(map(str, still[:8])) + (" …" if len(still) > 8 else "")
            one = len(still) == 1
            self.notes.append(
                f"{what} dimension{'' if one else 's'} {shown} never change{'s' if one else ''} and {'is' if one else 'are'} "
                "left out"
            )

    def _settle(
        self, name: str, values: np.ndarray, weight: np.ndarray, rows: np.ndarray | slice = slice(None)
    ) -> None:
        """Enter the mean over states, episodes weighing as given, and that of each episode; NaN counts nowhere."""
        there, of = np.isfinite(values), self.taken.episode[rows]
        count = np.bincount(of[there], minlength=len(weight))
        total = np.bincount(of[there], values[there], len(weight))
        with np.errstate(invalid="ignore", divide="ignore"):
            self.metrics[name] = float((weight * total).sum() / (weight * count).sum())
            self.episodes[name] = (total / count)[self.taken.place]


# --- what a clone does ---------------------------------------------------------------------------------------------------


def remaining(lengths: Int[np.ndarray, " episodes"]) -> Float[np.ndarray, " steps"]:
    """T - t for each step t = 1 ... T of episodes of T steps: how many states an error there still reaches.

    Examples
    --------
    >>> remaining(np.array([3, 2]))
    array([2., 1., 0., 1., 0.])
    """
    ends = np.repeat(np.cumsum(lengths), lengths)
    return (ends - 1 - np.arange(len(ends))).astype(float)


def held_out_error(
    demonstrations: Demonstrations, imitator: Imitator, *, folds: int = 2, seed: int = 0
) -> Float[np.ndarray, "steps ..."]:
    """What a clone of other episodes does differently in each step.

    Parameters
    ----------
    demonstrations : Demonstrations
        At least ``folds`` episodes.
    imitator : Imitator
        What clones them.
    folds : int, default 2
        Parts that the episodes are dealt into; each is held out once.
    seed : int, default 0
        Of the dealing and the cloning.

    Returns
    -------
    float array (steps, ...)
        The clone's action less the demonstrated one.
    """
    from fewer.demos.loop import Lesson

    if not 2 <= folds <= len(demonstrations):
        raise FewerError(
            f"{demonstrations.name}: {len(demonstrations)} episodes cannot be dealt into {folds} parts; give 2 or more, and "
            "no more than there are episodes"
        )
    dealt = generator(seed, "folds").permutation(np.arange(len(demonstrations)) % folds)
    low, high = demonstrations.actions.min(axis=0), demonstrations.actions.max(axis=0)
    error = np.empty(demonstrations.actions.shape)
    of_step = dealt[demonstrations.episode_of_step()]
    for fold in range(folds):
        rng = generator(seed, "clone", fold)
        lesson = Lesson(demonstrations.keep(dealt != fold), low, high, _nowhere, derive(seed, "clone", fold), rng)
        policy = imitator.imitate(lesson)
        rows = of_step == fold
        seen = {key: array[rows] for key, array in parts(demonstrations.observations).items()}
        policy.begin(int(rows.sum()), rng)
        error[rows] = policy.act(seen[""] if list(seen) == [""] else seen) - demonstrations.actions[rows]
    return error


def _nowhere(copies: int) -> Play:
    raise FewerError("action divergence is measured without an environment, and this imitator asks for one")


# --- choosing by it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepConsistent:
    """Keep the episodes that others agree with most, or that are best by another measure.

    The measures are the paper's; choosing by them is this library's.

    Parameters
    ----------
    frac : float, default 0.7
        Share of the episodes to keep.
    by : str, default "action variance"
        Or ``"horizon"``, ``"state similarity"``, ``"similarity across episodes"``, ``"transition diversity"``.

    Examples
    --------
    >>> KeepConsistent(by="agreement")
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: demo-quality: unknown measure 'agreement'; known: action divergence, action variance, ...
    """

    frac: float = 0.7
    by: str = "action variance"

    def __post_init__(self) -> None:
        if not 0 < self.frac <= 1:
            raise FewerError(f"demo-quality: frac is {self.frac}; give a share to keep, above 0 and at most 1")
        if self.by.replace("_", " ") not in BETTER:
            raise FewerError(f"demo-quality: unknown measure {self.by!r}; {nearest(self.by, BETTER, 6)}")

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """Fill the curation slot."""
        report = quality_report(lesson.demonstrations, seed=lesson.seed)
        known = report.sets[0].metrics
        lesson.report |= {
            name: known[name] for name in ("action variance", "between episodes") if known[name] == known[name]
        }
        return report.keep(self.frac, self.by)


# --- the claims ------------------------------------------------------------------------------------------------------


def measure_system_noise(seed: int, tiny: bool) -> Measures:
    """Success of clones of few demonstrations in a noisy world and of many in a still one, tested at three noises."""
    from fewer.demos.behaviour_cloning import BehaviourCloning
    from fewer.demos.point_worlds import TwoGates
    from fewer.demos.rollouts import collect, rollout

    imitator, copies = BehaviourCloning(steps=20 if tiny else 1500), 20 if tiny else 300
    measured: dict[str, dict[str, float]] = {}
    for name, count, noise in (("5 with noise", 5, 0.4), ("5 without", 5, 0.0), ("60 without", 60, 0.0)):
        world = TwoGates(noise)
        given = collect(world.play(100), world.expert(), count, seed=derive(seed, name)).demonstrations
        policy = imitator.fit(given, [-1, -1], [1, 1], seed=seed)
        measured[name] = {"transition diversity": quality_report(given).sets[0].metrics["transition diversity"]}
        for test in (0.0, 0.2, 0.4):
            outcome = rollout(TwoGates(test).play(copies), policy, derive(seed, "test"))
            measured[name][f"success at noise {test:g}"] = float(outcome.successes.mean())
    return measured


def measure_divergence(seed: int, tiny: bool) -> Measures:
    """Success of clones, and the measures, of demonstrations that agree, that go two ways, and that are noisy."""
    from fewer.demos.behaviour_cloning import BehaviourCloning
    from fewer.demos.point_worlds import Obstacle
    from fewer.demos.rollouts import collect, rollout

    imitator, copies = BehaviourCloning(steps=20 if tiny else 1500), 20 if tiny else 300
    many = 20 if tiny else 100
    measured: dict[str, dict[str, float]] = {}
    for name, count, below, noise in (
        ("one way, 5", 5, 0.0, 0.0),
        ("one way, 100", many, 0.0, 0.0),
        ("two ways, 100", many, 0.5, 0.0),
        ("noisy, 100", many, 0.0, 0.5),
    ):
        world = Obstacle(below=below)
        collected = collect(world.play(100), world.expert(), count, policy_noise=noise, seed=derive(seed, name))
        policy = imitator.fit(collected.demonstrations, [-1, -1], [1, 1], seed=seed)
        outcome = rollout(Obstacle().play(copies), policy, derive(seed, "test"))
        metrics = quality_report(collected.demonstrations).sets[0].metrics
        measured[name] = {"success": float(outcome.successes.mean())}
        for each in ("action variance", "between episodes", "state similarity"):
            measured[name][each] = metrics[each]
    return measured


TWO_WAYS = "obstacle(demonstrations=50, below=0.3)"
"""Three in ten demonstrations go around on the other side."""

claim = (
    Claim(
        says="Five demonstrations in a noisy world are worth more than sixty in a still one.",
        measure=measure_system_noise,
        seeds=30,
        holds=[
            higher("success at noise 0", "5 with noise", than="60 without", by=0.1),
            higher("success at noise 0.4", "5 with noise", than="60 without", by=0.3),
        ],
        tiny=Tiny(seeds=2),
        note="A point passes two gates; the expert succeeds in every demonstration that is used. Each seed has demonstrations "
        "and a clone of its own, tested from 300 starts that are the same for all. How hard the expert corrects itself was set "
        "on other seeds so that still demonstrations leave something to be desired without noise as well; where it corrects "
        "itself twice as hard, every clone passes without noise, and in noise the difference is as large as here.",
    ),
    Claim(
        says="Demonstrations that go two ways hurt, which twenty times as many do not repair; noise in the actions does not, "
        "though it raises the variance of actions far more. The variance between episodes tells the two apart.",
        measure=measure_divergence,
        seeds=12,
        holds=[
            lower("success", "two ways, 100", than="one way, 5", by=0.1),
            higher("action variance", "two ways, 100", than="one way, 100"),
            lower("state similarity", "two ways, 100", than="one way, 100"),
            no_worse("success", "noisy, 100", than="one way, 100", within=0.05),
            ratio("action variance", "noisy, 100", to="one way, 100", at_least=10),
            higher("between episodes", "two ways, 100", than="noisy, 100"),
        ],
        tiny=Tiny(seeds=2),
        note="A point goes around a disc. The states of demonstrations that go two ways are spread out more, and the clone is "
        "worse: state diversity alone misleads. Each set is measured by its own yardstick.",
    ),
    Claim(
        says="Of demonstrations in which a part goes another way, those that others agree with are better to keep than random "
        "ones, than those whose states are spread out most, and than all that succeed.",
        task=TWO_WAYS,
        budget=50,
        seeds=12,
        entries={
            "consistent": "demo-quality(frac=0.6) + imitation(first=50, points=1)",
            "random": "random-subset(frac=0.6) + imitation(first=50, points=1)",
            "spread out": "state-entropy(frac=0.6) + imitation(first=50, points=1)",
            "successes": "success-only + imitation(first=50, points=1)",
        },
        holds=[higher("final", "consistent", than=name, by=0.1) for name in ("random", "spread out", "successes")],
        tiny=Tiny(
            task="obstacle(demonstrations=10, below=0.3)",
            budget=10,
            entries={
                name: f"{spec} + imitation(first=10, points=1, episodes=10) + behaviour-cloning(steps=20)"
                for name, spec in {
                    "consistent": "demo-quality(frac=0.6)",
                    "random": "random-subset(frac=0.6)",
                    "spread out": "state-entropy(frac=0.6)",
                    "successes": "success-only",
                }.items()
            },
        ),
        note="The measure is the paper's, choosing by it is this library's.",
    ),
)
