"""What leaving patches out saves: images a second of a masked encoder, forwards and backwards, at the size of ViT-S/16.

One thread, images of 224 by 224, three quarters of the patches masked; turn about with transformers' ViTMAE of the same
sizes and with the same encoder that is given all patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure import seconds
from fewer.models.tokens import TokenEncoder
from fewer.pretrain.dmjd import disjoint_masks
from fewer.pretrain.hog import hog
from fewer.pretrain.masked import RandomMask

WIDTH, DEPTH, HEADS, SIDE, PATCH = 384, 12, 6, 224, 16


def run(quick: bool = False) -> dict[str, Any]:
    """Measure the encoder, the masks and the targets."""
    torch.set_num_threads(1)
    return {"title": "pretrain: masked encoders", "rows": [*encoder(quick), *around(quick)]}


def encoder(quick: bool) -> list[dict[str, Any]]:
    """Images a second through the encoder."""
    images, repeats, depth = (2, 1, 2) if quick else (8, 7, DEPTH)
    torch.manual_seed(0)
    x = torch.rand(images, 3, SIDE, SIDE)
    ours = TokenEncoder((3, SIDE, SIDE), (PATCH, PATCH), WIDTH, depth, HEADS)
    peer = _vit_mae(depth)
    (mask,) = RandomMask(0.75).draw(images, ours.grid, torch.Generator().manual_seed(0))
    ways = [
        _step(ours, lambda: ours.tokens(x, mask.kept)),
        _step(peer, lambda: peer(x).last_hidden_state),
        _step(ours, lambda: ours.tokens(x)),
    ]
    for way in ways:
        way()
    # turn about, so that a busy moment hits all alike
    taken = np.median([[seconds(way, 1) for way in ways] for _ in range(repeats)], axis=0)
    mine, theirs, whole = images / taken
    seen = mask.kept.shape[1]
    # multiply-adds of a patch: linear layers, and attention to those that are seen; backwards costs twice as much again
    adds = 3 * seen * (depth * (12 * WIDTH**2 + 2 * seen * WIDTH) + 3 * PATCH**2 * WIDTH)
    limit = _multiply_adds_a_second() / adds
    shared = {"unit": "images/s", "ours": float(mine)}
    what = f"masked encoder of {WIDTH} channels and {depth} blocks, a quarter of {SIDE} by {SIDE} seen, forwards and backwards"
    return [
        {
            "what": what,
            **shared,
            "peer": float(theirs),
            "peer_name": "transformers ViTMAE",
            "ratio": float(mine / theirs),
            "limit": float(limit),
            "limit_is": "as many multiply-adds in one large matrix product",
        },
        {
            "what": "… against the same encoder of all patches",
            **shared,
            "peer": float(whole),
            "peer_name": "all patches",
            "ratio": float(mine / whole),
            "limit": float(limit),
            "limit_is": "as many multiply-adds in one large matrix product",
        },
    ]


def around(quick: bool) -> list[dict[str, Any]]:
    """Masks and targets of a batch, beside one of the encoder's steps."""
    images, repeats = (4, 1) if quick else (64, 7)
    x = torch.rand(images, 3, SIDE, SIDE)
    draws = torch.Generator().manual_seed(0)
    grid = (SIDE // PATCH, SIDE // PATCH)
    disjoint = seconds(lambda: disjoint_masks(images, grid, 0.6, 1.0, draws, block=2), repeats)
    independent = seconds(lambda: RandomMask(0.6, masks=2).draw(images, grid, draws), repeats)
    histograms = seconds(lambda: hog(x), repeats)
    copied = seconds(lambda: x.clone(), repeats)
    return [
        {
            "what": f"two disjoint masks of {images} images",
            "ours": disjoint * 1000,
            "peer": independent * 1000,
            "peer_name": "two independent masks",
            "unit": "ms",
            "ratio": independent / disjoint,
        },
        {
            "what": f"histograms of oriented gradients of {images} images",
            "ours": images / histograms,
            "peer": images / copied,
            "peer_name": "copying the pixels once",
            "unit": "images/s",
            "ratio": copied / histograms,
        },
    ]


def _step(network: nn.Module, forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad(set_to_none=True)
        forward().square().mean().backward()

    return step


def _multiply_adds_a_second(side: int = 1536) -> float:
    first, second = torch.rand(2, side, side)
    return side**3 / seconds(lambda: first @ second, 5)


def _vit_mae(depth: int) -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
        mask_ratio=0.75,
    )
    return ViTMAEModel(config).train()
