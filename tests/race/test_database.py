from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from toy import environment

from fewer.core.errors import FewerError
from fewer.race import database
from fewer.race.database import Database

SCHEMA = "CREATE TABLE numbers (number INTEGER UNIQUE);"


def numbers(file: Database) -> list[int]:
    with file.reading() as db:
        return [number for (number,) in db.execute("SELECT number FROM numbers ORDER BY number")]


def add(file: Database, number: int) -> None:
    with file.writing() as db:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))


def fill(file: Database) -> None:
    with file.writing() as db:
        db.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(2, 5000)])


def test_what_is_written_is_read_again_and_the_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a folder?#" / "with a name" / "numbers.db"
    file = Database(path, SCHEMA, write=True)
    add(file, 7)
    file.close()
    assert path.is_file()
    for write in (False, True):
        file = Database(path, SCHEMA, write=write)
        assert numbers(file) == [7]
        file.close()


def test_commits_wait_for_the_disk_and_readers_do_not_wait_for_writers(tmp_path: Path) -> None:
    file = Database(tmp_path / "numbers.db", SCHEMA, write=True)
    assert file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert file.connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    add(file, 1)
    reader = Database(tmp_path / "numbers.db", SCHEMA, write=False)
    with file.writing() as db:
        db.execute("INSERT INTO numbers VALUES (2)")
        assert numbers(reader) == [1]
    assert numbers(reader) == [1, 2]
    with pytest.raises(FewerError, match="readonly database; choose a file in a folder that is yours"):
        add(reader, 3)
    reader.close()
    file.close()


def test_an_error_in_a_transaction_undoes_all_of_it(tmp_path: Path) -> None:
    file = Database(tmp_path / "numbers.db", SCHEMA, write=True)
    with pytest.raises(FewerError, match="UNIQUE"), file.writing() as db:
        db.executemany("INSERT INTO numbers VALUES (?)", [(1,), (2,), (1,)])
    add(file, 2)
    assert numbers(file) == [2]
    file.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    first = Database(path, SCHEMA, write=True)
    with pytest.raises(FewerError, match=rf"numbers.db: another race \(process {os.getpid()}\) is writing to it; wait"):
        Database(path, SCHEMA, write=True)
    (tmp_path / "other.db").symlink_to(path)
    with pytest.raises(FewerError, match=r"other\.db: another race"):
        Database(tmp_path / "other.db", SCHEMA, write=True)
    Database(path, SCHEMA, write=False).close()
    first.close()
    Database(path, SCHEMA, write=True).close()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, os; from fewer.race.database import Database;"
        f"Database(sys.argv[1], {SCHEMA!r}, write=True).connection; print('open', flush=True); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "numbers.db"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment())
    assert (done.stdout, done.returncode) == ("open\n", -9)
    Database(path, SCHEMA, write=True).close()


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    file = Database(tmp_path / "numbers.db", SCHEMA, write=True)
    add(file, 1)
    (pages,) = file.connection.execute("PRAGMA page_count").fetchone()
    file.connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite itself then finds the disk full
    with pytest.raises(FewerError, match=r"full; make room and start .* again; what is stored is not lost") as told:
        fill(file)
    assert "\n" not in str(told.value)
    file.connection.execute("PRAGMA max_page_count = 100000")
    add(file, 5000)
    assert numbers(file) == [1, 5000]
    file.close()


def test_a_disk_full_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(database, "_taken", full)
    with pytest.raises(FewerError, match="No space left on device; make room"):
        Database(tmp_path / "numbers.db", SCHEMA, write=True)


@pytest.mark.parametrize("write", [True, False])
def test_a_file_that_is_no_database(tmp_path: Path, write: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(FewerError, match=r"notes.txt: file is not a database; it is no store of races; move it away"):
        Database(path, SCHEMA, write=write)
    assert path.read_text() == "not a database, " * 100


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    file = Database(path, SCHEMA, write=True)
    fill(file)
    file.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)
    file = Database(path, SCHEMA, write=False)
    with pytest.raises(FewerError, match="malformed; the file is damaged; move it away"):
        numbers(file)
    file.close()


@pytest.mark.parametrize("write", [True, False])
def test_another_program_s_database_is_left_alone(tmp_path: Path, write: bool) -> None:
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE cats (name TEXT)")
    theirs.commit()
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(FewerError, match=r"theirs\.db is another program's file, not a store of races; name another"):
        Database(path, SCHEMA, write=write)
    assert path.read_bytes() == before


def test_a_store_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "VERSION", 99)
    Database(tmp_path / "numbers.db", SCHEMA, write=True).close()
    monkeypatch.undo()
    with pytest.raises(FewerError, match="is a store of version 99, this fewer has 2; name another file"):
        Database(tmp_path / "numbers.db", SCHEMA, write=True)


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(FewerError, match=r"there is no store of races at .*numbers\.db; start a race first"):
        Database(tmp_path / "numbers.db", SCHEMA, write=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "numbers.db").touch()  # as a driver killed in its first moment leaves it
    with pytest.raises(FewerError, match="holds no race yet; start one first"):
        Database(tmp_path / "numbers.db", SCHEMA, write=False)
    Database(tmp_path / "numbers.db", SCHEMA, write=True).close()


def test_a_reader_needs_no_right_to_write() -> None:
    folder = Path(tempfile.mkdtemp())  # not tmp_path, whose parents are closed to others
    try:
        file = Database(folder / "numbers.db", SCHEMA, write=True)
        add(file, 7)
        file.close()
        folder.chmod(0o555)
        child = os.fork()
        if child == 0:  # as somebody else, where we are root and may write anywhere
            status = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                status = 0 if numbers(Database(folder / "numbers.db", SCHEMA, write=False)) == [7] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sorted(each.name for each in folder.iterdir()) == ["numbers.db", "numbers.db.lock"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(FewerError, match=r"store of races /dev/null/numbers\.db: .*; ") as told:
        Database("/dev/null/numbers.db", SCHEMA, write=True)
    assert "\n" not in str(told.value)


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FewerError, match="unable to open database file; choose a file in a folder that exists"):
        Database(tmp_path, SCHEMA, write=True)
    tmp_path.with_name(f"{tmp_path.name}.lock").unlink()
