"""A distribution over the real line made of bars, so that a network can say any shape with a softmax.

Between the first and the last border the density of bar i is p_i / width_i.  The two outer bars are
half-normal tails instead, scaled so that half of their mass lies within the bar's width: every real
number has a density.  (Müller et al., arXiv 2112.10510; as used in arXiv 2310.20447.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError

# the half-normal's median, in units of its scale
_MEDIAN = math.sqrt(2) * float(torch.erfinv(torch.tensor(0.5, dtype=torch.float64)))


class BarDistribution(nn.Module):
    """Bars with half-normal tails.

    Parameters
    ----------
    borders : float tensor (bars + 1,)
        Increasing; at least three.

    Raises
    ------
    FewerError
        If the borders do not increase, or make fewer than two bars.

    Examples
    --------
    >>> bars = BarDistribution(torch.tensor([0.0, 0.5, 0.6, 1.0]))
    >>> logits = torch.tensor([0.2, 0.5, 0.3]).log()
    >>> round(float(bars.cdf(logits, torch.tensor(0.55))), 3)
    0.45
    >>> round(float(bars.quantile(logits, 0.45)), 3)
    0.55
    """

    borders: Tensor

    def __init__(self, borders: Float[Tensor, " borders"]) -> None:
        super().__init__()
        if borders.ndim != 1 or len(borders) < 3 or not bool((borders[1:] > borders[:-1]).all()):
            raise FewerError(
                f"bar distribution: borders must increase and be at least three; {tuple(borders.shape)} were given"
            )
        self.register_buffer("borders", borders.clone())

    @classmethod
    def from_samples(cls, samples: Float[Tensor, "..."], bars: int) -> BarDistribution:
        """Make bars that hold equally many of the samples.

        Parameters
        ----------
        samples : float tensor
            Of any shape; at least two a bar.
        bars : int
            How many.
        """
        flat = samples.flatten()
        each = len(flat) // bars if bars > 0 else 0
        if bars < 2 or each < 2:
            raise FewerError(
                f"bar distribution: at least two bars and two samples a bar are needed; given {bars} bars and "
                f"{len(flat)} samples"
            )
        ordered = flat[: each * bars].sort().values
        middle = (ordered[each - 1 :: each][:-1] + ordered[each::each]) / 2
        return cls(torch.cat([ordered[:1], middle, ordered[-1:]]))

    @property
    def bars(self) -> int:
        """How many."""
        return len(self.borders) - 1

    def log_density(self, logits: Float[Tensor, "*shape bars"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Natural log of the density at ``y``.

        Parameters
        ----------
        logits : float tensor (..., bars)
            Of the bars' masses; need not be normalised.
        y : float tensor (...)
            Any real numbers.
        """
        borders = self.borders
        bar = (torch.searchsorted(borders, y.contiguous()) - 1).clamp(0, self.bars - 1)
        inner = -(borders[1:] - borders[:-1]).log()[bar]
        low, high = self._tails
        below = _half_normal(borders[1] - y, low)
        above = _half_normal(y - borders[-2], high)
        shape = torch.where(bar == 0, below, torch.where(bar == self.bars - 1, above, inner))
        return logits.gather(-1, bar[..., None]).squeeze(-1) - logits.logsumexp(-1) + shape

    def mean(self, logits: Float[Tensor, "*shape bars"]) -> Float[Tensor, "*shape"]:
        """Expected value."""
        centres = (self.borders[:-1] + self.borders[1:]) / 2
        low, high = self._tails
        centres[0] = self.borders[1] - low * math.sqrt(2 / math.pi)
        centres[-1] = self.borders[-2] + high * math.sqrt(2 / math.pi)
        return logits.softmax(-1) @ centres

    def cdf(self, logits: Float[Tensor, "*shape bars"], y: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
        """Chance of a value of at most ``y``."""
        mass = logits.softmax(-1)
        y = y.expand(mass.shape[:-1])
        borders = self.borders
        bar = (torch.searchsorted(borders, y.contiguous()) - 1).clamp(0, self.bars - 1)
        low, high = self._tails
        within = (y - borders[bar]) / (borders[bar + 1] - borders[bar])
        below = torch.erfc((borders[1] - y) / (low * math.sqrt(2)))
        above = torch.erf((y - borders[-2]) / (high * math.sqrt(2)))
        part = torch.where(bar == 0, below, torch.where(bar == self.bars - 1, above, within))
        before = nn.functional.pad(mass.cumsum(-1), (1, 0)).gather(-1, bar[..., None]).squeeze(-1)
        return (before + part * mass.gather(-1, bar[..., None]).squeeze(-1)).clamp(0, 1)

    def quantile(self, logits: Float[Tensor, "*shape bars"], chance: float) -> Float[Tensor, "*shape"]:
        """Value with ``chance`` (above 0, below 1) to its left: the inverse of :meth:`cdf`."""
        if not 0 < chance < 1:
            raise FewerError(f"a quantile lies strictly between 0 and 1; {chance} was given")
        mass = logits.softmax(-1)
        upto = mass.cumsum(-1)
        wanted = torch.full((*mass.shape[:-1], 1), chance, dtype=mass.dtype, device=mass.device)
        bar = torch.searchsorted(upto, wanted).clamp(0, self.bars - 1)
        before = nn.functional.pad(upto, (1, 0)).gather(-1, bar)
        # rounding may leave a share a little outside the bar, where the tails have no inverse
        part = ((wanted - before) / mass.gather(-1, bar)).clamp(1e-7, 1 - 1e-7).squeeze(-1)
        bar = bar.squeeze(-1)
        low, high = self._tails
        within = self.borders[bar] + part * (self.borders[bar + 1] - self.borders[bar])
        below = self.borders[1] - low * math.sqrt(2) * torch.erfinv(1 - part)
        above = self.borders[-2] + high * math.sqrt(2) * torch.erfinv(part)
        return torch.where(bar == 0, below, torch.where(bar == self.bars - 1, above, within))

    @property
    def _tails(self) -> tuple[Tensor, Tensor]:
        """Scales of the lower and the upper half-normal."""
        return (self.borders[1] - self.borders[0]) / _MEDIAN, (self.borders[-1] - self.borders[-2]) / _MEDIAN


def _half_normal(distance: Tensor, scale: Tensor) -> Tensor:
    return 0.5 * math.log(2 / math.pi) - scale.log() - 0.5 * (distance / scale).square()
