"""A causal language model of the LLaMA kind: RMS norms, rotary positions, gated feed-forward parts.

Parameters are named, shaped and computed with as in ``transformers``' ``LlamaForCausalLM`` (with its own options also
``MistralForCausalLM`` and ``Qwen2ForCausalLM``), so a state dict goes over in either direction.  Knows tokens to logits, also
of rows that are filled up on the left, and nothing of training or generation.

References
----------
Hugo Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023, arXiv:2302.13971.
Joshua Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023,
arXiv:2305.13245.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.branches import Branches


class LanguageModel(Protocol):
    """Describes a causal language model; two equal descriptions build equal shapes."""

    def build(self, vocabulary: int) -> nn.Module:
        """Make a freshly initialised network; draws from torch's global generator.

        It maps int tokens (batch, length) to float logits (batch, length, vocabulary), each position
        knowing only the tokens up to it.
        """
        ...


@dataclass(frozen=True)
class StretchedRotation:
    """Rotary wavelengths stretched for longer texts, as Llama 3.1's.

    Parameters
    ----------
    factor : float
        How much long wavelengths are stretched.
    low, high : float
        Wavelengths beyond ``original / low`` are stretched in full, those under ``original / high`` not at all, those between
        in part.
    original : float
        Longest text before the stretching, in tokens.
    """

    factor: float
    low: float
    high: float
    original: float

    def stretched(self, frequencies: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Frequencies after the stretching."""
        turns = self.original * frequencies / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class CausalLM:
    """Pre-norm decoder with rotary positions and SwiGLU, as LLaMA.

    Embedding and head start with a standard deviation of 0.02, as LLaMA's; layers between them as torch's do, by their
    width, which gives about the same at LLaMA's sizes and learns faster at small ones.

    Parameters
    ----------
    width : int, default 128
        Of the residual stream.
    layers : int, default 2
        Blocks of attention and feed-forward part.
    heads : int, default 4
        Of each attention; ``width / heads`` must be a whole, even number (rotation turns pairs), unless ``head_width`` is given.
    hidden : int, optional
        Units of the feed-forward part; by default 8/3 of the width, rounded up to a multiple of 16, as LLaMA's.
    tied : bool, default False
        The head uses the embedding's matrix.
    theta : float, default 10000
        Base of the rotary wavelengths.
    epsilon : float, default 1e-6
        Added to the mean square in the norms.
    kv_heads : int, optional
        Heads of keys and values, each for a group of query heads; as many as heads by default.
    head_width : int, optional
        Width of one head; ``width / heads`` by default.
    biases : bool, default False
        Queries, keys and values have biases, as Qwen2's.
    stretched : StretchedRotation, optional
        Changes the rotary wavelengths.

    Raises
    ------
    FewerError
        For sizes below 1, heads that do not divide the width into even parts, or heads of keys that do not divide the heads.

    Examples
    --------
    >>> network = CausalLM(width=32, layers=1, heads=2).build(vocabulary=256)
    >>> network(torch.zeros(3, 10, dtype=torch.int64)).shape
    torch.Size([3, 10, 256])
    >>> CausalLM(width=512, layers=8, heads=8).units  # LLaMA 60M
    1376
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    hidden: int | None = None
    tied: bool = False
    theta: float = 10_000.0
    epsilon: float = 1e-6
    kv_heads: int | None = None
    head_width: int | None = None
    biases: bool = False
    stretched: StretchedRotation | None = None

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.heads, self.units, self.groups, self.of_head)
        if min(sizes) < 1 or (self.head_width is None and self.width % (2 * self.heads)):
            raise FewerError(
                f"causal-lm: sizes must be at least 1 and width a multiple of twice the heads; given width={self.width}, "
                f"layers={self.layers}, heads={self.heads}, hidden={self.hidden}, kv_heads={self.kv_heads}, "
                f"head_width={self.head_width}"
            )
        if self.heads % self.groups or self.of_head % 2:
            raise FewerError(
                f"causal-lm: heads must be a multiple of kv_heads and head_width even; given heads={self.heads}, "
                f"kv_heads={self.kv_heads}, head_width={self.head_width}"
            )

    @property
    def units(self) -> int:
        """Units of the feed-forward part."""
        return 16 * math.ceil(self.width * 8 / 3 / 16) if self.hidden is None else self.hidden

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def of_head(self) -> int:
        """Width of one head."""
        return self.width // max(self.heads, 1) if self.head_width is None else self.head_width

    def build(self, vocabulary: int) -> CausalDecoder:
        """Make the network for tokens 0 to ``vocabulary - 1``."""
        if vocabulary < 1:
            raise FewerError(f"causal-lm: a vocabulary of {vocabulary} has no token; give at least 1")
        return CausalDecoder(self, vocabulary)


class Attention(nn.Module):
    """Causal self-attention with rotated queries and keys; a head of keys and values may serve several of queries."""

    def __init__(self, shape: CausalLM) -> None:
        super().__init__()
        self.heads, self.groups, self.of_head = shape.heads, shape.groups, shape.of_head
        self.q_proj = nn.Linear(shape.width, self.heads * self.of_head, bias=shape.biases)
        self.k_proj = nn.Linear(shape.width, self.groups * self.of_head, bias=shape.biases)
        self.v_proj = nn.Linear(shape.width, self.groups * self.of_head, bias=shape.biases)
        self.o_proj = nn.Linear(self.heads * self.of_head, shape.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        rotation: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "batch 1 length length"] | Branches | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """Mix each token with those before it, with those that the mask lets it see, or with those of its own branch."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.of_head)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotated(query, *rotation), rotated(key, *rotation)
        if isinstance(mask, Branches):
            seen = mask(query, key, value)
        else:
            seen = nn.functional.scaled_dot_product_attention(
                query, key, value, mask, is_causal=mask is None, enable_gqa=self.groups != self.heads
            )
        return self.o_proj(seen.transpose(1, 2).flatten(-2))


