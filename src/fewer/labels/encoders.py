"""Encoders that are fine-tuned: a matrix on feature vectors, or a transformer on texts.

An encoder is a module that maps rows of a pool, as an array, to one vector each.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.labels.learners import flat, leave_dropout_on

BLOCK = 256
"""Rows that are encoded at a time."""


class LinearEncoder(nn.Module):
    """A square matrix on feature vectors, the identity before training.

    Parameters
    ----------
    width : int
        Features of a row.
    dropout : float
        Share of the features dropped before the matrix while training.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[Tensor, "rows width"]:
        """Embed rows of numbers."""
        rows = torch.from_numpy(np.ascontiguousarray(flat(x), dtype=np.float32)).to(self.weight.device)
        return self.dropout(rows) @ self.weight.T


class SentenceEncoder(nn.Module):
    """A transformer from a local folder; a text's embedding is the mean over its tokens.

    Parameters
    ----------
    path : str
        A folder with a model and a tokenizer as ``transformers`` saves them, weights as safetensors.
    length : int
        Tokens of a text that are read.
    """

    def __init__(self, path: str, length: int) -> None:
        super().__init__()
        self.tokenizer, pretrained = _pretrained(path)
        self.transformer = copy.deepcopy(pretrained)
        self.length = length

    def __deepcopy__(self, memo: dict[int, Any]) -> SentenceEncoder:
        twin = copy.copy(self)  # the tokenizer never changes and is dear to copy
        twin._modules = {"transformer": copy.deepcopy(self.transformer, memo)}
        return twin

    def forward(self, x: Shaped[np.ndarray, " rows"]) -> Float[Tensor, "rows width"]:
        """Embed texts."""
        where = next(self.transformer.parameters()).device
        tokens = self.tokenizer(list(x), padding=True, truncation=True, max_length=self.length, return_tensors="pt").to(
            where
        )
        states = self.transformer(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None].to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@functools.lru_cache(maxsize=2)
def _pretrained(path: str) -> tuple[Any, nn.Module]:
    transformers = need("transformers", extra="language", what="setfit(path=...)")
    if not (Path(path) / "config.json").is_file():
        raise FewerError(
            f"setfit: {path!r} is not a folder with a transformer in it; give one that holds a config.json"
        )
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise FewerError(f"setfit: {path!r} cannot be read as a transformer ({_first_line(error)})") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return tokenizer, model.float()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def encode(
    encoder: nn.Module, x: Shaped[np.ndarray, "rows ..."], dropout: bool = False
) -> Float[np.ndarray, "rows width"]:
    """Embed rows in blocks, texts in the order of their lengths (little of a block is then padding)."""
    encoder.eval()
    if dropout:
        leave_dropout_on(encoder)
    order = np.argsort([len(text) for text in x], kind="stable") if x.dtype == object else np.arange(len(x))
    with torch.inference_mode():
        parts = [encoder(x[order[i : i + BLOCK]]).cpu().numpy() for i in range(0, max(len(x), 1), BLOCK)]
    made = np.empty((len(x), parts[0].shape[1]), dtype=np.float32)
    made[order] = np.concatenate(parts)
    return made
