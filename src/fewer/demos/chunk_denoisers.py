"""Networks that say which noise was mixed into a chunk of actions: fully connected, and convolutions over the chunk."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def kept_share(levels: int) -> Float[Tensor, " levels"]:
    """Abar of each level: the share of the chunk's variance that is left, a squared cosine, falling from level to level.

    Examples
    --------
    >>> kept_share(4).round(decimals=2)
    tensor([0.8500, 0.4900, 0.1400, 0.0000])
    """
    time = torch.arange(levels + 1, dtype=torch.float64) / levels
    curve = torch.cos((time + 0.008) / 1.008 * math.pi / 2).square()
    return (curve[1:] / curve[:-1]).clamp_min(0.001).cumprod(0).float()


def _times(level: Int[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=level.device) / (width // 2 - 1))
    angles = level[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


TIMES = 16
"""Width of what stands for a level of noise."""


class ChunkMLP(nn.Module):
    """Fully connected layers that say the noise of a chunk."""

    def __init__(self, features: int, chunk: int, action: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (features + chunk * action + TIMES, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], chunk * action), nn.Unflatten(1, (chunk, action)))

    def forward(
        self, chunks: Float[Tensor, "batch chunk action"], level: Int[Tensor, " batch"], features: Tensor
    ) -> Float[Tensor, "batch chunk action"]:
        """The noise."""
        return self.layers(torch.cat([chunks.flatten(1), _times(level, TIMES), features], dim=1))


class _Conditioned(nn.Module):
    """Two convolutions over time, the first one's channels scaled and shifted by what is seen."""

    def __init__(self, before: int, after: int, guide: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(before, after, 5, padding=2), nn.GroupNorm(8, after), nn.Mish())
        self.guide = nn.Sequential(nn.Mish(), nn.Linear(guide, 2 * after))
        self.second = nn.Sequential(nn.Conv1d(after, after, 5, padding=2), nn.GroupNorm(8, after), nn.Mish())
        self.around = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        scale, shift = self.guide(guide)[..., None].chunk(2, dim=1)
        return self.second(self.first(x) * scale + shift) + self.around(x)


class ChunkUNet(nn.Module):
    """Convolutions over the actions of a chunk, to ever shorter chunks and back, that say the noise.

    Examples
    --------
    >>> net = ChunkUNet(features=3, chunk=8, action=2, hidden=(8, 16, 32))
    >>> net(torch.zeros(4, 8, 2), torch.zeros(4, dtype=torch.long), torch.zeros(4, 3)).shape
    torch.Size([4, 8, 2])
    """

    def __init__(self, features: int, chunk: int, action: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIMES, 4 * TIMES), nn.Mish(), nn.Linear(4 * TIMES, TIMES))
        guide, widths = TIMES + features, (action, *hidden)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.ModuleList([_Conditioned(before, after, guide), _Conditioned(after, after, guide)])
            for before, after in pairs
        )
        self.shrink = nn.ModuleList(nn.Conv1d(each, each, 3, 2, 1) for each in hidden[:-1])
        last = hidden[-1]
        self.middle = nn.ModuleList([_Conditioned(last, last, guide), _Conditioned(last, last, guide)])
        self.up = nn.ModuleList(
            nn.ModuleList([_Conditioned(2 * after, before, guide), _Conditioned(before, before, guide)])
            for before, after in reversed(pairs[1:])
        )
        self.grow = nn.ModuleList(nn.ConvTranspose1d(each, each, 4, 2, 1) for each in reversed(hidden[:-1]))
        first = hidden[0]
        self.out = nn.Sequential(
            nn.Conv1d(first, first, 5, padding=2), nn.GroupNorm(8, first), nn.Mish(), nn.Conv1d(first, action, 1)
        )

    def forward(
        self, chunks: Float[Tensor, "batch chunk action"], level: Int[Tensor, " batch"], features: Tensor
    ) -> Float[Tensor, "batch chunk action"]:
        """The noise."""
        guide = torch.cat([self.time(_times(level, TIMES)), features], dim=1)
        x, beside = chunks.transpose(1, 2), []
        for index, stage in enumerate(self.down):
            for block in stage:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, guide)
            beside.append(x)
            if index < len(self.shrink):
                x = self.shrink[index](x)
        for block in self.middle:
            x = block(x, guide)
        for stage, grow in zip(self.up, self.grow, strict=True):
            x = torch.cat([x, beside.pop()], dim=1)
            for block in stage:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, guide)
            x = grow(x)
        return self.out(x).transpose(1, 2)
