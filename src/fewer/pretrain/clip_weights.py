"""CLIP weights from elsewhere and for elsewhere: folders of ``transformers``, state dicts of ``open_clip``.

Nothing is fetched, and no pickle is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fewer.core.errors import FewerError, need
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
from fewer.pretrain.vocabulary import Tokenizer

_HUGGING_FACE = {
    "image_tower.conv1": "vision_model.embeddings.patch_embedding",
    "image_tower.class_embedding": "vision_model.embeddings.class_embedding",
    "image_tower.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "image_tower.ln_pre": "vision_model.pre_layrnorm",
    "image_tower.ln_post": "vision_model.post_layernorm",
    "image_tower.blocks": "vision_model.encoder.layers",
    "text_tower.token_embedding": "text_model.embeddings.token_embedding",
    "text_tower.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_tower.ln_final": "text_model.final_layer_norm",
    "text_tower.blocks": "text_model.encoder.layers",
    "image_projection": "visual_projection",
    "text_projection": "text_projection",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.": ".self_attn.",
}


def to_transformers(model: CLIP) -> dict[str, Tensor]:
    """The weights under the names of ``transformers``' ``CLIPModel``.

    Parameters
    ----------
    model : CLIP
        Of an :class:`~fewer.pretrain.clip_towers.ImageTransformer` and a
        :class:`~fewer.pretrain.clip_towers.TextTransformer`.

    Raises
    ------
    FewerError
        For other towers, which ``CLIPModel`` has not.
    """
    if not (isinstance(model.image_tower, ImageTransformer) and isinstance(model.text_tower, TextTransformer)):
        raise FewerError(
            f"clip: transformers' CLIPModel has two transformers as towers; these are {type(model.image_tower).__name__} and "
            f"{type(model.text_tower).__name__}"
        )
    found = {}
    for name, value in model.state_dict().items():
        theirs = name
        for mine, other in _HUGGING_FACE.items():
            theirs = theirs.replace(mine, other)
        if ".in_proj." in theirs:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[theirs.replace("in_proj", f"{part}_proj")] = piece.clone()
        else:
            found[theirs] = value
    return found


def _from_transformers(state: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    found = {}
    for name in names:
        theirs = name
        for mine, other in _HUGGING_FACE.items():
            theirs = theirs.replace(mine, other)
        parts = [theirs.replace("in_proj", f"{part}_proj") for part in "qkv"] if ".in_proj." in theirs else [theirs]
        found[name] = torch.cat([state[part] for part in parts]) if len(parts) > 1 else state[theirs]
    return found


def from_transformers(theirs: Any, tokenizer: Tokenizer | None = None) -> CLIP:
    """Make a :class:`~fewer.pretrain.clip.CLIP` with the weights of a ``CLIPModel``.

    Parameters
    ----------
    theirs : transformers.CLIPModel
        With QuickGELU, as CLIP's own weights have.
    tokenizer : Tokenizer, optional
        Its tokenizer.

    Raises
    ------
    FewerError
        For other activations.
    """
    vision, text = theirs.config.vision_config, theirs.config.text_config
    for part in (vision, text):
        if part.hidden_act != "quick_gelu" or part.intermediate_size != 4 * part.hidden_size:
            raise FewerError(
                f"clip: towers have quick_gelu and four times as many hidden units as channels; this one has "
                f"{part.hidden_act} and {part.intermediate_size} for {part.hidden_size}"
            )
    image_tower = ImageTransformer(
        vision.image_size,
        vision.patch_size,
        vision.hidden_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
        vision.num_channels,
    )
    # older configurations say 2 for the end and mean the highest token
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    text_tower = TextTransformer(
        text.vocab_size,
        text.hidden_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        text.max_position_embeddings,
        end,
    )
    model = CLIP(image_tower, text_tower, theirs.config.projection_dim, tokenizer)
    model.load_state_dict(_from_transformers(theirs.state_dict(), list(model.state_dict())))
    return model.eval()


def load_clip(path: str | os.PathLike[str]) -> CLIP:
    """Read a CLIP model that ``save_pretrained`` wrote, with its tokenizer.

    Parameters
    ----------
    path : path
        A folder on this machine.  What it says of pixels (``preprocessor_config.json``) becomes the model's ``pixels``.

    Raises
    ------
    MissingPackage
        If transformers is not installed.
    FewerError
        If there is no such folder, or no CLIP model in it.
    """
    transformers = need("transformers", extra="language", what="load_clip")
    folder = Path(path)
    if not folder.is_dir():
        raise FewerError(f"clip: no folder {path}; give one with a CLIP model as save_pretrained writes it")
    try:
        theirs = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise FewerError(f"clip: {path} holds no CLIP model that transformers can read: {first}") from error
    text = theirs.config.text_config
    model = from_transformers(theirs)
    model.tokenizer = _Theirs(tokenizer, text.vocab_size, text.max_position_embeddings, model.text_tower.end)  # pyright: ignore[reportArgumentType]
    said = folder / "preprocessor_config.json"
    known = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else {}
    model.pixels = (
        tuple(known.get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
        tuple(known.get("image_std", (0.26862954, 0.26130258, 0.27577711))),
    )
    return model


class _Theirs:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any, size: int, context: int, end: int) -> None:
        self.tokenizer, self.size, self.context, self.end = tokenizer, size, context, end

    def __call__(self, texts: Sequence[str], *, whole: bool = False) -> Int[Tensor, "texts length"]:
        rows = self.tokenizer(list(texts))["input_ids"]
        longest = max(map(len, rows))
        if whole and longest > self.context:
            text = texts[[len(row) for row in rows].index(longest)]
            raise FewerError(f"{text!r} takes {longest} tokens and the text tower reads {self.context}; shorten it")
        length = min(longest, self.context)
        # filled up with the end, of which the first one counts; the end is kept where a text is cut
        found = torch.full((len(rows), length), self.end)
        for place, row in enumerate(rows):
            kept = row if len(row) <= length else [*row[: length - 1], self.end]
            found[place, : len(kept)] = torch.tensor(kept)
        return found


def from_open_clip(state: Mapping[str, Tensor]) -> CLIP:
    """Make a :class:`~fewer.pretrain.clip.CLIP` with the weights of an ``open_clip`` or OpenAI state dict (ViT towers).

    Parameters
    ----------
    state : mapping of str to tensor
        Names such as ``visual.transformer.resblocks.0.ln_1.weight``; widths, depths and sizes are read from the shapes, and
        heads are 64 channels wide, as in the published models.

    Raises
    ------
    FewerError
        If a tensor is missing or the image tower is no vision transformer.
    """
    if "visual.conv1.weight" not in state or "visual.proj" not in state:
        raise FewerError(
            "clip: this state dict has no visual.conv1.weight or visual.proj; only ViT image towers are read"
        )
    try:
        width, channels, patch, _ = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        vocabulary, text_width = state["token_embedding.weight"].shape
        context, depths = len(state["positional_embedding"]), [_depth(state, part) for part in ("visual.", "")]
        image_tower = ImageTransformer(side * patch, patch, width, depths[0], max(1, width // 64), channels)
        text_tower = TextTransformer(
            vocabulary, text_width, depths[1], max(1, text_width // 64), context, vocabulary - 1
        )
        model = CLIP(image_tower, text_tower, state["visual.proj"].shape[1])
        model.load_state_dict(
            {name: state[_open(name)] for name in model.state_dict() if "projection" not in name}
            | {
                "image_projection.weight": state["visual.proj"].T,
                "text_projection.weight": state["text_projection"].T,
            }
        )
    except KeyError as error:
        raise FewerError(f"clip: this state dict has no {error.args[0]}; give that of a whole CLIP model") from error
    return model.eval()


def _open(name: str) -> str:
    name = name.replace("image_tower.", "visual.").replace("text_tower.", "")
    return name.replace("blocks.", "transformer.resblocks.").replace(".in_proj.", ".in_proj_")


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    return 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)
