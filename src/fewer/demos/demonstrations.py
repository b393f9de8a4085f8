"""Demonstrations: whole episodes of observations and actions, one after another in flat arrays.

The arrays hold all steps of all episodes; ``offsets`` says where each episode begins.  Checked once, when they are
made, so that what learns from them need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fewer.core.errors import FewerError, nearest
from fewer.core.files import fingerprint

Observations = np.ndarray | Mapping[str, np.ndarray]
"""One array (steps, ...), or one a name where an observation has several parts."""


@dataclass(frozen=True)
class Episode:
    """One episode, as views into the arrays of all.

    Parameters
    ----------
    index : int
        Its number.
    observations : array (length, ...), or a dict of arrays
        What was seen before each action.
    actions : array (length, ...)
        What was done.
    final_observation : array (...), or a dict of arrays, optional
        What was seen after the last action.
    rewards : float array (length,), optional
        What it paid.
    terminated : bool
        Whether the world ended it; else it was cut off.
    success : bool, optional
        Whether it did what it should.
    """

    index: int
    observations: Observations
    actions: Shaped[np.ndarray, "length ..."]
    final_observation: Observations | None
    rewards: Float[np.ndarray, " length"] | None
    terminated: bool
    success: bool | None

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Chunks:
    """Windows of consecutive steps of one episode, one beginning at each step.

    Parameters
    ----------
    index : int array (steps, h)
        Step numbers; where the episode has ended, its last step again, so that ``actions[index]`` is padded with the
        last action.
    mask : bool array (steps, h)
        False where it has ended.
    """

    index: Int[np.ndarray, "steps h"]
    mask: Bool[np.ndarray, "steps h"]


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of somebody who knows the task.

    Parameters
    ----------
    observations : array (steps, ...), or a dict of arrays
        What was seen before each action.
    actions : array (steps, ...)
        What was done: real numbers, or whole numbers (steps,) where actions are numbered.
    offsets : int array (episodes + 1,)
        Where each episode begins, and the number of steps.
    final_observations : array (episodes, ...), or a dict of arrays, optional
        What was seen after the last action of each episode.
    rewards : float array (steps,), optional
        What each action paid.
    terminations : bool array (steps,), optional
        True at the last step of an episode that the world ended; nowhere by default.
    truncations : bool array (steps,), optional
        True at the last step of an episode that was cut off; by default where it did not terminate.
    successes : bool array (episodes,), optional
        Which episodes did what they should.
    name : str, default "demonstrations"
        For messages and reports.

    Raises
    ------
    FewerError
        If there are none, shapes or lengths do not agree, or a number is NaN or infinite (its step and episode are
        named).

    Examples
    --------
    >>> demonstrations = Demonstrations(np.zeros((5, 3)), np.ones((5, 2)), offsets=[0, 2, 5])
    >>> len(demonstrations), demonstrations.steps, demonstrations.lengths
    (2, 5, array([2, 3]))
    >>> demonstrations.keep([1]).steps
    3
    """

    observations: Observations
    actions: Shaped[np.ndarray, "steps ..."]
    offsets: Int[np.ndarray, " episodes+1"]
    final_observations: Observations | None = None
    rewards: Float[np.ndarray, " steps"] | None = None
    terminations: Bool[np.ndarray, " steps"] | None = None
    truncations: Bool[np.ndarray, " steps"] | None = None
    successes: Bool[np.ndarray, " episodes"] | None = None
    name: str = "demonstrations"

    def __post_init__(self) -> None:
        put = self.__dict__.__setitem__  # a frozen dataclass is filled in once, here
        put("actions", _array(self.actions, self.name, "actions"))
        steps = len(self.actions)
        if steps == 0:
            raise FewerError(f"{self.name}: there is no step in them; give at least one episode with one action")
        put("offsets", self._checked_offsets(steps))
        if self.actions.dtype.kind in "iu" and self.actions.ndim > 1:
            put("actions", self.actions.astype(np.float32))
        self._check_finite("actions", self.actions)
        put("observations", self._checked_observations("observations", self.observations, steps))
        if self.final_observations is not None:
            put(
                "final_observations",
                self._checked_observations("final_observations", self.final_observations, len(self)),
            )
            for key, array in parts(self.observations).items():
                last = parts(self.final_observations).get(key)
                if last is None or last.shape[1:] != array.shape[1:]:
                    raise FewerError(
                        f"{self.name}: final_observations{_of(key)} must be like an observation, {array.shape[1:]}; "
                        f"{'they are missing' if last is None else f'they are {last.shape[1:]}'}"
                    )
        for what, count in (("rewards", steps), ("terminations", steps), ("truncations", steps), ("successes", None)):
            given = getattr(self, what)
            if given is not None:
                put(what, self._checked_column(what, np.asarray(given), len(self) if count is None else count))
        self._settle_ends(put)

    # --- how they were made ------------------------------------------------------------------------------------------

    @classmethod
    def of_episodes(cls, episodes: Sequence[Mapping[str, Any]], name: str = "demonstrations") -> Demonstrations:
        """Put single episodes together.

        Parameters
        ----------
        episodes : sequence of mappings
            Each with ``observations`` (one a step, or one more: the last one is then the final one) and ``actions``; all
            or none of them with ``rewards``, ``terminated`` and ``success``.
        name : str
            For messages.

        Raises
        ------
        FewerError
            If shapes differ between episodes: the episode is named.

        Examples
        --------
        >>> one = {"observations": np.zeros((4, 2)), "actions": np.ones((3, 1)), "success": True}
        >>> made = Demonstrations.of_episodes([one, one])
        >>> made.offsets, made.final_observations.shape, made.successes
        (array([0, 3, 6]), (2, 2), array([ True,  True]))
        """
        if not len(episodes):
            raise FewerError(f"{name}: there is no episode in them; give at least one")
        actions = [_array(each["actions"], name, f"actions of episode {i}") for i, each in enumerate(episodes)]
        _same_shapes(actions, name, "actions")
        keys = list(parts(episodes[0]["observations"]))
        seen: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        final: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        for i, (each, done) in enumerate(zip(episodes, actions, strict=True)):
            given = parts(each["observations"])
            if list(given) != keys and set(given) != set(keys):
                raise FewerError(
                    f"{name}: episode {i} observes {', '.join(given) or 'one array'}, episode 0 "
                    f"{', '.join(keys) or 'one array'}; all must observe the same"
                )
            for key in keys:
                array = _array(given[key], name, f"observations{_of(key)} of episode {i}")
                if len(array) - len(done) not in (0, 1):
                    raise FewerError(
                        f"{name}: episode {i} has {len(array)} observations{_of(key)} and {len(done)} actions; give as "
                        "many observations, or one more"
                    )
                seen[key].append(array[: len(done)])
                if len(array) > len(done):
                    final[key].append(array[-1])
        for key in keys:
            _same_shapes(seen[key], name, f"observations{_of(key)}")
        complete = all(len(each) == len(episodes) for each in final.values())
        columns: dict[str, Any] = {}
        for field, key in (("rewards", "rewards"), ("successes", "success"), ("terminations", "terminated")):
            there = [each.get(key) is not None for each in episodes]
            if all(there):
                columns[field] = [np.asarray(each[key]) for each in episodes]
            elif any(there):
                raise FewerError(
                    f"{name}: episode {there.index(False)} has no {key}, others do; give it for all or none"
                )
        offsets = np.cumsum([0, *map(len, actions)])
        if "rewards" in columns:
            columns["rewards"] = np.concatenate(columns["rewards"])
        if "successes" in columns:
            columns["successes"] = np.stack(columns["successes"]).astype(bool)
        if "terminations" in columns:
            ended = np.zeros(offsets[-1], dtype=bool)
            ended[offsets[1:] - 1] = [bool(np.any(each)) for each in columns["terminations"]]
            columns["terminations"] = ended
        return cls(
            unparts({key: np.concatenate(arrays) for key, arrays in seen.items()}),
            np.concatenate(actions),
            offsets,
            unparts({key: np.stack(arrays) for key, arrays in final.items()}) if complete else None,
            **columns,
            name=name,
        )

    # --- what they are -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        """Steps of all episodes."""
        return len(self.actions)

    @property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        """Steps of each episode."""
        return np.diff(self.offsets)

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of alternatives."""
        return self.actions.dtype.kind in "iu"

    def episode_of_step(self) -> Int[np.ndarray, " steps"]:
        """The episode that each step belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def fingerprint(self) -> str:
        """Name what is in them."""
        arrays = [self.actions, self.offsets, *parts(self.observations).values()]
        arrays += parts(self.final_observations).values() if self.final_observations is not None else ()
        for each in (self.rewards, self.terminations, self.truncations, self.successes):
            arrays += () if each is None else (each,)
        return fingerprint(*arrays, *parts(self.observations))

    def summary(self) -> str:
        """One line for a person.

        Examples
        --------
        >>> Demonstrations(np.zeros((5, 3)), np.ones((5, 2)), offsets=[0, 2, 5], name="toy").summary()
        'toy: 2 episodes, 5 steps, observations (3,), actions (2,)'
        """
        seen = ", ".join(f"{key} {array.shape[1:]}".strip() for key, array in parts(self.observations).items())
        done = "numbered" if self.discrete else f"{self.actions.shape[1:]}"
        return f"{self.name}: {len(self):,} episodes, {self.steps:,} steps, observations {seen}, actions {done}"

    # --- what can be taken from them ---------------------------------------------------------------------------------

    def episodes(self) -> Iterator[Episode]:
        """Give the episodes, one at a time, as views."""
        for index in range(len(self)):
            yield self.episode(index)

    def episode(self, index: int) -> Episode:
        """One episode, as views."""
        if not 0 <= index < len(self):
            raise FewerError(f"{self.name}: there is no episode {index}; there are {len(self)}, counted from 0")
        where = slice(self.offsets[index], self.offsets[index + 1])
        assert self.terminations is not None
        return Episode(
            index,
            unparts({key: array[where] for key, array in parts(self.observations).items()}),
            self.actions[where],
            None
            if self.final_observations is None
            else unparts({key: array[index] for key, array in parts(self.final_observations).items()}),
            None if self.rewards is None else self.rewards[where],
            bool(self.terminations[self.offsets[index + 1] - 1]),
            None if self.successes is None else bool(self.successes[index]),
        )

    def keep(self, episodes: Sequence[int] | np.ndarray, name: str | None = None) -> Demonstrations:
        """Some of the episodes, in the order given.

        Parameters
        ----------
        episodes : int array, or bool array (episodes,)
            Their numbers, which may come more than once; or which to keep.
        name : str, optional
            For messages; by default the same.

        Raises
        ------
        FewerError
            If none is kept, or there is no such episode.
        """
        chosen = np.asarray(episodes)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise FewerError(f"{self.name}: a mask of {len(chosen)} was given for {len(self)} episodes")
            chosen = np.flatnonzero(chosen)
        if chosen.size == 0:
            raise FewerError(f"{self.name}: no episode would be kept of {len(self)}; keep at least one")
        chosen = chosen.astype(np.int64)
        if chosen.min() < 0 or chosen.max() >= len(self):
            wrong = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise FewerError(f"{self.name}: there is no episode {wrong}; there are {len(self)}, counted from 0")
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen])
        return Demonstrations(
            unparts({key: array[rows] for key, array in parts(self.observations).items()}),
            self.actions[rows],
            np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            None
            if self.final_observations is None
            else unparts({key: array[chosen] for key, array in parts(self.final_observations).items()}),
            None if self.rewards is None else self.rewards[rows],
            None if self.terminations is None else self.terminations[rows],
            None if self.truncations is None else self.truncations[rows],
            None if self.successes is None else self.successes[chosen],
            self.name if name is None else name,
        )

    def next_observations(self, rows: Int[np.ndarray, " n"]) -> tuple[Observations, Bool[np.ndarray, " n"]]:
        """What was seen after the actions of some steps.

        Parameters
        ----------
        rows : int array (n,)
            Step numbers.

        Returns
        -------
        observations : array (n, ...), or a dict of arrays
            Zeros where it is not known.
        known : bool array (n,)
            False at the last step of an episode without a final observation.
        """
        rows = np.asarray(rows)
        episode = np.searchsorted(self.offsets, rows, side="right") - 1
        last = rows == self.offsets[episode + 1] - 1
        found: dict[str, np.ndarray] = {}
        for key, array in parts(self.observations).items():
            found[key] = array[np.minimum(rows + 1, self.steps - 1)]  # a copy
            if self.final_observations is not None:
                found[key][last] = parts(self.final_observations)[key][episode[last]]
            else:
                found[key][last] = 0
        return unparts(found), ~last | (self.final_observations is not None)

    def chunks(self, h: int) -> Chunks:
        """Windows of ``h`` consecutive steps that never leave their episode, one beginning at each step.

        Parameters
        ----------
        h : int
            At least 1.  An episode shorter than that has only padded windows.

        Examples
        --------
        >>> chunks = Demonstrations(np.zeros((5, 3)), np.ones((5, 2)), offsets=[0, 2, 5]).chunks(3)
        >>> chunks.index[0], chunks.mask[0]
        (array([0, 1, 1]), array([ True,  True, False]))
        """
        if h < 1:
            raise FewerError(f"{self.name}: a chunk of {h} steps was asked for; give 1 or more")
        end = np.repeat(self.offsets[1:], self.lengths)[:, None]
        index = np.arange(self.steps)[:, None] + np.arange(h)
        return Chunks(np.minimum(index, end - 1), index < end)

    def returns(self, gamma: float = 1.0) -> Float[np.ndarray, " steps"]:
        """Discounted sum of the rewards from each step to the end of its episode.

        Parameters
        ----------
        gamma : float, default 1
            Discount, in [0, 1].

        Raises
        ------
        FewerError
            If there are no rewards.

        Examples
        --------
        >>> toy = Demonstrations(np.zeros((3, 1)), np.zeros((3, 1)), offsets=[0, 1, 3], rewards=[5.0, 1.0, 2.0])
        >>> toy.returns(0.5)
        array([5., 2., 2.])
        """
        if self.rewards is None:
            raise FewerError(f"{self.name}: there are no rewards to sum; give rewards=")
        if not 0 <= gamma <= 1:
            raise FewerError(f"{self.name}: gamma is {gamma}; a discount lies in [0, 1]")
        total = self.rewards.astype(np.float64)
        lengths = self.lengths
        # all episodes at once, from their last step but one backwards
        for back in range(2, int(lengths.max()) + 1):
            at = self.offsets[1:][lengths >= back] - back
            total[at] += gamma * total[at + 1]
        return total

    # --- checks ------------------------------------------------------------------------------------------------------

    def _checked_offsets(self, steps: int) -> np.ndarray:
        offsets = np.asarray(self.offsets)
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
            raise FewerError(
                f"{self.name}: offsets must be whole numbers, one for each episode and one more; "
                f"they are {offsets.dtype} of shape {offsets.shape}"
            )
        offsets = offsets.astype(np.int64)
        if offsets[0] != 0 or offsets[-1] != steps or (np.diff(offsets) < 1).any():
            raise FewerError(
                f"{self.name}: offsets must rise from 0 to the number of steps, {steps}, with at least one step an "
                f"episode; they run from {offsets[0]} to {offsets[-1]}"
                + (f", and episode {np.argmax(np.diff(offsets) < 1)} is empty" if (np.diff(offsets) < 1).any() else "")
            )
        return offsets

    def _checked_observations(self, what: str, given: Observations, count: int) -> Observations:
        if isinstance(given, Mapping) and not given:
            raise FewerError(f"{self.name}: {what} have no part; give at least one array")
        checked: dict[str, np.ndarray] = {}
        for key, each in parts(given).items():
            array = _array(each, self.name, f"{what}{_of(key)}")
            if len(array) != count:
                per = "step" if what == "observations" else "episode"
                raise FewerError(
                    f"{self.name}: {what}{_of(key)} are {len(array)} and there are {count} {per}s; give one a {per}"
                )
            self._check_finite(f"{what}{_of(key)}", array, by_step=what == "observations")
            checked[key] = array
        return unparts(checked)

    def _checked_column(self, what: str, column: np.ndarray, count: int) -> np.ndarray:
        if column.shape == (count, 1):
            column = column[:, 0]
        if column.shape != (count,):
            raise FewerError(f"{self.name}: {what} must be one number each of {count}; their shape is {column.shape}")
        if what == "rewards":
            column = _array(column, self.name, what)
            column = column.astype(np.float32) if column.dtype.kind != "f" else column
            self._check_finite(what, column)
            return column
        if column.dtype != bool:
            if not np.isin(column, (0, 1)).all():
                raise FewerError(f"{self.name}: {what} must be true or false; they hold {column.max()}")
            column = column.astype(bool)
        return column

    def _check_finite(self, what: str, array: np.ndarray, by_step: bool = True) -> None:
        if array.dtype.kind != "f":
            return
        for begin in range(0, len(array), 65536):  # without a mask of everything
            finite = np.isfinite(array[begin : begin + 65536]).reshape(min(65536, len(array) - begin), -1).all(axis=1)
            if finite.all():
                continue
            row = begin + int(np.argmin(finite))
            value = array[row].ravel()[~np.isfinite(array[row].ravel())][0]
            episode = int(np.searchsorted(self.offsets, row, side="right") - 1) if by_step else row
            where = f"step {row - self.offsets[episode]} of episode {episode}" if by_step else f"episode {row}"
            raise FewerError(f"{self.name}: {what} hold {value} in {where}; mend it, or leave that episode out")

    def _settle_ends(self, put: Any) -> None:
        last = np.zeros(self.steps, dtype=bool)
        last[self.offsets[1:] - 1] = True
        for what in ("terminations", "truncations"):
            given = getattr(self, what)
            if given is not None and (given & ~last).any():
                row = int(np.argmax(given & ~last))
                episode = int(np.searchsorted(self.offsets, row, side="right") - 1)
                raise FewerError(
                    f"{self.name}: {what} are true in step {row - self.offsets[episode]} of episode {episode}, which "
                    "goes on after it; end the episode there"
                )
        if self.terminations is None:
            put("terminations", last & ~self.truncations if self.truncations is not None else np.zeros_like(last))
        if self.truncations is None:
            assert self.terminations is not None
            put("truncations", last & ~self.terminations)


