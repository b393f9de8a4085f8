"""A classifier of success, and the examples that it learns from.

A classifier c gives each observation a logit of success, and a step pays 1 where sigmoid(c(s')) is at least a half, else 0.  What
the environment says of rewards and success is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.environments import Environment
from fewer.control.prior_data import given_demonstrations
from fewer.core.errors import FewerError
from fewer.core.seeding import derive
from fewer.demos.demonstrations import flat

Rows = Float[Tensor, "rows observations"]


class SuccessClassifier(nn.Module):
    """Observations to logits of success: standardised, one hidden layer, dropout, layer norm.

    Parameters
    ----------
    observations : int
        Numbers in one.
    hidden : int, default 256
        Width of the hidden layer.
    dropout : float, default 0.1
        Share of it that is left out while training.
    slope : float, default 0
        Of the activation below 0.

    Examples
    --------
    >>> SuccessClassifier(3)(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, observations: int, hidden: int = 256, dropout: float = 0.1, slope: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(observations))
        self.register_buffer("deviation", torch.ones(observations))
        self.head = nn.Sequential(
            nn.Linear(observations, hidden),
            nn.Dropout(dropout),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(slope),
            nn.Linear(hidden, 1),
        )

    def standardise(self, rows: Rows) -> None:
        """Take scales from some observations; a number that never changes is left alone."""
        deviation = rows.std(0, correction=0)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def features(self, observations: Rows) -> Rows:
        """Standardised observations, which the head sees."""
        return (observations - self.mean) / self.deviation

    def forward(self, observations: Rows) -> Float[Tensor, " rows"]:
        """Logits."""
        return self.head(self.features(observations))[:, 0]

    @torch.no_grad()
    def success(self, observations: Rows) -> Tensor:
        """Whether success is at least as likely as not; nothing is left out."""
        training = self.training
        self.eval()
        found = self(observations) >= 0
        self.train(training)
        return found


def outcomes(environment: Environment, demos: str | None, seed: int) -> tuple[Rows, Rows]:
    """Examples of success and of failure: a task's own, or else the ends of successful demonstrations and what came before.

    Raises
    ------
    FewerError
        If no demonstration is a success, or none says what was seen at its end.
    """
    own: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = getattr(environment, "outcomes", None)
    if demos is None and own is not None:
        good, bad = own(derive(seed, "outcomes"))
        return torch.from_numpy(good.astype(np.float32)), torch.from_numpy(bad.astype(np.float32))
    given = given_demonstrations(environment, demos, seed)
    successes = given.successes
    if successes is None:
        assert given.terminations is not None
        successes = given.terminations[given.offsets[1:] - 1]
    if not successes.any():
        raise FewerError(
            f"{given.name}: no demonstration is a success, and a reward is learned from successes; give one that is, or say "
            "which are with successes"
        )
    if given.final_observations is None:
        raise FewerError(f"{given.name}: what was seen after each episode's last action is missing; record it")
    good, bad = flat(given.final_observations)[successes], flat(given.observations)
    if good.shape[1] != environment.observation_size:
        raise FewerError(
            f"{given.name}: observations have {good.shape[1]} numbers and those of {environment.name} "
            f"{environment.observation_size}; give its own"
        )
    return torch.from_numpy(good.astype(np.float32)), torch.from_numpy(bad.astype(np.float32))
