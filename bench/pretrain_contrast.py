"""What a contrastive loss costs at a large batch: time and peak bytes, forwards and backwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure import peak_of_process
from fewer.pretrain.contrast import InfoNCE
from fewer.pretrain.dcl import DecoupledContrastiveLoss

WIDTH, TEMPERATURE = 128, 0.1

Loss = Callable[[Tensor, Tensor], Tensor]


def naive_infonce(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy over a whole table of similarities."""
    both = nn.functional.normalize(torch.cat([first, second]), dim=1)
    table = both @ both.T / TEMPERATURE
    table = table.masked_fill(torch.eye(len(both), dtype=torch.bool), -torch.inf)
    return nn.functional.cross_entropy(table, torch.arange(len(both)).roll(len(first)))


def naive_dcl(first: Tensor, second: Tensor) -> Tensor:
    """The published formula as lightly's DCLLoss writes it: two tables for each direction, joined, diagonals masked."""
    first, second = (nn.functional.normalize(each, dim=1) for each in (first, second))
    losses = []
    for one, other in ((first, second), (second, first)):
        cross, own = one @ other.T / TEMPERATURE, one @ one.T / TEMPERATURE
        joined = torch.cat([own, cross], dim=1)
        joined = joined.masked_fill(torch.eye(len(one), dtype=torch.bool).repeat(1, 2), -torch.inf)
        losses.append((torch.logsumexp(joined, dim=1) - torch.diag(cross)).mean())
    return sum(losses[1:], losses[0]) / 2


LOSSES: dict[str, tuple[Loss, Loss, str]] = {
    "InfoNCE": (lambda a, b: InfoNCE(TEMPERATURE)(a, b).mean(), naive_infonce, "the whole table at once"),
    "decoupled loss": (
        lambda a, b: DecoupledContrastiveLoss(TEMPERATURE)(a, b).mean(),
        naive_dcl,
        "the formula as in lightly's DCLLoss",
    ),
}

_PEAK = """
import sys, torch
from bench.pretrain_contrast import LOSSES, views
torch.set_num_threads(1)
name, which, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LOSSES[name][which](*views(64)).backward()  # everything is loaded
first, second = views(rows)
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # from here on the peak counts
before = peak()
LOSSES[name][which](first, second).backward()
print(peak() - before)
"""


def views(rows: int) -> tuple[Tensor, Tensor]:
    """Projections of two views."""
    drawn = torch.Generator().manual_seed(0)
    first = torch.randn(rows, WIDTH, generator=drawn)
    second = first + 0.5 * torch.randn(rows, WIDTH, generator=drawn)
    return first.requires_grad_(), second.requires_grad_()


def run(quick: bool = False) -> dict[str, Any]:
    """Both losses, at one thread."""
    rows, repeats = (512, 2) if quick else (4096, 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    try:
        # similarities once forwards, and two products of the same size backwards
        square = torch.randn(2048, 2048)
        products = 3 * 2 * (2 * rows) ** 2 * WIDTH / (2 * 2048**3 / _seconds(lambda: square @ square))
        for name, (ours, peer, peer_name) in LOSSES.items():
            first, second = views(rows)
            difference = [torch.autograd.grad(loss(first, second), first)[0] for loss in (ours, peer)]
            assert torch.allclose(difference[0], difference[1], atol=1e-6)
            taken: dict[int, list[float]] = {0: [], 1: []}
            for _ in range(repeats):  # turn about, so that a busy moment hits both alike
                for which, loss in enumerate((ours, peer)):
                    taken[which].append(_once(lambda loss=loss, pair=(first, second): loss(*pair).backward()))
            times = [statistics.median(taken[which]) for which in (0, 1)]
            peaks = [peak_of_process(_PEAK, name, str(which), str(rows))[1] for which in (0, 1)]
            found += [
                {
                    "what": f"{name}, {rows:,} by {WIDTH}, forwards and backwards",
                    "ours": 1000 * times[0],
                    "peer": 1000 * times[1],
                    "peer_name": peer_name,
                    "unit": "ms",
                    "ratio": times[1] / times[0],
                    "limit": 1000 * products,
                    "limit_is": "three products of matrices at the machine's speed",
                },
                {
                    "what": "… peak memory over the projections",
                    "ours": peaks[0] / 2**20,
                    "peer": peaks[1] / 2**20,
                    "peer_name": peer_name,
                    "unit": "MiB",
                    "ratio": peaks[1] / peaks[0],
                    "limit": 4 * 2 * rows * WIDTH * 4 / 2**20,
                    "limit_is": "normalised projections and their gradients, twice",
                },
            ]
    finally:
        torch.set_num_threads(threads)
    return {"title": "pretrain: contrastive losses", "rows": found}


def _once(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _seconds(function: Callable[[], Any]) -> float:
    return min(_once(function) for _ in range(5))