def parts(observations: Observations) -> Mapping[str, np.ndarray]:
    """The arrays of an observation by name; a single one has the empty name.

    Examples
    --------
    >>> list(parts(np.zeros(3))), list(parts({"position": np.zeros(3)}))
    ([''], ['position'])
    """
    return observations if isinstance(observations, Mapping) else {"": observations}


def unparts(arrays: Mapping[str, np.ndarray]) -> Observations:
    """The inverse of :func:`parts`."""
    return arrays[""] if list(arrays) == [""] else dict(arrays)


def flat(observations: Observations, dtype: Any = np.float32) -> Float[np.ndarray, "n features"]:
    """Observations as one table, the parts side by side in the order of their names.

    Examples
    --------
    >>> flat({"b": np.zeros((2, 3)), "a": np.ones((2, 2, 2))}).shape
    (2, 7)
    """
    arrays = parts(observations)
    columns = [np.asarray(arrays[key]).reshape(len(arrays[key]), -1) for key in sorted(arrays)]
    return np.concatenate(columns, axis=1, dtype=dtype, casting="unsafe")


def check_alike(demonstrations: Demonstrations, other: Demonstrations) -> None:
    """Refuse two sets whose observations or actions are not of one kind.

    Raises
    ------
    FewerError
        Naming what differs.
    """
    for what, mine, theirs in (
        ("observations", parts(demonstrations.observations), parts(other.observations)),
        ("actions", {"": demonstrations.actions}, {"": other.actions}),
    ):
        shapes = [{key: array.shape[1:] for key, array in each.items()} for each in (mine, theirs)]
        if shapes[0] != shapes[1]:
            first, second = (", ".join(f"{key} {shape}".strip() for key, shape in each.items()) for each in shapes)
            raise FewerError(
                f"{demonstrations.name} and {other.name} have {what} of different shapes, {first} and {second}; "
                "compare sets of one task"
            )
    if demonstrations.discrete != other.discrete:
        numbered = demonstrations.name if demonstrations.discrete else other.name
        raise FewerError(f"{demonstrations.name} and {other.name}: only {numbered} has numbered actions")


