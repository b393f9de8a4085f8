"""DMJD: mask each image twice with masks that overlap as little as they can, and ask the visible patches as well.

A masked autoencoder learns from the masked patches of an image only.  Here two views of it are masked such that (nearly)
every patch is asked in one of them, while each keeps its share of masked patches; and the encoder's own tokens of visible
patches say *their* targets through a second, light head.  With corrupted share ``m``, predicted share ``p`` and ``L`` patches::

    first view     M1 random, |M1| = L - int(L (1 - m)),      V1 = the others
    second view    M2 = int(min(p - m, m) L) patches of V1 and the rest of M1,      so  |M1 u M2| = |M1| + int(min(p - m, m) L)

    loss = mean over masked |d(e(V), place) - t|^2  +  theta * mean over visible smooth_l1(h(e(V)), t; beta = 2)

over both views, where t are histograms of oriented gradients (:mod:`fewer.pretrain.hog`).  The learning rate follows the
patches that are predicted, and not the batch that two views make twice as large: ``base * images * p / m / 256``.

References
----------
Xin Ma et al., "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling", arXiv:2301.00230.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.claim import Claim, Measures, higher, identical, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import Parameters
from fewer.models.tokens import PatchEncoder, TokenPredictor, TokenTransformer, initialise, sparing
from fewer.pretrain.hog import HOG
from fewer.pretrain.masked import (
    Mask,
    MaskedModelling,
    Masking,
    Pixels,
    RandomMask,
    Squared,
    Target,
    Visible,
    checked_ratio,
    masked_losses,
    visible_places,
)
from fewer.pretrain.readout import LinearProbe, probe
from fewer.tasks.digits import digits
from fewer.tasks.mnist import mnist5k
from fewer.tasks.representation import Representation

BLOCKS_TO_CHOOSE_FROM = 16
"""By default patches are masked in blocks where a grid has so many blocks or more."""


def disjoint_masks(
    rows: int,
    grid: tuple[int, ...],
    mask_ratio: float,
    pred_ratio: float,
    generator: torch.Generator,
    block: int | tuple[int, ...] | None = 1,
) -> tuple[Mask, Mask]:
    """Two masks of each row that hide the same number of patches and have as few of them in common as they can.

    Parameters
    ----------
    rows : int
        How many rows.
    grid : tuple of int
        Patches in each dimension.
    mask_ratio : float
        Share of the patches that is hidden in each view, in (0, 1).
    pred_ratio : float
        Share that is hidden in one view or the other, at least ``mask_ratio`` and at most 1: with ``mask_ratio`` itself, the
        second mask is the first one.
    generator : torch.Generator
        On the CPU.
    block : int or tuple of int, optional
        Sides of the blocks that are hidden as a whole, in patches; a number is that of height and width.  With None, 2 by 2
        where that divides the grid into 16 blocks or more, else single patches.

    Returns
    -------
    (Mask, Mask)
        Of each view; ``kept`` and ``asked`` together are all patches.

    Raises
    ------
    FewerError
        For shares that leave nothing to see or nothing to say, or blocks that do not divide the grid.

    Examples
    --------
    >>> first, second = disjoint_masks(1, (8, 8), 0.5, 1.0, torch.Generator().manual_seed(0), block=2)
    >>> sorted(first.kept[0].tolist()) == sorted(second.asked[0].tolist())
    True
    """
    _check_shares(mask_ratio, pred_ratio)
    members = _blocks(grid, block)
    count = len(members)
    seen = visible_places(count, mask_ratio)
    fresh = int(min(pred_ratio - mask_ratio, mask_ratio) * count + 1e-9)
    order = torch.rand(rows, count, generator=generator).argsort(1)
    # a random order is one of what is kept and of what is hidden, too: no second draw is needed
    kept, hidden = order[:, :seen], order[:, seen:]
    old = count - seen - fresh
    again = torch.cat([kept[:, fresh:], hidden[:, old:]], dim=1), torch.cat([kept[:, :fresh], hidden[:, :old]], dim=1)
    first, second = (Mask(*(members[each].flatten(1) for each in parts)) for parts in ((kept, hidden), again))
    return first, second


def _check_shares(mask_ratio: float, pred_ratio: float) -> None:
    checked_ratio(mask_ratio)
    if not mask_ratio <= pred_ratio <= 1:
        raise FewerError(
            f"disjoint masks: pred_ratio is {pred_ratio}; give the share that both masks hide together, from mask_ratio "
            f"({mask_ratio}) to 1"
        )


def _blocks(grid: tuple[int, ...], block: int | tuple[int, ...] | None) -> Int[Tensor, "blocks members"]:
    """Places of the grid that are hidden together."""
    if block is None:
        even = len(grid) > 1 and not (grid[-1] % 2 or grid[-2] % 2)
        block = 2 if even and math.prod(grid[-2:]) // 4 >= BLOCKS_TO_CHOOSE_FROM else 1
    sides = (1,) * (len(grid) - 2) + (block, block) if isinstance(block, int) else tuple(block)
    if len(sides) != len(grid) or any(side < 1 or places % side for side, places in zip(sides, grid, strict=True)):
        raise FewerError(
            f"disjoint masks: blocks of {' by '.join(map(str, sides))} patches do not divide a grid of "
            f"{' by '.join(map(str, grid))}; give block=1, or rows whose sides are multiples of a block's"
        )
    split = [number for places, side in zip(grid, sides, strict=True) for number in (places // side, side)]
    axes = range(len(grid))
    places = (
        torch.arange(math.prod(grid)).view(split).permute([2 * each for each in axes] + [2 * each + 1 for each in axes])
    )
    return places.reshape(-1, math.prod(sides))


@dataclass(frozen=True)
class DisjointMasking:
    """Two masks of each row that together hide (nearly) all patches.

    Parameters
    ----------
    mask_ratio : float, default 0.6
        Share of the patches that is hidden in each view.
    pred_ratio : float, default 1
        Share that is hidden in one view or the other.
    block : int or tuple of int, optional
        Sides of the blocks that are hidden as a whole; see :func:`disjoint_masks`.

    Examples
    --------
    >>> first, second = DisjointMasking().draw(5, (8, 8), torch.Generator().manual_seed(0))
    >>> first.kept.shape, torch.cat([first.asked, second.asked], dim=1)[0].unique().numel()
    (torch.Size([5, 24]), 64)
    """

    mask_ratio: float = 0.6
    pred_ratio: float = 1.0
    block: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_shares(self.mask_ratio, self.pred_ratio)

    @property
    def kinds(self) -> int:
        """One: both views are read by the same mask token."""
        return 1

    def draw(self, rows: int, grid: tuple[int, ...], generator: torch.Generator) -> list[Mask]:
        """Masks of both views."""
        return list(disjoint_masks(rows, grid, self.mask_ratio, self.pred_ratio, generator, self.block))


@dataclass(frozen=True)
class VisibleBranch:
    """A light head that says the targets of visible patches from the encoder's own tokens.

    Parameters
    ----------
    theta : float, default 1
        Weight of its loss.
    hidden : int, default 64
        Units of its three layers; 512 as published.
    beta : float, default 2
        Errors below it cost ``error^2 / (2 beta)``, others ``|error| - beta / 2``.

    Examples
    --------
    >>> branch = VisibleBranch(hidden=8).build(inputs=16, outputs=36)
    >>> branch(torch.zeros(5, 25, 16), torch.zeros(5, 25, 36)).shape
    torch.Size([5])
    """

    theta: float = 1.0
    hidden: int = 64
    beta: float = 2.0

    def __post_init__(self) -> None:
        if not (self.theta >= 0 and self.beta > 0 and self.hidden >= 1):
            raise FewerError(
                f"visible branch: theta must be 0 or more, beta above 0 and hidden at least 1; given {self}"
            )

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """A module called with the visible tokens and their targets, which gives each row's loss."""
        return _VisibleHead(inputs, outputs, self.hidden, self.theta, self.beta)


