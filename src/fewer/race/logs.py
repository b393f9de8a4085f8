"""Learning curves as files while they grow: a CSV table, and TensorBoard's event files."""

from __future__ import annotations

import csv
import importlib
import io
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewer.core.curve import Point
from fewer.core.errors import need
from fewer.core.files import fingerprint, write_atomically
from fewer.race.outcome import Run
from fewer.race.progress import OVER

TABLE = "progress.csv"
"""The table's name in a folder."""

_SUFFIX = ".fewer"
"""Event files of ours end so; those of others in the same folder are left alone."""


def as_csv(points: Sequence[Point]) -> str:
    r"""Write points as a table: samples, score, and a column for each further measure that any point has.

    Parameters
    ----------
    points : sequence of Point
        A learning curve; it may be empty.

    Examples
    --------
    >>> as_csv([Point(10, 0.5), Point(20, 0.75, {"loss": 0.25})])
    'samples,score,loss\n10,0.5,\n20,0.75,0.25\n'
    """
    extras = list(dict.fromkeys(name for point in points for name in point.extras))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["samples", "score", *extras])
    for point in points:
        # repr gives a number back to the bit
        table.writerow(
            [point.spent, repr(point.score), *[repr(point.extras[n]) if n in point.extras else "" for n in extras]]
        )
    return text.getvalue()


class CurveLog:
    """Keeps the files of one run up to date.

    Parameters
    ----------
    place : path
        A folder, for ``progress.csv`` and an event file; or a name that ends in ``.csv``, for the table alone.  What an
        earlier start of the run has left there is replaced.

    Raises
    ------
    FewerError
        If the files cannot be written, or TensorBoard is asked for and not installed.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        place = Path(place)
        alone = place.suffix == ".csv"
        self.table = place if alone else place / TABLE
        write_atomically(self.table, as_csv([]).encode())  # which says so where nothing can be written
        self._events = None if alone else _Events(place)
        self._told = 0

    def __enter__(self) -> CurveLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, points: Sequence[Point]) -> None:
        """Bring the files up to date.

        Parameters
        ----------
        points : sequence of Point
            All of the run so far; they begin with those of the last call.
        """
        if len(points) > self._told:
            write_atomically(self.table, as_csv(points).encode())
            if self._events is not None:
                self._events.add(points[self._told :])
            self._told = len(points)

    def close(self) -> None:
        """Let the files go."""
        if self._events is not None:
            self._events.close()


class _Events:
    def __init__(self, folder: Path) -> None:
        tensorboard_needed()
        protocol = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = protocol.Event, summaries.Summary
        for old in folder.glob(f"*tfevents*{_SUFFIX}"):
            old.unlink()
        self._writer = EventFileWriter(str(folder), filename_suffix=_SUFFIX)

    def add(self, points: Sequence[Point]) -> None:
        for point in points:
            measures: dict[str, Any] = {"score": point.score, **point.extras}
            values = [self._summary.Value(tag=name, simple_value=value) for name, value in measures.items()]
            said = self._event(wall_time=time.time(), step=point.spent, summary=self._summary(value=values))
            self._writer.add_event(said)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def tensorboard_needed() -> None:
    """Say what to install where TensorBoard is missing.

    Raises
    ------
    MissingPackage
        If it is.
    """
    need("tensorboard.summary.writer.event_file_writer", extra="tensorboard", what="a log for TensorBoard")


class RunFolders:
    """A folder for each run of a race, ``FOLDER/ENTRY/seed-N``.

    Parameters
    ----------
    folder : path
        Where they lie.

    Examples
    --------
    >>> RunFolders("logs").of("sac + fixed-ratio(ratio=4)", 0).as_posix()
    'logs/sac_+_fixed-ratio(ratio=4)/seed-0'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._names: dict[str, str] = {}

    def of(self, entry: str, seed: int) -> Path:
        """The folder of a run; labels that differ have folders that differ."""
        return self._folder / self._name(entry) / f"seed-{seed}"

    def _name(self, entry: str) -> str:
        """A label without what shells and file systems stumble over."""
        if entry not in self._names:
            plain = re.sub(r"[^\w.,=()+-]+", "_", entry).strip("._") or "entry"
            taken = plain in self._names.values() or len(plain) > 150
            self._names[entry] = f"{plain[:150]}-{fingerprint(entry)}" if taken else plain
        return self._names[entry]


class RaceLogs:
    """Pass an instance as ``on_event`` to :func:`fewer.race.race`, inside a ``with``: each run gets files of its own.

    They lie in ``FOLDER/ENTRY/seed-N`` and hold every point, those of earlier starts included.

    Parameters
    ----------
    folder : path
        Where.

    Raises
    ------
    FewerError
        If the files cannot be written, or TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        tensorboard_needed()
        self._folders = RunFolders(folder)
        self._logs: dict[tuple[str, int], CurveLog] = {}

    def __enter__(self) -> RaceLogs:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs.values():
            log.close()

    def __call__(self, event: Any, run: Run) -> None:
        """Write what the run has more than before."""
        if run.curve is None:
            return
        of = run.entry, run.seed
        if of not in self._logs:
            self._logs[of] = CurveLog(self._folders.of(run.entry, run.seed))
        self._logs[of].write(run.curve.points)
        if run.status in OVER:  # a race may have more runs than a process may have open files
            self._logs.pop(of).close()
