"""Rectified perceptrons side by side that share nothing, with a gradient written out by hand.

For each member and layer, with h the layer's inputs, W its weights, b its biases and, where there are norms, g and o theirs:

    z = h W + b,        h' = max(0, z)      or      h' = max(0, g norm(z) + o).

The last layer has one output and nothing after it.  Automatic differentiation would go through the same products; written out,
the gradient works in place and leaves out what nobody asks for.  On a processor, many members are computed one after another:
what lies between the layers of one fits into the cache, of all it does not, and then waiting for memory takes longer than the
products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewer.models.translated import translated

EPSILON = 1e-5

APART = 2**18
"""Numbers between two layers of all members from which on members are computed one after another."""

Kept = list[list[Tensor]]
"""What a gradient needs of members computed together, layer by layer: with norms z, its mean and inverse deviation; then h'."""


def perceptrons(
    seen: Float[Tensor, "rows seen"],
    done: Float[Tensor, "rows done"],
    parameters: Sequence[Tensor],
    layer_norm: bool = False,
    compiled: bool = False,
) -> Float[Tensor, "members rows"]:
    """Apply all members to the same rows.

    Parameters
    ----------
    seen, done : float tensor (rows, ...)
        Two parts of the inputs, side by side; no gradient is computed for a part that asks for none.
    parameters : sequence of tensors
        Weights (members, inputs, outputs) and biases (members, outputs) of each layer; with norms, also their gains and
        offsets (members, outputs), in all layers but the last, which has one output.
    layer_norm : bool, default False
        Whether there are norms.
    compiled : bool, default False
        Go through ``torch.compile`` where no gradient is asked for.  The first call of each shape takes seconds.

    Raises
    ------
    FewerError
        If nothing can be compiled here.

    Examples
    --------
    >>> weights, biases = torch.ones(2, 3, 1), torch.tensor([[0.0], [1.0]])
    >>> perceptrons(torch.ones(4, 2), torch.ones(4, 1), [weights, biases])
    tensor([[3., 3., 3., 3.],
            [4., 4., 4., 4.]])
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in (seen, done, *parameters)):
        return _Perceptrons.apply(seen, done, layer_norm, *parameters)  # pyright: ignore[reportReturnType]
    return (translated(_values) if compiled else _values)(seen, done, parameters, layer_norm)


def _values(seen: Tensor, done: Tensor, parameters: Sequence[Tensor], layer_norm: bool) -> Tensor:
    return _forward(torch.cat([seen, done], dim=-1), layer_norm, parameters, None)


def _layers(parameters: Sequence[Any], layer_norm: bool) -> list[Sequence[Any]]:
    each = 4 if layer_norm else 2
    return [parameters[first : first + each] for first in range(0, len(parameters), each)]


def _blocks(rows: int, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The parameters of those members that are computed together."""
    weight = parameters[0]
    # a compiler finds its own way around memory
    if torch.compiler.is_compiling() or weight.device.type != "cpu" or rows * len(weight) * weight.shape[-1] < APART:
        return [parameters]
    return list(zip(*(each.split(1) for each in parameters), strict=True))


def squared_error(
    seen: Float[Tensor, "rows seen"],
    done: Float[Tensor, "rows done"],
    target: Float[Tensor, " rows"],
    parameters: Sequence[Tensor],
    layer_norm: bool = False,
    compiled: bool = False,
) -> tuple[Float[Tensor, "members rows"], list[Tensor]]:
    """Values of all members, and how the mean squares of their errors change with the parameters.

    Both ways are gone in one pass, so that each member's activations are still in the cache on the way back.

    Parameters
    ----------
    seen, done, parameters, layer_norm, compiled
        As of :func:`perceptrons`; nothing here is differentiable.
    target : float tensor (rows,)
        What all members should say.

    Returns
    -------
    values : float tensor (members, rows)
        What they say.
    gradients : list of tensor
        For each of the parameters, of the sum over members of their mean squares.

    Examples
    --------
    >>> weights, biases = torch.ones(2, 1, 1), torch.tensor([[0.0], [1.0]])
    >>> seen, nothing = torch.ones(4, 1), torch.ones(4, 0)
    >>> squared_error(seen, nothing, torch.full((4,), 1.5), [weights, biases])[1][1]
    tensor([[-1.],
            [ 1.]])
    """
    with torch.no_grad():
        function = translated(_squared_error) if compiled else _squared_error
        return function(seen, done, target, parameters, layer_norm)


