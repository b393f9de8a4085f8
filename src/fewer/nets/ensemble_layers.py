"""Layers of k networks side by side, each one batched matrix product, and what follows them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fewer.models.ensemble import LinearEnsemble

__all__ = ["LinearBatchEnsemble", "LinearEnsemble", "relu_dropout"]


class LinearBatchEnsemble(nn.Module):
    """Linear layers of k members that share their matrix.

    Parameters
    ----------
    inputs, outputs : int
        Widths.
    k : int
        Members.

    Examples
    --------
    >>> layer = LinearBatchEnsemble(5, 3, k=4)
    >>> layer(torch.zeros(2, 4, 5)).shape
    torch.Size([2, 4, 3])
    """

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.r = nn.Parameter(torch.ones(k, inputs))
        self.s = nn.Parameter(torch.ones(k, outputs))
        # one draw for all: members that differ in every layer have less in common than they should
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound).repeat(k, 1))

    def forward(self, x: Float[Tensor, "rows #k inputs"]) -> Float[Tensor, "rows k outputs"]:
        """Apply each member's layer to its own rows, or to the rows of all where the second axis is 1."""
        return torch.addcmul(self.bias, functional.linear(x * self.r, self.weight), self.s)


def relu_dropout(x: Float[Tensor, "..."], drop: float) -> Float[Tensor, "..."]:
    """ReLU, then dropout, in place.

    Parameters
    ----------
    x : float tensor
        No leaf of a graph; it is overwritten.
    drop : float
        Share of the units that become zero, the others growing to make up for it; 0 drops none.

    Examples
    --------
    >>> relu_dropout(torch.tensor([-1.0, 2.0]), 0.0)
    tensor([0., 2.])
    """
    if drop == 0:
        return functional.relu_(x)
    if x.is_cuda:
        return functional.dropout(functional.relu_(x), drop)
    return _ReLUDropout.apply(x, drop)  # pyright: ignore[reportReturnType]


class _ReLUDropout(torch.autograd.Function):
    """On a CPU, drawing the mask takes as long as the matrix product if every unit has a draw of its own.

    A random 64-bit number decides on four units here, each dropped with its probability rounded to 1/65536.
    Backward needs nothing but the output: a unit that is zero passes nothing back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: float) -> Tensor:
        count, dropped = x.numel(), round(drop * 2**16)
        numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = numbers.view(torch.int16)[:count].view(x.shape) >= dropped - 2**15
        ctx.scale = 2**16 / (2**16 - dropped)
        x.clamp_(min=0).mul_(keep.to(x.dtype).mul_(ctx.scale))
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], y, 0).mul_(ctx.scale), None
