"""Critics of actions: an ensemble of networks, computed as one.

The target of all members is the reward plus what the action after it is worth to the least of a random
subset of the slowly moving copies, so that what one member overrates is not believed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from fewer.core.errors import FewerError
from fewer.models.ensemble import LayerNormEnsemble, LinearEnsemble
from fewer.models.perceptrons import perceptrons, squared_error

Values = Float[Tensor, "members batch"]


def activations() -> dict[str, type[nn.Module]]:
    """What may stand between the layers of this room's networks."""
    return {"relu": nn.ReLU, "tanh": nn.Tanh, "mish": nn.Mish}


@dataclass(frozen=True)
class Critics:
    """An ensemble of Q networks.

    Parameters
    ----------
    members : int, default 2
        Networks.
    subset : int, optional
        How many members, drawn anew for each batch, the target is the least of; by default all.
    hidden : tuple of int, default (256, 256)
        Widths of the hidden layers.
    layer_norm : bool, default False
        Normalise before each activation, which keeps values in bounds where many steps are made on little data.
    lr : float, default 3e-4
        Learning rate of Adam.
    tau : float, default 0.005
        Share of the way that the slow copies move towards the members at a time.
    every : int, default 1
        Steps of the critic from one move of the slow copies to the next.
    replacement : bool, default False
        Draw the subset with replacement, so that a member may stand in it twice.
    activation : {"relu", "tanh", "mish"}
        Between layers.
    candidates : int, default 1
        Actions of the policy that a target looks at; the best of them counts.
    compiled : bool, default False
        Let ``torch.compile`` translate updates: as a whole if the policy is a Gaussian one of plain layers and nothing else looks
        into them, otherwise what rectified critics compute by themselves.  The first updates take some seconds, those after them
        less than before.  It needs a C++ compiler, and results differ by rounding.
    """

    members: int = 2
    subset: int | None = None
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    lr: float = 3e-4
    tau: float = 0.005
    every: int = 1
    replacement: bool = False
    activation: str = "relu"
    candidates: int = 1
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.members < 1 or not self.hidden or min(self.hidden) < 1:
            raise FewerError(f"critics: at least one member and one hidden layer are needed; given {self}")
        if self.subset is not None and not 1 <= self.subset <= self.members:
            raise FewerError(
                f"critics: a subset of {self.subset} cannot be drawn of {self.members}; give 1 to {self.members}"
            )
        if not (self.lr > 0 and 0 < self.tau <= 1 and self.every >= 1 and self.candidates >= 1):
            raise FewerError(f"critics: lr, every and candidates must be positive and tau in (0, 1]; given {self}")
        if self.activation not in activations():
            raise FewerError(f"critics: no activation {self.activation!r}; choose {', '.join(activations())}")

    def build(self, observations: int, actions: int) -> QEnsemble:
        """Make the networks, from torch's global generator."""
        made = QEnsemble(observations, actions, self.members, self.hidden, self.layer_norm, self.activation)
        made.compiled = self.compiled
        return made

    def drawn(self) -> Int[Tensor, " subset"] | None:
        """The members of which a target is the least, drawn anew from torch's global generator; None if it is of all."""
        if self.subset is None or self.subset == self.members:
            return None
        if self.replacement:
            return torch.randint(self.members, (self.subset,))
        return torch.randperm(self.members)[: self.subset]


@contextmanager
def held(parameters: list[nn.Parameter]) -> Generator[None]:
    """Ask for no gradient of these parameters, so that none is computed on the way to what goes into a network."""
    asked = [each for each in parameters if each.requires_grad]
    for each in asked:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in asked:
            each.requires_grad_(True)


class QEnsemble(nn.Module):
    """What :class:`Critics` builds: observations and actions to a value by each member.

    Attributes
    ----------
    compiled : bool
        Whether what is computed without a graph goes through ``torch.compile``.

    Examples
    --------
    >>> QEnsemble(3, 1, members=5, hidden=(16,))(torch.zeros(4, 3), torch.zeros(4, 1)).shape
    torch.Size([5, 4])
    """

    compiled: bool = False

    def __init__(
        self,
        observations: int,
        actions: int,
        members: int,
        hidden: tuple[int, ...],
        layer_norm: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        widths = (observations + actions, *hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers.append(LinearEnsemble(inputs, outputs, members))
            if layer_norm:
                layers.append(LayerNormEnsemble(outputs, members))
            layers.append(activations()[activation]())
        self.layers = nn.Sequential(*layers, LinearEnsemble(widths[-1], 1, members))

    def forward(
        self,
        observations: Float[Tensor, "batch observations"],
        actions: Float[Tensor, "batch actions"],
        members: Int[Tensor, " chosen"] | None = None,
    ) -> Float[Tensor, "chosen batch"]:
        """Value of each pair, by the members at these places or by all."""
        if self._written_out():
            parameters = self.in_order()
            if members is not None:  # only those are computed
                parameters = [each[members] for each in parameters]
            return perceptrons(observations, actions, parameters, self.layer_norm, self.compiled)
        rows = torch.cat([observations, actions], dim=-1)[:, None]
        if members is None:
            return self.layers(rows)[..., 0].T
        chosen = {name: each[members] for name, each in self.layers.named_parameters()}
        return functional_call(self.layers, chosen, (rows,))[..., 0].T

    def regress(
        self,
        observations: Float[Tensor, "batch observations"],
        actions: Float[Tensor, "batch actions"],
        target: Float[Tensor, " batch"],
        parameters: Sequence[nn.Parameter],
    ) -> tuple[Float[Tensor, "members batch"], Float[Tensor, ""], Sequence[Tensor]]:
        """Compare with what all members should say.

        Parameters
        ----------
        observations, actions : float tensor (batch, ...)
            Pairs to value.
        target : float tensor (batch,)
            What they are worth.
        parameters : sequence of nn.Parameter
            Of this network.

        Returns
        -------
        values : float tensor (members, batch)
            What each member says, without a graph.
        loss : float tensor
            The mean square of the error, summed over members.
        gradients : sequence of tensor
            Of the loss, for each parameter.
        """
        whole = self.in_order() if type(self).forward is QEnsemble.forward and self._written_out() else []
        if len(whole) == len(parameters) and all(map(operator.is_, whole, parameters)):
            values, gradients = squared_error(observations, actions, target, whole, self.layer_norm, self.compiled)
            return values, (values - target).square().mean(1).sum(), gradients
        values = self(observations, actions)
        loss = (values - target).square().mean(1).sum()
        return values.detach(), loss.detach(), torch.autograd.grad(loss, parameters)

    def in_order(self) -> list[Tensor]:
        """All parameters, as they are used."""
        found = [each for layer in self.layers for each in layer._parameters.values()]
        return cast(list[Tensor], found)

    def _written_out(self) -> bool:
        """Whether the layers are as they were built, and nobody looks at what happens between them."""
        return type(self.layers) is nn.Sequential and all(
            type(each) in _WRITTEN_OUT and not each._forward_hooks for each in self.layers
        )


_WRITTEN_OUT = (LinearEnsemble, LayerNormEnsemble, nn.ReLU)
