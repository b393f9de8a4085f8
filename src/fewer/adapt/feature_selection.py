"""Few of many features: a linear head whose weights are penalised feature by feature says which to keep.

With W[:, j] the weights of feature j, a head learns by cross-entropy + penalty * sum_j ||W[:, j]||; the features of largest
norm are kept, and a head on them is learned anew.

Evci et al., "Head2Toe: Utilizing Intermediate Representations for Better Transfer Learning", ICML 2022, arXiv:2201.03529.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.loop import HeadModule, LinearHead, classes_of, refuse_names
from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import Task, own_randomness
from fewer.models.optimisers import Cosine, set_rate


def rare_classes(width: int, classes: int) -> nn.Linear:
    """A linear layer that begins by saying of each class that it is rare.

    Weights are normal by the number of classes (Kaiming, fan out), and biases log(0.01 / 0.99).
    """
    linear = nn.Linear(width, classes)
    nn.init.kaiming_normal_(linear.weight, a=0, mode="fan_out")
    nn.init.constant_(linear.bias, -math.log((1 - 0.01) / 0.01))
    return linear


def group_norms(linear: nn.Linear) -> Float[Tensor, " width"]:
    """Norm of the weights of each feature."""
    # the small number keeps the slope finite where all weights of a feature are zero
    return (linear.weight.square().sum(0) + 1e-12).sqrt()


class GroupLassoHead(LinearHead):
    """A linear head whose loss is penalised by the norms of its features' weights.

    Parameters
    ----------
    linear : nn.Linear
        Features to logits.
    penalty : float
        Of the sum of norms.
    """

    def __init__(self, linear: nn.Linear, penalty: float) -> None:
        super().__init__(linear)
        self.penalty = penalty

    def loss(
        self, features: Float[Tensor, "rows width"], y: Int[Tensor, " rows"], domains: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, " rows"]:
        """Cross-entropy and the penalty."""
        return super().loss(features, y, domains) + self.penalty * group_norms(self.linear).sum()


@dataclass(frozen=True)
class GroupLasso:
    """A head that weighs few features, for the slot ``head``.

    Parameters
    ----------
    penalty : float, default 1e-4
        Of the sum over features of the norm of their weights; with 0, a plain head.
    """

    penalty: float = 1e-4

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise FewerError(f"group lasso: the penalty is {self.penalty}; give 0 or more")

    def build(self, width: int, task: Task, model: nn.Module) -> HeadModule:
        """Make it."""
        return GroupLassoHead(rare_classes(width, len(classes_of(task))), self.penalty)


def group_lasso(
    features: Float[Tensor, "rows width"],
    y: Int[Tensor, " rows"],
    classes: int,
    penalty: float = 1e-4,
    steps: int = 300,
    lr: float = 0.03,
    seed: int = 0,
) -> nn.Linear:
    """A linear head on fixed features with a penalty for each feature, with all rows in each step.

    Parameters
    ----------
    features : float tensor (rows, width)
        Fixed.
    y : int tensor (rows,)
        Classes.
    classes : int
        How many there are.
    penalty : float, default 1e-4
        0 gives a plain head.
    steps : int, default 300
        Of Adam.
    lr : float, default 0.03
        At the beginning; it falls along a half cosine.
    seed : int, default 0
        Of the weights.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 8)
    >>> norms = group_lasso(x, torch.tensor([0, 1] * 8), 2, penalty=0.1).weight.norm(dim=0)
    >>> bool(norms[0] > 10 * norms[1])
    True
    """
    if penalty < 0 or steps < 1 or len(features) != len(y):
        raise FewerError(
            f"group lasso: the penalty must not be negative, steps be at least 1 and each row have a class; given {penalty}, "
            f"{steps}, {len(features)} rows and {len(y)} classes"
        )
    with own_randomness(seed, "group-lasso"):
        head = GroupLassoHead(rare_classes(features.shape[1], classes), penalty).to(features.device, features.dtype)
    y = y.to(features.device)
    optimiser = torch.optim.Adam(head.parameters(), lr=lr, fused=True)
    loss = torch.zeros(())
    for step in range(steps):
        set_rate(optimiser, Cosine().factor(step / steps))
        loss = head.loss(features, y, None).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    if not torch.isfinite(loss):
        raise Diverged(f"group lasso: the loss became {float(loss.detach())}; lower the learning rate")
    return head.linear


def kept_places(norms: Float[Tensor, " width"], fraction: float) -> Int[Tensor, " kept"]:
    """Places of the largest share of the features, at least one, in their order.

    Examples
    --------
    >>> kept_places(torch.tensor([0.1, 3.0, 0.2, 1.0]), 0.5).tolist()
    [1, 3]
    """
    if not 0 < fraction <= 1:
        raise FewerError(f"feature selection: the share kept is {fraction}; give more than 0 and at most 1")
    # as it is written: 0.29 of 100 is 29, although the nearest number of this machine lies below
    count = max(1, int(Fraction(str(fraction)) * len(norms)))
    return norms.topk(count).indices.sort().values


class KeptHead(HeadModule):
    """A linear head on some of the features.

    Parameters
    ----------
    linear : nn.Linear
        Kept features to logits.
    places : int tensor (kept,)
        Of those that are kept.
    """

    places: Tensor

    def __init__(self, linear: nn.Linear, places: Int[Tensor, " kept"]) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("places", places)

    def logits(
        self, features: Float[Tensor, "rows width"], classes: tuple[str, ...] | None = None
    ) -> Float[Tensor, "rows heads classes"]:
        """Of the classes it has learned."""
        refuse_names(classes)
        return self.linear(features[:, self.places])[:, None]


def selecting_head(
    features: Float[Tensor, "rows width"],
    y: Int[Tensor, " rows"],
    classes: int,
    fraction: float,
    penalty: float = 1e-4,
    steps: int = 300,
    lr: float = 0.03,
    seed: int = 0,
) -> KeptHead:
    """Keep a share of the features, those that a penalised head weighs most, and learn a plain head on them.

    Parameters
    ----------
    features, y, classes, penalty, steps, lr, seed
        See :func:`group_lasso`; the penalised head learns at half the rate.
    fraction : float
        Share that is kept, above 0 and at most 1; rounded down to whole features.
    """
    first = group_lasso(features, y, classes, penalty, steps, lr / 2, seed)
    places = kept_places(first.weight.detach().norm(dim=0), fraction)
    return KeptHead(group_lasso(features[:, places], y, classes, 0.0, steps, lr, seed), places)
