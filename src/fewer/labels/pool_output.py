"""Writing chosen rows to a file that people fill in: CSV, Parquet or NPZ."""

from __future__ import annotations

import contextlib
import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from fewer.core.files import write_atomically
from fewer.labels.pool_files import Pool


def write_rows(path: Path, pool: Pool, rows: Int[np.ndarray, " rows"], label: str) -> list[str]:
    """Write rows with all they have, their number, their rank, and an empty column for the label.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.parquet`` or ``.npz`` (this one without the empty column).
    pool : Pool
        Whose rows they are.
    rows : int array (rows,)
        Their numbers, the most wanted first.
    label : str
        The column of labels.

    Returns
    -------
    list of str
        Columns that this kind of file cannot hold, such as lists in CSV.
    """
    rank = np.arange(1, len(rows) + 1)
    if path.suffix.lower() == ".npz":
        write_atomically(path, _npz(pool.take_arrays(rows) | {"row": rows, "rank": rank}))
        return []
    csv_file = path.suffix.lower() == ".csv"
    table = pool.take(rows, typed=not csv_file)
    table = table.drop_columns([name for name in ("row", "rank", label) if name in table.column_names])
    for name, values in (("row", rows), ("rank", rank), (label, [""] * len(rows))):
        table = table.append_column(name, pa.array(values))
    if csv_file:
        data, unwritten = _csv(table)
    else:
        sink, unwritten = io.BytesIO(), []
        pq.write_table(table, sink)
        data = sink.getvalue()
    write_atomically(path, data)
    return unwritten


def _csv(table: pa.Table) -> tuple[bytes, list[str]]:
    columns: dict[str, list[str]] = {}
    for name in table.column_names:
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, bytes
            columns[name] = pc.cast(table.column(name), pa.string()).to_pylist()
    text = io.StringIO()
    writer: Any = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode(), [name for name in table.column_names if name not in columns]


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:  # np.savez cannot write an array called file
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return data.getvalue()
