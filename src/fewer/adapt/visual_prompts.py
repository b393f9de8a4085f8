"""Visual prompt tuning, deep: learned tokens that every block of a frozen vision transformer sees beside its own.

Each block gets its own prompts, which its tokens attend to and which are taken away behind it.  Since the tokens change,
going backwards needs all that the network computes.

Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv:2203.12119.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.vit_blocks import vision_stack
from fewer.core.errors import FewerError
from fewer.core.loop import Task


class Prompts(nn.Module):
    """The prompts of one block.

    Parameters
    ----------
    tokens, width : int
        How many, and their channels.
    dropout : float
        Of their numbers while training, drawn for each image.
    bound : float
        They begin uniformly between -bound and bound.
    """

    adapts = True

    def __init__(self, tokens: int, width: int, dropout: float, bound: float) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.empty(tokens, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def joined(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch more width"]:
        """Behind the class token."""
        prompts = self.dropout(self.prompts.to(x.dtype).expand(len(x), -1, -1))
        return torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1)

    def without(self, x: Float[Tensor, "batch more width"]) -> Float[Tensor, "batch tokens width"]:
        """The block's own tokens."""
        return torch.cat([x[:, :1], x[:, 1 + len(self.prompts) :]], dim=1)


@dataclass(frozen=True)
class VisualPromptTuning:
    """Prompts before each block, for the slot ``adapter``.

    Parameters
    ----------
    tokens : int, default 4
        Prompts of each block.
    dropout : float, default 0.1
        Of their numbers.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> prompted = VisualPromptTuning(tokens=3).attach(net.requires_grad_(False))
    >>> sum(each.numel() for each in prompted.parameters() if each.requires_grad)
    96
    """

    tokens: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.dropout < 1:
            raise FewerError(f"visual prompts: tokens must be at least 1 and dropout lie in [0, 1); given {self}")

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Hang them on the model's blocks, in place, as sub-modules ``visual_prompts``.

        Raises
        ------
        FewerError
            If it is no vision transformer with a class token, or has prompts already.
        """
        stack = vision_stack(model, "visual prompts")
        bound = math.sqrt(6 / (3 * stack.patch_area + stack.width))
        for block in stack.blocks(model):
            if hasattr(block, "visual_prompts"):
                raise FewerError("visual prompts: the model has prompts already; give one without")
            like = next(block.parameters())
            made = Prompts(self.tokens, stack.width, self.dropout, bound).to(like.device)
            block.add_module("visual_prompts", made.train(block.training))
            # functions of the module, so that a copy of the block finds its own prompts
            block.register_forward_pre_hook(_joined)
            block.register_forward_hook(_without)
        return model


def _joined(block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (cast(Any, block).visual_prompts.joined(given[0]), *given[1:])


def _without(block: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
    return cast(Any, block).visual_prompts.without(output)
