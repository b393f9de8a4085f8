"""Slow copies of networks: moving averages of their parameters over training steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, share: float, statistics: bool = False) -> None:
    """Move a slow copy towards its network: ``average = (1 - share) * average + share * network``.

    Parameters
    ----------
    average, network : nn.Module
        Of the same kind.
    share : float
        Of the way, in [0, 1]: 0.005 is an average over about 200 calls.
    statistics : bool, default False
        Average buffers such as the running statistics of batch normalisation too, and copy those that count; otherwise the
        average keeps its own.

    Examples
    --------
    >>> average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(average.weight, 1.0), nn.init.constant_(network.weight, 2.0)
    >>> follow(average, network, share=0.25)
    >>> average.weight.item()
    1.25
    """
    mine: list[Tensor] = list(average.parameters())
    other: list[Tensor] = list(network.parameters())
    if statistics:
        for buffer, now in zip(average.buffers(), network.buffers(), strict=True):
            if buffer.is_floating_point():
                mine.append(buffer)
                other.append(now)
            else:
                buffer.copy_(now)
    torch._foreach_lerp_(mine, other, share)  # pyright: ignore[reportPrivateImportUsage]
