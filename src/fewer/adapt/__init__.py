"""The room for who can train few parameters: what was learned before is moved to a task, and left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewer.core.lazy import lazily

# imported when first asked for: looking around should not wait for torch
_HOMES: dict[str, str] = {
    "Adaptation": "fewer.adapt.loop",
    "AdaptationTask": "fewer.adapt.loop",
    "Adapted": "fewer.adapt.adapted",
    "DRM": "fewer.adapt.drm",
    "DRMClassifier": "fewer.adapt.drm_classifier",
    "DomainHeads": "fewer.adapt.drm",
    "DomainSelect": "fewer.adapt.drm",
    "Features": "fewer.adapt.loop",
    "Labelled": "fewer.adapt.loop",
    "Linear": "fewer.adapt.loop",
    "LoRA": "fewer.adapt.low_rank_adapter",
    "MissingModality": "fewer.adapt.missing_modality",
    "MissingModalityAdapter": "fewer.adapt.missing_modality",
    "OwnClassifier": "fewer.adapt.baselines",
    "PseudoLabels": "fewer.adapt.drm",
    "ScaleShift": "fewer.adapt.scale_shift",
    "bytes_for_backward": "fewer.adapt.meter",
    "merged": "fewer.adapt.built_in",
}

__all__ = [
    "DRM",
    "Adaptation",
    "AdaptationTask",
    "Adapted",
    "DRMClassifier",
    "DomainHeads",
    "DomainSelect",
    "Features",
    "Labelled",
    "Linear",
    "LoRA",
    "MissingModality",
    "MissingModalityAdapter",
    "OwnClassifier",
    "PseudoLabels",
    "ScaleShift",
    "bytes_for_backward",
    "merged",
]

if TYPE_CHECKING:
    from fewer.adapt.adapted import Adapted
    from fewer.adapt.baselines import OwnClassifier
    from fewer.adapt.built_in import merged
    from fewer.adapt.drm import DRM, DomainHeads, DomainSelect, PseudoLabels
    from fewer.adapt.drm_classifier import DRMClassifier
    from fewer.adapt.loop import Adaptation, AdaptationTask, Features, Labelled, Linear
    from fewer.adapt.low_rank_adapter import LoRA
    from fewer.adapt.meter import bytes_for_backward
    from fewer.adapt.missing_modality import MissingModality, MissingModalityAdapter
    from fewer.adapt.scale_shift import ScaleShift

__getattr__, __dir__ = lazily(__name__, _HOMES)
