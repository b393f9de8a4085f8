"""Language modelling: a causal model is trained to predict the next token, with slots for what its weights are made of.

The curve is the score on the held-out part against tokens predicted in training: bits per byte, negated so that higher
is better.  The model, the optimiser and the schedule are slots as well, so that a way to save parameters meets its
rivals with everything else equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.seeding import derive, torch_generator
from fewer.models.causal_lm import CausalLM, LanguageModel
from fewer.models.optimisers import AdamW, Cosine, Optimiser, Schedule, parameter_groups, set_rate
from fewer.nets.linears import Dense, Linears, Replaced, Step
from fewer.tasks.text import Text


@dataclass
class LanguageState(State):
    """Network, optimiser and the random stream of windows."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "draws")

    task: Text = field(kw_only=True)
    network: nn.Module = field(kw_only=True)
    linears: Replaced = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)
    windows: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class LanguageModelling(Loop[Text, LanguageState]):
    """Train a causal language model; the curve is its held-out bits per byte, negated, against tokens.

    Each point's extras have ``perplexity`` (per token, held out), ``loss`` (training, nats per token, the last step),
    ``parameters`` (learned, of the whole network), ``linear_parameters`` (learned, of the layers that the slot turns)
    and ``linear_fixed_bytes`` (what these store beside).

    Parameters
    ----------
    model : LanguageModel, default CausalLM()
        The network.
    linears : Linears, default Dense()
        How its linear layers are parameterised.
    optimiser : Optimiser, default AdamW(lr=3e-3, weight_decay=0)
        How parameters move.
    schedule : Schedule, default Cosine(warmup=0.1, floor=0.1)
        Learning rate over the run.
    context : int, default 64
        Tokens of a window.
    batch : int, default 24
        Windows a step, drawn from anywhere in the stream.
    clip : float, default 1
        Greatest norm of the gradient of all parameters together.
    points : int, default 10
        How many points the curve has.
    scored : int, default 65536
        Held-out tokens that are predicted for each point, the same at all of them.

    Examples
    --------
    >>> task = Text.of("toy", [b"abcdefgh" * 200])
    >>> loop = LanguageModelling(model=CausalLM(width=16, layers=1, heads=2), context=8, batch=8, points=2)
    >>> learned = loop.learn(task, budget=6400)
    >>> first, last = learned.curve
    >>> first.spent, last.spent, last.score > first.score
    (3200, 6400, True)
    """

    unit: ClassVar[str] = "tokens"
    accepts: ClassVar[type[Text]] = Text

    model: LanguageModel = field(default_factory=CausalLM)
    linears: Linears = field(default_factory=Dense)
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=3e-3, weight_decay=0.0))
    schedule: Schedule = field(default_factory=lambda: Cosine(warmup=0.1, floor=0.1))
    context: int = 64
    batch: int = 24
    clip: float = 1.0
    points: int = 10
    scored: int = 65536

    def __post_init__(self) -> None:
        if min(self.context, self.batch, self.points, self.scored) < 1 or not self.clip > 0:
            raise FewerError(
                f"context, batch, points and scored must be at least 1 and clip above 0; they are {self.context}, "
                f"{self.batch}, {self.points}, {self.scored} and {self.clip}"
            )

    def least(self, task: Text) -> int:
        """One step."""
        return self.batch * self.context

    def start(self, task: Text, budget: int, seed: int) -> LanguageState:
        """Build the network, turn its layers, and build the optimiser."""
        task.require(self.context)
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = self.model.build(task.vocabulary)
        turned = self.linears.replace(network, derive(seed, "linears"))
        network.to(where)
        return LanguageState(
            budget,
            seed,
            Ledger({"tokens": 1.0}),
            task=task,
            network=network,
            linears=turned,
            optimiser=self.optimiser.make(groups_of(network, turned.layers)),
            draws=torch_generator(seed, "windows"),
            windows=task.scored(self.context, self.scored),
        )

    def advance(self, state: LanguageState) -> Point:
        """Train up to the next point, then score."""
        stop = max(state.budget * (state.points + 1) // self.points, state.ledger.spent + 1)
        loss = self._train(state, min(stop, state.budget))
        state.exhausted = state.budget - state.ledger.spent < self.context
        nats = held_out_loss(state.network, state.windows)
        turned = state.linears
        extras = {
            "perplexity": math.exp(min(nats, 700.0)),
            "loss": loss,
            "parameters": float(sum(each.numel() for each in state.network.parameters() if each.requires_grad)),
            "linear_parameters": float(turned.parameters_after),
            "linear_fixed_bytes": float(turned.fixed_bytes),
        }
        return Point(state.ledger.spent, -nats / math.log(2) / state.task.bytes_per_token, extras)

    def result(self, state: LanguageState) -> nn.Module:
        """The trained network."""
        return state.network.eval()

    def _train(self, state: LanguageState, stop: int) -> float:
        network, optimiser, ledger = state.network, state.optimiser, state.ledger
        device = next(network.parameters()).device
        network.train()
        loss = torch.zeros(())
        while ledger.spent < stop and state.budget - ledger.spent >= self.context:
            rows = min(self.batch, (state.budget - ledger.spent) // self.context)
            windows = state.task.batch(rows, self.context, state.draws).to(device)
            began = ledger.spent / state.budget
            set_rate(optimiser, self.schedule.factor(began))
            loss = _token_losses(network, windows).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), self.clip, foreach=True)
            optimiser.step()
            ledger.add("tokens", rows * self.context)
            self.linears.after_step(Step(network, optimiser, began, ledger.spent / state.budget, state.seed))
        last = float(loss.detach())
        if not math.isfinite(last):
            raise Diverged(f"the training loss became {last} after {ledger.spent} tokens; lower the learning rate")
        return last


def held_out_loss(network: nn.Module, windows: Int[Tensor, "windows length+1"], block: int = 8192) -> float:
    """Mean loss over all predicted tokens, in nats.

    Parameters
    ----------
    network : nn.Module
        Int tokens (batch, length) to logits (batch, length, vocabulary); on any device.
    windows : int tensor (windows, length + 1)
        Each token but a window's first is predicted from those before it in the window.
    block : int, default 8192
        Tokens that go through at once, at least a window.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        parts = windows.split(max(block // windows.shape[1], 1))
        total = sum(_token_losses(network, part.to(device)).double().sum() for part in parts)
    return float(total) / (windows.shape[0] * (windows.shape[1] - 1))


def groups_of(network: nn.Module, layers: Sequence[str]) -> list[dict[str, Any]]:
    """Parameter groups that say by ``project`` whether their matrices are those of the linear layers.

    What projects gradients (GaLore) leaves embeddings and heads alone; other optimisers pass the word over.
    """
    inside = {id(parameter) for name in layers for parameter in network.get_submodule(name).parameters()}
    split = []
    for group in parameter_groups(network):
        for project in (True, False):
            members = [each for each in group["params"] if (id(each) in inside) is project and each.requires_grad]
            if members:
                split.append({**group, "params": members, "project": project})
    return split


def _token_losses(network: nn.Module, windows: Int[Tensor, "batch length+1"]) -> Tensor:
    logits = network(windows[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none")
