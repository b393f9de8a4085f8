"""Optimiser steps inside the backward pass: each parameter moves when its gradient is complete, which is then freed.

Gradients of the whole network never exist at once, so their memory falls to that of the largest parameter.  There is
no norm of all gradients to clip, and gradients cannot be accumulated over several backward passes.

References
----------
Kai Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited Resources", ACL 2024,
arXiv:2306.09782.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW, Parameters


def step_in_backward(optimiser: torch.optim.Optimizer, clip: float = 0.0) -> list[RemovableHandle]:
    """Let an optimiser move each parameter as soon as its gradient is there; its own ``step()`` then does nothing.

    Parameters
    ----------
    optimiser : torch Optimizer
        Any that treats parameters apart (Adam, SGD …); its state, groups and learning rates stay where they are.
    clip : float, default 0
        Greatest norm of one parameter's gradient; 0 for none.

    Returns
    -------
    list of RemovableHandle
        One a parameter; ``remove()`` them to step by hand again.

    Examples
    --------
    >>> layer = nn.Linear(3, 1)
    >>> before = layer.weight.detach().clone()
    >>> handles = step_in_backward(torch.optim.Adam(layer.parameters()))
    >>> layer(torch.ones(2, 3)).sum().backward()
    >>> layer.weight.grad is None, bool((layer.weight != before).all())
    (True, True)
    """
    if not clip >= 0:
        raise FewerError(f"step_in_backward: clip is {clip}; give the greatest norm of a gradient, or 0 for none")

    def move(index: int, parameter: Tensor) -> None:
        if clip:
            nn.utils.clip_grad_norm_([parameter], clip)
        groups = optimiser.param_groups
        optimiser.param_groups = [{**groups[index], "params": [parameter]}]
        try:
            optimiser.step()
        finally:
            optimiser.param_groups = groups
        parameter.grad = None

    return [
        parameter.register_post_accumulate_grad_hook(partial(move, index))
        for index, group in enumerate(optimiser.param_groups)
        for parameter in group["params"]
        if parameter.requires_grad
    ]


@dataclass(frozen=True)
class AdamWInBackward:
    """Adam with decoupled weight decay whose steps are made inside the backward pass.

    Parameters
    ----------
    lr : float, default 1e-3
        Peak learning rate.
    weight_decay : float, default 0.01
        Decoupled penalty.
    clip : float, default 1
        Greatest norm of each parameter's gradient, in place of the loop's norm of all; 0 for none.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0

    def make(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Build it, with its hooks on the parameters."""
        made = AdamW(self.lr, self.weight_decay).make(parameters)
        step_in_backward(made, self.clip)
        return made
