"""Prompts as heads of adaptation: of a CLIP's image features, each class is said by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.context_encoders import Kind
from fewer.adapt.loop import HeadModule, classes_of
from fewer.adapt.prompt_learning import ImageConditionedPromptLearner, PromptLearner
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.optimisers import SGD, Cosine
from fewer.pretrain.clip import CLIP

TEMPLATE = "a photo of a {}."
"""Where a task has none of its own."""

LR = 0.002
"""Of the papers; near the best for the small CLIP of redrawn scenes as well."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, learned or written by hand.

    Parameters
    ----------
    encoder : str, optional
        What rewrites the context (see :class:`~fewer.adapt.prompt_learning.PromptLearner`).
    n_ctx : int, optional
        So many random vectors; by default as many as the template has tokens before the name, and these to begin with.
    template : str, optional
        A sentence with ``{}`` at the name; by default the task's, and else "a photo of a {}.".
    residual, separate : bool, default True and False
        See :class:`~fewer.adapt.context_encoders.ContextEncoder`.
    image_conditioned : bool, default False
        Let each image move the context (CoCoOp).
    learned : bool, default True
        False leaves the prompt as it is written.
    """

    encoder: Kind | None = None
    n_ctx: int | None = None
    template: str | None = None
    residual: bool = True
    separate: bool = False
    image_conditioned: bool = False
    learned: bool = True

    def build(self, width: int, task: Task, model: nn.Module) -> PromptHead:
        """Make it for the task's classes.

        Raises
        ------
        FewerError
            If the model is no CLIP, the template has no place for a name, or the encoder and the images both are to act.
        """
        clip = getattr(model, "clip", None)
        if not isinstance(clip, CLIP):
            raise FewerError(
                f"prompt: the model of {task.name} is no CLIP; take a task that brings one, such as redrawn-scenes, or name "
                "saved-clip(path='./my-clip') beside the method"
            )
        template = self.template or getattr(task, "template", TEMPLATE)
        before, name, stop = template.partition("{}")
        if not name or not before.strip():
            raise FewerError(f"prompt: the template is {template!r}; give words and then {{}} where the name goes")
        init = before.strip() if self.n_ctx is None else None
        if self.image_conditioned:
            if self.encoder is not None:
                raise FewerError("prompt: a context is moved by the image or rewritten by an encoder; give one of them")
            learner = ImageConditionedPromptLearner(clip, classes_of(task), self.n_ctx, init, stop)
        else:
            learner = PromptLearner(
                clip, classes_of(task), self.encoder, self.n_ctx, init, stop, self.residual, self.separate
            )
        return PromptHead(learner.requires_grad_(self.learned))


class PromptHead(HeadModule):
    """A prompt learner as the one classifier of a head.

    Parameters
    ----------
    learner : PromptLearner
        Image features to logits.
    """

    def __init__(self, learner: PromptLearner) -> None:
        super().__init__()
        self.learner = learner

    def logits(
        self, features: Float[Tensor, "rows width"], classes: Sequence[str] | None = None
    ) -> Float[Tensor, "rows heads classes"]:
        """Of the classes it learns, or of others by name."""
        return self.learner(features, classes)[:, None]


def prompt_training(head: Prompt, lr: float) -> dict[str, Any]:
    """A prompt, and how prompts are trained: momentum, and a rate that rises over one epoch of fifty and then falls."""
    return {"head": head, "optimiser": SGD(lr), "schedule": Cosine(warmup=0.02)}


def hand_prompt() -> Prompt:
    """The prompt that the task's template writes, as it is."""
    return Prompt(learned=False)


def coop(n_ctx: int | None = None, lr: float = LR) -> dict[str, Any]:
    """Learn the context vectors themselves (CoOp, one context for all classes).

    Parameters
    ----------
    n_ctx : int, optional
        So many random vectors, in place of the template's words.
    lr : float, default 0.002
        Peak learning rate.
    """
    return prompt_training(Prompt(n_ctx=n_ctx), lr)


def cocoop(n_ctx: int | None = None, lr: float = LR) -> dict[str, Any]:
    """Let each image move the learned context vectors (CoCoOp); slow: a text for each image and class.

    Parameters
    ----------
    n_ctx, lr
        See :func:`coop`.
    """
    return prompt_training(Prompt(n_ctx=n_ctx, image_conditioned=True), lr)
