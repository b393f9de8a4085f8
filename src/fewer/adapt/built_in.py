"""Small learned changes behind the layers of a network that is otherwise left as it is.

Knows where a change is put, how it is taken out again and how it is folded into the layer; what the change is, each
method says in its own file.  Changes hang on layers as forward hooks, so layers keep their names, types and weights, and
whatever looks into the network finds what it found before.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewer.core.errors import FewerError

CLASSIFIERS = ("classifier", "head")
"""Names of layers that say classes, by which they are left alone by default."""


class Change(nn.Module):
    """What happens to the output of one layer; the identity until it is trained."""

    def change(self, given: Tensor, output: Tensor) -> Tensor:
        """The new output, of what was given to the layer and what it gave."""
        raise NotImplementedError

    def fold(self, layer: nn.Module) -> None:
        """Give the layer new weights with which it alone does what both do."""
        raise NotImplementedError


def changes(
    model: nn.Module, make: Callable[[nn.Module], Change | None], leave_out: tuple[str, ...] = CLASSIFIERS
) -> dict[str, Change]:
    """Make a change for each layer that can take one.

    Parameters
    ----------
    model : nn.Module
        Any; it is not touched.
    make : callable
        ``make(layer) -> change``, or None for a layer of another kind.
    leave_out : tuple of str
        Layers with one of these among the parts of their name are left alone.

    Returns
    -------
    dict of str to Change
        By the layer's name.  Layers that share a weight share the change, too.
    """
    found: dict[str, Change] = {}
    by_weight: dict[int, Change] = {}
    some = next((each for each in model.parameters() if each.is_floating_point()), None)
    for name, layer in model.named_modules():
        if not name or not set(leave_out).isdisjoint(name.split(".")):
            continue
        weight = getattr(layer, "weight", None)
        if weight is not None and id(weight) in by_weight:
            found[name] = by_weight[id(weight)]
            continue
        made = make(layer)
        if made is not None:
            if weight is None and some is not None:  # a norm without weights does not say what numbers it is made for
                made.to(some.device, some.dtype)
            found[name] = made
            if weight is not None:
                by_weight[id(weight)] = made
    return found


def attach(model: nn.Module, made: Mapping[str, Change]) -> nn.Module:
    """Put changes behind the layers of a model for good, as sub-modules ``built_in`` of the layers.

    Raises
    ------
    FewerError
        If there is none to put, or a layer carries one already.
    """
    if not made:
        kinds = sorted({type(each).__name__ for each in model.modules()})
        raise FewerError(f"no layer of the model can be adapted in this way; it is made of {', '.join(kinds[:8])}")
    for name, change in made.items():
        layer = model.get_submodule(name)
        if hasattr(layer, "built_in"):
            raise FewerError(f"layer {name} carries an adapter already; build in one, or merge the first one before")
        layer.add_module("built_in", change)
        layer.register_forward_hook(_of_its_own)
    return model


@contextlib.contextmanager
def installed(model: nn.Module, made: Mapping[str, Change]) -> Iterator[None]:
    """Put changes behind the layers of a model for a while."""
    handles = [
        model.get_submodule(name).register_forward_hook(partial(_changed, change)) for name, change in made.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def merged(model: nn.Module) -> nn.Module:
    """A copy of a model whose changes (see :func:`attach`) are folded into its layers: plain again, with the same outputs.

    Raises
    ------
    FewerError
        If nothing was built in.
    """
    plain = copy.deepcopy(model)
    made = {name: cast(Any, layer).built_in for name, layer in plain.named_modules() if hasattr(layer, "built_in")}
    if not made:
        raise FewerError("there is nothing to merge: no adapter was built into this model")
    for name in made:
        layer = plain.get_submodule(name)
        del layer.built_in
        for key in [key for key, hook in layer._forward_hooks.items() if hook is _of_its_own]:
            del layer._forward_hooks[key]
    fold(plain, made)
    return plain


def fold(model: nn.Module, made: Mapping[str, Change]) -> None:
    """Fold changes into the layers of a model, in place; layers that share a weight go on sharing it."""
    shared: dict[int, tuple[Tensor, nn.Module]] = {}
    with torch.no_grad():
        for name, change in made.items():
            layer = folding_layer(model.get_submodule(name))
            weight = getattr(layer, "weight", None)
            if weight is not None and id(weight) in shared:
                layer.weight = cast(Any, shared[id(weight)][1]).weight
                layer.bias = cast(Any, shared[id(weight)][1]).bias
                continue
            change.fold(layer)
            if weight is not None:
                shared[id(weight)] = (weight, layer)


def folding_layer(layer: nn.Module) -> nn.Module:
    """The layer whose weights give the output: of attention, its output projection."""
    return layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer


def new_parameter(value: Tensor) -> nn.Parameter:
    """A weight of a folded layer."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)


def _of_its_own(layer: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
    return _changed(cast(Any, layer).built_in, layer, given, output)


def _changed(change: Change, layer: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):  # attention: what is said, and how much was attended
        return (change.change(given[0], output[0]), *output[1:])
    return change.change(given[0] if given else output, output)
