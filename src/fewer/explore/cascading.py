"""Cascading reinforcement learning: optimism for ordered lists, learned item by item.

The actions are lists, of which there are too many to learn about one by one.  But the value of a list follows from two
things about each item, how likely it attracts and where a click leads, and the best list can be found exactly
(:func:`~fewer.explore.ordered_lists.best_list`); so both are learned, each with a bonus of its own, and regret does not
depend on the number of lists.

In session k, for h = H, …, 1, with n_q(s, a) times that a was looked at in s, n_p(s, a) times that it was clicked, and
L = scale * log(K H S (N + 1) / delta)::

    b_q  = min(2 sqrt(q (1 - q) L / n_q) + 5 L / n_q, 1)
    b_pV = min(2 sqrt(Var_p(U) L / n_p) + 2 sqrt(E_p[(U - D)^2] L / n_p) + 5 H L / n_p, H)
    U_h, list = best_list(min(q + b_q, 1), r + E_p[U_{h+1}] + b_pV),       U_h <= H - h + 1
    D_h = least value of that list with attractions within b_q of q, and max(r + E_p[D_{h+1}] - b_pV, 0)

U is above the best value and D below that of the policy shown, so U - D at the start bounds what is still lost: to find
a policy that is best within epsilon, stop when it is below epsilon.  (The paper values D with q - b_q throughout, which
is no bound where a later item is worth more than an earlier one; the least over the whole interval is.)

References
----------
Yihan Du, R. Srikant and Wei Chen, "Cascading Reinforcement Learning", ICLR 2024, arXiv:2401.08961.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fewer.claim import Claim, Measures, Tiny, higher, identical, lower, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.explore.ordered_lists import all_lists, best_list, least_value, list_value
from fewer.explore.planning import ahead
from fewer.explore.recommending import Account, Recommendation, Sessions, cascade


@dataclass(frozen=True)
class CascadingVI:
    """Optimistic value iteration over lists, from what was seen of each item.

    Parameters
    ----------
    scale : float, default 1
        Factor of the logarithm in both bonuses: 1 is what the proof asks for, a few hundredths explore enough in
        practice, and 0 believes what was seen.
    delta : float, default 0.05
        Probability with which the bounds may fail.
    precision : float, default 0
        Stop when the lists are best within so much, for certain; 0 plays on.
    replan : float, default 1
        Plan anew when the sessions played have grown by this factor; 1 plans before each.
    transitions : bool, default True
        Whether it matters where a click leads; without, every list is chosen for its own reward (a cascading bandit).

    Examples
    --------
    >>> from fewer.explore.recommending import Recommendation, cascade
    >>> loop = Recommendation(CascadingVI(scale=0.05, replan=1.1), copies=5)
    >>> points = loop.learn(cascade(), budget=2000).curve.points
    >>> points[-1].score > points[0].score
    True
    """

    scale: float = 1.0
    delta: float = 0.05
    precision: float = 0.0
    replan: float = 1.0
    transitions: bool = True

    def __post_init__(self) -> None:
        _check("cascading", self.scale, self.delta, self.replan)
        if self.precision < 0:
            raise FewerError(f"cascading: precision must not be negative; {self.precision} was given")

    def begin(self, account: Account) -> None:
        """Nothing is known."""
        items = (account.runs, account.states, account.items)
        account.memory |= {
            "examined": np.zeros(items),
            "attracted": np.zeros(items),
            "next": np.zeros((account.runs, account.states, account.items + 1, account.states)),
            "stopped": np.full(account.runs, np.inf),
            "due": 0.0,
        }

    def plan(self, account: Account) -> Int[np.ndarray, "runs horizon states length"]:
        """Optimistic lists for every step and state."""
        memory = account.memory
        if account.played < memory["due"]:
            return memory["lists"]
        memory["due"] = max(account.played * self.replan, account.played + 1)
        log = self.scale * math.log(
            max(account.sessions, 2) * account.horizon * account.states * (account.items + 1) / self.delta
        )
        looked, followed = memory["examined"], memory["next"].sum(axis=-1)
        q = np.divide(memory["attracted"], looked, out=np.zeros_like(looked), where=looked > 0)
        width = 2 * np.sqrt(q * (1 - q) * log / np.maximum(looked, 1)) + 5 * log / np.maximum(looked, 1)
        # with scale 0 nothing is optimistic but what was never seen; that stays so, or it would never be
        width = np.where(looked > 0, np.minimum(width, 1), 1)
        high_q, low_q = np.minimum(q + width, 1), np.maximum(q - width, 0)
        p = memory["next"] / np.maximum(followed, 1)[..., None]
        upper, lower = np.zeros((account.runs, account.states)), np.zeros((account.runs, account.states))
        lists = np.empty((account.runs, account.horizon, account.states, account.length), dtype=np.int64)
        for step in range(account.horizon - 1, -1, -1):
            left = account.horizon - step
            high_w, low_w = self._worth(account, p, followed, upper, lower, left, log)
            value, lists[:, step] = best_list(high_q, high_w[..., :-1], high_w[..., -1], account.length)
            lower = least_value(lists[:, step], low_q, high_q, low_w[..., :-1], low_w[..., -1])
            upper = np.minimum(value, left)
        memory["lists"] = lists
        gap = (upper - lower)[:, account.start]
        memory["gap"] = gap
        account.report["gap"] = float(gap.mean())
        if self.precision:
            fresh = (gap <= self.precision) & np.isinf(memory["stopped"])
            memory["stopped"][fresh] = account.played
        return lists

    def learn(self, account: Account, sessions: Sessions) -> None:
        """Count what was looked at, what attracted, and where it led."""
        count_sessions(account.memory, sessions, account.items)

    def finished(self, account: Account) -> bool:
        """Whether every copy's lists are good enough."""
        return bool(self.precision and np.isfinite(account.memory["stopped"]).all())

    def _worth(
        self, account: Account, p: Any, followed: Any, upper: Any, lower: Any, left: int, log: float
    ) -> tuple[Float[np.ndarray, "runs states items+1"], Float[np.ndarray, "runs states items+1"]]:
        """What a click on each item is worth at most and at least; the last is no click."""
        pays = np.concatenate([account.pays, np.zeros((account.states, 1))], axis=1)
        if not self.transitions:
            return np.broadcast_to(pays, followed.shape), np.broadcast_to(pays, followed.shape)
        mean = ahead(p, upper)
        variance = np.maximum(ahead(p, upper**2) - mean**2, 0)
        apart = ahead(p, (upper - lower) ** 2)
        often = np.maximum(followed, 1)
        most = left - 1
        bonus = 2 * np.sqrt(variance * log / often) + 2 * np.sqrt(apart * log / often) + 5 * most * log / often
        bonus = np.where(followed > 0, np.minimum(bonus, most), most)
        high = pays + np.minimum(mean + bonus, most)
        low = pays + np.maximum(ahead(p, lower) - bonus, 0)
        return high, low


