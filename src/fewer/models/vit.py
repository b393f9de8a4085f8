"""The vision transformer: patches as tokens, learned positions, a class token, pre-norm blocks.

Knows the network of DeiT and ViT, not how it is trained.  What mixes the tokens of each block is made by a factory, so
that other mixers than self-attention share all the rest.  Parameters carry timm's names, so published weights load.

References
----------
Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv:2010.11929.
Touvron et al., "Training Data-Efficient Image Transformers & Distillation through Attention", ICML 2021,
arXiv:2012.12877.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.classifier import Classifier

Grid = tuple[int, int]
"""Patches of an image: how many rows, how many columns."""


class Mixer(Protocol):
    """What lets the tokens of a block see one another: an ``nn.Module`` called with the tokens and their grid."""

    def __call__(self, x: Float[Tensor, "batch tokens width"], grid: Grid) -> Float[Tensor, "batch tokens width"]:
        """Mix; where there are more tokens than places on the grid, those too many come first."""
        ...


def linear(inputs: int, outputs: int, bias: bool = True, init_std: float = 0.02) -> nn.Linear:
    """A linear layer with a vision transformer's start: a truncated normal of small deviation, and no bias yet."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.trunc_normal_(layer.weight, std=init_std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def undecayed(*parameters: Tensor | None) -> list[dict[str, Any]]:
    """The wish that weight decay leaves some parameters alone, for :func:`fewer.models.optimisers.parameter_groups`."""
    return [{"params": [each for each in parameters if each is not None], "weight_decay": 0.0}]


def head_width(dim: int, num_heads: int, what: str) -> int:
    """Channels of one head.

    Raises
    ------
    FewerError
        If there is no head, or the heads do not share the channels evenly.
    """
    if num_heads < 1:
        raise FewerError(f"{what}: num_heads is {num_heads}; at least one head is needed")
    if dim < 1 or dim % num_heads:
        raise FewerError(f"{what}: {dim} channels cannot be shared by {num_heads} heads; give a multiple of num_heads")
    return dim // num_heads


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens, by content alone.

    Parameters
    ----------
    dim : int
        Channels of a token.
    num_heads : int, default 8
        Must divide ``dim``.
    qkv_bias : bool, default True
        Let queries, keys and values have biases.
    init_std : float, default 0.02
        Deviation of the weights at the start.

    Examples
    --------
    >>> layer = SelfAttention(32, num_heads=4)
    >>> layer(torch.zeros(2, 9, 32)).shape, layer.attention(torch.zeros(2, 9, 32)).shape
    (torch.Size([2, 9, 32]), torch.Size([2, 4, 9, 9]))
    """

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True, init_std: float = 0.02) -> None:
        super().__init__()
        self.head_width = head_width(dim, num_heads, "self-attention")
        self.num_heads = num_heads
        self.qkv = linear(dim, 3 * dim, qkv_bias, init_std)
        self.proj = linear(dim, dim, init_std=init_std)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], grid: Grid | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Mix tokens; where they lie does not matter."""
        seen = nn.functional.scaled_dot_product_attention(*self._queries_keys_values(x))
        return self.proj(seen.transpose(1, 2).flatten(2))

    def attention(
        self, x: Float[Tensor, "batch tokens width"], grid: Grid | None = None
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """How much each token (second last axis) attends to each other one (last axis)."""
        query, key, _ = self._queries_keys_values(x)
        return (query @ key.transpose(-2, -1) * self.head_width**-0.5).softmax(dim=-1)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        query, key, value = (
            self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_width).permute(2, 0, 3, 1, 4)
        )
        return query, key, value


