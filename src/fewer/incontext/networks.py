"""Sequence models that read a prompt: a causal transformer of the GPT-2 kind, and recurrent networks beside it.

An architecture is a frozen description; ``build`` makes the network for tokens of some width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        batch, length, width = x.shape
        mixed = self.query_key_value(self.before_attention(x))
        query, key, value = mixed.reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


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
        self.apply(_initialise)
        nn.init.normal_(self.positions, std=0.02)
        for block in self.blocks:  # as GPT-2: what is added to the stream shrinks with the number of additions
            assert isinstance(block, Block)
            for layer in (block.out, block.mlp[2]):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * layers))  # pyright: ignore[reportArgumentType]

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        _only_causal(observed)
        if tokens.shape[1] > len(self.positions):
            raise FewerError(
                f"a prompt of {tokens.shape[1]} tokens is longer than the {len(self.positions)} this network was "
                "built for; shorten the prompt or train a longer network"
            )
        x = self.read_in(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.read_out(self.norm(x))


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
        return Recurrent(self.width, self.layers, features, outputs)


class Recurrent(nn.Module):
    """What :class:`LSTM` builds."""

    def __init__(self, width: int, layers: int, features: int, outputs: int) -> None:
        super().__init__()
        self.memory = nn.LSTM(features, width, layers, batch_first=True)
        self.read_out = nn.Linear(width, outputs)

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        _only_causal(observed)
        return self.read_out(self.memory(tokens)[0])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _only_causal(observed: int | None) -> None:
    if observed is not None:
        raise FewerError("this network reads from left to right; queries that do not see one another need lc-pfn's")
