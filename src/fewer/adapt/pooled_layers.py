"""Head2Toe: all layers of a frozen vision transformer, pooled, and a head that weighs few of their features.

No queries are learned: of each block the class token and the means of the patches in a few stretches are read.

Evci et al., "Head2Toe: Utilizing Intermediate Representations for Better Transfer Learning", ICML 2022, arXiv:2201.03529.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.adapt.feature_selection import GroupLasso
from fewer.adapt.vit_blocks import last_tokens, listened, vision_stack
from fewer.core.errors import FewerError
from fewer.core.loop import Task


class PooledReadout(nn.Module):
    """Pooled tokens of all blocks: images to features.

    Parameters
    ----------
    model : nn.Module
        A vision transformer (see :func:`~fewer.adapt.vit_blocks.vision_stack`).
    regions : int, default 4
        Means over patches of each block, of stretches of equal length in the order of the patches.

    Attributes
    ----------
    width : int
        Channels times (1 + blocks * (1 + regions)).

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> PooledReadout(net)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 176])
    """

    def __init__(self, model: nn.Module, regions: int = 4) -> None:
        super().__init__()
        self.model, self.regions = model, regions
        self.stack = vision_stack(model, "head2toe")
        self.width = self.stack.width * (1 + self.stack.depth * (1 + regions))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The last class token, then each block's, and the means behind it; what is of one block has length one."""
        found: list[Tensor] = []

        def hear(place: int, given: Any, output: Tensor) -> None:
            means = functional.adaptive_avg_pool1d(output[:, 1:].transpose(1, 2), self.regions)
            found.append(torch.cat([output[:, :1], means.transpose(1, 2)], dim=1).flatten(1))

        with listened(self.stack.blocks(self.model), hear):
            last = last_tokens(self.model, images, "head2toe")[:, 0]
        return torch.cat([functional.normalize(each, dim=1) for each in (last, *found)], dim=1)


@dataclass(frozen=True)
class PooledLayers:
    """Describes :class:`PooledReadout`, for the slot ``readout``.

    Parameters
    ----------
    regions : int, default 4
        Means over patches of each block.
    """

    regions: int = 4

    def __post_init__(self) -> None:
        if self.regions < 1:
            raise FewerError(f"head2toe: regions is {self.regions}; give 1 or more")

    def build(self, model: nn.Module, task: Task) -> nn.Module:
        """Make it for a model."""
        return PooledReadout(model, self.regions)


def head2toe(regions: int = 4, penalty: float = 1e-4) -> dict[str, Any]:
    """Fill the slots ``readout`` and ``head``: pooled layers, and a linear head with a group penalty.

    The features that it weighs least are taken away by :func:`~fewer.adapt.feature_selection.selecting_head`.
    """
    return {"readout": PooledLayers(regions), "head": GroupLasso(penalty)}