@dataclass(frozen=True)
class ListVI:
    """Optimistic value iteration that takes each list for an action of its own: the rival without structure.

    Parameters
    ----------
    scale, delta, replan
        As of :class:`CascadingVI`.
    most : int, default 20,000
        Lists that are still learned about one by one.
    """

    scale: float = 1.0
    delta: float = 0.05
    replan: float = 1.0
    most: int = 20_000

    def __post_init__(self) -> None:
        _check("list-ucbvi", self.scale, self.delta, self.replan)

    def begin(self, account: Account) -> None:
        """Nothing is known of any list."""
        count = sum(math.perm(account.items, size) for size in range(min(account.length, account.items) + 1))
        if count > self.most:
            raise FewerError(
                f"list-ucbvi: {account.items} items make {count} lists of up to {account.length}, more than {self.most}; "
                "use cascading, or shorter lists"
            )
        account.memory |= {
            "lists": np.zeros((account.runs, account.horizon, account.states), dtype=np.int64),
            "next": np.zeros((account.runs, account.states, count, account.states)),
            "reward": np.zeros((account.runs, account.states, count)),
            "due": 0.0,
        }

    def plan(self, account: Account) -> Int[np.ndarray, "runs horizon states length"]:
        """Optimistic value iteration over all lists."""
        memory, lists = account.memory, all_lists(account.items, account.length)
        if account.played >= memory["due"]:
            memory["due"] = max(account.played * self.replan, account.played + 1)
            log = self.scale * math.log(
                max(account.sessions, 2) * account.horizon * account.states * len(lists) / self.delta
            )
            times = memory["next"].sum(axis=-1)
            often = np.maximum(times, 1)
            p, r = memory["next"] / often[..., None], memory["reward"] / often
            upper = np.zeros((account.runs, account.states))
            for step in range(account.horizon - 1, -1, -1):
                left = account.horizon - step
                mean = ahead(p, upper)
                variance = np.maximum(ahead(p, upper**2) - mean**2, 0)
                bonus = 2 * np.sqrt((variance + r * (1 - r)) * log / often) + 5 * left * log / often
                value = np.where(times > 0, np.minimum(r + mean + bonus, left), left)
                memory["lists"][:, step] = value.argmax(axis=-1)
                upper = value.max(axis=-1)
        return lists[memory["lists"]]

    def learn(self, account: Account, sessions: Sessions) -> None:
        """Count what each list brought."""
        memory = account.memory
        every = np.arange(account.runs)
        for step in range(account.horizon):
            at, clicked = sessions.states[:, step], sessions.clicks[:, step]
            place = (every, at, memory["lists"][every, step, at])
            np.add.at(memory["next"], (*place, sessions.states[:, step + 1]), 1)
            item = sessions.lists[every, step, np.maximum(clicked, 0)]
            np.add.at(memory["reward"], place, np.where(clicked >= 0, account.pays[at, item], 0))

    def finished(self, account: Account) -> bool:
        """Never before the budget is used."""
        return False


