"""Fillings side by side on one task and one budget: running, storing, drawing.

>>> from fewer.race import race
>>> outcome = race("digits", ["random", "margin"], budget=30, seeds=2, store=":memory:")
>>> [run.status for run in outcome.runs]
['done', 'done', 'done', 'done']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# imported when first asked for: listing what a store holds should not wait for torch
_HOMES = {
    "LocalEngine": "fewer.race.engine",
    "Outcome": "fewer.race.outcome",
    "RayEngine": "fewer.race.cluster",
    "Run": "fewer.race.outcome",
    "Store": "fewer.race.store",
    "race": "fewer.race.run",
}

__all__ = ["LocalEngine", "Outcome", "RayEngine", "Run", "Store", "race"]

if TYPE_CHECKING:
    from fewer.race.cluster import RayEngine
    from fewer.race.engine import LocalEngine
    from fewer.race.outcome import Outcome, Run
    from fewer.race.run import race
    from fewer.race.store import Store


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fewer.race' has no attribute {name!r}")
