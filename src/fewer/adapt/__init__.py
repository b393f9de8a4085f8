"""The room for who can train few parameters: what was learned before is moved to a task, and left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "Adaptation": "fewer.adapt.loop",
    "AdaptationTask": "fewer.adapt.loop",
    "Adapted": "fewer.adapt.adapted",
    "AdapterFusion": "fewer.adapt.adapter_fusion",
    "AdapterSoup": "fewer.adapt.source_adapters",
    "Bottleneck": "fewer.adapt.bottleneck_adapter",
    "DRM": "fewer.adapt.drm",
    "DRMClassifier": "fewer.adapt.drm_classifier",
    "DomainHeads": "fewer.adapt.drm",
    "DomainSelect": "fewer.adapt.drm",
    "Features": "fewer.adapt.loop",
    "FirstToken": "fewer.adapt.first_token",
    "ImageConditionedPromptLearner": "fewer.adapt.prompt_learning",
    "Labelled": "fewer.adapt.loop",
    "Linear": "fewer.adapt.loop",
    "LoRA": "fewer.adapt.low_rank_adapter",
    "MissingModality": "fewer.adapt.missing_modality",
    "MissingModalityAdapter": "fewer.adapt.missing_modality",
    "OwnClassifier": "fewer.adapt.baselines",
    "PRE": "fewer.adapt.pre",
    "Prompt": "fewer.adapt.prompt_heads",
    "PromptClassifier": "fewer.adapt.prompt_classifier",
    "PromptLearner": "fewer.adapt.prompt_learning",
    "PseudoLabels": "fewer.adapt.drm",
    "QueryReadout": "fewer.adapt.vqt",
    "ScaLearn": "fewer.adapt.scalearn",
    "ScaLearnClassifier": "fewer.adapt.scalearn_classifier",
    "ScaleShift": "fewer.adapt.scale_shift",
    "TaskAdapter": "fewer.adapt.task_adapter",
    "TextEncoder": "fewer.adapt.text_encoder",
    "VQT": "fewer.adapt.vqt",
    "VisualPromptTuning": "fewer.adapt.visual_prompts",
    "VisualQueryTuning": "fewer.adapt.visual_query_tuning",
    "adapter_of_state": "fewer.adapt.adapter_files",
    "bytes_for_backward": "fewer.adapt.meter",
    "coefficient_table": "fewer.adapt.scalearn",
    "head2toe": "fewer.adapt.pooled_layers",
    "merged": "fewer.adapt.built_in",
    "read_adapter": "fewer.adapt.adapter_files",
    "read_adapters": "fewer.adapt.adapter_files",
    "save_adapters": "fewer.adapt.adapter_files",
    "train_adapters": "fewer.adapt.adapter_training",
}

__all__ = [
    "DRM",
    "PRE",
    "VQT",
    "Adaptation",
    "AdaptationTask",
    "Adapted",
    "AdapterFusion",
    "AdapterSoup",
    "Bottleneck",
    "DRMClassifier",
    "DomainHeads",
    "DomainSelect",
    "Features",
    "FirstToken",
    "ImageConditionedPromptLearner",
    "Labelled",
    "Linear",
    "LoRA",
    "MissingModality",
    "MissingModalityAdapter",
    "OwnClassifier",
    "Prompt",
    "PromptClassifier",
    "PromptLearner",
    "PseudoLabels",
    "QueryReadout",
    "ScaLearn",
    "ScaLearnClassifier",
    "ScaleShift",
    "TaskAdapter",
    "TextEncoder",
    "VisualPromptTuning",
    "VisualQueryTuning",
    "adapter_of_state",
    "bytes_for_backward",
    "coefficient_table",
    "head2toe",
    "merged",
    "read_adapter",
    "read_adapters",
    "save_adapters",
    "train_adapters",
]

if TYPE_CHECKING:
    from fewer.adapt.adapted import Adapted
    from fewer.adapt.adapter_files import adapter_of_state, read_adapter, read_adapters, save_adapters
    from fewer.adapt.adapter_fusion import AdapterFusion
    from fewer.adapt.adapter_training import train_adapters
    from fewer.adapt.baselines import OwnClassifier
    from fewer.adapt.bottleneck_adapter import Bottleneck
    from fewer.adapt.built_in import merged
    from fewer.adapt.drm import DRM, DomainHeads, DomainSelect, PseudoLabels
    from fewer.adapt.drm_classifier import DRMClassifier
    from fewer.adapt.first_token import FirstToken
    from fewer.adapt.loop import Adaptation, AdaptationTask, Features, Labelled, Linear
    from fewer.adapt.low_rank_adapter import LoRA
    from fewer.adapt.meter import bytes_for_backward
    from fewer.adapt.missing_modality import MissingModality, MissingModalityAdapter
    from fewer.adapt.pooled_layers import head2toe
    from fewer.adapt.pre import PRE
    from fewer.adapt.prompt_classifier import PromptClassifier
    from fewer.adapt.prompt_heads import Prompt
    from fewer.adapt.prompt_learning import ImageConditionedPromptLearner, PromptLearner
    from fewer.adapt.scale_shift import ScaleShift
    from fewer.adapt.scalearn import ScaLearn, coefficient_table
    from fewer.adapt.scalearn_classifier import ScaLearnClassifier
    from fewer.adapt.source_adapters import AdapterSoup
    from fewer.adapt.task_adapter import TaskAdapter
    from fewer.adapt.text_encoder import TextEncoder
    from fewer.adapt.visual_prompts import VisualPromptTuning
    from fewer.adapt.visual_query_tuning import VisualQueryTuning
    from fewer.adapt.vqt import VQT, QueryReadout

__getattr__, __dir__ = lazily(__name__, _HOMES)
