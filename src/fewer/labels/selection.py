"""Choosing rows of a user's own pool, once or round by round with a person who labels them.

The method is a spec of the active-learning loop, ``"margin"`` or ``"mlp + hast + pcoreset"``.  Where
the pool brings class probabilities they are used; where labels have come in, the method's learner is
fitted to them and its probabilities and features are used; before that, a method that needs them
begins with rows drawn at random.

A state file remembers what was asked.  It is written after the chosen rows are, whole or not at all,
so a round that is cut off is simply asked again.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Int

from fewer import compose
from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint, write_atomically
from fewer.core.seeding import generator
from fewer.labels.learners import flat
from fewer.labels.loop import ActiveLearning, Round
from fewer.labels.pool_files import BATCH, Pool, open_pool
from fewer.labels.queries import Random


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Parameters
    ----------
    rows : int array (count,)
        Row numbers of the pool, the most wanted first.
    by : str
        How they were chosen, in words.
    labelled, left : int
        Rows with a label, and rows that may still be asked, this round's left out.
    pool : int
        All rows.
    """

    rows: Int[np.ndarray, " count"]
    by: str
    labelled: int
    left: int
    pool: int


@dataclass
class _Rounds:
    """What a state file holds."""

    pool: str
    data: str
    method: str
    columns: dict[str, str | None]
    seed: int
    rounds: int = 0
    asked: list[int] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def select(
    pool: str | Path | None,
    method: str | None,
    keep: int,
    output: str | Path,
    *,
    features: str | None = None,
    probabilities: str | None = None,
    label: str = "label",
    seed: int = 0,
    state: str | Path | None = None,
    labels: str | Path | None = None,
) -> Selected:
    """Choose rows of a pool and write them to a file.

    Parameters
    ----------
    pool : path
        CSV, Parquet, NPZ or NPY; may be larger than memory.  None to go on from ``state``.
    method : str
        A spec of the active-learning loop; None to go on from ``state``.
    keep : int
        How many rows.
    output : path
        ``.csv``, ``.parquet`` or ``.npz``: the chosen rows with all their columns, their number in
        ``row``, their rank in ``rank``, and an empty column for the label.
    features, probabilities, label : str, optional
        Columns of the pool (see :func:`fewer.labels.pool_files.open_pool`).
    seed : int, default 0
        For whatever is random.
    state : path, optional
        Remembers the rounds.  Made if it is missing; if it is there, the rounds go on.
    labels : path, optional
        A table that was handed out, with labels filled in; blank ones are taken as skipped.

    Returns
    -------
    Selected

    Raises
    ------
    FewerError
        If something is missing, does not fit, or cannot be read or written; no file is changed then.
    """
    output = Path(output)
    if output.suffix not in (".csv", ".parquet", ".npz"):
        raise FewerError(f"cannot write {output}: choose a .csv, .parquet or .npz file")
    if keep < 1:
        raise FewerError(f"--keep is {keep}; ask for one row or more")
    if labels is not None and state is None:
        raise FewerError("labels come back to the rounds they were asked in; give --state, as when they were asked")
    rounds = _begin(pool, method, features, probabilities, label, seed, Path(state) if state is not None else None)
    loop = compose.loop(rounds.method)
    if not isinstance(loop, ActiveLearning):
        raise FewerError(
            f"{rounds.method} does not choose rows to label; 'fewer tasks' lists what does (labels: query)"
        )
    with tempfile.TemporaryDirectory(prefix="fewer-") as spool:
        opened = open_pool(
            Path(rounds.pool),
            Path(spool),
            features=rounds.columns["features"],
            probabilities=rounds.columns["probabilities"],
            label=str(rounds.columns["label"]),
        )
        data = _fingerprint(opened)
        if rounds.data and data != rounds.data:
            raise FewerError(
                f"{rounds.pool} has changed since {state} was begun; go on with the same pool, or begin anew"
            )
        rounds.data = data
        if labels is not None:
            rounds.labels |= _returned(Path(labels), str(rounds.columns["label"]), set(rounds.asked))
        known = opened.labels | rounds.labels
        chosen, by = _choose(loop, opened, known, rounds, keep)
        _write(output, opened, chosen, str(rounds.columns["label"]))
        if state is not None:
            rounds.rounds += 1
            rounds.asked += chosen.tolist()
            checkpoint.save(state, {"rounds": vars(rounds)})
        taken = len(set(known) | set(rounds.asked) | set(chosen.tolist()))
        return Selected(chosen, by, len(known), opened.rows - taken, opened.rows)


def _begin(
    pool: str | Path | None,
    method: str | None,
    features: str | None,
    probabilities: str | None,
    label: str,
    seed: int,
    state: Path | None,
) -> _Rounds:
    """Start rounds, or take up those of a state file."""
    if state is None or not state.exists():
        if pool is None or method is None:
            missing = "a pool" if pool is None else "--method"
            raise FewerError(f"{missing} is needed to begin; give it, or the --state of rounds that have begun")
        columns = {"features": features, "probabilities": probabilities, "label": label}
        return _Rounds(str(Path(pool).absolute()), "", method, columns, seed)
    rounds = _Rounds(**checkpoint.load(state)["rounds"])
    if pool is not None and str(Path(pool).absolute()) != rounds.pool:
        raise FewerError(
            f"{state} was begun on {rounds.pool}, not on {pool}; leave the pool out, or use another --state"
        )
    if method is not None:
        rounds.method = method  # a person may change their mind between rounds
    return rounds