class GatedMLP(nn.Module):
    """SwiGLU: one projection passes where the other, through SiLU, lets it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform each token by itself."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward part, each with a norm before it and a skip around it."""

    def __init__(self, shape: CausalLM) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.epsilon)
        self.mlp = GatedMLP(shape.width, shape.units)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        rotation: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "batch 1 length length"] | Branches | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """Mix tokens, then channels."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Tokens to the last hidden states."""

    def __init__(self, shape: CausalLM, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, shape.width)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.head_width, self.theta, self.stretched = shape.of_head, shape.theta, shape.stretched

    def forward(
        self, tokens: Int[Tensor, "batch length"] | Branches, padding: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states after the last norm; the first ``padding`` tokens of each row are seen by none of the others.

        Of branches, those of all their tokens in their line, as a batch of one.
        """
        if isinstance(tokens, Branches):
            x = self.embed_tokens(tokens.tokens[None])
            return self._read(x, self.rotation(tokens.places, x), tokens)
        x = self.embed_tokens(tokens)
        length, mask = tokens.shape[1], None
        if padding is None:
            rotation = self._rotation(length, x)
        else:
            columns = torch.arange(length, device=tokens.device)
            places = (columns - padding[:, None]).clamp(min=0)
            rotation = self.rotation(places[:, None], x)
            # what fills a row up sees itself alone: a row of the mask must not be empty
            mask = (columns >= padding[:, None])[:, None, None] & (columns <= columns[:, None])
            mask = mask | torch.eye(length, dtype=torch.bool, device=tokens.device)
        return self._read(x, rotation, mask)

    def _read(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | Branches | None) -> Tensor:
        for block in self.layers:
            x = block(x, rotation, mask)
        return self.norm(x)

    def _rotation(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position's angles, (length, head width) each."""
        return self.rotation(torch.arange(length, device=like.device), like)

    def rotation(self, places: Int[Tensor, "*places"], like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles of some positions, (*places, head width) each."""
        # at least single precision whatever the weights are: position times frequency needs its digits
        exact = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        frequencies = self.theta ** (-torch.arange(0, self.head_width, 2, **exact) / self.head_width)
        if self.stretched is not None:
            frequencies = self.stretched.stretched(frequencies)
        angles = (places[..., None].to(**exact) * frequencies).repeat(*(1,) * places.ndim, 2)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class CausalDecoder(nn.Module):
    """What :class:`CausalLM` builds: a decoder and a linear head.

    Parameters
    ----------
    shape : CausalLM
        Its description.
    vocabulary : int
        How many tokens there are.
    """

    def __init__(self, shape: CausalLM, vocabulary: int) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape, vocabulary)
        self.lm_head = nn.Linear(shape.width, vocabulary, bias=False)
        for module in (self.model.embed_tokens, self.lm_head):
            nn.init.normal_(module.weight, std=0.02)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self, tokens: Int[Tensor, "batch length"], padding: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits of the next token at every position; rows may be filled up on the left by ``padding`` tokens each."""
        return self.lm_head(self.model(tokens, padding))


def rotated(
    x: Float[Tensor, "*batch length width"],
    cosines: Float[Tensor, "*#places length width"],
    sines: Float[Tensor, "*#places length width"],
) -> Float[Tensor, "*batch length width"]:
    """Turn the pairs (i, i + width/2) of each position by that position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines
