"""ConViT: a vision transformer whose early attention starts as a convolution, and may leave it head by head.

Each head of gated positional self-attention (GPSA) mixes two attentions by a gate of its own: one by content, and one by
position alone, which at the start is a bump around one offset.  K*K heads with K*K offsets are a K by K convolution, so
the network begins with a convolution's prior, and training opens the gates where the data ask for content.

For head h, patch i and patch j at offset (dx, dy) = place of j - place of i::

    content    C_ij = softmax_j( q_i . k_j / sqrt(d) )
    position   P_ij = softmax_j( a_h dx + b_h dy + c_h (dx^2 + dy^2) + e_h )
    attention  A    = (1 - sigmoid(l_h)) C + sigmoid(l_h) P
    output     projection( concat_h  A (x W_v)^h )

At the start W_v is the identity, l_h = 1, and (a, b, c) = alpha (2 X_h, 2 Y_h, -1), so that P_ij falls with the squared
distance of (dx, dy) from the head's offset (X_h, Y_h), the faster the larger the locality strength alpha.

Neither attention is formed here.  A is linear in its two parts, so the content part is torch's fused attention; and the
position scores are a sum of one term in dx and one in dy, so P is a product of a softmax over columns and one over rows:
for h by w patches it costs h + w products a value instead of h * w.

References
----------
Stéphane d'Ascoli et al., "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases", ICML 2021,
arXiv:2103.10697.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.claim import Claim, Measures, Tiny, higher, lower
from fewer.core.errors import FewerError
from fewer.core.seeding import derive
from fewer.models.vit import (
    Grid,
    SelfAttention,
    VisionTransformer,
    ViT,
    attended_distance,
    head_width,
    linear,
    undecayed,
)
from fewer.tasks.mnist import mnist5k


class PositionScores(nn.Linear):
    """The scores of attention by position: for each head, weights of dx, dy and dx^2 + dy^2.

    A linear layer of that shape, because published weights have it; of its bias nothing is left after the softmax.

    Parameters
    ----------
    heads : int
        How many.

    Examples
    --------
    >>> scores = PositionScores(9)
    >>> scores.start_as_convolution()
    >>> scores.offsets()[0].tolist()  # the first head looks a column to the left and a row up
    [-1.0, -1.0]
    """

    def __init__(self, heads: int) -> None:
        super().__init__(3, heads)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
        self.bias.requires_grad_(False)

    @torch.no_grad()
    def start_as_convolution(self, locality_strength: float = 1.0) -> None:
        """Let the first K*K heads look at the K by K offsets around a patch.

        Head ``row + K * column`` gets the offset of that row and column, counted from the middle: whole numbers where K
        is odd, halves where it is even.  Heads beyond K*K stay as they are.
        """
        side = math.isqrt(self.out_features)
        places = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        offsets = torch.cartesian_prod(places, places).reshape(-1, 2)  # (column, row), the row running faster
        scores = torch.cat([2 * offsets, -torch.ones(len(offsets), 1)], dim=1)
        self.weight[: len(scores)] = locality_strength * scores

    def offsets(self) -> Float[Tensor, "heads 2"]:
        """The offset (columns, rows) at which each head's score is highest, where it has a highest."""
        return self.weight[:, :2] / (-2 * self.weight[:, 2:])

    def factors(self, grid: Grid) -> tuple[Float[Tensor, "heads rows rows"], Float[Tensor, "heads columns columns"]]:
        """The attention by position, as a factor over rows and one over columns."""
        by_column, by_row, by_square = self.weight.T
        factors = []
        for side, slope in zip(grid, (by_row, by_column), strict=True):
            places = torch.arange(side, device=slope.device, dtype=slope.dtype)
            offset = places[None, :] - places[:, None]
            scores = slope[:, None, None] * offset + by_square[:, None, None] * offset.square()
            factors.append(scores.softmax(dim=-1))
        return factors[0], factors[1]


