"""Sequence models that read a prompt: a causal transformer of the GPT-2 kind, and recurrent networks beside it.

An architecture is a frozen description; ``build`` makes the network for tokens of some width.  A network that has
``read`` goes on where it stopped, so that a growing prompt is not read anew for each token.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError


@dataclass(frozen=True)
class Transformer:
    """Pre-norm causal transformer with learned positions, as GPT-2, that reads vectors in place of words.

    Parameters
    ----------
    width : int, default 64
        Of the residual stream.
    layers : int, default 4
        Blocks.
    heads : int, default 4
        Of each attention; must divide ``width``.
    """

    width: int = 64
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise FewerError(f"transformer: width must be a multiple of heads, and all positive; given {self}")

    def build(self, features: int, outputs: int, length: int) -> CausalTransformer:
        """Make the network for prompts of up to ``length`` tokens."""
        return CausalTransformer(self.width, self.layers, self.heads, features, outputs, length)


KeysAndValues = tuple[Float[Tensor, "batch heads length channels"], Float[Tensor, "batch heads length channels"]]
"""What attention remembers of the tokens that were read."""


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each with a norm before it and a skip around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """Mix tokens, then channels."""
        return self.read(x, None)[0]

    def read(
        self, x: Float[Tensor, "batch length width"], memory: KeysAndValues | None
    ) -> tuple[Float[Tensor, "batch length width"], KeysAndValues]:
        """The same after tokens whose keys and values are in ``memory``; also gives what to remember."""
        batch, length, width = x.shape
        mixed = self.query_key_value(self.before_attention(x))
        query, key, value = mixed.reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attend = nn.functional.scaled_dot_product_attention
        if memory is None:
            seen = attend(query, key, value, is_causal=True)
        else:
            past = memory[0].shape[2]
            key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
            mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
            seen = attend(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x)), (key, value)


class CausalTransformer(nn.Module):
    """What :class:`Transformer` builds.

    Parameters
    ----------
    width, layers, heads : int
        As there.
    features, outputs : int
        Width of a token, and numbers given at each position.
    length : int
        Most tokens a prompt may have.
    """

    def __init__(self, width: int, layers: int, heads: int, features: int, outputs: int, length: int) -> None:
        super().__init__()
        self.read_in = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, outputs)
        nn.init.normal_(self.positions, std=0.02)
        # weights are torch's, whose spread follows the width: GPT-2's 0.02 fits widths of 768, and narrow networks learn
        # slowly from it; as there, what is added to the stream shrinks with the number of additions
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.out, block.mlp[2]):
                layer.weight.data.div_(math.sqrt(2 * layers))  # pyright: ignore[reportCallIssue]

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        only_causal(observed)
        return self.read(tokens, None)[0]

    def read(
        self, tokens: Float[Tensor, "batch length features"], memory: list[KeysAndValues] | None
    ) -> tuple[Float[Tensor, "batch length outputs"], list[KeysAndValues]]:
        """Outputs at the next tokens of prompts whose earlier ones are in ``memory`` (None at the start), and a new memory."""
        past = 0 if memory is None else memory[0][0].shape[2]
        until = past + tokens.shape[1]
        if until > len(self.positions):
            raise FewerError(
                f"a prompt of {until} tokens is longer than the {len(self.positions)} this network was "
                "built for; shorten the prompt or train a longer network"
            )
        x = self.read_in(tokens) + self.positions[past:until]
        remembered = []
        for at, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x, kept = block.read(x, None if memory is None else memory[at])
            remembered.append(kept)
        return self.read_out(self.norm(x)), remembered


@dataclass(frozen=True)
class LSTM:
    """Long short-term memory: the same reading without attention.

    Parameters
    ----------
    width : int, default 64
        Of the hidden state.
    layers : int, default 2
        Stacked.
    """

    width: int = 64
    layers: int = 2

    def __post_init__(self) -> None:
        if min(self.width, self.layers) < 1:
            raise FewerError(f"lstm: width and layers must be at least 1; given {self}")

    def build(self, features: int, outputs: int, length: int) -> Recurrent:
        """Make the network; the length of prompts is not limited."""
        return Recurrent(nn.LSTM(features, self.width, self.layers, batch_first=True), outputs)


@dataclass(frozen=True)
class GRU:
    """Gated recurrent units: a smaller relative of the LSTM.

    Parameters
    ----------
    width : int, default 64
        Of the hidden state.
    layers : int, default 2
        Stacked.
    """

    width: int = 64
    layers: int = 2

    def __post_init__(self) -> None:
        if min(self.width, self.layers) < 1:
            raise FewerError(f"gru: width and layers must be at least 1; given {self}")

    def build(self, features: int, outputs: int, length: int) -> Recurrent:
        """Make the network; the length of prompts is not limited."""
        return Recurrent(nn.GRU(features, self.width, self.layers, batch_first=True), outputs)


class Recurrent(nn.Module):
    """What :class:`LSTM` and :class:`GRU` build: torch's own recurrence, and a linear read-out.

    Parameters
    ----------
    memory : nn.LSTM or nn.GRU
        With the batch first.
    outputs : int
        Numbers given at each position.
    """

    def __init__(self, memory: nn.LSTM | nn.GRU, outputs: int) -> None:
        super().__init__()
        self.memory = memory
        self.read_out = nn.Linear(memory.hidden_size, outputs)

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        only_causal(observed)
        return self.read(tokens, None)[0]

    def read(
        self, tokens: Float[Tensor, "batch length features"], memory: Any | None
    ) -> tuple[Float[Tensor, "batch length outputs"], Any]:
        """Outputs at the next tokens of prompts whose earlier ones left the hidden state ``memory``, and the new one."""
        states, memory = self.memory(tokens, memory)
        return self.read_out(states), memory


@dataclass(frozen=True)
class Around:
    """Your own backbone, between a linear reading and a linear answer.

    Parameters
    ----------
    backbone : nn.Module
        Maps (batch, length, width) to the same shape, and must not look ahead.  Each build copies it with the weights
        it has.
    width : int
        Of what it maps.
    """

    backbone: nn.Module
    width: int

    def build(self, features: int, outputs: int, length: int) -> ReadInAndOut:
        """Put a copy of the backbone between two linear maps."""
        return ReadInAndOut(
            nn.Linear(features, self.width), copy.deepcopy(self.backbone), nn.Linear(self.width, outputs)
        )


class ReadInAndOut(nn.Module):
    """A backbone between a map of tokens into its width and a map out of it.

    Parameters
    ----------
    read_in, backbone, read_out : nn.Module
        Applied in this order.
    """

    def __init__(self, read_in: nn.Module, backbone: nn.Module, read_out: nn.Module) -> None:
        super().__init__()
        self.read_in, self.backbone, self.read_out = read_in, backbone, read_out

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position."""
        only_causal(observed)
        x = self.read_in(tokens)
        mixed = self.backbone(x)
        if not isinstance(mixed, Tensor) or mixed.shape != x.shape:
            given = tuple(mixed.shape) if isinstance(mixed, Tensor) else type(mixed).__name__
            raise FewerError(
                f"a backbone maps (batch, length, width) to the same shape; yours made {given} of {tuple(x.shape)}"
            )
        return self.read_out(mixed)


def only_causal(observed: int | None) -> None:
    """Refuse queries that should not see one another, for a network that reads from left to right."""
    if observed is not None:
        raise FewerError("this network reads from left to right; queries that do not see one another need lc-pfn's")
