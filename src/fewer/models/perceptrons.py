"""Rectified perceptrons side by side that share nothing, with a gradient written out by hand.

For each member and layer, with h the layer's inputs, W its weights, b its biases and, where there are norms, g and o theirs:

    z = h W + b,        h' = max(0, z)      or      h' = max(0, g norm(z) + o).

The last layer has one output and nothing after it.  Automatic differentiation would go through the same products; written out,
the gradient works in place, leaves out what nobody asks for, and the last layer, which has too few columns for a matrix
product, is a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-5


def perceptrons(
    seen: Float[Tensor, "rows seen"],
    done: Float[Tensor, "rows done"],
    parameters: Sequence[Tensor],
    layer_norm: bool = False,
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

    Examples
    --------
    >>> weights, biases = torch.ones(2, 3, 1), torch.tensor([[0.0], [1.0]])
    >>> perceptrons(torch.ones(4, 2), torch.ones(4, 1), [weights, biases])
    tensor([[3., 3., 3., 3.],
            [4., 4., 4., 4.]])
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in (seen, done, *parameters)):
        return _Perceptrons.apply(seen, done, layer_norm, *parameters)  # pyright: ignore[reportReturnType]
    return _forward(seen, done, layer_norm, parameters, None)


def _layers(parameters: Sequence[Any], layer_norm: bool) -> list[Sequence[Any]]:
    each = 4 if layer_norm else 2
    return [parameters[first : first + each] for first in range(0, len(parameters), each)]


def _forward(
    seen: Tensor, done: Tensor, layer_norm: bool, parameters: Sequence[Tensor], kept: list[Tensor] | None
) -> Tensor:
    """Through all layers; what the gradient needs is added to a list."""
    *hidden, (weight, bias) = _layers(parameters, layer_norm)
    x = torch.cat([seen, done], dim=-1)
    h = x.expand(len(weight), -1, -1)
    if kept is not None:
        kept.append(x)
    for layer in hidden:
        z = torch.baddbmm(layer[1][:, None], h, layer[0])
        if layer_norm:
            normal, mean, slope = torch.native_layer_norm(z, z.shape[-1:], None, None, EPSILON)
            h = torch.addcmul(layer[3][:, None], normal, layer[2][:, None]).relu_()
            if kept is not None:
                kept += [z, normal, mean, slope]
        else:
            h = z.relu_()
        if kept is not None:
            kept.append(h)
    return (h * weight.mT).sum(-1).add_(bias)


class _Perceptrons(torch.autograd.Function):
    """The gradient."""

    @staticmethod
    def forward(ctx: Any, seen: Tensor, done: Tensor, layer_norm: bool, *parameters: Tensor) -> Tensor:
        kept: list[Tensor] = []
        values = _forward(seen, done, layer_norm, parameters, kept)
        ctx.save_for_backward(*parameters, *kept)
        ctx.layer_norm, ctx.parameters, ctx.split = layer_norm, len(parameters), seen.shape[-1]
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        parameters, (x, *kept) = ctx.saved_tensors[: ctx.parameters], ctx.saved_tensors[ctx.parameters :]
        asked_seen, asked_done, _, *asked = ctx.needs_input_grad
        layers, per = _layers(parameters, ctx.layer_norm), 5 if ctx.layer_norm else 1
        *hidden, (weight, _) = layers
        wanted = _layers(asked, ctx.layer_norm)
        if not any(asked) and slope.device.type == "cpu" and 5 * int(slope.count_nonzero()) < 3 * slope.numel():
            return *_of_few_rows(ctx, slope, layers, kept), None, *(None for _ in asked)
        inputs = [x.expand(len(weight), -1, -1), *kept[per - 1 :: per]]
        gradients: list[list[Tensor | None]] = [
            [
                torch.bmm(slope[:, None], inputs[-1]).mT if wanted[-1][0] else None,
                slope.sum(1, keepdim=True) if wanted[-1][1] else None,
            ]
        ]
        slope = slope[..., None]
        for number in reversed(range(len(hidden))):
            # through the weights of the layer after this one, then back through this one's rectifier
            after = layers[number + 1][0].mT
            slope = slope * after if after.shape[1] == 1 else torch.bmm(slope, after)
            slope = torch.ops.aten.threshold_backward.grad_input(slope, inputs[number + 1], 0, grad_input=slope)
            of_layer: list[Tensor | None] = [None] * len(hidden[number])
            if ctx.layer_norm:
                z, normal, mean, scale = kept[per * number : per * number + 4]
                if wanted[number][2]:
                    of_layer[2] = (slope * normal).sum(1)
                if wanted[number][3]:
                    of_layer[3] = slope.sum(1)
                slope = _through_norm(slope.mul_(hidden[number][2][:, None]), z, mean, scale)
            if wanted[number][0]:
                of_layer[0] = torch.bmm(inputs[number].mT, slope)
            if wanted[number][1]:
                of_layer[1] = slope.sum(1)
            gradients.append(of_layer)
        first = layers[0][0]

        def of_part(columns: slice) -> Tensor:
            # few rows times many columns: the other way round the product takes twice the time
            return torch.bmm(first[:, columns], slope.mT).sum(0).mT

        of_seen = of_part(slice(ctx.split)) if asked_seen else None
        of_done = of_part(slice(ctx.split, None)) if asked_done else None
        return of_seen, of_done, None, *(each for layer in reversed(gradients) for each in layer)


def _of_few_rows(ctx: Any, slope: Tensor, layers: list[Sequence[Tensor]], kept: list[Tensor]) -> list[Tensor | None]:
    """The gradient of both parts of the inputs where many rows of many members have none, as with the least of several."""
    columns = [slice(ctx.split), slice(ctx.split, None)]
    asked = list(ctx.needs_input_grad[:2])
    width, per = layers[0][0].shape[1], 5 if ctx.layer_norm else 1
    made: list[Tensor | None] = [
        slope.new_zeros(slope.shape[1], len(range(width)[part])) if wanted else None
        for part, wanted in zip(columns, asked, strict=True)
    ]
    for member, of_rows in enumerate(slope):
        rows = of_rows.nonzero()[:, 0]
        back = of_rows[rows, None]
        for number in reversed(range(len(layers) - 1)):
            after, h = layers[number + 1][0][member].mT, kept[per * (number + 1) - 1][member, rows]
            back = back * after if len(after) == 1 else back @ after
            back = torch.ops.aten.threshold_backward.grad_input(back, h, 0, grad_input=back)
            if ctx.layer_norm:
                z, _, mean, scale = (each[member, rows] for each in kept[per * number : per * number + 4])
                back.mul_(layers[number][2][member])
                back = _through_norm(back, z, mean, scale)
        for part, gradient in zip(columns, made, strict=True):
            if gradient is not None:
                gradient.index_add_(0, rows, back @ layers[0][0][member, part].mT)
    return made


def _through_norm(slope: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    options = (z.shape[-1:], mean, scale, None, None, [True, False, False])
    return torch.ops.aten.native_layer_norm_backward(slope, z, *options)[0]
