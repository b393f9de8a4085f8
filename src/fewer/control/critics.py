"""Critics of actions: an ensemble of networks, computed as one.

The target of all members is the reward plus what the action after it is worth to the least of a random
subset of the slowly moving copies, so that what one member overrates is not believed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.ensemble import LayerNormEnsemble, LinearEnsemble

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
        return QEnsemble(observations, actions, self.members, self.hidden, self.layer_norm, self.activation)

    def target(self, values: Values) -> Float[Tensor, " batch"]:
        """The least value of a random subset of the members."""
        if self.subset is not None and self.subset < len(values):
            chosen = (
                torch.randint(len(values), (self.subset,))
                if self.replacement
                else torch.randperm(len(values))[: self.subset]
            )
            values = values[chosen]
        return values.amin(0)


class QEnsemble(nn.Module):
    """What :class:`Critics` builds: observations and actions to a value by each member.

    Examples
    --------
    >>> QEnsemble(3, 1, members=5, hidden=(16,))(torch.zeros(4, 3), torch.zeros(4, 1)).shape
    torch.Size([5, 4])
    """

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
        widths = (observations + actions, *hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers.append(LinearEnsemble(inputs, outputs, members))
            if layer_norm:
                layers.append(LayerNormEnsemble(outputs, members))
            layers.append(activations()[activation]())
        self.layers = nn.Sequential(*layers, LinearEnsemble(widths[-1], 1, members))

    def forward(
        self, observations: Float[Tensor, "batch observations"], actions: Float[Tensor, "batch actions"]
    ) -> Values:
        """Value of each pair."""
        return self.layers(torch.cat([observations, actions], dim=-1)[:, None])[..., 0].T
