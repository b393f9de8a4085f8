"""The store's file: who may open it, that what is written has reached the disk, and what went wrong.

It knows SQLite and locks; what the tables mean is the store's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fewer.core.errors import FewerError

APPLICATION = 0x66657765  # "fewe": how SQLite marks whose file it is
VERSION = 2

# what SQLite or the operating system says, and what would do
ADVICE = {
    "not a database": "it is no store of races; move it away or name another file",
    "malformed": "the file is damaged; move it away or name another file",
    "unable to open": "choose a file in a folder that exists and is yours",
    "readonly": "choose a file in a folder that is yours",
    "full": "make room and start the race again; what is stored is not lost",
    "No space": "make room and start the race again; what is stored is not lost",
    "I/O": "see to the disk and start the race again; what is stored is not lost",
    "locked": "wait until whoever holds it is done",
}


class Database:
    """One SQLite file, open for reading or, by one process at a time, for writing.

    Parameters
    ----------
    path : Path or ":memory:"
        The file.
    schema : str
        The tables' definitions, used where the file is new.
    write : bool
        Make the file if it is missing, and keep other writers out until this is closed or its
        process dies.

    Raises
    ------
    FewerError
        If the file is missing (for a reader), damaged, another program's or of another version, if
        it cannot be written, or another process writes to it.
    """

    def __init__(self, path: str | os.PathLike[str], schema: str, *, write: bool) -> None:
        self.path = Path(path)
        source = ":memory:"
        with contextlib.ExitStack() as opened, self.explained():
            if str(path) != ":memory:":
                real = self.path.resolve()
                if write:
                    real.parent.mkdir(parents=True, exist_ok=True)
                    opened.enter_context(self._lock(real.with_name(f"{real.name}.lock")))
                elif not real.is_file():
                    raise FewerError(f"there is no store of races at {path}; start a race first, or name another file")
                source = f"{real.as_uri()}?{'mode=rwc' if write else _reading(real)}"
            # no isolation level: transactions begin and end where we say
            self.connection = sqlite3.connect(source, uri=True, timeout=10, isolation_level=None)
            opened.callback(self.connection.close)
            self._prepare(schema, write)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file, and let the next writer in."""
        self._opened.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Do all of it or nothing; what is done has reached the disk when this ends."""
        with self.explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:  # an error; some, such as a full disk, have rolled back already
                    self.connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Ask several questions of one moment, while a writer goes on."""
        with self.explained():
            self.connection.execute("BEGIN")
            try:
                yield self.connection
            finally:
                self.connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what SQLite and the operating system complain of into one line."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            advice = next((advice for sign, advice in ADVICE.items() if sign in said), "name another file")
            raise FewerError(f"store of races {self.path}: {said}; {advice}") from error

    def _prepare(self, schema: str, write: bool) -> None:
        (application,) = self.connection.execute("PRAGMA application_id").fetchone()
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        new = not (application or version or tables)
        if new and not write:
            raise FewerError(f"{self.path} holds no race yet; start one first, or name another file")
        if not new and application != APPLICATION:
            raise FewerError(f"{self.path} is another program's file, not a store of races; name another file")
        if not new and version != VERSION:
            raise FewerError(
                f"{self.path} is a store of version {version}, this fewer has {VERSION}; name another file"
            )
        self.connection.execute("PRAGMA foreign_keys = ON")
        if write:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk, in WAL too
        if new:
            with self.writing():
                for statement in schema.split(";")[:-1]:
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self.connection.execute(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def _lock(self, path: Path) -> Iterator[IO[str]]:
        # the operating system lets go of the lock when we die; the file itself stays
        with open(path, "a+", encoding="utf-8") as file:
            patience = time.monotonic() + 1  # a writer that was killed just now is gone in a moment
            while not _taken(file):
                if time.monotonic() > patience:
                    file.seek(0)
                    raise FewerError(
                        f"{self.path}: another race (process {file.read().strip() or 'unknown'}) is writing to it; "
                        "wait until it is done, or name another file"
                    )
                time.sleep(0.05)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file


def _reading(path: Path) -> str:
    """Say how to read: where SQLite cannot put its index of the log and there is no log, the file by itself."""
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return "immutable=1" if alone else "mode=ro"


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
