"""Masks made of blocks: a few rectangles of patches are hidden through all frames, and asked.

Pure functions of a grid and a generator, for images and clips alike, and the two fillings of a masked loop that use
them.  A mask of one kind has blocks of one size: it is drawn once for all rows, only the places differ.

    height = round(sqrt(scale * area * aspect))     width = round(sqrt(scale * area / aspect))      aspect ~ U(low, high)
    asked  = the union of the blocks                kept  = what is left

Rows must be of one length, so both lists are cut to the shortest of the batch, after shuffling: the lists in raster order
would always lose the last frames.

Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video", arXiv:2404.08471.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.pretrain.masked import Mask, checked_ratio, visible_places

TRIES = 100
"""How often blocks are drawn anew for rows of which they leave nothing to see, before that is an error."""


def block_size(
    grid: tuple[int, int], scale: float, aspect: tuple[float, float], generator: torch.Generator
) -> tuple[int, int]:
    """Height and width of a block, in patches: at least one, at most those of the grid.

    Parameters
    ----------
    grid : (int, int)
        Patches in height and width.
    scale : float
        Share of the grid that a block covers, before rounding.
    aspect : (float, float)
        Least and largest height, as a multiple of the width.
    generator : torch.Generator
        On the CPU.

    Examples
    --------
    >>> block_size((14, 14), 0.7, (1.0, 1.0), torch.Generator())
    (12, 12)
    """
    ratio = aspect[0] + (aspect[1] - aspect[0]) * float(torch.rand((), generator=generator))
    area = scale * math.prod(grid)
    sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(sides[0], 1), grid[0]), min(max(sides[1], 1), grid[1])


def union_of_blocks(
    rows: int, grid: tuple[int, int], size: tuple[int, int], blocks: int, generator: torch.Generator
) -> Bool[Tensor, "rows height width"]:
    """What blocks of one size cover, each of them anywhere on the grid.

    Parameters
    ----------
    rows : int
        Unions that are drawn.
    grid, size : (int, int)
        Of the grid and of a block, in patches.
    blocks : int
        Of each union.
    generator : torch.Generator
        On the CPU.

    Examples
    --------
    >>> union_of_blocks(5, (4, 4), (2, 2), 1, torch.Generator()).sum((1, 2)).tolist()
    [4, 4, 4, 4, 4]
    """
    covered = []
    for side, part in zip(grid, size, strict=True):
        first = torch.randint(side - part + 1, (rows, blocks, 1), generator=generator)
        places = torch.arange(side)
        covered.append((places >= first) & (places < first + part))
    return (covered[0][..., None] & covered[1][:, :, None]).any(1)


def lists(hidden: Bool[Tensor, "rows places"], generator: torch.Generator) -> Mask:
    """Places that are seen and places that are hidden, shuffled and cut to the shortest list of all rows.

    Parameters
    ----------
    hidden : bool tensor (rows, places)
        What is asked.
    generator : torch.Generator
        On the CPU.

    Examples
    --------
    >>> mask = lists(torch.tensor([[True, False, False], [True, True, False]]), torch.Generator())
    >>> mask.kept.shape, mask.asked.shape, mask.kept[1].tolist()
    (torch.Size([2, 1]), torch.Size([2, 1]), [2])
    """
    # what is wanted comes first, in random order
    keys = torch.rand(hidden.shape, generator=generator)
    count = hidden.sum(1)
    kept = (keys + 2 * hidden).argsort(1)[:, : hidden.shape[1] - int(count.max())]
    asked = (keys - 2 * hidden.float()).argsort(1)[:, : int(count.min())]
    return Mask(kept, asked)


def multi_block(
    rows: int,
    grid: tuple[int, ...],
    blocks: int,
    scale: float,
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> Bool[Tensor, "rows places"]:
    """What blocks hide of images, or of clips in all frames; something is left to see of each row.

    Parameters
    ----------
    rows : int
        Images or clips.
    grid : (int, int) or (int, int, int)
        Patches in height and width, after those in time for clips.
    blocks : int
        Of each row.
    scale, aspect
        As in :func:`block_size`.
    generator : torch.Generator
        On the CPU.

    Raises
    ------
    FewerError
        If the grid has other dimensions, or blocks of this size leave nothing to see.

    Examples
    --------
    >>> hidden = multi_block(3, (4, 4, 4), 1, 0.7, (0.75, 1.5), torch.Generator().manual_seed(0))
    >>> hidden.shape, torch.equal(hidden[:, :16], hidden[:, 48:])
    (torch.Size([3, 64]), True)
    """
    if len(grid) not in (2, 3):
        raise FewerError(
            f"multi-block: blocks lie in images and clips, whose grids have 2 or 3 sides; this one has {grid}"
        )
    height, width = grid[-2:]
    hidden = torch.ones(rows, height, width, dtype=torch.bool)
    # a size may be too large for any row: then another one is drawn for all
    for _ in range(TRIES):
        size = block_size((height, width), scale, aspect, generator)
        hidden = union_of_blocks(rows, (height, width), size, blocks, generator)
        for _ in range(TRIES if size != (height, width) else 0):
            blind = hidden.flatten(1).all(1)
            if not blind.any():
                return hidden[:, None].expand(-1, math.prod(grid[:-2]), -1, -1).reshape(rows, -1)
            hidden[blind] = union_of_blocks(int(blind.sum()), (height, width), size, blocks, generator)
    raise FewerError(
        f"multi-block: {blocks} blocks of scale {scale} leave nothing to see of {height} by {width} patches; give fewer or "
        "smaller blocks, or smaller patches"
    )


@dataclass(frozen=True)
class MultiBlock:
    """Several kinds of masks for each row, each of blocks of one size.

    Parameters
    ----------
    blocks : tuple of (int, float), default ((8, 0.15), (2, 0.7))
        For each kind, how many blocks, and the share of an image that one covers.
    aspect : (float, float), default (0.75, 1.5)
        Least and largest height of a block, as a multiple of its width.

    Examples
    --------
    >>> short, long = MultiBlock().draw(2, (4, 8, 8), torch.Generator().manual_seed(0))
    >>> short.kept.shape[0], bool(set(short.kept[0].tolist()) & set(short.asked[0].tolist()))
    (2, False)
    """

    blocks: tuple[tuple[int, float], ...] = ((8, 0.15), (2, 0.7))
    aspect: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        kinds = self.blocks
        if not kinds or any(len(each) != 2 or each[0] < 1 or not 0 < each[1] < 1 for each in kinds):
            raise FewerError(
                f"multi-block: blocks is {kinds}; for each kind of mask, give how many (1 or more) and the share of an image "
                "that one covers (between 0 and 1)"
            )
        if len(self.aspect) != 2 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise FewerError(f"multi-block: aspect is {self.aspect}; give the least and the largest, above 0")

    @property
    def kinds(self) -> int:
        """Masks for each row."""
        return len(self.blocks)

    def draw(self, rows: int, grid: tuple[int, ...], generator: torch.Generator) -> list[Mask]:
        """One mask of each kind for each row."""
        return [
            lists(multi_block(rows, grid, count, scale, self.aspect, generator), generator)
            for count, scale in self.blocks
        ]


@dataclass(frozen=True)
class RandomTubes:
    """Places by chance, the same in all frames of a clip.

    Parameters
    ----------
    ratio : float, default 0.9
        Share of the places that is masked.

    References
    ----------
    Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
    arXiv:2203.12602.

    Examples
    --------
    >>> (mask,) = RandomTubes(0.75).draw(2, (3, 2, 2), torch.Generator().manual_seed(0))
    >>> (mask.kept % 4 == mask.kept[:, :1]).all().item(), mask.kept.shape
    (True, torch.Size([2, 3]))
    """

    ratio: float = 0.9

    def __post_init__(self) -> None:
        checked_ratio(self.ratio)

    @property
    def kinds(self) -> int:
        """One."""
        return 1

    def draw(self, rows: int, grid: tuple[int, ...], generator: torch.Generator) -> list[Mask]:
        """One mask for each row."""
        places, frames = math.prod(grid[-2:]), math.prod(grid[:-2])
        order = torch.rand(rows, places, generator=generator).argsort(1)
        through = (order[:, None] + places * torch.arange(frames)[:, None]).transpose(1, 2)
        seen = visible_places(places, self.ratio)
        return [Mask(through[:, :seen].flatten(1), through[:, seen:].flatten(1))]
