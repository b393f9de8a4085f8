"""Masked modelling: say of the patches of an image or a clip that are seen what lies where nothing is seen.

Slots decide what is masked, what is to be said of it (pixels, gradients' directions, what another network says), whether
anything is asked of the patches that *are* seen, and what being wrong costs.  With the defaults this is a masked
autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import generator, torch_generator
from fewer.models.optimisers import AdamW, Cosine, Optimiser, Schedule, parameter_groups, set_rate
from fewer.models.tokens import PatchEncoder, TokenModel, TokenPredictor, TokenTransformer, gathered, patches
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.readout import KNN, LinearProbe, ReadOut, judged, recognised
from fewer.pretrain.views import Mild, Views
from fewer.tasks.classification import Classification
from fewer.tasks.representation import Representation, Rows, rows_of
from fewer.tasks.rounds import Rounds


@dataclass(frozen=True)
class Mask:
    """What is seen of each row, and what is asked.

    Parameters
    ----------
    kept : int tensor (rows, seen)
        Places of the grid, in raster order counted, in any order listed.
    asked : int tensor (rows, asked)
        Other places.
    """

    kept: Int[Tensor, "rows seen"]
    asked: Int[Tensor, "rows asked"]

    @property
    def restore(self) -> Int[Tensor, "rows places"]:
        """Where each place of the grid is in the list of the kept and then the asked, if these are all places.

        Examples
        --------
        >>> Mask(torch.tensor([[2, 0]]), torch.tensor([[1]])).restore.tolist()
        [[1, 2, 0]]
        """
        return torch.cat([self.kept, self.asked], dim=1).argsort(1)


class Masking(Protocol):
    """What is seen of rows; several masks for each row where a method wants them."""

    @property
    def kinds(self) -> int:
        """Kinds of masks, each of which has a mask token of its own; those that :meth:`draw` gives take turns."""
        ...

    def draw(self, rows: int, grid: tuple[int, ...], generator: torch.Generator) -> list[Mask]:
        """One or several masks for each row; draws from the generator (on the CPU)."""
        ...


class Targets(nn.Module):
    """What is to be said of each place of a row.

    Attributes
    ----------
    width : int
        Numbers for each place.
    share : float
        Of the run, at its beginning, in which these targets learn themselves and nothing else does; 0 for most.
    views : int
        How often a row is seen in one lesson.
    encoder : PatchEncoder, optional
        The network that says them, if one does.
    """

    width: int
    share: float = 0.0
    views: int = 1
    encoder: PatchEncoder | None = None

    def forward(self, x: Float[Tensor, "rows channels ..."]) -> Float[Tensor, "rows places width"]:
        """Say it, in raster order."""
        raise NotImplementedError

    def lesson(self, x: Float[Tensor, "rows channels ..."], draws: torch.Generator) -> Float[Tensor, " rows"]:
        """The targets' own loss, while they learn themselves."""
        raise NotImplementedError

    def follow(self, student: PatchEncoder, progress: float) -> None:
        """Change after a step of the student, when ``progress`` (0 to 1) of the run is over."""


class Target(Protocol):
    """Describes targets."""

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Make them for rows of ``shape``; may copy the student, and draws from torch's global generator."""
        ...


class Distance(Protocol):
    """What being wrong costs."""

    def __call__(
        self, said: Float[Tensor, "rows asked width"], true: Float[Tensor, "rows asked width"]
    ) -> Float[Tensor, "rows asked"]:
        """The cost at each place: a mean over the numbers of the place."""
        ...


class Visible(Protocol):
    """Describes what is asked of the places that are seen."""

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A module called with the seen tokens and their targets, which gives each row's loss."""
        ...


