"""Files: written whole or not at all, named by what is in them.

Imports nothing heavy, since every command writes or reads some file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cache_folder() -> Path:
    """Where things that can be made again are kept: ``$XDG_CACHE_HOME/fewer`` or ``~/.cache/fewer``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewer"


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Parameters
    ----------
    path : path
        Where; its folder is made if it is missing.
    data : bytes
        What.

    Raises
    ------
    FewerError
        If the folder cannot be written or the disk is full; an older file at ``path`` is untouched.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files private; results are meant to be read
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise FewerError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that exists, is yours and has room"
        ) from error


def segments_of(path: str | os.PathLike[str]) -> Path:
    """Give the folder beside a checkpoint where what only grows is kept (see :class:`fewer.core.ring.Ring`)."""
    path = Path(path).absolute()
    return path.with_name(f"{path.name}.segments")


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Remove a checkpoint and its segments, if they are there; a file that cannot be removed stays."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    shutil.rmtree(segments_of(path), ignore_errors=True)


def fingerprint(*parts: str | bytes | NDArray[Any]) -> str:
    """Hash texts and arrays to 16 hexadecimal digits: the name of what is made from them.

    Examples
    --------
    >>> fingerprint("a", "b") == fingerprint("ab")
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            data = part.encode()
        elif isinstance(part, bytes):
            data = part
        else:
            data = f"{part.dtype.str}{part.shape}".encode() + part.tobytes()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
