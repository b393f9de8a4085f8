"""DMixMatch: FixMatch, and a second head on the same backbone that learns decoupled mixup.

FixMatch (:mod:`fewer.labels.fixmatch`) trains the first head, which predicts.  The second one receives mixes of labelled
rows with labelled rows, and mixes of labelled rows x with unlabelled rows u whose class g(u) the moving average guesses; both
reach the backbone.  With l ~ Beta(alpha, alpha), the larger part always from the labelled row, and DM the loss of decoupled
mixup (:mod:`fewer.data.decoupled_mixup`)::

    L = L_FixMatch + mean DM(mix(x, x'; l), y, y')  +  ramp * mean [conf(u) >= c] DM(mix(x, u; m), y, g(u))

    m    = max(l, 1 - l)                    c = min(threshold, max(mix_threshold, 1 - m))
    ramp = (1 - cos(pi * progress)) / 2

What the labels are asked with is rescaled, what was guessed is not: in the last term the decoupled loss weights the labelled
class with r(m) and the guessed one with 1 - m as it is.  In the authors' file r(v) = v, so that both rules are the same.

Z. Liu et al., "Harnessing Hard Mixed Samples with Decoupled Regularizer", NeurIPS 2023, arXiv:2203.10761.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.data.decoupled_mixup import DecoupledMixup, DecoupledMixupSigmoid
from fewer.data.loop import Target
from fewer.data.mixing import CutMix, MixUp, draw_ratio
from fewer.labels.augmentation import Augmentation
from fewer.labels.fixmatch import ByShape, FixMatch, Labelled, Unlabelled, normalisations
from fewer.labels.loop import Round
from fewer.models.classifier import Classifier, ConvNet
from fewer.models.optimisers import SGD, Cosine, Optimiser, Schedule


class MixedHead(Classifier):
    """A classifier with a second linear head, for mixed rows; it predicts with the first.

    Parameters
    ----------
    classifier : Classifier
        Gives the backbone and the first head.  Making the second draws nothing from torch's global generator.

    Examples
    --------
    >>> net = MixedHead(ConvNet().build((1, 8, 8), classes=3))
    >>> net(torch.zeros(5, 1, 8, 8)).shape, net.mixed(torch.zeros(5, 1, 8, 8)).shape
    (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    def __init__(self, classifier: Classifier) -> None:
        with torch.random.fork_rng(devices=[]):
            super().__init__(classifier.backbone, classifier.width, classifier.head.out_features)
            self.mixed_head = nn.Linear(classifier.width, classifier.head.out_features)
        self.head = classifier.head

    def mixed(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of the second head."""
        return self.mixed_head(self.features(x))


@dataclass(frozen=True)
class DMixMatch(FixMatch):
    """A learner that adds decoupled mixup on labelled and unlabelled rows to FixMatch.

    Parameters
    ----------
    architecture, augmentation, steps, batch, ratio, threshold, weight
        As in :class:`~fewer.labels.fixmatch.FixMatch`; the network is given a second head.
    optimiser : Optimiser, default SGD(lr=0.03, momentum=0.9, weight_decay=1e-3)
        How parameters move.
    schedule : Schedule, default Cosine(floor=0.2)
        Learning rate over the fit.
    momentum, last_momentum : float, default 0.999 and 0.99999
        Of the moving average, along half a cosine from one to the other.
    average_guesses : bool, default True
        Let the moving average guess the labels, in place of the network itself.
    mixing : MixUp or CutMix, default MixUp(alpha=1)
        How rows are mixed.
    loss : DecoupledMixup or DecoupledMixupSigmoid, default DecoupledMixup(eta=1)
        Of the second head.
    labelled_weight : float, default 1
        Of the mixes of labelled rows.
    unlabelled_weight : float, default 1
        Of the mixes of labelled with unlabelled rows, at the end of its rise from 0.
    mix_threshold : float, default 0.95
        Probability from which a guess may enter a mix; at most ``threshold`` is asked for.

    Notes
    -----
    With both weights of mixes 0, this is FixMatch to the bit.  Mixes take the most probable class of a soft target.  The mixes
    of a step go through the network as one batch of their own, of which batch normalisation keeps no statistics: what is
    predicted later is not mixed.

    References
    ----------
    Z. Liu et al., arXiv:2203.10761.

    Examples
    --------
    >>> from fewer.labels.loop import ActiveLearning
    >>> from fewer.tasks.mnist import mnist5k
    >>> learner = DMixMatch(steps=3, batch=8, mixing=CutMix())
    >>> curve = ActiveLearning(learner=learner, initial=40).learn(mnist5k(rows=100), budget=40).curve
    >>> [point.spent for point in curve]
    [40]
    """

    optimiser: Optimiser = field(default_factory=lambda: SGD(lr=0.03, weight_decay=1e-3))
    schedule: Schedule = field(default_factory=lambda: Cosine(floor=0.2))
    last_momentum: float | None = 0.99999
    average_guesses: bool = True
    mixing: MixUp | CutMix = field(default_factory=MixUp)
    loss: DecoupledMixup | DecoupledMixupSigmoid = field(default_factory=lambda: DecoupledMixup(eta=1))
    labelled_weight: float = 1.0
    unlabelled_weight: float = 1.0
    mix_threshold: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (self.labelled_weight, self.unlabelled_weight)
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights) or not 0 <= self.mix_threshold <= 1:
            raise FewerError(
                "dmixmatch: labelled_weight and unlabelled_weight must be at least 0 and mix_threshold lie in [0, 1]; "
                f"they are {self.labelled_weight}, {self.unlabelled_weight} and {self.mix_threshold}"
            )

    @property
    def _needs_unlabelled(self) -> bool:
        return self.unlabelled_weight > 0

    def _build(self, round: Round) -> Classifier:
        return MixedHead(super()._build(round))

    def _further(
        self,
        network: Classifier,
        known: Labelled,
        guessed: Unlabelled | None,
        progress: float,
        draws: torch.Generator,
    ) -> Tensor | float:
        """The loss of the second head."""
        assert isinstance(network, MixedHead)
        mixes: list[Tensor] = []
        terms: list[tuple[DecoupledMixup | DecoupledMixupSigmoid, Target, Tensor]] = []
        classes, batch = known.target.argmax(dim=1), len(known.view)
        if self.labelled_weight:
            # mixing the row numbers as if they were classes tells which rows were mixed
            mixed, pairs = self.mixing(known.view, torch.arange(batch, device=classes.device), draws)
            weight = torch.lerp(known.weight[pairs.second], known.weight[pairs.first], pairs.ratio)
            mixes.append(mixed)
            target = Target(classes[pairs.first], classes[pairs.second], pairs.ratio)
            terms.append((self.loss, target, self.labelled_weight * weight))
        if self.unlabelled_weight and guessed is not None:
            drawn = draw_ratio(self.mixing.alpha, draws)
            mixed, share = self.mixing.blend(known.view, guessed.view[:batch], max(drawn, 1 - drawn), draws)
            sure = guessed.confidence[:batch] >= min(self.threshold, max(self.mix_threshold, 1 - share))
            mixes.append(mixed)
            target = Target(classes, guessed.guess[:batch], torch.full_like(known.weight, share))
            rise = self.unlabelled_weight * rising(progress)
            terms.append((dataclasses.replace(self.loss, asymmetric=True), target, rise * known.weight * sure))
        if not mixes:
            return 0.0
        with statistics_kept(network):
            logits = network.mixed(torch.cat(mixes)).split(batch)
        losses = [
            (loss(each, target) * weight).mean() for each, (loss, target, weight) in zip(logits, terms, strict=True)
        ]
        return torch.stack(losses).sum()


@contextlib.contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation go by the batch, as in training, and leave its running statistics as they are."""
    layers = normalisations(network)
    for layer in layers:
        layer.track_running_stats = False  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True  # pyright: ignore[reportArgumentType]


def rising(progress: float) -> float:
    """The weight of guesses as training goes on: from 0 to 1 along half a cosine.

    Examples
    --------
    >>> [round(rising(progress), 2) for progress in (0, 0.25, 0.5, 1)]
    [0.0, 0.15, 0.5, 1.0]
    """
    return 1 - Cosine().factor(progress)


def dmixmatch(
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    norm: bool = True,
    lr: float = 0.03,
    weight_decay: float = 1e-3,
    steps: int = 1000,
    batch: int = 64,
    ratio: int = 7,
    threshold: float = 0.95,
    weight: float = 1.0,
    momentum: float = 0.999,
    average_guesses: bool = True,
    flip: bool = False,
    mixing: Literal["mixup", "cutmix"] = "mixup",
    alpha: float = 1.0,
    eta: float = 1.0,
    t: float = 1.0,
    labelled_weight: float = 1.0,
    unlabelled_weight: float = 1.0,
    mix_threshold: float = 0.95,
) -> DMixMatch:
    """Fill the slot learner with a small convolutional network that learns by DMixMatch.

    Parameters
    ----------
    channels, hidden, norm, lr, weight_decay, steps, batch, ratio, threshold, weight, momentum, average_guesses, flip
        As in :func:`~fewer.labels.fixmatch.fixmatch`.
    mixing : {"mixup", "cutmix"}, default "mixup"
        How rows are mixed.
    alpha : float, default 1
        Of the ratio's distribution.
    eta, t : float, default 1
        As in :class:`~fewer.data.decoupled_mixup.DecoupledMixup`.
    labelled_weight, unlabelled_weight, mix_threshold
        As in :class:`DMixMatch`.

    Examples
    --------
    >>> dmixmatch(mixing="cutmix", eta=0.1).loss.eta
    0.1
    """
    if mixing not in ("mixup", "cutmix"):
        raise FewerError(f"dmixmatch: unknown mixing {mixing!r}; choose mixup or cutmix")
    return DMixMatch(
        ByShape(ConvNet(tuple(channels), norm=norm, hidden=hidden)),
        Augmentation(flip=flip),
        SGD(lr, weight_decay=weight_decay),
        steps=steps,
        batch=batch,
        ratio=ratio,
        threshold=threshold,
        weight=weight,
        momentum=momentum,
        last_momentum=max(momentum, 0.99999),
        average_guesses=average_guesses,
        mixing=MixUp(alpha) if mixing == "mixup" else CutMix(alpha),
        loss=DecoupledMixup(eta, t=t),
        labelled_weight=labelled_weight,
        unlabelled_weight=unlabelled_weight,
        mix_threshold=mix_threshold,
    )
