"""What a training step costs by learned queries, by LoRA and by full fine-tuning, on one frozen vision transformer.

One thread, a ViT of transformers of 6 layers of 192 channels at 112 by 112 pixels; turn about.  The limit of the time is the
forward pass of the frozen network alone, that of the bytes its keys and values.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure import seconds
from fewer.adapt.feature_selection import rare_classes
from fewer.adapt.first_token import FirstToken
from fewer.adapt.meter import bytes_for_backward, trainable
from fewer.adapt.visual_prompts import VisualPromptTuning
from fewer.adapt.vqt import QueryReadout
from fewer.core.errors import need
from fewer.models.optimisers import AdamW

SIDE, PATCH, WIDTH, DEPTH, HEADS, BATCH, CLASSES, TOKENS = 112, 8, 192, 6, 3, 16, 10, 4


def run(quick: bool = False) -> dict[str, Any]:
    """Measure one step of each."""
    torch.set_num_threads(1)
    side, depth, batch, repeats = (32, 2, 4, 2) if quick else (SIDE, DEPTH, BATCH, 9)
    base = _vit(side, depth)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 3, side, side, generator=rng), torch.randint(CLASSES, (batch,), generator=rng)
    bodies = {
        "ours": QueryReadout(copy.deepcopy(base), TOKENS),
        "peft LoRA": _lora(copy.deepcopy(base)),
        "deep prompts": VisualPromptTuning(TOKENS).attach(copy.deepcopy(base)),
        "full fine-tuning": copy.deepcopy(base).requires_grad_(True),
    }
    models: dict[str, nn.Module] = {}
    for name, body in bodies.items():
        width = body.width if isinstance(body, QueryReadout) else WIDTH
        models[name] = nn.Sequential(body, rare_classes(width, CLASSES))
    optimisers = {
        name: AdamW(1e-3).make([each for each in model.parameters() if each.requires_grad])
        for name, model in models.items()
    }

    def loss(name: str) -> torch.Tensor:
        return nn.functional.cross_entropy(models[name](x), y)

    def step(name: str) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss(name).backward()
        optimisers[name].step()

    for name in models:
        step(name)
    # turn about, so that a busy moment hits all alike
    times = [[seconds(lambda name=name: step(name), 1) * 1000 for name in models] for _ in range(repeats)]
    taken = dict(zip(models, np.median(times, axis=0).tolist(), strict=True))
    with torch.inference_mode():
        forward = seconds(lambda: base(x), repeats) * 1000
    kept = {name: bytes_for_backward(lambda name=name: loss(name), models[name].parameters()) for name in models}
    learned = {name: trainable(model) for name, model in models.items()}
    keys_values = 4 * depth * batch * ((side // PATCH) ** 2 + 1) * 2 * WIDTH
    shape = f"a ViT of {depth} layers of {WIDTH} channels, {batch} images of {side} by {side}, {TOKENS} queries a layer"
    rows: list[dict[str, Any]] = []
    for peer in ("peft LoRA", "deep prompts", "full fine-tuning"):
        rows += [
            {
                **_row(f"bytes kept for going backwards, {shape}", kept, peer, "MiB", 2**20),
                "limit": keys_values / 2**20,
                "limit_is": "keys and values of the frozen network",
            },
            {
                **_row("… a training step", taken, peer, "ms", 1.0),
                "limit": forward,
                "limit_is": "the forward pass of the frozen network",
            },
            _row("… learned numbers, head included", learned, peer, "thousand", 1e3),
        ]
    return {"title": "adapt: visual query tuning", "rows": rows}


def _row(what: str, values: dict[str, Any], peer: str, unit: str, scale: float) -> dict[str, Any]:
    ours, theirs = float(values["ours"]) / scale, float(values[peer]) / scale
    return {"what": what, "ours": ours, "peer": theirs, "peer_name": peer, "unit": unit, "ratio": theirs / ours}


def _vit(side: int, depth: int) -> FirstToken:
    transformers = need("transformers", extra="language", what="this benchmark")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=side,
        patch_size=PATCH,
    )
    model = FirstToken(transformers.ViTModel(config, add_pooling_layer=False))
    return model.eval().requires_grad_(False)


def _lora(base: nn.Module) -> nn.Module:
    """Of rank 4 in all linear layers of the blocks."""
    peft = need("peft", extra="peers", what="this benchmark")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
    return peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=names), base
    )