def count_sessions(memory: dict[str, Any], sessions: Sessions, items: int) -> None:
    """Add sessions to counts of looks, of clicks and of next states.

    All items down to the click were looked at, and all if there was none; what stands below a click tells nothing.
    """
    runs, horizon, length = sessions.lists.shape
    run = np.broadcast_to(np.arange(runs)[:, None], (runs, horizon))
    at, clicks = sessions.states[:, :-1], sessions.clicks
    last = np.where(clicks >= 0, clicks, length)
    looked = (np.arange(length) <= last[..., None]) & (sessions.lists >= 0)
    place = tuple(np.broadcast_to(each[..., None], looked.shape)[looked] for each in (run, at))
    np.add.at(memory["examined"], (*place, sessions.lists[looked]), 1)
    item = np.take_along_axis(sessions.lists, np.maximum(clicks, 0)[..., None], axis=-1)[..., 0]
    hit = clicks >= 0
    np.add.at(memory["attracted"], (run[hit], at[hit], item[hit]), 1)
    np.add.at(memory["next"], (run, at, np.where(hit, item, items), sessions.states[:, 1:]), 1)


def _check(name: str, scale: float, delta: float, replan: float) -> None:
    if not scale >= 0 or not 0 < delta < 1 or not replan >= 1:
        raise FewerError(
            f"{name}: scale must not be negative, delta lie in (0, 1) and replan be at least 1; given {scale}, {delta} "
            f"and {replan}"
        )


# --- the claims ------------------------------------------------------------------------------------------------------

SCALE, REPLAN = 0.05, 1.02
"""The same for everybody; the bounds ask for a scale of 1."""


def measure_regret(seed: int, tiny: bool) -> Measures:
    """Regret of each recommender in a random world: in all, and in the last quarter of the sessions."""
    copies, sessions = (2, 80) if tiny else (4, 10_000)
    world = cascade(seed=seed)
    recommenders = {
        "cascading": CascadingVI(SCALE, replan=REPLAN),
        "lists": ListVI(SCALE, replan=REPLAN),
        "no bonus": CascadingVI(0.0, replan=REPLAN),
        "bandit": CascadingVI(SCALE, replan=REPLAN, transitions=False),
    }
    measured = {}
    for name, recommender in recommenders.items():
        loop = Recommendation(recommender, copies=copies, points=4)
        regret = [point.extras["regret"] for point in loop.run(world, sessions, seed)]
        measured[name] = {"regret": regret[-1], "regret in the last quarter": regret[-1] - regret[-2]}
    return measured


def measure_best_list(seed: int, tiny: bool) -> Measures:
    """Values of the best lists of random cases, by dynamic programming and by trying every list."""
    rng, cases = generator(seed, "cases"), 20 if tiny else 300
    gap = 0.0
    for items in range(1, 7):
        u, w = rng.random((cases, items)), rng.random((cases, items))
        w0, length = rng.random(cases), int(rng.integers(1, items + 1))
        value, chosen = best_list(u, w, w0, length)
        every = all_lists(items, length)
        tried = np.stack([list_value(np.broadcast_to(each, (cases, length)), u, w, w0) for each in every])
        gap = max(gap, float(np.abs(tried.max(axis=0) - value).max()))
        gap = max(gap, float(np.abs(list_value(chosen, u, w, w0) - value).max()))
    return {"found": {"rounded gap": round(gap, 9)}, "nothing": {"rounded gap": 0.0}}


def measure_stopping(seed: int, tiny: bool) -> Measures:
    """Sessions until the lists are certainly best within a quarter, with few items and with four times as many."""
    measured = {}
    for items in (4, 16):
        loop = Recommendation(CascadingVI(scale=0.005, precision=0.25, replan=1.05), copies=2 if tiny else 8, points=1)
        state = loop.start(cascade(items=items, seed=seed), 400 if tiny else 40_000, seed)
        loop.advance(state)
        measured[f"{items} items"] = {"sessions": float(np.minimum(state.memory["stopped"], state.budget).mean())}
    return measured


claim = (
    Claim(
        says="Learning about items costs less than a third of what learning about whole lists costs, and its bonus is what "
        "ends the regret.",
        measure=measure_regret,
        seeds=6,
        holds=[
            ratio("regret", "cascading", to="lists", at_most=0.3),
            ratio("regret in the last quarter", "cascading", to="no bonus", at_most=0.5),
            lower("regret in the last quarter", "cascading", than="bandit"),
        ],
        tiny=Tiny(seeds=2),
        note="Random worlds of 5 states, 8 items and lists of up to 3 (401 of them); each seed is another world, played four "
        "times. All bonuses are a twentieth of what the proofs ask for.",
    ),
    Claim(
        says="The best list is found exactly, without trying all lists.",
        measure=measure_best_list,
        seeds=4,
        holds=[identical("rounded gap", "found", to="nothing")],
        note="1,800 random cases a seed, of up to 6 items; gaps are rounded to nine digits.",
    ),
    Claim(
        says="The sessions until the lists are certainly good grow no faster than the number of items, though there are over "
        "eighty times as many lists.",
        measure=measure_stopping,
        seeds=6,
        holds=[
            higher("sessions", "16 items", than="4 items"),
            ratio("sessions", "16 items", to="4 items", at_most=4.0),
        ],
        tiny=Tiny(seeds=2),
        note="Precision a quarter, bonuses at a two-hundredth of what the proofs ask for.",
    ),
)
