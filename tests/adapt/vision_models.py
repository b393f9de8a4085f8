"""Small untrained vision transformers that the tests of read-outs and prompts share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.models.vit import VisionTransformer

SIDE, WIDTH, DEPTH, HEADS = 8, 16, 3, 2
TRANSFORMERS = (
    "ViTModel",
    "ViTForImageClassification",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "Dinov2Model",
    "DeiTModel",
)


def vit(**changed):
    """Of this library, with weights large enough for tokens to see one another."""
    torch.manual_seed(0)
    sizes = {"img_size": SIDE, "patch_size": 4, "in_chans": 1, "num_classes": 0, "embed_dim": WIDTH, "depth": DEPTH}
    made = VisionTransformer(**{**sizes, "num_heads": HEADS, "drop_path_rate": 0.0, "init_std": 0.3, **changed})
    nn.init.normal_(made.cls_token)
    nn.init.normal_(made.pos_embed)
    for each in made.modules():  # so that no norm is the identity
        if isinstance(each, nn.LayerNorm):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.2)
    return made.eval().requires_grad_(False)


def transformers_model(kind):
    """One of transformers, by the name of its class."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 32}
    sizes |= {"image_size": SIDE, "patch_size": 4, "num_channels": 1, "initializer_range": 0.3}
    if kind == "Dinov2Model":
        sizes |= {"layerscale_value": 0.4, "mlp_ratio": 2}
        del sizes["intermediate_size"]
    name = "CLIPVisionConfig" if kind.startswith("CLIP") else kind.split("Model")[0].split("For")[0] + "Config"
    made = getattr(transformers, kind)(getattr(transformers, name)(**sizes)).eval().requires_grad_(False)
    for name, each in made.named_parameters():
        if each.ndim < 2 and "scale" not in name:
            each.add_(0.2 * torch.randn(each.shape))
    return made


def images(count=5, channels=1, seed=1):
    return torch.randn(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
