"""The kernel of a long convolution: a weight for every position, kept small or smooth whenever it is used."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.nets.convolution import HALVES

Init = Literal["random", "double_exp"]


class LongKernel(nn.Module):
    """Learned kernels as long as the sequence, with what keeps them from fitting noise.

    ::

        random       K ~ 0.002 N(0, 1)
        double_exp   K ~ 0.02 N(0, 1) exp(-(l / L) (H / 2)^(h / H)),   channel h = 0 .. H-1, position l = 0 .. L-1
        smooth       moving average over w taps, zeros beyond the ends
        squash       sign(K) max(|K| - lam, 0)

    in this order, then dropout of single taps.

    Parameters
    ----------
    d_model : int
        Channels H of the sequence.
    l_max : int
        Taps L.
    channels : int, default 1
        Kernels for each channel of the sequence.
    lam : float, default 0.001
        Soft threshold; 0 for none.  A tap below it receives no gradient, so it should be well below the initial size of
        the taps (0.002 for ``"random"``): with more than twice the initial deviation, nearly all taps begin, and stay, dead.
    dropout : float, default 0.2
        Share of taps that are zero in a training step; the rest is scaled up.
    smooth : int, optional
        Odd width of the moving average in time; 1 changes nothing.
    smooth_frequency : int, optional
        Odd width of a Gaussian window of deviation 1 that averages over neighbouring frequencies; its weights sum to one.
    init : {"random", "double_exp"}, default "random"
        Where the taps begin.
    lr : float or None, default 1e-3
        Learning rate that an optimiser is asked to give the taps, always without weight decay; None for its own.

    Examples
    --------
    >>> kernel = LongKernel(4, 100, channels=2)
    >>> kernel(64).shape
    torch.Size([2, 4, 64])
    """

    def __init__(
        self,
        d_model: int,
        l_max: int,
        channels: int = 1,
        lam: float = 0.001,
        dropout: float = 0.2,
        smooth: int | None = None,
        smooth_frequency: int | None = None,
        init: Init = "random",
        lr: float | None = 1e-3,
    ) -> None:
        super().__init__()
        if min(d_model, l_max, channels) < 1:
            raise FewerError(
                f"long convolution: d_model, l_max and channels must be at least 1; they are {d_model}, {l_max}, {channels}"
            )
        if lam < 0 or not 0 <= dropout < 1:
            raise FewerError(
                f"long convolution: lam must be at least 0 and kernel dropout lie in [0, 1); given {lam} and {dropout}"
            )
        for name, width in (("smooth", smooth), ("smooth_frequency", smooth_frequency)):
            if width is not None and (width < 1 or width % 2 == 0):
                raise FewerError(f"long convolution: {name} is {width}; give an odd number of taps, or None")
        if init not in ("random", "double_exp"):
            raise FewerError(f"long convolution: unknown init {init!r}; choose 'random' or 'double_exp'")
        self.lam, self.dropout, self.smooth, self.smooth_frequency, self.lr = lam, dropout, smooth, smooth_frequency, lr
        self.weight = nn.Parameter(torch.randn(channels, d_model, l_max) * _deviation(init, d_model, l_max))
        window = (-0.5 * (torch.arange(smooth_frequency or 1) - (smooth_frequency or 1) // 2) ** 2).exp()
        self.window: Tensor
        self.register_buffer("window", window / window.sum(), persistent=False)

    @property
    def l_max(self) -> int:
        """Taps."""
        return self.weight.shape[2]

    def own_groups(self) -> list[dict[str, Any]]:
        """What an optimiser is asked for (see :func:`fewer.models.optimisers.parameter_groups`)."""
        rate = {} if self.lr is None else {"lr": self.lr}
        return [{"params": [self.weight], "weight_decay": 0.0, **rate}]

    def forward(self, length: int) -> Float[Tensor, "channels d_model length"]:
        """The first taps, as they are used.

        Raises
        ------
        FewerError
            If more taps are asked for than there are.
        """
        if length > self.l_max:
            raise FewerError(
                f"long convolution: a sequence of {length} steps is longer than l_max={self.l_max}; shorten it, or make "
                "the layer with a larger l_max"
            )
        kernel = self.weight[..., :length]
        if self.smooth is not None and self.smooth > 1:
            kernel = nn.functional.avg_pool1d(kernel, self.smooth, stride=1, padding=self.smooth // 2)
        if self.smooth_frequency is not None and self.smooth_frequency > 1:
            kernel = self._over_frequencies(kernel)
        if self.lam:
            kernel = nn.functional.softshrink(kernel, self.lam)
        return nn.functional.dropout(kernel, self.dropout, self.training) if self.dropout else kernel

    def _over_frequencies(self, kernel: Float[Tensor, "channels d_model length"]) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(kernel.float() if kernel.dtype in HALVES else kernel))
        folded = spectrum.permute(0, 1, 3, 2).flatten(0, 2)[:, None]
        window = self.window[None, None].to(folded.dtype)
        with torch.autocast(kernel.device.type, enabled=False):  # half precision has no complex numbers to go back to
            smoothed = nn.functional.conv1d(folded, window, padding=window.shape[-1] // 2)
        unfolded = smoothed.view(*kernel.shape[:2], 2, -1).permute(0, 1, 3, 2).contiguous()
        return torch.fft.irfft(torch.view_as_complex(unfolded), n=kernel.shape[-1])


def _deviation(init: Init, d_model: int, l_max: int) -> Tensor:
    """Deviation of the taps at the start, for each channel and position."""
    if init == "random":
        return torch.full((1, 1), 0.002)
    rate = (max(d_model, 2) / 2) ** (torch.arange(d_model) / d_model)
    return 0.02 * torch.exp(-torch.outer(rate, torch.arange(l_max) / l_max))


def roughness(kernel: Float[Tensor, "*kernels taps"]) -> Float[Tensor, ""]:
    """Squared differences of neighbouring taps over squared taps: 2 for white noise, near 0 for a slow curve.

    Examples
    --------
    >>> roughness(torch.tensor([1.0, -1, 1, -1])), roughness(torch.ones(4))
    (tensor(3.), tensor(0.))
    """
    return kernel.diff().square().sum() / kernel.square().sum()
