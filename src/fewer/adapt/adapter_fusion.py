"""AdapterFusion: attention over the frozen adapters of several tasks, for each token.

With x what the adapters read and o_t what task t's would add::

    p = softmax_t( (W_Q x + b_Q) . (W_K o_t + b_K) ),      sum_t p_t W_V o_t         is added

W_V begins as the identity (1e-6 beside the diagonal).  Keys and values are linear, so W_K is turned round onto the query and
W_V is applied to the sum: no key and no value of a single task is ever made.

References
----------
Pfeiffer, Kamath, Rücklé, Cho and Gurevych, "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021,
arXiv:2005.00247.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.bottleneck_adapter import Bottlenecks, Composed
from fewer.adapt.source_adapters import Sources, attach_sources
from fewer.core.errors import FewerError
from fewer.core.loop import Task


class Fused(Composed):
    """Attention over adapters at one place.

    Parameters
    ----------
    adapters, norm
        See :class:`~fewer.adapt.bottleneck_adapter.Composed`.
    dropout : float, default 0.1
        Of the attention's scores, while training.
    lr : float, default 5e-5
        Peak learning rate.
    """

    def __init__(
        self, adapters: Bottlenecks, norm: nn.LayerNorm | None, dropout: float = 0.1, lr: float = 5e-5
    ) -> None:
        super().__init__(adapters, norm)
        width = adapters.up_bias.shape[-1]
        self.query, self.key = (nn.Parameter(0.02 * torch.randn(width, width)) for _ in range(2))
        self.query_bias, self.key_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.register_buffer("start", torch.full((width, width), 1e-6).fill_diagonal_(1.0), persistent=False)
        self.value = nn.Parameter(torch.zeros(width, width))
        self.dropout, self.lr = nn.Dropout(dropout), lr

    start: Tensor

    def attention(
        self, x: Float[Tensor, "... width"], outputs: Float[Tensor, "... tasks width"]
    ) -> Float[Tensor, "... tasks"]:
        """How much each task is attended to."""
        query = nn.functional.linear(x, self.query, self.query_bias)
        scores = torch.einsum("...w,...tw->...t", query @ self.key, outputs)
        scores = scores + (query * self.key_bias).sum(-1, keepdim=True)
        return self.dropout(scores).softmax(-1)

    def added(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The attended sum, through the value's matrix."""
        outputs = self.adapters.outputs(x)
        seen = torch.einsum("...t,...tw->...w", self.attention(x, outputs), outputs)
        return nn.functional.linear(seen, self.start + self.value)

    def own_groups(self) -> list[dict[str, Any]]:
        """Its own rate.

        The published loss draws W_V to the identity; here what differs from it decays.
        """
        still = [self.query, self.query_bias, self.key, self.key_bias]
        return [
            {"params": still, "lr": self.lr, "weight_decay": 0.0},
            {"params": [self.value], "lr": self.lr, "weight_decay": 0.01},
        ]


@dataclass(frozen=True)
class AdapterFusion:
    """Attention over source adapters in each layer, for the slot ``adapter``.

    Parameters
    ----------
    adapters : mapping of str to TaskAdapter, or path, optional
        See :class:`~fewer.adapt.scalearn.ScaLearn`.
    dropout : float, default 0.1
        Of the attention's scores.
    lr : float, default 5e-5
        Peak learning rate of the attention; the head's is the loop's.

    Examples
    --------
    >>> fusion_parameters(width=768, layers=12)
    21252096
    """

    adapters: Sources = None
    dropout: float = 0.1
    lr: float = 5e-5

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1 or not self.lr > 0:
            raise FewerError(f"fusion: dropout must lie in [0, 1) and lr be above 0; given {self}")

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build it in, in place."""
        return attach_sources(
            model, self.adapters, "fusion", lambda stacked, norm, _: Fused(stacked, norm, self.dropout, self.lr)
        )


def fusion_parameters(width: int, layers: int) -> int:
    """How many numbers AdapterFusion trains, whatever the number of tasks: three matrices and two biases a layer."""
    return layers * (3 * width * width + 2 * width)