@dataclass(frozen=True)
class RandomMask:
    """Places by chance, the same number in each row.

    Parameters
    ----------
    ratio : float, default 0.75
        Share of the places that is masked.
    masks : int, default 1
        Of each row, drawn apart from one another: a row is seen so many times at once.

    Examples
    --------
    >>> (mask,) = RandomMask(0.75).draw(2, (4, 4), torch.Generator().manual_seed(0))
    >>> mask.kept.shape, mask.asked.shape
    (torch.Size([2, 4]), torch.Size([2, 12]))
    """

    ratio: float = 0.75
    masks: int = 1

    def __post_init__(self) -> None:
        checked_ratio(self.ratio)
        if self.masks < 1:
            raise FewerError(f"masking: {self.masks} masks for each row leave nothing to learn from; give 1 or more")

    @property
    def kinds(self) -> int:
        """One."""
        return 1

    def draw(self, rows: int, grid: tuple[int, ...], generator: torch.Generator) -> list[Mask]:
        """So many masks for each row."""
        places = int(np.prod(grid))
        seen = visible_places(places, self.ratio)
        orders = torch.rand(self.masks, rows, places, generator=generator).argsort(2)
        return [Mask(order[:, :seen], order[:, seen:]) for order in orders]


def checked_ratio(ratio: float) -> float:
    """Refuse a share of masked places that leaves nothing to see or nothing to say."""
    if not 0 < ratio < 1:
        raise FewerError(f"masking: the ratio is {ratio}; give the share of places that is masked, between 0 and 1")
    return ratio


def visible_places(places: int, ratio: float) -> int:
    """Places that are seen: ``places * (1 - ratio)``, cut to a whole number.

    Raises
    ------
    FewerError
        If that is none, or all.

    Examples
    --------
    >>> visible_places(64, 0.6)
    25
    """
    seen = int(places * (1 - ratio) + 1e-9)
    if not 0 < seen < places:
        raise FewerError(
            f"masking: a ratio of {ratio} leaves {seen} of {places} patches to see; choose one that leaves some on both sides"
        )
    return seen


