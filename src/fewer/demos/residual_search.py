"""Search for a small change to a plan: sample, keep the best, sample around those again.

    D ~ N(mean, std^2), clipped to +-bound;    G = score(clip(plan + D, -1, 1))
    weights of the elites ~ exp(temperature (G - max G));    mean, std <- of the elites, so weighted;    std in [min, max]

What is given in the end is the best sample of the last round, not the mean.

References
----------
Grady Williams et al., "Model Predictive Path Integral Control", 2015, arXiv:1509.01149.
Nicklas Hansen, Xiaolong Wang, Hao Su, "Temporal Difference Learning for Model Predictive Control", ICML 2022,
arXiv:2203.04955.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import FewerError

Score = Callable[[Float[Tensor, "plans samples chunk action"]], Float[Tensor, "plans samples"]]
"""How good plans are."""


@dataclass(frozen=True)
class ResidualSearch:
    """How a plan is searched around.

    Parameters
    ----------
    samples, iterations, elites : int, default 256, 6 and 32
        Changes that are tried in a round, rounds, and how many of the changes are kept in each.
    bound : float, default 0.2
        How far each number of an action may be changed, where its bounds are -1 and 1; 0 leaves plans as they are.
    std, min_std, max_std : float, default 0.05, 0.01 and 0.1
        Standard deviation of the first round, and bounds of those after.
    temperature : float, default 0.5
        How much more the better ones of the elites count.

    Examples
    --------
    >>> plan, right = torch.zeros(1, 8, 2), lambda plans: plans[..., 0].sum(-1)
    >>> found = ResidualSearch(max_std=0.2).best(plan, right, torch.Generator().manual_seed(0))
    >>> bool(found[..., 0].mean() > 0.1), float(found.abs().max()) <= 0.2 + 1e-6
    (True, True)
    """

    samples: int = 256
    iterations: int = 6
    elites: int = 32
    bound: float = 0.2
    std: float = 0.05
    min_std: float = 0.01
    max_std: float = 0.1
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if min(self.samples, self.iterations, self.elites) < 1 or self.elites > self.samples:
            raise FewerError(
                f"search: samples, iterations and elites must be at least 1, and elites at most samples; they are "
                f"{self.samples}, {self.iterations} and {self.elites}"
            )
        if not (0 <= self.bound <= 2 and 0 < self.min_std <= self.max_std and self.std > 0 and self.temperature >= 0):
            raise FewerError(
                f"search: bound lies in [0, 2], standard deviations are positive and min_std at most max_std, and temperature "
                f"is not negative; given {self}"
            )

    def best(
        self, plans: Float[Tensor, "plans chunk action"], score: Score, stream: torch.Generator | None = None
    ) -> Float[Tensor, "plans chunk action"]:
        """The best change of each plan that was found.

        Parameters
        ----------
        plans : float tensor (plans, chunk, action)
            In [-1, 1].
        score : callable
            From changed plans (plans, samples, chunk, action) to how good they are (plans, samples).
        stream : torch Generator, optional
            Where from is drawn.
        """
        if not self.bound:
            return torch.zeros_like(plans)
        mean, std = torch.zeros_like(plans), torch.full_like(plans, self.std)
        shape = (len(plans), self.samples, *plans.shape[1:])
        changes = scores = None
        for _ in range(self.iterations):
            if changes is not None and scores is not None:
                mean, std = self.refit(changes, scores)
            noise = torch.randn(shape, generator=stream, device=plans.device)
            changes = (mean[:, None] + std[:, None] * noise).clamp(-self.bound, self.bound)
            scores = score((plans[:, None] + changes).clamp(-1, 1))
        assert changes is not None
        assert scores is not None
        # a score that is no number is never the best
        at = scores.nan_to_num(nan=-torch.inf).argmax(1)
        return changes[torch.arange(len(plans), device=plans.device), at]

    def refit(
        self, changes: Float[Tensor, "plans samples chunk action"], scores: Float[Tensor, "plans samples"]
    ) -> tuple[Float[Tensor, "plans chunk action"], Float[Tensor, "plans chunk action"]]:
        """Mean and standard deviation of the elites."""
        value, at = scores.nan_to_num(nan=-torch.inf).topk(self.elites, dim=1)
        kept = changes.gather(1, at[:, :, None, None].expand(-1, -1, *changes.shape[2:]))
        weights = torch.softmax(self.temperature * value, dim=1)[:, :, None, None]
        mean = (weights * kept).sum(1)
        std = (weights * (kept - mean[:, None]).square()).sum(1).sqrt()
        return mean, std.clamp(self.min_std, self.max_std)
