"""A user's pool on disk, as arrays: CSV, Parquet, NPZ or NPY, also when it is larger than memory.

Tables are read a batch at a time and their numbers laid down as float32 in a temporary file, which
is then mapped into memory: a strategy may go through it as often as it likes.  What else is in the
table (names, texts, dates) stays in the user's file, and is fetched for the chosen rows alone.
"""

from __future__ import annotations

import fnmatch
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Float

from fewer.core.errors import FewerError, nearest

BATCH = 65_536
"""Rows read at a time."""

FORMATS = (".csv", ".parquet", ".npz", ".npy")
_NUMPY_FEATURES, _NUMPY_PROBABILITIES = ("features", "x", "X"), ("probabilities", "p", "proba")


@dataclass(frozen=True)
class Pool:
    """A pool that has been opened.

    Parameters
    ----------
    path : Path
        The user's file.
    rows : int
        How many there are.
    features : float array (rows, features), optional
        A memory map.
    probabilities : float array (rows, classes), optional
        A memory map.
    classes : tuple of str
        Names of the probability columns, without the part they share; empty where there are none.
    labels : dict of int to str
        Row number to label, for the rows whose label column is not blank.
    columns : tuple of str
        All columns of a table; empty for NumPy files.
    """

    path: Path
    rows: int
    features: Float[np.ndarray, "rows features"] | None
    probabilities: Float[np.ndarray, "rows classes"] | None
    classes: tuple[str, ...]
    labels: dict[int, str]
    columns: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> pa.Table:
        """Fetch some rows with all their columns, in the order given."""
        wanted = np.asarray(rows, dtype=np.int64)
        if not self.columns:
            return pa.table({"row": wanted})
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        parts, start = [], 0
        for batch in _batches(self.path, None, {}):
            inside = ascending[(ascending >= start) & (ascending < start + len(batch))] - start
            if len(inside):
                parts.append(pa.Table.from_batches([batch]).take(inside))
            start += len(batch)
        table = pa.concat_tables(parts) if parts else pa.table({name: [] for name in self.columns})
        return table.take(np.argsort(order, kind="stable")) if len(wanted) else table


def open_pool(
    path: Path, spool: Path, *, features: str | None = None, probabilities: str | None = None, label: str = "label"
) -> Pool:
    """Open a user's pool.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.parquet``, ``.npz`` or ``.npy`` file.
    spool : Path
        An existing folder for the temporary arrays; the pool is usable as long as it is there.
    features : str, optional
        Names or patterns of the feature columns, ``"f_*,age"``; by default all numeric columns that
        are not probabilities, the label, or called ``id`` or ``row``.  In an NPZ, the array's name.
    probabilities : str, optional
        Likewise for the class probabilities; by default ``"p_*"`` where there are such columns.
    label : str, default "label"
        The column of labels, blank where unknown; it need not exist.

    Returns
    -------
    Pool

    Raises
    ------
    FewerError
        If the file is missing, empty, damaged, of another format, or has a number that is missing,
        infinite or no number (the row and the column are named).
    """
    if not path.is_file():
        raise FewerError(f"there is no file {path}; give a {', '.join(FORMATS)} file")
    if path.suffix not in FORMATS:
        raise FewerError(f"cannot read {path}: pools are {', '.join(FORMATS)} files; convert it to one of them")
    try:
        if path.suffix in (".npz", ".npy"):
            return _open_numpy(path, spool, features, probabilities, label)
        return _open_table(path, spool, features, probabilities, label)
    except (pa.ArrowInvalid, OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, FewerError):
            raise
        line = " ".join(str(error).split())
        raise FewerError(f"cannot read {path}: {line}") from error


# --- tables ------------------------------------------------------------------------------------


def _open_table(path: Path, spool: Path, features: str | None, probabilities: str | None, label: str) -> Pool:
    schema = _schema(path)
    numeric = [field.name for field in schema if _is_number(field.type)]
    chance = _matching(probabilities or "p_*", schema.names, numeric, path, needed=probabilities is not None)
    others = [name for name in numeric if name not in (*chance, label, "id", "row", "rank")]
    chosen = _matching(features, schema.names, numeric, path, needed=True) if features else others
    if not chosen and not chance:
        raise FewerError(f"{path} has no numeric column; name the columns with --features or --probabilities")
    wanted = list(dict.fromkeys([*chosen, *chance, *([label] if label in schema.names else [])]))
    labels: dict[int, str] = {}
    rows = 0
    files = {"features": (spool / "features.f32").open("wb"), "probabilities": (spool / "probabilities.f32").open("wb")}
    try:
        for batch in _batches(path, wanted, dict.fromkeys([*chosen, *chance], pa.float64())):
            for name, columns in (("features", chosen), ("probabilities", chance)):
                if columns:
                    files[name].write(_numbers(batch, columns, rows, path).tobytes())
            if label in schema.names:
                labels |= {rows + i: text for i, text in enumerate(_texts(batch.column(label))) if text}
            rows += len(batch)
    finally:
        for file in files.values():
            file.close()
    if not rows:
        raise FewerError(f"{path} has no rows; give a pool with at least one")
    prefix = _shared_start(chance)
    return Pool(
        path,
        rows,
        _mapped(spool / "features.f32", rows, len(chosen)),
        _mapped(spool / "probabilities.f32", rows, len(chance)),
        tuple(name[len(prefix) :] for name in chance),
        labels,
        tuple(schema.names),
    )


