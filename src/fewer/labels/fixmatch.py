"""FixMatch: what a network is sure of when it sees a row weakly changed, it must say of the row strongly changed.

In each step it meets B labelled rows x with targets y, and mu * B unlabelled rows u.  With w and s for a weak and a strong
random view (:mod:`fewer.labels.augmentation`), p for the network's prediction and tau for a threshold,

    q = p(w(u)), without gradient,    L = mean CE(p(w(x)), y) + weight * mean [max q >= tau] CE(p(s(u)), argmax q),

where the second mean is over all mu * B rows, so that it starts small and grows as the network becomes sure.  The model that
is handed on is a moving average of the network's parameters over the steps.

K. Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020,
arXiv:2001.07685.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import torch_generator
from fewer.labels.augmentation import Augmentation
from fewer.labels.learners import FittedNetwork, device, soft_cross_entropy
from fewer.labels.loop import Examples, Model, Round
from fewer.models.classifier import MLP, Architecture, Classifier, ConvNet
from fewer.models.moving_average import follow
from fewer.models.optimisers import SGD, Optimiser, Schedule, parameter_groups, set_rate


@dataclass(frozen=True)
class CosineArc:
    """From the peak along the first part of a cosine, so that the rate falls late and does not reach zero.

    Parameters
    ----------
    share : float, default 7/16
        Part of half a cycle that is walked, in [0, 1/2].

    Examples
    --------
    >>> [round(CosineArc().factor(progress), 2) for progress in (0, 0.5, 1)]
    [1.0, 0.77, 0.2]
    """

    share: float = 7 / 16

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise FewerError(f"cosine arc: share must lie in [0, 1/2]; {self.share} was given")

    def factor(self, progress: float) -> float:
        """Learning rate as a share of the peak."""
        return math.cos(math.pi * self.share * min(max(progress, 0.0), 1.0))


@dataclass(frozen=True)
class ByShape:
    """A convolutional network where rows are images or signals, a fully connected one where they are vectors.

    Parameters
    ----------
    places : ConvNet, default ConvNet(norm=True)
        For rows of (channels, height, width) or (channels, length).
    vectors : MLP, default MLP()
        For rows of (features,).
    """

    places: ConvNet = field(default_factory=lambda: ConvNet(norm=True))
    vectors: MLP = field(default_factory=MLP)

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``."""
        chosen = self.vectors if len(shape) == 1 else self.places
        return chosen.build(shape, classes)


@dataclass(frozen=True)
class Labelled:
    """The labelled half of a step.

    Parameters
    ----------
    view : float tensor (batch, ...)
        Weak views.
    target : float tensor (batch, classes)
        Class probabilities.
    weight : float tensor (batch,)
        Factor of each row's loss.
    """

    view: Float[Tensor, "batch ..."]
    target: Float[Tensor, "batch classes"]
    weight: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Unlabelled:
    """The unlabelled half of a step, once the labels are guessed.

    Parameters
    ----------
    view : float tensor (rows, ...)
        Weak views.
    guess : int tensor (rows,)
        The most probable class of each.
    confidence : float tensor (rows,)
        Its probability.
    """

    view: Float[Tensor, "rows ..."]
    guess: Int[Tensor, " rows"]
    confidence: Float[Tensor, " rows"]


