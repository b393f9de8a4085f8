"""Networks side by side that share nothing, computed as one batched matrix product."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LinearEnsemble(nn.Module):
    """Linear layers of k members that share nothing, as one batched matrix product.

    Parameters
    ----------
    inputs, outputs : int
        Widths.
    k : int
        Members.

    Examples
    --------
    >>> LinearEnsemble(5, 3, k=4)(torch.zeros(2, 4, 5)).shape
    torch.Size([2, 4, 3])
    """

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(k, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(k, outputs).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "rows #k inputs"]) -> Float[Tensor, "rows k outputs"]:
        """Apply each member's layer to its own rows, or to the rows of all where the second axis is 1."""
        members = x.expand(-1, len(self.weight), -1).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], members, self.weight).transpose(0, 1)


class LayerNormEnsemble(nn.Module):
    """Layer norms of k members, each with gains and offsets of its own.

    Parameters
    ----------
    width : int
        Features of each member.
    k : int
        Members.

    Examples
    --------
    >>> LayerNormEnsemble(3, k=4)(torch.randn(2, 4, 3)).shape
    torch.Size([2, 4, 3])
    """

    def __init__(self, width: int, k: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(k, width))
        self.bias = nn.Parameter(torch.zeros(k, width))

    def forward(self, x: Float[Tensor, "rows k width"]) -> Float[Tensor, "rows k width"]:
        """Normalise the features of each member of each row."""
        return torch.addcmul(self.bias, nn.functional.layer_norm(x, x.shape[-1:]), self.weight)
