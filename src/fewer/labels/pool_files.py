"""A user's pool on disk as arrays, also when it is larger than memory: CSV, Parquet, NPZ or NPY.

The numbers are laid down as float32 in temporary files without a name, which the system takes away
whatever happens, and are mapped into memory: a strategy may go through them as often as it likes.
What else is in the pool (names, texts, dates) stays there, and is fetched for the chosen rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError, nearest
from fewer.labels.on_disk import OnDisk, parts
from fewer.labels.pool_arrays import array_codes, as_rows, mapped
from fewer.labels.pool_columns import (
    Columns,
    choose_columns,
    first_word,
    is_number,
    is_vector,
    label_codes,
    numbers,
)
from fewer.labels.pool_tables import TableFile, reading
from fewer.labels.queries import check_probabilities

FORMATS = (".csv", ".parquet", ".npz", ".npy")
FEATURES, PROBABILITIES = ("features", "x", "X"), ("probabilities", "p", "proba")
"""What the arrays of an NPZ file are usually called."""


@dataclass(frozen=True)
class Pool:
    """A pool that has been opened.

    Parameters
    ----------
    source : TableFile or mapping of str to array
        The user's file: a table, or arrays by name.
    rows : int
        How many there are.
    columns : Columns
        What is used as what.
    features : float array (rows, ...), optional
        A memory map.
    probabilities : float array (rows, classes), optional
        A memory map.
    labels : int array (rows,)
        Positions in ``names``; -1 where the row has no label.
    names : tuple of str
        The labels that occur.
    classes : tuple of str
        What the probabilities are probabilities of: the ends of the columns' names, or 0, 1, ... for an array.
    """

    source: TableFile | Mapping[str, np.ndarray]
    rows: int
    columns: Columns
    features: Float[np.ndarray, "rows ..."] | None
    probabilities: Float[np.ndarray, "rows classes"] | None
    labels: Int[np.ndarray, " rows"]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def take(self, rows: Int[np.ndarray, " rows"], typed: bool = False) -> pa.Table:
        """Fetch some rows with all they have, in the order given.

        Parameters
        ----------
        rows : int array (rows,)
            Their numbers.
        typed : bool, default False
            Turn the columns of a CSV file, which are texts as they stand there, into what they stand for.

        Returns
        -------
        pyarrow Table
            Of NumPy files the arrays that have a row for each of the pool's; lists where they have more
            dimensions than one.
        """
        if isinstance(self.source, TableFile):
            with reading(self.source.path):
                return self.source.take(rows, typed)
        return _as_table(self.take_arrays(rows))

    def take_arrays(self, rows: Int[np.ndarray, " rows"]) -> dict[str, np.ndarray]:
        """Fetch some rows as arrays by name, in the order given: of a table, all features as one array."""
        if isinstance(self.source, TableFile):
            return _as_arrays(self.take(rows, typed=True), self.columns)
        return {name: array[rows] for name, array in self.source.items() if array.shape[:1] == (self.rows,)}


def open_pool(
    path: Path, *, features: str | None = None, probabilities: str | None = None, label: str = "label"
) -> Pool:
    r"""Open a user's pool.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.parquet``, ``.npz`` or ``.npy`` file.
    features : str, optional
        Names or patterns of the columns of features, ``"f_*,age"``; by default all columns of numbers,
        or of lists of numbers of one length, that are nothing else and not called like an identifier
        (``id``, ``user_id``, ``row`` ...).  In an NPZ file the name of the array, by default
        ``features``, ``x`` or ``X``.
    probabilities : str, optional
        Likewise for class probabilities; by default the columns ``p_*``, if they are distributions.
        In an NPZ file ``probabilities``, ``p`` or ``proba``; an NPY file holds probabilities if this
        is given at all.
    label : str, default "label"
        The column of labels, blank where there is none; it need not exist.  In an NPZ file -1 among
        whole numbers is blank, as in scikit-learn.

    Returns
    -------
    Pool
        Columns of numbers are centred and scaled by the pool, as in a race on a table; lists and
        arrays are left as they are, except that bytes are divided by 255.

    Raises
    ------
    FewerError
        If the file is missing, empty, damaged or of another format, or a number is missing, infinite
        or no number, or a row of probabilities is no distribution (the row is named).

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "pool.csv"
    >>> _ = file.write_text("id,age,p_cat,p_dog,label\n7,31,0.5,0.5,\n8,45,0.9,0.1,cat\n")
    >>> pool = open_pool(file)
    >>> print(pool.columns)
    features age; probabilities p_cat, p_dog; left out id
    >>> pool.labels, pool.names, pool.classes
    (array([-1,  0]), ('cat',), ('cat', 'dog'))
    """
    if path.suffix.lower() not in FORMATS:
        raise FewerError(f"cannot read {path}: a pool is a {', '.join(FORMATS)} file; save it as one of them")
    if not path.is_file():
        raise FewerError(f"there is no file {path}; give the path of the pool")
    with reading(path):
        if path.suffix.lower() in (".npz", ".npy"):
            return _open_arrays(path, features, probabilities, label)
        return _open_table(path, features, probabilities, label)


# --- tables --------------------------------------------------------------------------------------


def _open_table(path: Path, features: str | None, probabilities: str | None, label: str) -> Pool:
    table = TableFile.open(path)
    columns = choose_columns(table, features, probabilities, label)
    uses = [names for names in (columns.features, columns.probabilities) if names]
    wanted = [*columns.features, *columns.probabilities]
    files = {names: OnDisk() for names in uses}
    known: dict[str, int] = {}
    codes: list[np.ndarray] = []
    rows = 0
    try:
        for first, batch in table.batches([columns.label] if columns.label else [], wanted):
            for names in uses:
                files[names].write(_block(batch, names, first, path))
            if columns.label:
                codes.append(label_codes(batch.column(columns.label), known))
            rows = first + len(batch)
    except pa.ArrowInvalid as error:
        word = first_word(table, wanted) if table.separator else None  # only a second look tells where it is
        if word is None:
            raise
        raise word from error
    maps = {names: files[names].mapped() for names in uses}
    x, chance = maps.get(columns.features), maps.get(columns.probabilities)
    if x is not None:
        _standardise(x, _single(table, columns.features))
    if chance is not None:
        _check(chance, path)
    labels = np.concatenate(codes) if codes else np.full(rows, -1)
    return Pool(table, rows, columns, x, chance, labels, tuple(known), columns.classes)


def _block(batch: pa.RecordBatch, names: Sequence[str], first: int, path: Path) -> Float[np.ndarray, "rows width"]:
    columns = [numbers(batch.column(name), name) for name in names]
    for name, column in zip(names, columns, strict=True):
        bad = ~np.isfinite(column).all(axis=1)
        if bad.any():
            raise FewerError(
                f"{path}: column {name!r} has no number, or none that is finite, in row {first + bad.argmax()} "
                "(the first is 0); fill it, or name the columns to use with --features"
            )
    return np.concatenate(columns, axis=1)


def _single(table: TableFile, names: Sequence[str]) -> Bool[np.ndarray, " features"]:
    """Mark the features that are a column of their own, and no part of a list."""
    if not any(is_vector(table.schema.field(name).type) for name in names):
        return np.ones(len(names), dtype=bool)
    _, head = next(table.batches((), names))
    columns = [head.column(name) for name in names]
    return np.concatenate([np.full(numbers(each, "").shape[1], not is_vector(each.type)) for each in columns])


def _standardise(x: Float[np.ndarray, "rows features"], single: Bool[np.ndarray, " features"]) -> None:
    """Centre and scale the ``single`` columns in place."""
    count, mean, moment = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _, part in parts(x):  # means and sums of squares of two parts make those of both
        shift = part.mean(axis=0, dtype=np.float64) - mean
        moment += part.var(axis=0, dtype=np.float64) * len(part) + shift**2 * (count * len(part) / (count + len(part)))
        count += len(part)
        mean += shift * len(part) / count
    deviation = np.sqrt(moment / count)
    scale = np.where(single & (deviation > 0), deviation, 1)  # a constant column is only centred
    for first, part in parts(x):
        x[first : first + len(part)] = (part - np.where(single, mean, 0)) / scale


def _check(probabilities: Float[np.ndarray, "rows classes"], path: Path) -> None:
    for first, part in parts(probabilities):
        try:
            check_probabilities(part, np.arange(first, first + len(part)))
        except FewerError as error:
            raise FewerError(f"{path}: {error}") from error


def _as_arrays(table: pa.Table, columns: Columns) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in columns.others:
        column: Any = table.column(name).combine_chunks()
        if not pa.types.is_nested(column.type):
            plain = is_number(column.type) and not column.null_count
            texts = pa.array([]) if plain else pc.cast(column, pa.string()).fill_null("")
            arrays[name] = column.to_numpy() if plain else np.array(texts.to_pylist(), dtype=str)
    for use, names in (("features", columns.features), ("probabilities", columns.probabilities)):
        if names:
            arrays[use] = np.concatenate([numbers(table.column(n).combine_chunks(), n) for n in names], axis=1)
    return arrays


def _as_table(arrays: Mapping[str, np.ndarray]) -> pa.Table:
    columns = {}
    for name, array in arrays.items():
        values = pa.array(np.ascontiguousarray(array).ravel())
        columns[name] = (
            values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, len(values) // len(array))
        )
    return pa.table(columns)


# --- NumPy files ---------------------------------------------------------------------------------


def _open_arrays(path: Path, features: str | None, probabilities: str | None, label: str) -> Pool:
    arrays = mapped(path)
    names = tuple(arrays)
    if path.suffix.lower() == ".npy":
        x_name, chance_name = (None, names[0]) if probabilities else (names[0], None)
    else:
        x_name = _array_name(features, FEATURES, names, path)
        chance_name = _array_name(probabilities, PROBABILITIES, names, path)
    if x_name is None and chance_name is None:
        raise FewerError(f"{path} holds {', '.join(names) or 'no array'}; name one with --features or --probabilities")
    x, chance = (as_rows(arrays[name], name, path) if name else None for name in (x_name, chance_name))
    lengths = {len(array) for array in (x, chance) if array is not None}
    codes, known = np.full(max(lengths), -1), {}
    if label in names and label not in (x_name, chance_name):
        codes = array_codes(arrays[label], known)
        lengths |= {len(codes)}
    if len(lengths) > 1:
        raise FewerError(f"{path}: its arrays have {' and '.join(map(str, sorted(lengths)))} rows; give all as many")
    if chance is not None:
        if chance.ndim != 2:
            raise FewerError(f"{path}: {chance_name!r} has the shape {chance.shape}; give one column a class")
        _check(chance, path)
    columns = Columns(
        (x_name,) if x_name else (),
        (chance_name,) if chance_name else (),
        label if label in names else None,
        tuple(name for name in names if name not in (x_name, chance_name, label)),
    )
    classes = tuple(map(str, range(chance.shape[1]))) if chance is not None else ()
    return Pool(arrays, lengths.pop(), columns, x, chance, codes, tuple(known), classes)


def _array_name(given: str | None, usual: tuple[str, ...], names: tuple[str, ...], path: Path) -> str | None:
    if given is not None and given not in names:
        raise FewerError(f"{path} has no array {given!r}; {nearest(given, names)}")
    return given or next((name for name in usual if name in names), None)
