"""A user's table on disk, CSV or Parquet: read a batch at a time, chosen rows fetched.

Knows columns and rows, not what they are for.  Rows are counted from 0, the line of names not
included.  In a CSV file commas, semicolons or tabs stand between the columns, and texts are UTF-8.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from jaxtyping import Int

from fewer.core.errors import FewerError
from fewer.labels.on_disk import BYTES


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line what went wrong while a file was read."""
    try:
        yield
    except FewerError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        line = " ".join(str(error).split())
        raise FewerError(f"cannot read {path} ({line}); mend it, or write it anew with its texts in UTF-8") from error


@dataclass(frozen=True)
class TableFile:
    """A CSV or Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    schema : pyarrow Schema
        Names and types of its columns; in CSV guessed from the first 4 MB.
    separator : str
        What stands between the columns of a CSV file; empty for Parquet.
    """

    path: Path
    schema: pa.Schema
    separator: str

    @classmethod
    def open(cls, path: Path) -> TableFile:
        """Look at the names and types of the columns.

        Raises
        ------
        FewerError
            If the file is empty or not UTF-8, or two columns share a name.
        """
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                schema, separator = file.schema_arrow, ""
        else:
            separator = _separator(path)
            with _open_csv(path, separator) as reader:
                schema = reader.schema
        twins = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twins:
            raise FewerError(f"{path}: more than one column is called {', '.join(map(repr, twins))}; rename them")
        return cls(path, schema, separator)

    def batches(
        self, texts: Sequence[str], numbers: Sequence[str] = (), near: Int[np.ndarray, " rows"] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read some columns a batch at a time.

        Parameters
        ----------
        texts : sequence of str
            Columns; those of a CSV file come letter by letter as they stand there.
        numbers : sequence of str
            Further columns; those of a CSV file come as float64.
        near : int array, optional
            Increasing; parts of a Parquet file that have none of these rows are left out.

        Yields
        ------
        first : int
            The number of the batch's first row.
        batch : pyarrow RecordBatch
        """
        first = 0
        if not self.separator:
            with pq.ParquetFile(self.path) as file:
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group)
                    if near is None or np.diff(np.searchsorted(near, [first, first + size.num_rows]))[0]:
                        start, most = first, max(1, size.num_rows * BYTES // max(1, size.total_byte_size))
                        for batch in file.iter_batches(most, row_groups=[group], columns=[*numbers, *texts]):
                            yield start, batch
                            start += len(batch)
                    first += size.num_rows
            return
        # a column whose first numbers are whole may hold fractions later, so no type is left to guessing
        types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(texts, pa.string())
        with _open_csv(self.path, self.separator, types) as reader:
            for batch in reader:
                yield first, batch
                first += len(batch)

    def take(self, rows: Int[np.ndarray, " rows"], typed: bool = False) -> pa.Table:
        """Fetch some rows with all their columns, in the order given; see :meth:`fewer.labels.pool_files.Pool.take`."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        parts: list[pa.Table] = []
        done = 0
        for first, batch in self.batches(self.schema.names, near=ascending):
            low, high = np.searchsorted(ascending, [first, first + len(batch)])
            parts.append(pa.Table.from_batches([batch]).take(pa.array(ascending[low:high] - first)))
            done = int(high)
            if done == len(rows):
                break
        if done < len(rows):
            raise FewerError(f"{self.path} lost rows while it was read; leave it alone until the rows are written")
        table = pa.concat_tables(parts).take(pa.array(np.argsort(order, kind="stable")))
        return _typed(table, self.schema) if typed else table


def _separator(path: Path) -> str:
    """The mark that cuts the line of names into most parts: spreadsheets write semicolons in half of the world."""
    with path.open("rb") as file:
        line = file.readline(BYTES)
    if not line.strip():
        raise FewerError(f"{path} has no column names; give a table whose first line names its columns")
    try:
        names = line.decode("utf-8-sig")
        return max(",;\t", key=lambda mark: len(next(csv.reader([names], delimiter=mark))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FewerError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error


def _open_csv(path: Path, separator: str, types: Mapping[str, pa.DataType] | None = None) -> Any:
    return pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=BYTES),
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        # a gap among numbers becomes NaN, and is refused with its row; a gap among texts is an empty text
        convert_options=pa_csv.ConvertOptions(
            column_types=types or {}, include_columns=list(types or ()), strings_can_be_null=False
        ),
    )


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give the columns of a CSV file, fetched as texts, the types they were guessed to have, if nothing is lost by it.

    Whole numbers that are written in another way, such as ``007``, stay texts.
    """
    compute: Any = pc
    for place, name in enumerate(table.column_names):
        kind = schema.field(name).type
        column = table.column(name)
        if kind == column.type:
            continue
        filled = compute.if_else(compute.equal(column, ""), None, column)
        for wanted in [kind, pa.float64()] if pa.types.is_integer(kind) else [kind]:
            try:
                cast = pc.cast(filled, wanted)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
            if not pa.types.is_integer(wanted) or pc.cast(cast, pa.string()).equals(filled):
                column = cast
            break
        table = table.set_column(place, name, column)
    return table
