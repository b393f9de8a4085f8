"""Piecewise-linear encodings and embeddings of numbers.

A feature's range is cut into bins at its quantiles.  A value is then described by how far it has come in
each bin, so that a linear layer behind can learn any function that is linear between the cuts.

With edges b_0 < … < b_T of a feature, component t = 1 … T of the encoding of x is
``(x - b_{t-1}) / (b_t - b_{t-1})``, cut off at 0 (except for t = 1) and at 1 (except for t = T), so that
values outside the range go on linearly.

References
----------
Yury Gorishniy, Ivan Rubachev, Artem Babenko, "On Embeddings for Numerical Features in Tabular Deep
Learning", NeurIPS 2022, arXiv:2203.05556; the embedding is the one of arXiv:2410.24210.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError


def quantile_bins(x: Float[Tensor, "rows features"], count: int = 48) -> list[Float[Tensor, " edges"]]:
    """Cut each feature at its quantiles.

    Parameters
    ----------
    x : float tensor (rows, features)
        Finite, no column constant.
    count : int, default 48
        Bins at most; equal quantiles are joined, so a feature of few values has fewer.

    Returns
    -------
    list of float tensor (edges,)
        Increasing, at least two for each feature.

    Raises
    ------
    FewerError
        If the rows hold NaN or infinity, a column is constant, or fewer than two bins are asked for.

    Examples
    --------
    >>> quantile_bins(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), count=2)
    [tensor([ 0.0000,  1.5000, 10.0000])]
    """
    if count < 2:
        raise FewerError(f"quantile bins: {count} bins were asked for; give 2 or more")
    if not x.isfinite().all():
        raise FewerError("quantile bins: the rows hold NaN or infinity; fill or drop them")
    constant = (x == x[:1]).all(dim=0)
    if len(x) < 2 or constant.any():
        column = int(constant.int().argmax())
        raise FewerError(f"quantile bins: column {column} holds a single value; leave it out")
    # NumPy's quantiles have no limit on the number of rows, torch's do
    edges = np.quantile(x.detach().cpu().double().numpy(), np.linspace(0, 1, count + 1), axis=0)
    return [column.unique() for column in torch.from_numpy(edges).to(x).T]


class PiecewiseLinearEncoding(nn.Module):
    """Describe each number by how far it has come in each bin; nothing is learned.

    Parameters
    ----------
    bins : sequence of float tensor (edges,)
        The edges of each feature's bins, increasing, at least two.

    Notes
    -----
    The output is padded with zeros to the largest number of bins, between a feature's last bin but one and
    its last, so that the last bin has the same place for all features.

    Raises
    ------
    FewerError
        If there is no feature, or edges do not increase.

    Examples
    --------
    >>> encoding = PiecewiseLinearEncoding([torch.tensor([0.0, 1.0, 3.0, 4.0])])
    >>> encoding(torch.tensor([[2.0], [-1.0], [5.0]])).squeeze(1)
    tensor([[ 1.0000,  0.5000,  0.0000],
            [-1.0000,  0.0000,  0.0000],
            [ 1.0000,  1.0000,  2.0000]])
    """

    slope: Tensor
    offset: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, bins: Sequence[Float[Tensor, " edges"]]) -> None:
        super().__init__()
        for feature, edges in enumerate(bins):
            if edges.ndim != 1 or len(edges) < 2 or not edges.isfinite().all() or not (edges.diff() > 0).all():
                raise FewerError(
                    f"piecewise-linear encoding: the edges of feature {feature} are {edges.tolist()}; "
                    "give two or more finite ones that increase"
                )
        if not bins:
            raise FewerError("piecewise-linear encoding: no feature was given; give the edges of one or more")
        counts = [len(edges) - 1 for edges in bins]
        shape = (len(bins), max(counts))
        slope, offset = bins[0].new_zeros(shape), bins[0].new_zeros(shape)
        lowest, highest = bins[0].new_zeros(shape), bins[0].new_ones(shape)
        for feature, (edges, count) in enumerate(zip(bins, counts, strict=True)):
            places = [*range(count - 1), shape[1] - 1]
            slope[feature, places] = 1 / edges.diff()
            offset[feature, places] = -edges[:-1] / edges.diff()
            lowest[feature, places[0]], highest[feature, -1] = -torch.inf, torch.inf
        for name, value in (("slope", slope), ("offset", offset), ("lowest", lowest), ("highest", highest)):
            self.register_buffer(name, value)
        self.features, self.width = shape

    def forward(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features bins"]:
        """Encode numbers."""
        return torch.addcmul(self.offset, self.slope, x[..., None]).clamp(self.lowest, self.highest)


class PiecewiseLinearEmbedding(nn.Module):
    """Turn each number into a vector that is linear between the cuts, and learned.

    The sum of a linear function of the number and a linear function of its encoding.  The second begins at
    zero, so that training begins with a linear embedding and bends it where that helps.

    Parameters
    ----------
    bins : sequence of float tensor (edges,)
        As from :func:`quantile_bins`.
    width : int, default 16
        Length of a feature's vector.

    Examples
    --------
    >>> embedding = PiecewiseLinearEmbedding([torch.tensor([0.0, 1.0, 3.0])] * 5, width=8)
    >>> embedding(torch.rand(2, 5)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, bins: Sequence[Float[Tensor, " edges"]], width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise FewerError(f"piecewise-linear embedding: width is {width}; give 1 or more")
        self.encoding = PiecewiseLinearEncoding(bins)
        self.width = width
        bound = width**-0.5
        self.linear = nn.Parameter(torch.empty(len(bins), width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(bins), width).uniform_(-bound, bound))
        self.bent = nn.Parameter(torch.zeros(len(bins), self.encoding.width, width))

    def forward(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features width"]:
        """Embed numbers."""
        encoded = self.encoding(x).transpose(0, 1)
        straight = torch.addcmul(self.bias, self.linear, x[..., None])
        return straight + torch.bmm(encoded, self.bent).transpose(0, 1)
