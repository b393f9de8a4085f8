"""Active learning: which rows to have labelled next, and what to learn from the rest.

Round by round, a query strategy chooses rows, an expert labels them, and a learner is fitted anew
to everything known.  Around that the slots: a teacher whose opinion is distilled, pseudo-labels
for rows nobody labelled, and an allocation of the budget between experts and cheap weak labellers.

The loop keeps the labels: a slot sees those that were paid for, in a :class:`Round`, and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, own_randomness
from fewer.core.seeding import generator
from fewer.tasks.classification import Classification, Split

EXPERT, WEAK, PSEUDO = 0, 1, 2
"""Where a target comes from (:attr:`Examples.source`)."""


@dataclass(frozen=True)
class Examples:
    """What a learner is fitted to.

    Parameters
    ----------
    rows : int array (n,)
        Positions in the pool.
    target : float array (n, classes)
        Class probabilities; a hard label is a one-hot row.
    weight : float array (n,)
        Non-negative; 1 for an ordinary label.
    source : int array (n,)
        ``EXPERT``, ``WEAK`` or ``PSEUDO``.
    """

    rows: Int[np.ndarray, " n"]
    target: Float[np.ndarray, "n classes"]
    weight: Float[np.ndarray, " n"]
    source: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The most probable class of each target."""
        return self.target.argmax(axis=1)

    def of(self, *sources: int) -> Examples:
        """Only those from these sources."""
        keep = np.isin(self.source, sources)
        return Examples(self.rows[keep], self.target[keep], self.weight[keep], self.source[keep])

    def and_(self, other: Examples) -> Examples:
        """These and others, in this order."""
        pairs = zip(self._arrays, other._arrays, strict=True)
        return Examples(*(np.concatenate(pair) for pair in pairs))

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.rows, self.target, self.weight, self.source

    @classmethod
    def hard(cls, rows: np.ndarray, labels: np.ndarray, classes: int, source: int = EXPERT) -> Examples:
        """Rows with one class each, weight 1."""
        rows = np.asarray(rows, dtype=np.int64)
        target = np.zeros((len(rows), classes), dtype=np.float32)
        target[np.arange(len(rows)), labels] = 1
        return cls(rows, target, np.ones(len(rows), dtype=np.float32), np.full(len(rows), source))


@runtime_checkable
class Model(Protocol):
    """What a learner gives back."""

    def predict_proba(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities of rows; each line sums to one."""
        ...

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        """The model's own features of rows."""
        ...


@dataclass
class Round:
    """The one thing every slot is called with: what is known at this moment.

    Parameters
    ----------
    index : int
        Rounds finished so far.
    classes : int
        How many classes there are.
    x : array (pool, ...)
        All rows of the pool; may be a memory map larger than memory, so go through it in blocks.
    labelled : int array (m,)
        Rows an expert has labelled, in the order asked.
    labels : int array (m,)
        Their classes.
    unlabelled : int array (u,)
        Rows that may be asked, increasing.
    rng : numpy Generator
        The slot's randomness.
    seed : int
        For named streams of its own (:func:`fewer.core.seeding.generator`).
    memory : dict
        What a slot remembers from round to round, under its own name; saved in checkpoints.
    model : Model, optional
        As fitted in this round.
    opinion : float array (pool, classes), optional
        The logits of the teacher that came with the task.
    teacher : float array (pool, classes), optional
        The logits of the loop's teacher slot.
    report : dict of str to float
        A slot's counters; they end in the point's ``extras``.
    refit : callable, optional
        ``refit(examples, start) -> Model``: the loop's learner on other examples, from ``start``
        or anew.
    given_probabilities, given_features : arrays, optional
        In place of a model's, where the user brings them.
    """

    index: int
    classes: int
    x: Shaped[np.ndarray, "pool ..."]
    labelled: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    unlabelled: Int[np.ndarray, " u"]
    rng: np.random.Generator
    seed: int
    memory: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None
    opinion: Float[np.ndarray, "pool classes"] | None = None
    teacher: Float[np.ndarray, "pool classes"] | None = None
    report: dict[str, float] = field(default_factory=dict)
    refit: Callable[[Examples, Model | None], Model] | None = None
    given_probabilities: Float[np.ndarray, "pool classes"] | None = None
    given_features: Float[np.ndarray, "pool features"] | None = None

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "pool classes"]:
        """Class probabilities of every row of the pool, made when first asked for."""
        if self.given_probabilities is not None:
            return self.given_probabilities
        if self.model is None:
            raise FewerError(
                "this strategy needs class probabilities, and there is neither a model nor a column of them"
            )
        return self.model.predict_proba(self.x)

    @cached_property
    def features(self) -> Float[np.ndarray, "pool features"]:
        """Features of every row of the pool: the model's own, or those the user brought."""
        if self.given_features is not None:
            return self.given_features
        if self.model is None:
            raise FewerError("this strategy needs features, and there is neither a model nor columns of them")
        return self.model.embed(self.x)

    @property
    def examples(self) -> Examples:
        """The expert's labels as examples."""
        return Examples.hard(self.labelled, self.labels, self.classes)

    def fit_again(self, examples: Examples, start: Model | None = None) -> Model:
        """Fit the loop's learner to other examples (see ``refit``)."""
        if self.refit is None:
            raise FewerError("this strategy fits models, which is possible in a race but not on a file of scores")
        return self.refit(examples, start)


