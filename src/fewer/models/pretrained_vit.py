"""Vision transformers of the ``transformers`` format, read into this library's own from a folder on this machine.

ViT and DeiT (without a distillation token) are computed alike here and there, so their weights go over one for one; what is
built on :class:`fewer.models.vit.VisionTransformer` then works on them.  Nothing is fetched.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.vit import VisionTransformer


@dataclass(frozen=True)
class SavedViT:
    """A vision transformer from a folder, for the slot ``base`` of adaptation.

    Parameters
    ----------
    path : path
        With ``config.json`` and ``model.safetensors``, as ``save_pretrained`` writes them.
    """

    path: str | os.PathLike[str]

    def build(self, shape: tuple[int, ...], seed: int) -> VisionTransformer:
        """Read it, for images of ``shape``: (channels, height, width).

        Raises
        ------
        FewerError
            If it cannot be read, is of another kind, or the images have another number of channels.
        """
        network = read_vit(self.path)
        channels = network.patch_embed.proj.in_channels
        if len(shape) != 3 or shape[0] != channels:
            raise FewerError(f"{self.path}: it sees images of {channels} channels, and rows here are of shape {shape}")
        return network


def read_vit(path: str | os.PathLike[str]) -> VisionTransformer:
    """Read a ViT or DeiT that ``transformers`` saved.

    Parameters
    ----------
    path : path
        Its folder.

    Returns
    -------
    VisionTransformer
        Without a head, in evaluation; its class token's features are those of ``last_hidden_state[:, 0]``.

    Raises
    ------
    FewerError
        If a file is missing or damaged, or the model is of another kind.
    """
    folder = Path(path)
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise FewerError(
            f"{folder} holds no model that can be read ({error}); give a folder with config.json and model.safetensors"
        ) from error
    kind = config.get("model_type")
    if kind not in ("vit", "deit") or config.get("hidden_act", "gelu") != "gelu":
        raise FewerError(
            f"{folder} holds a model of type {kind!r}; a vision transformer of type vit or deit is read here"
        )
    network = VisionTransformer(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        in_chans=config.get("num_channels", 3),
        num_classes=0,
        embed_dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        qkv_bias=config.get("qkv_bias", True),
        drop_path_rate=0.0,
    )
    for layer in network.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = config.get("layer_norm_eps", 1e-12)
    saved = {name.removeprefix("vit.").removeprefix("deit."): each for name, each in saved.items()}
    if "embeddings.distillation_token" in saved:
        raise FewerError(f"{folder} holds a distilled DeiT, whose second token is not known here; give one without")
    try:
        network.load_state_dict(_renamed(saved, config["num_hidden_layers"]))
    except (KeyError, RuntimeError) as error:
        raise FewerError(
            f"{folder}: its weights are not those of a {kind} ({' '.join(str(error).split())[:200]})"
        ) from error
    return network.eval()


def _renamed(saved: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Weights by the names of this library, which are timm's."""
    embeddings = "embeddings."
    found = {
        "cls_token": saved[embeddings + "cls_token"],
        "pos_embed": saved[embeddings + "position_embeddings"],
        "norm.weight": saved["layernorm.weight"],
        "norm.bias": saved["layernorm.bias"],
    }
    both = ("weight", "bias")
    for kind in both:
        found[f"patch_embed.proj.{kind}"] = saved[f"{embeddings}patch_embeddings.projection.{kind}"]
    for index in range(depth):
        theirs, mine = f"encoder.layer.{index}.", f"blocks.{index}."
        attention = theirs + "attention.attention."
        for kind in both:
            if f"{attention}query.{kind}" in saved:
                found[f"{mine}attn.qkv.{kind}"] = torch.cat(
                    [saved[f"{attention}{part}.{kind}"] for part in ("query", "key", "value")]
                )
            for here, there in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("attn.proj", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                found[f"{mine}{here}.{kind}"] = saved[f"{theirs}{there}.{kind}"]
    return found
