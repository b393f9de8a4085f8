"""Logs of what was shown and clicked: a world estimated from one, and a recommender that learns from one.

A log has a row for each item that was shown: ``session``, ``state``, ``position``, ``item``, ``clicked`` (0 or 1), in the
order of time; within a session a new list begins where the position does not rise.  An optional column ``reward`` says
what a click on the item pays (by default 1).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from fewer.core.errors import FewerError, nearest
from fewer.explore.ordered_lists import best_list
from fewer.explore.recommending import CascadingMDP

COLUMNS = ("session", "state", "position", "item", "clicked")


@dataclass(frozen=True)
class ClickLog:
    """A log, counted.

    Parameters
    ----------
    states, items : array
        Their names, in the order of the axes below.
    examined, attracted : int array (states, items)
        How often an item was looked at, and clicked.
    next : int array (states, items + 1, states)
        Next states after a click on each item, and after none.
    pays : float array (states, items)
        What a click pays.
    first : int array (states,)
        How many sessions began in each state.
    lists, length : int
        Median number of lists of a session, and the longest list.
    """

    states: Shaped[np.ndarray, " states"]
    items: Shaped[np.ndarray, " items"]
    examined: Int[np.ndarray, "states items"]
    attracted: Int[np.ndarray, "states items"]
    next: Int[np.ndarray, "states items+1 states"]
    pays: Float[np.ndarray, "states items"]
    first: Int[np.ndarray, " states"]
    lists: int
    length: int

    def attraction(self) -> Float[np.ndarray, "states items"]:
        """Estimated attraction: one look with a click and one without are imagined for each item."""
        return (self.attracted + 1) / (self.examined + 2)

    def following(self) -> Float[np.ndarray, "states items+1 states"]:
        """Estimated next states: one step like the average of all is imagined for each item."""
        average = self.next.sum(axis=(0, 1)) + 1.0
        p = self.next + average / average.sum()
        return p / p.sum(axis=2, keepdims=True)


def read_click_log(log: str | Path | pd.DataFrame) -> ClickLog:
    """Read and check a log.

    Parameters
    ----------
    log : path or DataFrame
        As the module says.

    Raises
    ------
    FewerError
        If a column is missing, the log is empty, a list has two clicks or shows an item twice, ``clicked`` is neither 0
        nor 1, or a reward lies outside [0, 1].

    Examples
    --------
    >>> log = read_click_log(pd.DataFrame({"session": [1, 1, 1], "state": ["new", "new", "back"], "position": [1, 2, 1],
    ...                                    "item": ["a", "b", "a"], "clicked": [0, 1, 0]}))
    >>> log.examined.tolist(), log.attracted.tolist(), log.lists
    ([[1, 0], [1, 1]], [[0, 0], [0, 1]], 2)
    """
    frame = log if isinstance(log, pd.DataFrame) else _read(Path(log))
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise FewerError(
            f"click log: no column {missing[0]!r}; {nearest(missing[0], map(str, frame.columns))} "
            f"(needed: {', '.join(COLUMNS)})"
        )
    if not len(frame):
        raise FewerError("click log: there is no row; give a log of lists that were shown")
    gaps = np.asarray(frame[list(COLUMNS)].isna()).any(axis=1)
    if gaps.any():
        raise FewerError(f"click log: data row {gaps.argmax() + 1} has a gap; fill or drop it")
    clicked = _numbers(frame["clicked"])
    if not np.isin(clicked, (0, 1)).all():
        row = int((~np.isin(clicked, (0, 1))).argmax())
        raise FewerError(f"click log: clicked is {frame['clicked'].iloc[row]!r} in data row {row + 1}; write 0 or 1")
    position = _numbers(frame["position"])
    if np.isnan(position).any():
        row = int(np.isnan(position).argmax())
        raise FewerError(
            f"click log: position is {frame['position'].iloc[row]!r} in data row {row + 1}; write a number"
        )
    session = pd.factorize(frame["session"])[0]
    begins = np.r_[True, (session[1:] != session[:-1]) | (position[1:] <= position[:-1])]
    number = begins.cumsum() - 1  # of the list each row belongs to
    clicks = np.bincount(number, weights=clicked)
    if (clicks > 1).any():
        row = int((number == int((clicks > 1).argmax())).argmax())
        raise FewerError(
            f"click log: the list that begins in data row {row + 1} (session {frame['session'].iloc[row]}) has "
            f"{int(clicks.max())} clicks; whoever clicks looks no further, so keep the first one"
        )
    state, states = pd.factorize(frame["state"], sort=True)
    item, items = pd.factorize(frame["item"], sort=True)
    twice = pd.DataFrame({"list": number, "item": item}).duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        raise FewerError(f"click log: data row {row + 1} shows {frame['item'].iloc[row]!r} again in the same list")
    return _counted(frame, session, state, item, number, begins, clicked == 1, np.asarray(states), np.asarray(items))


def _counted(
    frame: pd.DataFrame,
    session: np.ndarray,
    state: np.ndarray,
    item: np.ndarray,
    number: np.ndarray,
    begins: np.ndarray,
    clicked: np.ndarray,
    states: np.ndarray,
    items: np.ndarray,
) -> ClickLog:
    rows = np.arange(len(frame))
    heads = np.flatnonzero(begins)
    # rows after a click were not looked at
    hit = np.full(len(heads), len(frame))
    hit[number[clicked]] = rows[clicked]
    looked = rows <= hit[number]
    shape = (len(states), len(items))
    examined, attracted = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    np.add.at(examined, (state[looked], item[looked]), 1)
    np.add.at(attracted, (state[clicked], item[clicked]), 1)
    taken = np.full(len(heads), len(items))
    taken[number[clicked]] = item[clicked]
    follows = np.flatnonzero(session[heads[1:]] == session[heads[:-1]])
    following = np.zeros((len(states), len(items) + 1, len(states)), dtype=np.int64)
    np.add.at(following, (state[heads[follows]], taken[follows], state[heads[follows + 1]]), 1)
    opens = np.r_[True, session[heads[1:]] != session[heads[:-1]]]
    first = np.bincount(state[heads[opens]], minlength=len(states))
    pays = np.ones(shape)
    if "reward" in frame.columns:
        reward = _numbers(frame["reward"])
        wrong = ~((reward >= 0) & (reward <= 1))
        if wrong.any():
            row = int(wrong.argmax())
            raise FewerError(
                f"click log: reward is {frame['reward'].iloc[row]!r} in data row {row + 1}; give numbers in [0, 1]"
            )
        total, seen = np.zeros(shape), np.zeros(shape)
        np.add.at(total, (state, item), reward)
        np.add.at(seen, (state, item), 1)
        # where an item was never shown in a state it pays what it pays elsewhere
        average = total.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        pays = np.where(seen > 0, total / np.maximum(seen, 1), average)
    lists = int(np.median(np.bincount(session[heads])))
    return ClickLog(states, items, examined, attracted, following, pays, first, lists, int(np.bincount(number).max()))


def clicks(path: str, length: int = 0, horizon: int = 0) -> CascadingMDP:
    """A world estimated from a click log, to learn online in.

    Parameters
    ----------
    path : str
        A CSV or Parquet file; see :mod:`fewer.explore.click_log`.
    length : int, default 0
        Most items of a list; by default that of the longest list of the log.
    horizon : int, default 0
        Lists of a session; by default the log's median.
    """
    log = read_click_log(path)
    name = f"clicks('{path}')"
    return CascadingMDP(
        name,
        log.attraction(),
        log.following(),
        log.pays,
        horizon or log.lists,
        min(length or log.length, len(log.items)),
        int(log.first.argmax()),
    )


class CascadeRecommender:
    """Learn from a log which lists to show.

    Parameters
    ----------
    length : int, optional
        Most items of a list; by default that of the longest list of the log.
    horizon : int, optional
        Lists of a session to plan for; by default the log's median.

    Attributes
    ----------
    states_, items_ : array
        Names.
    attraction_, low_, high_ : DataFrame (states, items)
        Estimated attraction, and the ends of its 95 % interval (Wilson's).
    log_ : ClickLog
        What was counted.

    Examples
    --------
    >>> log = pd.DataFrame({"session": range(40), "state": "s", "position": 1, "item": ["a", "b"] * 20,
    ...                     "clicked": [1, 0] * 20})
    >>> CascadeRecommender(length=2).fit(log).recommend("s")
    ['a', 'b']
    """

    def __init__(self, length: int | None = None, horizon: int | None = None) -> None:
        self.length, self.horizon = length, horizon

    def fit(self, log: str | Path | pd.DataFrame) -> CascadeRecommender:
        """Count a log and plan in what it says."""
        if (self.length is not None and self.length < 1) or (self.horizon is not None and self.horizon < 1):
            raise FewerError(
                f"cascade recommender: length and horizon must be at least 1; given {self.length}, {self.horizon}"
            )
        self.log_ = read_click_log(log)
        self.states_, self.items_ = self.log_.states, self.log_.items
        self.attraction_ = self._named(self.log_.attraction())
        low, high = wilson(self.log_.attracted, self.log_.examined)
        self.low_, self.high_ = self._named(low), self._named(high)
        length, horizon = self.length or self.log_.length, self.horizon or self.log_.lists
        values, following = np.zeros(len(self.states_)), self.log_.following()
        lists: list[np.ndarray] = []
        for _ in range(horizon):
            after = following @ values
            values, best = best_list(self.log_.attraction(), self.log_.pays + after[:, :-1], after[:, -1], length)
            lists.append(best)
        self._lists = lists  # by how many lists follow
        return self

    def recommend(self, state: Hashable, left: int | None = None) -> list[Any]:
        """The list to show in a state, when so many lists are left in the session (by default all)."""
        if not hasattr(self, "log_"):
            raise FewerError("cascade recommender: fit it to a click log first")
        known = {name: at for at, name in enumerate(self.states_.tolist())}
        if state not in known:
            raise FewerError(
                f"cascade recommender: no state {state!r} in the log; {nearest(str(state), map(str, known))}"
            )
        left = len(self._lists) if left is None else left
        if not 1 <= left <= len(self._lists):
            raise FewerError(f"cascade recommender: left is {left}; give 1 to {len(self._lists)}")
        return [self.items_[item] for item in self._lists[left - 1][known[state]] if item >= 0]

    def _named(self, table: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(table, index=pd.Index(self.states_), columns=pd.Index(self.items_))


def wilson(
    hits: Int[np.ndarray, "*any"], trials: Int[np.ndarray, "*any"], z: float = 1.959964
) -> tuple[Float[np.ndarray, "*any"], Float[np.ndarray, "*any"]]:
    """Wilson's interval of a share; [0, 1] where nothing was tried.

    Examples
    --------
    >>> low, high = wilson(np.array([5]), np.array([10]))
    >>> round(float(low[0]), 3), round(float(high[0]), 3)
    (0.237, 0.763)
    """
    n = np.maximum(trials, 1)
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    tried = trials > 0
    return np.where(tried, np.clip(middle - half, 0, 1), 0.0), np.where(tried, np.clip(middle + half, 0, 1), 1.0)


def _numbers(column: Any) -> Float[np.ndarray, " rows"]:
    """A column's numbers, NaN where there is none."""
    read: Any = pd.to_numeric(column, errors="coerce")
    return read.to_numpy(dtype=np.float64, na_value=np.nan)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise FewerError(
            f"click log: {path} cannot be read ({str(error).splitlines()[0]}); give a CSV or Parquet file"
        ) from error
