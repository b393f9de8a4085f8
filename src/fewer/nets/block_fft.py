"""The Fourier transform as a few small dense matrix products, whose matrices may be learned.

A transform of N = m n points is m-point transforms, a twist of the phases, and n-point transforms (Cooley and Tukey);
with blocks of at most 16 points each is a product with a dense matrix, which is what matrix units do best.  Learned, the
matrices begin as the true ones and then serve the task: ::

    X[k1 + m k2] = sum_t2 F_n[k2, t2] exp(-2 pi i k1 t2 / N) sum_t1 F_m[k1, t1] x[t1 n + t2]

References
----------
Daniel Y. Fu et al., "Simple Hardware-Efficient Long Convolutions for Sequence Modeling", ICML 2023, arXiv:2302.06646.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.nets.convolution import HALVES


class BlockFFT(nn.Module):
    """Fourier transform over the last axis, in dense blocks.

    Parameters
    ----------
    max_m : int, default 16
        Largest block, a power of two.
    learn : bool, default False
        Learn the matrices of 2, 4, … ``max_m`` points, from the true transform on; blocks of one size share theirs.
    additive : bool, default False
        Learn what is added to the true matrices, from ``0.01 * randn`` on, in place of the matrices.
    lr : float or None, default 1e-3
        Learning rate that an optimiser is asked to give the matrices, with no weight decay; None for its own.

    Notes
    -----
    Learned matrices are no transform any more, so a convolution through them is causal at the start of training only.

    Examples
    --------
    >>> x = torch.randn(3, 96)
    >>> torch.allclose(BlockFFT()(x), torch.fft.fft(x), atol=1e-4)
    True
    """

    def __init__(self, max_m: int = 16, learn: bool = False, additive: bool = False, lr: float | None = 1e-3) -> None:
        super().__init__()
        if max_m < 2 or max_m & (max_m - 1):
            raise FewerError(f"block FFT: max_m is {max_m}; give a power of two such as 16")
        self.max_m, self.learn, self.additive, self.lr = max_m, learn, additive, lr
        self.matrices = nn.ParameterDict()
        size = 2
        while learn and size <= max_m:
            # real pairs in place of complex numbers: every optimiser and file format knows them
            true = torch.view_as_real(_transform(size, torch.complex64, torch.device("cpu")))
            self.matrices[str(size)] = nn.Parameter(0.01 * torch.randn_like(true) if additive else true.clone())
            size *= 2

    def own_groups(self) -> list[dict[str, Any]]:
        """What an optimiser is asked for (see :func:`fewer.models.optimisers.parameter_groups`)."""
        if not self.learn:
            return []
        rate = {} if self.lr is None else {"lr": self.lr}
        return [{"params": list(self.matrices.values()), "weight_decay": 0.0, **rate}]

    def forward(self, x: Tensor) -> Complex[Tensor, "*batch points"]:
        """Transform.

        Parameters
        ----------
        x : float or complex tensor (..., points)
            A number of points that has no prime factor above ``max_m``.

        Returns
        -------
        complex tensor (..., points)

        Raises
        ------
        FewerError
            If the number of points has a larger prime factor, or there are none.
        """
        if not x.is_complex():
            x = torch.complex(x, torch.zeros_like(x))
        return self._recurse(x, self._blocks(x.shape[-1]))

    def convolve(
        self, u: Float[Tensor, "*batch length"], kernel: Float[Tensor, "*heads taps"]
    ) -> Float[Tensor, "*both length"]:
        """Convolve as :func:`fewer.nets.convolution.causal_convolution` does, through these blocks; inverted exactly."""
        length = u.shape[-1]
        points = 1 << max(1, (2 * length - 1).bit_length())
        pad = nn.functional.pad
        spectrum = self(pad(u.float() if u.dtype in HALVES else u, (0, points - length)))
        kernel = kernel.float() if kernel.dtype in HALVES else kernel
        spectrum = spectrum * self(pad(kernel[..., :length], (0, points - min(length, kernel.shape[-1]))))
        return torch.fft.ifft(spectrum).real[..., :length].to(u.dtype)

    def _recurse(self, x: Complex[Tensor, "*batch points"], blocks: list[int]) -> Complex[Tensor, "*batch points"]:
        m, *rest = blocks
        n = x.shape[-1] // m
        inner = self._matrix(m, x) @ x.unflatten(-1, (m, n))
        if not rest:
            return inner.flatten(-2)
        return self._recurse(inner * _twiddle(m, n, x.dtype, x.device), rest).mT.flatten(-2)

    def _blocks(self, points: int) -> list[int]:
        """Sizes whose product is the number of points, each as large as it can be."""
        left, blocks = points, []
        while left > 1:
            sizes = [m for m in range(min(self.max_m, left), 1, -1) if left % m == 0]
            if not sizes:
                break
            blocks.append(sizes[0])
            left //= sizes[0]
        if left == 1:
            return blocks or [1]
        raise FewerError(
            f"block FFT: {points} points cannot be cut into blocks of at most {self.max_m}; pad with zeros to "
            f"{1 << max(points - 1, 0).bit_length()}"
        )

    def _matrix(self, size: int, like: Tensor) -> Complex[Tensor, "size size"]:
        if str(size) not in self.matrices:
            return _transform(size, like.dtype, like.device)
        learned = torch.view_as_complex(self.matrices[str(size)]).to(like.dtype)
        return learned + _transform(size, like.dtype, like.device) if self.additive else learned


@functools.lru_cache(maxsize=64)
def _transform(size: int, dtype: torch.dtype, device: torch.device) -> Complex[Tensor, "size size"]:
    """The matrix of the Fourier transform of so many points."""
    return _phases(size, size, size, dtype, device)


@functools.lru_cache(maxsize=64)
def _twiddle(m: int, n: int, dtype: torch.dtype, device: torch.device) -> Complex[Tensor, "m n"]:
    return _phases(m, n, m * n, dtype, device)


def _phases(rows: int, columns: int, points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # kept for later calls, so it must not belong to an inference mode that happens to be on
    with torch.inference_mode(False), torch.no_grad():
        turns = torch.outer(torch.arange(rows), torch.arange(columns)).remainder(points).double() / points
        return torch.polar(torch.ones_like(turns), -2 * torch.pi * turns).to(device=device, dtype=dtype)
