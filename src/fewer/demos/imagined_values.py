"""Values of imagined states: an ensemble of networks, regressed to the lambda-returns of what the base policy would do.

    V(f_t)  ~  R(f_t) + gamma goes_on(f_t) V(f_{t+1})
    G_t = R(f_t) + gamma goes_on(f_t) ((1 - lambda) V(f_{t+1}) + lambda G_{t+1}),    G_H = V(f_H)

V in the targets is the mean of two members that are drawn anew; all members are regressed to the same targets, and to the mean of
their slow copies.  How much the members disagree says how far a state is from what was ever learned.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.models.ensemble import LinearEnsemble

Values = Float[Tensor, "members ..."]

ROWS = 2048
"""States that are valued at a time: what the members make of more does not stay in a processor's cache."""


class ValueEnsemble(nn.Module):
    """Networks from features of states to values, computed as one; at first all say 0.

    Parameters
    ----------
    features : int
        Width of a state.
    hidden : tuple of int, default (512, 512)
        Units of each hidden layer.
    members : int, default 5
        Networks that share nothing.

    Examples
    --------
    >>> ValueEnsemble(3, (8,), members=4)(torch.zeros(6, 5, 3)).shape
    torch.Size([4, 6, 5])
    """

    def __init__(self, features: int, hidden: tuple[int, ...] = (512, 512), members: int = 5) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList(
            LinearEnsemble(before, after, members) for before, after in itertools.pairwise((features, *hidden, 1))
        )
        last = self.layers[-1]
        assert isinstance(last, LinearEnsemble)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Float[Tensor, "... features"]) -> Values:
        """The value by each member."""
        rows = features.reshape(-1, features.shape[-1]).split(ROWS)
        return torch.cat([self._of(block) for block in rows], dim=1).unflatten(1, features.shape[:-1])

    def _of(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "members rows"]:
        # members first, so that every product and every norm runs over memory in order
        x = rows.expand(self.members, -1, -1)
        *hidden, last = (layer for layer in self.layers if isinstance(layer, LinearEnsemble))
        for layer in hidden:
            x = torch.baddbmm(layer.bias[:, None], x, layer.weight)
            x = functional.silu(functional.layer_norm(x, x.shape[-1:], eps=1e-3))
        return torch.baddbmm(last.bias[:, None], x, last.weight)[..., 0]


def lambda_returns(
    rewards: Float[Tensor, "time ..."],
    discounts: Float[Tensor, "time ..."],
    values: Float[Tensor, "time+1 ..."],
    mix: float,
) -> Float[Tensor, "time ..."]:
    """G of each step; where ``mix`` (lambda) is 0 the next value counts alone, where it is 1 the last one alone.

    Examples
    --------
    >>> ones = torch.ones(2)
    >>> lambda_returns(ones, 0.5 * ones, torch.tensor([0.0, 8.0, 4.0]), mix=0.0)
    tensor([5., 3.])
    >>> lambda_returns(ones, 0.5 * ones, torch.tensor([0.0, 8.0, 4.0]), mix=1.0)
    tensor([2.5000, 3.0000])
    """
    follows, found = values[-1], []
    for t in range(len(rewards) - 1, -1, -1):
        follows = rewards[t] + discounts[t] * torch.lerp(values[t + 1], follows, mix)
        found.append(follows)
    return torch.stack(found[::-1])


def value_loss(
    ensemble: nn.Module,
    slow: nn.Module,
    states: Float[Tensor, "time+1 rows features"],
    rewards: Float[Tensor, "time+1 rows"],
    discounts: Float[Tensor, "time+1 rows"],
    *,
    mix: float = 0.95,
) -> Float[Tensor, ""]:
    """Half the squared errors of all members to the targets and to the slow copies' mean; sum over members, mean over states.

    Parameters
    ----------
    ensemble, slow : nn.Module
        From states to values (members, ...).
    states : float tensor (time + 1, rows, features)
        As they were imagined.
    rewards, discounts : float tensor (time + 1, rows)
        Of each, the discount with the probability that the episode goes on in it.
    mix : float, default 0.95
        Lambda.
    """
    values = ensemble(states)
    with torch.no_grad():
        two = torch.randperm(len(values), device=values.device)[:2]
        targets = lambda_returns(rewards[:-1], discounts[:-1], values[two].mean(0), mix)
        before = torch.cat([torch.ones_like(discounts[:1]), discounts[:-2]])
        weights = before.cumprod(0)
        near = slow(states[:-1]).mean(0)
    errors = (values[:, :-1] - targets).square() + (values[:, :-1] - near).square()
    return 0.5 * (errors * weights).mean(dim=(1, 2)).sum()
