"""Encoders of ``transformers`` as models of this room: texts or images to the features of the first token.

BERT, RoBERTa, DistilBERT, ViT and their like, from a folder on this machine; nothing is fetched, unpickled or run from it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.tasks.files import first_line


class FirstToken(nn.Module):
    """An encoder of ``transformers`` that gives the features of its first token.

    Parameters
    ----------
    model : nn.Module
        Without a head, such as ``BertModel`` or ``ViTModel``: called with ``input_ids`` and ``attention_mask``, or with
        ``pixel_values``, it gives a ``last_hidden_state``.
    tokenizer : optional
        Of ``transformers``, where texts shall be read.
    length : int, default 128
        Tokens of a text that are read.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20)
    >>> encoder = FirstToken(BertModel(BertConfig(**sizes)))
    >>> encoder(encoder.model.dummy_inputs["input_ids"] % 20).shape[1]
    16
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, length: int = 128) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "hidden_size"):
            raise FewerError(
                f"first token: a {type(model).__name__} is no encoder of transformers; give one such as BertModel or ViTModel"
            )
        self.model, self.tokenizer, self.width = model, tokenizer, int(config.hidden_size)
        longest = getattr(config, "max_position_embeddings", None) or length
        # RoBERTa counts its positions from behind the padding's
        self.length = min(length, longest - (2 if "roberta" in str(getattr(config, "model_type", "")) else 0))

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens of texts, filled up to the longest of these."""
        if self.tokenizer is None:
            raise FewerError("first token: texts need the model's tokenizer; give it, or read both from a folder")
        made = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return {name: made[name] for name in ("input_ids", "attention_mask")}

    def forward(self, x: dict[str, Tensor] | Tensor) -> Float[Tensor, "rows width"]:
        """Features of texts by their tokens, or of images."""
        if isinstance(x, Tensor):
            x = {"pixel_values" if x.is_floating_point() else "input_ids": x}
        return self.model(**x).last_hidden_state[:, 0]


@dataclass(frozen=True)
class SavedEncoder:
    """An encoder of ``transformers`` from a folder, for the slot ``base`` of adaptation: it reads texts or images.

    Parameters
    ----------
    path : path
        With ``config.json``, ``model.safetensors`` and, for texts, a tokenizer, as ``save_pretrained`` writes them.
    length : int, default 128
        Tokens of a text that are read.
    """

    reads_texts: ClassVar[bool] = True

    path: str | os.PathLike[str]
    length: int = 128

    def build(self, shape: tuple[int, ...] = (), seed: int = 0) -> FirstToken:
        """Read it.

        Raises
        ------
        FewerError
            If there is no such folder, or it cannot be read.
        MissingPackage
            If transformers is not installed.
        """
        transformers = need("transformers", extra="language", what="an encoder from a folder")
        folder = Path(self.path).expanduser()
        if not (folder / "config.json").is_file():
            raise FewerError(f"saved encoder: no config.json in {folder}; give a folder that save_pretrained wrote")
        try:
            model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            reads = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if reads else None
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise FewerError(f"saved encoder: cannot read {folder} ({first_line(error)})") from error
        return FirstToken(model.float(), tokenizer, self.length).eval()


def encoder_of(model: nn.Module | str | os.PathLike[str]) -> nn.Module:
    """A model of this room: what says its width as it is, one of ``transformers`` or the folder of one by its first token."""
    if isinstance(model, str | os.PathLike):
        return SavedEncoder(model).build()
    if hasattr(model, "width") or hasattr(model, "embed_dim"):
        return model
    return FirstToken(model).train(model.training)
