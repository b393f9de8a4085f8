"""Rows and a model of somebody's own as a task of this room, for estimators with ``fit`` and ``predict``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fewer.adapt.loop import AdaptationTask, Labelled
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
