"""Two views of the same rows, alike enough to be recognised and different enough to teach something."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.labels.augmentation import DEGREES, SHEAR, STRETCH, TRANSLATE, Augmentation, warp


class Views(Protocol):
    """What is made of rows before the encoder sees them."""

    def pair(
        self, x: Float[Tensor, "rows ..."], generator: torch.Generator
    ) -> tuple[Float[Tensor, "rows ..."], Float[Tensor, "rows ..."]]:
        """Two views of each row; draws from the generator (on the CPU)."""
        ...

    def one(self, x: Float[Tensor, "rows ..."], generator: torch.Generator) -> Float[Tensor, "rows ..."]:
        """One view of each row."""
        ...


@dataclass(frozen=True)
class Mild:
    """Small moves, turns, changes of size and contrast, and a little noise: right for digits and drawings.

    Rows that are not images are left to ``fewer.labels.augmentation``.

    Parameters
    ----------
    degrees : float, default 14
        Largest turn.
    shift : float, default 0.0625
        Largest move, as a share of the side.
    shear : float, default 0.15
        Largest shear.
    scale : (float, float), default (0.8, 1.1)
        Least and largest size.
    contrast : (float, float), default (0.5, 1.5)
        Least and largest factor of the pixels.
    noise : float, default 0.1
        Deviation of the noise on each pixel.
    flip : bool, default False
        Mirror half of the views: right for photographs, wrong for digits.

    Examples
    --------
    >>> first, second = Mild().pair(torch.rand(4, 1, 14, 14), torch.Generator().manual_seed(0))
    >>> first.shape, bool((first == second).all())
    (torch.Size([4, 1, 14, 14]), False)
    """

    degrees: float = 14.0
    shift: float = 0.0625
    shear: float = 0.15
    scale: tuple[float, float] = (0.8, 1.1)
    contrast: tuple[float, float] = (0.5, 1.5)
    noise: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] and 0 <= self.contrast[0] <= self.contrast[1]):
            raise FewerError(f"views: scale and contrast go from less to more, above 0; given {self}")

    def pair(
        self, x: Float[Tensor, "rows ..."], generator: torch.Generator
    ) -> tuple[Float[Tensor, "rows ..."], Float[Tensor, "rows ..."]]:
        """Two views of each row."""
        return self.one(x, generator), self.one(x, generator)

    def one(self, x: Float[Tensor, "rows ..."], generator: torch.Generator) -> Float[Tensor, "rows ..."]:
        """One view of each row."""
        if x.ndim != 4:
            return Augmentation(shift=self.shift, flip=self.flip).weak(x, generator)
        rows = len(x)

        def drawn(low: float, high: float) -> Tensor:
            return (low + (high - low) * torch.rand(rows, generator=generator)).to(x.device)

        size = drawn(*self.scale)
        seen = warp(
            x,
            rotate=drawn(-self.degrees, self.degrees) / DEGREES,
            shear_x=drawn(-self.shear, self.shear) / SHEAR,
            translate_x=drawn(-self.shift, self.shift) / TRANSLATE,
            translate_y=drawn(-self.shift, self.shift) / TRANSLATE,
            stretch=(1 / size - 1) / STRETCH,
            stretch_y=(1 / size - 1) / STRETCH,
        )
        if self.flip:
            mirrored = torch.rand(rows, generator=generator) < 0.5
            seen = torch.where(mirrored.view(rows, 1, 1, 1).to(x.device), seen.flip(3), seen)
        seen = seen * drawn(*self.contrast).view(rows, 1, 1, 1)
        return seen + self.noise * torch.randn(seen.shape, generator=generator).to(x.device)


@dataclass(frozen=True)
class Crops:
    """A random part of each image, scaled to the whole, perhaps mirrored: right for photographs.

    Frames of a clip are cut alike.

    Parameters
    ----------
    scale : (float, float), default (0.5, 1)
        Least and largest share of the area.
    aspect : (float, float), default (3/4, 4/3)
        Least and largest width, as a multiple of the height and relative to the image's own; drawn evenly in the logarithm.
    flip : bool, default True
        Mirror half of the views.

    Examples
    --------
    >>> images = torch.rand(4, 3, 32, 32)
    >>> Crops().one(images, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    >>> whole = Crops(scale=(1, 1), aspect=(1, 1), flip=False).one(images, torch.Generator())
    >>> torch.allclose(whole, images, atol=1e-5)
    True
    """

    scale: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise FewerError(
                f"crops: scale goes from less to more in (0, 1], and aspect from less to more above 0; given {self}"
            )

    def pair(
        self, x: Float[Tensor, "rows ..."], generator: torch.Generator
    ) -> tuple[Float[Tensor, "rows ..."], Float[Tensor, "rows ..."]]:
        """Two views of each row."""
        return self.one(x, generator), self.one(x, generator)

    def one(self, x: Float[Tensor, "rows ..."], generator: torch.Generator) -> Float[Tensor, "rows ..."]:
        """One view of each row."""
        if x.ndim not in (4, 5):
            raise FewerError(
                f"crops: rows of shape {tuple(x.shape[1:])} are no images; give (channels, height, width), or clips with frames "
                "after the channels"
            )
        rows = len(x)
        area, shape, across, down, mirrored = torch.rand(5, rows, generator=generator)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        shape = (low + (high - low) * shape).exp()
        # a side cannot be longer than the image
        width, height = (area * shape).sqrt().clamp_(max=1), (area / shape).sqrt().clamp_(max=1)
        # places are counted from -1 to 1
        centre_x, centre_y = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
        if self.flip:
            width = torch.where(mirrored < 0.5, -width, width)
        zero = torch.zeros(rows)
        matrix = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(rows, 2, 3)
        flat = x.flatten(1, -3)
        grid = nn.functional.affine_grid(matrix.to(x.device, x.dtype), list(flat.shape), align_corners=False)
        seen = nn.functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return seen.view(x.shape)
