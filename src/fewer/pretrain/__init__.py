"""The room for who has no labels: features learned from what is there without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "CLIP": "fewer.pretrain.clip",
    "Contrastive": "fewer.pretrain.loop",
    "Crops": "fewer.pretrain.views",
    "DecoupledContrastiveLoss": "fewer.pretrain.dcl",
    "ImageTransformer": "fewer.pretrain.clip_towers",
    "InfoNCE": "fewer.pretrain.contrast",
    "KNN": "fewer.pretrain.readout",
    "LinearProbe": "fewer.pretrain.readout",
    "MaskedModelling": "fewer.pretrain.masked",
    "Mild": "fewer.pretrain.views",
    "Pixels": "fewer.pretrain.masked",
    "PretrainedEncoder": "fewer.pretrain.encoder",
    "RandomMask": "fewer.pretrain.masked",
    "Shared": "fewer.pretrain.loop",
    "TextTransformer": "fewer.pretrain.clip_towers",
    "TwoTowers": "fewer.pretrain.clip",
    "ZeroShotClassifier": "fewer.pretrain.zero_shot",
    "clip_training": "fewer.pretrain.clip",
    "coupling": "fewer.pretrain.dcl",
    "embed": "fewer.pretrain.readout",
    "load_clip": "fewer.pretrain.clip_weights",
    "probe": "fewer.pretrain.readout",
}

__all__ = [
    "CLIP",
    "KNN",
    "Contrastive",
    "Crops",
    "DecoupledContrastiveLoss",
    "ImageTransformer",
    "InfoNCE",
    "LinearProbe",
    "MaskedModelling",
    "Mild",
    "Pixels",
    "PretrainedEncoder",
    "RandomMask",
    "Shared",
    "TextTransformer",
    "TwoTowers",
    "ZeroShotClassifier",
    "clip_training",
    "coupling",
    "embed",
    "load_clip",
    "probe",
]

if TYPE_CHECKING:
    from fewer.pretrain.clip import CLIP, TwoTowers, clip_training
    from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
    from fewer.pretrain.clip_weights import load_clip
    from fewer.pretrain.contrast import InfoNCE
    from fewer.pretrain.dcl import DecoupledContrastiveLoss, coupling
    from fewer.pretrain.encoder import PretrainedEncoder
    from fewer.pretrain.loop import Contrastive, Shared
    from fewer.pretrain.masked import MaskedModelling, Pixels, RandomMask
    from fewer.pretrain.readout import KNN, LinearProbe, embed, probe
    from fewer.pretrain.views import Crops, Mild
    from fewer.pretrain.zero_shot import ZeroShotClassifier

__getattr__, __dir__ = lazily(__name__, _HOMES)
