"""ActiveKD: a student with two heads learns from few labels and from a teacher's opinion of every row.

One head a is fitted to the labels, the other head b to the teacher's logits T on labelled and unlabelled rows; they
share the backbone, and neither loss reaches the other head.  With temperature t and share s of the distillation,

    L = (1 - s) CE(a(x_l), y) + s [KD(x_l) + KD(x_u)],    KD(x) = t^2 KL(softmax(T(x) / t) || softmax(b(x) / t)),

and the prediction, in training rounds and for choosing what to label next alike, mixes the heads:

    p(x) = (1 - alpha) softmax(a(x)) + alpha softmax(b(x) / beta).

The student starts anew from its (pretrained) backbone in each round.  Knows arrays of logits; whom they come from is
the business of :mod:`fewer.labels.teachers`.

S. Kang et al., "PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language Models",
arXiv:2506.00910; the two heads: S. Kang et al., "Simple yet Effective Semi-supervised Knowledge Distillation from
Vision-Language Models via Dual-Head Optimization", arXiv:2505.07675.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import generator
from fewer.labels.learners import FittedNetwork, descend, device, soft_cross_entropy
from fewer.labels.loop import Examples, Model, Round, TaskTeacher
from fewer.models.classifier import MLP, Architecture, Classifier
from fewer.models.pretrained import Pretrained


def distillation_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """Kullback-Leibler divergence from the student's softened prediction to the teacher's, times temperature squared.

    Parameters
    ----------
    student, teacher : float tensor (batch, classes)
        Logits.
    temperature : float
        Both are divided by it.  The factor keeps the gradient's size: as it grows, the gradient tends to the
        difference of the (centred) logits over the number of classes.

    Returns
    -------
    float tensor (batch,)
        One loss a row; not reduced.

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> float(distillation_loss(logits + 3, logits, temperature=2.0).abs()) < 1e-6
    True
    """
    target = (teacher / temperature).softmax(dim=1)
    crossed = nn.functional.cross_entropy(student / temperature, target, reduction="none")
    return temperature**2 * (crossed - torch.special.entr(target).sum(dim=1))


class DualHead(Classifier):
    """A backbone with two linear heads: one for labels, one for a teacher's opinion.

    Its output is the logarithm of the mixed prediction, so its softmax is the prediction itself, and whatever works
    with a :class:`~fewer.models.classifier.Classifier` works with it.

    Parameters
    ----------
    classifier : Classifier
        Gives the backbone; its head is made anew.
    alpha : float, default 0.5
        Share of the teacher's head in the prediction, in [0, 1].
    beta : float, default 1
        Temperature of the teacher's head in the prediction.

    Examples
    --------
    >>> net = DualHead(MLP((16,)).build((8,), classes=3))
    >>> net(torch.zeros(5, 8)).exp().sum(dim=1).allclose(torch.ones(5))
    True
    """

    def __init__(self, classifier: Classifier, alpha: float = 0.5, beta: float = 1.0) -> None:
        super().__init__(classifier.backbone, classifier.width, classifier.head.out_features)
        self.teacher_head = nn.Linear(classifier.width, classifier.head.out_features)
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logarithm of the mixed prediction."""
        features = self.backbone(x)
        labels = self.head(features).softmax(dim=1)
        teacher = (self.teacher_head(features) / self.beta).softmax(dim=1)
        return ((1 - self.alpha) * labels + self.alpha * teacher).log()


