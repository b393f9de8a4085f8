"""Few images of some classes to learn from, and other classes that are only named afterwards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int

from fewer.adapt.clip_images import CLIPImages
from fewer.adapt.loop import AdaptationTask, Labelled, Predict, rows_at
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import generator
from fewer.pretrain.clip_weights import load_clip
from fewer.tasks.arrays import images, npz
from fewer.tasks.classification import Classification


class BaseAndNew(AdaptationTask):
    """Classes with labels, others by name alone, and the harmonic mean of what is told right among each.

    Attributes
    ----------
    classes, new : tuple of str
        Names of both.  Test rows of new classes have numbers from ``len(classes)`` on.
    template : str
        A sentence with ``{}`` for a name: the hand-written prompt, and where learned ones begin.
    """

    new: tuple[str, ...]
    template: str

    def evaluate(self, labelled: Labelled, predict: Predict) -> tuple[float, dict[str, float]]:
        """Harmonic mean of two accuracies: of base rows among base classes, and of new rows among new classes."""
        is_new = labelled.test_y >= len(self.classes)
        measured = {}
        for name, rows, names, first in (
            ("base", ~is_new, None, 0),
            ("new", is_new, self.new, len(self.classes)),
        ):
            said = predict(rows_at(labelled.test_x, cast(Any, rows)), names).argmax(1)
            measured[name] = float(np.mean(said == labelled.test_y[rows].numpy() - first))
        return harmonic_mean(measured["base"], measured["new"]), measured


def harmonic_mean(first: float, second: float) -> float:
    """Of two shares; 0 where one is.

    Examples
    --------
    >>> harmonic_mean(0.5, 1.0)
    0.6666666666666666
    """
    return 2 * first * second / (first + second) if first and second else 0.0


def in_rounds(
    y: Int[np.ndarray, " rows"], classes: int, shots: int, rng: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Places of at most ``shots`` rows of each class, in rounds that hold each class once while it has rows.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 1])
    >>> chosen = y[in_rounds(y, 2, shots=2, rng=np.random.default_rng(0))]
    >>> sorted(chosen[:2].tolist()), chosen[2:].tolist()
    ([0, 1], [0])
    """
    each = [rng.permutation(np.flatnonzero(y == label))[:shots] for label in range(classes)]
    return np.array(
        [
            each[label][turn]
            for turn in range(max(map(len, each)))
            for label in rng.permutation(classes)
            if turn < len(each[label])
        ]
    )


@dataclass(frozen=True, eq=False)
class FewShotImages(BaseAndNew):
    """Somebody's images and somebody's CLIP: the first half of the classes is learned, the other half only named.

    Parameters
    ----------
    given : Classification
        Images in [0, 1].
    model : path
        The folder of a ``CLIPModel``.
    shots : int, default 16
        Rows of each base class that labels may be bought for; what has fewer gives what it has.
    template : str, default "a photo of a {}."
        The hand-written prompt.
    """

    given: Classification
    model: str | os.PathLike[str]
    shots: int = 16
    template: str = "a photo of a {}."
    metric: str = "harmonic mean of base and new"

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise FewerError(f"few-shot: shots is {self.shots}; give 1 or more")
        if len(self.given.classes) < 3:
            raise FewerError(
                f"few-shot: there are {len(self.given.classes)} classes; at least two to learn and one to name are needed"
            )

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of what was given."""
        return f"few-shot {self.given.name}"

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first half, rounded up."""
        return self.given.classes[: -(-len(self.given.classes) // 2)]

    @property
    def new(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The others."""
        return self.given.classes[len(self.classes) :]

    def fingerprint(self) -> str:
        """Of images and settings; the model is known by its folder."""
        return fingerprint(self.given.fingerprint(), os.fspath(self.model), str(self.shots), self.template)

    def base(self, seed: int) -> CLIPImages:
        """The CLIP."""
        return CLIPImages(load_clip(self.model))

    def labelled(self, seed: int) -> Labelled:
        """Rows of base classes in rounds, and all test rows."""
        split = self.given.split(seed)
        chosen = in_rounds(split.y, len(self.classes), self.shots, generator(seed, "shots"))
        x, test_x = (torch.from_numpy(np.asarray(each, dtype=np.float32)) for each in (split.x[chosen], split.test_x))
        y, test_y = (torch.from_numpy(each.astype(np.int64)) for each in (split.y[chosen], split.test_y))
        if not len(y) or not (test_y < len(self.classes)).any() or not (test_y >= len(self.classes)).any():
            raise FewerError(f"{self.name}: no row of some half is left to learn from or to score; give more images")
        return Labelled(x, y, test_x, test_y)


def few_shot(
    path: str,
    model: str,
    shots: int = 16,
    template: str = "a photo of a {}.",
    size: int = 224,
    test: int | float = 0.2,
) -> FewShotImages:
    """Make a task of a folder of images, or of arrays.

    Parameters
    ----------
    path : str
        A folder with a sub-folder for each class, or an NPZ file with ``x`` and ``y`` (names of classes).
    model : str
        The folder of a ``CLIPModel`` with its tokenizer.
    shots, template
        See :class:`FewShotImages`.
    size : int, default 224
        Pixels a side that images of a folder are read with.
    test : int or float, default 0.2
        Images, or share of them, that are scored.

    Raises
    ------
    FewerError
        If images cannot be read or have no classes.
    """
    given = npz(path, test=test) if path.endswith(".npz") else images(path, size=size, test=test)
    if not isinstance(given, Classification):
        raise FewerError(f"few-shot: the images of {path} have no classes; give a folder with a sub-folder for each")
    return FewShotImages(given, model, shots, template)
