"""Long convolutions over 1,000 to 64,000 steps, against attention, and against the bare Fourier convolution in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure import seconds
from fewer.nets.block_fft import BlockFFT
from fewer.nets.long_conv import LongConv

WIDTH = 32
LENGTHS = {1024: 7, 4096: 5, 16384: 3, 65536: 1}
"""Steps, and how often each is repeated: attention over the longest takes ten seconds."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    lengths = {1024: 2, 2048: 2} if quick else LENGTHS
    return {"title": "long-conv: layers over long sequences", "rows": [*layers(lengths), *blocks(quick)]}


def layers(lengths: dict[int, int]) -> list[dict[str, Any]]:
    """Forward passes of whole layers of one sequence, and what a training step keeps for the way back."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, num_heads=2, batch_first=True)
    rows: list[dict[str, Any]] = []
    taken: dict[int, tuple[float, float, float]] = {}
    for length, repeats in lengths.items():
        layer = LongConv(WIDTH, length, channels=1, kernel_dropout=0)
        u = torch.randn(1, length, WIDTH, requires_grad=True)  # as inside a network
        kernel = nn.Parameter(torch.randn(WIDTH, length))

        def attend(u: Tensor = u) -> Tensor:
            return attention(u, u, u, need_weights=False)[0]

        def plain(u: Tensor = u, kernel: Tensor = kernel, points: int = 2 * length) -> Tensor:
            spectrum = torch.fft.rfft(u.mT, n=points) * torch.fft.rfft(kernel, n=points)
            return torch.fft.irfft(spectrum, n=points)[..., : points // 2].mT

        with torch.inference_mode():
            # a single repeat would count the first call, which is slower
            ours = seconds(lambda layer=layer, u=u: layer(u), max(repeats, 3))
            limit = seconds(plain, max(repeats, 3))
            theirs = seconds(attend, repeats)
        taken[length] = ours, limit, theirs
        rows.append(
            {
                "what": f"a layer of width {WIDTH} over {length:,} steps",
                "ours": ours * 1000,
                "peer": theirs * 1000,
                "peer_name": "torch MultiheadAttention",
                "unit": "ms",
                "ratio": theirs / ours,
                "limit": limit * 1000,
                "limit_is": "a plain FFT convolution of the same size, without the rest of the layer",
            }
        )
        kept = [_kept(call) for call in (lambda layer=layer, u=u: layer(u), attend, plain)]
        rows.append(
            {
                "what": "… bytes kept for the way back",
                "ours": kept[0] / 2**20,
                "peer": kept[1] / 2**20,
                "peer_name": "torch MultiheadAttention",
                "unit": "MiB",
                "ratio": kept[1] / kept[0],
                "limit": kept[2] / 2**20,
                "limit_is": "a plain FFT convolution of the same size, without the rest of the layer",
            }
        )
    shortest, longest = sorted(lengths)[-2 if len(lengths) < 3 else 1], max(lengths)
    exponents = [
        math.log(long / short) / math.log(longest / shortest)
        for short, long in zip(taken[shortest], taken[longest], strict=True)
    ]
    rows.append(
        {
            "what": f"growth from {shortest:,} to {longest:,} steps: time goes as the length to this power",
            "ours": exponents[0],
            "peer": exponents[2],
            "peer_name": "torch MultiheadAttention",
            "unit": "",
            "limit": exponents[1],
            "limit_is": "a plain FFT convolution",
        }
    )
    return rows


def blocks(quick: bool) -> list[dict[str, Any]]:
    """The transform in dense blocks, which is made for matrix units, on a processor that has none."""
    x = torch.randn(8 if quick else 64, 4096, dtype=torch.complex64)
    transform = BlockFFT()
    with torch.inference_mode():
        ours, theirs = seconds(lambda: transform(x), 5), seconds(lambda: torch.fft.fft(x), 5)
    return [
        {
            "what": f"BlockFFT: {len(x)} transforms of 4,096 points",
            "ours": ours * 1000,
            "peer": theirs * 1000,
            "peer_name": "torch.fft.fft",
            "unit": "ms",
            "ratio": theirs / ours,
        }
    ]


def _kept(call: Callable[[], Tensor]) -> int:
    """Bytes of all tensors that a forward pass keeps, each storage once, without the weights."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    size = sum(kept.values())
    del result  # until here, so that no storage is freed and its address given to another
    return size
