"""Showing lists to people: worlds in which the first item that attracts is clicked, and the loop that plays them.

Someone in a state looks at an ordered list from its top and takes the first item that attracts; that pays,
and decides the next state.  If nothing attracts, the next state follows from that.  A session has a fixed
number of lists, and its unit of payment is one session.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float, Int

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import generator
from fewer.explore.ordered_lists import best_list, list_value
from fewer.explore.planning import ahead


@dataclass(frozen=True, eq=False)
class CascadingMDP(Task):
    """People who click the first item that attracts.

    Parameters
    ----------
    name : str
        As the user wrote it.
    attracts : float array (states, items)
        Probability that an item attracts someone in a state who looks at it.
    next : float array (states, items + 1, states)
        Probability of each next state after a click; the last item stands for no click.
    pays : float array (states, items)
        Reward of a click, in [0, 1]; known to whoever plays.
    horizon : int
        Lists of a session.
    length : int
        Most items of a list.
    start : int, default 0
        First state.

    Examples
    --------
    >>> world = cascade(states=3, items=4, length=2)
    >>> world.attracts.shape, world.next.shape, world.optimum > 0
    ((3, 4), (3, 5, 3), True)
    """

    name: str
    attracts: Float[np.ndarray, "states items"]
    next: Float[np.ndarray, "states items+1 states"]
    pays: Float[np.ndarray, "states items"]
    horizon: int
    length: int
    start: int = 0
    metric = "mean return"

    def __post_init__(self) -> None:
        states, items = self.attracts.shape
        if self.next.shape != (states, items + 1, states) or self.pays.shape != (states, items):
            raise FewerError(
                f"{self.name}: attracts is (states, items) = {self.attracts.shape}, so next must be "
                f"{(states, items + 1, states)} and pays {(states, items)}; they are {self.next.shape} and {self.pays.shape}"
            )
        for what, values in (("attracts", self.attracts), ("pays", self.pays)):
            wrong = ~((values >= 0) & (values <= 1))
            if wrong.any():
                state, item = np.argwhere(wrong)[0]
                raise FewerError(
                    f"{self.name}: {what}[{state}, {item}] is {values[state, item]:g}; give numbers in [0, 1]"
                )
        off = ~np.isclose(self.next.sum(axis=2), 1, atol=1e-6) | ~(self.next >= 0).all(axis=2)
        if off.any():
            state, item = np.argwhere(off)[0]
            raise FewerError(
                f"{self.name}: next[{state}, {item}] is no distribution (its sum is {self.next[state, item].sum():g})"
            )
        if self.horizon < 1 or not self.length >= 1 or not 0 <= self.start < states:
            raise FewerError(
                f"{self.name}: horizon and length must be at least 1 and start a state; given {self.horizon}, "
                f"{self.length} and {self.start}"
            )

    @property
    def states(self) -> int:
        """How many states there are."""
        return self.attracts.shape[0]

    @property
    def items(self) -> int:
        """How many items there are."""
        return self.attracts.shape[1]

    @cached_property
    def optimum(self) -> float:
        """Expected return of the best lists."""
        return float(self.best()[0][0, self.start])

    def best(self) -> tuple[Float[np.ndarray, "horizon+1 states"], Int[np.ndarray, "horizon states length"]]:
        """Values and lists of the best policy, exactly."""
        values = np.zeros((self.horizon + 1, self.states))
        lists = np.empty((self.horizon, self.states, self.length), dtype=np.int64)
        for step in range(self.horizon - 1, -1, -1):
            after = self.next @ values[step + 1]
            values[step], lists[step] = best_list(self.attracts, self.pays + after[:, :-1], after[:, -1], self.length)
        return values, lists

    def value(self, lists: Int[np.ndarray, "runs horizon states length"]) -> Float[np.ndarray, " runs"]:
        """Expected return of a policy, exactly."""
        values = np.zeros((len(lists), self.states))
        for step in range(self.horizon - 1, -1, -1):
            after = ahead(self.next[None], values)
            u = np.broadcast_to(self.attracts, after[..., :-1].shape)
            values = list_value(lists[:, step], u, self.pays + after[..., :-1], after[..., -1])
        return values[:, self.start]

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        return fingerprint(self.attracts, self.next, self.pays, repr((self.horizon, self.length, self.start)))

    def session(self, lists: Int[np.ndarray, "runs horizon states length"], rng: np.random.Generator) -> Sessions:
        """Play one session in every copy."""
        runs, every = len(lists), np.arange(len(lists))
        states = np.empty((runs, self.horizon + 1), dtype=np.int64)
        shown = np.empty((runs, self.horizon, self.length), dtype=np.int64)
        clicks = np.empty((runs, self.horizon), dtype=np.int64)
        states[:, 0] = self.start
        for step in range(self.horizon):
            at = states[:, step]
            shown[:, step] = lists[every, step, at]
            draw = rng.random((runs, self.length + 1))
            attracted = (shown[:, step] >= 0) & (draw[:, :-1] < self.attracts[at[:, None], shown[:, step]])
            clicks[:, step] = np.where(attracted.any(axis=1), attracted.argmax(axis=1), -1)
            item = np.where(clicks[:, step] >= 0, shown[every, step, clicks[:, step]], self.items)
            cumulative = self.next[at, item].cumsum(axis=1)
            states[:, step + 1] = (cumulative[:, :-1] <= draw[:, -1:] * cumulative[:, -1:]).sum(axis=1)
        return Sessions(states, shown, clicks)


def cascade(states: int = 5, items: int = 8, length: int = 3, horizon: int = 3, seed: int = 0) -> CascadingMDP:
    """A random world in which some states pay more than others, so that it matters where a click leads.

    Parameters
    ----------
    states, items, length, horizon : int
        Sizes.
    seed : int, default 0
        Which world; not the run's seed.
    """
    if min(states, items, length, horizon) < 1:
        raise FewerError(
            f"cascade: sizes must be at least 1; given {states} states, {items} items, length {length} and horizon {horizon}"
        )
    rng = np.random.default_rng(seed)
    attracts = rng.uniform(0.1, 0.6, (states, items))
    following = rng.dirichlet(np.full(states, 0.2), size=(states, items + 1))
    following /= following.sum(axis=2, keepdims=True)
    rich = 0.1 + np.arange(states)[:, None] / max(states - 1, 1)
    pays = np.minimum(0.5 * rng.random((states, items)) * rich, 1)
    name = f"cascade(states={states}, items={items}, length={length}, horizon={horizon}, seed={seed})"
    return CascadingMDP(name, attracts, following, pays, horizon, length)


@dataclass(frozen=True)
class Sessions:
    """One session of every copy.

    Parameters
    ----------
    states : int array (runs, horizon + 1)
        The last one is the state after the last list.
    lists : int array (runs, horizon, length)
        Items shown; -1 where a list is shorter.
    clicks : int array (runs, horizon)
        Position of the click in the list, -1 for none.
    """

    states: Int[np.ndarray, "runs horizon+1"]
    lists: Int[np.ndarray, "runs horizon length"]
    clicks: Int[np.ndarray, "runs horizon"]


@dataclass
class Account:
    """What a recommender is called with.

    Parameters
    ----------
    runs, states, items, horizon, length : int
        Copies played at once, and the sizes of the world.
    pays : float array (states, items)
        Reward of a click.
    start : int
        First state of a session.
    sessions : int
        Planned in all, for each copy.
    played : int
        Finished.
    memory : dict
        What it knows; saved in checkpoints.
    report : dict of str to float
        Its counters, for the point's ``extras``.
    """

    runs: int
    states: int
    items: int
    horizon: int
    length: int
    pays: Float[np.ndarray, "states items"]
    start: int
    sessions: int
    played: int
    memory: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)


class Recommender(Protocol):
    """Who chooses the lists."""

    def begin(self, account: Account) -> None:
        """Lay out what is known before the first session."""
        ...

    def plan(self, account: Account) -> Int[np.ndarray, "runs horizon states length"]:
        """The lists of the next session, for each step and state."""
        ...

    def learn(self, account: Account, sessions: Sessions) -> None:
        """Take in what was seen."""
        ...

    def finished(self, account: Account) -> bool:
        """Whether nothing more needs to be known, so that the run may end before its budget."""
        ...


def _default() -> Recommender:
    from fewer.explore.cascading import CascadingVI

    return CascadingVI()


@dataclass
class RecommendationState(State):
    """What the recommender knows, the random stream of people, and the regret so far."""

    saved: ClassVar[tuple[str, ...]] = ("memory", "rng", "lost")

    world: CascadingMDP = field(kw_only=True)
    memory: dict[str, Any] = field(kw_only=True)
    rng: np.random.Generator = field(kw_only=True)
    lost: Float[np.ndarray, " runs"] = field(kw_only=True)


@dataclass(frozen=True)
class Recommendation(Loop[CascadingMDP, RecommendationState]):
    """A recommender shows lists; the curve is the expected return of a session against sessions.

    The score of a point is the mean over the sessions since the last one.  ``extras["regret"]`` is what has been lost to
    the best lists since the start.

    Parameters
    ----------
    recommender : Recommender, default CascadingVI()
        Who chooses the lists.
    copies : int, default 1
        Independent runs at once; scores and counters are their means, and a session of all counts as one.
    points : int, default 20
        How many points the curve has.

    Examples
    --------
    >>> learned = Recommendation(copies=3).learn(cascade(states=2, items=4, length=2), budget=50)
    >>> learned.curve.points[-1].spent
    50
    """

    unit: ClassVar[str] = "sessions"
    accepts: ClassVar[type[CascadingMDP]] = CascadingMDP

    recommender: Recommender = field(default_factory=_default)
    copies: int = 1
    points: int = 20

    def __post_init__(self) -> None:
        if self.copies < 1 or self.points < 1:
            raise FewerError(f"copies and points must be at least 1; they are {self.copies} and {self.points}")

    def start(self, task: CascadingMDP, budget: int, seed: int) -> RecommendationState:
        """Let the recommender lay out what it knows."""
        state = RecommendationState(
            budget,
            seed,
            Ledger({"sessions": 1.0}),
            world=task,
            memory={},
            rng=generator(seed, "people"),
            lost=np.zeros(self.copies),
        )
        self.recommender.begin(self._account(state))
        return state

    def advance(self, state: RecommendationState) -> Point:
        """Play up to the next point."""
        stop = max(state.budget * (state.points + 1) // self.points, state.ledger.spent + 1)
        first, before = state.ledger.spent, float(state.lost.mean())
        account = self._account(state)
        planned, value = None, np.zeros(self.copies)
        while state.ledger.spent < min(stop, state.budget):
            account.played = state.ledger.spent
            lists = self.recommender.plan(account)
            if lists is not planned:  # lists that stay are valued once
                planned, value = lists, state.world.value(lists)
            state.lost += state.world.optimum - value
            self.recommender.learn(account, state.world.session(lists, state.rng))
            state.ledger.add("sessions", 1)
            account.played = state.ledger.spent
            if self.recommender.finished(account):
                state.exhausted = True
                break
        lost = (float(state.lost.mean()) - before) / (state.ledger.spent - first)
        return Point(
            state.ledger.spent, state.world.optimum - lost, {"regret": float(state.lost.mean()), **account.report}
        )

    def result(self, state: RecommendationState) -> Int[np.ndarray, "runs horizon states length"]:
        """The lists that would be shown next."""
        account = self._account(state)
        account.played = state.ledger.spent
        return self.recommender.plan(account)

    def _account(self, state: RecommendationState) -> Account:
        world = state.world
        return Account(
            self.copies,
            world.states,
            world.items,
            world.horizon,
            world.length,
            world.pays,
            world.start,
            state.budget,
            state.ledger.spent,
            state.memory,
        )