def _squared_error(
    seen: Tensor, done: Tensor, target: Tensor, parameters: Sequence[Tensor], layer_norm: bool
) -> tuple[Tensor, list[Tensor]]:
    x, values = torch.cat([seen, done], dim=-1), []
    gradients = [torch.empty_like(each) for each in parameters]
    for block, into in zip(_blocks(len(x), parameters), _blocks(len(x), gradients), strict=True):
        kept: Kept = []
        values.append(_through_all(x, layer_norm, block, kept))
        _backward(x, layer_norm, (values[-1] - target).mul_(2 / len(x)), block, kept, into)
    return values[0] if len(values) == 1 else torch.cat(values), gradients


def _forward(x: Tensor, layer_norm: bool, parameters: Sequence[Tensor], kept: list[Kept] | None) -> Tensor:
    """The values; what the gradient needs is added to a list, for each block."""
    values = []
    for block in _blocks(len(x), parameters):
        of_block: Kept | None = None if kept is None else []
        values.append(_through_all(x, layer_norm, block, of_block))
        if kept is not None and of_block is not None:
            kept.append(of_block)
    return values[0] if len(values) == 1 else torch.cat(values)


def _through_all(x: Tensor, layer_norm: bool, block: Sequence[Tensor], kept: Kept | None) -> Tensor:
    """Through all layers of a block."""
    *hidden, (weight, bias) = _layers(block, layer_norm)
    h = x.expand(len(weight), -1, -1)
    for layer in hidden:
        z = torch.baddbmm(layer[1][:, None], h, layer[0])
        if layer_norm:
            h, mean, scale = _norm(z, layer[2], layer[3])
            h = h.relu_()
        else:
            h = z.relu_()
        if kept is not None:
            kept.append([z, mean, scale, h] if layer_norm else [h])  # pyright: ignore[reportPossiblyUnboundVariable]
    return torch.bmm(h, weight)[..., 0].add_(bias)


