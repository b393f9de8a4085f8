"""Descriptions of this library's parts as JSON, and back: what a saved policy says of how it is built.

A description is a frozen dataclass of numbers, texts, tuples and other descriptions.  It is written with the place of its
class, and only classes of this library are ever made from a file.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import numpy as np

from fewer.core.errors import FewerError

_PLACE = re.compile(r"(fewer(?:\.\w+)+):(\w+)")


def describe(value: Any) -> Any:
    """Write a description as what JSON can hold.

    Parameters
    ----------
    value : dataclass, tuple, list, number, str, bool or None
        What is described.

    Raises
    ------
    FewerError
        If there is something else in it, such as a function.

    Examples
    --------
    >>> from fewer.control.policies import Deterministic
    >>> describe(Deterministic(hidden=(8,)))["made by"]
    'fewer.control.policies:Deterministic'
    >>> rebuild(describe(Deterministic(hidden=(8,)))) == Deterministic(hidden=(8,))
    True
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.number):
        return value.item()
    if isinstance(value, tuple):
        return {"tuple": [describe(each) for each in value]}
    if isinstance(value, list):
        return [describe(each) for each in value]
    kind = type(value)
    place = f"{kind.__module__}:{kind.__qualname__}"
    if dataclasses.is_dataclass(value) and _PLACE.fullmatch(place):
        fields = {each.name: describe(getattr(value, each.name)) for each in dataclasses.fields(value) if each.init}
        return {"made by": place, "with": fields}
    raise FewerError(
        f"a {kind.__name__} cannot be written down; only numbers, texts and descriptions of this library can"
    )


def rebuild(tree: Any) -> Any:
    """Make what :func:`describe` wrote.

    Raises
    ------
    FewerError
        If it is of another form, names something that is no description of this library, or one with other fields.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return [rebuild(each) for each in tree]
    if isinstance(tree, dict) and set(tree) == {"tuple"} and isinstance(tree["tuple"], list):
        return tuple(rebuild(each) for each in tree["tuple"])
    if not (isinstance(tree, dict) and set(tree) == {"made by", "with"} and isinstance(tree["with"], dict)):
        raise FewerError(f"{str(tree)[:80]} is no description; give a file that this library wrote")
    match = _PLACE.fullmatch(str(tree["made by"]))
    try:
        kind = getattr(importlib.import_module(match[1]), match[2]) if match else None
    except (ImportError, AttributeError):
        kind = None
    # what a file may name is limited to frozen descriptions: making one does nothing but hold its fields
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen):  # pyright: ignore[reportAttributeAccessIssue]
        raise FewerError(f"{tree['made by']} is no description of this version of the library")
    try:
        return kind(**{name: rebuild(each) for name, each in tree["with"].items()})
    except TypeError as error:
        raise FewerError(f"{tree['made by']} has other fields in this version of the library ({error})") from error
