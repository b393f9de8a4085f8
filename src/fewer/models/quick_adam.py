"""Adam without the overhead: for networks so small that looking after a step takes longer than the step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer  # pyright: ignore[reportAttributeAccessIssue]


class QuickAdam(torch.optim.Adam):
    """``torch.optim.Adam(fused=True)`` to the bit, in a fraction of its time where parameters are few and small.

    What torch collects, sorts and checks at each step is collected here once.  The state is torch's, so either can load what
    the other has saved.  Parameters elsewhere than on the processor, more than one group of them and settings that this
    shortcut does not know take torch's own way.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        What is learned.
    lr : float, default 1e-3
        Learning rate.
    **settings
        Of ``torch.optim.Adam``.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimiser = QuickAdam([weight], lr=0.1)
    >>> weight.grad = torch.tensor([1.0, -2.0])
    >>> optimiser.step()
    >>> weight.detach()
    tensor([0.9000, 1.1000])

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.
    """

    def __init__(self, parameters: Any, lr: float = 1e-3, **settings: Any) -> None:
        super().__init__(parameters, lr=lr, fused=True, **settings)

    _collected: _Collected | None = None  # of the class, so that copies, which know only torch's state, begin with none

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters that have gradients."""
        known = self._collected
        if closure is None and known is not None and self._plain() and self._as(known):
            gradients = [each.grad for each in known.parameters if each.grad is not None]
            if len(gradients) == len(known.parameters):
                torch._foreach_add_(known.counts, 1)  # pyright: ignore[reportPrivateImportUsage]
                group = self.param_groups[0]
                torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                    known.parameters,
                    gradients,
                    known.averages,
                    known.squares,
                    [],
                    known.counts,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=group["maximize"],
                )
                return None
        made = _of_torch()(self, closure)
        self._collected = self._collect()
        return made

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]
    """Tells torch not to wrap it: with hooks, of which the wrapper would take care, torch's own step is made."""

    def _plain(self) -> bool:
        """Whether the settings and the moment are such as the shortcut knows."""
        group = self.param_groups[0]
        return not (
            len(self.param_groups) > 1
            or group["amsgrad"]
            or group["decoupled_weight_decay"]
            or isinstance(group["lr"], Tensor)
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or optimizer._global_optimizer_pre_hooks
            or optimizer._global_optimizer_post_hooks
        )

    def _as(self, known: _Collected) -> bool:
        """Whether all is still where it was found: a state that was loaded is another, one that was cleared holds less."""
        parameters = self.param_groups[0]["params"]
        return (
            known.state is self.state
            and len(self.state) == len(parameters) == len(known.parameters)
            and all(map(operator.is_, parameters, known.parameters))
        )

    def _collect(self) -> _Collected | None:
        """What the next step needs, if all parameters lie on the processor and have moved before."""
        parameters = self.param_groups[0]["params"]
        states = [self.state.get(each, {}) for each in parameters]
        if not parameters or not self._plain() or not all("step" in each for each in states):
            return None
        if any(each.device.type != "cpu" or each.dtype != parameters[0].dtype for each in parameters):
            return None
        averages, squares, counts = ([each[name] for each in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return _Collected(self.state, list(parameters), averages, squares, counts)


@dataclass
class _Collected:
    """What a step needs, taken out of torch's state."""

    state: Any
    parameters: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    counts: list[Tensor]


def _of_torch() -> Callable[..., Any]:
    """Torch's step, with hooks and marks for the profiler; it is wrapped when the first plain Adam is made, or here."""
    step = torch.optim.Adam.step
    return step if getattr(step, "hooked", None) else optimizer.Optimizer.profile_hook_step(step)