@dataclass(frozen=True)
class Pixels:
    """The patch's own pixels.

    Parameters
    ----------
    normalise : bool, default True
        Bring each patch to mean 0 and deviation 1.
    """

    normalise: bool = True

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Make them."""
        return _PixelTargets(shape[0] * int(np.prod(student.patch)), student.patch, self.normalise)


class _PixelTargets(Targets):
    def __init__(self, width: int, patch: tuple[int, ...], normalise: bool) -> None:
        super().__init__()
        self.width, self.patch, self.normalise = width, patch, normalise

    def forward(self, x: Tensor) -> Tensor:
        cut = patches(x, self.patch)
        if not self.normalise:
            return cut
        return (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()


@dataclass(frozen=True)
class Squared:
    """The mean squared error."""

    def __call__(
        self, said: Float[Tensor, "rows asked width"], true: Float[Tensor, "rows asked width"]
    ) -> Float[Tensor, "rows asked"]:
        """Of each place."""
        return (said - true).square().mean(-1)


@dataclass(frozen=True)
class Absolute:
    """The mean absolute error."""

    def __call__(
        self, said: Float[Tensor, "rows asked width"], true: Float[Tensor, "rows asked width"]
    ) -> Float[Tensor, "rows asked"]:
        """Of each place."""
        return (said - true).abs().mean(-1)


def masked_losses(
    x: Float[Tensor, "rows channels ..."],
    masks: Sequence[Mask],
    encoder: PatchEncoder,
    predictor: TokenPredictor,
    targets: Targets,
    distance: Distance,
    visible: nn.Module | None = None,
) -> dict[str, Float[Tensor, " rows"]]:
    """Each row's loss, a mean over its masks: ``"masked"``, and ``"seen"`` where something is asked of what is seen.

    Parameters
    ----------
    x : float tensor (rows, channels, ...)
        As the encoder takes them.
    masks : sequence of Mask
        One or several for each row; they take turns with the predictor's mask tokens.
    encoder, predictor, targets, distance, visible
        See :class:`MaskedModelling`.
    """
    with torch.no_grad():
        true = targets(x)
    found: dict[str, Tensor] = {"masked": torch.zeros(len(x), device=x.device)}
    for turn, mask in enumerate(masks):
        kept, asked = mask.kept.to(x.device), mask.asked.to(x.device)
        tokens = encoder.tokens(x, kept)
        said = predictor(tokens, kept, asked, turn % len(predictor.mask_tokens))
        found["masked"] = found["masked"] + distance(said, gathered(true, asked)).mean(1) / len(masks)
        if visible is not None:
            # tokens come in the order of kept: so must what they are to say
            seen = visible(tokens, gathered(true, kept)) / len(masks)
            found["seen"] = found["seen"] + seen if "seen" in found else seen
    return found


@dataclass
class MaskedState(State):
    """Encoder, predictor, targets, their optimisers, and what is drawn."""

    saved: ClassVar[tuple[str, ...]] = (
        "encoder",
        "predictor",
        "visible",
        "targets",
        "optimiser",
        "targets_optimiser",
        "order",
        "draws",
    )

    rows: Rows = field(kw_only=True)
    x: Tensor = field(kw_only=True)
    encoder: PatchEncoder = field(kw_only=True)
    predictor: TokenPredictor = field(kw_only=True)
    visible: nn.Module | None = field(kw_only=True)
    targets: Targets = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    targets_optimiser: torch.optim.Optimizer | None = field(kw_only=True)
    order: Rounds = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)


@dataclass(frozen=True)
class MaskedModelling(Loop[Task, MaskedState]):
    """Learn features by saying what is masked; with its defaults, a small masked autoencoder.

    Parameters
    ----------
    model : TokenModel, default TokenTransformer()
        The encoder.
    views : Views, optional
        What is done to rows before they are masked.
    masking : Masking, default RandomMask(0.75)
        What is seen of them.
    target : Target, default Pixels()
        What is to be said.
    distance : Distance, default Squared()
        What being wrong costs.
    visible : Visible, optional
        What is asked of the places that are seen.
    predictor : (int, int, int), default (48, 1, 4)
        Width, blocks and heads of what predicts.
    readout : ReadOut, default LinearProbe()
        What gives the score; nearest neighbours are measured beside it.
    optimiser : Optimiser, default AdamW(lr=1.5e-3, weight_decay=0.05)
        How parameters move.
    schedule : Schedule, default Cosine(warmup=0.1)
        Learning rate over the run, or over each of its two parts where targets learn themselves first.
    batch : int, default 96
        Rows a step.
    clip : float, default 0
        Largest norm of the gradient; 0 for none.
    points : int, default 5
        How many points the curve has.

    Examples
    --------
    >>> from fewer.tasks.digits import digits
    >>> loop = MaskedModelling(TokenTransformer(width=16, depth=1, patch=2), predictor=(16, 1, 2), points=2)
    >>> learned = loop.learn(digits(), budget=192)
    >>> [point.spent for point in learned.curve], learned.result.embed(np.zeros((2, 1, 8, 8))).shape
    ([96, 192], (2, 16))
    """

    unit: ClassVar[str] = "rows seen"
    accepts: ClassVar[tuple[type[Task], ...]] = (Classification, Representation)

    model: TokenModel = field(default_factory=TokenTransformer)
    views: Views | None = None
    masking: Masking = field(default_factory=RandomMask)
    target: Target = field(default_factory=Pixels)
    distance: Distance = field(default_factory=Squared)
    visible: Visible | None = None
    predictor: tuple[int, int, int] = (48, 1, 4)
    readout: ReadOut = field(default_factory=LinearProbe)
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=1.5e-3, weight_decay=0.05))
    schedule: Schedule = field(default_factory=lambda: Cosine(warmup=0.1))
    batch: int = 96
    clip: float = 0.0
    points: int = 5

    def __post_init__(self) -> None:
        if self.batch < 1 or self.points < 1 or self.clip < 0:
            raise FewerError(f"masked modelling: batch and points must be at least 1 and clip at least 0; given {self}")

    def least(self, task: Task) -> int:
        """One batch, and another one at least for the student where targets learn first."""
        return self.batch * math.ceil(1 / (1 - getattr(self.target, "share", 0.0)) - 1e-9)

    def start(self, task: Task, budget: int, seed: int) -> MaskedState:
        """Divide the rows; build encoder, predictor and targets."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rows = rows_of(task, seed)
        shape = tuple(rows.x.shape[1:])
        encoder = self.model.build(shape).to(where)
        targets = self.target.build(shape, encoder).to(where)
        width, depth, heads = self.predictor
        predictor = TokenPredictor(
            encoder.grid, encoder.width, width, targets.width, depth, heads, self.masking.kinds
        ).to(where)
        visible = None if self.visible is None else self.visible.build(encoder.width, targets.width).to(where)
        learning = nn.ModuleList([encoder, predictor, *([visible] if visible is not None else [])])
        own = parameter_groups(targets) if any(each.requires_grad for each in targets.parameters()) else None
        return MaskedState(
            budget,
            seed,
            Ledger({"rows_seen": 1.0}),
            rows=rows,
            x=torch.from_numpy(np.ascontiguousarray(rows.x, dtype=np.float32)).to(where),
            encoder=encoder,
            predictor=predictor,
            visible=visible,
            targets=targets,
            optimiser=self.optimiser.make(parameter_groups(learning)),
            targets_optimiser=self.optimiser.make(own) if own is not None else None,
            order=Rounds(len(rows.x), generator(seed, "order")),
            draws=torch_generator(seed, "masks"),
        )

    def advance(self, state: MaskedState) -> Point:
        """Learn until the next point, then read the features out."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        report: dict[str, Tensor] = {}
        while state.ledger.spent < until and not state.exhausted:
            report = self._step(state)
            state.exhausted = state.budget - state.ledger.spent < self.batch
        extras = {name: float(value) for name, value in report.items()}
        if not np.isfinite(extras["loss"]):
            raise Diverged(f"the loss became {extras['loss']} after {state.ledger.spent} rows; lower the learning rate")
        learning_first = state.ledger.spent <= state.targets.share * state.budget and state.targets.encoder is not None
        encoder = state.targets.encoder if learning_first else state.encoder
        assert encoder is not None
        name = {KNN: "knn", LinearProbe: "linear"}.get(type(self.readout), "score")
        readouts: dict[str, ReadOut] = {"knn": KNN(), "linear": LinearProbe(), name: self.readout}
        measured = judged(encoder, state.rows.probes, readouts)
        if not measured and state.x.ndim == 4:
            measured = {"views recognised": recognised(encoder, state.rows.held_out, self.views or Mild())}
        if state.targets.share:
            extras["stage"] = 0.0 if learning_first else 1.0
        # of clips without labels nothing can be said but how much of the targets is explained
        score = measured.get(name, measured.get("views recognised", -extras["loss"]))
        return Point(state.ledger.spent, score, {**measured, **extras, "views": float(state.ledger["views"])})

    def result(self, state: MaskedState) -> PretrainedEncoder:
        """The encoder: means of all tokens."""
        return PretrainedEncoder(state.encoder)

    def losses(self, state: MaskedState, x: Float[Tensor, "rows channels ..."]) -> dict[str, Float[Tensor, " rows"]]:
        """Each row's loss, where it is asked what is masked, and where it is asked what is seen."""
        masks = self.masking.draw(len(x), state.encoder.grid, state.draws)
        state.ledger.add("views", len(x) * len(masks))
        return masked_losses(x, masks, state.encoder, state.predictor, state.targets, self.distance, state.visible)

    def _step(self, state: MaskedState) -> dict[str, Tensor]:
        chosen = torch.from_numpy(state.order.draw(self.batch)).to(state.x.device)
        x = state.x[chosen] if self.views is None else self.views.one(state.x[chosen], state.draws)
        progress, share = state.ledger.spent / state.budget, state.targets.share
        first = progress < share
        state.ledger.add("rows_seen", len(x))
        if first:
            optimiser, report = state.targets_optimiser, {}
            loss = state.targets.lesson(x, state.draws).mean()
            assert optimiser is not None
            state.ledger.add("views", len(x) * state.targets.views)
        else:
            optimiser = state.optimiser
            report = {name: each.mean() for name, each in self.losses(state, x).items()}
            loss = torch.stack(list(report.values())).sum()
        set_rate(optimiser, self.schedule.factor(progress / share if first else (progress - share) / (1 - share)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_([each for group in optimiser.param_groups for each in group["params"]], self.clip)
        optimiser.step()
        if not first:
            state.targets.follow(state.encoder, progress)
        return {name: each.detach() for name, each in report.items()} | {"loss": loss.detach()}