def select_parts(observations: Observations, keys: Sequence[str] | None, name: str) -> Observations:
    """Some parts of observations; a single one is given as an array.

    Raises
    ------
    FewerError
        If there is no such part.
    """
    if keys is None:
        return observations
    known = parts(observations)
    if "" in known and keys:
        raise FewerError(f"{name}: observations are a single array and have no part {keys[0]!r}; leave the part out")
    for key in keys:
        if key not in known:
            raise FewerError(f"{name}: observations have no part {key!r}; {nearest(key, known)}")
    return known[keys[0]] if len(keys) == 1 else {key: known[key] for key in keys}


def _array(given: Any, name: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError as error:  # ragged
        raise FewerError(f"{name}: {what} are of mixed shapes; every step must have the same") from error
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        mixed = " of mixed shapes" if array.dtype == object else ""
        raise FewerError(
            f"{name}: {what} must be numbers, one a step; they are {array.dtype}{mixed} of shape {array.shape}"
        )
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _same_shapes(arrays: Sequence[np.ndarray], name: str, what: str) -> None:
    for index, array in enumerate(arrays):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise FewerError(
                f"{name}: {what} of episode {index} have shape {array.shape[1:]}, those of episode 0 "
                f"{arrays[0].shape[1:]}; all must have the same"
            )


def _of(key: str) -> str:
    return f"[{key!r}]" if key else ""
