"""Packages whose names are imported when first asked for, so that looking around does not wait for torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping of str to str
        Public name to the module that holds it.

    Examples
    --------
    >>> look_up, names = lazily("toy", {"sqrt": "math"})
    >>> look_up("sqrt")(9), names()
    (3.0, ['sqrt'])
    >>> look_up("root")
    Traceback (most recent call last):
        ...
    AttributeError: module 'toy' has no attribute 'root'
    """

    def look_up(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted(homes)

    return look_up, names