@dataclass(frozen=True)
class FixMatch:
    """A learner that also learns from the unlabelled rows, by consistency between views.

    Parameters
    ----------
    architecture : Architecture, default ByShape()
        The network, built anew in each round (unless the fit goes on from another).
    augmentation : Augmentation, default Augmentation()
        The views.
    optimiser : Optimiser, default SGD(lr=0.03, momentum=0.9, weight_decay=5e-4)
        How parameters move.
    schedule : Schedule, default CosineArc(7/16)
        Learning rate over the fit.
    steps : int, default 1000
        Optimiser steps of a fit; the paper takes 2**20.
    batch : int, default 64
        Labelled rows a step, drawn with replacement.
    ratio : int, default 7
        Unlabelled rows a step for each labelled one (mu), drawn with replacement.
    threshold : float, default 0.95
        Probability from which a guess counts, in [0, 1].
    weight : float, default 1
        Of the unlabelled rows' loss.  With 0 they are left alone, and this is supervised training on weak views.
    momentum : float, default 0.999
        Of the moving average.  In the first steps it is lower, (1 + k) / (10 + k) after k of them, so that what is handed on
        after few steps is not the network as it began.
    last_momentum : float, optional
        Where the momentum ends, along half a cosine; by default it stays.
    average_guesses : bool, default False
        Let the moving average guess the labels, in place of the network itself.

    Notes
    -----
    Soft targets and weights of examples are honoured.  Weak and strong views go through the network together with the
    labelled ones, as one batch, so batch normalisation sees all of them.  Where the moving average guesses, the weak views go
    through it alone; batch normalisation then takes their statistics, and it is these that the model keeps.  After a fit,
    ``round.report["confident"]`` is the share of guesses that counted.

    References
    ----------
    K. Sohn et al., arXiv:2001.07685.

    Examples
    --------
    >>> from fewer.labels.loop import ActiveLearning
    >>> from fewer.tasks.mnist import mnist5k
    >>> learner = FixMatch(steps=3, batch=8)
    >>> curve = ActiveLearning(learner=learner, initial=40).learn(mnist5k(rows=100), budget=40).curve
    >>> [point.spent for point in curve]
    [40]
    """

    architecture: Architecture = field(default_factory=ByShape)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimiser: Optimiser = field(default_factory=lambda: SGD(lr=0.03))
    schedule: Schedule = field(default_factory=CosineArc)
    steps: int = 1000
    batch: int = 64
    ratio: int = 7
    threshold: float = 0.95
    weight: float = 1.0
    momentum: float = 0.999
    last_momentum: float | None = None
    average_guesses: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.ratio) < 1:
            raise FewerError(
                f"fixmatch: steps, batch and ratio must be at least 1; they are {self.steps}, {self.batch} and {self.ratio}"
            )
        if not (0 <= self.threshold <= 1 and self.weight >= 0 and math.isfinite(self.weight)):
            raise FewerError(
                "fixmatch: threshold must lie in [0, 1] and weight be at least 0; "
                f"they are {self.threshold} and {self.weight}"
            )
        last = self.momentum if self.last_momentum is None else self.last_momentum
        if not 0 <= self.momentum <= last <= 1:
            raise FewerError(
                f"fixmatch: momentum must lie in [0, 1] and not fall; it goes from {self.momentum} to {last}"
            )

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> FittedNetwork:
        """Train on the examples and on all of ``round.unlabelled``; the model is the moving average.

        Raises
        ------
        FewerError
            If there is no example, rows are texts or of a shape that has no views, the loop has a teacher, or ``start`` is
            another network.
        Diverged
            If the loss is not finite at the end.
        """
        self._check(examples, round)
        where = device()
        network = self._begin(round, start).to(where)
        average = copy.deepcopy(network).eval().requires_grad_(False)
        if self.average_guesses:
            for norm in normalisations(average):
                norm.train()
        optimiser = self.optimiser.make(parameter_groups(network))
        target = torch.from_numpy(examples.target).to(where)
        weight = torch.from_numpy(examples.weight / examples.weight.mean()).to(where)
        # three streams, so that what one part draws leaves the draws of the others as they are
        labelled, unlabelled, further = (
            torch_generator(round.seed, "fixmatch", name, round.index, int(start is not None))
            for name in ("labelled", "unlabelled", "further")
        )
        others = round.unlabelled if self.weight or self._needs_unlabelled else round.unlabelled[:0]
        counted, loss = torch.zeros((), device=where), torch.zeros((), device=where)
        network.train()
        for step in range(self.steps):
            progress = step / self.steps
            set_rate(optimiser, self.schedule.factor(progress))
            picks = torch.randint(len(examples), (self.batch,), generator=labelled)
            known = Labelled(
                self.augmentation.weak(_tensor(round.x, examples.rows[picks.numpy()], where), labelled),
                target[picks.to(where)],
                weight[picks.to(where)],
            )
            guessed = None
            if len(others):
                picks = torch.randint(len(others), (self.ratio * self.batch,), generator=unlabelled)
                rows = _tensor(round.x, others[picks.numpy()], where)
                weak, strong = self.augmentation.weak(rows, unlabelled), self.augmentation.strong(rows, unlabelled)
                loss, guessed = self._both(network, average, known, weak, strong)
                counted += self._counts(guessed).mean(dtype=torch.float32)
            else:
                loss = self._supervised(network(known.view), known)
            loss = loss + self._further(network, known, guessed, progress, further)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            own = self.average_guesses and guessed is not None
            momentum = min(self._momentum(progress), (1 + step) / (10 + step))
            follow(average, network, 1 - momentum, statistics=not own)
        if not torch.isfinite(loss):
            raise Diverged("fixmatch: the loss is not finite; look for NaN in the rows, or lower the learning rate")
        round.report["confident"] = float(counted) / self.steps
        return FittedNetwork(average.eval())

    @property
    def _needs_unlabelled(self) -> bool:
        """Whether anything but the consistency loss looks at unlabelled rows."""
        return False

    def _further(
        self,
        network: Classifier,
        known: Labelled,
        guessed: Unlabelled | None,
        progress: float,
        draws: torch.Generator,
    ) -> Tensor | float:
        """What is added to the loss of a step; nothing here."""
        return 0.0

    def _build(self, round: Round) -> Classifier:
        return self.architecture.build(round.x.shape[1:], round.classes)

    def _begin(self, round: Round, start: Model | None) -> Classifier:
        network = self._build(round)
        if start is not None:
            if not isinstance(start, FittedNetwork):
                raise FewerError(f"fixmatch can only go on from a network, not from {type(start).__name__}")
            try:
                network.load_state_dict(start.network.state_dict())
            except RuntimeError as error:
                raise FewerError(
                    "fixmatch can only go on from a network like its own; give start the model of an earlier fit"
                ) from error
        return network

    def _check(self, examples: Examples, round: Round) -> None:
        if round.teacher is not None:
            raise FewerError("fixmatch cannot learn from a teacher; use a learner that distils, such as activekd")
        if not len(examples):
            raise FewerError("fixmatch: a network cannot be fitted to no examples; buy labels first")
        if round.x.dtype == object:
            raise FewerError("fixmatch needs numbers and the rows are texts; give features, or use a text learner")

    def _both(
        self, network: Classifier, average: Classifier, known: Labelled, weak: Tensor, strong: Tensor
    ) -> tuple[Tensor, Unlabelled]:
        """The loss of a step, and what was guessed."""
        batch = len(known.view)
        if self.average_guesses:
            with torch.no_grad():
                opinion = average(weak)
            logits = network(torch.cat((known.view, strong)))
            answers = logits[batch:]
        else:
            logits = network(torch.cat((known.view, weak, strong)))
            opinion, answers = logits[batch:].detach()[: len(weak)], logits[batch + len(weak) :]
        confidence, guess = opinion.softmax(dim=1).max(dim=1)
        guessed = Unlabelled(weak, guess, confidence)
        loss = self._supervised(logits[:batch], known)
        if self.weight:
            wrong = nn.functional.cross_entropy(answers, guess, reduction="none") * self._counts(guessed)
            loss = loss + self.weight * wrong.mean()
        return loss, guessed

    def _counts(self, guessed: Unlabelled) -> Bool[Tensor, " rows"]:
        return guessed.confidence >= self.threshold

    def _supervised(self, logits: Tensor, known: Labelled) -> Tensor:
        return (soft_cross_entropy(logits, known.target) * known.weight).mean()

    def _momentum(self, progress: float) -> float:
        """Along half a cosine from the first to the last."""
        last = self.momentum if self.last_momentum is None else self.last_momentum
        return last - (last - self.momentum) * 0.5 * (1 + math.cos(math.pi * progress))


