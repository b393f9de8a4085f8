"""Arrays larger than memory, in temporary files that have no name.

The system takes such a file away when its last user is gone, whatever happened to the program.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float, Shaped

from fewer.core.errors import FewerError

BYTES = 4 * 2**20
"""Read or written at a time."""


@contextmanager
def room() -> Iterator[None]:
    """Say so where there is no room for a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        folder = tempfile.gettempdir()
        raise FewerError(
            f"{folder} has no room for the numbers of the pool; set TMPDIR to a folder on a larger disk"
        ) from error


class OnDisk:
    """An array of float32 in a temporary file, written a part at a time.

    Examples
    --------
    >>> array = OnDisk()
    >>> array.write(np.zeros((2, 3)))
    >>> array.write(np.ones((1, 3)))
    >>> array.mapped().shape
    (3, 3)
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="fewer-")  # noqa: SIM115 (closed below)
        self.shape: tuple[int, ...] = ()

    def __del__(self) -> None:
        self.file.close()

    def write(self, part: Shaped[np.ndarray, "rows ..."]) -> None:
        """Add rows.

        Raises
        ------
        FewerError
            If there is no room for them, or their shape is not that of the rows before.
        """
        if self.shape and part.shape[1:] != self.shape[1:]:
            raise FewerError(f"rows of shape {part.shape[1:]} follow rows of shape {self.shape[1:]}; make them equal")
        self.shape = ((self.shape[0] if self.shape else 0) + len(part), *part.shape[1:])
        with room():
            self.file.write(np.ascontiguousarray(part, dtype=np.float32).data)
            self.file.flush()

    def mapped(self) -> Float[np.ndarray, "rows ..."]:
        """Map what was written; the file goes when the map does."""
        return np.memmap(self.file, dtype=np.float32, mode="r+", shape=self.shape)


def parts(array: Shaped[np.ndarray, "rows ..."]) -> Iterator[tuple[int, Shaped[np.ndarray, "part ..."]]]:
    """Go through an array on disk in copies of some megabytes, each with the number of its first row."""
    step = max(1, BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(array), step):
        yield first, np.array(array[first : first + step])
