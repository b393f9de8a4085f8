"""The room for who cannot change weights: networks that learn a new task from the prompt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "Family": "fewer.incontext.loop",
    "LSTM": "fewer.incontext.networks",
    "LearnToLearn": "fewer.incontext.loop",
    "Prompts": "fewer.incontext.loop",
    "Transformer": "fewer.incontext.networks",
}

__all__ = [
    "LSTM",
    "Family",
    "LearnToLearn",
    "Prompts",
    "Transformer",
]

if TYPE_CHECKING:
    from fewer.incontext.loop import Family, LearnToLearn, Prompts
    from fewer.incontext.networks import LSTM, Transformer

__getattr__, __dir__ = lazily(__name__, _HOMES)