class DropPath(nn.Module):
    """Leave out what a block would add to a row, for each row by chance, while training.

    Parameters
    ----------
    rate : float
        The chance; what is kept is scaled up by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Zero some rows."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class PatchEmbedding(nn.Module):
    """Cut images into squares and map each to a token."""

    def __init__(self, patch_size: Grid, in_chans: int, embed_dim: int, pad: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.pad = pad
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def grid(self, size: tuple[int, int]) -> Grid:
        """How many patches an image of ``size`` (height, width) has.

        Raises
        ------
        FewerError
            If there is none, or the patches do not cover the image evenly and nothing is padded.
        """
        (height, width), (tall, wide) = size, self.patch_size
        if height < 1 or width < 1 or (not self.pad and (height % tall or width % wide)):
            raise FewerError(
                f"vision transformer: images of {height} by {width} pixels cannot be cut into patches of {tall} by "
                f"{wide}; give multiples, or dynamic_img_pad=True to fill up with zeros"
            )
        return -(-height // tall), -(-width // wide)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches width"]:
        """Tokens, row by row."""
        rows, columns = self.grid((images.shape[2], images.shape[3]))
        below = rows * self.patch_size[0] - images.shape[2]
        right = columns * self.patch_size[1] - images.shape[3]
        if below or right:
            images = nn.functional.pad(images, (0, right, 0, below))
        return self.proj(images).flatten(2).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, on each token alone."""

    def __init__(self, dim: int, hidden: int, init_std: float = 0.02) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden, init_std=init_std)
        self.fc2 = linear(hidden, dim, init_std=init_std)

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Mix channels."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A mixer and a feed-forward part, each with a norm before it and a skip around it."""

    def __init__(self, mixer: nn.Module, dim: int, hidden: int, drop_path: float, init_std: float = 0.02) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, hidden, init_std)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch tokens width"], grid: Grid) -> Float[Tensor, "batch tokens width"]:
        """Mix tokens, then channels."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A vision transformer; by default ViT-B/16 for 1,000 classes, with DeiT's stochastic depth.

    Parameters
    ----------
    img_size : int or (int, int), default 224
        Pixels, a side or (height, width); images of another size get their positions by bicubic interpolation.
    patch_size : int or (int, int), default 16
        Pixels of a patch; must divide the images' sides.
    in_chans : int, default 3
        Channels of an image.
    num_classes : int, default 1000
        Logits; with 0, the features of the class token are given instead.
    embed_dim : int, default 768
        Channels of a token.
    depth : int, default 12
        Blocks.
    num_heads : int, default 12
        Of each attention; must divide ``embed_dim``.
    mlp_ratio : float, default 4
        Hidden units of the feed-forward parts, as a multiple of ``embed_dim``.
    qkv_bias : bool, default True
        Of self-attention.
    drop_path_rate : float, default 0.1
        Chance that the last block is left out for a row while training; it rises linearly from 0 in the first.
    use_pos_embed : bool, default True
        Add learned positions to the patches.
    class_token_from : int, default 0
        The block before which the class token joins the patches.
    mixer : callable, optional
        ``mixer(index)`` makes the mixer of a block (see :class:`Mixer`); self-attention by default.
    dynamic_img_pad : bool, default False
        Fill images up with zeros below and at the right where the patches do not cover them evenly.
    init_std : float, default 0.02
        Deviation of the blocks' weights at the start.

    Raises
    ------
    FewerError
        For sizes that do not fit one another, here or in the images.

    Examples
    --------
    >>> net = VisionTransformer(img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=4)
    >>> net(torch.zeros(5, 1, 28, 28)).shape, net(torch.zeros(5, 1, 32, 20)).shape
    (torch.Size([5, 10]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        use_pos_embed: bool = True,
        class_token_from: int = 0,
        mixer: Callable[[int], nn.Module] | None = None,
        dynamic_img_pad: bool = False,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        head_width(embed_dim, num_heads, "vision transformer")
        patch = _pair(patch_size)
        if min(*patch, in_chans, depth) < 1 or num_classes < 0 or min(mlp_ratio, init_std) <= 0:
            raise FewerError(
                "vision transformer: patch_size, in_chans, depth, mlp_ratio and init_std must be positive and num_classes "
                f"not negative; given {patch_size}, {in_chans}, {depth}, {mlp_ratio}, {init_std} and {num_classes}"
            )
        if not 0 <= drop_path_rate < 1:
            raise FewerError(f"vision transformer: drop_path_rate must lie in [0, 1); given {drop_path_rate}")
        if not 0 <= class_token_from < depth:
            raise FewerError(
                f"vision transformer: the class token must join before one of the {depth} blocks, 0 to {depth - 1}; "
                f"given {class_token_from}"
            )
        if mixer is None:
            mixer = lambda index: SelfAttention(embed_dim, num_heads, qkv_bias, init_std)  # noqa: E731
        self.embed_dim = embed_dim
        self.class_token_from = class_token_from
        self.patch_embed = PatchEmbedding(patch, in_chans, embed_dim, dynamic_img_pad)
        self.grid = self.patch_embed.grid(_pair(img_size))
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.pos_embed = None
        if use_pos_embed:
            # a class token that is there from the start has a position too
            places = self.grid[0] * self.grid[1] + (class_token_from == 0)
            self.pos_embed = nn.Parameter(torch.empty(1, places, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        hidden = int(embed_dim * mlp_ratio)
        blocks = [Block(mixer(index), embed_dim, hidden, rate, init_std) for index, rate in enumerate(rates)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = linear(embed_dim, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Logits, or the class token's features where there are no classes."""
        return self.head(self.forward_features(images)[:, 0])

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """All tokens after the last norm: the class token, then the patches row by row."""
        x, grid = self._embed(images)
        for index, block in enumerate(self.blocks):
            x = block(self._joined(x, index), grid)
        return self.norm(x)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of tokens, positions, biases and norms."""
        norms = [value for layer in self.modules() if isinstance(layer, nn.LayerNorm) for value in layer.parameters()]
        biases = [value for name, value in self.named_parameters() if name.endswith(".bias")]
        spared = {id(value): value for value in (*norms, *biases)}
        return undecayed(self.cls_token, self.pos_embed, *spared.values())

    def nonlocality(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "depth heads"]:
        """How far each head looks: the mean distance, in patches, that its attention spans.

        The mean is over patches and images, without stochastic depth.  The class token is left out, as it lies nowhere.

        Raises
        ------
        FewerError
            If a block's mixer has no attention to look at.
        """
        training = self.training
        self.eval()
        distances = []
        with torch.no_grad():
            x, grid = self._embed(images)
            for index, block in enumerate(self.blocks):
                x = self._joined(x, index)
                mixer = cast(Any, block).attn
                if not hasattr(mixer, "attention"):
                    raise FewerError(
                        f"block {index} mixes by {type(mixer).__name__}, which has no attention to look at"
                    )
                attention = mixer.attention(cast(Any, block).norm1(x), grid)
                patches = grid[0] * grid[1]
                attention = attention[..., -patches:, -patches:]
                distances.append(attended_distance(attention / attention.sum(-1, keepdim=True), grid).mean(0))
                x = block(x, grid)
        self.train(training)
        return torch.stack(distances)

    def _embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        channels = self.patch_embed.proj.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise FewerError(
                f"vision transformer: images must be (batch, {channels}, height, width); these are {tuple(images.shape)}"
            )
        x, grid = self.patch_embed(images), self.patch_embed.grid((images.shape[2], images.shape[3]))
        if self.pos_embed is None:
            return x, grid
        places = self.pos_embed[:, -self.grid[0] * self.grid[1] :]
        if grid != self.grid:
            maps = places.unflatten(1, self.grid).permute(0, 3, 1, 2)
            maps = nn.functional.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
            places = maps.flatten(2).transpose(1, 2)
        return x + places, grid

    def _joined(self, x: Tensor, index: int) -> Tensor:
        """The tokens that block ``index`` reads."""
        if index != self.class_token_from:
            return x
        token = self.cls_token
        if index == 0 and self.pos_embed is not None:
            token = token + self.pos_embed[:, :1]
        return torch.cat([token.expand(len(x), -1, -1), x], dim=1)


def attended_distance(attention: Float[Tensor, "*heads places places"], grid: Grid) -> Float[Tensor, "*heads"]:
    """Mean distance between a place on the grid and what it attends to, in patches.

    Parameters
    ----------
    attention : float tensor (..., places, places)
        Rows that sum to one, places numbered row by row.
    grid : (int, int)
        Rows and columns.

    Examples
    --------
    >>> attended_distance(torch.eye(6), (2, 3)), attended_distance(torch.full((2, 2), 0.5), (1, 2))
    (tensor(0.), tensor(0.5000))
    """
    rows, columns = (torch.arange(side, device=attention.device, dtype=attention.dtype) for side in grid)
    places = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    return (attention * torch.cdist(places, places)).sum(-1).mean(-1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class TransformerClassifier(Classifier):
    """A classifier whose head starts and is trained as a vision transformer's."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__(backbone, width, classes)
        self.head = linear(width, classes)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of the head's bias."""
        return undecayed(self.head.bias)


