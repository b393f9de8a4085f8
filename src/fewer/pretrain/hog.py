"""Histograms of oriented gradients as what is to be said of a patch: where its edges run, whatever its brightness.

For each channel, with differences of a pixel's neighbours ``g_row = x[i+1, j] - x[i-1, j]`` and ``g_column`` alike, zero at the
border: a pixel adds its magnitude ``sqrt(g_row^2 + g_column^2)`` to the bin of its direction ``atan2(g_row, g_column)``, taken
modulo 180 degrees, in the histogram of its cell.  A histogram is divided by the cell's pixels, and then, channel by channel and
cell by cell, brought to mean 0 and deviation 1 over its bins.  Histograms of neighbouring cells are not normalised together.

Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training", arXiv:2112.09133.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.tokens import PatchEncoder, grid_of, patches
from fewer.pretrain.masked import Targets


def hog(
    x: Float[Tensor, "rows channels *frames height width"], cell: int = 8, bins: int = 9, whiten: bool = True
) -> Float[Tensor, "rows bins channels *frames down across"]:
    """Histogram of the directions of edges in each cell of an image, or of each frame of a clip.

    Parameters
    ----------
    x : float tensor (rows, channels, height, width) or (rows, channels, frames, height, width)
        As loaded, on any scale.
    cell : int, default 8
        Pixels a side; cells that reach beyond the image have no edges there.
    bins : int, default 9
        Of 180 / ``bins`` degrees each.
    whiten : bool, default True
        Bring each histogram to mean 0 and deviation 1; one without edges stays 0.

    Returns
    -------
    float tensor (rows, bins, channels, cells down, cells across), with frames before the cells of clips

    Examples
    --------
    An edge that stands upright has all its strength in the first bin:

    >>> image = torch.zeros(1, 1, 8, 8)
    >>> image[..., 4:] = 1.0
    >>> hog(image, cell=8, whiten=False)[0, :, 0, 0, 0].tolist()
    [0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if x.ndim not in (4, 5) or min(x.shape) < 1:
        raise FewerError(
            f"hog: images are (rows, channels, height, width), clips have frames after the channels; given {tuple(x.shape)}"
        )
    if cell < 1 or bins < 2:
        raise FewerError(f"hog: a cell has a side of 1 or more and 2 bins or more; given cell={cell} and bins={bins}")
    *outside, height, width = x.shape
    down, across = torch.zeros_like(x), torch.zeros_like(x)
    down[..., 1:-1, :] = x[..., 2:, :] - x[..., :-2, :]
    across[..., :, 1:-1] = x[..., :, 2:] - x[..., :, :-2]
    turned = torch.rad2deg(torch.atan2(down, across)) % 180
    # just below 0 degrees is rounded to 180, which has no bin of its own
    place = (turned * (bins / 180)).long().clamp_(max=bins - 1)
    rows, columns = -(-height // cell), -(-width // cell)
    of_cell = (torch.arange(height) // cell)[:, None] * columns + torch.arange(width) // cell
    place = place * (rows * columns) + of_cell.to(x.device)
    counts = x.new_zeros(math.prod(outside), bins * rows * columns)
    counts.scatter_add_(1, place.reshape(len(counts), -1), torch.hypot(down, across).reshape(len(counts), -1))
    found = counts.view(*outside, bins, rows, columns) / cell**2
    if whiten:
        found = nn.functional.layer_norm(found.transpose(-3, -1), (bins,), eps=1e-6).transpose(-3, -1)
    return found.movedim(-3, 1)


@dataclass(frozen=True)
class HOG:
    """The histograms of a patch's cells: what MaskFeat and DMJD ask for.

    Parameters
    ----------
    cell : int, optional
        Pixels a side; must divide the patch.  By default half of the patch, 8 of 16 as published; the whole where it is odd.
    bins : int, default 9
        Directions.

    Examples
    --------
    The numbers of a patch of 16 by 16 pixels are those of 2 by 2 cells, 9 bins, 3 channels, in this order:

    >>> from fewer.models.tokens import TokenEncoder
    >>> encoder = TokenEncoder((3, 32, 32), (16, 16), width=8, depth=1, heads=1)
    >>> HOG().build((3, 32, 32), encoder)(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 4, 108])
    """

    cell: int | None = None
    bins: int = 9

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Make them."""
        height, width = student.patch[-2:]
        common = math.gcd(height, width)
        cell = self.cell if self.cell is not None else common // 2 if common % 2 == 0 else common
        if cell < 1 or height % cell or width % cell:
            raise FewerError(
                f"hog: cells of {cell} pixels a side do not divide patches of {height} by {width}; give cell= a divisor of both"
            )
        return _HOGTargets(shape, student.patch, cell, self.bins)


class _HOGTargets(Targets):
    def __init__(self, shape: tuple[int, ...], patch: tuple[int, ...], cell: int, bins: int) -> None:
        super().__init__()
        grid_of(shape[1:], patch)
        self.cell, self.bins = cell, bins
        self.cells = (*patch[:-2], patch[-2] // cell, patch[-1] // cell)
        self.width = math.prod(self.cells) * bins * shape[0]

    def forward(self, x: Tensor) -> Tensor:
        # cells beyond the image, where patches do not cover it evenly, are filled up with zeros by patches
        return patches(hog(x, self.cell, self.bins).flatten(1, 2), self.cells)
