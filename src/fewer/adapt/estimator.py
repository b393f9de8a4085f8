"""Arrays and a user's own model into the loop of this room, for classifiers with ``fit`` and ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.loop import Adaptation, AdaptationTask, Labelled
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint


@dataclass(frozen=True, eq=False)
class Given(AdaptationTask):
    """Rows, labels and a model of somebody's own; nothing is held out.

    Parameters
    ----------
    model : nn.Module
        To begin from.
    rows : Labelled
        To learn from.
    classes : tuple of str
        Names.
    """

    model: nn.Module
    rows: Labelled
    classes: tuple[str, ...]
    name: str = "given rows"
    metric: str = "accuracy"

    def fingerprint(self) -> str:
        """Never stored."""
        return fingerprint(self.name, self.rows.y.numpy())

    def base(self, seed: int) -> nn.Module:
        """The model itself; the loop copies what it changes."""
        return self.model

    def labelled(self, seed: int) -> Labelled:
        """All rows."""
        return self.rows


def fitted(
    loop: Adaptation, model: nn.Module, x: Shaped[np.ndarray, "rows ..."], y: Sequence[Any], seed: int
) -> tuple[Adapted, np.ndarray]:
    """Adapt a model to rows; gives what was adapted, and the labels in the order of its classes.

    Raises
    ------
    FewerError
        If rows and labels do not match, there is one class only, or a number is not finite.
    """
    labels = np.asarray(y)
    if len(x) != len(labels) or len(labels) < 2:
        raise FewerError(
            f"fit: {len(x)} rows and {len(labels)} labels were given; give two rows or more, and a label for each"
        )
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise FewerError(f"fit: all labels are {classes[0]!r}; give rows of at least two classes")
    if not np.isfinite(x).all():
        raise FewerError("fit: rows hold NaN or infinity; fill or drop them")
    rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    known = torch.from_numpy(places.astype(np.int64))
    had = [each.requires_grad for each in model.parameters()]
    task = Given(model, Labelled(rows, known, rows[:0], known[:0]), tuple(map(str, classes)))
    try:
        state = loop.start(task, len(labels), seed)
        adapted, _ = loop.train(state, len(labels))
    finally:
        for each, before in zip(model.parameters(), had, strict=True):
            each.requires_grad_(before)
    return adapted, classes
