"""The causal convolution: against torch's own, its causality, its edges."""

from __future__ import annotations

import pytest
import torch

from fewer.nets.convolution import causal_convolution


def direct(u, kernel):
    length, taps = u.shape[-1], kernel.shape[-1]
    padded = torch.nn.functional.pad(u, (taps - 1, 0))
    return torch.nn.functional.conv1d(padded, kernel.flip(-1)[:, None], groups=u.shape[1])[..., :length]


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (5, 5), (17, 4), (4, 17), (100, 100), (101, 64)])
def test_it_is_a_direct_convolution(length, taps):
    u, kernel = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    assert torch.allclose(causal_convolution(u, kernel), direct(u, kernel[:, :length]), atol=1e-10)


def test_no_output_knows_a_later_input():
    u, kernel = torch.randn(1, 2, 50, dtype=torch.float64), torch.randn(2, 50, dtype=torch.float64)
    changed = u.clone()
    changed[..., 30:] += 5
    before, after = causal_convolution(u, kernel), causal_convolution(changed, kernel)
    assert torch.allclose(before[..., :30], after[..., :30], atol=1e-12)
    assert not torch.allclose(before[..., 30:], after[..., 30:])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(kind):
    u, kernel = torch.randn(2, 30), torch.randn(30)
    made = causal_convolution(u.to(kind), kernel)
    assert made.dtype == kind
    assert torch.equal(made, causal_convolution(u.to(kind).float(), kernel).to(kind))


def test_gradients_are_those_of_finite_differences():
    u, kernel = (torch.randn(2, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(causal_convolution, (u, kernel))
