"""The elliptic bonus: how little is known in the direction of a feature, as its length in the inverse of what was seen.

With Lambda = ridge I + sum phi phi^T over what was seen, the bonus of phi is sqrt(phi^T Lambda^-1 phi): 1 / sqrt(ridge + n)
for a one-hot feature seen n times, and the width of ridge regression's confidence interval in general.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError


class EllipticBonus(nn.Module):
    """The inverse of Lambda, kept up to date by the Sherman-Morrison-Woodbury formula; many side by side.

    Parameters
    ----------
    dimensions : int
        Of a feature.
    ridge : float, default 1
        Positive.
    batch : tuple of int, default ()
        Shape of the bonuses that are kept side by side.

    Attributes
    ----------
    inverse : float64 tensor (*batch, dimensions, dimensions)
        A buffer, saved with the module.

    Examples
    --------
    >>> bonus = EllipticBonus(2)
    >>> bonus.update(torch.tensor([[1.0, 0.0]] * 3))
    >>> bonus.value(torch.eye(2))
    tensor([0.5000, 1.0000])
    """

    def __init__(self, dimensions: int, ridge: float = 1.0, batch: tuple[int, ...] = ()) -> None:
        super().__init__()
        if dimensions < 1 or not 0 < ridge < math.inf:
            raise FewerError(
                f"elliptic bonus: dimensions must be at least 1 and ridge positive; given {dimensions} and {ridge}"
            )
        self.dimensions = dimensions
        eye = torch.eye(dimensions, dtype=torch.float64) / ridge
        self.register_buffer("inverse", eye.expand(*batch, -1, -1).clone())
        self.inverse: Tensor

    @torch.no_grad()
    def update(self, phi: Float[Tensor, "*batch seen dimensions"]) -> None:
        """Take in features that were seen.

        Parameters
        ----------
        phi : float tensor (*batch, seen, dimensions)
            Any number of them.
        """
        phi = self._checked(phi)
        if phi.shape[-2] < self.dimensions:  # few: correct the inverse by a small system
            turned = phi @ self.inverse
            small = torch.eye(phi.shape[-2], dtype=phi.dtype, device=phi.device) + turned @ phi.mT
            new = self.inverse - turned.mT @ torch.linalg.solve(small, turned)
        else:
            new = torch.linalg.inv(torch.linalg.inv(self.inverse) + phi.mT @ phi)
        self.inverse = (new + new.mT) / 2  # rounding must not make it lopsided

    @torch.no_grad()
    def value(self, phi: Float[Tensor, "*batch asked dimensions"]) -> Float[Tensor, "*batch asked"]:
        """The bonus of features."""
        asked = self._checked(phi)
        squared = ((asked @ self.inverse) * asked).sum(dim=-1)
        return squared.clamp_min(0).sqrt().to(phi.dtype if phi.is_floating_point() else torch.float64)

    def _checked(self, phi: Tensor) -> Tensor:
        if phi.ndim < 2 or phi.shape[-1] != self.dimensions:
            raise FewerError(
                f"elliptic bonus: features must be (*batch, number, {self.dimensions}); they are {tuple(phi.shape)}"
            )
        if not torch.isfinite(phi).all():
            raise FewerError("elliptic bonus: a feature is NaN or infinite; lower the learning rate of what makes it")
        return phi.to(self.inverse.dtype)


class ReplayBonus(nn.Module):
    """The bonus of a deep agent that learns from replayed sequences: it is added to the n-step return.

    What was seen is never forgotten, though the features change while they are learned.  As in the paper's experiments
    each frame counts whenever it is replayed, so that the bonus fades with updates; ``once`` counts it the first time only,
    so that it fades with steps in the environment.

    Parameters
    ----------
    dimensions : int
        Of a feature; the paper takes the predicted distribution of the chosen action's return, of 51 atoms.
    factor : float, default 1
        Of the bonus.
    ridge : float, default 1e-5
        What Lambda begins as.
    once : bool, default False
        Count each place of the replay memory once.

    Examples
    --------
    >>> replay = ReplayBonus(dimensions=3)
    >>> frames = torch.softmax(torch.randn(4, 5, 3), dim=-1)
    >>> replay.n_step(frames, gamma=0.99).shape
    torch.Size([4])
    """

    def __init__(self, dimensions: int, factor: float = 1.0, ridge: float = 1e-5, once: bool = False) -> None:
        super().__init__()
        if not 0 <= factor < math.inf:
            raise FewerError(f"replay bonus: factor must not be negative; {factor} was given")
        self.elliptic, self.factor, self.once = EllipticBonus(dimensions, ridge), factor, once
        self.register_buffer("counted", torch.zeros(0, dtype=torch.bool))
        self.counted: Tensor

    def update(
        self, phi: Float[Tensor, "batch frames dimensions"], places: Int[Tensor, "batch frames"] | None = None
    ) -> None:
        """Count replayed frames.

        Parameters
        ----------
        phi : float tensor (batch, frames, dimensions)
            Features of what was done in each frame.
        places : int tensor (batch, frames), optional
            Where in the replay memory they lie; needed with ``once``.  Forget a place that is written anew by
            :meth:`forget`.
        """
        flat = phi.detach().reshape(-1, phi.shape[-1])
        if self.once:
            if places is None or places.shape != phi.shape[:-1]:
                raise FewerError("replay bonus: to count each frame once, give the place of each in the replay memory")
            flat = flat[self._fresh(places.reshape(-1))]
        self.elliptic.update(flat)

    def forget(self, places: Int[Tensor, " n"]) -> None:
        """Places of the replay memory that now hold new frames."""
        places = places[places < len(self.counted)]
        self.counted[places] = False

    def n_step(
        self,
        phi: Float[Tensor, "batch steps dimensions"],
        gamma: float,
        alive: Bool[Tensor, "batch steps"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Discounted sum of the bonuses over a window, to be added to the rewards of the same window.

        Parameters
        ----------
        phi : float tensor (batch, steps, dimensions)
            Features of the window's frames.
        gamma : float
            Discount.
        alive : bool tensor (batch, steps), optional
            False from where the episode was over.
        """
        bonus = self.factor * self.elliptic.value(phi.detach().reshape(-1, phi.shape[-1])).reshape(phi.shape[:-1])
        if alive is not None:
            bonus = bonus * alive
        return bonus @ gamma ** torch.arange(phi.shape[1], dtype=bonus.dtype, device=bonus.device)

    def _fresh(self, places: Tensor) -> Tensor:
        """The first occurrence of each place that was not counted before."""
        needed = int(places.max()) + 1 if len(places) else 0
        if needed > len(self.counted):
            more = torch.zeros(max(needed, 2 * len(self.counted)) - len(self.counted), dtype=torch.bool)
            self.counted = torch.cat([self.counted, more.to(self.counted.device)])
        order = torch.arange(len(places), device=places.device)
        first = torch.full((needed,), len(places), device=places.device).scatter_reduce(0, places, order, "amin")
        fresh = (first[places] == order) & ~self.counted[places]
        self.counted[places] = True
        return fresh

    def _load_from_state_dict(self, state: dict, prefix: str, *rest: object) -> None:
        self.counted = torch.zeros_like(state[f"{prefix}counted"])  # it has grown since this one was made
        super()._load_from_state_dict(state, prefix, *rest)  # pyright: ignore[reportArgumentType]
