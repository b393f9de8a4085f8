"""H3 with long convolutions: queries gate what long convolutions carry of keys and values, for language models.

Per head, with two learned kernels in the place of H3's state spaces::

    o = q . (K2 * ((K1 * k) v^T)),    q, k, v = linear maps of the input

References
----------
Daniel Y. Fu et al., "Simple Hardware-Efficient Long Convolutions for Sequence Modeling", ICML 2023, arXiv:2302.06646.
Daniel Y. Fu et al., "Hungry Hungry Hippos: Towards Language Modeling with State Space Models", ICLR 2023,
arXiv:2212.14052.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.nets.convolution import causal_convolution
from fewer.nets.long_kernel import Init, LongKernel


class H3Conv(nn.Module):
    """A causal mixer of sequences with gates, in O(length log length), where attention would be.

    Parameters
    ----------
    d_model : int
        Channels of the sequence.
    l_max : int
        Longest sequence.
    head_dim : int, default 1
        Channels of a head; a head carries ``head_dim`` squared products.
    lam, kernel_dropout, smooth, init, kernel_lr
        Of both kernels; see :class:`~fewer.nets.long_kernel.LongKernel`.

    Examples
    --------
    >>> H3Conv(8, 64, head_dim=2)(torch.randn(3, 50, 8)).shape
    torch.Size([3, 50, 8])
    """

    def __init__(
        self,
        d_model: int,
        l_max: int,
        head_dim: int = 1,
        lam: float = 0.001,
        kernel_dropout: float = 0.2,
        smooth: int | None = None,
        init: Init = "random",
        kernel_lr: float | None = 1e-3,
    ) -> None:
        super().__init__()
        if head_dim < 1 or d_model % head_dim:
            raise FewerError(f"h3-conv: d_model={d_model} cannot be cut into heads of {head_dim}")
        self.d_model, self.head_dim, heads = d_model, head_dim, d_model // head_dim
        self.project = nn.Linear(d_model, 3 * d_model)

        def kernel(channels: int) -> LongKernel:
            return LongKernel(channels, l_max, 1, lam, kernel_dropout, smooth, None, init, kernel_lr)

        self.shift, self.shift_skip = kernel(d_model), nn.Parameter(torch.randn(d_model))
        self.carry, self.carry_skip = kernel(heads), nn.Parameter(torch.randn(heads))
        self.output = nn.Linear(d_model, d_model)

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Mix.

        Raises
        ------
        FewerError
            If the input has another shape or is longer than ``l_max``.
        """
        if u.ndim != 3 or u.shape[2] != self.d_model:
            raise FewerError(f"h3-conv: inputs are (batch, length, {self.d_model}); these are {tuple(u.shape)}")
        length = u.shape[1]
        q, k, v = self.project(u).mT.chunk(3, dim=1)
        k = causal_convolution(k, self.shift(length)[0]) + self.shift_skip[:, None].to(k.dtype) * k
        # (batch, head, channel, length): every channel of a key with every one of the value
        q, k, v = (each.unflatten(1, (-1, self.head_dim)) for each in (q, k, v))
        pairs = k[:, :, :, None] * v[:, :, None]
        carried = causal_convolution(pairs, self.carry(length)[0][:, None, None])
        carried = carried + self.carry_skip[:, None, None, None].to(pairs.dtype) * pairs
        return self.output((q[:, :, :, None] * carried).sum(dim=2).flatten(1, 2).mT)
