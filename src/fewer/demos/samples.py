"""The states and actions of demonstrations that are compared with one another: which, as what numbers, in what units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import generator
from fewer.demos.demonstrations import Demonstrations, Observations, flat, parts, unparts

Encoder = Callable[[Observations], Float[np.ndarray, "n features"]]
"""Makes a table of observations, such as images."""

WIDE, PROJECTED = 256, 64
"""Wider observations are projected at random to so many numbers where no encoder is given."""


@dataclass(frozen=True)
class Sample:
    """Some steps of the episodes that are no copies of earlier ones.

    Parameters
    ----------
    rows : int array (n,)
        Step numbers, rising.
    episode : int array (n,)
        Place of the step's episode in ``distinct``.
    states, actions : float arrays (n, width) and (n, actions)
        As numbers; numbered actions as one column for each.
    first : int array (episodes,)
        For each episode, the first one that is like it.
    distinct : int array (distinct,)
        The episodes that are first.
    encode : callable
        What made numbers of observations.
    notes : tuple of str
        What a reader should know.
    """

    rows: Int[np.ndarray, " n"]
    episode: Int[np.ndarray, " n"]
    states: Float[np.ndarray, "n width"]
    actions: Float[np.ndarray, "n actions"]
    first: Int[np.ndarray, " episodes"]
    distinct: Int[np.ndarray, " distinct"]
    encode: Encoder
    notes: tuple[str, ...]

    @property
    def place(self) -> Int[np.ndarray, " episodes"]:
        """Place of each episode, or of the one that it is a copy of, in ``distinct``."""
        return np.searchsorted(self.distinct, self.first)

    @property
    def copies(self) -> Int[np.ndarray, " distinct"]:
        """How often each distinct episode was given."""
        return np.bincount(self.place, minlength=len(self.distinct))


def sample(
    demonstrations: Demonstrations,
    encoder: Encoder | None,
    limit: int,
    seed: int,
    *,
    whole: bool = False,
    alternatives: Int[np.ndarray, " alternatives"] | None = None,
) -> Sample:
    """Take all steps, or of more than ``limit`` so many: in each episode its share and at least one, or whole episodes.

    Parameters
    ----------
    demonstrations : Demonstrations
        Where from.
    encoder : callable, optional
        What makes numbers of observations.
    limit : int
        The most steps.
    seed : int
        Of what is drawn.
    whole : bool, default False
        Draw episodes in place of steps, at least two, with at most half of the limit of each.
    alternatives : int array (alternatives,), optional
        What numbered actions may be; by default those that are there.

    Examples
    --------
    >>> toy = Demonstrations(np.arange(8.0)[:, None], np.zeros((8, 1)), offsets=[0, 2, 4, 8])
    >>> taken = sample(toy.keep([0, 1, 0, 2]), None, limit=4, seed=0)
    >>> taken.first.tolist(), taken.copies.tolist(), taken.episode.tolist()
    ([0, 1, 0, 3], [2, 1, 1], [0, 1, 2, 2])
    """
    first = _first_like(demonstrations)
    distinct = np.unique(first)
    lengths = demonstrations.lengths[distinct]
    total, notes = int(lengths.sum()), []
    if len(distinct) < len(first):
        notes.append(
            f"{len(first) - len(distinct)} of the episodes are copies of others; they are no evidence that actions agree"
        )
    taken = [np.arange(each) for each in lengths]
    rng = generator(seed, "whole episodes" if whole else "states")
    if total > limit and whole:
        most = np.minimum(lengths, max(1, limit // 2))
        order = rng.permutation(len(distinct))
        chosen = order[: max(2, int(np.searchsorted(np.cumsum(most[order]), limit, side="right")))]
        kept = set(chosen.tolist())
        taken = [np.arange(n if e in kept else 0) for e, n in enumerate(most)]
    elif total > limit:
        counts = np.maximum(1, np.floor(lengths * (limit / total))).astype(int)
        taken = [np.sort(rng.choice(n, k, replace=False)) for n, k in zip(lengths, counts, strict=True)]
        notes.append(
            f"of {total:,} states, {counts.sum():,} were drawn (seed {seed}) and compared; lengths are those of all"
        )
    rows = np.concatenate([demonstrations.offsets[e] + each for e, each in zip(distinct, taken, strict=True)])
    seen = unparts({key: array[rows] for key, array in parts(demonstrations.observations).items()})
    encode = _encoding(seen, encoder)
    if encoder is None and encode is not _table:
        notes.append(
            f"observations are {_width(seen):,} numbers, projected at random to {PROJECTED}; of images, those are then near "
            "that have like pixels: give an encoder"
        )
    if demonstrations.discrete:
        notes.append("actions are numbered; they are compared as equal or not")
        columns = np.unique(demonstrations.actions) if alternatives is None else alternatives
        actions = (demonstrations.actions[rows][:, None] == columns).astype(np.float64)
    else:
        actions = demonstrations.actions[rows].reshape(len(rows), -1).astype(np.float64)
    episode = np.repeat(np.arange(len(distinct)), [len(each) for each in taken])
    return Sample(rows, episode, encode(seen), actions, first, distinct, encode, tuple(notes))


def _first_like(demonstrations: Demonstrations) -> Int[np.ndarray, " episodes"]:
    known: dict[str, int] = {}
    found = [
        known.setdefault(fingerprint(each.actions, *parts(each.observations).values()), each.index)
        for each in demonstrations.episodes()
    ]
    return np.array(found)


def _encoding(seen: Observations, encoder: Encoder | None) -> Encoder:
    if encoder is not None:
        return _Checked(encoder)
    return _Projection(_width(seen)) if _width(seen) > WIDE else _table


def _table(observations: Observations) -> Float[np.ndarray, "n width"]:
    return flat(observations, np.float64)


def _width(observations: Observations) -> int:
    return sum(math.prod(array.shape[1:]) for array in parts(observations).values())


class _Projection:
    """A fixed random projection, a few hundred rows at a time."""

    def __init__(self, width: int) -> None:
        self.matrix = generator(0, "projection").standard_normal((width, PROJECTED)) / math.sqrt(PROJECTED)

    def __call__(self, observations: Observations) -> Float[np.ndarray, "n projected"]:
        arrays: Mapping[str, np.ndarray] = parts(observations)
        count = len(next(iter(arrays.values())))
        blocks = [
            flat({key: array[begin : begin + 256] for key, array in arrays.items()}, np.float64) @ self.matrix
            for begin in range(0, count, 256)
        ]
        return np.concatenate(blocks)


class _Checked:
    """The user's encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, observations: Observations) -> Float[np.ndarray, "n features"]:
        count = len(next(iter(parts(observations).values())))
        table = np.asarray(self.encoder(observations), dtype=np.float64)
        if table.ndim != 2 or len(table) != count or not np.isfinite(table).all():
            raise FewerError(
                f"quality: the encoder must give a table of finite numbers with {count:,} rows; its shape is {table.shape}"
            )
        return table


@dataclass(frozen=True)
class Scale:
    """Takes off the mean, divides by the deviation, and leaves out what never changes.

    Parameters
    ----------
    centre, deviation : float array (width,)
        By which a table is standardised; the deviation is 1 where it is not to be.
    changes : bool array (width,)
        Which columns are kept.
    """

    centre: Float[np.ndarray, " width"]
    deviation: Float[np.ndarray, " width"]
    changes: np.ndarray

    @classmethod
    def of(cls, tables: Sequence[np.ndarray], standardise: bool) -> Scale:
        """The scale of several tables together.

        Examples
        --------
        >>> Scale.of([np.array([[1.0, 7.0], [3.0, 7.0]])], standardise=True)(np.array([[5.0, 7.0]]))
        array([[3.]])
        """
        every = np.concatenate(tables)
        centre, deviation = every.mean(axis=0), every.std(axis=0)
        changes = deviation > 1e-6 * (1 + np.abs(centre))  # single precision leaves that much of a constant
        return cls(centre, np.where(changes & standardise, deviation, 1.0), changes)

    def __call__(self, table: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n changing"]:
        """The columns that change, standardised."""
        return ((table - self.centre) / self.deviation)[:, self.changes]
