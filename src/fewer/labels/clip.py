"""CLIP as a teacher: a model of the ``transformers`` format, read from a folder on this machine.

Knows images and class names, and brings both into one space; what is done there is in :mod:`fewer.labels.teachers`.
Images are resized and cut as tensors, so neither pillow nor torchvision is needed.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.labels.learners import device
from fewer.labels.teachers import CLAP, Embedded, ZeroShot


@dataclass(frozen=True)
class CLIP:
    """A CLIP model of the ``transformers`` format, from a folder on this machine.

    Parameters
    ----------
    path : path
        A folder with the model and its tokenizer, as ``save_pretrained`` writes them.  Nothing is fetched.
    classes : tuple of str
        What the classes are called, in the task's order.
    prompt : str or tuple of str, default "a photo of a {}."
        Sentences with ``{}`` for the name; of several, the mean embedding counts.
    block : int, default 64
        Images at a time.
    """

    path: str | os.PathLike[str]
    classes: tuple[str, ...]
    prompt: str | tuple[str, ...] = "a photo of a {}."
    block: int = 64

    def encode(self, x: Shaped[np.ndarray, "pool ..."], classes: int) -> Embedded:
        """Embed images and class names.

        Parameters
        ----------
        x : array (pool, height, width), (pool, 1 or 3, height, width) or (pool, height, width, 1 or 3)
            Bytes, or numbers in [0, 1].
        classes : int
            How many there are.

        Raises
        ------
        FewerError
            If transformers or the folder is missing, the names do not match, or the rows are no images.
        """
        if len(self.classes) != classes:
            raise FewerError(f"clip: {len(self.classes)} class names were given and the task has {classes} classes")
        prompts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        if not prompts or any("{}" not in prompt for prompt in prompts):
            raise FewerError(f"clip: a prompt needs {{}} where the name of the class goes; given {self.prompt!r}")
        images(x[:1], 1)  # rather now than after the model has been read
        model, tokenizer = self._load()
        where = device()
        model.to(where).eval()
        texts = [prompt.format(name) for name in self.classes for prompt in prompts]
        with torch.inference_mode():
            tokens = tokenizer(texts, padding=True, return_tensors="pt").to(where)
            pooled = model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            names = model.text_projection(pooled).reshape(classes, len(prompts), -1).mean(dim=1)
            mean, deviation = (torch.tensor(each)[:, None, None] for each in self._pixels())
            side = model.config.vision_config.image_size
            rows = []
            for start in range(0, len(x), self.block):
                pixels = (images(x[start : start + self.block], side) - mean) / deviation
                pooled = model.vision_model(pixel_values=pixels.to(where)).pooler_output
                rows.append(nn.functional.normalize(model.visual_projection(pooled), dim=1).cpu())
            scale = float(model.logit_scale.exp())
        return Embedded(torch.cat(rows).numpy(), names.cpu().numpy(), scale)

    def _load(self) -> tuple[Any, Any]:
        transformers = need("transformers", extra="language", what="the teacher clip")
        if not Path(self.path).is_dir():
            raise FewerError(f"clip: no folder {self.path}; give one with a CLIP model as save_pretrained writes it")
        try:
            model = transformers.CLIPModel.from_pretrained(self.path, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise FewerError(f"clip: {self.path} holds no CLIP model that transformers can read: {first}") from error
        return model, tokenizer

    def _pixels(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of each colour, as the model was trained with."""
        file = Path(self.path) / "preprocessor_config.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return (
            known.get("image_mean", [0.48145466, 0.4578275, 0.40821073]),
            known.get("image_std", [0.26862954, 0.26130258, 0.27577711]),
        )


def images(x: Shaped[np.ndarray, "block ..."], side: int) -> Float[Tensor, "block 3 side side"]:
    """Make square colour images with values in [0, 1]: the shorter side is resized, then the middle is cut out.

    Parameters
    ----------
    x : array (block, height, width), (block, 1 or 3, height, width) or (block, height, width, 1 or 3)
        Bytes, or numbers in [0, 1].
    side : int
        Pixels a side.

    Raises
    ------
    FewerError
        If the rows are of another shape or range.

    Examples
    --------
    >>> images(np.zeros((2, 14, 20)), side=8).shape
    torch.Size([2, 3, 8, 8])
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3):
        x = np.moveaxis(x, 3, 1)
    if x.dtype == object or x.ndim != 4 or x.shape[1] not in (1, 3):
        raise FewerError(
            f"this teacher sees images, and a row has the shape {x.shape[1:]}; "
            "rows must be (height, width), (1 or 3, height, width) or (height, width, 1 or 3)"
        )
    pixels = torch.from_numpy(x.astype(np.float32)) / (255 if x.dtype == np.uint8 else 1)
    if len(pixels) and not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
        raise FewerError(
            f"this teacher needs pixels in [0, 1] or bytes; they go from {pixels.min():.3g} to {pixels.max():.3g}"
        )
    height, width = pixels.shape[2:]
    factor = side / min(height, width)
    size = (max(side, round(height * factor)), max(side, round(width * factor)))
    pixels = nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp_(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return pixels[:, :, top : top + side, left : left + side].expand(-1, 3, -1, -1)


def clip(path: str, classes: Sequence[str], prompt: str | Sequence[str] = "a photo of a {}.") -> ZeroShot:
    """Fill the teacher slot with a zero-shot CLIP model (see :class:`CLIP`)."""
    return ZeroShot(_model(path, classes, prompt))


def clap(
    path: str, classes: Sequence[str], prompt: str | Sequence[str] = "a photo of a {}.", passes: int = 300
) -> CLAP:
    """Fill the teacher slot with a CLIP model and a probe trained on the labels of each round (see :class:`CLAP`)."""
    return CLAP(_model(path, classes, prompt), passes)


def _model(path: str, classes: Sequence[str], prompt: str | Sequence[str]) -> CLIP:
    # a spec may write lists; a description is compared and so holds tuples
    return CLIP(path, tuple(classes), prompt if isinstance(prompt, str) else tuple(prompt))
