"""State spaces in companion form: matrices of which only the last column is learned.

A companion matrix ``A = S + a e_d'`` shifts the state down by one (``S``) and feeds its last entry back through the
column ``a``.  Any linear process of order at most ``d`` has this form, autoregressions among them.  Its kernel::

    f_i = c' A^i b,   i = 0 .. l-1

is computed in two ways: from the powers of ``A`` (Krylov columns by doubling, O(d^2 l)), and from its spectrum at N >= l
roots of unity, by Woodbury's formula for the rank-one part, in O(l log l + d log d log l)::

    F(z) = q(c~, b) + q(c~, a) q(e_d, b) / (conj(z) - q(e_d, a)),     c~ = c - (A^N)' c
    q(u, v) = sum_k z^k sum_j u_{j+k} v_j

Everything here is plain functions of tensors; the layers are in :mod:`fewer.nets.spacetime_layers`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fft import irfft, rfft
from torch.nn.functional import pad

from fewer.nets.convolution import transform_size

Vectors = Float[Tensor, "*heads dim"]


def companion(a: Vectors) -> Float[Tensor, "*heads dim dim"]:
    """Make companion matrices of their last columns.

    Examples
    --------
    >>> companion(torch.tensor([0.5, 0.25, 0.125])).tolist()
    [[0.0, 0.0, 0.5], [1.0, 0.0, 0.25], [0.0, 1.0, 0.125]]
    """
    dim = a.shape[-1]
    shift = torch.eye(dim, dtype=a.dtype, device=a.device).roll(1, 0)[:, :-1]
    return torch.cat([shift.expand(*a.shape[:-1], dim, dim - 1), a[..., None]], dim=-1)


def unit_sum(vectors: Vectors) -> Vectors:
    """Divide vectors by the sum of their magnitudes; a vector below 1e-4 is only magnified so far.

    The eigenvalues of a companion matrix whose last column was so divided have a modulus of at most one.
    """
    return vectors / vectors.abs().sum(dim=-1, keepdim=True).clamp_min(1e-4)


def krylov(matrix: Float[Tensor, "*heads dim dim"], start: Vectors, length: int) -> Float[Tensor, "*heads dim length"]:
    """Columns ``start, M start, M^2 start, ...``: their number doubles with each squaring of the matrix.

    Examples
    --------
    >>> krylov(torch.tensor([[2.0]]), torch.tensor([1.0]), 5).tolist()
    [[1.0, 2.0, 4.0, 8.0, 16.0]]
    """
    columns, power = start[..., None], matrix
    while (known := columns.shape[-1]) < length:
        columns = torch.cat([columns, power @ columns[..., : length - known]], dim=-1)
        if 2 * known < length:
            power = power @ power
    return columns


def krylov_kernel(a: Vectors, b: Vectors, c: Vectors, length: int) -> Float[Tensor, "*heads length"]:
    """The kernel from the powers of the matrix: slow, with the memory of d kernels, and exact for any ``a``."""
    return (c[..., None, :] @ krylov(companion(a), b, length)).squeeze(-2)


def companion_kernel(a: Vectors, b: Vectors, c: Vectors, length: int) -> Float[Tensor, "*heads length"]:
    """The kernel from its spectrum at roots of unity.

    Heads with an eigenvalue too near a root of unity, where the formula divides by almost nothing, are computed by
    :func:`krylov_kernel`.

    Parameters
    ----------
    a, b, c : float tensors (..., d)
        Last column of the matrix, input weights and output weights.  Errors grow with the powers of the matrix, so that
        eigenvalues should not be larger than one (:func:`unit_sum`).
    length : int
        How many taps.

    Returns
    -------
    float tensor (..., length)

    Examples
    --------
    A state that halves at each step:

    >>> one = torch.ones(1)
    >>> companion_kernel(one / 2, one, one, 5).round(decimals=4).tolist()
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    heads, dim = a.shape[:-1], a.shape[-1]
    a, b, c = (vectors.expand(*heads, dim).reshape(-1, dim) for vectors in (a, b, c))
    points = transform_size(max(length, dim))
    rest = c - row_times_power(c, a, points)
    reverse = torch.stack([_correlation(rest, b), _correlation(rest, a), b.flip(-1), a.flip(-1)])
    rest_b, rest_a, last_b, last_a = rfft(reverse, n=points).unbind()
    angles = torch.arange(points // 2 + 1, device=a.device, dtype=a.dtype) * (2 * torch.pi / points)
    denominator = torch.polar(torch.ones_like(angles), angles) - last_a
    near = denominator.detach().abs().amin(dim=-1) < torch.finfo(a.dtype).eps ** (1 / 3)
    # where a head is recomputed below, its division must not make NaN in the gradient
    denominator = denominator.masked_fill(near[:, None], 1)
    kernel = irfft(rest_b + rest_a * last_b / denominator, n=points)[:, :length]
    if near.any():
        kernel = kernel.index_put((near,), krylov_kernel(a[near], b[near], c[near], length))
    return kernel.reshape(*heads, length)


def row_times_power(c: Vectors, a: Vectors, exponent: int) -> Vectors:
    """``c' A^n``, without a power of the matrix.

    The matrix acts as multiplication by z modulo its characteristic polynomial ``p(z) = z^d - sum_i a_i z^i``, so that
    the first column of ``A^n`` is ``z^n mod p``, found by squaring; and ``c' A^i e_1`` is a linear recurrence that begins
    with c and goes on by a.  O(d log d log n).

    Parameters
    ----------
    c, a : float tensors (..., d)
        Row, and last column of the matrix.
    exponent : int
        n, at least 0.

    Returns
    -------
    float tensor (..., d)

    Examples
    --------
    >>> row_times_power(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), 4).round(decimals=3).tolist()
    [8.0, 13.0]
    """
    dim = a.shape[-1]
    size = transform_size(2 * dim)
    # p reversed: 1 - a_{d-1} x - ... - a_0 x^d
    reverse = torch.cat([torch.ones_like(a[..., :1]), -a.flip(-1)], dim=-1)
    inverse = _series_inverse(reverse, 2 * dim)
    spectra = rfft(inverse[..., :dim], n=size), rfft(a, n=size)
    steps = max(0, exponent.bit_length() - (dim.bit_length() - 1))
    power = torch.zeros_like(a)
    power[..., exponent >> steps] = 1
    for step in reversed(range(steps)):
        power = _reduced(irfft(rfft(power, n=size) ** 2, n=size)[..., : 2 * dim - 1], spectra, size)
        if exponent >> step & 1:
            power = pad(power[..., :-1], (1, 0)) + power[..., -1:] * a
    first = _product(c, reverse, dim)
    recurrence = _product(first, inverse, 2 * dim)
    return irfft(rfft(recurrence, n=size) * rfft(power, n=size).conj(), n=size)[..., :dim]


def _reduced(square: Tensor, spectra: tuple[Tensor, Tensor], size: int) -> Tensor:
    """A polynomial of degree 2d-2 modulo p, by division of the reversed polynomials."""
    dim = (square.shape[-1] + 1) // 2
    if dim == 1:
        return square
    quotient = irfft(rfft(square[..., dim:].flip(-1), n=size) * spectra[0], n=size)[..., : dim - 1].flip(-1)
    return square[..., :dim] + irfft(rfft(quotient, n=size) * spectra[1], n=size)[..., :dim]


def _series_inverse(series: Tensor, terms: int) -> Tensor:
    """The first terms of one over a power series that begins with 1, by Newton's method."""
    inverse = torch.ones_like(series[..., :1])
    while (known := inverse.shape[-1]) < terms:
        wanted = min(2 * known, terms)
        error = _product(series[..., :wanted], inverse, wanted)
        inverse = 2 * pad(inverse, (0, wanted - known)) - _product(inverse, error, wanted)
    return inverse


def _product(one: Tensor, two: Tensor, terms: int) -> Tensor:
    """The first terms of a product of polynomials."""
    size = transform_size(one.shape[-1] + two.shape[-1] - 1)
    return irfft(rfft(one, n=size) * rfft(two, n=size), n=size)[..., :terms]


def _correlation(one: Vectors, two: Vectors) -> Vectors:
    """``sum_j one_{j+k} two_j`` for k = 0 .. d-1."""
    dim = one.shape[-1]
    size = transform_size(2 * dim)
    return irfft(rfft(one, n=size) * rfft(two, n=size).conj(), n=size)[..., :dim]
