"""A costly start that several runs share: made once, found again by its name.

A base policy or a pretrained network is the same for all entries of a race with the same seed.  It is kept in the
user's cache folder under a fingerprint of all that it depends on; what cannot be read or written there is made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import fewer
from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.core.files import cache_folder, fingerprint


def shared_start(name: str, depends_on: tuple[str, ...], make: Callable[[], Any]) -> Any:
    """Find a tree that was made before, or make it and keep it.

    Parameters
    ----------
    name : str
        What it is, ``"flow-base"``; the folder it lies in.
    depends_on : tuple of str
        Everything that decides what comes out, besides this version of the library: the task's fingerprint, settings,
        the seed.
    make : callable
        Gives a tree that a checkpoint can hold (see :func:`fewer.core.checkpoint.save`).

    Returns
    -------
    tree
        As ``make`` gave it, to the bit.

    Examples
    --------
    >>> shared_start("doctest", ("squares", "3"), lambda: {"squares": [0, 1, 4]})
    {'squares': [0, 1, 4]}
    """
    file = cache_folder() / "starts" / name / f"{fingerprint(fewer.__version__, *depends_on)}.safetensors"
    if file.exists():
        with contextlib.suppress(FewerError):  # a damaged file is made again
            return checkpoint.load(file)
    tree = make()
    with contextlib.suppress(OSError, FewerError):  # a full disk costs the next run its time, not this one its result
        checkpoint.save(file, tree)
    return tree
