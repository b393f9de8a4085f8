"""What adapting costs: bytes that a step keeps for going backwards, and parameters that are trained.

Both are counted and not timed, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def bytes_for_backward(forward: Callable[[], Any], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes of all that a forward pass saves for the backward pass; what is saved twice counts once.

    Parameters
    ----------
    forward : callable
        Runs the forward pass and gives what is differentiated, which is kept alive meanwhile.
    parameters : iterable of tensors, optional
        Not counted: they are there anyway.

    Examples
    --------
    >>> x, layer = torch.zeros(10, 4), nn.Linear(4, 3)
    >>> bytes_for_backward(lambda: layer(x).sum(), layer.parameters())
    160
    """
    known = {each.untyped_storage().data_ptr() for each in parameters}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            saved[place] = tensor  # kept, so that no other tensor takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(each.untyped_storage().nbytes() for each in saved.values())


def trainable(*modules: nn.Module) -> int:
    """Numbers that are trained, those that modules share once.

    Examples
    --------
    >>> layer = nn.Linear(4, 3)
    >>> trainable(layer, layer), trainable(layer.requires_grad_(False))
    (15, 0)
    """
    return sum(each.numel() for each in nn.ModuleList(modules).parameters() if each.requires_grad)
