"""Search in imagination: all copies, samples and members at once, against one copy, or one member, at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import seconds
from fewer.demos.imagined_values import ValueEnsemble
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.residual_search import ResidualSearch
from fewer.demos.search_policy import Imagination, SearchModels
from fewer.demos.trajectory_replay import Sequences
from fewer.demos.world_model import Latent, WorldModelShape

CHUNK, ACTION = 8, 2


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything."""
    speed, repeats = flops(), 2 if quick else 7
    rows = []
    for name, shape, hidden, search, copies in (
        ("small", WorldModelShape(64, 4, 8, 64), (32, 32), ResidualSearch(24, 3, 6), 10),
        ("the paper's size", WorldModelShape(), (512, 512), ResidualSearch(), 2),
    ):
        if quick and name != "small":
            continue
        models = SearchModels(shape, ObservationTensors((("", (4,)),)), ACTION, hidden, 5).eval()
        each = repeats if name == "small" else 1
        rows.append(planning(name, models, Imagination(search=search), copies, speed, each))
        if name == "small":
            rows.append(values(models, speed, repeats))
            rows.append(training(models, repeats))
    return {"title": "demos: learning to search", "rows": rows}


def planning(
    name: str, models: SearchModels, imagination: Imagination, copies: int, speed: float, repeats: int
) -> dict[str, Any]:
    """A step of the search in several copies of an environment."""
    state, plans = models.world.start(copies), torch.zeros(copies, CHUNK, ACTION)
    search, stream = imagination.search, torch.Generator().manual_seed(0)

    def best(state: Latent, plans: Tensor) -> Tensor:
        with torch.inference_mode():
            return search.best(plans, lambda c: imagination.score(models, state, c, stream), stream)

    def one_by_one() -> None:
        for i in range(copies):
            best(Latent(*(each[i : i + 1] for each in state)), plans[i : i + 1])

    mine, theirs = interleaved(lambda: best(state, plans), one_by_one, repeats)
    products = sum(
        each.numel() for part in (models.world.inputs, models.world.gates, models.world.prior) for each in weights(part)
    )
    judged = sum(each.numel() for part in (models.reward, models.values, models.world.end) for each in weights(part))
    done = 2 * copies * search.samples * search.iterations * (7 * products + 8 * judged)
    return {
        "what": f"a step of the search in {copies} copies, {search.samples} samples, {search.iterations} rounds, {name}",
        "ours": mine * 1e3,
        "peer": theirs * 1e3,
        "peer_name": "each copy by itself",
        "unit": "ms",
        "ratio": theirs / mine,
        "limit": done / speed * 1e3,
        "limit_is": "the products with all matrices, if the processor did nothing else",
    }


def values(models: SearchModels, speed: float, repeats: int) -> dict[str, Any]:
    """The ensemble's values of imagined states."""
    ensemble, states = models.values, torch.randn(8, 2400, models.world.shape.features)
    members = []
    for m in range(5):
        one = ValueEnsemble(states.shape[-1], (32, 32), members=1)
        for mine, every in zip(one.parameters(), ensemble.parameters(), strict=True):
            mine.data.copy_(every.data[m : m + 1])
        members.append(one)
    with torch.inference_mode():
        mine, theirs = interleaved(lambda: ensemble(states), lambda: [each(states) for each in members], repeats)
    done = 2 * states[..., 0].numel() * sum(each.numel() for each in weights(ensemble))
    return {
        "what": f"values of {states[..., 0].numel():,} imagined states by 5 members",
        "ours": mine * 1e3,
        "peer": theirs * 1e3,
        "peer_name": "one member at a time",
        "unit": "ms",
        "ratio": theirs / mine,
        "limit": done / speed * 1e3,
        "limit_is": "the products with all matrices, if the processor did nothing else",
    }


def training(models: SearchModels, repeats: int) -> dict[str, Any]:
    """The world model's loss and its gradients."""
    size, length = 16, 16
    whole = stretch(size, length)

    def learn(batch: Sequences) -> None:
        models.world.loss(batch)[0].backward()

    def one_by_one() -> None:
        for i in range(size):
            learn(part(whole, i))

    mine, theirs = interleaved(lambda: learn(whole), one_by_one, repeats)
    return {
        "what": f"gradients of the world model, {size} stretches of {length} steps, small",
        "ours": mine * 1e3,
        "peer": theirs * 1e3,
        "peer_name": "one stretch at a time",
        "unit": "ms",
        "ratio": theirs / mine,
        "limit": 6 * size * length * sum(each.numel() for each in weights(models.world)) / flops() * 1e3,
        "limit_is": "the products with all matrices there and back, if the processor did nothing else",
    }


def part(whole: Sequences, i: int) -> Sequences:
    """One stretch of several."""
    one = {name: getattr(whole, name)[i : i + 1] for name in Sequences._fields if name != "images"}
    return Sequences(images={}, **one)


def stretch(size: int, length: int) -> Sequences:
    """Anything of the right shape."""
    ones = torch.ones(size, length, dtype=torch.bool)
    return Sequences(
        torch.randn(size, length, 4),
        {},
        torch.rand(size, length, ACTION),
        ~ones,
        ones,
        torch.rand(size, length, CHUNK, ACTION),
    )


def weights(module: torch.nn.Module) -> list[Tensor]:
    """All matrices of a module."""
    return [each for each in module.parameters() if each.ndim > 1]


def interleaved(ours: Any, theirs: Any, repeats: int) -> tuple[float, float]:
    """Medians, turn about, so that a busy moment hits both alike."""
    ours()
    pairs = [[seconds(each, 1) for each in (ours, theirs)] for _ in range(repeats)]
    first, second = np.median(pairs, axis=0)
    return float(first), float(second)


def flops() -> float:
    """Operations a second of a large product."""
    left = torch.rand(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: left @ left, 5)