@dataclass(frozen=True)
class ActiveKD:
    """A learner that distils the loop's teacher into a student with two heads.

    Parameters
    ----------
    architecture : Architecture, default MLP(128, 64)
        The student; its head is replaced by two.
    steps : int, optional
        Optimiser steps of a fit; by default as many as draw each example 200 times, as in the paper.
    lr : float, default 1e-3
        Peak learning rate of AdamW.
    batch : int, default 64
        Examples a step, drawn with replacement, and as many unlabelled rows, which come round in random order.
    temperature : float, default 2
        Softens teacher and student in the distillation loss.
    alpha : float, default 0.5
        Share of the teacher's head in the prediction.
    beta : float, default 1
        Temperature of the teacher's head in the prediction.
    share : float, default 0.5
        Weight of the distillation loss; the labels have the rest.
    weight_decay : float, default 0.01
        AdamW's.
    warm_up : float, default 0.1
        Share of the steps over which the learning rate rises; then it falls to 0.

    Notes
    -----
    The paper's defaults are made for a pretrained student; a small one that starts from random weights wants more and
    larger steps, as :func:`dual_head` gives it.  Labelled and unlabelled rows go through the student as one batch, so
    batch normalisation sees both.

    References
    ----------
    S. Kang et al., arXiv:2506.00910.
    """

    architecture: Architecture = field(default_factory=MLP)
    steps: int | None = None
    lr: float = 1e-3
    batch: int = 64
    temperature: float = 2.0
    alpha: float = 0.5
    beta: float = 1.0
    share: float = 0.5
    weight_decay: float = 0.01
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.beta > 0 and 0 <= self.alpha <= 1 and 0 <= self.share <= 1):
            raise FewerError(
                "activekd: temperature and beta must be positive, alpha and share in [0, 1]; they are "
                f"{self.temperature}, {self.beta}, {self.alpha} and {self.share}"
            )
        if self.batch < 1 or (self.steps is not None and self.steps < 1):
            raise FewerError(f"activekd: batch and steps must be at least 1; they are {self.batch} and {self.steps}")

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> FittedNetwork:
        """Train the student on the examples, and on the teacher's logits for them and for the unlabelled rows."""
        teacher = self._teacher(round)
        if not len(examples):
            raise FewerError("activekd: a student cannot be fitted to no examples; buy labels first")
        where = device()
        student = self._begin(round, start).to(where)
        steps = self.steps or math.ceil(200 * len(examples) / self.batch)
        # a weighted target has the weighted loss
        target = torch.from_numpy(examples.target * (examples.weight / examples.weight.mean())[:, None]).to(where)
        rng = generator(round.seed, "activekd", round.index, int(start is not None))
        drawn = rng.integers(len(examples), size=(steps, self.batch))
        rows = examples.rows[drawn]
        if len(round.unlabelled):
            rows = np.hstack([rows, _in_turn(round.unlabelled, steps * self.batch, rng).reshape(steps, self.batch)])
        picks = torch.from_numpy(drawn).to(where)

        def loss(step: int) -> Tensor:
            features = student.features(_tensor(round.x[rows[step]], where))
            supervised = soft_cross_entropy(student.head(features[: self.batch]), target[picks[step]]).mean()
            opinion = _tensor(teacher[rows[step]], where)
            # the sum over both halves of the batch is the sum of their two means
            distilled = distillation_loss(student.teacher_head(features), opinion, self.temperature).sum() / self.batch
            return (1 - self.share) * supervised + self.share * distilled

        if not torch.isfinite(descend(student, loss, steps, self.lr, self.weight_decay, self.warm_up)):
            raise Diverged("activekd: the loss is not finite; look for NaN in rows or teacher logits, or lower the lr")
        return FittedNetwork(student)

    def _begin(self, round: Round, start: Model | None) -> DualHead:
        if round.x.dtype == object:
            raise FewerError("activekd needs numbers and the rows are texts; give features")
        student = DualHead(self.architecture.build(round.x.shape[1:], round.classes), self.alpha, self.beta)
        if start is not None:
            if not (isinstance(start, FittedNetwork) and isinstance(start.network, DualHead)):
                raise FewerError(
                    f"activekd can only go on from a student with two heads, not from {type(start).__name__}"
                )
            student.load_state_dict(start.network.state_dict())
        return student

    def _teacher(self, round: Round) -> Float[np.ndarray, "pool classes"]:
        if round.teacher is None:
            raise FewerError(
                "activekd distils a teacher and there is none; fill the slot teacher, or use the learner mlp"
            )
        if round.teacher.shape != (len(round.x), round.classes):
            raise FewerError(
                f"activekd: the teacher's logits have the shape {round.teacher.shape}; "
                f"they must be {len(round.x)} rows of {round.classes} classes"
            )
        return round.teacher


def _tensor(block: np.ndarray, where: torch.device) -> Tensor:
    return torch.from_numpy(block.astype(np.float32, copy=False)).to(where)


def _in_turn(rows: Int[np.ndarray, " rows"], count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    """Rows in random order, all of them before any comes again, until there are ``count``."""
    whole = [rng.permutation(rows) for _ in range(count // len(rows))]
    return np.concatenate([*whole, rng.choice(rows, size=count % len(rows), replace=False)])


def dual_head(
    hidden: Sequence[int] = (128, 64),
    dropout: float = 0.0,
    steps: int | None = 150,
    lr: float = 3e-3,
    temperature: float = 2.0,
    alpha: float = 0.5,
    beta: float = 1.0,
    share: float = 0.5,
    pretrained: str | None = None,
) -> ActiveKD:
    """Fill the slot learner: a small student that distils whatever teacher the loop has.

    Its steps and learning rate are those of the learner ``mlp``, which is this student without the teacher.

    Parameters
    ----------
    hidden, dropout
        As in :class:`~fewer.models.classifier.MLP`.
    steps, lr, temperature, alpha, beta, share
        As in :class:`ActiveKD`.
    pretrained : str, optional
        A safetensors file to start from (see :class:`~fewer.models.pretrained.Pretrained`).

    Examples
    --------
    >>> dual_head(hidden=(32,)).lr
    0.003
    """
    student: Architecture = MLP(tuple(hidden), dropout)
    if pretrained is not None:
        student = Pretrained(student, pretrained)
    return ActiveKD(student, steps, lr, temperature=temperature, alpha=alpha, beta=beta, share=share)


@functools.wraps(dual_head, assigned=())  # it takes the same arguments, and says so when asked
def activekd(*positional: Any, **named: Any) -> Mapping[str, Any]:
    """Fill the slots teacher and learner: the teacher that comes with the task, and :func:`dual_head`.

    Examples
    --------
    >>> sorted(activekd(steps=100))
    ['learner', 'teacher']
    """
    return {"teacher": TaskTeacher(), "learner": dual_head(*positional, **named)}
