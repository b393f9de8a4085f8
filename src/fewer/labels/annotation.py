"""What an annotation remembers from round to round, and what comes back from the people who label.

A state file is written after the rows that were asked for, whole or not at all: a round that is cut
off in between is simply asked again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from fewer.core import checkpoint
from fewer.core.errors import FewerError, nearest
from fewer.core.files import fingerprint
from fewer.labels.on_disk import parts
from fewer.labels.pool_arrays import mapped
from fewer.labels.pool_columns import class_name
from fewer.labels.pool_files import Pool
from fewer.labels.pool_tables import TableFile, reading

FORMAT = "fewer-annotation-1"


@dataclass
class Annotation:
    """Rounds of asking and labelling on one pool.

    Parameters
    ----------
    pool : str
        Where the pool is.
    method : str
        A spec of the active-learning loop.
    features, probabilities : str or None
        As the user named the columns.
    label : str
        The column of labels.
    seed : int
        For whatever is random.
    data : str
        Names the pool's numbers; empty before they have been seen.
    rounds : int
        How many are finished.
    asked : int array (asked,)
        Rows that were handed out, in this order.
    labels : dict of int to str
        What came back for them.
    memory : dict
        What the method remembers (:class:`~fewer.labels.loop.Round`).
    """

    pool: str
    method: str
    features: str | None
    probabilities: str | None
    label: str
    seed: int
    data: str = ""
    rounds: int = 0
    asked: Int[np.ndarray, " asked"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    labels: dict[int, str] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    def save(self, state: Path) -> None:
        """Write the state file."""
        checkpoint.save(state, {"kind": FORMAT, "annotation": vars(self)})

    def recognise(self, pool: Pool) -> None:
        """Make sure that the pool is the one the rounds were begun on.

        Raises
        ------
        FewerError
            If its numbers are others; names, texts and labels may have changed.
        """
        arrays = [array for array in (pool.features, pool.probabilities) if array is not None]
        data = fingerprint(*(fingerprint(part) for array in arrays for _, part in parts(array)))
        if self.data and data != self.data:
            raise FewerError(
                f"{self.pool} does not hold the numbers that the rounds were begun with; go on with that pool, "
                "or begin anew with another --state"
            )
        self.data = data

    def take_back(self, path: Path) -> None:
        """Add the labels of a table that was handed out; a later label corrects an earlier one.

        Raises
        ------
        FewerError
            If the file cannot be read, names a row that was not asked for, or labels one in two ways.
        """
        asked = set(self.asked.tolist())
        found: dict[int, str] = {}
        for row, name in returned(path, self.label):
            if row not in asked:
                raise FewerError(f"{path}: row {row} was never asked for; give back a table that was handed out")
            if found.setdefault(row, name) != name:
                raise FewerError(f"{path}: row {row} is labelled both {found[row]!r} and {name!r}; decide for one")
        self.labels |= found


def resume(
    state: Path,
    pool: str | None,
    method: str | None,
    features: str | None,
    probabilities: str | None,
    label: str | None,
    seed: int | None,
) -> Annotation:
    """Go on from a state file.

    The pool may have been moved and the method may change; the rest stays as it was begun.

    Raises
    ------
    FewerError
        If the file is damaged or something else, or what is given differs from what was begun.
    """
    tree = checkpoint.load(state)
    if not isinstance(tree, dict) or tree.get("kind") != FORMAT:
        raise FewerError(f"{state} is no state of 'fewer select'; give another --state")
    annotation = Annotation(**tree["annotation"])
    given = {"features": features, "probabilities": probabilities, "label": label, "seed": seed}
    for name, value in given.items():
        begun = getattr(annotation, name)
        if value is not None and value != begun:
            raise FewerError(
                f"the rounds in {state} were begun with {name} {begun!r}, not {value!r}; leave --{name} out, "
                "or begin anew with another --state"
            )
    annotation.pool = pool or annotation.pool
    annotation.method = method or annotation.method
    return annotation


def returned(path: Path, label: str) -> list[tuple[int, str]]:
    """Read the labels in a table that was handed out: pairs of a row and its label, blanks left out.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.parquet`` or ``.npz`` file.
    label : str
        The column of labels; the rows' numbers are in ``row``.

    Raises
    ------
    FewerError
        If it is missing or cannot be read, lacks a column, or has a label without a row.
    """
    if path.suffix.lower() not in (".csv", ".parquet", ".npz"):
        raise FewerError(f"cannot read labels from {path}; save them as CSV in UTF-8 (or as .parquet or .npz)")
    if not path.is_file():
        raise FewerError(f"there is no file {path}; give the table that was handed out, with its labels filled in")
    pairs: list[tuple[int, str]] = []
    with reading(path):
        for numbers, names in _columns(path, "row", label):
            for number, name in zip(map(class_name, numbers), map(class_name, names), strict=True):
                if name and not number.isdecimal():
                    raise FewerError(f"{path}: {number!r} is no row number; leave the column 'row' as it was")
                if name:
                    pairs.append((int(number), name))
    return pairs


def _columns(path: Path, *wanted: str) -> list[list[list[Any]]]:
    """The values of some columns, a batch at a time."""
    arrays = mapped(path) if path.suffix.lower() == ".npz" else None
    table = TableFile.open(path) if arrays is None else None
    known = table.schema.names if table is not None else list(arrays or ())
    for name in wanted:
        if name not in known:
            raise FewerError(
                f"{path} has no column {name!r} ({nearest(name, known)}); give back the table that was handed out"
            )
    if arrays is not None:
        return [[arrays[name].tolist() for name in wanted]]
    assert table is not None
    return [[batch.column(name).to_pylist() for name in wanted] for _, batch in table.batches(wanted)]