@dataclass(frozen=True)
class ViT:
    """Describes a small vision transformer of DeiT's shape; see :class:`VisionTransformer`.

    Images whose sides are no multiple of the patch are filled up with zeros.  A signal of (channels, length) is read as
    an image of one row, in patches of (1, ``patch_size``).

    Parameters
    ----------
    embed_dim : int, default 64
        Channels of a token.
    depth : int, default 5
        Blocks.
    num_heads : int, default 4
        Of each attention; must divide ``embed_dim``.
    patch_size : int, default 4
        Pixels a side.
    mlp_ratio : float, default 4
        Hidden units of the feed-forward parts, as a multiple of ``embed_dim``.
    drop_path_rate : float, default 0
        Chance that the last block is left out for a row while training.
    init_std : float, default 0.05
        Deviation of the blocks' weights at the start: it gives 64 channels the gain that the usual 0.02 gives to 400.

    Examples
    --------
    >>> ViT(embed_dim=32, depth=2).build((1, 28, 28), classes=10)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """

    embed_dim: int = 64
    depth: int = 5
    num_heads: int = 4
    patch_size: int = 4
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    init_std: float = 0.05

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network for rows of ``shape``: (channels, length) or (channels, height, width)."""
        if len(shape) not in (2, 3):
            raise FewerError(
                f"a vision transformer needs rows of (channels, height, width) or (channels, length); these are {shape}"
            )
        channels, *sides = shape
        signal = len(sides) == 1
        options = asdict(self)
        options["patch_size"] = (1, self.patch_size) if signal else self.patch_size
        network = self.network(
            img_size=(1, *sides) if signal else tuple(sides),
            in_chans=channels,
            num_classes=0,
            dynamic_img_pad=True,
            **options,
        )
        backbone = nn.Sequential(nn.Unflatten(1, (channels, 1)), network) if signal else network
        return TransformerClassifier(backbone, self.embed_dim, classes)

    def network(self, **options: Any) -> VisionTransformer:
        """Make the backbone."""
        return VisionTransformer(**options)