def normalisations(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that keep running statistics of what passes."""
    return [module for module in network.modules() if getattr(module, "track_running_stats", False)]


def _tensor(x: np.ndarray, rows: np.ndarray, where: torch.device) -> Tensor:
    """Rows of a pool that may be a memory map."""
    return torch.from_numpy(np.ascontiguousarray(x[rows], dtype=np.float32)).to(where)


def fixmatch(
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    norm: bool = True,
    lr: float = 0.03,
    weight_decay: float = 5e-4,
    steps: int = 1000,
    batch: int = 64,
    ratio: int = 7,
    threshold: float = 0.95,
    weight: float = 1.0,
    momentum: float = 0.999,
    average_guesses: bool = False,
    flip: bool = False,
) -> FixMatch:
    """Fill the slot learner with a small convolutional network that learns by FixMatch.

    Parameters
    ----------
    channels, hidden, norm
        As in :class:`~fewer.models.classifier.ConvNet`; feature vectors have an :class:`~fewer.models.classifier.MLP`.
    lr, weight_decay
        As in :class:`~fewer.models.optimisers.SGD`.
    steps, batch, ratio, threshold, weight, momentum, average_guesses
        As in :class:`FixMatch`.
    flip : bool, default False
        As in :class:`~fewer.labels.augmentation.Augmentation`; right for photographs.

    Examples
    --------
    >>> fixmatch(lr=0.1).optimiser
    SGD(lr=0.1, momentum=0.9, weight_decay=0.0005)
    """
    return FixMatch(
        ByShape(ConvNet(tuple(channels), norm=norm, hidden=hidden)),
        Augmentation(flip=flip),
        SGD(lr, weight_decay=weight_decay),
        steps=steps,
        batch=batch,
        ratio=ratio,
        threshold=threshold,
        weight=weight,
        momentum=momentum,
        average_guesses=average_guesses,
    )
