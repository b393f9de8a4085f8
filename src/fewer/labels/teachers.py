"""Teachers: somebody who has an opinion on every row of the pool, given as logits.

Logits that are known row by row belong to the task (:func:`attach`).  A function is asked once for all rows
(:class:`Asked`).  A model that sees images and class names in one space, such as CLIP, answers without any label
(:class:`ZeroShot`), or as a probe that is trained anew on the labels of each round (:class:`CLAP`).

What is computed once a run lies in the round's memory under ``"teacher"``, so it is kept in checkpoints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.labels.learners import ramp
from fewer.labels.loop import Round
from fewer.tasks.classification import Classification


def attach(task: Classification, logits: Float[np.ndarray, "rows classes"] | str | os.PathLike[str]) -> Classification:
    """Give a task a teacher whose logits are known already.

    Parameters
    ----------
    task : Classification
        Its rows before any split.
    logits : float array (rows, classes), or path
        Row for row with the task; a ``.npy`` file is memory-mapped.

    Raises
    ------
    FewerError
        If the file cannot be read, or the logits do not fit the task or hold NaN.

    Examples
    --------
    >>> task = Classification("toy", np.zeros((6, 2)), np.arange(6) % 2, ("even", "odd"), test=2)
    >>> attach(task, np.eye(2)[np.arange(6) % 2]).split(seed=0).teacher.shape
    (4, 2)
    """
    if isinstance(logits, str | os.PathLike):
        try:
            logits = np.load(logits, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FewerError(f"cannot read the teacher's logits in {logits} ({error}); give a .npy file") from error
    return task.with_(teacher=_checked(np.asanyarray(logits), len(task.y), len(task.classes)))


@dataclass(frozen=True)
class Asked:
    """A teacher that is a function: it is asked once for each row of the pool.

    Parameters
    ----------
    function : callable
        From rows (block, ...) to logits (block, classes), as an array or a tensor.
    block : int, default 1024
        Rows asked for at a time.

    Examples
    --------
    >>> pool = np.array([[1.0], [-1.0]])
    >>> none = np.zeros(0, dtype=int)
    >>> moment = Round(0, 2, pool, none, none, np.arange(2), np.random.default_rng(0), 0)
    >>> Asked(lambda x: np.hstack([x, -x])).logits(moment)
    array([[ 1., -1.],
           [-1.,  1.]], dtype=float32)
    """

    function: Callable[[np.ndarray], Any]
    block: int = 1024

    def logits(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        """Ask, or remember what was answered."""
        if "teacher" not in round.memory:
            parts = [
                _numbers(self.function(round.x[start : start + self.block]))
                for start in range(0, len(round.x), self.block)
            ]
            round.memory["teacher"] = _checked(np.concatenate(parts), len(round.x), round.classes)
        return round.memory["teacher"]


def _numbers(answer: Any) -> np.ndarray:
    return np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer, dtype=np.float32)


def _checked(logits: np.ndarray, rows: int, classes: int) -> np.ndarray:
    if logits.shape != (rows, classes):
        raise FewerError(
            f"a teacher's logits have the shape {logits.shape}; {rows} rows of {classes} classes are needed"
        )
    for start in range(0, rows, 65_536):
        bad = np.flatnonzero(np.isnan(logits[start : start + 65_536]).any(axis=1))
        if len(bad):
            raise FewerError(f"the teacher's logits of row {start + bad[0]} hold NaN; give a number for each class")
    return logits


class Embedded(NamedTuple):
    """Rows and classes in one space.

    Parameters
    ----------
    rows : float array (pool, width)
        Of unit length.
    classes : float array (classes, width)
        Of any length: the mean embedding of a class's prompts.
    scale : float
        What a cosine is multiplied by to give a logit.
    """

    rows: Float[np.ndarray, "pool width"]
    classes: Float[np.ndarray, "classes width"]
    scale: float


@runtime_checkable
class Encoder(Protocol):
    """Whoever sees rows and class names in one space."""

    def encode(self, x: Shaped[np.ndarray, "pool ..."], classes: int) -> Embedded:
        """Embed all rows and the classes; called once a run."""
        ...


def _embedded(encoder: Encoder, round: Round) -> Embedded:
    if "teacher" not in round.memory:
        round.memory["teacher"] = encoder.encode(round.x, round.classes)
    known: Any = round.memory["teacher"]
    return Embedded(*known)  # a checkpoint gives back a plain tuple


@dataclass(frozen=True)
class ZeroShot:
    """A teacher that compares rows with class names, without any label.

    Parameters
    ----------
    encoder : Encoder
        Such as :class:`fewer.labels.clip.CLIP`.

    References
    ----------
    A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
    """

    encoder: Encoder

    def logits(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        """Scaled cosines between rows and classes."""
        rows, classes, scale = _embedded(self.encoder, round)
        return rows @ (scale * classes / np.linalg.norm(classes, axis=1, keepdims=True)).T


@dataclass(frozen=True)
class CLAP:
    """A few-shot teacher: class prototypes that start at the class names and learn from the labels of each round.

    They are trained by cross-entropy on scaled cosines, and held near where they began by the mean over classes of
    w_c ||prototype - start||^2.  The weight w_c is the probability that the zero-shot teacher gives on average to the
    right class of the labelled rows of class c: where it was right already, it should stay.

    Parameters
    ----------
    encoder : Encoder
        Such as :class:`fewer.labels.clip.CLIP`; it is not trained.
    passes : int, default 300
        How often each labelled row is drawn, in the mean.
    lr : float, default 0.01
        Peak learning rate of gradient descent with momentum 0.9; it rises over a tenth of the steps, then falls to 0.
    batch : int, default 64
        Rows a step, drawn with replacement.

    References
    ----------
    J. Silva-Rodríguez, S. Hajimiri, I. Ben Ayed, J. Dolz, "A Closer Look at the Few-Shot Adaptation of Large
    Vision-Language Models", arXiv:2312.12730; as used by S. Kang et al., arXiv:2506.00910.
    """

    encoder: Encoder
    passes: int = 300
    lr: float = 0.01
    batch: int = 64

    def logits(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        """Train the prototypes on what is labelled, then compare rows with them."""
        rows, classes, scale = _embedded(self.encoder, round)
        prototypes = self.train(
            torch.from_numpy(rows[round.labelled]),
            torch.from_numpy(round.labels),
            torch.from_numpy(classes),
            scale,
            torch_generator(round.seed, "clap", round.index),
        )
        return rows @ (scale * nn.functional.normalize(prototypes, dim=1)).numpy().T

    def train(
        self,
        rows: Float[Tensor, "labelled width"],
        labels: Shaped[Tensor, " labelled"],
        start: Float[Tensor, "classes width"],
        scale: float,
        draws: torch.Generator,
    ) -> Float[Tensor, "classes width"]:
        """Give the trained prototypes.

        Parameters
        ----------
        rows : float tensor (labelled, width)
            Of unit length.
        labels : int tensor (labelled,)
            Their classes.
        start : float tensor (classes, width)
            Where the prototypes begin and are held.
        scale : float
            Factor of the cosines.
        draws : torch Generator
            For the batches.
        """
        zero_shot = (scale * rows @ nn.functional.normalize(start, dim=1).T).softmax(dim=1)
        right = zero_shot.gather(1, labels[:, None])[:, 0]
        count = torch.bincount(labels, minlength=len(start))
        hold = torch.zeros(len(start)).index_add_(0, labels, right) / count.clamp(min=1)
        prototypes = start.clone().requires_grad_()
        optimiser = torch.optim.SGD([prototypes], lr=self.lr, momentum=0.9)
        (group,) = optimiser.param_groups
        steps = math.ceil(self.passes * len(rows) / self.batch)
        picks = torch.randint(max(len(rows), 1), (steps, self.batch), generator=draws)
        for step in range(steps):
            group["lr"] = self.lr * ramp(step, steps)
            pick = picks[step]
            cosines = rows[pick] @ nn.functional.normalize(prototypes, dim=1).T
            moved = (prototypes - start).square().sum(dim=1)
            loss = nn.functional.cross_entropy(scale * cosines, labels[pick]) + (hold * moved).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return prototypes.detach()
