"""Where races are kept: one SQLite file, written by one driver, read by anybody.

A run is kept under the hash of what decides its result, apart from the races that use it, so that
a race with one more entry or seed takes up what was run before.  A point is a transaction that has
reached the disk before the point is shown.  The states of unfinished runs, which are larger and
change with each point, lie as checkpoints in a folder beside the file until their run is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint, remove_checkpoint
from fewer.core.samples import Sample, Samples
from fewer.race.database import Database
from fewer.race.outcome import Outcome, Run, Status

# "running" is no status here: a driver that is killed could not take it back
SCHEMA = """
CREATE TABLE races (
    id TEXT PRIMARY KEY, task TEXT NOT NULL, metric TEXT NOT NULL, unit TEXT NOT NULL, budget INTEGER NOT NULL,
    seeds TEXT NOT NULL, entries TEXT NOT NULL, created TEXT NOT NULL
);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, entry TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'done', 'failed', 'stopped')),
    error TEXT, traceback TEXT, started TEXT, finished TEXT
);
CREATE TABLE points (
    run TEXT NOT NULL REFERENCES runs (id), spent INTEGER NOT NULL, score REAL NOT NULL, extras TEXT NOT NULL,
    PRIMARY KEY (run, spent)
) WITHOUT ROWID;
CREATE TABLE race_runs (
    race TEXT NOT NULL REFERENCES races (id), label TEXT NOT NULL, run TEXT NOT NULL REFERENCES runs (id),
    PRIMARY KEY (race, label, run)
) WITHOUT ROWID;
"""

# beside the schema: stores from before there were samples lack it, and are stores of this version all the same
SAMPLES = """
CREATE TABLE IF NOT EXISTS samples (
    run TEXT NOT NULL REFERENCES runs (id), spent INTEGER NOT NULL, rows TEXT NOT NULL, PRIMARY KEY (run, spent)
) WITHOUT ROWID
"""


class Differs(FewerError):
    """A run gave another score than is stored for it, though equal runs give equal scores."""


@dataclass(frozen=True, slots=True)
class Race:
    """One race in a store: what was asked for, and how far it is.

    Parameters
    ----------
    id : str
        Hash of what it runs.
    created : str
        When it was first started, in UTC (ISO 8601).
    task, metric, unit, budget, seeds, entries
        As in :class:`fewer.race.outcome.Outcome`.
    done, failed : int
        How many of its ``len(entries) * len(seeds)`` runs are.
    """

    id: str
    created: str
    task: str
    metric: str
    unit: str
    budget: int
    seeds: tuple[int, ...]
    entries: Mapping[str, str]
    done: int
    failed: int


class Store:
    """The races in a file.

    Parameters
    ----------
    path : path
        The SQLite file, or ``":memory:"`` for a store that is gone when it is closed and keeps no
        checkpoints.
    write : bool, default False
        Open it as the driver of a race: the file is made if it is missing, and no second driver is
        let in until this one closes it or dies.  Readers always are.

    Raises
    ------
    FewerError
        If there is no such file (for a reader), it is damaged or another program's, cannot be
        written, or another driver has it.  Every method raises it where the disk is full or broken.

    Examples
    --------
    >>> planned = Outcome("digits", "accuracy", "labels", 20, (0,), {"a": "margin"}, (Run("a", 0, "waiting"),))
    >>> with Store(":memory:", write=True) as store:
    ...     race = store.begin(planned, ["1234"])
    ...     store.record("1234", Point(10, 0.5))
    ...     store.finish("1234")
    ...     store.outcome(race).runs[0].status
    True
    'done'
    """

    def __init__(self, path: str | os.PathLike[str], *, write: bool = False) -> None:
        self.path = Path(path)
        self.checkpoints: Path | None = None
        if str(path) != ":memory:":
            real = self.path.resolve()  # one file has one lock and one folder, by whatever name it is called
            self.checkpoints = real.with_name(f"{real.name}.checkpoints")
        self._file = Database(path, SCHEMA, write=write)
        if write:
            with self._file.writing() as db:
                db.execute(SAMPLES)
            self._sweep()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let the next driver in."""
        self._file.close()

    # --- what the driver writes ----------------------------------------------------------------

    def begin(self, planned: Outcome, hashes: Sequence[str]) -> str:
        """Note a race, and those of its runs that are new.

        Parameters
        ----------
        planned : Outcome
            The race, with all its runs.
        hashes : sequence of str
            What each run is kept under, in the order of ``planned.runs``.

        Returns
        -------
        str
            The race's hash; the same race begun again has the same one.
        """
        runs = list(zip(hashes, planned.runs, strict=True))
        race = fingerprint("race", *(part for run, of in runs for part in (of.entry, run)))
        described = (planned.task, planned.metric, planned.unit, planned.budget)
        row = (race, *described, json.dumps(planned.seeds), json.dumps(dict(planned.entries)), _now())
        with self._file.writing() as db:
            db.execute("INSERT OR IGNORE INTO races VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            new = "INSERT OR IGNORE INTO runs (id, entry, seed) VALUES (?, ?, ?)"
            db.executemany(new, [(run, planned.entries[of.entry], of.seed) for run, of in runs])
            of_race = "INSERT OR IGNORE INTO race_runs VALUES (?, ?, ?)"
            db.executemany(of_race, [(race, of.entry, run) for run, of in runs])
        return race

    def start(self, run: str) -> None:
        """Note that a run has been started; an earlier failure of it is forgotten."""
        with self._file.writing() as db:
            change = "UPDATE runs SET status = 'waiting', error = NULL, traceback = NULL, started = ? WHERE id = ?"
            db.execute(change, (_now(), run))

    def record(self, run: str, point: Point) -> bool:
        """Keep a point; it is on the disk when this returns.

        It gives False if the point was there already: a resumed run tells its points again.

        Raises
        ------
        Differs
            If the store has another score there, or no point there but later ones.
        """
        with self._file.writing() as db:
            asked = "SELECT spent, score FROM points WHERE run = ? AND spent >= ? ORDER BY spent LIMIT 1"
            stored = db.execute(asked, (run, point.spent)).fetchone()
            if stored is None:
                row = (run, point.spent, point.score, json.dumps(dict(point.extras)))
                db.execute("INSERT INTO points VALUES (?, ?, ?, ?)", row)
        if stored not in (None, (point.spent, point.score)):
            raise Differs(
                f"it scored {point.score!r} at {point.spent}, where it had scored {stored[1]!r} at {stored[0]} when it was "
                "run before: its code or its machine has changed; race it afresh (--fresh)"
            )
        return stored is None

    def show(self, run: str, samples: Samples) -> None:
        """Keep what a run makes: the first samples of all, and the last."""
        rows = json.dumps([[row.asked, row.made, row.score] for row in samples.rows])
        with self._file.writing() as db:
            db.execute(
                "DELETE FROM samples WHERE run = ? AND (spent >= ? OR spent > (SELECT min(spent) FROM samples WHERE run = ?))",
                (run, samples.spent, run),
            )
            db.execute("INSERT INTO samples VALUES (?, ?, ?)", (run, samples.spent, rows))

    def finish(self, run: str) -> None:
        """Note that a run is done, and then remove its checkpoint."""
        with self._file.writing() as db:
            db.execute("UPDATE runs SET status = 'done', finished = ? WHERE id = ?", (_now(), run))
        self._remove(self.checkpoint(run))

    def fail(self, run: str, error: str, traceback: str) -> None:
        """Note why a run failed; its points and its checkpoint stay, and it may be started again."""
        with self._file.writing() as db:
            change = "UPDATE runs SET status = 'failed', error = ?, traceback = ?, finished = ? WHERE id = ?"
            db.execute(change, (error, traceback, _now(), run))

    def stop(self, run: str, reason: str) -> None:
        """Note why a run was stopped; its points and its checkpoint stay, and it may be started again."""
        with self._file.writing() as db:
            change = "UPDATE runs SET status = 'stopped', error = ?, finished = ? WHERE id = ?"
            db.execute(change, (reason, _now(), run))

    def forget(self, runs: Iterable[str]) -> None:
        """Forget what these runs have measured, so that they are run afresh."""
        rows = [(run,) for run in runs]
        for (run,) in rows:  # first, or a kill in between would leave one to go on from
            self._remove(self.checkpoint(run))
        with self._file.writing() as db:
            db.executemany("DELETE FROM points WHERE run = ?", rows)
            db.executemany("DELETE FROM samples WHERE run = ?", rows)
            change = "status = 'waiting', error = NULL, traceback = NULL, started = NULL, finished = NULL"
            db.executemany(f"UPDATE runs SET {change} WHERE id = ?", rows)

    def checkpoint(self, run: str) -> Path | None:
        """Give the file that a run saves its state in; None for a store in memory."""
        return None if self.checkpoints is None else self.checkpoints / f"{run}.safetensors"

    # --- what everybody reads ------------------------------------------------------------------

    def races(self) -> list[Race]:
        """List all races, the newest first."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT races.id, created, task, metric, unit, budget, seeds, entries,"
                " sum(status = 'done'), sum(status = 'failed')"
                " FROM races JOIN race_runs ON race = races.id JOIN runs ON run = runs.id"
                " GROUP BY races.id ORDER BY created DESC, races.rowid DESC"
            ).fetchall()
        return [
            Race(race, created, task, metric, unit, budget, tuple(json.loads(seeds)), json.loads(entries), done, failed)
            for race, created, task, metric, unit, budget, seeds, entries, done, failed in rows
        ]

    def runs(self, race: str) -> dict[str, Run]:
        """Give a race's runs under their hashes, seed by seed, in the order of its entries.

        A run that is being made right now is ``"waiting"`` here, with the points it has so far.
        """
        points: dict[str, list[Point]] = {}
        shown: dict[str, list[Samples]] = {}
        with self._file.reading() as db:
            seeds, entries = map(
                json.loads, db.execute("SELECT seeds, entries FROM races WHERE id = ?", (race,)).fetchone()
            )
            known = "SELECT id, label, seed, status, error FROM runs JOIN race_runs ON run = id WHERE race = ?"
            rows = db.execute(known, (race,)).fetchall()
            measured = "SELECT points.* FROM points JOIN race_runs USING (run) WHERE race = ? ORDER BY run, spent"
            for run, spent, score, extras in db.execute(measured, (race,)):
                points.setdefault(run, []).append(Point(spent, score, json.loads(extras)))
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'samples'").fetchone():
                of_race = "SELECT samples.* FROM samples JOIN race_runs USING (run) WHERE race = ? ORDER BY run, spent"
                for run, spent, made in db.execute(of_race, (race,)):
                    shown.setdefault(run, []).append(Samples(spent, tuple(Sample(*row) for row in json.loads(made))))
        labels = list(entries)
        rows.sort(key=lambda row: (seeds.index(row[2]), labels.index(row[1])))
        return {run: _run(points.get(run), tuple(shown.get(run, ())), *rest) for run, *rest in rows}

    def outcome(self, race: str) -> Outcome:
        """Give a race with all its runs.

        Parameters
        ----------
        race : str
            Its hash, or as many of its first characters as tell it from the others.

        Raises
        ------
        FewerError
            If no race begins so, or more than one.
        """
        found = [each for each in self.races() if each.id.startswith(race)]
        if len(found) != 1:
            count = "no race begins" if not found else f"{len(found)} races begin"
            raise FewerError(f"{self.path}: {count} with {race!r}; list the races and give one of their names")
        one = found[0]
        runs = tuple(self.runs(one.id).values())
        return Outcome(one.task, one.metric, one.unit, one.budget, one.seeds, one.entries, runs)

    def traceback(self, race: str, entry: str, seed: int) -> str:
        """Give the traceback of a run that failed, or what its worker said last; empty if there is none."""
        with self._file.reading() as db:
            asked = "SELECT traceback FROM runs JOIN race_runs ON run = id WHERE race = ? AND label = ? AND seed = ?"
            row = db.execute(asked, (race, entry, seed)).fetchone()
        return (row[0] if row else None) or ""

    def _sweep(self) -> None:
        """Remove what a killed driver left: checkpoints of finished runs, and files half written."""
        if self.checkpoints is None or not self.checkpoints.is_dir():
            return
        with self._file.reading() as db:
            done = {run for (run,) in db.execute("SELECT id FROM runs WHERE status = 'done'")}
        for file in self.checkpoints.iterdir():
            if file.suffix == ".part" or file.name.partition(".")[0] in done:
                self._remove(file.with_name(file.name.removesuffix(".segments")))

    def _remove(self, file: Path | None) -> None:
        if file is not None:
            remove_checkpoint(file)  # what cannot be removed costs room and nothing else; no reason to stop a race


def _run(
    points: list[Point] | None, samples: tuple[Samples, ...], entry: str, seed: int, status: Status, error: str | None
) -> Run:
    if points is None:
        return Run(entry, seed, status, error=error, samples=samples)
    return Run(entry, seed, status, Curve(tuple(points)), error, points[-1].extras.get("seconds", 0.0), samples)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
