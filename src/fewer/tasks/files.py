"""The user's own table: a CSV or Parquet file.

The file is read anew at each call.  What makes a table a task is in :mod:`fewer.tasks.tables`;
arrays and folders of images are read by :mod:`fewer.tasks.arrays`.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pandas as pd

from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification
from fewer.tasks.regression import Regression
from fewer.tasks.tables import Columns, Kind

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
"""What counts as a gap in a CSV file; ``None`` does not, for it may be the name of a class."""


def csv(
    path: str,
    target: str,
    *,
    features: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    categorical: str | Iterable[str] | None = None,
    text: str | None = None,
    embed: Literal["tfidf", "minilm"] | None = "tfidf",
    weak: str | None = None,
    impute: Literal["median"] | None = None,
    kind: Kind = "classification",
    metric: str | None = None,
    test: int | float = 0.2,
    separator: str = ",",
) -> Classification | Regression:
    r"""Make a task of a CSV file.

    Parameters
    ----------
    path : str
        A file in UTF-8 with the names of the columns in its first line; may be compressed (``.gz``).
    target : str
        The column with the class of each row: texts, whole numbers or truth values; or with its number.
    features, drop, categorical, text, embed, weak, impute
        What the other columns are for; see :class:`fewer.tasks.tables.Columns`.
    kind : {"classification", "regression"}, default "classification"
        Whether the target is a class or a number.
    metric : {"accuracy", "balanced accuracy", "macro-f1"}, or {"r2", "-rmse"}
        The score of classes, or of numbers; the first by default.
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, anew for each seed, classes in their shares.
    separator : str, default ","
        What stands between the columns, one character.

    Returns
    -------
    Classification or Regression
        ``x`` of shape (rows, features), standardised by the pool; texts as ``embed`` says.

    Raises
    ------
    FewerError
        If the file cannot be read, or its columns do not make a task.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "churn.csv"
    >>> _ = file.write_text("age,plan,left\n31,a,no\n45,b,yes\n28,a,no\n52,b,yes\n")
    >>> task = csv(str(file), target="left", test=2)
    >>> task.x.tolist(), task.classes
    ([[31.0, 1.0, 0.0], [45.0, 0.0, 1.0], [28.0, 1.0, 0.0], [52.0, 0.0, 1.0]], ('no', 'yes'))
    """
    file = existing(path)
    columns = Columns(target, features, drop, categorical, text, embed, weak, impute)
    return columns.task(read_csv(file, separator), file.name, metric, test, kind)


def parquet(
    path: str,
    target: str,
    *,
    features: str | Iterable[str] | None = None,
    drop: str | Iterable[str] | None = None,
    categorical: str | Iterable[str] | None = None,
    text: str | None = None,
    embed: Literal["tfidf", "minilm"] | None = "tfidf",
    weak: str | None = None,
    impute: Literal["median"] | None = None,
    kind: Kind = "classification",
    metric: str | None = None,
    test: int | float = 0.2,
) -> Classification | Regression:
    """Make a task of a Parquet file; see :func:`csv` for the arguments.

    Columns of pandas' ``category`` type are categories without being named.

    Raises
    ------
    FewerError
        If the file cannot be read, or its columns do not make a task.
    """
    file = existing(path)
    columns = Columns(target, features, drop, categorical, text, embed, weak, impute)
    return columns.task(read_parquet(file), file.name, metric, test, kind)


def existing(path: str) -> Path:
    """Give the path of a file, or say that there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise FewerError(f"no file at {file}; give its path from the folder you are in, or the whole path")
    return file


def read_parquet(file: Path) -> pd.DataFrame:
    """Read a Parquet file, or say why it cannot be read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            _refuse_twins(opened.schema_arrow.names, file.name)
            return opened.read().to_pandas()
    except (pyarrow.ArrowException, OSError) as error:
        raise FewerError(f"{file.name} cannot be read as Parquet ({first_line(error)}); write it again") from error


def read_csv(file: Path, separator: str) -> pd.DataFrame:
    """Read a CSV file, or say why it cannot be read."""
    if not isinstance(separator, str) or len(separator) != 1:
        raise FewerError(f"{file.name}: separator is {separator!r}; give one character, such as ';'")
    common = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # lines longer than the header
            header = pd.read_csv(file, header=None, nrows=1, dtype=str, index_col=False, **common)
            _refuse_twins(header.iloc[0].tolist(), file.name)
            return pd.read_csv(file, na_values=MISSING, index_col=False, low_memory=False, **common)
    except pd.errors.EmptyDataError as error:
        raise FewerError(f"{file.name} is empty; give a file with a line of column names and rows under it") from error
    except UnicodeDecodeError as error:
        raise FewerError(
            f"{file.name} is not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it in UTF-8"
        ) from error
    except pd.errors.ParserWarning as error:
        raise FewerError(f"{file.name}: a line has more values than there are column names; mend that line") from error
    except (pd.errors.ParserError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise FewerError(f"{file.name} cannot be read as CSV ({first_line(error)}); mend or replace it") from error


def _refuse_twins(names: list[str], file: str) -> None:
    twins = sorted({name for name in names if name and names.count(name) > 1})
    if twins:
        raise FewerError(f"{file}: more than one column is called {', '.join(map(repr, twins))}; rename them")


def first_line(error: BaseException) -> str:
    """The first line of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