class _VisibleHead(nn.Module):
    def __init__(self, inputs: int, outputs: int, hidden: int, theta: float, beta: float) -> None:
        super().__init__()
        self.theta, self.beta = theta, beta
        self.say = nn.Sequential(
            *(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), nn.LayerNorm(hidden, elementwise_affine=False)),
            nn.Linear(hidden, outputs),
        )
        initialise(self)
        # whoever begins with little to say is not first taught to be silent: the encoder would lose what it sees
        nn.init.trunc_normal_(self.say[-1].weight, std=0.02)  # pyright: ignore[reportArgumentType]

    def forward(
        self, tokens: Float[Tensor, "rows seen inputs"], true: Float[Tensor, "rows seen outputs"]
    ) -> Float[Tensor, " rows"]:
        wrong = nn.functional.smooth_l1_loss(self.say(tokens), true, reduction="none", beta=self.beta)
        return self.theta * wrong.mean((1, 2))

    def own_groups(self) -> list[dict[str, Any]]:
        return sparing(self)


@dataclass(frozen=True)
class TokenScaledAdamW:
    """AdamW whose learning rate follows the patches that are predicted in a step: ``base * batch * p / m / 256``.

    Parameters
    ----------
    base : float, default 2.4e-3
        For 256 images of which as much is predicted as is hidden; published runs of ViT-B take 6e-4.
    batch : int, default 96
        Different images in a step, not their views.
    mask_ratio, pred_ratio : float, default 0.6 and 1
        Hidden in each view, and predicted in all.
    weight_decay : float, default 0.05
        Decoupled penalty; not on biases and norms.
    betas : (float, float), default (0.9, 0.95)
        How long the moments remember.

    Examples
    --------
    >>> round(TokenScaledAdamW(base=6e-4, batch=1024).lr, 6)
    0.004
    """

    base: float = 2.4e-3
    batch: int = 96
    mask_ratio: float = 0.6
    pred_ratio: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.batch >= 1):
            raise FewerError(
                f"learning rate: base must be above 0 and batch at least 1; given {self.base} and {self.batch}"
            )

    @property
    def lr(self) -> float:
        """The peak learning rate."""
        return self.base * self.batch * self.pred_ratio / self.mask_ratio / 256

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build it."""
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)


def joint_distillation(
    mask_ratio: float = 0.6,
    pred_ratio: float = 1.0,
    block: int | tuple[int, ...] | None = None,
    theta: float = 1.0,
    hidden: int = 64,
    cell: int | None = None,
    base: float = 2.4e-3,
    batch: int = 96,
    target: Literal["hog", "pixels"] | None = "hog",
    optimiser: Literal["token-scaled"] | None = "token-scaled",
) -> dict[str, Any]:
    """Fill a masked loop with DMJD.

    Parameters
    ----------
    mask_ratio, pred_ratio, block
        See :class:`DisjointMasking`.
    theta, hidden
        See :class:`VisibleBranch`; with ``theta=0`` nothing is asked of visible patches.
    cell : int, optional
        See :class:`fewer.pretrain.hog.HOG`.
    base, batch
        See :class:`TokenScaledAdamW`: give the loop's batch here as well, where it is another one.
    target : {"hog", "pixels"}, optional
        What is said of a patch; None leaves it to another filling.
    optimiser : {"token-scaled"}, optional
        None leaves it to another filling.

    Returns
    -------
    dict
        Fillings of the slots masking, distance, visible, target and optimiser.

    Examples
    --------
    >>> loop = MaskedModelling(**joint_distillation(theta=0))
    >>> loop.masking, loop.visible, round(loop.optimiser.lr, 6)
    (DisjointMasking(mask_ratio=0.6, pred_ratio=1.0, block=None), None, 0.0015)
    """
    filled: dict[str, Any] = {
        "masking": DisjointMasking(mask_ratio, pred_ratio, block),
        "distance": Squared(),
        "visible": VisibleBranch(theta, hidden) if theta else None,
    }
    if target is not None:
        targets: dict[str, Target] = {"hog": HOG(cell), "pixels": Pixels()}
        if target not in targets:
            raise FewerError(f"dmjd: the target is {target!r}; choose 'hog' or 'pixels'")
        filled["target"] = targets[target]
    if optimiser is not None:
        filled["optimiser"] = TokenScaledAdamW(base, batch, mask_ratio, pred_ratio)
    return filled


class DMJD(nn.Module):
    """DMJD as a loss around an encoder, for a training loop of one's own.

    Parameters
    ----------
    encoder : PatchEncoder
        What is trained: :class:`fewer.models.tokens.TokenEncoder`, or a vision transformer of ``transformers``
        (:class:`fewer.models.transformers_vit.TransformersEncoder`).
    masking : DisjointMasking, default DisjointMasking()
        What is seen of each image.
    target : Target, default HOG()
        What is said of a patch.
    visible : VisibleBranch, optional, default VisibleBranch(hidden=512)
        What is asked of visible patches; None for nothing.
    predictor : (int, int, int), default (512, 8, 16)
        Width, blocks and heads of what predicts the masked patches.

    Examples
    --------
    >>> from fewer.models.tokens import TokenEncoder
    >>> encoder = TokenEncoder((3, 32, 32), (4, 4), width=32, depth=1, heads=2)
    >>> model = DMJD(encoder, visible=VisibleBranch(hidden=32), predictor=(16, 1, 2))
    >>> images = torch.rand(5, 3, 32, 32)
    >>> optimiser = TokenScaledAdamW(batch=5).make(model.parameters())
    >>> model(images).mean().backward()
    >>> optimiser.step()
    >>> encoder(images).shape
    torch.Size([5, 32])
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        masking: Masking | None = None,
        target: Target | None = None,
        visible: Visible | None = VisibleBranch(hidden=512),
        predictor: tuple[int, int, int] = (512, 8, 16),
    ) -> None:
        super().__init__()
        self.encoder, self.masking = encoder, masking or DisjointMasking()
        self.targets = (target or HOG()).build(encoder.shape, encoder)
        width, depth, heads = predictor
        self.predictor = TokenPredictor(
            encoder.grid, encoder.width, width, self.targets.width, depth, heads, self.masking.kinds
        )
        self.visible = None if visible is None else visible.build(encoder.width, self.targets.width)

    def losses(
        self, x: Float[Tensor, "rows channels ..."], generator: torch.Generator | None = None
    ) -> dict[str, Float[Tensor, " rows"]]:
        """Each image's loss at masked patches, and at visible ones (``"masked"``, ``"seen"``)."""
        masks = self.masking.draw(len(x), self.encoder.grid, generator or torch.default_generator)
        return masked_losses(x, masks, self.encoder, self.predictor, self.targets, Squared(), self.visible)

    def forward(
        self, x: Float[Tensor, "rows channels ..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, " rows"]:
        """Each image's loss.

        Parameters
        ----------
        x : float tensor (rows, channels, height, width)
            Images as loaded: the targets are histograms of them as they are.
        generator : torch.Generator, optional
            Of the masks, on the CPU; torch's global one by default.
        """
        return torch.stack(list(self.losses(x, generator).values())).sum(0)


# --- the claim -------------------------------------------------------------------------------------------------------

VIEWS = 96
"""Masked views in each step of every arm: of so many images, or of half of them twice."""


def measure_masks(seed: int, tiny: bool) -> Measures:
    """How much of an image two masks predict together."""
    rows, grid = (50 if tiny else 2000), (8, 8)
    draws = torch_generator(seed, "masks")
    pairs = {
        "disjoint masks": DisjointMasking(block=1).draw(rows, grid, draws),
        "disjoint blocks": DisjointMasking(block=2).draw(rows, grid, draws),
        "independent masks": RandomMask(0.6, masks=2).draw(rows, grid, draws),
    }
    found = {"every patch": {"patches predicted": 1.0, "least of an image": 1.0}}
    for name, masks in pairs.items():
        predicted = torch.zeros(rows, 64)
        for mask in masks:
            predicted.scatter_(1, mask.asked, 1.0)
        shares = predicted.mean(1)
        found[name] = {"patches predicted": float(shares.mean()), "least of an image": float(shares.min())}
    return found


def measure_probe(seed: int, tiny: bool) -> Measures:
    """Pre-train on digits with equal views, and read the features out."""
    split = (digits(rows=300) if tiny else mnist5k(size=28, test=1000)).split(seed)
    filled = ((0, 0), (0, 0), (2, 2), (2, 2))  # 28 pixels to 32
    x, labelled = (each if tiny else np.pad(each, filled) for each in (split.x, split.test_x))
    task = Representation("unlabelled digits", x, {}, test=1)
    half, steps, model = len(labelled) // 2, (3 if tiny else 240), TokenTransformer(patch=2 if tiny else 4)
    two, disjoint = RandomMask(0.6, masks=2), DisjointMasking(block=1)
    asking_both = {"visible": VisibleBranch(), "optimiser": TokenScaledAdamW(base=9.6e-3, batch=VIEWS // 2)}
    arms: dict[str, dict[str, Any]] = {
        "one mask": {"masking": RandomMask(0.6)},
        "two masks": {"masking": two},
        "disjoint masks": {"masking": disjoint},
        "two masks, visible": {"masking": two, **asking_both},
        "dmjd": {"masking": disjoint, **asking_both},
    }
    found = {}
    for name, filled_slots in arms.items():
        batch = VIEWS if name.startswith("one") else VIEWS // 2
        loop = MaskedModelling(**{"model": model, "target": HOG(), "batch": batch, "points": 1, **filled_slots})
        learned = loop.learn(task, steps * batch, seed)
        known, asked = slice(half), slice(half, None)
        score = probe(
            *(learned.result.network, labelled[known], split.test_y[known], labelled[asked], split.test_y[asked]),
            LinearProbe(),
        )
        found[name] = {
            "linear probe": score,
            "images read": learned.ledger["rows_seen"],
            "views": learned.ledger["views"],
            "masked loss": learned.curve.points[-1].extras["masked"],
        }
    return found


claim = (
    Claim(
        says="With three fifths of the patches masked, two disjoint masks predict every patch of every image; two "
        "independent ones leave out about a sixth.",
        measure=measure_masks,
        seeds=10,
        holds=[
            identical("least of an image", "disjoint masks", to="every patch"),
            identical("least of an image", "disjoint blocks", to="every patch"),
            higher("patches predicted", "disjoint masks", than="independent masks", by=0.14),
        ],
        note="The paper's mechanism, exactly: an image has 8 by 8 patches.",
    ),
    Claim(
        says="With equally many masked views, DMJD's features are read out four points better than those of one mask or of two "
        "independent ones, from half of the images; disjoint masks alone lose nothing.",
        measure=measure_probe,
        seeds=3,
        holds=[
            higher("linear probe", "dmjd", than="two masks", by=0.04),
            higher("linear probe", "dmjd", than="one mask", by=0.04),
            no_worse("linear probe", "disjoint masks", than="two masks", within=0.01),
            no_worse("linear probe", "disjoint masks", than="one mask", within=0.01),
            ratio("images read", "dmjd", to="one mask", at_most=0.5),
        ],
        note="4,000 digits, 240 steps of 96 views, where the paper has ImageNet and 800 epochs; a probe on 500 labels. All arms "
        "say histograms of gradients. Of a learning rate of 1.5e-3 and one of 3e-3 with shorter memory, each arm has what was "
        "better on another seed: the first, and the second where visible patches are asked. An untrained encoder is read out "
        "as well as those that say masked patches only (0.56 to 0.62 on three other seeds): so early they have learned "
        "nothing of use.",
    ),
)
