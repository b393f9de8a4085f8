"""Companion state spaces: the characteristic polynomial, both ways to a kernel, the powers, gradients, and the edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.nets.companion import companion, companion_kernel, krylov, krylov_kernel, row_times_power, unit_sum


def drawn(heads, dim, seed=0, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(heads, dim, generator=generator, dtype=torch.float64).to(kind) for _ in range(3))
    return unit_sum(a), b, c


def by_hand(a, b, c, length):
    """One head, in plain Python: shift the state, feed back, read."""
    state, taps = [float(each) for each in b], []
    for _ in range(length):
        taps.append(sum(float(x) * float(y) for x, y in zip(c, state, strict=True)))
        last = state[-1]
        state = [(state[i - 1] if i else 0.0) + float(a[i]) * last for i in range(len(state))]
    return torch.tensor(taps, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2, 5, 12])
def test_the_characteristic_polynomial_is_that_of_the_last_column(dim):
    a, _, _ = drawn(1, dim)
    expected = np.r_[1, -a[0].numpy()[::-1]]
    assert np.allclose(np.poly(companion(a)[0].numpy()), expected, atol=1e-10)


def test_eigenvalues_of_a_unit_sum_are_not_larger_than_one():
    a, _, _ = drawn(50, 16)
    assert torch.linalg.eigvals(companion(a)).abs().max() <= 1 + 1e-9
    assert torch.allclose(a.abs().sum(dim=1), torch.ones(50, dtype=torch.float64))


def test_a_vector_of_zeros_stays_so():
    assert torch.equal(unit_sum(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(("dim", "length"), [(1, 1), (1, 7), (3, 2), (4, 4), (8, 100), (64, 10), (16, 337)])
def test_both_kernels_are_the_one_by_hand(dim, length):
    a, b, c = drawn(3, dim)
    expected = torch.stack([by_hand(*head, length) for head in zip(a, b, c, strict=True)])
    assert torch.allclose(krylov_kernel(a, b, c, length), expected, atol=1e-10)
    assert torch.allclose(companion_kernel(a, b, c, length), expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 10**6))
def test_the_fast_kernel_equals_the_plain_one(dim, length, seed):
    a, b, c = drawn(2, dim, seed)
    assert torch.allclose(companion_kernel(a, b, c, length), krylov_kernel(a, b, c, length), atol=1e-8)


@pytest.mark.parametrize("length", [1024, 8192])
def test_in_single_precision_they_agree_to_one_in_ten_thousand(length):
    a, b, c = drawn(8, 64, kind=torch.float32)
    assert (companion_kernel(a, b, c, length) - krylov_kernel(a, b, c, length)).abs().max() < 1e-4


@pytest.mark.parametrize("exponent", [0, 1, 5, 6, 7, 31, 100, 1000])
@pytest.mark.parametrize("dim", [1, 2, 6, 7])
def test_a_row_times_a_power_is_that(dim, exponent):
    a, _, c = drawn(3, dim)
    expected = (c[:, None] @ torch.linalg.matrix_power(companion(a), exponent))[:, 0]
    assert torch.allclose(row_times_power(c, a, exponent), expected, atol=1e-10)


def test_krylov_columns_of_any_number():
    matrix = torch.randn(2, 3, 3, dtype=torch.float64)
    start = torch.randn(2, 3, dtype=torch.float64)
    for length in (1, 2, 3, 7, 8):
        columns = [(torch.linalg.matrix_power(matrix, power) @ start[..., None])[..., 0] for power in range(length)]
        assert torch.allclose(krylov(matrix, start, length), torch.stack(columns, dim=-1))


@pytest.mark.parametrize("column", [[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0.5, 0, 0.5, 0], [0, 0, 0, -1.0]])
def test_eigenvalues_at_roots_of_unity_are_computed_the_slow_way(column):
    """A cyclic shift, a constant, half of each, an alternation: the formula divides by zero there."""
    a = torch.tensor([column, [0.3, -0.2, 0.1, 0.4]], dtype=torch.float64).requires_grad_()
    _, b, c = drawn(2, 4)
    kernel = companion_kernel(a, b, c, 64)
    assert torch.allclose(kernel, krylov_kernel(a, b, c, 64), atol=1e-9)
    kernel.sum().backward()
    assert torch.isfinite(a.grad).all()


def test_gradients_are_those_of_finite_differences():
    a, b, c = (each.requires_grad_() for each in drawn(2, 3))
    assert torch.autograd.gradcheck(lambda *given: companion_kernel(*given, 11), (a, b, c))
    # an eigenvalue of one
    one = torch.tensor([[0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    b, c = (torch.randn(1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *given: companion_kernel(*given, 8), (one, b, c))


def test_gradients_of_both_ways_agree():
    given = [each.requires_grad_() for each in drawn(4, 16)]
    weights = torch.randn(4, 200, dtype=torch.float64)
    one = torch.autograd.grad((companion_kernel(*given, 200) * weights).sum(), given)
    two = torch.autograd.grad((krylov_kernel(*given, 200) * weights).sum(), given)
    for fast, slow in zip(one, two, strict=True):
        assert torch.allclose(fast, slow, atol=1e-8)
