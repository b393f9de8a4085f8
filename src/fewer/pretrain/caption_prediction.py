"""What contrastive learning from captions is compared with: predicting the captions.

``bow`` says which words occur in an image's caption, in any order; ``lm`` writes the caption word by word.  Both have the
image tower of :mod:`fewer.pretrain.clip` and classify by how probable each class's prompt is.

The comparison is that of figure 2 in Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.loop import Task
from fewer.models.classifier import Architecture
from fewer.models.optimisers import AdamW, Cosine
from fewer.pretrain.clip import IMAGE_TOWERS, Captioning, parts_for
from fewer.pretrain.clip_towers import TextTransformer
from fewer.pretrain.vocabulary import PAD, UNKNOWN, Vocabulary
from fewer.tasks.paired import Pairing


@dataclass(frozen=True)
class BagOfWords:
    """Describes a network that says which words occur in an image's caption.

    Parameters
    ----------
    image : Architecture
        The image tower.
    context : int, default 32
        Tokens of the longest caption.
    """

    image: Architecture = field(default_factory=lambda: IMAGE_TOWERS["conv"])
    context: int = 32

    def build(self, task: Task, pairing: Pairing) -> Captioning:
        """Make it; draws from torch's global generator."""
        tower, vocabulary = parts_for(task, pairing, self.image, self.context)
        return _BagOfWords(tower, tower.width, vocabulary)


class _BagOfWords(Captioning):
    def __init__(self, encoder: nn.Module, features: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder, self.vocabulary = encoder, vocabulary
        self.head = nn.Linear(features, vocabulary.size)

    def forward(self, first: Tensor, second: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        said = self.head(self.encoder(first.to(self.head.weight.device)))
        return said, self.bags(second).to(said), None

    def bags(self, texts: Sequence[str]) -> Float[Tensor, "texts words"]:
        """Ones where a word occurs."""
        tokens = self.vocabulary(texts)
        found = torch.zeros(len(tokens), self.vocabulary.size).scatter_(1, tokens, 1.0)
        found[:, :UNKNOWN] = 0  # start and end are in every text
        return found

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        where = self.head.weight
        logs = [nn.functional.logsigmoid(self.head(self.encoder(part.to(where)))) for part in images.split(512)]
        return torch.cat(logs) @ self.bags(texts).to(where).T


class WordsOccurring(nn.Module):
    """Binary cross-entropy of which words occur, a sum over the vocabulary."""

    def forward(
        self, first: Float[Tensor, "rows words"], second: Float[Tensor, "rows words"], *_: Any
    ) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        return nn.functional.binary_cross_entropy_with_logits(first, second, reduction="none").sum(1)


@dataclass(frozen=True)
class CaptionWriter:
    """Describes a network that writes an image's caption word by word.

    Parameters
    ----------
    image : Architecture
        The image tower.
    text : (int, int, int), default (64, 2, 4)
        Channels, blocks and heads of the decoder.
    context : int, default 32
        Tokens of the longest caption.
    """

    image: Architecture = field(default_factory=lambda: IMAGE_TOWERS["conv"])
    text: tuple[int, int, int] = (64, 2, 4)
    context: int = 32

    def build(self, task: Task, pairing: Pairing) -> Captioning:
        """Make it; draws from torch's global generator."""
        tower, vocabulary = parts_for(task, pairing, self.image, self.context)
        width, depth, heads = self.text
        decoder = TextTransformer(vocabulary.size, width, depth, heads, self.context, vocabulary.end)
        return _CaptionWriter(tower, tower.width, decoder, vocabulary)


class _CaptionWriter(Captioning):
    def __init__(self, encoder: nn.Module, features: int, decoder: TextTransformer, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder, self.decoder, self.vocabulary = encoder, decoder, vocabulary
        self.enter = nn.Linear(features, decoder.width)
        self.head = nn.Linear(decoder.width, vocabulary.size)

    def forward(self, first: Tensor, second: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        tokens = self.vocabulary(second).to(self.head.weight.device)
        return self.written(self.encoder(first.to(self.head.weight.device)), tokens), tokens, None

    def written(
        self, features: Float[Tensor, "rows features"], tokens: Int[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length vocabulary"]:
        """Logits of each token, from the image and the tokens before it; the start is said from the image alone."""
        before = self.decoder.token_embedding(tokens[:, :-1])
        return self.head(self.decoder.hidden(torch.cat([self.enter(features)[:, None], before], dim=1)))

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        tokens = self.vocabulary(texts).to(self.head.weight.device)
        found = []
        for part in images.split(32):  # every text is read for every image
            features = self.encoder(part.to(self.head.weight.device))
            said = self.written(features.repeat_interleave(len(tokens), 0), tokens.repeat(len(part), 1))
            found.append(-_surprise(said, tokens.repeat(len(part), 1)).view(len(part), len(tokens)))
        return torch.cat(found)


def _surprise(said: Tensor, tokens: Tensor) -> Tensor:
    """Minus the log-likelihood of each text, without what it is filled up with."""
    return nn.functional.cross_entropy(said.transpose(1, 2), tokens, ignore_index=PAD, reduction="none").sum(1)


class WordByWord(nn.Module):
    """Minus the log-likelihood of each caption."""

    def forward(
        self, first: Float[Tensor, "rows length words"], second: Int[Tensor, "rows length"], *_: Any
    ) -> Float[Tensor, " rows"]:
        """Loss of each row."""
        return _surprise(first, second)


def bow(lr: float = 3e-3) -> dict[str, Any]:
    """Fill a contrastive loop with the prediction of which words occur."""
    return {
        "towers": BagOfWords(),
        "objective": WordsOccurring(),
        "optimiser": AdamW(lr=lr, weight_decay=0.05),
        "schedule": Cosine(warmup=0.1),
    }


def lm(lr: float = 3e-3) -> dict[str, Any]:
    """Fill a contrastive loop with the writing of captions."""
    return {
        "towers": CaptionWriter(),
        "objective": WordByWord(),
        "optimiser": AdamW(lr=lr, weight_decay=0.05),
        "schedule": Cosine(warmup=0.1),
    }
