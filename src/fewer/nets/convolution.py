"""Causal convolution of whole sequences with kernels as long as they are, through the fast Fourier transform."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from scipy.fft import next_fast_len
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
"""What the transform cannot be done in."""


def transform_size(least: int) -> int:
    """The next number of points that a fast Fourier transform of real numbers is quick with.

    Examples
    --------
    >>> transform_size(127)
    128
    """
    size: Any = next_fast_len(least, real=True)  # its annotations say None
    return size


def causal_convolution(u: Float[Tensor, "*batch length"], kernel: Float[Tensor, "*heads taps"]) -> Tensor:
    """Convolve sequences with kernels so that no output knows a later input.

    ``y_t = sum_i kernel_i u_{t-i}`` with zeros before the first input, in O(length log length).  Half precision is
    computed in float32.

    Parameters
    ----------
    u : float tensor (..., length)
        Sequences.
    kernel : float tensor (..., taps)
        Kernels, broadcast against the leading axes of ``u``; taps beyond the length have no effect.

    Returns
    -------
    float tensor (..., length)

    Examples
    --------
    >>> causal_convolution(torch.tensor([1.0, 0, 0, 2]), torch.tensor([1.0, 0.5])).round(decimals=4).tolist()
    [1.0, 0.5, 0.0, 2.0]
    """
    length = u.shape[-1]
    kernel = kernel[..., :length]
    kind = u.dtype
    if kind in HALVES or kernel.dtype in HALVES:
        u, kernel = u.float(), kernel.float()
    # as many points as the whole of the result has, so that nothing wraps around
    points = transform_size(length + kernel.shape[-1] - 1)
    spectrum = torch.fft.rfft(u, n=points) * torch.fft.rfft(kernel, n=points)
    return torch.fft.irfft(spectrum, n=points)[..., :length].to(kind)
