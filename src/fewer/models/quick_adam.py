"""Adam without the overhead: for networks so small that looking after a step takes longer than the step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
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

    _collected: Collected | None = None  # of the class, so that copies, which know only torch's state, begin with none

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the parameters that have gradients."""
        known = self._collected
        if closure is None and known is not None and self._plain() and self._as(known):
            gradients = [each.grad for each in known.parameters if each.grad is not None]
            if len(gradients) == len(known.parameters):
                known.count.add_(1)
                group = self.param_groups[0]
                torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                    known.parameters,
                    gradients,
                    known.averages,
                    known.squares,
                    [],
                    known.steps,
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

    def collected(self, parameters: Sequence[Tensor]) -> Collected | None:
        """What a function needs that makes these parameters' step by itself; None where torch's own way must be taken."""
        known = self._collected
        if known is None or not self._plain() or not self._as(known) or self.param_groups[0]["weight_decay"]:
            return None
        if len(parameters) != len(known.parameters) or not all(map(operator.is_, parameters, known.parameters)):
            return None
        return known if known.even and not self.param_groups[0]["maximize"] else None

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

    def _as(self, known: Collected) -> bool:
        """Whether all is still where it was found: a state that was loaded is another, one that was cleared holds less."""
        parameters = self.param_groups[0]["params"]
        return (
            known.state is self.state
            and len(self.state) == len(parameters) == len(known.parameters)
            and all(map(operator.is_, parameters, known.parameters))
        )

    def _collect(self) -> Collected | None:
        """What the next step needs, if all parameters lie on the processor and have moved before."""
        parameters = self.param_groups[0]["params"]
        states = [self.state.get(each, {}) for each in parameters]
        if not parameters or not self._plain() or not all("step" in each for each in states):
            return None
        if any(each.device.type != "cpu" or each.dtype != parameters[0].dtype for each in parameters):
            return None
        averages, squares = ([each[name] for each in states] for name in ("exp_avg", "exp_avg_sq"))
        # in one piece, so that a step counts once
        count = torch.stack([each["step"] for each in states])
        steps = list(count.unbind())
        for each, step in zip(states, steps, strict=True):
            each["step"] = step
        even = bool((count == count[0]).all())
        return Collected(self.state, list(parameters), averages, squares, count, steps, even)


@dataclass
class Collected:
    """What a step needs, taken out of torch's state.

    Attributes
    ----------
    state : dict
        Torch's.
    parameters, averages, squares : list of Tensor
        Of each parameter: itself, the moving averages of its gradient and of that's square.
    count : Tensor
        Steps of each.
    steps : list of Tensor
        The same, one by one.
    even : bool
        Whether all have made as many.
    """

    state: Any
    parameters: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    count: Tensor
    steps: list[Tensor]
    even: bool


def adam_step(
    parameters: Sequence[Tensor],
    averages: Sequence[Tensor],
    squares: Sequence[Tensor],
    gradients: Sequence[Tensor],
    sizes: Float[Tensor, "2"] | tuple[float, float],
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """One step of Adam as tensor operations, for functions that are compiled as a whole.

    Parameters
    ----------
    parameters, averages, squares : sequence of tensors
        Changed in place.
    gradients : sequence of tensors
        One for each.
    sizes : float tensor (2,), or two numbers
        What :func:`step_sizes` says.
    betas : tuple of float, default (0.9, 0.999)
        Of the moving averages.

    Examples
    --------
    >>> weight, average, square = torch.ones(2), torch.zeros(2), torch.zeros(2)
    >>> adam_step([weight], [average], [square], [torch.tensor([1.0, -2.0])], step_sizes(1, lr=0.1))
    >>> weight
    tensor([0.9000, 1.1000])
    """
    for parameter, average, square, gradient in zip(parameters, averages, squares, gradients, strict=True):
        average.lerp_(gradient, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        parameter.sub_(sizes[0] * average / (square.sqrt() + sizes[1]))


def step_sizes(
    count: float, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> tuple[float, float]:
    """What Adam's step is multiplied with, and what is added to the root below it, after so many steps.

    The corrections of averages that begin at zero are in both, so that each parameter takes one division.

    Examples
    --------
    >>> step_sizes(1, lr=0.1, betas=(0.5, 0.75), eps=1e-8)
    (0.1, 5e-09)
    """
    first, second = (1 - beta**count for beta in betas)
    return lr / first * second**0.5, eps * second**0.5


def _of_torch() -> Callable[..., Any]:
    """Torch's step, with hooks and marks for the profiler; it is wrapped when the first plain Adam is made, or here."""
    step = torch.optim.Adam.step
    return step if getattr(step, "hooked", None) else optimizer.Optimizer.profile_hook_step(step)
