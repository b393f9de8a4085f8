"""What adaptation is compared with: a linear head on frozen features, and moving more of the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fewer.adapt.loop import Features, HeadModule, Linear, LinearHead, classes_of
from fewer.core.errors import FewerError
from fewer.core.loop import Task


@dataclass(frozen=True)
class OwnClassifier:
    """The classifier that the model brings as its attribute ``classifier``, as it is."""

    def build(self, width: int, task: Task, model: nn.Module) -> HeadModule:
        """Take it up.

        Raises
        ------
        FewerError
            If the model brings none, or one for other classes.
        """
        own = getattr(model, "classifier", None)
        if not isinstance(own, nn.Linear):
            raise FewerError(
                f"own-classifier: the model of {task.name} brings no linear layer called classifier; take another head"
            )
        if (own.in_features, own.out_features) != (width, len(classes_of(task))):
            raise FewerError(
                f"own-classifier: the model's classifier turns {own.in_features} features into {own.out_features} classes; "
                f"{task.name} has {len(classes_of(task))} and features are {width}"
            )
        return LinearHead(own)


def linear_probe() -> dict[str, Any]:
    """A frozen model, the features it gives, and a linear head."""
    return {"readout": Features(), "head": Linear()}


def full_fine_tuning() -> str:
    """Everything moves."""
    return "all"


def bias_only() -> str:
    """Biases move, and the head (BitFit).

    References
    ----------
    Ben Zaken, Ravfogel and Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models", arXiv:2106.10199.
    """
    return "bias"


def norm_only() -> str:
    """Scales and shifts of norms move, and the head."""
    return "norm"
