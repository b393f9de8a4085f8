"""What sparse plus low rank saves in training a language model, against dense weights and adapters, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure import seconds
from fewer.core.errors import need
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import AdamW
from fewer.nets.language import LanguageModelling
from fewer.nets.linears import Dense, Linears, Replaced
from fewer.nets.per_layer_updates import step_in_backward
from fewer.nets.sltrain import SLTrain
from fewer.tasks.text import python_sources

CONTEXT, BATCH = 64, 16


class Adapters(Linears):
    """Frozen weights and LoRA beside them, by the package peft."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Add the adapters; embedding, norms and head go on learning, as in the other entries."""
        peft = need("peft", extra="peers", what="this benchmark")
        done = Dense().replace(network, seed)
        names = sorted({name.rsplit(".", 1)[1] for name in done.layers})
        others = [each for name, each in network.named_parameters() if "_proj" not in name]
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=self.rank, lora_alpha=self.rank, lora_dropout=0.0, target_modules=names), network
        )
        for each in others:
            each.requires_grad_(True)
        added = sum(each.numel() for name, each in network.named_parameters() if "lora_" in name)
        return Replaced(done.layers, done.parameters_before, added, 4 * done.parameters_before)


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    title = "nets: sparse plus low rank in the training of a language model"
    return {"title": title, "rows": [*cost(quick), *quality(quick)]}


def cost(quick: bool) -> list[dict[str, Any]]:
    """Bytes and time of a training step on one model, its linear layers in three forms."""
    shape = CausalLM(64, 2, 2) if quick else CausalLM(256, 4, 4)
    rank = shape.width // 8
    ways: dict[str, Linears] = {"ours": SLTrain(rank, 0.03, float(rank)), "dense": Dense(), "peft LoRA": Adapters(rank)}
    networks: dict[str, nn.Module] = {}
    for name, linears in ways.items():
        torch.manual_seed(0)
        networks[name] = shape.build(128)
        linears.replace(networks[name], 0)
    tokens = torch.randint(128, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    optimisers = {name: AdamW(1e-3, 0.0).make(_learned(network)) for name, network in networks.items()}

    def loss(name: str) -> torch.Tensor:
        logits = networks[name](tokens[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def step(name: str) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss(name).backward()
        optimisers[name].step()

    # turn about, so that a busy moment hits all alike
    times = np.array([[seconds(lambda name=name: step(name), 1) for name in ways] for _ in range(3 if quick else 31)])
    medians = dict(zip(ways, np.median(times[1:], axis=0) * 1000, strict=True))
    model = f"a model of {shape.layers} layers of width {shape.width}, rank {rank}, density 0.03"
    learned = {name: sum(each.numel() for each in _learned(network)) for name, network in networks.items()}
    stored = {name: _bytes(network.state_dict().values()) for name, network in networks.items()}
    state = {
        name: _bytes(value for each in optimisers[name].state.values() for value in each.values()) for name in ways
    }
    kept = {name: _kept(lambda name=name: loss(name)) for name in ways}
    gradients = {name: 4 * learned[name] for name in ways}
    total = {name: stored[name] + state[name] + gradients[name] for name in ways}
    inside = stored["ours"] + state["ours"] + _largest_gradient(networks["ours"], optimisers["ours"], loss)
    rows: list[dict[str, Any]] = []
    for peer in ("dense", "peft LoRA"):
        rows += [
            _row(f"learned numbers of {model}", learned, peer, "million", 1e6),
            _row("… bytes of the model, index and frozen weights included", stored, peer, "MiB", 2**20),
            _row("… bytes of Adam's state", state, peer, "MiB", 2**20),
            _row("… bytes of model, gradients and Adam's state", total, peer, "MiB", 2**20),
            _row("… the same with steps inside the backward pass", {**total, "ours": inside}, peer, "MiB", 2**20),
            _row(f"… bytes kept for the backward pass, {BATCH} windows of {CONTEXT}", kept, peer, "MiB", 2**20),
        ]
        timed = _row("… a training step", medians, peer, "ms", 1.0)
        # the weight is made twice, and the gradient of the weight goes into two products: 8 d p r beside 6 n d p
        extra = 8 * rank / (6 * BATCH * CONTEXT)
        limit = {
            "limit": float(medians["dense"]) * (1 + extra),
            "limit_is": "the dense step and the products of rank r",
        }
        rows.append({**timed, **limit})
    return rows


def quality(quick: bool) -> list[dict[str, Any]]:
    """Perplexity after equal tokens from scratch, and what it took, at the size of the claim."""
    steps = 4 if quick else 200
    rows = []
    found = {}
    for name, linears, rate in (
        ("ours", SLTrain(16, 0.03, 16.0), OURS),
        ("dense", Dense(), DENSE),
        ("peft LoRA", Adapters(16), LORA),
    ):
        loop = LanguageModelling(linears=linears, optimiser=AdamW(rate, 0.0), batch=BATCH, points=1)
        point = loop.learn(python_sources(), steps * BATCH * CONTEXT, 0).curve.points[-1]
        found[name] = point.extras
    for peer in ("dense", "peft LoRA"):
        for what, key in (
            (f"held-out perplexity after {steps} steps from scratch (width 128, 2 layers, rank 16)", "perplexity"),
            ("… learned numbers of the whole model", "parameters"),
        ):
            rows.append(_row(what, {name: extras[key] for name, extras in found.items()}, peer, "", 1.0))
    return rows


OURS, DENSE, LORA = 0.01, 0.003, 0.01  # the best of 0.001, 0.003, 0.01, 0.02 on another seed


def _row(what: str, values: dict[str, Any], peer: str, unit: str, scale: float) -> dict[str, Any]:
    ours, theirs = float(values["ours"]) / scale, float(values[peer]) / scale
    return {"what": what, "ours": ours, "peer": theirs, "peer_name": peer, "unit": unit, "ratio": theirs / ours}


def _learned(network: nn.Module) -> list[nn.Parameter]:
    return [each for each in network.parameters() if each.requires_grad]


def _bytes(values: Any) -> int:
    return sum(each.numel() * each.element_size() for each in values if isinstance(each, torch.Tensor))


def _kept(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of different tensors that a forward pass saves, weights included."""
    seen: dict[tuple[int, int], int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[(tensor.data_ptr(), tensor.numel())] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = forward()  # alive, or its tensors' places would be used again
    del kept
    return sum(seen.values())


def _largest_gradient(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Callable[[str], torch.Tensor]) -> int:
    """Most bytes of gradients that exist at once where each parameter steps when its gradient is complete."""
    alive = [0]

    def count(_: torch.Tensor) -> None:
        alive.append(_bytes(each.grad for each in network.parameters()))

    counters = [each.register_post_accumulate_grad_hook(count) for each in _learned(network)]
    handles = step_in_backward(optimiser)
    optimiser.zero_grad(set_to_none=True)
    loss("ours").backward()
    for handle in (*counters, *handles):
        handle.remove()
    return max(alive)
