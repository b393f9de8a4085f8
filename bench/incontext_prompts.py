"""Drawing prompts, a training step and play, against the same written plainly."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure import bandwidth, seconds
from fewer.incontext import Bandit, Boolean, Transformer
from fewer.incontext.bandits import NetworkPlayer, play
from fewer.incontext.loop import frozen


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything."""
    rows = [
        _drawing("conjunctions of 10 places, 30 points each", Boolean(), _plain_conjunction, quick),
        _drawing("bandits of 5 arms, 100 pulls each", Bandit(), _plain_bandit, quick),
        _step("width 64, 4 layers, 4 heads, 64 prompts of 60 tokens", (64, 4, 4), (64, 60, 10), quick),
        _step("width 32, 3 layers, 1 head, 64 prompts of 101 tokens", (32, 3, 1), (64, 101, 8), quick),
        _play(quick),
    ]
    return {"title": "incontext: prompts, training steps, play", "rows": rows}


def _drawing(what: str, family: Boolean | Bandit, plain: Callable[[random.Random], list[list[float]]], quick: bool):
    """Prompts of fresh tasks: all at once, and one after another in plain Python."""
    count = 256 if quick else 4096
    few = count // 16
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    ours = seconds(lambda: family.sample(count, generator)) / count
    peer = seconds(lambda: torch.tensor([plain(rng) for _ in range(few)])) / few
    written = family.sample(1, generator).tokens.nbytes
    return {
        "what": f"draw prompts: {what}",
        "ours": 1 / ours,
        "peer": 1 / peer,
        "peer_name": "plain Python",
        "unit": "prompts/s",
        "ratio": peer / ours,
        "limit": bandwidth(64 if quick else 512) / written,
        "limit_is": "memory bandwidth, if the tokens are written once",
    }


def _plain_conjunction(rng: random.Random) -> list[list[float]]:
    """Points and labels of one conjunction, as the tokens of a prompt."""
    literals = [rng.choices((0, 1, -1), (0.7, 0.15, 0.15))[0] for _ in range(10)]
    tokens = []
    for _ in range(30):
        x = [rng.choice((-1.0, 1.0)) for _ in range(10)]
        if rng.random() < 0.3:
            x = [float(literal) if literal else bit for literal, bit in zip(literals, x, strict=True)]
        y = all(bit == literal for literal, bit in zip(literals, x, strict=True) if literal)
        tokens += [x, [1.0 if y else -1.0] + [0.0] * 9]
    return tokens


def _plain_bandit(rng: random.Random) -> list[list[float]]:
    """Pulls and payments of one bandit, as the tokens of a prompt."""
    means = [rng.random() for _ in range(5)]
    share, single = rng.randrange(11) / 10, rng.randrange(5)
    spread = [rng.expovariate(1) for _ in range(5)]
    chances = [(1 - share) * each / sum(spread) + share * (arm == single) for arm, each in enumerate(spread)]
    tokens = [[1.0] + [0.0] * 7]
    for _ in range(100):
        arm = rng.choices(range(5), chances)[0]
        tokens.append([1.0, *(float(arm == each) for each in range(5)), 1.0, rng.gauss(means[arm], 0.3)])
    return tokens


class Encoder(nn.Module):
    """The same network from torch's encoder layers, with a mask that is written out."""

    def __init__(self, width: int, layers: int, heads: int, features: int, length: int) -> None:
        super().__init__()
        self.read_in, self.read_out = nn.Linear(features, width), nn.Linear(width, 1)
        self.positions = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read_out(self.encoder(self.read_in(tokens) + self.positions, mask=self.mask))


def _step(what: str, sizes: tuple[int, int, int], shape: tuple[int, int, int], quick: bool):
    """Forward, backward and AdamW."""
    repeats = 4 if quick else 40
    width, layers, heads = sizes
    batch, length, features = shape
    tokens = torch.randn(batch, length, features)
    networks = (Transformer(*sizes).build(features, 1, length), Encoder(width, layers, heads, features, length))
    optimisers = [torch.optim.AdamW(network.parameters(), 1e-3, fused=True) for network in networks]

    def step(which: int) -> None:
        optimisers[which].zero_grad(set_to_none=True)
        networks[which](tokens).square().mean().backward()
        optimisers[which].step()

    # turn about, so that a busy moment hits both alike
    pairs = np.array([[seconds(lambda which=which: step(which), 1) for which in (0, 1)] for _ in range(repeats)])
    ours, peer = np.median(pairs[repeats // 4 :], axis=0) * 1000
    operations = 6 * batch * length * layers * width * (12 * width + length)
    return {
        "what": f"training step: {what}",
        "ours": float(ours),
        "peer": float(peer),
        "peer_name": "nn.TransformerEncoderLayer",
        "unit": "ms",
        "ratio": float(peer / ours),
        "limit": 1000 * operations / _rate(),
        "limit_is": "multiplications at the rate of a large matrix product",
    }


def _rate() -> float:
    """Operations a second of a large matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ b, 5)


def _play(quick: bool):
    """Two hundred bandits, a hundred pulls: each token read once, and the whole prompt read for each pull."""
    family, bandits = Bandit(context=20 if quick else 100), 50 if quick else 200
    predict = frozen(Transformer(32, 3, 1).build(family.features, family.outputs, family.length))
    means = torch.rand(bandits, 5)

    def once(reader: Any) -> None:
        player = NetworkPlayer(reader, bandits, 5)
        play(means, 0.3, player, family.context, torch.Generator().manual_seed(0))

    ours = seconds(lambda: once(predict))
    peer = seconds(lambda: once(lambda prompts: predict(prompts)), 1)
    tokens, layers, width = bandits * (family.context + 1), 3, 32
    operations = 2 * tokens * layers * width * (12 * width + family.context)
    return {
        "what": f"play: {bandits} bandits, {family.context} pulls with one network",
        "ours": ours,
        "peer": peer,
        "peer_name": "reading the prompt anew",
        "unit": "s",
        "ratio": peer / ours,
        "limit": operations / _rate(),
        "limit_is": "multiplications at the rate of a large matrix product",
    }
