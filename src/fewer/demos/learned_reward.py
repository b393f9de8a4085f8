"""A reward that nobody gave: high where demonstrations go, low where only the learner goes.

    loss = E_replay[R(f)] - E_demo[R(f)] + 10 E[(|grad R(f_mix)| - 0.4)^2],    f_mix = u f_demo + (1 - u) f_replay

The difference of the means is what tells the learner's states from the demonstrated ones; the penalty bounds how steep R is,
and with that how far apart the means can get.  R knows states alone, not actions.

References
----------
Gokul Swamy et al., "Of Moments and Matching: A Game-Theoretic Framework for Closing the Imitation Gap", ICML 2021,
arXiv:2103.03236.
Ishaan Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, arXiv:1704.00028.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.demos.world_model import dense


class LearnedReward(nn.Module):
    """A network from features of states to a reward; at first 0 everywhere.

    Parameters
    ----------
    features : int
        Width of a state.
    hidden : tuple of int, default (512, 512)
        Units of each hidden layer.

    Examples
    --------
    >>> LearnedReward(3, (8,))(torch.zeros(4, 5, 3)).shape
    torch.Size([4, 5])
    """

    def __init__(self, features: int, hidden: tuple[int, ...] = (512, 512)) -> None:
        super().__init__()
        last = nn.Linear(hidden[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(dense(features, *hidden), last)

    def forward(self, features: Float[Tensor, "... features"]) -> Float[Tensor, "..."]:
        """The reward."""
        return self.layers(features)[..., 0]


def moment_loss(
    reward: nn.Module,
    demonstrated: Float[Tensor, "rows features"],
    acted: Float[Tensor, "rows features"],
    *,
    penalty: float = 10.0,
    slope: float = 0.4,
    share: Float[Tensor, "rows 1"] | None = None,
) -> Float[Tensor, ""]:
    """What the reward makes small.

    Parameters
    ----------
    reward : nn.Module
        From features (rows, features) to (rows,).
    demonstrated, acted : float tensor (rows, features)
        States of demonstrations and of the learner, as many.
    penalty : float, default 10
        Weight of the penalty.
    slope : float, default 0.4
        How steep R shall be between the two.
    share : float tensor (rows, 1), optional
        u; by default drawn from torch's global generator.
    """
    share = torch.rand(len(demonstrated), 1, device=demonstrated.device) if share is None else share
    between = torch.lerp(acted, demonstrated, share).requires_grad_()
    # one pass for all three
    values = reward(torch.cat([acted, demonstrated, between]))
    apart, mixed = values[: len(acted)].mean() - values[len(acted) : -len(between)].mean(), values[-len(between) :]
    (gradient,) = torch.autograd.grad(mixed.sum(), between, create_graph=True)
    return apart + penalty * (gradient.norm(dim=-1) - slope).square().mean()
