"""Scale and shift the features behind every layer of a frozen network, channel by channel.

Behind each linear, convolutional and normalising layer with output h::

    h <- scale * h + shift          scale = 1, shift = 0 at the start

Afterwards the pair folds into the layer, W' = diag(scale) W and b' = scale b + shift, so nothing is left to compute.
With the scale fixed at one, only biases are learned.

References
----------
Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022,
arXiv:2210.08823.
Ben Zaken, Ravfogel and Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022, arXiv:2106.10199.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.built_in import CLASSIFIERS, Change, attach, changes, new_parameter
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.vit import undecayed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)


class ScaleShiftLayer(Change):
    """A scale and a shift for each channel.

    Parameters
    ----------
    shape : tuple of int
        (channels,), or all axes that a layer norm runs over.
    behind : int, optional
        Axes of the output behind the channels; by default all but the first two.
    scale : bool, default True
        Learn a scale, or else a shift alone.
    like : Tensor, optional
        Takes its device and kind of number.

    Examples
    --------
    >>> layer = ScaleShiftLayer((3,), behind=2)
    >>> layer(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 3, 8, 8])
    """

    def __init__(
        self, shape: tuple[int, ...], behind: int | None = 0, scale: bool = True, like: Tensor | None = None
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.behind = behind
        self.scale = nn.Parameter(torch.ones(shape, **where)) if scale else None
        self.shift = nn.Parameter(torch.zeros(shape, **where))

    def forward(self, output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Scale and shift."""
        behind = output.dim() - 2 if self.behind is None else self.behind
        shape = (*self.shift.shape, *[1] * behind)
        if self.scale is None:
            return output + self.shift.view(shape)
        return torch.addcmul(self.shift.view(shape), output, self.scale.view(shape))

    def change(self, given: Tensor, output: Tensor) -> Tensor:
        """Scale and shift what the layer gave."""
        return self(output)

    def own_groups(self) -> list[dict[str, Any]]:
        """No weight decay: it would draw the scale to zero, and not to one."""
        return undecayed(self.scale, self.shift)

    def fold(self, layer: nn.Module) -> None:
        """Into a layer's weight and bias, which it gets where it has none."""
        new: Any = layer
        scale = torch.ones_like(self.shift) if self.scale is None else self.scale
        if isinstance(layer, (*CHANNEL_NORMS, nn.LayerNorm)):
            new.weight = new_parameter(scale if new.weight is None else scale * new.weight)
            if hasattr(new, "affine"):
                new.affine = True
            if hasattr(new, "elementwise_affine"):
                new.elementwise_affine = True
        elif self.scale is not None:
            new.weight = new_parameter(_along_outputs(layer, scale) * new.weight)
        new.bias = new_parameter(self.shift if new.bias is None else scale * new.bias + self.shift)


def _along_outputs(layer: Any, scale: Tensor) -> Tensor:
    """The scale of each entry of a weight, to be multiplied with it."""
    if getattr(layer, "transposed", False):  # (in, out / groups, ...), the inputs of one group after those of the other
        each = scale.view(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1)
        return each.reshape(layer.in_channels, -1, *[1] * len(layer.kernel_size))
    return scale.view(-1, *[1] * (layer.weight.dim() - 1))


def scale_shift_for(layer: nn.Module, scale: bool = True) -> ScaleShiftLayer | None:
    """The scale and shift that fit behind a layer, or None where it is of another kind.

    Parameters
    ----------
    layer : nn.Module
        Linear, convolutional or normalising layers count, and attention, whose output projection is taken (it applies its
        inner projections itself, so these have no place of their own).
    scale : bool, default True
        Without, only layers that have a bias count.

    Examples
    --------
    >>> sum(each.numel() for each in scale_shift_for(nn.Conv2d(3, 16, 3)).parameters())
    32
    >>> scale_shift_for(nn.ReLU()) is None
    True
    """
    inner: Any = layer
    if isinstance(layer, nn.MultiheadAttention):
        shape, behind, inner = (layer.embed_dim,), 0, layer.out_proj
    elif isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):  # attention's, which is not called
        return None
    elif isinstance(layer, nn.Linear):
        shape, behind = (layer.out_features,), 0
    elif isinstance(layer, CONVOLUTIONS):
        shape, behind = (layer.out_channels,), len(layer.kernel_size)
    elif isinstance(layer, nn.LayerNorm):
        shape, behind = tuple(layer.normalized_shape), 0
    elif isinstance(layer, CHANNEL_NORMS):
        shape, behind = (getattr(layer, "num_features", None) or getattr(layer, "num_channels", 0),), None
    else:
        return None
    if not scale and inner.bias is None:
        return None
    like = inner.weight if inner.weight is not None else next(inner.buffers(), None)
    return ScaleShiftLayer(shape, behind, scale, like)


@dataclass(frozen=True)
class ScaleShift:
    """Build a scale and a shift behind every linear, convolutional and normalising layer.

    Parameters
    ----------
    scale : bool, default True
        Learn scales, or else shifts alone, which is learning biases.
    leave_out : tuple of str, default ("classifier", "head")
        Layers with one of these among the parts of their name are left alone.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
    >>> x, before = torch.ones(3, 4), model(torch.ones(3, 4))
    >>> adapted = ScaleShift().attach(model)
    >>> sum(each.numel() for each in adapted.parameters() if each.requires_grad), torch.equal(adapted(x), before)
    (36, True)

    Once trained, it folds away:

    >>> from fewer.adapt import merged
    >>> [type(each).__name__ for each in merged(adapted)]
    ['Linear', 'LayerNorm', 'ReLU', 'Linear']
    """

    scale: bool = True
    leave_out: tuple[str, ...] = CLASSIFIERS

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build them in, in place."""
        return attach(model, changes(model, lambda layer: scale_shift_for(layer, self.scale), self.leave_out))


def scale_shift_parameters(model: nn.Module, leave_out: tuple[str, ...] = CLASSIFIERS) -> int:
    """How many numbers :class:`ScaleShift` would learn in a model, which may lie on the meta device.

    Examples
    --------
    >>> scale_shift_parameters(nn.Sequential(nn.Linear(768, 3072, device="meta"), nn.Linear(3072, 768, device="meta")))
    7680
    """
    made = {id(each): each for each in changes(model, scale_shift_for, leave_out).values()}
    if not made:
        raise FewerError("scale-shift: the model has no linear, convolutional or normalising layer")
    return sum(math.prod(parameter.shape) for each in made.values() for parameter in each.parameters())
