"""A small bidirectional text encoder of the BERT kind, and its training by masked words.

Parameters are named, shaped and computed with as in ``transformers``' ``BertModel`` (without token types), so a state dict
goes over in either direction.  Knows tokens to features; which token stands for which word its vocabulary knows.

References
----------
Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
NAACL 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import AdamW, Cosine, parameter_groups, set_rate
from fewer.models.vit import head_width, undecayed
from fewer.pretrain.vocabulary import END, PAD, START, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from fewer.adapt.task_adapter import TaskAdapter


class SelfAttention(nn.Module):
    """Queries, keys and values of all tokens that are words."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        head_width(width, heads, "text encoder")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "texts length width"], seen: Bool[Tensor, "texts 1 1 length"]
    ) -> Float[Tensor, "texts length width"]:
        """Mix tokens."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed.transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, a skip around what was computed, and a norm behind both."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, width), nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, x: Float[Tensor, "texts length inputs"], skipped: Float[Tensor, "texts length width"]
    ) -> Float[Tensor, "texts length width"]:
        """Project, add, normalise."""
        return self.LayerNorm(self.dense(x) + skipped)


class Layer(nn.Module):
    """Attention and feed-forward part, each with a skip around it and a norm behind."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(width, heads), "output": Output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = Output(hidden, width)

    def forward(
        self, x: Float[Tensor, "texts length width"], seen: Bool[Tensor, "texts 1 1 length"]
    ) -> Float[Tensor, "texts length width"]:
        """Mix tokens, then channels."""
        x = self.attention["output"](self.attention["self"](x, seen), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class TextEncoder(nn.Module):
    """Texts to features.

    Parameters
    ----------
    words : Vocabulary
        Texts to tokens.
    width : int, default 64
        Channels of a token.
    depth, heads : int, default 4 and 4
        Layers, and heads of each.
    hidden : int, optional
        Units of the feed-forward parts; four times the width by default.
    pooled : {"first", "mean"}, default "first"
        Features of a text: those of its first token, as BERT's, or the mean over all.

    Attributes
    ----------
    source_adapters : mapping of str to TaskAdapter, optional
        Adapters of other tasks that it brings.

    Examples
    --------
    >>> encoder = TextEncoder(Vocabulary(["a red circle"], context=8, least=1), width=16, depth=1, heads=2)
    >>> encoder(encoder.tokens(["a circle", "red"])).shape
    torch.Size([2, 16])
    """

    source_adapters: Mapping[str, TaskAdapter] | None = None

    def __init__(
        self,
        words: Vocabulary,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        pooled: Literal["first", "mean"] = "first",
    ) -> None:
        super().__init__()
        if depth < 1 or pooled not in ("first", "mean"):
            raise FewerError(f"text encoder: depth is {depth} and pooled {pooled!r}; give 1 or more, and first or mean")
        self.words, self.width, self.pooled = words, width, pooled
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words.size, width, padding_idx=PAD),
                "position_embeddings": nn.Embedding(words.context, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        layers = nn.ModuleList(Layer(width, heads, hidden or 4 * width) for _ in range(depth))
        self.encoder = nn.ModuleDict({"layer": layers})
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "texts length"]:
        """Tokens of texts, filled up to the longest of these."""
        return self.words(texts)

    def hidden(self, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, "texts length width"]:
        """Features of all tokens.

        Raises
        ------
        FewerError
            If texts are longer than the context.
        """
        length = tokens.shape[1]
        if length > self.words.context:
            raise FewerError(f"text encoder: texts of {length} tokens, and it reads {self.words.context}; cut them")
        places = torch.arange(length, device=tokens.device)
        x = self.embeddings["word_embeddings"](tokens) + self.embeddings["position_embeddings"](places)
        x, seen = self.embeddings["LayerNorm"](x), (tokens != PAD)[:, None, None]
        for layer in self.encoder["layer"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = layer(x, seen)
        return x

    def forward(self, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, "texts width"]:
        """Features of texts."""
        x = self.hidden(tokens)
        if self.pooled == "first":
            return x[:, 0]
        seen = (tokens != PAD)[..., None].to(x.dtype)
        return (x * seen).sum(1) / seen.sum(1)

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of biases and norms; what was built in says itself what it wants."""
        return undecayed(
            *(each for name, each in self.named_parameters() if each.ndim < 2 and "built_in" not in name.split("."))
        )


def masked(
    tokens: Int[Tensor, "texts length"], vocabulary: int, share: float, rng: torch.Generator
) -> tuple[Int[Tensor, "texts length"], Bool[Tensor, "texts length"]]:
    """Hide a share of the words: of those, 80 % behind one sign, 10 % behind another word, and 10 % stay.

    Returns
    -------
    hidden : int tensor (texts, length)
        What is shown.
    asked : bool tensor (texts, length)
        Which words are asked for; never the padding, the start or the end.

    Examples
    --------
    >>> tokens = torch.tensor([[START, 7, 8, END, PAD]])
    >>> hidden, asked = masked(tokens, 10, 1.0, torch.Generator().manual_seed(0))
    >>> asked.tolist()
    [[False, True, True, False, False]]
    """
    asked = (torch.rand(tokens.shape, generator=rng) < share) & (tokens != PAD) & (tokens != START) & (tokens != END)
    how = torch.rand(tokens.shape, generator=rng)
    other = torch.randint(UNKNOWN + 1, vocabulary, tokens.shape, generator=rng)
    shown = torch.where(asked & (how < 0.8), UNKNOWN, tokens)
    return torch.where(asked & (how >= 0.8) & (how < 0.9), other, shown), asked


class _WordHead(nn.Module):
    """Which word stands at a token: the embedding's matrix, turned round."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(encoder.width, encoder.width), nn.LayerNorm(encoder.width)
        self.bias = nn.Parameter(torch.zeros(encoder.words.size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(nn.functional.gelu(self.dense(x))), words, self.bias)


def learn_masked_words(
    encoder: TextEncoder,
    tokens: Int[Tensor, "texts length"],
    steps: int = 1000,
    batch: int = 64,
    lr: float = 2e-3,
    share: float = 0.15,
    seed: int = 0,
) -> float:
    """Train an encoder to name words that are hidden from it; it is changed in place.

    Parameters
    ----------
    encoder : TextEncoder
        To be trained.
    tokens : int tensor (texts, length)
        Texts without labels.
    steps, batch : int, default 1000 and 64
        Steps of AdamW, and texts of each.
    lr : float, default 2e-3
        Its peak, after a tenth of the steps; from there it falls along half a cosine.
    share : float, default 0.15
        Of words that are hidden.
    seed : int, default 0
        Of batches and masks.

    Returns
    -------
    float
        The mean loss over the last tenth of the steps, in nats a word.
    """
    if min(steps, batch) < 1 or not 0 < share <= 1 or not len(tokens):
        raise FewerError(
            f"masked words: steps, batch and texts must be 1 or more and share in (0, 1]; given {steps}, {batch}, "
            f"{len(tokens)} and {share}"
        )
    rng = torch_generator(seed, "masked words")
    with own_randomness(seed, "masked words"):
        head = _WordHead(encoder)
    both = nn.ModuleList([encoder, head])
    optimiser, schedule = AdamW(lr).make(parameter_groups(both)), Cosine(warmup=0.1)
    words = encoder.embeddings["word_embeddings"].weight
    late, counted = torch.zeros(()), 0
    encoder.train()
    for step in range(steps):
        chosen = tokens[torch.randint(len(tokens), (batch,), generator=rng)]
        shown, asked = masked(chosen, encoder.words.size, share, rng)
        logits = head(encoder.hidden(shown)[asked], words)
        loss = nn.functional.cross_entropy(logits, chosen[asked], reduction="sum") / asked.sum().clamp(min=1)
        set_rate(optimiser, schedule.factor((step + 1) / (steps + 1)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step >= steps - -(-steps // 10):
            late, counted = late + loss.detach(), counted + 1
    encoder.eval()
    if not torch.isfinite(late):
        raise Diverged(f"masked words: the loss became {float(late)}; lower the learning rate")
    return float(late) / counted
