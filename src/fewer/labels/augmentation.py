"""Weak and strong views of rows, for learners that ask for the same answer to both.

Whole batches are drawn and changed at once: every operation is the identity at strength 0, each row draws the few
operations that it gets, and all others pass it by.  Works on images (channels, height, width), on signals (channels,
length) and on feature vectors (features,), whatever their scale: amounts are in units of the row's own spread.

The strong operations are those of RandAugment (arXiv:1909.13719) that need no histogram, with the ranges that
FixMatch (arXiv:2001.07685) gives them, and Cutout (arXiv:1708.04552) comes last, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError

IMAGE = (
    "identity",
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "noise",
    "rotate",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
)
SIGNAL = ("identity", "brightness", "contrast", "sharpness", "noise", "stretch", "translate-x")
"""Operations a row may draw; on a signal, brightness is an offset, contrast its amplitude, sharpness its smoothness."""

DEGREES, SHEAR, TRANSLATE, STRETCH = 30.0, 0.3, 0.3, 0.3
"""Largest rotation, shear, shift (share of the side) and change of tempo."""
BLEND = 0.9
"""Contrast, saturation and sharpness lie between 1 - BLEND (nothing left but the mean) and 1 + BLEND of what they were."""
NOISE = 0.5
"""Largest deviation of the noise, in deviations of the row."""
WEAK_NOISE, STRONG_NOISE = 0.05, 0.25
"""Deviation of the noise on feature vectors, in deviations of each feature."""


@dataclass(frozen=True)
class Augmentation:
    """Two ways to change rows without changing their class.

    A weak view is moved a little, at the border by reflection, and perhaps flipped.  A strong view is a weak one to which
    a few random operations of random strength are done, and in which a box is then set to the row's mean.  A feature
    vector has no places that could be moved or cut out: its weak view has a little noise, its strong one more of it and
    some features set to their mean, both in units of the batch; whether that keeps the class is for you to know.

    Parameters
    ----------
    shift : float, default 0.125
        Largest move of a weak view in each direction, as a share of the side.
    flip : bool, default False
        Mirror half of the rows left to right (signals: back to front).  Right for photographs, wrong for digits.
    operations : int, default 2
        How many different operations a strong view draws.
    cutout : float, default 0.5
        Largest side of the box, as a share of the row's side; of a feature vector, the largest share of the features.

    Examples
    --------
    >>> draws = torch.Generator().manual_seed(0)
    >>> x = torch.rand(8, 3, 32, 32)
    >>> Augmentation().weak(x, draws).shape, Augmentation().strong(x, draws).shape
    (torch.Size([8, 3, 32, 32]), torch.Size([8, 3, 32, 32]))
    """

    shift: float = 0.125
    flip: bool = False
    operations: int = 2
    cutout: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.shift < 1 and 0 <= self.cutout <= 1):
            raise FewerError(
                f"augmentation: shift must lie in [0, 1) and cutout in [0, 1]; they are {self.shift} and {self.cutout}"
            )
        if not 0 <= self.operations <= len(SIGNAL):
            raise FewerError(f"augmentation: operations must be 0 to {len(SIGNAL)}; {self.operations} was given")

    def weak(self, x: Float[Tensor, "rows ..."], generator: torch.Generator) -> Float[Tensor, "rows ..."]:
        """A slightly changed copy of each row.

        Parameters
        ----------
        x : float tensor (rows, channels, height, width), (rows, channels, length) or (rows, features)
            Left as it is.
        generator : torch Generator
            On the CPU.

        Raises
        ------
        FewerError
            If rows have another shape.
        """
        _check(x)
        if x.ndim == 2:
            return _noisy(x, WEAK_NOISE, generator)
        rows, last = len(x), x.ndim - 1
        index: list[Tensor] = []
        for dimension, side in enumerate(x.shape[2:], start=2):
            most = int(self.shift * side)
            place = torch.arange(side) + torch.randint(-most, most + 1, (rows, 1), generator=generator)
            place = side - 1 - (side - 1 - place.abs()).abs()  # reflected at both borders
            if self.flip and dimension == last:
                mirrored = torch.rand(rows, 1, generator=generator) < 0.5
                place = torch.where(mirrored, side - 1 - place, place)
            index.append(place.view(rows, 1, *(side if each == dimension else 1 for each in range(2, x.ndim))))
        row = torch.arange(rows).view(rows, *[1] * last)
        channel = torch.arange(x.shape[1]).view(1, -1, *[1] * (last - 1))
        return x[tuple(each.to(x.device) for each in (row, channel, *index))]

    def strong(self, x: Float[Tensor, "rows ..."], generator: torch.Generator) -> Float[Tensor, "rows ..."]:
        """A heavily changed copy of each row; see :meth:`weak`."""
        _check(x)
        if x.ndim == 2:
            noisy = _noisy(x, STRONG_NOISE, generator)
            share = self.cutout * torch.rand(len(x), 1, generator=generator)
            dropped = torch.rand(x.shape, generator=generator) < share
            return torch.where(dropped.to(x.device), x.mean(dim=0), noisy)
        view = self.weak(x, generator)
        if not len(x):
            return view
        if x.ndim == 3:
            return self._strong(view[:, :, None], SIGNAL, generator)[:, :, 0]  # an image of one line
        return self._strong(view, IMAGE, generator)

    def _strong(self, x: Tensor, operations: tuple[str, ...], generator: torch.Generator) -> Tensor:
        rows = len(x)
        rank = torch.rand(rows, len(operations), generator=generator).argsort(dim=1).argsort(dim=1)
        strength = (2 * torch.rand(rows, len(operations), generator=generator) - 1) * (rank < self.operations)
        by_name = dict(zip(operations, strength.T.to(x.device), strict=True))
        x = warp(x, **{name.replace("-", "_"): by_name[name] for name in _GEOMETRY if name in by_name})
        x = _retouched(x, {name: each.view(rows, 1, 1, 1) for name, each in by_name.items()}, generator)
        return _cut_out(x, self.cutout, generator)


_GEOMETRY = ("rotate", "shear-x", "shear-y", "translate-x", "translate-y", "stretch")


def warp(
    x: Float[Tensor, "rows channels height width"],
    rotate: Float[Tensor, " rows"] | float = 0.0,
    shear_x: Float[Tensor, " rows"] | float = 0.0,
    shear_y: Float[Tensor, " rows"] | float = 0.0,
    translate_x: Float[Tensor, " rows"] | float = 0.0,
    translate_y: Float[Tensor, " rows"] | float = 0.0,
    stretch: Float[Tensor, " rows"] | float = 0.0,
    stretch_y: Float[Tensor, " rows"] | float = 0.0,
) -> Float[Tensor, "rows channels height width"]:
    """Rotate, shear, move and stretch each image by its own amounts, all in one interpolation.

    What comes in from outside is the border, repeated.

    Parameters
    ----------
    x : float tensor (rows, channels, height, width)
        Images.
    rotate, shear_x, shear_y, translate_x, translate_y, stretch, stretch_y : float tensor (rows,), or a number
        Strengths in [-1, 1] of up to 30 degrees, a shear of 0.3, 0.3 of the side, and 0.3 of the width and of the height.

    Examples
    --------
    >>> warp(torch.arange(10.0).view(1, 1, 1, 10), translate_x=1.0).round().flatten().tolist()
    [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0, 9.0]
    """
    rows, _, height, width = x.shape
    given = (rotate, shear_x, shear_y, translate_x, translate_y, stretch, stretch_y)
    angle, right, down, along_x, along_y, longer, taller = (
        torch.as_tensor(each, dtype=x.dtype, device=x.device).expand(rows) for each in given
    )
    angle = angle * (DEGREES * torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((cos, -sin, sin, cos), dim=1).view(rows, 2, 2)
    one = torch.ones_like(cos)
    slant = torch.stack((one + STRETCH * longer, SHEAR * right, SHEAR * down, one + STRETCH * taller), dim=1).view(
        rows, 2, 2
    )
    # places are counted from -1 to 1 in both directions, whatever the sides: keep angles true where they differ
    aspect = x.new_tensor([[1.0, height / width], [width / height, 1.0]])
    move = 2 * TRANSLATE * torch.stack((along_x, along_y), dim=1)
    matrix = torch.cat((turn @ slant * aspect, move[:, :, None]), dim=2)
    grid = nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _retouched(x: Tensor, strength: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, sharpness and noise, each row by its own strengths."""
    mean, spread = _mean_and_spread(x)
    x = mean + (x - mean) * (1 + BLEND * strength["contrast"]) + spread * strength["brightness"]
    if "saturation" in strength and x.shape[1] == 3:
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * (1 + BLEND * strength["saturation"])
    kernel = tuple(3 if side > 2 else 1 for side in x.shape[2:])
    padding = tuple(size // 2 for size in kernel)
    blurred = nn.functional.avg_pool2d(x, kernel, stride=1, padding=padding, count_include_pad=False)
    x = blurred + (x - blurred) * (1 + BLEND * strength["sharpness"])
    noise = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
    return x + NOISE * strength["noise"].abs() * spread * noise


def _cut_out(x: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Set a box in each row to the row's mean; its centre is anywhere, what lies beyond the border is lost."""
    rows = len(x)
    share = largest * torch.rand(rows, 1, generator=generator)
    inside: list[Tensor] = []
    for side in x.shape[2:]:
        centre = side * torch.rand(rows, 1, generator=generator)
        reach = share * side / 2 if side > 1 else share.sign()  # the one line of a signal is always hit
        inside.append((torch.arange(side) + 0.5 - centre).abs() < reach)
    down, across = inside
    box = (down[:, None, :, None] & across[:, None, None, :]).to(x.device)
    return torch.where(box, _mean_and_spread(x)[0], x)


def _mean_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    spread, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
    return mean, spread


def _noisy(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
    return x + amount * x.std(dim=0, correction=0) * noise


def _check(x: Tensor) -> None:
    if not 2 <= x.ndim <= 4:
        raise FewerError(
            f"augmentation: rows of shape {tuple(x.shape[1:])} have no views; give images (channels, height, width), "
            "signals (channels, length) or feature vectors"
        )