def _fingerprint(pool: Pool) -> str:
    """Name the numbers of a pool, a part at a time."""
    parts = [str(pool.rows)]
    for array in (pool.features, pool.probabilities):
        if array is not None:
            parts += [fingerprint(np.ascontiguousarray(array[i : i + BATCH])) for i in range(0, len(array), BATCH)]
    return fingerprint(*parts)


def _choose(
    loop: ActiveLearning, pool: Pool, known: dict[int, str], rounds: _Rounds, keep: int
) -> tuple[np.ndarray, str]:
    classes = sorted(set(known.values()) | set(pool.classes if _named(pool, known) else ()))
    rows = np.array(sorted(known), dtype=np.int64)
    free = np.ones(pool.rows, dtype=bool)
    free[rows] = False
    free[rounds.asked] = False
    unlabelled = np.flatnonzero(free)
    if keep > len(unlabelled):
        raise FewerError(
            f"{keep} rows were asked for but only {len(unlabelled)} of {pool.rows} are neither labelled nor asked already; "
            "lower --keep or add rows"
        )
    x = pool.features if pool.features is not None else pool.probabilities
    assert x is not None
    round = Round(
        index=rounds.rounds,
        classes=max(len(classes), 2),
        x=x,
        labelled=rows,
        labels=np.array([classes.index(known[row]) for row in rows.tolist()], dtype=np.int64),
        unlabelled=unlabelled,
        rng=generator(rounds.seed, "select", rounds.rounds),
        seed=rounds.seed,
        memory=rounds.memory,
        given_probabilities=pool.probabilities,
        given_features=pool.features,
    )
    if pool.probabilities is None and len(set(known.values())) > 1:
        return _with_model(loop, round, keep)
    try:
        return loop.query.choose(round, keep), f"{rounds.method}, on the pool's own columns"
    except FewerError:
        if pool.probabilities is not None or rounds.rounds or known:
            raise
        # a method that needs a model, and nothing to fit one to: a person has to begin somewhere
        return Random().choose(round, keep), "drawn at random, since there are no labels yet to fit a model to"


def _named(pool: Pool, known: dict[int, str]) -> bool:
    return bool(pool.classes) and set(known.values()) <= set(pool.classes)


def _with_model(loop: ActiveLearning, round: Round, keep: int) -> tuple[np.ndarray, str]:
    """Fit the method's learner to the labels, and let the method choose by the fitted model."""
    flat(round.x[:1])
    round.given_features = None  # from here on the model's own
    bare = round
    round.refit = lambda examples, start: loop.learner.fit(examples, bare, start)
    round.model = loop.learner.fit(round.examples, round)
    extra = loop.pseudo.label(round) if loop.pseudo is not None else None
    note = ""
    if extra is not None and len(extra):
        model = loop.learner.fit(round.examples.and_(extra), round, round.model)
        round = Round(**{name: getattr(round, name) for name in round.__dataclass_fields__} | {"model": model})
        note = f" and {len(extra)} pseudo-labels"
    return loop.query.choose(round, keep), f"by a model fitted to {len(round.labelled)} labels{note}"


def _returned(path: Path, label: str, asked: set[int]) -> dict[int, str]:
    """Read the labels that came back."""
    if not path.is_file():
        raise FewerError(f"there is no file {path}; give the table that was handed out, with its labels filled in")
    try:
        if path.suffix == ".parquet":
            table = pa.parquet.read_table(path)
        else:
            names = pa.csv.read_csv(path).column_names
            options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
            table = pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise FewerError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    for name in ("row", label):
        if name not in table.column_names:
            raise FewerError(f"{path} has no column {name!r}; give back the table that was handed out, with both")
    found: dict[int, str] = {}
    for number, value in zip(table.column("row").to_pylist(), table.column(label).to_pylist(), strict=True):
        text = "" if value is None else str(value).strip()
        try:
            row = int(number)
        except (TypeError, ValueError):
            raise FewerError(f"{path}: {number!r} is not a row number; leave the column 'row' as it was") from None
        if row not in asked:
            raise FewerError(f"{path}: row {row} was never asked; give back the table that was handed out")
        if text and found.setdefault(row, text) != text:
            raise FewerError(f"{path}: row {row} is labelled both {found[row]!r} and {text!r}; decide for one")
    return found


def _write(path: Path, pool: Pool, rows: np.ndarray, label: str) -> None:
    table = pool.take(rows.tolist())
    for name, values in (("row", pa.array(rows)), ("rank", pa.array(np.arange(1, len(rows) + 1)))):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    if label not in table.column_names:
        table = table.append_column(label, pa.array([""] * len(rows)))
    data = io.BytesIO()
    if path.suffix == ".csv":
        pa.csv.write_csv(table, data)
    elif path.suffix == ".parquet":
        pa.parquet.write_table(table, data)
    else:
        arrays = {"features": pool.features, "probabilities": pool.probabilities}
        kept = {name: np.asarray(array[rows]) for name, array in arrays.items() if array is not None}
        np.savez(data, row=rows, **kept)
    write_atomically(path, data.getvalue())