class _Perceptrons(torch.autograd.Function):
    """The gradient."""

    @staticmethod
    def forward(ctx: Any, seen: Tensor, done: Tensor, layer_norm: bool, *parameters: Tensor) -> Tensor:
        ctx.x, ctx.kept = torch.cat([seen, done], dim=-1), []
        ctx.layer_norm, ctx.split = layer_norm, seen.shape[-1]
        ctx.save_for_backward(*parameters)
        return _forward(ctx.x, layer_norm, parameters, ctx.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        parameters: Sequence[Tensor] = ctx.saved_tensors
        asked_seen, asked_done, _, *asked = ctx.needs_input_grad
        if not any(asked) and slope.device.type == "cpu" and 5 * int(slope.count_nonzero()) < 3 * slope.numel():
            return *_of_few_rows(ctx, slope, _layers(parameters, ctx.layer_norm)), None, *(None for _ in asked)
        gradients = [torch.empty_like(each) if wanted else None for each, wanted in zip(parameters, asked, strict=True)]
        # few rows times many columns: the other way round the product takes twice the time
        of_x = (
            [slice(0 if asked_seen else ctx.split, None if asked_done else ctx.split)]
            if asked_seen or asked_done
            else []
        )
        parts: list[Tensor] = []
        first = 0
        for block, kept in zip(_blocks(len(ctx.x), parameters), ctx.kept, strict=True):
            until = first + len(block[0])
            into = [None if each is None else each[first:until] for each in gradients]
            back = _backward(ctx.x, ctx.layer_norm, slope[first:until], block, list(kept), into)
            parts += [torch.bmm(block[0][:, columns], back.mT).sum(0) for columns in of_x]
            first = until
        whole = sum(parts[1:], parts[0]).mT if parts else None
        of_seen = whole[:, : ctx.split] if whole is not None and asked_seen else None
        of_done = whole[:, ctx.split if asked_seen else 0 :] if whole is not None and asked_done else None
        return of_seen, of_done, None, *gradients


def _backward(
    x: Tensor, layer_norm: bool, of_values: Tensor, block: Sequence[Tensor], kept: Kept, into: Sequence[Any]
) -> Tensor:
    """Fill in the gradients of a block's parameters, using up what was kept; give that of what the first layer made."""
    layers, gradients = _layers(block, layer_norm), _layers(into, layer_norm)
    below = x.expand(len(block[0]), -1, -1)
    weight, bias = gradients[-1]
    if weight is not None:
        torch.bmm(of_values[:, None], kept[-1][-1] if kept else below, out=weight.mT)
    if bias is not None:
        torch.sum(of_values, 1, keepdim=True, out=bias)
    slope = of_values[..., None]
    for number in reversed(range(len(kept))):
        # through the weights of the layer after this one, then back through this one's rectifier
        *normed, h = kept.pop()
        slope = _through(slope, layers[number + 1][0].mT, h)
        if normed:
            z, mean, scale = normed
            slope = _through_norm(slope, z, mean, scale, *layers[number][2:], into=gradients[number][2:])
            del z
        del normed, h  # each member's room is at once the next one's
        weight, bias = gradients[number][:2]
        if weight is not None:
            torch.bmm((kept[-1][-1] if kept else below).mT, slope, out=weight)
        if bias is not None:
            torch.sum(slope, 1, out=bias)
    return slope


def _through(slope: Tensor, weight: Tensor, h: Tensor) -> Tensor:
    """Back through weights, and through the rectifier that stands before them."""
    slope = slope * weight if weight.shape[-2] == 1 else torch.matmul(slope, weight)
    return torch.ops.aten.threshold_backward.grad_input(slope, h, 0, grad_input=slope)


def _norm(z: Tensor, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise, scale and shift; with the means and inverse deviations."""
    if len(z) == 1:  # in one go
        return torch.native_layer_norm(z, z.shape[-1:], gain[0], offset[0], EPSILON)
    normal, mean, scale = torch.native_layer_norm(z, z.shape[-1:], None, None, EPSILON)
    return torch.addcmul(offset[:, None], normal, gain[:, None]), mean, scale


def _through_norm(
    slope: Tensor,
    z: Tensor,
    mean: Tensor,
    scale: Tensor,
    gain: Tensor,
    offset: Tensor,
    into: Sequence[Any] = (None, None),
) -> Tensor:
    """Back through a norm; gradients of its gains and offsets are filled in where they are asked for."""
    one = len(z) == 1
    if not one:
        if into[0] is not None:
            torch.sum(slope * (z - mean).mul_(scale), 1, out=into[0])
        if into[1] is not None:
            torch.sum(slope, 1, out=into[1])
        slope = slope.mul_(gain[:, None])
    made = torch.ops.aten.native_layer_norm_backward(
        slope,
        z,
        z.shape[-1:],
        mean,
        scale,
        gain[0] if one else None,
        offset[0] if one else None,
        [True, *(one and each is not None for each in into)],
    )
    for gradient, each in zip(into, made[1:], strict=True):
        if one and gradient is not None:
            gradient[0] = each
    return made[0]


def _of_few_rows(ctx: Any, slope: Tensor, layers: list[Sequence[Tensor]]) -> list[Tensor | None]:
    """The gradient of both parts of the inputs where many rows of many members have none, as with the least of several."""
    columns = [slice(ctx.split), slice(ctx.split, None)]
    asked = list(ctx.needs_input_grad[:2])
    width = layers[0][0].shape[1]
    made: list[Tensor | None] = [
        slope.new_zeros(slope.shape[1], len(range(width)[part])) if wanted else None
        for part, wanted in zip(columns, asked, strict=True)
    ]
    # each member of each block that was computed together
    members = [(kept, place) for kept in ctx.kept for place in range(len(slope) // len(ctx.kept))]
    for member, (of_rows, (kept, place)) in enumerate(zip(slope, members, strict=True)):
        rows = of_rows.nonzero()[:, 0]
        back = of_rows[rows, None]
        for number in reversed(range(len(layers) - 1)):
            *normed, h = (each[place].index_select(0, rows) for each in kept[number])
            back = _through(back, layers[number + 1][0][member].mT, h)
            if normed:
                z, mean, scale = normed
                gain, offset = (each[member, None] for each in layers[number][2:])
                back = _through_norm(back[None], z[None], mean[None], scale[None], gain, offset)[0]
        for part, gradient in zip(columns, made, strict=True):
            if gradient is not None:
                gradient.index_add_(0, rows, back @ layers[0][0][member, part].mT)
    return made
