"""Adapters of source tasks in a model: which they are, whether they fit, and frozen copies of them in each layer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from fewer.adapt.adapter_files import read_adapters
from fewer.adapt.bottleneck_adapter import (
    Bottlenecks,
    Composed,
    FixedMixture,
    adapter_places,
    attach_composed,
    built_in_compositions,
)
from fewer.adapt.task_adapter import TaskAdapter
from fewer.core.errors import FewerError
from fewer.core.loop import Task

Sources = Mapping[str, TaskAdapter] | str | os.PathLike[str] | None
"""Adapters by task, the folder they were saved to, or None for those that the model brings as ``source_adapters``."""


def attach_sources(
    model: nn.Module,
    given: Sources,
    what: str,
    make: Callable[[Bottlenecks, nn.LayerNorm | None, int], Composed],
) -> nn.Module:
    """Build what ``make(adapters, norm, width)`` gives into each layer of a model, around frozen copies of source adapters.

    Raises
    ------
    FewerError
        If there are none, or they do not fit one another or the model.
    """
    sources = source_adapters(model, given, what)
    places, listed = adapter_places(model), list(sources.values())
    for adapter in listed:
        if len(adapter.layers) != len(places) or adapter.width != places[0].width:
            raise FewerError(
                f"{what}: the adapter {adapter.task} is for {len(adapter.layers)} layers of {adapter.width} channels, and the "
                f"model has {len(places)} of {places[0].width}; train it on this model"
            )
    index = iter(range(len(places)))
    adapted = attach_composed(model, lambda place, norm: make(Bottlenecks.at(listed, next(index)), norm, place.width))
    for each in built_in_compositions(adapted):
        each.tasks = tuple(sources)
    return adapted


def source_adapters(model: nn.Module, given: Sources, what: str) -> dict[str, TaskAdapter]:
    """The adapters that are to be used, by task.

    Raises
    ------
    FewerError
        If there are none, or they are of different shape.
    """
    if isinstance(given, str | os.PathLike):
        given = read_adapters(given)
    found = dict(cast(Any, getattr(model, "source_adapters", None) if given is None else given) or {})
    if not found:
        raise FewerError(
            f"{what}: there are no source adapters; give adapters= as train_adapters returns them, or the folder they are in"
        )
    first_task, first = next(iter(found.items()))
    for task, each in found.items():
        mine, other = (
            (len(adapter.layers), adapter.width, adapter.hidden, adapter.activation) for adapter in (first, each)
        )
        if mine != other:
            raise FewerError(
                f"{what}: the adapters {first_task} and {task} differ in placement or shape (layers, channels, units, "
                f"activation): {mine} and {other}; train them alike"
            )
    if len(found) == 1:
        warnings.warn(f"{what}: there is one source adapter ({first_task}), so nothing is put together", stacklevel=2)
    return found


@dataclass(frozen=True)
class AdapterSoup:
    """The mean of what all source adapters say, and nothing to learn but the head: for the slot ``adapter``.

    Parameters
    ----------
    adapters : mapping of str to TaskAdapter, or path, optional
        See :class:`~fewer.adapt.scalearn.ScaLearn`.
    """

    adapters: Sources = None

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build it in, in place."""
        return attach_sources(
            model,
            self.adapters,
            "adapter soup",
            lambda stacked, norm, _: FixedMixture(stacked, norm, 1.0 / len(stacked.down)),
        )
