"""S4D-Lin: a state space with a diagonal matrix, the usual rival of other long kernels.

::

    K_l = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n l),     A_n = -1/2 + i pi n at the start

References
----------
Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022,
arXiv:2206.11893.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.nets.convolution import causal_convolution


class S4D(nn.Module):
    """Diagonal state spaces as a sequence layer, one a channel, discretised by zero-order hold.

    Parameters
    ----------
    channels : int
        Of the sequences.
    length : int, optional
        Not needed: the kernel has any length.  Taken so that it can be made like other sequence layers.
    modes : int, default 16
        Complex modes of a kernel, each with its conjugate.
    slowest, fastest : float, default 1e-3 and 1e-1
        The step sizes begin log-uniformly between these.

    Examples
    --------
    >>> S4D(4)(torch.zeros(2, 100, 4)).shape
    torch.Size([2, 100, 4])
    """

    def __init__(
        self,
        channels: int,
        length: int | None = None,
        modes: int = 16,
        slowest: float = 1e-3,
        fastest: float = 1e-1,
    ) -> None:
        super().__init__()
        if min(channels, modes) < 1 or not 0 < slowest <= fastest:
            raise FewerError(
                f"s4d: {channels} channels of {modes} modes with steps from {slowest} to {fastest}; "
                "channels and modes must be at least 1, and steps above 0 in order"
            )
        self.log_step = nn.Parameter(math.log(slowest) + torch.rand(channels) * (math.log(fastest) - math.log(slowest)))
        self.log_decay = nn.Parameter(torch.full((channels, modes), math.log(0.5)))
        self.frequency = nn.Parameter((math.pi * torch.arange(modes)).expand(channels, modes).clone())
        self.c = nn.Parameter(torch.randn(channels, modes, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(channels))

    def kernel(self, length: int) -> Float[Tensor, "channels length"]:
        """The first taps of each kernel."""
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        stepped = rate * self.log_step.exp()[:, None]
        weight = torch.view_as_complex(self.c) * (stepped.exp() - 1) / rate
        powers = (stepped[..., None] * torch.arange(length, device=rate.device, dtype=self.skip.dtype)).exp()
        return 2 * torch.einsum("cm,cml->cl", weight, powers).real

    def forward(self, u: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        """Filter each channel."""
        return causal_convolution(u.mT, self.kernel(u.shape[1])).mT + self.skip * u