class GPSA(nn.Module):
    """Gated positional self-attention between the patches of a grid.

    Parameters
    ----------
    dim : int
        Channels of a token.
    num_heads : int, default 8
        Must divide ``dim``.
    locality_strength : float, default 1
        How sharply the heads look at their offsets at the start.
    local_init : bool, default True
        Start as a convolution of side ``floor(sqrt(num_heads))``; otherwise the positions and values start at random.
    init_std : float, default 0.02
        Deviation of the other weights at the start.

    Raises
    ------
    FewerError
        For heads that do not divide the channels, and for tokens that are no grid.

    Examples
    --------
    >>> layer = GPSA(36, num_heads=9)
    >>> layer(torch.zeros(2, 49, 36)).shape, layer(torch.zeros(2, 15, 36), grid=(3, 5)).shape
    (torch.Size([2, 49, 36]), torch.Size([2, 15, 36]))
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        locality_strength: float = 1.0,
        local_init: bool = True,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.head_width = head_width(dim, num_heads, "gpsa")
        if not (locality_strength > 0 and math.isfinite(locality_strength)):
            raise FewerError(
                f"gpsa: locality_strength is {locality_strength}; give a positive number, or local_init=False for a "
                "start at random"
            )
        self.num_heads = num_heads
        self.qk = linear(dim, 2 * dim, bias=False, init_std=init_std)
        self.v = linear(dim, dim, bias=False, init_std=init_std)
        self.proj = linear(dim, dim, init_std=init_std)
        self.pos_proj = PositionScores(num_heads)
        self.gating_param = nn.Parameter(torch.ones(num_heads))
        if local_init:
            self.pos_proj.start_as_convolution(locality_strength)
            nn.init.eye_(self.v.weight)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of the gates."""
        return undecayed(self.gating_param)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], grid: Grid | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Mix patches.

        Parameters
        ----------
        x : float tensor (batch, tokens, width)
            Tokens, row by row, without a class token.
        grid : (int, int), optional
            Rows and columns of patches; a square by default.

        Returns
        -------
        float tensor (batch, tokens, width)
        """
        batch, tokens, width = x.shape
        (height, breadth), heads, each = self._grid(tokens, grid), self.num_heads, self.head_width
        query, key = self._queries_keys(x)
        value = self.v(x).reshape(batch, tokens, heads, each)
        content = nn.functional.scaled_dot_product_attention(query, key, value.transpose(1, 2)).transpose(1, 2)
        over_rows, over_columns = self.pos_proj.factors((height, breadth))
        gate = self.gating_param.sigmoid()[:, None]
        # one matrix product a head along the columns, one along the rows; the gate rides on the smaller factor
        along = value.reshape(batch, height, breadth, heads, each).permute(3, 2, 1, 0, 4)
        along = torch.bmm(over_columns, along.reshape(heads, breadth, height * batch * each))
        along = along.reshape(heads, breadth, height, batch * each).transpose(1, 2)
        along = torch.bmm(over_rows * gate[..., None], along.reshape(heads, height, breadth * batch * each))
        position = along.reshape(heads, tokens, batch, each).permute(2, 1, 0, 3)
        mixed = content * (1 - gate) + position
        return self.proj(mixed.reshape(batch, tokens, width))

    def attention(
        self, x: Float[Tensor, "batch tokens width"], grid: Grid | None = None
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """How much each patch (second last axis) attends to each other one (last axis), for looking at."""
        query, key = self._queries_keys(x)
        content = (query @ key.transpose(-2, -1) * self.head_width**-0.5).softmax(dim=-1)
        gate = self.gating_param.sigmoid()[:, None, None]
        return (1 - gate) * content + gate * self.position_attention(self._grid(x.shape[1], grid))

    def position_attention(self, grid: Grid) -> Float[Tensor, "heads tokens tokens"]:
        """The part of the attention that is by position alone."""
        over_rows, over_columns = self.pos_proj.factors(grid)
        whole = torch.einsum("hij,hkl->hikjl", over_rows, over_columns)
        return whole.reshape(self.num_heads, grid[0] * grid[1], -1)

    def gates(self) -> Float[Tensor, " heads"]:
        """The share of each head's attention that is by position."""
        return self.gating_param.sigmoid()

    def _queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, tokens, _ = x.shape
        query, key = self.qk(x).reshape(batch, tokens, 2, self.num_heads, self.head_width).permute(2, 0, 3, 1, 4)
        return query, key

    def _grid(self, tokens: int, grid: Grid | None) -> Grid:
        if grid is None:
            grid = (math.isqrt(tokens), math.isqrt(tokens))
            if grid[0] ** 2 != tokens:
                raise FewerError(f"gpsa: {tokens} tokens are no square; give grid=(rows, columns)")
        if grid[0] * grid[1] != tokens:
            raise FewerError(
                f"gpsa: {tokens} tokens do not lie on a grid of {grid[0]} by {grid[1]}; give another grid, and no "
                "class token"
            )
        return grid


