"""Learn more from fewer samples.

Published sample-efficient methods as pieces that compose, raced side by side on one task and one
budget, and each paper's headline claim re-measured.

>>> import fewer
>>> fewer.show("pcoreset").room
'labels'

Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

__version__ = "0.1.0"

_HOMES = {
    "Call": "fewer.core.spec",
    "Claim": "fewer.claim",
    "Curve": "fewer.core.curve",
    "Diverged": "fewer.core.errors",
    "FewerError": "fewer.core.errors",
    "Loop": "fewer.core.loop",
    "Point": "fewer.core.curve",
    "Stage": "fewer.core.loop",
    "Stages": "fewer.core.loop",
    "Task": "fewer.core.loop",
    "find": "fewer.search",
    "loop": "fewer.compose",
    "papers": "fewer.catalogue",
    "show": "fewer.catalogue",
    "task": "fewer.compose",
}

__all__ = [
    "Call",
    "Claim",
    "Curve",
    "Diverged",
    "FewerError",
    "Loop",
    "Point",
    "Stage",
    "Stages",
    "Task",
    "find",
    "loop",
    "papers",
    "show",
    "task",
]

if TYPE_CHECKING:
    from fewer.catalogue import papers, show
    from fewer.claim import Claim
    from fewer.compose import loop, task
    from fewer.core.curve import Curve, Point
    from fewer.core.errors import Diverged, FewerError
    from fewer.core.loop import Loop, Stage, Stages, Task
    from fewer.core.spec import Call
    from fewer.search import find


__getattr__, __dir__ = lazily(__name__, {**_HOMES, "__version__": __name__})