def _schema(path: Path) -> pa.Schema:
    if path.suffix == ".parquet":
        return pa.parquet.ParquetFile(path).schema_arrow
    if path.stat().st_size == 0:
        raise FewerError(f"{path} is empty; give a table with a line of column names")
    with pa.csv.open_csv(path) as reader:
        return reader.schema


def _batches(path: Path, columns: list[str] | None, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        yield from pa.parquet.ParquetFile(path).iter_batches(BATCH, columns=columns)
        return
    # a column whose first numbers are whole may hold fractions later, so the type is given where it is known
    if columns is None:
        types = {name: pa.string() for name in _schema(path).names} | types
    # a missing number is NaN and refused later with its row; a missing text is a blank
    options = pa.csv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=False)
    with pa.csv.open_csv(path, convert_options=options) as reader:
        yield from reader


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _matching(patterns: str | None, names: list[str], numeric: list[str], path: Path, needed: bool) -> list[str]:
    found: list[str] = []
    for pattern in (part.strip() for part in (patterns or "").split(",")):
        hits = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if needed and not hits:
            raise FewerError(f"{path} has no column {pattern!r}; {nearest(pattern, names)}")
        for name in hits:
            if needed and name not in numeric:
                raise FewerError(
                    f"{path}: column {name!r} does not hold numbers; leave it out, or turn it into numbers"
                )
        found += [name for name in hits if name in numeric and name not in found]
    return found


def _numbers(batch: pa.RecordBatch, columns: list[str], first: int, path: Path) -> np.ndarray:
    arrays = [pc.cast(batch.column(name), pa.float32()).to_numpy(zero_copy_only=False) for name in columns]
    block = np.stack(arrays, axis=1).astype(np.float32, copy=False)
    if not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise FewerError(
            f"{path}: row {first + row} has no finite number in column {columns[column]!r} "
            f"({block[row, column]}); fill it or leave the column out"
        )
    return np.ascontiguousarray(block)


def _texts(column: pa.Array) -> list[str]:
    return ["" if value is None or value != value else str(value).strip() for value in column.to_pylist()]


def _shared_start(names: Sequence[str]) -> str:
    for pattern in ("p_", "prob_", "proba_"):
        if names and all(name.startswith(pattern) for name in names):
            return pattern
    return ""


# --- NumPy files -------------------------------------------------------------------------------


def _open_numpy(path: Path, spool: Path, features: str | None, probabilities: str | None, label: str) -> Pool:
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return _numpy_pool(path, None if probabilities else array, array if probabilities else None, {})
    with zipfile.ZipFile(path) as archive:
        known = [name.removesuffix(".npy") for name in archive.namelist()]
        chosen = _array_name(features, _NUMPY_FEATURES, known, path)
        chance = _array_name(probabilities, _NUMPY_PROBABILITIES, known, path)
        if chosen is None and chance is None:
            raise FewerError(f"{path} holds {', '.join(known)}; name the arrays with --features or --probabilities")
        maps = [_spooled(archive, name, spool) if name else None for name in (chosen, chance)]
        labels: dict[int, str] = {}
        if label in known:
            with archive.open(f"{label}.npy") as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
            labels = {
                i: str(value).strip() for i, value in enumerate(values) if str(value).strip() not in ("", "nan", "-1")
            }
    return _numpy_pool(path, *maps, labels)


def _numpy_pool(path: Path, features: Any, probabilities: Any, labels: dict[int, str]) -> Pool:
    for array in (features, probabilities):
        if array is not None and (array.ndim != 2 or array.dtype.kind not in "fiu" or not len(array)):
            raise FewerError(
                f"{path}: a pool is a table of numbers, rows by columns; this is {array.shape} of {array.dtype}"
            )
    lengths = {len(array) for array in (features, probabilities) if array is not None}
    if len(lengths) > 1 or any(row >= max(lengths) for row in labels):
        raise FewerError(f"{path}: the arrays differ in length; give one row of each to every item")
    for array in (features, probabilities):
        for start in range(0, len(array) if array is not None else 0, BATCH):
            bad = np.flatnonzero(~np.isfinite(array[start : start + BATCH]).all(axis=1))
            if len(bad):
                raise FewerError(f"{path}: row {start + bad[0]} holds NaN or infinity; fill it or drop the row")
    classes = tuple(map(str, range(probabilities.shape[1]))) if probabilities is not None else ()
    return Pool(path, lengths.pop(), features, probabilities, classes, labels, ())


def _array_name(given: str | None, usual: tuple[str, ...], known: list[str], path: Path) -> str | None:
    if given is not None and given not in known:
        raise FewerError(f"{path} has no array {given!r}; {nearest(given, known)}")
    return given or next((name for name in usual if name in known), None)


def _spooled(archive: zipfile.ZipFile, name: str, spool: Path) -> np.ndarray:
    """Lay down one array of an archive as float32, a part at a time."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read_header(file)
        if len(shape) != 2 or kind.kind not in "fiu" or fortran:
            raise FewerError(f"{name}: a pool is a table of numbers, rows by columns; this is {shape} of {kind}")
        width = shape[1] * kind.itemsize
        with (spool / f"{name}.f32").open("wb") as target:
            for start in range(0, shape[0], BATCH):
                data = file.read(min(BATCH, shape[0] - start) * width)
                target.write(np.frombuffer(data, dtype=kind).astype(np.float32).tobytes())
    mapped = _mapped(spool / f"{name}.f32", shape[0], shape[1])
    assert mapped is not None
    return mapped


def _mapped(path: Path, rows: int, columns: int) -> np.ndarray | None:
    if not columns:
        return None
    return np.memmap(path, dtype=np.float32, mode="r", shape=(rows, columns))
