"""An update of chunked offline reinforcement learning: all members and all prefixes at once, against one at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure import seconds
from fewer.demos.chunk_cloning import ChunkCloning
from fewer.demos.chunk_critics import CausalTransformer, ChunkCritic, ChunkCritics, PrefixMLP
from fewer.demos.chunked_offline_rl import ChunkedImprovement, ChunkedTraining
from fewer.demos.gate_world import gate_2d

CHUNK, BATCH = 8, 128


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything."""
    given = gate_2d(10 if quick else 40).demonstrations(0)
    policy = ChunkCloning(CHUNK, steps=10).fit(given, [-1, -1], [1, 1])
    rows = []
    for name, critic in (("fully connected", PrefixMLP()), ("transformer", CausalTransformer())):
        settings = ChunkedImprovement(critic, batch=BATCH, warm_up=0, delay=1)
        ours, plain = settings.start(given, policy), OneByOne(settings, given, policy, 0)
        repeats = 2 if quick else 20
        for training in (ours, plain):
            training.advance(1)
        # turn about, so that a busy moment hits both alike
        pairs = [[seconds(lambda each=each: each.advance(1), 1) for each in (ours, plain)] for _ in range(repeats)]
        mine, theirs = np.median(pairs, axis=0)
        limit = operations(critic) / flops()
        rows.append(
            {
                "what": f"an update of critic and policy, {name}, {BATCH} chunks of {CHUNK} actions",
                "ours": float(mine) * 1e3,
                "peer": float(theirs) * 1e3,
                "peer_name": "each member, prefix and look-ahead by itself",
                "unit": "ms",
                "ratio": float(theirs / mine),
                "limit": limit * 1e3,
                "limit_is": "the products of one pass over all tokens or prefixes, if the processor did nothing else",
            }
        )
    return {"title": "demos: offline reinforcement learning on chunks", "rows": rows}


class OneByOne(ChunkedTraining):
    """The same update, with a network for each member that is asked for each prefix by itself."""

    def __init__(self, settings: ChunkedImprovement, *arguments: Any) -> None:
        super().__init__(replace(settings, critic=_Apart(settings.critic)), *arguments)

    def target(self, rows: Tensor) -> Tensor:
        """Every look-ahead of every window by itself, though many are of the same state."""
        found, returns = torch.zeros_like(returns_of(self, rows)), self.returns
        with torch.no_grad():
            for i in range(found.shape[1]):
                states = self.states[returns.ahead[rows, i]]
                value = self.slow_critic.full(states, self._noisy(self.slow_head(states))).amin(0)
                found[:, i] = returns.rewards[rows, i] + returns.discount[rows, i] * value
        return found


def returns_of(training: ChunkedTraining, rows: Tensor) -> Tensor:
    """The rewards of every prefix."""
    return training.returns.rewards[rows]


class _Apart:
    """Describes members that are built one by one."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def build(self, features: int, chunk: int, action: int) -> ChunkCritic:
        one = replace(self.shape, members=1)
        return _Members([one.build(features, chunk, action) for _ in range(self.shape.members)])


class _Members(ChunkCritic):
    def __init__(self, members: list[ChunkCritic]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, states: Tensor, chunks: Tensor) -> Tensor:
        values = []
        for member in self.members:
            prefixes = []
            for i in range(chunks.shape[1]):
                # what comes later is padded: no prefix may know it
                padded = torch.cat([chunks[:, : i + 1], torch.zeros_like(chunks[:, i + 1 :])], dim=1)
                prefixes.append(member(states, padded)[0, :, i])
            values.append(torch.stack(prefixes, dim=1))
        return torch.stack(values)

    def full(self, states: Tensor, chunks: Tensor) -> Tensor:
        return torch.cat([member(states, chunks)[..., -1] for member in self.members])


def operations(critic: ChunkCritics) -> float:
    """Operations of the products with the critic's matrices in the critic's pass there and back alone."""
    built = critic.build(8, CHUNK, 2)
    weights = sum(each.numel() for name, each in built.named_parameters() if each.ndim == 3 and "length" not in name)
    times = CHUNK + 1 if isinstance(critic, CausalTransformer) else CHUNK
    return 6.0 * weights * times * BATCH


def flops() -> float:
    """Operations a second of a large product."""
    left = torch.rand(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: left @ left, 5)