class Query(Protocol):
    """Which rows to ask for next."""

    def choose(self, round: Round, count: int) -> Int[np.ndarray, " count"]:
        """Choose ``count`` different rows out of ``round.unlabelled``, the most wanted first."""
        ...


class Learner(Protocol):
    """How a model is made from examples."""

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> Model:
        """Fit a model to ``examples`` (rows of ``round.x``), going on from ``start`` if that is given.

        A learner that can distil uses ``round.teacher`` where it is there; one that cannot raises.
        """
        ...


class PseudoLabels(Protocol):
    """Targets for rows nobody labelled."""

    def label(self, round: Round) -> Examples | None:
        """Give extra examples of source ``PSEUDO``, or None; the learner then goes on from ``round.model``."""
        ...


class Teacher(Protocol):
    """Somebody who has an opinion on every row."""

    def logits(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        """The teacher's logits for the whole pool; called in every round."""
        ...


class Allocation(Protocol):
    """How the budget is divided between experts and weak labellers."""

    def counts(self, budget: int, price: float) -> tuple[int, int]:
        """Expert and weak labels to own when ``budget`` has been spent, a weak one costing ``price``.

        Both must not fall as the budget grows, and together cost at most ``budget``.
        """
        ...


@dataclass(frozen=True)
class Experts:
    """Every label comes from an expert."""

    def counts(self, budget: int, price: float) -> tuple[int, int]:
        """All of the budget, and none."""
        return budget, 0


@dataclass(frozen=True)
class TaskTeacher:
    """The teacher that comes with the task (or with the user's file)."""

    def logits(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        """Hand on the task's logits."""
        if round.opinion is None:
            raise FewerError("distillation needs a teacher and the task brings none; give teacher logits with the task")
        return round.opinion


def _random() -> Query:
    from fewer.labels.queries import Random

    return Random()


def _logistic() -> Learner:
    from fewer.labels.learners import Logistic

    return Logistic()


@dataclass
class LabelState(State):
    """What has been asked, what is to be asked next, and the model of this round."""

    saved: ClassVar[tuple[str, ...]] = ("labelled", "weak", "pending", "rng", "memory")

    split: Split = field(kw_only=True)
    task: Classification = field(kw_only=True)
    labelled: np.ndarray = field(kw_only=True)
    weak: np.ndarray = field(kw_only=True)
    pending: np.ndarray = field(kw_only=True)
    rng: np.random.Generator = field(kw_only=True)
    memory: dict[str, Any] = field(default_factory=dict, kw_only=True)
    model: Model | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ActiveLearning(Loop[Classification, LabelState]):
    """Labels are bought round by round; the curve is the score against labels.

    Parameters
    ----------
    query : Query, default Random()
        Which rows are asked for.
    learner : Learner, default Logistic()
        What is fitted to the labels, anew in each round.
    pseudo : PseudoLabels, optional
        Extra targets; the learner goes on with them from the round's model.
    teacher : Teacher, optional
        Whose logits the learner distils.
    allocation : Allocation, default Experts()
        The division between expert and weak labels.
    initial : int, default 10
        Budget spent before the first point, on rows drawn at random (the same for all entries of a
        race with the same seed).
    per_round : int, default 10
        Budget spent between points.
    growth : float, default 1
        The budget at the next point is at least this times the last: 2 doubles it each round.
    balanced : bool, default False
        Draw the initial rows in equal numbers from all classes.
    weak_price : float, default 0.1
        Cost of a weak label, in expert labels.

    Examples
    --------
    >>> from fewer.tasks.digits import digits
    >>> curve = ActiveLearning().learn(digits(), budget=30).curve
    >>> [point.spent for point in curve]
    [10, 20, 30]
    """

    unit: ClassVar[str] = "labels"
    accepts: ClassVar[type[Classification]] = Classification

    query: Query = field(default_factory=_random)
    learner: Learner = field(default_factory=_logistic)
    pseudo: PseudoLabels | None = None
    teacher: Teacher | None = None
    allocation: Allocation = field(default_factory=Experts)
    initial: int = 10
    per_round: int = 10
    growth: float = 1.0
    balanced: bool = False
    weak_price: float = 0.1

    def __post_init__(self) -> None:
        if self.initial < 1 or self.per_round < 1:
            raise FewerError(f"initial and per_round must be at least 1; they are {self.initial} and {self.per_round}")
        if not self.growth >= 1 or not 0 < self.weak_price <= 1:
            raise FewerError(
                f"growth must be at least 1 and weak_price in (0, 1]; they are {self.growth} and {self.weak_price}"
            )

    def least(self, task: Classification) -> int:
        """The initial labels."""
        return self.initial

    def start(self, task: Classification, budget: int, seed: int) -> LabelState:
        """Split the task and draw the initial rows."""
        split = task.split(seed)
        experts, weak = self.allocation.counts(self.initial, self.weak_price)
        if experts + weak > len(split.x):
            raise FewerError(f"{task.name}: {experts + weak} initial labels but the pool has {len(split.x)} rows")
        if weak and split.weak is None:
            raise FewerError(
                f"{task.name} has no weak labels to allocate; give a column of them, as csv(..., weak='w')"
            )
        return LabelState(
            budget,
            seed,
            Ledger({"labels": 1.0, "weak_labels": self.weak_price}),
            split=split,
            task=task,
            labelled=np.zeros(0, dtype=np.int64),
            weak=np.zeros(0, dtype=np.int64),
            pending=self._initial(split.y, len(task.classes), experts, generator(seed, "initial")),
            rng=generator(seed, "query"),
        )

    def advance(self, state: LabelState) -> Point:
        """Buy the pending labels, fit, score, and choose what to ask next."""
        target = self._target(state)
        _, weak = self.allocation.counts(target, self.weak_price)
        state.labelled = np.concatenate([state.labelled, state.pending])
        state.ledger.add("labels", len(state.pending))
        state.pending = np.zeros(0, dtype=np.int64)
        self._buy_weak(state, weak)
        round = self._fit(state)
        self._ask(state, round)  # before the point is made, so that what the query reports is in it
        return self._measure(state, round)

    def result(self, state: LabelState) -> Model:
        """The model of the last round."""
        if state.model is None:  # a resumed run has the labels and not the model; fitted alike, it is the same one
            state.points -= 1
            with own_randomness(state.seed, "advance", state.points):
                self._fit(state)
            state.points += 1
        assert state.model is not None
        return state.model

    def _initial(self, y: np.ndarray, classes: int, count: int, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(y))
        if not self.balanced:
            return order[:count]
        # take the first of each class in turn, then the second of each, …
        rank = np.zeros(len(y), dtype=np.int64)
        for label in range(classes):
            mine = y[order] == label
            rank[mine] = np.arange(mine.sum())
        return order[np.argsort(rank, kind="stable")][:count]

    def _target(self, state: LabelState) -> int:
        """What will have been spent at the next point."""
        spent = state.ledger.spent
        step = max(spent + self.per_round, math.ceil(spent * self.growth)) if spent else self.initial
        return min(step, state.budget)

    def _buy_weak(self, state: LabelState, count: int) -> None:
        short = count - len(state.weak)
        if short <= 0:
            return
        order = generator(state.seed, "weak").permutation(len(state.split.x))
        free = order[~np.isin(order, np.concatenate([state.labelled, state.weak]))][:short]
        state.weak = np.concatenate([state.weak, free])
        state.ledger.add("weak_labels", len(free))

    def _known(self, state: LabelState) -> Examples:
        classes = len(state.task.classes)
        known = Examples.hard(state.labelled, state.split.y[state.labelled], classes)
        if len(state.weak):
            assert state.split.weak is not None
            target = state.split.weak[state.weak].astype(np.float32)
            ones = np.ones(len(target), dtype=np.float32)
            known = known.and_(Examples(state.weak, target, ones, np.full(len(target), WEAK)))
        return known

    def _fit(self, state: LabelState) -> Round:
        """Fit the learner, then let it go on with pseudo-labels."""
        known = self._known(state)
        taken = np.zeros(len(state.split.x), dtype=bool)
        taken[state.labelled] = taken[state.weak] = True
        round = Round(
            index=state.points,
            classes=len(state.task.classes),
            x=state.split.x,
            labelled=state.labelled,
            labels=state.split.y[state.labelled],
            unlabelled=np.flatnonzero(~taken),
            rng=state.rng,
            seed=state.seed,
            memory=state.memory,
            opinion=state.split.teacher,
        )
        if self.teacher is not None:
            round = replace(round, teacher=self.teacher.logits(round))
        bare = round
        round.refit = lambda examples, start: self.learner.fit(examples, bare, start)
        round.model = self.learner.fit(known, round)
        if self.pseudo is not None:
            extra = self.pseudo.label(round)
            if extra is not None and len(extra):
                right = extra.labels == state.split.y[extra.rows]  # for the record only; no slot sees it
                round.report |= {"pseudo_labels": float(len(extra)), "pseudo_precision": float(right.mean())}
                model = self.learner.fit(known.and_(extra), round, round.model)
                round = replace(round, model=model)  # a new round: the old one has cached the old model's view
            else:
                round.report |= {"pseudo_labels": 0.0}
        state.model = round.model
        return round

    def _measure(self, state: LabelState, round: Round) -> Point:
        assert round.model is not None
        predicted = round.model.predict_proba(state.split.test_x)
        score = (
            state.task.score(state.split.test_y, predicted.argmax(axis=1)) if np.isfinite(predicted).all() else np.nan
        )
        return Point(state.ledger.spent, float(score), dict(round.report))

    def _ask(self, state: LabelState, round: Round) -> None:
        """Choose the rows of the next point, unless there is none."""
        if state.ledger.spent >= state.budget:
            return
        experts, weak = self.allocation.counts(self._target(state), self.weak_price)
        count = min(experts - len(state.labelled), len(round.unlabelled))
        more = min(weak - len(state.weak), len(round.unlabelled) - count)
        if count <= 0 and more <= 0:
            state.exhausted = True
            return
        if count > 0:
            chosen = np.asarray(self.query.choose(round, count), dtype=np.int64)
            self._trust(chosen, count, round.unlabelled)
            state.pending = chosen

    def _trust(self, chosen: np.ndarray, count: int, allowed: np.ndarray) -> None:
        """A strategy that answers nonsense must not pass for a bad strategy."""
        if chosen.shape != (count,) or len(np.unique(chosen)) != count or not np.isin(chosen, allowed).all():
            raise FewerError(
                f"{type(self.query).__name__} was asked for {count} different unlabelled rows and gave "
                f"{len(chosen)} of which {len(np.intersect1d(chosen, allowed))} are such"
            )
