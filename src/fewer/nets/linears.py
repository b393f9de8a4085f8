"""How the linear layers of a network are parameterised: the slot, its baseline, and turning the layers of any network.

Knows which layers there are and how to put others in their place; what a layer is made of is each method's own file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fewer.core.errors import FewerError

TARGETS = ("attn", "mlp", "attention")
"""Parts of the names of the layers that are turned by default: those of attention and feed-forward parts."""


@dataclass(frozen=True)
class Replaced:
    """Which layers were turned, and what they hold.

    Parameters
    ----------
    layers : tuple of str
        Their names.
    parameters_before, parameters_after : int
        Learned numbers in them.
    fixed_bytes : int
        What they now store beside: indices and frozen weights.
    """

    layers: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    fixed_bytes: int = 0


@dataclass(frozen=True)
class Step:
    """A training step that was just made.

    Parameters
    ----------
    network : nn.Module
        What is trained.
    optimiser : torch Optimizer
        With its state.
    began, ended : float
        Share of the training that was done before and after the step.
    seed : int
        Of the run.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    began: float
    ended: float
    seed: int


class Linears(Protocol):
    """How linear layers are parameterised."""

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Turn the linear layers of a fresh network in place."""
        ...

    def after_step(self, step: Step) -> None:
        """Whatever is to be done between steps; nothing by default."""


@dataclass(frozen=True)
class Dense(Linears):
    """Every weight is learned: the network's own layers.

    Parameters
    ----------
    target_modules : sequence of str
        Which layers are counted.
    """

    target_modules: Sequence[str] = TARGETS

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Leave all as it is."""
        layers = dict(matching(network, self.target_modules))
        count = sum(
            layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel()) for layer in layers.values()
        )
        return Replaced(tuple(layers), count, count)


@dataclass(frozen=True)
class Place:
    """Where a new layer goes.

    Parameters
    ----------
    name : str
        Of the layer it replaces.
    in_features, out_features : int
        Its shape.
    bias : bool
        Whether it adds one.
    device, dtype
        Of its parameters.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool
    device: torch.device
    dtype: torch.dtype


def replace_linears(
    model: nn.Module, make: Callable[[Place], nn.Module], target_modules: Sequence[str] = TARGETS
) -> Replaced:
    """Put new layers in the place of linear ones; either all are replaced or, at an error, none.

    Parameters
    ----------
    model : nn.Module
        Any torch or transformers model; changed in place.  Its layers of type ``nn.Linear`` and the ``Conv1D`` of
        transformers count, subclasses (quantised, adapted) do not.
    make : callable
        ``make(place) -> layer``.
    target_modules : sequence of str
        A layer is replaced where its name contains one of these.

    Raises
    ------
    FewerError
        If no layer matches, a layer that matches shares its weight, or a layer cannot be made for some shape.

    Examples
    --------
    >>> model = nn.ModuleDict({"mlp": nn.Linear(8, 4), "head": nn.Linear(4, 2)})
    >>> replace_linears(model, lambda place: nn.Linear(place.in_features, place.out_features, bias=False))
    Replaced(layers=('mlp',), parameters_before=36, parameters_after=32, fixed_bytes=0)
    """
    targets = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
    layers = dict(matching(model, targets))
    if not layers:
        have = [name for name, _ in matching(model, ("",))]
        shown = (
            f"its linear layers are {', '.join(have[:6])}{', …' if len(have) > 6 else ''}" if have else "it has none"
        )
        raise FewerError(
            f"no linear layer's name contains any of {', '.join(map(repr, targets)) or 'nothing'}; {shown}"
        )
    _refuse_shared(model, layers)
    new: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        inputs, outputs = _shape(layer)
        place = Place(name, inputs, outputs, layer.bias is not None, layer.weight.device, layer.weight.dtype)
        try:
            new[name] = make(place)
        except FewerError as error:
            raise FewerError(f"layer {name}: {error}") from error
    before = sum(_learned(layer) for layer in layers.values())
    for name, layer in new.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.train(layers[name].training))
    return Replaced(tuple(new), before, sum(map(_learned, new.values())), sum(map(_fixed_bytes, new.values())))


def to_dense_(model: nn.Module) -> int:
    """Put ordinary ``nn.Linear`` in the place of every layer that has a ``to_dense()``, for inference; give how many.

    Parameters
    ----------
    model : nn.Module
        Changed in place; its outputs stay the same but for rounding.

    Raises
    ------
    FewerError
        If there is no such layer.
    """
    found = {name: layer for name, layer in model.named_modules() if name and hasattr(layer, "to_dense")}
    if not found:
        raise FewerError("to_dense_: the model has no layer to turn back; it is dense already")
    for name, layer in found.items():
        parent, _, child = name.rpartition(".")
        dense = layer.to_dense()  # pyright: ignore[reportCallIssue]
        setattr(model.get_submodule(parent), child, dense)
    return len(found)


def matching(model: nn.Module, targets: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Name and layer of every linear layer whose name contains one of the targets."""
    for name, module in model.named_modules():
        if name and _is_linear(module) and any(target in name for target in targets):
            yield name, module  # pyright: ignore[reportReturnType]


def dense_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ordinary linear layer of a weight (out, in)."""
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _is_linear(module: nn.Module) -> bool:
    kind = type(module)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."))


def _shape(layer: nn.Linear) -> tuple[int, int]:
    if type(layer) is nn.Linear:
        return layer.in_features, layer.out_features
    inputs, outputs = layer.weight.shape  # transformers' Conv1D holds the transpose
    return inputs, outputs


def _refuse_shared(model: nn.Module, layers: dict[str, nn.Linear]) -> None:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        others = [other for other in owners[id(layer.weight)] if other != name]
        if others:
            raise FewerError(
                f"layers {name} and {others[0]} share one weight, which replacing would tear apart; untie them, or leave "
                "them out of target_modules"
            )


def _learned(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.requires_grad)


def _fixed_bytes(layer: nn.Module) -> int:
    fixed = [*layer.buffers(), *(each for each in layer.parameters() if not each.requires_grad)]
    return sum(each.numel() * each.element_size() for each in fixed)
