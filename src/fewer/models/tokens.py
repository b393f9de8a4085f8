"""Transformers over patches of images and clips that may be given some of the patches only.

Patches are cut by reshaping, in two dimensions or three, so images and clips take the same way; positions are fixed
sines and cosines at unit scale; there is no class token.  Blocks are those of :mod:`fewer.models.vit`.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.
Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
arXiv:2203.12602.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.vit import Block, SelfAttention, head_width, undecayed


def patches(x: Float[Tensor, "rows channels ..."], size: tuple[int, ...]) -> Float[Tensor, "rows places numbers"]:
    """Cut rows into patches, in raster order; the numbers of a patch are in the order of its own axes, channels last.

    Parameters
    ----------
    x : float tensor (rows, channels, height, width) or (rows, channels, frames, height, width)
        Images or clips.
    size : tuple of int
        Of a patch, in each dimension.  Rows are filled up with zeros at the end where patches do not cover them evenly.

    Examples
    --------
    >>> patches(torch.arange(8.0).view(1, 1, 2, 4), (2, 2)).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    grid = grid_of(tuple(x.shape[2:]), size)
    missing = [part * count - side for side, part, count in zip(x.shape[2:], size, grid, strict=True)]
    if any(missing):
        x = nn.functional.pad(x, [number for each in reversed(missing) for number in (0, each)])
    rows, channels = x.shape[:2]
    split = [number for pair in zip(grid, size, strict=True) for number in pair]
    dimensions = len(size)
    places, inside = [2 + 2 * each for each in range(dimensions)], [3 + 2 * each for each in range(dimensions)]
    cut = x.reshape(rows, channels, *split).permute(0, *places, *inside, 1)
    return cut.reshape(rows, math.prod(grid), math.prod(size) * channels)


