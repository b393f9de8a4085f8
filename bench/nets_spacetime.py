"""SpaceTime's layer at lengths from 1,024 to 65,536: time and bytes, against a plain FFT convolution and torch's attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from bench.measure import bandwidth, peak_of_process, seconds
from fewer.nets import CompanionSSM, causal_convolution

CHANNELS, KERNEL_DIM = 16, 64
LENGTHS = {1024: 9, 2048: 9, 4096: 9, 8192: 7, 16384: 5, 32768: 3, 65536: 2}
"""Steps, and how often each is repeated: attention over the longest takes ten seconds."""
PEERS = {"convolution": "plain FFT convolution", "attention": "torch's causal attention"}

PASS = """
import sys, torch
from bench.nets_spacetime import make
torch.set_num_threads(1)

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

run, u = make(sys.argv[1], 64)
run(u)  # libraries that load on first use are not the layer's
run, u = make(sys.argv[1], int(sys.argv[2]))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = status("VmRSS")
run(u)
print(max(status("VmHWM") - before, 4096))
"""
"""Prints the peak resident bytes that a pass adds (on Linux)."""


def make(name: str, length: int) -> tuple[Any, torch.Tensor]:
    """A forward and backward pass over one sequence."""
    torch.manual_seed(0)
    u = torch.randn(1, length, CHANNELS, requires_grad=True)
    if name == "companion":
        layer = CompanionSSM(CHANNELS, KERNEL_DIM)
    elif name == "convolution":
        kernel = torch.nn.Parameter(torch.randn(CHANNELS, length) / length)
        skip = torch.nn.Parameter(torch.randn(CHANNELS))

        def layer(u: torch.Tensor) -> torch.Tensor:
            return causal_convolution(u.mT, kernel).mT + skip * u
    else:

        def layer(u: torch.Tensor) -> torch.Tensor:
            # one head of all channels: torch's kernel takes several times as long with more and narrower ones
            return torch.nn.functional.scaled_dot_product_attention(u[None], u[None], u[None], is_causal=True)[0]

    return lambda u: layer(u).square().mean().backward(), u


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything."""
    lengths = {1024: 2, 2048: 2} if quick else LENGTHS
    names = ("companion", *PEERS)
    taken: dict[int, dict[str, float]] = {}
    for length, repeats in lengths.items():
        passes = [make(name, length) for name in names]
        for run_, u in passes:
            run_(u)
        # turn about, so that a busy moment hits all alike
        rounds = [[seconds(lambda run_=run_, u=u: run_(u), 1) for run_, u in passes] for _ in range(repeats)]
        taken[length] = dict(zip(names, np.median(rounds, axis=0).tolist(), strict=True))
    speed = bandwidth(64 if quick else 512)
    rows = []
    for length, times in taken.items():
        # input, output and both gradients once, and the transforms of twice the length there and back
        limit = 4 * (4 + 6 * 2) * CHANNELS * length / speed * 1000
        peaks = {name: peak_of_process(PASS, name, str(length))[1] for name in names}
        for peer in PEERS:
            what = f"companion layer, {length:,} steps"
            rows.append(_row(what, times, peer, "ms", 1000, limit, "memory bandwidth"))
        least = 4 * 4 * CHANNELS * length / 2**20
        for peer in PEERS:
            what = f"… peak memory of a pass, {length:,} steps"
            rows.append(_row(what, peaks, peer, "MiB", 2**-20, least, "input, output and their gradients"))
    first, last = sorted(lengths)[0 if quick else 2], max(lengths)
    for peer in PEERS:
        powers = {
            name: math.log(taken[last][name] / taken[first][name]) / math.log(last / first) for name in taken[last]
        }
        what = f"growth from {first:,} to {last:,} steps: time goes as the length to this power"
        rows.append({**_row(what, powers, peer, "", 1, 1.0, "linear growth"), "ratio": None})
    return {
        "title": f"nets: a companion layer of {CHANNELS} channels and {KERNEL_DIM} states, forward and backward",
        "rows": rows,
    }


def _row(
    what: str, values: dict[str, float], peer: str, unit: str, factor: float, limit: float, limit_is: str
) -> dict[str, Any]:
    ours, theirs = values["companion"], values[peer]
    return {
        "what": what,
        "ours": ours * factor,
        "peer": theirs * factor,
        "peer_name": PEERS[peer],
        "unit": unit,
        "ratio": theirs / ours,
        "limit": limit,
        "limit_is": limit_is,
    }
