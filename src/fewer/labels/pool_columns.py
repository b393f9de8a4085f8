"""Which column of a user's table is for what, and what its values mean.

Knows names, types and values, not files' places on disk.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError, nearest
from fewer.labels.pool_tables import TableFile
from fewer.labels.queries import check_probabilities
from fewer.tasks.files import MISSING

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_IDENTIFIER = re.compile(r"|id|row|rank|index|unnamed: \d+|__index_level_\d+__|.*_id", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """What the columns of a table, or the arrays of a NumPy file, are for.

    Parameters
    ----------
    features, probabilities : tuple of str
        In the order of the file; empty where there are none.
    label : str, optional
        The column of labels, if there is one.
    others : tuple of str
        What is left.

    Examples
    --------
    >>> str(Columns(("age", "pay"), (), "label", ("name",)))
    'features age, pay; left out name'
    """

    features: tuple[str, ...]
    probabilities: tuple[str, ...]
    label: str | None
    others: tuple[str, ...]

    def __str__(self) -> str:
        uses = {"features": self.features, "probabilities": self.probabilities, "left out": self.others}
        return "; ".join(f"{use} {_shown(names)}" for use, names in uses.items() if names)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the probability columns are called after the first underscore, where all share what is before it."""
        parts = [name.partition("_") for name in self.probabilities]
        shared = len({head for head, _, _ in parts}) == 1 and all(tail for _, _, tail in parts)
        return tuple(tail for _, _, tail in parts) if shared else self.probabilities


def _shown(names: tuple[str, ...]) -> str:
    named = [name or "(a column without a name)" for name in names]
    return ", ".join(named) if len(named) <= 6 else f"{', '.join(named[:3])}, … {named[-1]} ({len(named)} columns)"


def choose_columns(table: TableFile, features: str | None, probabilities: str | None, label: str) -> Columns:
    """Find the columns that are meant (see :func:`fewer.labels.pool_files.open_pool`).

    Raises
    ------
    FewerError
        If a name or pattern fits no column of numbers, or a column of a CSV file has a word among its numbers.
    """
    _, head = next(table.batches(table.schema.names if table.separator else ()), (0, None))
    if head is None or not len(head):
        raise FewerError(f"{table.path} has no rows; give a pool with at least one")
    numeric = [field.name for field in table.schema if is_number(field.type) or is_vector(field.type)]
    numeric = [name for name in numeric if name != label]
    if features:
        chosen = _named(table, features, numeric, head)
    else:
        _refuse_strays(table, head, label)
        chosen = [name for name in numeric if not _IDENTIFIER.fullmatch(name)]
    if probabilities:
        chance = _named(table, probabilities, numeric, head)
    else:
        chance = _distributions(table, [name for name in numeric if not features or name not in chosen])
    chosen = [name for name in chosen if name not in chance]
    if not chosen and not chance:
        raise FewerError(
            f"{table.path} has no column of numbers to choose by (its columns: {_shown(tuple(table.schema.names))}); "
            "add features or probabilities, or name them with --features or --probabilities"
        )
    used = {*chosen, *chance, label}
    others = tuple(name for name in table.schema.names if name not in used)
    return Columns(tuple(chosen), tuple(chance), label if label in table.schema.names else None, others)


def is_number(kind: pa.DataType) -> bool:
    """Say whether a column of this type holds numbers; truth values and dates are none."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_vector(kind: pa.DataType) -> bool:
    """Say whether a column of this type holds lists of numbers."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and is_number(kind.value_type)


def _named(table: TableFile, patterns: str, numeric: list[str], head: pa.RecordBatch) -> list[str]:
    """Columns by name or pattern; a name must be a column of numbers, a pattern takes those it fits."""
    found: list[str] = []
    for pattern in map(str.strip, patterns.split(",")):
        if pattern in table.schema.names and pattern not in numeric:
            error = _word(table, pattern, 0, head.column(pattern)) if table.separator else None
            raise error or FewerError(f"{table.path}: column {pattern!r} cannot be used as numbers; leave it out")
        hits = [pattern] if pattern in numeric else fnmatch.filter(numeric, pattern)
        if not hits:
            raise FewerError(f"{table.path} has no column of numbers {pattern!r}; {nearest(pattern, numeric)}")
        found += [name for name in hits if name not in found]
    return found


