"""Bottleneck adapters: a small network with one narrow hidden layer behind each layer's feed-forward part.

With f what the feed-forward part gives, r what skips it, and LN the layer's own norm, a layer that is normalised behind the
skip (BERT) becomes::

    x = LN(f + r),    a(x) = U relu(D x + b) + c,    y = LN(f + a(x) + r)

and one that is normalised in front (ViT) ``x = f + r, y = x + a(x)``.  This is Pfeiffer's placement as AdapterHub computes it,
so its adapters can be taken up.  The adapters of several tasks at one layer are one matrix product.

References
----------
Pfeiffer, Kamath, Rücklé, Cho and Gurevych, "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021,
arXiv:2005.00247.
Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv:1902.00751.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.built_in import Change, attach
from fewer.adapt.task_adapter import ACTIVATIONS, PARTS, TaskAdapter
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.vit import undecayed


@dataclass(frozen=True)
class Place:
    """Where an adapter goes.

    Parameters
    ----------
    name : str
        Of the layer behind which it goes.
    width : int
        Channels there.
    norm : bool
        Whether that layer is the norm behind the skip, which is applied anew to what the adapter has changed.
    """

    name: str
    width: int
    norm: bool


def adapter_places(model: nn.Module) -> tuple[Place, ...]:
    """Find where adapters go in an encoder: one place behind each layer's feed-forward part, from first to last.

    Parameters
    ----------
    model : nn.Module
        BERT, RoBERTa, DistilBERT or ViT of ``transformers``, or whatever names its parts like one of them; this library's
        :class:`~fewer.adapt.text_encoder.TextEncoder` and :class:`~fewer.models.vit.VisionTransformer`.

    Raises
    ------
    FewerError
        If it has no such layer.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> adapter_places(net)
    (Place(name='blocks.0', width=16, norm=False), Place(name='blocks.1', width=16, norm=False))
    """
    found = []
    for name, each in model.named_modules():
        layer: Any = each
        prefix = f"{name}." if name else ""
        if all(hasattr(layer, part) for part in ("attention", "intermediate", "output")) and isinstance(
            getattr(layer.output, "LayerNorm", None), nn.LayerNorm
        ):
            found.append(Place(f"{prefix}output.LayerNorm", layer.output.LayerNorm.normalized_shape[0], True))
        elif hasattr(layer, "ffn") and isinstance(getattr(layer, "output_layer_norm", None), nn.LayerNorm):
            found.append(Place(f"{prefix}output_layer_norm", layer.output_layer_norm.normalized_shape[0], True))
        elif hasattr(layer, "layernorm_before") and hasattr(layer, "layernorm_after"):
            found.append(Place(name, layer.layernorm_after.normalized_shape[0], False))
        elif all(hasattr(layer, part) for part in ("norm1", "attn", "norm2", "mlp")):
            found.append(Place(name, layer.norm2.normalized_shape[0], False))
    if not found:
        raise FewerError(
            f"bottleneck adapters: a {type(model).__name__} has no layer of an encoder that is known here; give BERT, RoBERTa, "
            "DistilBERT or ViT, or this library's TextEncoder or VisionTransformer"
        )
    return tuple(found)


class Bottlenecks(nn.Module):
    """The adapters of several tasks at one place.

    Parameters
    ----------
    tasks, width, hidden : int
        How many, channels of a token, units between the two matrices.
    activation : {"relu", "gelu", "silu"}, default "relu"
        Between them.

    Examples
    --------
    >>> made = Bottlenecks(tasks=3, width=8, hidden=2)
    >>> x = torch.randn(5, 7, 8)
    >>> made.outputs(x).shape
    torch.Size([5, 7, 3, 8])
    >>> bool(torch.allclose(made.mixed(x, torch.ones(3, 1)), made.outputs(x).sum(-2), atol=1e-6))
    True
    """

    def __init__(self, tasks: int, width: int, hidden: int, activation: str = "relu") -> None:
        super().__init__()
        self.down = nn.Parameter(0.02 * torch.randn(tasks, hidden, width))
        self.down_bias = nn.Parameter(torch.zeros(tasks, hidden))
        self.up = nn.Parameter(0.02 * torch.randn(tasks, width, hidden))
        self.up_bias = nn.Parameter(torch.zeros(tasks, width))
        self.activation = activation

    @classmethod
    def at(cls, adapters: Sequence[TaskAdapter], index: int) -> Bottlenecks:
        """Copies of what several tasks have trained for one place, frozen."""
        first = adapters[0]
        made = cls(len(adapters), first.width, first.hidden, first.activation)
        with torch.no_grad():
            for place, each in enumerate(adapters):
                for mine, part in zip(made.parameters_in_order(), PARTS, strict=True):
                    mine[place].copy_(each.layers[index][part])
        return made.requires_grad_(False)

    def parameters_in_order(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter, nn.Parameter]:
        """All tasks' tensors, in the order of :data:`~fewer.adapt.task_adapter.PARTS`."""
        return self.down, self.down_bias, self.up, self.up_bias

    def of(self, task: int) -> tuple[Tensor, ...]:
        """Copies of one task's tensors, in the order of :data:`~fewer.adapt.task_adapter.PARTS`."""
        return tuple(each[task].detach().clone() for each in self.parameters_in_order())

    def inner(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... units"]:
        """What the hidden units of all tasks say, one task behind the other."""
        return ACTIVATIONS[self.activation](nn.functional.linear(x, self.down.flatten(0, 1), self.down_bias.flatten()))

    def outputs(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... tasks width"]:
        """What each task's adapter would add."""
        inner = self.inner(x).unflatten(-1, self.down_bias.shape)
        return torch.einsum("...th,twh->...tw", inner, self.up) + self.up_bias

    def mixed(
        self, x: Float[Tensor, "... width"], omega: Float[Tensor, "tasks channels"]
    ) -> Float[Tensor, "... width"]:
        """The sum over tasks of what each would add times its coefficients, one for each channel or one for all.

        The coefficients go into the second matrix first, so that no task's own output is ever made.
        """
        scaled = omega[..., None] * self.up
        bias = (omega * self.up_bias).sum(0)
        return nn.functional.linear(self.inner(x), scaled.transpose(0, 1).flatten(1), bias)


class Composed(Change):
    """Adapters behind one place, and how they are put together.

    Parameters
    ----------
    adapters : Bottlenecks
        Of all tasks.
    norm : nn.LayerNorm, optional
        The place, where that is the norm behind the skip.

    Attributes
    ----------
    tasks : tuple of str
        Names of the tasks, where they are known.
    """

    adapts = True
    tasks: tuple[str, ...] = ()

    def __init__(self, adapters: Bottlenecks, norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.adapters = adapters
        self._norm = (norm,)  # in a tuple, for the norm is no part of this module: this one hangs on it

    def added(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """What is added, of what the adapters read."""
        raise NotImplementedError

    def change(self, given: Tensor, output: Tensor) -> Tensor:
        """Add it in front of the norm, or to what the layer gives."""
        added, norm = self.added(output), self._norm[0]
        # called past its hooks, of which this is one
        return output + added if norm is None else norm.forward(given + added)

    def fold(self, layer: nn.Module) -> None:
        """Impossible: a bottleneck is not linear."""
        raise FewerError(
            "bottleneck adapters are not linear, so they cannot be merged into a layer; keep them beside it"
        )


class FixedMixture(Composed):
    """Adapters summed with coefficients that stay; of one task and with the coefficient 1, the plain adapter.

    Parameters
    ----------
    adapters, norm
        See :class:`Composed`.
    omega : float, default 1
        The coefficient of each task.
    lr : float, default 3e-4
        Peak learning rate of the adapters, where they are trained.
    """

    omega: Tensor

    def __init__(self, adapters: Bottlenecks, norm: nn.LayerNorm | None, omega: float = 1.0, lr: float = 3e-4) -> None:
        super().__init__(adapters, norm)
        self.lr = lr
        self.register_buffer("omega", torch.full((len(adapters.down), 1), omega), persistent=False)

    def added(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The weighted sum."""
        return self.adapters.mixed(x, self.omega)

    def own_groups(self) -> list[dict[str, Any]]:
        """Its own rate, and no decay."""
        trained = [each for each in self.adapters.parameters() if each.requires_grad]
        return [{**group, "lr": self.lr} for group in undecayed(*trained)] if trained else []


def built_in_compositions(model: nn.Module) -> list[Composed]:
    """What was built into a model at its places, from first to last.

    Raises
    ------
    FewerError
        If there are no bottleneck adapters in it.
    """
    found = [each for each in model.modules() if isinstance(each, Composed)]
    if not found:
        raise FewerError(f"there are no bottleneck adapters in this {type(model).__name__}")
    return found


def built_in_adapters(model: nn.Module) -> dict[str, TaskAdapter]:
    """Copies of all tasks' adapters in a model, by the names they were built in with.

    Raises
    ------
    FewerError
        If there are none.
    """
    places = built_in_compositions(model)
    return {
        task: TaskAdapter(
            task,
            tuple(dict(zip(PARTS, each.adapters.of(index), strict=True)) for each in places),
            places[0].adapters.activation,
        )
        for index, task in enumerate(places[0].tasks)
    }


@dataclass(frozen=True)
class Bottleneck:
    """A fresh adapter in each layer, which is trained: for the slot ``adapter``.

    Parameters
    ----------
    reduction : float, default 16
        Channels of a token for one unit between the two matrices.
    activation : {"relu", "gelu", "silu"}, default "relu"
        Between them.
    lr : float, default 3e-4
        Peak learning rate of the adapters; the head's is the loop's.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> adapted = Bottleneck(reduction=4).attach(net.requires_grad_(False))
    >>> sum(each.numel() for each in adapted.parameters() if each.requires_grad)  # two of 16-4-16 with biases
    296
    """

    reduction: float = 16.0
    activation: str = "relu"
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if not self.reduction >= 1 or self.activation not in ACTIVATIONS or not self.lr > 0:
            raise FewerError(
                f"bottleneck: reduction must be 1 or more, activation one of {', '.join(sorted(ACTIVATIONS))} and lr above 0; "
                f"given {self}"
            )

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build them in, in place."""

        def made(place: Place, norm: nn.LayerNorm | None) -> Composed:
            hidden = max(1, int(place.width // self.reduction))
            return FixedMixture(Bottlenecks(1, place.width, hidden, self.activation), norm, 1.0, self.lr)

        return attach_composed(model, made)

    def trained(self, model: nn.Module, task: str) -> TaskAdapter:
        """What was trained in a model, under a name."""
        layers = tuple(
            dict(zip(PARTS, (each.cpu() for each in composed.adapters.of(0)), strict=True))
            for composed in built_in_compositions(model)
        )
        return TaskAdapter(task, layers, self.activation)


def attach_composed(model: nn.Module, make: Callable[[Place, nn.LayerNorm | None], Composed]) -> nn.Module:
    """Build in what ``make(place, norm)`` gives at each place of a model, from first to last, where that layer is.

    Parameters
    ----------
    model : nn.Module
        An encoder (see :func:`adapter_places`); changed in place.
    make : callable
        Gets the norm behind the skip, or None where the layer has none there.
    """
    made: dict[str, Change] = {}
    for place in adapter_places(model):
        layer = model.get_submodule(place.name)
        like = next(layer.parameters())
        composed = make(place, cast(nn.LayerNorm, layer) if place.norm else None)
        made[place.name] = composed.to(like.device, like.dtype).train(model.training)
    return attach(model, made)
