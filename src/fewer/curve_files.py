"""Learning curves as people have them: a CSV file, TensorBoard's event files, our own store of races."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

from fewer.core.curve import Curve
from fewer.core.errors import FewerError, nearest
from fewer.event_files import is_event_file, scalars

SPENT = ("samples", "spent", "labels", "step", "steps", "epoch", "epochs", "rows")
SCORE = ("score", "accuracy", "value", "loss")


@dataclass(frozen=True)
class Measured:
    """What a file holds.

    Parameters
    ----------
    curves : tuple of Curve
        One for each run.
    metric, unit : str
        What the scores and the samples are.
    """

    curves: tuple[Curve, ...]
    metric: str
    unit: str


def read(
    path: str | os.PathLike[str],
    *,
    columns: tuple[str, str] | None = None,
    tag: str | None = None,
    race: str | None = None,
    entry: str | None = None,
) -> Measured:
    r"""Read the curves of a file or folder, by what it is.

    Parameters
    ----------
    path : path
        A CSV file; an event file, or a folder with event files in it or in its folders; a store of races.
    columns : pair of str, optional
        Of a CSV file: the column of samples and that of scores.  By default those with a usual name
        (:data:`SPENT`, :data:`SCORE`), or the two of a file that has two.  A column ``run`` tells runs apart.
    tag : str, optional
        Of event files: which scalar; may be left out where there is one.
    race : str, optional
        Of a store: the first characters of a race's name; by default the newest race.
    entry : str, optional
        Of a store: whose runs; may be left out where there is one entry.

    Raises
    ------
    FewerError
        If the file cannot be read, or it is not clear what in it to take.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "curve.csv"
    >>> _ = file.write_text("samples,score\n10,0.5\n20,0.7\n")
    >>> read(file).curves[0].final
    0.7
    """
    path = Path(path)
    if not path.exists():
        raise FewerError(f"there is no file {path}; give a CSV file, a folder of event files or a store of races")
    if path.is_dir() or is_event_file(path):
        return _events(path, tag)
    with open(path, "rb") as file:
        begins = file.read(16)
    return _store(path, race, entry) if begins == b"SQLite format 3\x00" else _csv(path, columns)


def _csv(path: Path, columns: tuple[str, str] | None) -> Measured:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FewerError(f"{path} cannot be read as CSV ({error}); save it as CSV in UTF-8") from error
    if not rows:
        raise FewerError(f"{path} is empty; give rows of samples and score")
    names = [cell.strip() for cell in rows[0]]
    if all(map(_is_number, names)):
        names = ["samples", "score"] if len(names) == 2 else [str(place + 1) for place in range(len(names))]
    else:
        rows = rows[1:]
    spent, score = _chosen(path, names, columns)
    runs: dict[str, list[tuple[int, float]]] = {}
    for line, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise FewerError(f"{path}: row {line} has {len(row)} cells, the first line has {len(names)}; mend it")
        cells = dict(zip(names, (cell.strip() for cell in row), strict=True))
        if not cells[score]:
            continue  # logs write several measures, each on its own rows
        if not (_is_number(cells[spent]) and _is_number(cells[score])) or not float(cells[spent]).is_integer():
            raise FewerError(
                f"{path}: row {line} has {cells[spent]!r} samples and score {cells[score]!r}; samples must be whole "
                "numbers and scores finite ones"
            )
        runs.setdefault(cells.get("run", ""), []).append((int(float(cells[spent])), float(cells[score])))
    if not runs:
        raise FewerError(f"{path} has no row with a score; give rows of samples and score")
    return Measured(
        tuple(_curve(pairs, f"{path}, run {run}" if run else str(path)) for run, pairs in runs.items()),
        score,
        spent if spent.endswith("s") else f"{spent}s" if spent != "spent" else "samples",
    )


def _chosen(path: Path, names: list[str], columns: tuple[str, str] | None) -> tuple[str, str]:
    if columns is not None:
        for column in columns:
            if column not in names:
                raise FewerError(f"{path} has no column {column!r}; {nearest(column, names)}")
        return columns
    lower = {name.lower(): name for name in names}
    spent = next((lower[name] for name in SPENT if name in lower), None)
    score = next((lower[name] for name in SCORE if name in lower), None)
    if (spent is None or score is None) and len(names) == 2:
        spent, score = names
    if spent is None or score is None or spent == score:
        raise FewerError(
            f"{path} has the columns {', '.join(names)}; say which are the samples and the score: --columns A,B"
        )
    return spent, score


def _events(path: Path, tag: str | None) -> Measured:
    runs = [path]
    if path.is_dir():
        runs = sorted({file.parent for file in path.rglob("*tfevents*") if is_event_file(file)})
    if not runs:
        raise FewerError(f"there is no event file in {path}; give the folder that TensorBoard is shown")
    found = {run: scalars(run) for run in runs}
    tags = sorted({name for each in found.values() for name in each})
    if tag is None:
        if len(tags) != 1:
            raise FewerError(f"{path} has the scalars {', '.join(tags) or '(none)'}; say which one: --tag NAME")
        tag = tags[0]
    if tag not in tags:
        raise FewerError(f"{path} has no scalar {tag!r}; {nearest(tag, tags)}")
    curves = [_curve(list(each[tag].items()), str(run)) for run, each in found.items() if tag in each]
    return Measured(tuple(curves), tag, "steps")


def _store(path: Path, race: str | None, entry: str | None) -> Measured:
    from fewer.race.store import Store

    with Store(path) as store:
        known = store.races()
        if not known:
            raise FewerError(f"{path} holds no race yet; start one first")
        outcome = store.outcome(race or known[0].id)
    if entry is None and len(outcome.entries) > 1:
        raise FewerError(
            f"{path}: the race on {outcome.task} has several entries; say whose curves: --entry NAME "
            f"({', '.join(outcome.entries)})"
        )
    entry = entry or next(iter(outcome.entries))
    if entry not in outcome.entries:
        raise FewerError(
            f"{path}: the race on {outcome.task} has no entry {entry!r}; {nearest(entry, outcome.entries)}"
        )
    curves = tuple(run.curve for run in outcome.of(entry) if run.curve is not None)
    if not curves:
        raise FewerError(f"{path}: no run of {entry} has a point yet; wait for one")
    return Measured(curves, outcome.metric, outcome.unit)


def _curve(pairs: list[tuple[int, float]], where: str) -> Curve:
    try:
        return Curve.of(pairs)
    except FewerError as error:
        raise FewerError(f"{where}: {error}") from error


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
