"""What contrastive losses are made of: how alike two views of a thing are, and how alike it is to everything else.

For row ``i`` of ``n`` with views ``a`` and ``b``, projected and brought to length one, both losses of the room are
functions of two numbers in each direction: the logit of the pair ``s = <a_i, b_i> / t`` and
``u = log sum_j exp(<a_i, z_j> / t)`` over the views ``z_j`` of *other* rows.

    InfoNCE:  -log(e^s / (e^s + e^u)) = softplus(u - s)
    decoupled:                           u - s

The sum is taken block by block, forwards and backwards, so that memory grows with the rows and not with their square.

Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748.
Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError

Negatives = Literal["both views", "other view"]
"""Whose views a view is told apart from: both of each other row, or only the other one (as between image and text)."""

BLOCK = 128
"""Rows of the table of similarities that are there at one time."""


class Objective(Protocol):
    """How badly two views of the same rows recognise each other among the others."""

    def __call__(
        self,
        first: Float[Tensor, "rows width"],
        second: Float[Tensor, "rows width"],
        temperature: Float[Tensor, ""] | None = None,
        negatives: Negatives | None = None,
    ) -> Float[Tensor, " rows"]:
        """Loss of each row, the mean of both directions; never reduced.

        Views need not be of length one.  ``temperature`` stands for the loss's own where it is learned, ``negatives``
        says which make sense between these views where the loss leaves it open.
        """
        ...


class _LogSumOthers(torch.autograd.Function):
    """``log sum_j exp(<a_i, z_j> / t)`` over all columns but some of each row, without the table."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, temperature: Tensor, period: int, block: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
        for begin in range(0, len(rows), block):
            found[begin : begin + block] = _table(rows, columns, temperature, period, begin, block).logsumexp(1)
        ctx.save_for_backward(rows, columns, temperature, found)
        ctx.period, ctx.block = period, block
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, columns, temperature, found = ctx.saved_tensors
        to_rows, to_columns = torch.empty_like(rows), torch.zeros_like(columns)
        to_temperature = torch.zeros_like(temperature)
        for begin in range(0, len(rows), ctx.block):
            part = slice(begin, begin + ctx.block)
            table = _table(rows, columns, temperature, ctx.period, begin, ctx.block)
            weights = table.sub(found[part, None]).exp_().mul_(gradient[part, None])
            if ctx.needs_input_grad[2]:
                # where nothing is counted the weight is 0 and the logit minus infinity
                to_temperature -= torch.where(weights == 0, 0, weights * table).sum() / temperature
            to_rows[part] = weights @ columns
            to_columns.addmm_(weights.T, rows[part])
        to_rows /= temperature
        to_columns /= temperature
        return to_rows, to_columns, to_temperature if ctx.needs_input_grad[2] else None, None, None


def _table(rows: Tensor, columns: Tensor, temperature: Tensor, period: int, begin: int, block: int) -> Tensor:
    """Logits of some rows, minus infinity for columns that are of the same row: every ``period``-th."""
    table = rows[begin : begin + block] @ columns.T
    table /= temperature
    own = torch.arange(begin, begin + len(table), device=rows.device) % period
    places = torch.arange(len(table), device=rows.device)
    for shift in range(0, len(columns), period):
        table[places, own + shift] = -torch.inf
    return table


def logits(
    first: Float[Tensor, "rows width"],
    second: Float[Tensor, "rows width"],
    temperature: float | Float[Tensor, ""],
    negatives: Negatives = "both views",
    block: int = BLOCK,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "2 rows"]]:
    """How alike the two views of each row are, and how alike each is to the views of others.

    Parameters
    ----------
    first, second : float tensor (rows, width)
        Two views of each row; they are brought to length one here.
    temperature : float, or float tensor ()
        What cosines are divided by.
    negatives : {"both views", "other view"}
        See :data:`Negatives`.
    block : int, default 128
        Rows of the table of similarities that are there at one time.

    Returns
    -------
    pair : float tensor (rows,)
        ``<a_i, b_i> / t``.
    others : float tensor (2, rows)
        ``log sum exp`` over the views of other rows, seen from the first view and from the second.

    Raises
    ------
    FewerError
        If there are fewer than two rows, their shapes differ, or a number is NaN or infinite.

    Examples
    --------
    >>> pair, others = logits(torch.eye(3), torch.eye(3), temperature=1.0)
    >>> pair.tolist(), others[0].exp().tolist()
    ([1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise FewerError(
            f"contrastive loss: views must be two matrices of one shape; given {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if len(first) < 2:
        raise FewerError(
            f"contrastive loss: a batch of {len(first)} has nothing to tell it apart from; give 2 rows or more"
        )
    checked_negatives(negatives)
    first, second = (nn.functional.normalize(each, dim=1) for each in (first, second))
    scale = torch.as_tensor(temperature, dtype=first.dtype, device=first.device)
    pair = (first * second).sum(1) / scale
    if not torch.isfinite(pair).all():
        raise FewerError("contrastive loss: a view holds NaN or infinity; lower the learning rate or look at the data")
    rows = len(first)
    both = torch.cat([first, second])
    if negatives == "both views":
        others = _LogSumOthers.apply(both, both, scale, rows, block)
        return pair, others.reshape(2, rows)  # pyright: ignore[reportAttributeAccessIssue]
    return pair, torch.stack(
        [_LogSumOthers.apply(one, other, scale, rows, block) for one, other in ((first, second), (second, first))]  # pyright: ignore[reportArgumentType, reportCallIssue]
    )


class InfoNCE(nn.Module):
    """The usual contrastive loss: recognise the other view of the same row among those of all rows (NT-Xent).

    Parameters
    ----------
    temperature : float, default 0.1
        What cosines are divided by.
    negatives : {"both views", "other view"}, optional
        SimCLR's and CLIP's, in this order; by default what the views' towers ask for, and both views where nothing does.

    Examples
    --------
    >>> InfoNCE(1.0, "other view")(torch.ones(4, 3), torch.ones(4, 3)).exp().round().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """

    def __init__(self, temperature: float = 0.1, negatives: Negatives | None = None) -> None:
        super().__init__()
        self.temperature = checked_temperature(temperature)
        self.negatives: Negatives | None = checked_negatives(negatives)

    def forward(
        self,
        first: Float[Tensor, "rows width"],
        second: Float[Tensor, "rows width"],
        temperature: Float[Tensor, ""] | None = None,
        negatives: Negatives | None = None,
    ) -> Float[Tensor, " rows"]:
        """Loss of each row (see :class:`Objective`)."""
        scale = self.temperature if temperature is None else temperature
        pair, others = logits(first, second, scale, self.negatives or negatives or "both views")
        return nn.functional.softplus(others - pair).mean(0)

    def extra_repr(self) -> str:
        """Its numbers."""
        return f"temperature={self.temperature}, negatives={self.negatives!r}"


def checked_temperature(temperature: float) -> float:
    """Refuse a temperature that is not above zero."""
    if not temperature > 0:
        raise FewerError(f"contrastive loss: the temperature is {temperature}; give a number above 0, such as 0.1")
    return temperature


def checked_negatives(negatives: Negatives | None) -> Negatives | None:
    """Refuse a name of negatives that is none."""
    if negatives not in (None, "both views", "other view"):
        raise FewerError(f"contrastive loss: negatives is 'both views' or 'other view'; it is {negatives!r}")
    return negatives
