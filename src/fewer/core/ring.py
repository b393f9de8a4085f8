"""Rows of which the newest are kept, in memory and beside a checkpoint.

Rows are numbered in the order in which they come and never change, so a checkpoint needs only those that came since the last one:
they are written as one more segment file into a folder beside it, and segments of which nothing is held any more go.  What is
part of a checkpoint is what its own file names; a segment that it does not name, such as one of a process that was killed before
it wrote that file, means nothing and is removed with the next save.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.core.files import write_atomically

PIECE = 2**28
"""The most bytes of a segment, so that writing one takes little memory besides."""


@dataclass(frozen=True)
class Segment:
    """A file of consecutive rows.

    Parameters
    ----------
    file : str
        Its name.
    begin, end : int
        Number of its first row, and of the one after its last.
    """

    file: str
    begin: int
    end: int


@dataclass(frozen=True)
class SavedRing:
    """A ring as a checkpoint has it; its rows are read when a ring takes it up.

    Parameters
    ----------
    folder : Path
        Where its segments lie.
    added : int
        Rows that ever came.
    segments : tuple of Segment
        In the order of their rows, without gaps, up to ``added``.
    """

    folder: Path
    added: int
    segments: tuple[Segment, ...]

    def save(self, folder: Path) -> list[Segment]:
        """Copy its segments into a folder; give them.

        Raises
        ------
        FewerError
            If one is missing.
        """
        for segment in self.segments if folder != self.folder else ():
            try:
                data = (self.folder / segment.file).read_bytes()
            except OSError as error:
                raise FewerError(f"{self.folder / segment.file}, a part of a checkpoint, is gone ({error})") from error
            write_atomically(folder / segment.file, data)
        return list(self.segments)


class Ring:
    """Tensors of one shape, of which the newest are kept.

    Parameters
    ----------
    capacity : int
        Rows kept.
    *shape : int
        Of a row.
    dtype : torch dtype, default float32
        Of its numbers.

    Attributes
    ----------
    rows : tensor (capacity, ...)
        Row n lies at place n modulo ``capacity``.
    added : int
        Rows that ever came.

    Examples
    --------
    >>> ring = Ring(3, 1)
    >>> ring.append(torch.arange(5.0)[:, None])
    >>> len(ring), ring.numbered(3, 5).tolist(), ring.rows[:, 0].tolist()
    (3, [[3.0], [4.0]], [3.0, 4.0, 2.0])
    """

    def __init__(self, capacity: int, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        # pages that were never written take no memory
        self.rows = torch.empty(capacity, *shape, dtype=dtype)
        self.capacity, self.added = capacity, 0
        self._saved: dict[Path, list[Segment]] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def oldest(self) -> int:
        """Number of the oldest row that is held."""
        return max(0, self.added - self.capacity)

    def append(self, rows: Tensor) -> None:
        """Take in rows after all others."""
        self._place(self.added, rows)
        self.added += len(rows)

    def _place(self, begin: int, rows: Tensor) -> None:
        """Put rows, of which the first has this number, where they belong."""
        if len(rows) > self.capacity:
            begin, rows = begin + len(rows) - self.capacity, rows[-self.capacity :]
        first = begin % self.capacity
        fitting = self.capacity - first
        if len(rows) <= fitting:
            self.rows[first : first + len(rows)] = rows
        else:
            self.rows[first:], self.rows[: len(rows) - fitting] = rows[:fitting], rows[fitting:]

    def numbered(self, begin: int, end: int) -> Tensor:
        """Give held rows by their numbers, as a copy."""
        return self.rows[torch.arange(begin, end) % self.capacity]

    def take_up(self, other: Ring | SavedRing) -> None:
        """Hold what another ring holds, as far as there is room.

        Raises
        ------
        FewerError
            If a segment is missing, damaged, or of other rows.
        """
        if isinstance(other, Ring):
            self.added = other.added
            begin = max(other.oldest, self.oldest)
            self._place(begin, other.numbered(begin, other.added))
            return
        self.added = other.added
        for segment in other.segments:
            if segment.end > self.oldest:
                self._place(segment.begin, self._read(other.folder / segment.file, segment))
        self._saved[other.folder] = list(other.segments)

    def _read(self, path: Path, segment: Segment) -> Tensor:
        try:
            rows = from_bytes(path.read_bytes())["rows"]
        except (OSError, SafetensorError, KeyError) as error:
            raise FewerError(
                f"{path}, a part of a checkpoint, is damaged ({error}); remove both and start again"
            ) from error
        expected = (segment.end - segment.begin, *self.rows.shape[1:])
        if tuple(rows.shape) != expected or rows.dtype != self.rows.dtype:
            raise FewerError(
                f"{path} holds {rows.dtype} of shape {tuple(rows.shape)}, and {self.rows.dtype} of {expected} was saved; "
                "remove the checkpoint and start again"
            )
        return rows

    def save(self, folder: Path) -> list[Segment]:
        """Write what is new since the last time into a folder; give the segments that hold what is held."""
        segments = [each for each in self._saved.get(folder, []) if each.end > self.oldest]
        if not all((folder / each.file).is_file() for each in segments):
            segments = []  # somebody has removed them
        begin = segments[-1].end if segments else self.oldest
        each = max(1, PIECE // max(1, self.rows[:1].numel() * self.rows.element_size()))
        while begin < self.added:
            end = min(begin + each, self.added)
            # a name that was never there before: what a checkpoint names is never written again
            segment = Segment(f"{begin}-{end}-{secrets.token_hex(6)}.safetensors", begin, end)
            write_atomically(folder / segment.file, to_bytes({"rows": self.numbered(begin, end)}))
            segments.append(segment)
            begin = end
        self._saved[folder] = segments
        return list(segments)