def _refuse_strays(table: TableFile, head: pa.RecordBatch, label: str) -> None:
    """Refuse a CSV column that passes for texts although most of it is numbers."""
    for field in table.schema:
        if table.separator and pa.types.is_string(field.type) and field.name != label:
            column = head.column(field.name)
            error = _word(table, field.name, 0, column)
            if error is not None and np.count_nonzero(_words(column)) < np.count_nonzero(_match_numbers(column)):
                raise error


def first_word(table: TableFile, columns: Sequence[str]) -> FewerError | None:
    """Make the error that names what stands in a CSV file where a number should; None if nothing does."""
    words = (
        _word(table, name, first, batch.column(name)) for first, batch in table.batches(columns) for name in columns
    )
    return next((word for word in words if word is not None), None)


def _word(table: TableFile, name: str, first: int, column: Any) -> FewerError | None:
    wrong = _words(column)
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    text = column[row].as_py()
    return FewerError(
        f"{table.path}: column {name!r} holds {text[:40]!r} in row {first + row} (the first is 0), which is no number; "
        "mend it, or name the columns to use with --features"
    )


def _words(texts: Any) -> Bool[np.ndarray, " rows"]:
    """Mark the texts that are neither a number nor a gap."""
    compute: Any = pc
    gap = compute.is_in(texts, pa.array([*pa_csv.ConvertOptions().null_values, *MISSING]))
    return ~(_match_numbers(texts) | gap.to_numpy(zero_copy_only=False).astype(bool))


def _match_numbers(texts: Any) -> Bool[np.ndarray, " rows"]:
    compute: Any = pc
    return compute.match_substring_regex(texts, _NUMBER).to_numpy(zero_copy_only=False).astype(bool)


def _distributions(table: TableFile, names: list[str]) -> list[str]:
    """Those called ``p_...``, if they are together a distribution in each of the first rows; else none."""
    names = [name for name in names if name.startswith("p_") and is_number(table.schema.field(name).type)]
    if len(names) < 2:
        return []
    _, head = next(table.batches((), names))
    try:
        check_probabilities(np.concatenate([numbers(head.column(name), name) for name in names], axis=1))
    except FewerError:
        return []
    return names


# --- values --------------------------------------------------------------------------------------


def numbers(column: Any, name: str) -> Float[np.ndarray, "rows width"]:
    """A column as float32; a column of lists is as wide as its lists.  Gaps are NaN.

    Raises
    ------
    FewerError
        If lists differ in length.
    """
    width = 1
    if is_vector(column.type):
        compute: Any = pc
        lengths = np.unique(compute.list_value_length(column).to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or not lengths[0] > 0:
            raise FewerError(f"column {name!r} holds lists of different lengths, or none; give every row one as long")
        width = int(lengths[0])
        column = column.flatten()
    if pa.types.is_decimal(column.type):
        column = pc.cast(column, pa.float64())
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused with its row
        return column.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)


def class_name(value: object) -> str:
    """What a label says; empty where it says nothing.

    Whole numbers are written as such: a table that has blanks makes fractions of them.

    Examples
    --------
    >>> class_name(" cat "), class_name("3.0"), class_name(None), class_name("nan")
    ('cat', '3', '', '')
    """
    text = "" if value is None else str(value).strip()
    if text in MISSING:
        return ""
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0*", text) else text


def label_codes(values: Any, names: dict[str, int]) -> Int[np.ndarray, " rows"]:
    """Number labels by their names, -1 where blank; new names are added to ``names``.

    Examples
    --------
    >>> names = {}
    >>> label_codes(pa.array(["cat", "", "dog", None, "cat"]), names), names
    (array([ 0, -1,  1, -1,  0]), {'cat': 0, 'dog': 1})
    """
    encoded = pc.cast(values, pa.string()).dictionary_encode()
    texts = [class_name(text) for text in encoded.dictionary.to_pylist()]
    numbered = np.array([names.setdefault(text, len(names)) if text else -1 for text in texts] + [-1])
    return numbered[encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]
