"""The two transformers of CLIP: patches to a class token, and tokens to the feature at the end of the text.

Pre-norm blocks with QuickGELU ``x sigmoid(1.702 x)``; the image tower has one more norm before its blocks; the text tower
lets a token see only those up to it.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.vit import head_width, undecayed


class QuickGELU(nn.Module):
    """``x sigmoid(1.702 x)``."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Each number."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention of all tokens, or of each to those up to it."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        head_width(width, heads, "clip")
        self.heads, self.causal = heads, causal
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        """Mix tokens."""
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward part, each with a norm before it and a skip around it."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads, causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        """Mix tokens, then channels."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](self.mlp["gelu"](self.mlp["c_fc"](self.ln_2(x))))


def blocks(width: int, depth: int, heads: int, causal: bool) -> nn.ModuleList:
    """Blocks with CLIP's start: deviations that fall with width and depth."""
    if depth < 1:
        raise FewerError(f"clip: a tower of {depth} blocks; give 1 or more")
    made = nn.ModuleList(Block(width, heads, causal) for _ in range(depth))
    for name, weight in made.named_parameters():
        if name.endswith("bias"):
            if "ln_" not in name:
                nn.init.zeros_(weight)
        elif "in_proj" in name:
            nn.init.normal_(weight, std=width**-0.5)
        elif "c_fc" in name:
            nn.init.normal_(weight, std=(2 * width) ** -0.5)
        elif "ln_" not in name:
            nn.init.normal_(weight, std=width**-0.5 * (2 * depth) ** -0.5)
    return made


class ImageTransformer(nn.Module):
    """Images to the features of a class token; by default the tower of CLIP ViT-B/32.

    Parameters
    ----------
    size, patch : int, default 224 and 32
        Pixels a side of an image, and of a patch.
    width, depth, heads : int, default 768, 12 and 12
        Channels of a token, blocks, heads of each.
    channels : int, default 3
        Of an image.

    Examples
    --------
    >>> ImageTransformer(24, 8, width=16, depth=1, heads=2)(torch.zeros(3, 3, 24, 24)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self, size: int = 224, patch: int = 32, width: int = 768, depth: int = 12, heads: int = 12, channels: int = 3
    ) -> None:
        super().__init__()
        if patch < 1 or size < patch or size % patch:
            raise FewerError(f"clip: images of {size} pixels a side cannot be cut into patches of {patch}")
        self.size, self.width = size, width
        self.conv1 = nn.Conv2d(channels, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.blocks = nn.LayerNorm(width), blocks(width, depth, heads, causal=False)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, images: Float[Tensor, "rows channels size size"]) -> Float[Tensor, "rows width"]:
        """Features of the class token after the last norm."""
        if tuple(images.shape[1:]) != (self.conv1.in_channels, self.size, self.size):
            raise FewerError(
                f"clip: this tower sees images of {self.conv1.in_channels} channels and {self.size} pixels a side; these "
                f"rows are {tuple(images.shape[1:])}"
            )
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(images), 1, -1)
        x = self.ln_pre(torch.cat([token, patches], dim=1) + self.positional_embedding)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0])

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of gains, biases, positions and the class token."""
        return undecayed(*(each for each in self.parameters() if each.ndim < 2), self.positional_embedding)


class TextTransformer(nn.Module):
    """Tokens to the features at the end of the text; by default the tower of CLIP ViT-B/32.

    Parameters
    ----------
    vocabulary : int, default 49408
        How many different tokens there are.
    width, depth, heads : int, default 512, 12 and 8
        Channels of a token, blocks, heads of each.
    context : int, default 77
        Tokens of the longest text.
    end : int, default 49407
        The token at which a text ends: the first one counts.

    Examples
    --------
    What comes after the end does not matter.

    >>> tower = TextTransformer(10, width=8, depth=1, heads=2, context=6, end=2)
    >>> features = tower(torch.tensor([[1, 5, 2, 0], [1, 5, 2, 7]]))
    >>> features.shape, bool(torch.allclose(features[0], features[1]))
    (torch.Size([2, 8]), True)
    """

    def __init__(
        self,
        vocabulary: int = 49408,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        context: int = 77,
        end: int = 49407,
    ) -> None:
        super().__init__()
        if not 0 <= end < vocabulary or context < 1:
            raise FewerError(
                f"clip: the end token {end} must be one of {vocabulary}, and the context 1 or more: {context}"
            )
        self.width, self.context, self.end = width, context, end
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.blocks, self.ln_final = blocks(width, depth, heads, causal=True), nn.LayerNorm(width)

    def forward(self, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, "texts width"]:
        """Features at the end of each text."""
        ends = tokens == self.end
        if not ends.any(1).all():
            raise FewerError(f"clip: a text has no end token ({self.end}); put one behind its last word")
        return self.from_embeddings(self.token_embedding(tokens), ends.int().argmax(1))

    def from_embeddings(
        self, embeddings: Float[Tensor, "texts length width"], ends: Int[Tensor, " texts"]
    ) -> Float[Tensor, "texts width"]:
        """Features at the given places of texts whose tokens are embedded already: where learned prompts enter."""
        return self.hidden(embeddings)[torch.arange(len(ends), device=ends.device), ends]

    def hidden(self, embeddings: Float[Tensor, "texts length width"]) -> Float[Tensor, "texts length width"]:
        """Features of all places after the last norm."""
        length = embeddings.shape[1]
        if length > self.context:
            raise FewerError(
                f"clip: a text of {length} tokens, and this tower reads {self.context}; shorten the prompt"
            )
        x = embeddings + self.positional_embedding[:length]
        for block in self.blocks:
            x = block(x)
        return self.ln_final(x)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of gains, biases and positions."""
        return undecayed(*(each for each in self.parameters() if each.ndim < 2), self.positional_embedding)
