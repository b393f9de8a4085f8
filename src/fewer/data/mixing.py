"""MixUp and CutMix: two rows of a batch become one, and its target is both classes in a ratio.

Each is a slot filling and a function at once: ``mix(batch)`` in the loop, ``x, target = mixing(x, y)``
in anybody's training script.

References
----------
Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412.
Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019, arXiv:1905.04899.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.special import betaincinv
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.data.loop import Batch, Target


@dataclass(frozen=True)
class MixUp:
    """Weighted means of rows and their partners.

    Parameters
    ----------
    alpha : float, default 1
        The ratio, one a batch, is drawn from Beta(alpha, alpha).

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, target = MixUp(alpha=0.2)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    >>> x.shape, target.first.tolist(), target.second.tolist()
    (torch.Size([4, 3, 8, 8]), [0, 1, 2, 3], [2, 1, 0, 3])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_alpha("mixup", self.alpha)

    def __call__(
        self, x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch ..."], Target]:
        """Mix rows of any shape; see the class.

        Parameters
        ----------
        x : float tensor (batch, ...)
            Rows; left as they are.
        y : int tensor (batch,)
            Their classes.
        generator : torch Generator, optional
            On the CPU; torch's global one by default.

        Returns
        -------
        mixed : float tensor (batch, ...)
        target : Target

        Raises
        ------
        FewerError
            If the batch is empty, or classes are not whole numbers, one a row.
        """
        _check_batch(x, y)
        ratio, partner = _draw(self.alpha, x, generator)
        return torch.lerp(x[partner], x, ratio), _target(y, partner, ratio)

    def blend(
        self,
        x: Float[Tensor, "batch ..."],
        others: Float[Tensor, "batch ..."],
        ratio: float,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch ..."], float]:
        """Mix each row with the one at its place among ``others``, in a given ratio.

        Parameters
        ----------
        x, others : float tensor (batch, ...)
            Rows of equal shape; left as they are.
        ratio : float
            Wanted share of ``x``.
        generator : torch Generator, optional
            For what is drawn beside the ratio, which here is nothing.

        Returns
        -------
        mixed : float tensor (batch, ...)
        share : float
            How much of ``x`` is left.
        """
        return torch.lerp(others, x, ratio), ratio

    def mix(self, batch: Batch) -> tuple[Float[Tensor, "batch ..."], Target]:
        """Mix a batch of the loop."""
        return self(batch.x, batch.y, batch.generator)


@dataclass(frozen=True)
class CutMix:
    """Rows with a box of their partners pasted over.

    The box covers one part in each dimension but the channels: an interval of a signal, a rectangle
    of an image.  The target's ratio is that of what is left of the row.

    Parameters
    ----------
    alpha : float, default 1
        The intended ratio, one a batch, is drawn from Beta(alpha, alpha).
    inside : bool, default False
        Place the whole box inside the row.  By default its centre may be anywhere and what lies beyond
        the border is cut off, as in the paper; then less is pasted than intended, often very little.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, target = CutMix()(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    >>> target.ratio.tolist()
    [0.9375, 0.9375, 0.9375, 0.9375]
    """

    alpha: float = 1.0
    inside: bool = False

    def __post_init__(self) -> None:
        _check_alpha("cutmix", self.alpha)

    def __call__(
        self,
        x: Float[Tensor, "batch channels *places"],
        y: Int[Tensor, " batch"],
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch channels *places"], Target]:
        """Mix rows of shape (channels, length), (channels, height, width) or more; see :meth:`MixUp.__call__`."""
        _check_batch(x, y)
        _check_sides(x)
        intended, partner = _draw(self.alpha, x, generator)
        where, left = self._box(x.shape[2:], intended, generator)
        mixed = x.clone()
        mixed[where] = x[where][partner]
        return mixed, _target(y, partner, left)

    def blend(
        self,
        x: Float[Tensor, "batch channels *places"],
        others: Float[Tensor, "batch channels *places"],
        ratio: float,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch channels *places"], float]:
        """Paste a box of the row at the same place among ``others`` over each row; see :meth:`MixUp.blend`."""
        _check_sides(x)
        where, left = self._box(x.shape[2:], ratio, generator)
        mixed = x.clone()
        mixed[where] = others[where]
        return mixed, left

    def mix(self, batch: Batch) -> tuple[Float[Tensor, "batch ..."], Target]:
        """Mix a batch of the loop."""
        return self(batch.x, batch.y, batch.generator)

    def _box(
        self, sides: tuple[int, ...], ratio: float, generator: torch.Generator | None
    ) -> tuple[tuple[slice, ...], float]:
        """Where to paste, and how much of the row is then left."""
        share = (1 - ratio) ** (1 / len(sides))
        box: list[slice] = []
        for side in sides:
            length = round(side * share)
            if self.inside:
                begin = int(torch.randint(side - length + 1, (), generator=generator))
            else:
                begin = int(torch.randint(side, (), generator=generator)) - length // 2
            box.append(slice(max(begin, 0), min(begin + length, side)))
        pasted = math.prod(part.stop - part.start for part in box) / math.prod(sides)
        return (slice(None), slice(None), *box), 1 - pasted


def draw_ratio(alpha: float, generator: torch.Generator | None = None) -> float:
    """Draw a ratio from Beta(alpha, alpha), by inverting its distribution."""
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    return float(betaincinv(alpha, alpha, uniform))


def _check_alpha(name: str, alpha: float) -> None:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise FewerError(f"{name}: alpha must be positive, {alpha} was given; for no mixing leave {name} out")


def _check_sides(x: Tensor) -> None:
    if x.ndim < 3:
        raise FewerError(
            f"cutmix needs rows of (channels, length) or (channels, height, width); these are {tuple(x.shape[1:])}; "
            "use mixup"
        )


def _check_batch(x: Tensor, y: Tensor) -> None:
    if not len(x):
        raise FewerError("an empty batch cannot be mixed; skip it")
    if y.is_floating_point() or y.shape != x.shape[:1]:
        raise FewerError(
            f"mixing needs one whole number a row as its class; given {tuple(y.shape)} of {y.dtype} "
            f"for {len(x)} rows; turn one-hot labels into numbers with argmax"
        )


def _draw(alpha: float, x: Tensor, generator: torch.Generator | None) -> tuple[float, Tensor]:
    """A ratio, and a random partner for each row."""
    ratio = draw_ratio(alpha, generator)
    return ratio, torch.randperm(len(x), generator=generator).to(x.device)


def _target(y: Tensor, partner: Tensor, ratio: float) -> Target:
    return Target(y, y[partner], torch.full(y.shape, ratio, dtype=torch.float32, device=y.device))