def grid_of(sides: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """How many patches cover a row in each dimension.

    Raises
    ------
    FewerError
        If there are none, or the dimensions differ.

    Examples
    --------
    >>> grid_of((8, 24, 24), (2, 6, 6)), grid_of((14, 14), (4, 4))
    ((4, 4, 4), (4, 4))
    """
    if len(sides) != len(size) or min(*sides, *size) < 1:
        raise FewerError(
            f"rows of {' by '.join(map(str, sides))} cannot be cut into patches of {' by '.join(map(str, size))}; a patch has "
            "as many sides as a row, all of 1 or more"
        )
    return tuple(-(-side // part) for side, part in zip(sides, size, strict=True))


def sine_positions(grid: tuple[int, ...], width: int) -> Float[Tensor, "places width"]:
    """Fixed positions: for each dimension of the grid, sines and cosines of a share of the channels.

    Channels that cannot be shared evenly stay zero.

    Parameters
    ----------
    grid : tuple of int
        Places in each dimension.
    width : int
        Channels.

    Examples
    --------
    >>> sine_positions((2, 3), 8).shape
    torch.Size([6, 8])
    """
    share = width // (2 * len(grid))
    if share < 1:
        raise FewerError(
            f"positions: {width} channels are too few for {len(grid)} dimensions; give {2 * len(grid)} or more"
        )
    rates = 10000.0 ** (-torch.arange(share, dtype=torch.float64) / share)
    axes = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    parts = [trigonometric(axis.reshape(-1, 1) * rates) for axis in axes for trigonometric in (torch.sin, torch.cos)]
    found = torch.cat(parts, dim=1)
    return nn.functional.pad(found, (0, width - found.shape[1])).float()


def gathered(
    tokens: Float[Tensor, "rows places width"], index: Int[Tensor, "rows kept"]
) -> Float[Tensor, "rows kept width"]:
    """The tokens at some places of each row, in the order of ``index``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def sparing(network: nn.Module, *others: Tensor) -> list[dict[str, Any]]:
    """No weight decay of biases and norms, nor of what else is named; see :func:`fewer.models.vit.undecayed`."""
    return undecayed(*(each for each in network.parameters() if each.ndim < 2), *others)


class PatchEncoder(nn.Module):
    """Rows to tokens, one for each patch, where only some of the patches may be given.

    Attributes
    ----------
    shape : tuple of int
        Of a row.
    patch, grid : tuple of int
        Sides of a patch, and how many of them there are, in each dimension.
    places, width : int
        Patches in all, channels of a token.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    grid: tuple[int, ...]
    places: int
    width: int

    def tokens(
        self, x: Float[Tensor, "rows channels ..."], keep: Int[Tensor, "rows kept"] | None = None
    ) -> Float[Tensor, "rows kept width"]:
        """Tokens of the kept places, in the order of ``keep``; of all places in raster order by default."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "rows channels ..."]) -> Float[Tensor, "rows width"]:
        """Features: the mean of all tokens."""
        return self.tokens(x).mean(1)


class TokenEncoder(PatchEncoder):
    """A transformer over patches, of which it may be given a part.

    Parameters
    ----------
    shape : tuple of int
        Of a row: (channels, height, width) or (channels, frames, height, width).
    patch : tuple of int
        Of a patch, in each dimension.
    width : int
        Channels of a token.
    depth, heads : int
        Blocks, and heads of each.
    ratio : float, default 4
        Hidden units of the feed-forward parts, as a multiple of ``width``.

    Attributes
    ----------
    grid : tuple of int
        Patches in each dimension.
    places, width : int
        Patches in all, channels of a token.

    Examples
    --------
    >>> encoder = TokenEncoder((1, 8, 8), (4, 4), width=16, depth=1, heads=2)
    >>> encoder.tokens(torch.zeros(3, 1, 8, 8), torch.tensor([[0, 3]] * 3)).shape, encoder(torch.zeros(3, 1, 8, 8)).shape
    (torch.Size([3, 2, 16]), torch.Size([3, 16]))
    """

    positions: Tensor

    def __init__(
        self, shape: tuple[int, ...], patch: tuple[int, ...], width: int, depth: int, heads: int, ratio: float = 4.0
    ) -> None:
        super().__init__()
        if len(shape) not in (3, 4):
            raise FewerError(
                f"patches are cut from (channels, height, width) or (channels, frames, height, width), not {shape}"
            )
        self.shape, self.patch, self.grid = shape, patch, grid_of(shape[1:], patch)
        self.places, self.width = math.prod(self.grid), width
        self.project = nn.Linear(shape[0] * math.prod(patch), width)
        self.register_buffer("positions", sine_positions(self.grid, width), persistent=False)
        self.blocks, self.norm = blocks(width, depth, heads, ratio), nn.LayerNorm(width, eps=1e-6)
        initialise(self)

    def tokens(
        self, x: Float[Tensor, "rows channels ..."], keep: Int[Tensor, "rows kept"] | None = None
    ) -> Float[Tensor, "rows kept width"]:
        """Tokens of the kept places, in the order of ``keep``; of all places in raster order by default."""
        if tuple(x.shape[1:]) != self.shape:
            raise FewerError(
                f"token encoder: rows are {tuple(x.shape[1:])} and it was made for {self.shape}; make one for these rows"
            )
        seen, places = patches(x, self.patch), self.positions
        if keep is not None:  # what is not seen is not embedded
            seen, places = gathered(seen, keep), self.positions[keep]
        seen = self.project(seen) + places
        for block in self.blocks:
            seen = block(seen, self.grid)
        return self.norm(seen)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of biases and norms."""
        return sparing(self)


class TokenPredictor(nn.Module):
    """What says, of the tokens that were kept, what lies at other places.

    Parameters
    ----------
    grid : tuple of int
        Patches in each dimension.
    inputs, width, outputs : int
        Channels of the encoder's tokens, of this network, and of what is predicted.
    depth, heads : int
        Blocks, and heads of each.
    masks : int, default 1
        Kinds of masks; each has a mask token of its own.

    Examples
    --------
    >>> predictor = TokenPredictor((2, 2), inputs=16, width=8, outputs=4, depth=1, heads=2)
    >>> kept, asked = torch.tensor([[0, 3]]), torch.tensor([[1, 2]])
    >>> predictor(torch.zeros(1, 2, 16), kept, asked).shape
    torch.Size([1, 2, 4])
    """

    positions: Tensor

    def __init__(
        self, grid: tuple[int, ...], inputs: int, width: int, outputs: int, depth: int, heads: int, masks: int = 1
    ) -> None:
        super().__init__()
        self.grid = grid
        self.enter = nn.Linear(inputs, width)
        self.mask_tokens = nn.Parameter(torch.zeros(masks, width))
        self.register_buffer("positions", sine_positions(grid, width), persistent=False)
        self.blocks, self.norm = blocks(width, depth, heads), nn.LayerNorm(width, eps=1e-6)
        self.leave = nn.Linear(width, outputs)
        initialise(self)
        # nothing much is said at first, so that the first steps need not teach the whole network to be silent
        nn.init.trunc_normal_(self.leave.weight, std=0.02)

    def forward(
        self,
        tokens: Float[Tensor, "rows kept inputs"],
        kept: Int[Tensor, "rows kept"],
        asked: Int[Tensor, "rows asked"],
        mask: int = 0,
    ) -> Float[Tensor, "rows asked outputs"]:
        """What lies at the asked places, in their order."""
        known = self.enter(tokens) + self.positions[kept]
        unknown = self.mask_tokens[mask] + self.positions[asked]
        seen = torch.cat([known, unknown], dim=1)
        for block in self.blocks:
            seen = block(seen, self.grid)
        return self.leave(self.norm(seen[:, kept.shape[1] :]))

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of biases, norms and mask tokens."""
        return sparing(self, self.mask_tokens)


def blocks(width: int, depth: int, heads: int, ratio: float = 4.0) -> nn.ModuleList:
    """Pre-norm blocks of self-attention."""
    head_width(width, heads, "transformer")
    return nn.ModuleList(Block(SelfAttention(width, heads), width, int(ratio * width), 0.0) for _ in range(depth))


def initialise(network: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in all linear layers, as masked autoencoders start."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class TokenModel(Protocol):
    """Describes an encoder of patches."""

    def build(self, shape: tuple[int, ...]) -> PatchEncoder:
        """Make it for rows of ``shape``: (channels, height, width), or (channels, frames, height, width)."""
        ...


@dataclass(frozen=True)
class TokenTransformer:
    """Describes a :class:`TokenEncoder`.

    Parameters
    ----------
    width : int, default 64
        Channels of a token.
    depth, heads : int, default 3 and 4
        Blocks, and heads of each.
    patch : int or tuple of int, default 4
        Sides of a patch; a number is that of height and width.
    frames : int, default 2
        Frames of a patch of clips, where ``patch`` is a number.
    ratio : float, default 4
        Hidden units of the feed-forward parts, as a multiple of ``width``.
    """

    width: int = 64
    depth: int = 3
    heads: int = 4
    patch: int | tuple[int, ...] = 4
    frames: int = 2
    ratio: float = 4.0

    def build(self, shape: tuple[int, ...]) -> TokenEncoder:
        """Make it for rows of ``shape``; draws from torch's global generator."""
        size = self.patch
        if isinstance(size, int):
            size = (self.frames,) * (len(shape) == 4) + (size, size)
        return TokenEncoder(shape, size, self.width, self.depth, self.heads, self.ratio)
