"""Retention: a sequence model without attention that reads a prompt in parallel and remembers it in one matrix a head.

Each head weighs the past by a fixed decay: what token ``n`` sees of token ``m`` is ``(q_n . k_m) decay^(n-m) v_m``,
with rotated queries and keys.  The same sum is a recurrence, ``S_n = decay S_{n-1} + k_n v_n`` and ``q_n S_n``, whose
memory does not grow with the prompt.  Head ``h`` decays by ``1 - 2^(-5-h)``.

References
----------
Yutao Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models", 2023, arXiv:2307.08621.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.incontext.networks import only_causal


@dataclass(frozen=True)
class RetNet:
    """Retentive network that reads vectors in place of words.

    Parameters
    ----------
    width : int, default 64
        Of the residual stream.
    layers : int, default 4
        Blocks.
    heads : int, default 4
        Of each retention; twice as many must divide ``width``, since channels turn in pairs.
    """

    width: int = 64
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise FewerError(f"retnet: width must be a multiple of twice the heads, and all positive; given {self}")

    def build(self, features: int, outputs: int, length: int) -> RetentiveNetwork:
        """Make the network; the length of prompts is not limited."""
        return RetentiveNetwork(self.width, self.layers, self.heads, features, outputs)


class Retention(nn.Module):
    """Multi-scale retention with a gate, and a feed-forward part, each with a norm before it and a skip around it."""

    decay: Tensor
    turn: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_retention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.head_norm = nn.GroupNorm(heads, width, affine=False)
        self.out = nn.Linear(width, width, bias=False)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        channels = width // heads
        self.register_buffer("decay", 1 - 2.0 ** (-5 - torch.arange(heads).float()), persistent=False)
        pairs = torch.linspace(0, 1, channels // 2)
        self.register_buffer("turn", 10_000.0**-pairs, persistent=False)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """All tokens at once."""
        length = x.shape[1]
        query, key, value = self._query_key_value(x, 0)
        ages = torch.arange(length, device=x.device)
        ages = (ages[:, None] - ages).to(x.dtype)
        weights = torch.where(ages >= 0, self.decay.to(x.dtype)[:, None, None] ** ages.clamp(min=0), 0)
        seen = (query @ key.mT * weights) @ value
        return self._rest(x, seen)

    def read(
        self, x: Float[Tensor, "batch length width"], state: Float[Tensor, "batch heads channels channels"], past: int
    ) -> tuple[Float[Tensor, "batch length width"], Float[Tensor, "batch heads channels channels"]]:
        """The tokens after ``past`` others, of which ``state`` is what remains; a token at a time."""
        query, key, value = self._query_key_value(x, past)
        decay, seen = self.decay.to(x.dtype)[:, None, None], []
        for at in range(x.shape[1]):
            state = decay * state + key[:, :, at, :, None] * value[:, :, at, None]
            seen.append((query[:, :, at, None] @ state).squeeze(-2))
        return self._rest(x, torch.stack(seen, 2)), state

    def _query_key_value(self, x: Tensor, past: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = x.shape
        channels = width // self.heads
        mixed = self.query_key_value(self.before_retention(x))
        query, key, value = mixed.reshape(batch, length, 3, self.heads, channels).permute(2, 0, 3, 1, 4)
        angles = torch.arange(past, past + length, device=x.device)[:, None] * self.turn.to(x.dtype)
        return self._turned(query, angles), self._turned(key, angles) * channels**-0.5, value

    @staticmethod
    def _turned(x: Tensor, angles: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        cosine, sine = angles.cos(), angles.sin()
        return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        batch, length, width = x.shape
        merged = self.head_norm(seen.transpose(1, 2).reshape(batch * length, width)).reshape(batch, length, width)
        gate = nn.functional.silu(self.gate(self.before_retention(x)))
        x = x + self.out(gate * merged)
        return x + self.mlp(self.before_mlp(x))


class RetentiveNetwork(nn.Module):
    """What :class:`RetNet` builds.

    Parameters
    ----------
    width, layers, heads : int
        As there.
    features, outputs : int
        Width of a token, and numbers given at each position.
    """

    def __init__(self, width: int, layers: int, heads: int, features: int, outputs: int) -> None:
        super().__init__()
        self.read_in = nn.Linear(features, width)
        self.blocks = nn.ModuleList([Retention(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, outputs)

    def forward(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at each position, from the tokens up to it."""
        only_causal(observed)
        x = self.read_in(tokens)
        for block in self.blocks:
            x = block(x)
        return self.read_out(self.norm(x))

    def read(
        self, tokens: Float[Tensor, "batch length features"], memory: tuple[list[Tensor], int] | None
    ) -> tuple[Float[Tensor, "batch length outputs"], tuple[list[Tensor], int]]:
        """Outputs at the next tokens, from a state of fixed size and the number of tokens read, and the new memory."""
        x = self.read_in(tokens)
        if memory is None:
            heads = self.blocks[0].heads
            channels = x.shape[-1] // heads  # pyright: ignore[reportOperatorIssue]
            memory = [x.new_zeros(len(x), heads, channels, channels) for _ in self.blocks], 0  # pyright: ignore[reportArgumentType, reportCallIssue]
        states, past = memory
        kept = []
        for block, state in zip(self.blocks, states, strict=True):
            assert isinstance(block, Retention)
            x, state = block.read(x, state, past)
            kept.append(state)
        return self.read_out(self.norm(x)), (kept, past + tokens.shape[1])
