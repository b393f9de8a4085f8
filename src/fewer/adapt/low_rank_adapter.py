"""Low-rank updates of the linear layers of a frozen network.

    W x  ->  W x + (alpha / r) B A x          B = 0 at the start

The two thin matrices are those of :mod:`fewer.nets.low_rank`, whose layers are made of nothing else; here the weight stays
and they are added to what it says.  Afterwards the product is added to the weight.

References
----------
Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewer.adapt.built_in import CLASSIFIERS, Change, attach, changes, new_parameter
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.nets.low_rank import LowRankLinear


class LowRankUpdate(Change):
    """What is added to the output of one linear layer.

    Parameters
    ----------
    layer : nn.Linear
        Whose shape, device and kind of number it takes.
    rank : int
        r, below the layer's smaller side.
    alpha : float
        Scale of the product, divided by r.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        weight = layer.weight
        self.low_rank = LowRankLinear(
            layer.in_features, layer.out_features, rank, alpha, bias=False, device=weight.device, dtype=weight.dtype
        )

    def change(self, given: Tensor, output: Tensor) -> Tensor:
        """Add the update."""
        return output + self.low_rank(given)

    def fold(self, layer: nn.Module) -> None:
        """Add the product to the weight."""
        new: Any = layer
        new.weight = new_parameter(new.weight + self.low_rank.weight)


@dataclass(frozen=True)
class LoRA:
    """Add a low-rank update to every linear layer whose smaller side is above the rank.

    Parameters
    ----------
    rank : int, default 4
        r.
    alpha : float, default 8
        Scale of the product, divided by the rank.
    leave_out : tuple of str, default ("classifier", "head")
        Layers with one of these among the parts of their name are left alone.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).requires_grad_(False)
    >>> x, before = torch.ones(3, 16), model(torch.ones(3, 16))
    >>> adapted = LoRA(rank=2).attach(model)
    >>> sum(each.numel() for each in adapted.parameters() if each.requires_grad), torch.equal(adapted(x), before)
    (176, True)
    """

    rank: int = 4
    alpha: float = 8.0
    leave_out: tuple[str, ...] = CLASSIFIERS

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise FewerError(f"lora: rank is {self.rank!r}; give a whole number of 1 or more")

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build them in, in place."""
        return attach(model, changes(model, self.update_for, self.leave_out))

    def update_for(self, layer: nn.Module) -> LowRankUpdate | None:
        """The update that fits a layer, or None where it is not linear or no larger than the rank."""
        # attention's own projection is of a subclass, and is not called as a layer
        if type(layer) is not nn.Linear or min(layer.in_features, layer.out_features) <= self.rank:
            return None
        return LowRankUpdate(layer, self.rank, self.alpha)
