"""The room for who is short of parameters and operations: networks that carry their knowledge in their shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {}

__all__: list[str] = []

if TYPE_CHECKING:
    pass

__getattr__, __dir__ = lazily(__name__, _HOMES)