class ConViT(VisionTransformer):
    """A vision transformer with GPSA in its first blocks; by default ConViT-B for 1,000 classes.

    The class token joins the patches after the last GPSA block.  State dicts of timm's ``convit_*`` fit.

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
        Channels of a token (of all heads together).
    depth : int, default 12
        Blocks.
    num_heads : int, default 16
        Of each attention; must divide ``embed_dim``.  A square number of heads makes a whole convolution.
    mlp_ratio : float, default 4
        Hidden units of the feed-forward parts, as a multiple of ``embed_dim``.
    drop_path_rate : float, default 0.1
        Chance that the last block is left out for a row while training; it rises linearly from 0 in the first.
    local_up_to_layer : int, default 10
        How many blocks have GPSA; the others have self-attention, and at least one must.
    locality_strength : float, default 1
        How sharply the heads look at their offsets at the start.
    use_pos_embed : bool, default True
        Add learned positions to the patches.
    local_init : bool, default True
        Start the GPSA layers as convolutions.
    dynamic_img_pad : bool, default False
        Fill images up with zeros below and at the right where the patches do not cover them evenly.
    init_std : float, default 0.02
        Deviation of the blocks' other weights at the start.

    Raises
    ------
    FewerError
        For sizes that do not fit one another, here or in the images.

    Examples
    --------
    >>> net = ConViT(28, 4, in_chans=1, num_classes=10, embed_dim=64, depth=5, num_heads=4, local_up_to_layer=4)
    >>> net(torch.zeros(3, 1, 28, 28)).shape, net.gates().shape
    (torch.Size([3, 10]), torch.Size([4, 4]))
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        local_up_to_layer: int = 10,
        locality_strength: float = 1.0,
        use_pos_embed: bool = True,
        local_init: bool = True,
        dynamic_img_pad: bool = False,
        init_std: float = 0.02,
    ) -> None:
        if not 0 <= local_up_to_layer < depth:
            raise FewerError(
                f"convit: local_up_to_layer is {local_up_to_layer} of {depth} blocks; leave at least one block for the "
                "class token"
            )

        def mixer(index: int) -> nn.Module:
            if index < local_up_to_layer:
                return GPSA(embed_dim, num_heads, locality_strength, local_init, init_std)
            return SelfAttention(embed_dim, num_heads, qkv_bias=False, init_std=init_std)

        super().__init__(
            img_size,
            patch_size,
            in_chans,
            num_classes,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            drop_path_rate=drop_path_rate,
            use_pos_embed=use_pos_embed,
            class_token_from=local_up_to_layer,
            mixer=mixer,
            dynamic_img_pad=dynamic_img_pad,
            init_std=init_std,
        )

    @property
    def gated(self) -> list[GPSA]:
        """The GPSA layers, first to last."""
        mixers = [cast(Any, block).attn for block in self.blocks]
        return [mixer for mixer in mixers if isinstance(mixer, GPSA)]

    def gates(self) -> Float[Tensor, "layers heads"]:
        """The share of attention by position, for each GPSA layer and head."""
        return torch.stack([layer.gates() for layer in self.gated]).detach()

    def freeze_gates(self) -> None:
        """Let the GPSA layers attend by position only, for good: a hard convolutional bias."""
        for layer in self.gated:
            nn.init.constant_(layer.gating_param, 100.0)
            layer.gating_param.requires_grad_(False)


def convit_tiny(**options: Any) -> ConViT:
    """ConViT-Ti: 4 heads of 48 channels; with ``embed_dim=256``, ConViT-Ti+.  Options are those of :class:`ConViT`."""
    return ConViT(**{"embed_dim": 192, "num_heads": 4, **options})


def convit_small(**options: Any) -> ConViT:
    """ConViT-S: 9 heads of 48 channels; with ``embed_dim=576``, ConViT-S+.  Options are those of :class:`ConViT`."""
    return ConViT(**{"embed_dim": 432, "num_heads": 9, **options})


def convit_base(**options: Any) -> ConViT:
    """ConViT-B: 16 heads of 48 channels; with ``embed_dim=1024``, ConViT-B+.  Options are those of :class:`ConViT`."""
    return ConViT(**options)


@dataclass(frozen=True)
class ConViTArchitecture(ViT):
    """Describes a small :class:`ConViT`, in the terms of :class:`~fewer.models.vit.ViT` and some of its own.

    Parameters
    ----------
    embed_dim, depth, num_heads, patch_size, mlp_ratio, drop_path_rate, init_std
        As in :class:`~fewer.models.vit.ViT`.
    local_up_to_layer : int, default 4
        How many blocks have GPSA.
    locality_strength : float, default 1
        How sharply the heads look at their offsets at the start.
    local_init : bool, default True
        Start the GPSA layers as convolutions.
    freeze_gates : bool, default False
        Attend by position only in the GPSA layers.

    Examples
    --------
    >>> ConViTArchitecture(embed_dim=32, depth=2, local_up_to_layer=1).build((1, 28, 28), 10)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """

    local_up_to_layer: int = 4
    locality_strength: float = 1.0
    local_init: bool = True
    freeze_gates: bool = False

    def network(self, freeze_gates: bool = False, **options: Any) -> ConViT:
        """Make the backbone."""
        made = ConViT(**options)
        if freeze_gates:
            made.freeze_gates()
        return made


@dataclass(frozen=True)
class UninitialisedGPSA(ConViTArchitecture):
    """The ablation in which the GPSA layers start at random."""

    local_init: bool = False


@dataclass(frozen=True)
class FrozenGPSA(ConViTArchitecture):
    """The ablation in which the GPSA layers attend by position only: a bias that is hard, not soft."""

    freeze_gates: bool = True


# --- the claim -------------------------------------------------------------------------------------------------------


def measure_start(seed: int, tiny: bool) -> Measures:
    """How far the heads of fresh networks look on a grid of 7 by 7 patches, in patches."""
    split = mnist5k(size=28, rows=20, test=16 if tiny else 256).split(seed)
    images = torch.from_numpy(split.test_x)
    torch.manual_seed(derive(seed, "start"))
    networks = {"vit": ViT(), "convit": ConViTArchitecture()}
    far = {name: each.build((1, 28, 28), 10).backbone.nonlocality(images) for name, each in networks.items()}
    position = GPSA(64, 4).position_attention((7, 7)).detach()
    return {
        "vit": {"distance of the nearest head": float(far["vit"].min())},
        # the last block has no gates
        "convit": {"distance of the farthest head": float(far["convit"][:-1].max())},
        "convit by position": {"distance of the farthest head": float(attended_distance(position, (7, 7)).max())},
    }


VISITS = 15_000
"""Visits: 500 steps of 30 rows."""
RATES = {"vit": 1e-3, "gpsa-noinit": 5e-4, "convit": 5e-4}


def _entries(score_every: int, *names: str) -> dict[str, str]:
    loop = f"supervised(batch=30, score_every={score_every}) + cosine(warmup=0.1) + cross-entropy(smoothing=0.1)"
    return {name: f"{loop} + adamw(lr={RATES[name]}, weight_decay=0.05) + {name}" for name in names}


TUNED = (
    "Networks of 5 blocks of 64 channels, 500 steps of 30 rows, which is short for attention: all would gain from more. "
    "Learning rates are the best for each entry of 0.00025, 0.0005, 0.001 and 0.002 with 300 digits on other seeds."
)
TINY = Tiny(task="mnist5k(size=28, rows=40, test=50)", budget=120)

claim = (
    Claim(
        says="With 300 training digits, attention that starts as convolution ends more than 5 points above a vision "
        "transformer, and above the same layers that start at random.",
        task="mnist5k(size=28, rows=300, test=2000)",
        budget=VISITS,
        seeds=5,
        entries=_entries(25, "vit", "gpsa-noinit", "convit"),
        holds=[
            higher("final", "convit", than="vit", by=0.05),
            higher("final", "convit", than="gpsa-noinit"),
        ],
        tiny=TINY,
        note=TUNED,
    ),
    Claim(
        says="With 1,000 training digits and as many steps it still ends above the vision transformer.",
        task="mnist5k(size=28, rows=1000, test=2000)",
        budget=VISITS,
        seeds=5,
        entries=_entries(8, "vit", "convit"),
        holds=[higher("final", "convit", than="vit")],
        tiny=TINY,
        note=TUNED,
    ),
    Claim(
        says="Before training, each gated head looks less than 1.5 patches far by position, and less than 2 in all, where each "
        "head of a vision transformer looks more than 2.5 patches far, on a grid of 7 by 7.",
        measure=measure_start,
        seeds=3,
        holds=[
            lower("distance of the farthest head", "convit by position", than=1.5),
            lower("distance of the farthest head", "convit", than=2.0),
            higher("distance of the nearest head", "vit", than=2.5),
        ],
        note="A first sketch asked for 1.5 patches of the whole head, which cannot be: attention by content starts even, spans "
        "3.6 patches and has a share of 0.27, so that it alone makes up 1.0.",
    ),
)
