"""What gated positional attention costs: beside plain attention, and beside its formula written as it stands."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewer.models.vit import SelfAttention, VisionTransformer
from fewer.nets import GPSA, ConViT

SIZES = {"tiny": (192, 4), "small": (432, 9)}
"""Channels and heads of the paper's two smaller networks."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    sides = (7,) if quick else (7, 14, 28)
    rows = [row for side in sides for row in layer("tiny", side, 16 if side < 28 else 4, quick)]
    rows += [] if quick else layer("small", 14, 16, quick)
    return {"title": "nets: gated positional self-attention", "rows": [*rows, *networks(quick)]}


def layer(size: str, side: int, batch: int, quick: bool) -> list[dict[str, Any]]:
    """A layer forward and backward, against plain attention and against the formula, interleaved."""
    (dim, heads), patches = SIZES[size], side * side
    torch.manual_seed(0)
    ours, plain = GPSA(dim, heads), SelfAttention(dim, heads, qkv_bias=False)
    formula = Formula(ours)
    x = torch.randn(batch, patches, dim, requires_grad=True)
    torch.testing.assert_close(ours(x), formula(x), rtol=1e-4, atol=1e-4)
    times = interleaved(
        {
            name: lambda call=call: call(x).sum().backward()
            for name, call in {"ours": ours, "plain": plain, "formula": formula}.items()
        },
        2 if quick else 9,
    )
    limit = products(batch, patches, dim) / speed()
    what = f"GPSA, forward and backward: {batch} images, {side} by {side} patches, {dim} channels, {heads} heads"
    return [
        {
            "what": what,
            "ours": 1000 * times["ours"],
            "peer": 1000 * times[peer],
            "peer_name": name,
            "unit": "ms",
            "ratio": times[peer] / times["ours"],
            "limit": 1000 * limit,
            "limit_is": "the matrix products of plain attention at the speed of a large one",
        }
        for peer, name in (("formula", "the formula as it stands"), ("plain", "self-attention"))
    ]


def networks(quick: bool) -> list[dict[str, Any]]:
    """Images a second through networks of 5 blocks on 28 by 28 pixels, training and predicting."""
    options: dict[str, Any] = {"img_size": 28, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 64}
    torch.manual_seed(0)
    ours = ConViT(**options, depth=5, num_heads=4, local_up_to_layer=4)
    plain = VisionTransformer(**options, depth=5, num_heads=4)
    batch = 64
    x, y = torch.rand(batch, 1, 28, 28), torch.arange(batch) % 10

    def training(network: nn.Module) -> Callable[[], Any]:
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)

        def step() -> None:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()

        return step

    def predicting(network: nn.Module) -> Callable[[], Any]:
        def predict() -> None:
            with torch.inference_mode():
                network(x)

        return predict

    rows = []
    for what, make in (("training", training), ("predicting", predicting)):
        times = interleaved({"ours": make(ours), "plain": make(plain)}, 2 if quick else 15)
        rows.append(
            {
                "what": f"ConViT, {what}: 5 blocks of 64 channels, 49 patches",
                "ours": batch / times["ours"],
                "peer": batch / times["plain"],
                "peer_name": "vision transformer",
                "unit": "images/s",
                "ratio": times["plain"] / times["ours"],
            }
        )
    return rows


class Formula(nn.Module):
    """GPSA as the paper writes it: both attentions formed for each image, mixed, and divided by their sums."""

    def __init__(self, layer: GPSA) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Mix patches of a square grid."""
        layer, (batch, tokens, dim) = self.layer, x.shape
        heads, side = layer.num_heads, int(tokens**0.5)
        query, key = layer.qk(x).reshape(batch, tokens, 2, heads, dim // heads).permute(2, 0, 3, 1, 4)
        value = layer.v(x).reshape(batch, tokens, heads, dim // heads).permute(0, 2, 1, 3)
        places = torch.arange(side)
        steps = places[None, :] - places[:, None]
        dx, dy = steps.repeat(side, side), steps.repeat_interleave(side, 0).repeat_interleave(side, 1)
        relative = torch.stack([dx, dy, dx**2 + dy**2], dim=-1).float().expand(batch, -1, -1, -1)
        position = layer.pos_proj(relative).permute(0, 3, 1, 2).softmax(dim=-1)
        content = (query @ key.transpose(-2, -1) * (dim // heads) ** -0.5).softmax(dim=-1)
        gate = layer.gating_param.view(1, -1, 1, 1).sigmoid()
        attention = (1 - gate) * content + gate * position
        attention = attention / attention.sum(dim=-1, keepdim=True)
        return layer.proj((attention @ value).transpose(1, 2).reshape(batch, tokens, dim))


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, measured in turn so that a slow moment of the machine falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def products(batch: int, patches: int, dim: int) -> float:
    """Operations of attention's matrix products, forward and (twice as many) backward."""
    return 3 * 2 * batch * patches * (4 * dim * dim + 2 * patches * dim)


def speed(side: int = 1024) -> float:
    """Operations a second of a large matrix product."""
    left, right = torch.rand(side, side), torch.rand(side, side)
    return 2 * side**3 / interleaved({"product": lambda: left @ right}, 5)["product"]
