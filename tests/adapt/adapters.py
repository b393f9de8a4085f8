"""Small encoders and adapters that the tests of adapters share."""

from __future__ import annotations

import torch

from fewer.adapt.bottleneck_adapter import Bottlenecks
from fewer.adapt.task_adapter import PARTS, TaskAdapter
from fewer.adapt.text_encoder import TextEncoder
from fewer.pretrain.vocabulary import Vocabulary

WIDTH, LAYERS, HIDDEN = 16, 2, 4


def encoder():
    """Untrained, with weights large enough for tokens to see one another."""
    torch.manual_seed(0)
    made = TextEncoder(Vocabulary(["a b c d e f"], context=10, least=1), WIDTH, LAYERS, 2).eval().requires_grad_(False)
    for each in made.parameters():
        if each.ndim == 2:
            each.normal_(std=0.4)
    return made


def adapter(task, seed, width=WIDTH, hidden=HIDDEN, layers=LAYERS, activation="relu"):
    rng = torch.Generator().manual_seed(seed)
    shapes = [each[0].shape for each in Bottlenecks(1, width, hidden).parameters_in_order()]
    drawn = tuple(
        {part: 0.3 * torch.randn(shape, generator=rng) for part, shape in zip(PARTS, shapes, strict=True)}
        for _ in range(layers)
    )
    return TaskAdapter(task, drawn, activation)


def sources(count=3):
    return {f"task {index}": adapter(f"task {index}", index) for index in range(count)}
