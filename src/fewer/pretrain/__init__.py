"""The room for who has no labels: features learned from what is there without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "AttentiveProbe": "fewer.pretrain.attentive_probe",
    "CLIP": "fewer.pretrain.clip",
    "Contrastive": "fewer.pretrain.loop",
    "Crops": "fewer.pretrain.views",
    "DMJD": "fewer.pretrain.dmjd",
    "DecoupledContrastiveLoss": "fewer.pretrain.dcl",
    "DisjointMasking": "fewer.pretrain.dmjd",
    "FrozenTeacher": "fewer.pretrain.teachers",
    "GivenTeacher": "fewer.pretrain.teachers",
    "HOG": "fewer.pretrain.hog",
    "ImageTransformer": "fewer.pretrain.clip_towers",
    "InfoNCE": "fewer.pretrain.contrast",
    "KNN": "fewer.pretrain.readout",
    "LinearProbe": "fewer.pretrain.readout",
    "MaskedModelling": "fewer.pretrain.masked",
    "Mild": "fewer.pretrain.views",
    "MovingAverage": "fewer.pretrain.teachers",
    "MultiBlock": "fewer.pretrain.multi_block",
    "Pixels": "fewer.pretrain.masked",
    "PretrainedEncoder": "fewer.pretrain.encoder",
    "RandomMask": "fewer.pretrain.masked",
    "RandomTubes": "fewer.pretrain.multi_block",
    "Shared": "fewer.pretrain.loop",
    "TextTransformer": "fewer.pretrain.clip_towers",
    "TwoTowers": "fewer.pretrain.clip",
    "VisibleBranch": "fewer.pretrain.dmjd",
    "ZeroShotClassifier": "fewer.pretrain.zero_shot",
    "clip_training": "fewer.pretrain.clip",
    "coupling": "fewer.pretrain.dcl",
    "disjoint_masks": "fewer.pretrain.dmjd",
    "embed": "fewer.pretrain.readout",
    "joint_distillation": "fewer.pretrain.dmjd",
    "load_clip": "fewer.pretrain.clip_weights",
    "probe": "fewer.pretrain.readout",
    "static_teacher": "fewer.pretrain.salt",
    "v_pixel": "fewer.pretrain.salt",
    "vjepa": "fewer.pretrain.salt",
}

__all__ = [
    "CLIP",
    "DMJD",
    "HOG",
    "KNN",
    "AttentiveProbe",
    "Contrastive",
    "Crops",
    "DecoupledContrastiveLoss",
    "DisjointMasking",
    "FrozenTeacher",
    "GivenTeacher",
    "ImageTransformer",
    "InfoNCE",
    "LinearProbe",
    "MaskedModelling",
    "Mild",
    "MovingAverage",
    "MultiBlock",
    "Pixels",
    "PretrainedEncoder",
    "RandomMask",
    "RandomTubes",
    "Shared",
    "TextTransformer",
    "TwoTowers",
    "VisibleBranch",
    "ZeroShotClassifier",
    "clip_training",
    "coupling",
    "disjoint_masks",
    "embed",
    "joint_distillation",
    "load_clip",
    "probe",
    "static_teacher",
    "v_pixel",
    "vjepa",
]

if TYPE_CHECKING:
    from fewer.pretrain.attentive_probe import AttentiveProbe
    from fewer.pretrain.clip import CLIP, TwoTowers, clip_training
    from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
    from fewer.pretrain.clip_weights import load_clip
    from fewer.pretrain.contrast import InfoNCE
    from fewer.pretrain.dcl import DecoupledContrastiveLoss, coupling
    from fewer.pretrain.dmjd import DMJD, DisjointMasking, VisibleBranch, disjoint_masks, joint_distillation
    from fewer.pretrain.encoder import PretrainedEncoder
    from fewer.pretrain.hog import HOG
    from fewer.pretrain.loop import Contrastive, Shared
    from fewer.pretrain.masked import MaskedModelling, Pixels, RandomMask
    from fewer.pretrain.multi_block import MultiBlock, RandomTubes
    from fewer.pretrain.readout import KNN, LinearProbe, embed, probe
    from fewer.pretrain.salt import static_teacher, v_pixel, vjepa
    from fewer.pretrain.teachers import FrozenTeacher, GivenTeacher, MovingAverage
    from fewer.pretrain.views import Crops, Mild
    from fewer.pretrain.zero_shot import ZeroShotClassifier

__getattr__, __dir__ = lazily(__name__, _HOMES)
