"""The blocks against torch's transform, their gradients, and what is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.nets.block_fft import BlockFFT
from fewer.nets.convolution import causal_convolution


@pytest.mark.parametrize("points", [1, 2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 12, 96, 360, 1001])
@pytest.mark.parametrize("learn", [False, True])
def test_at_the_start_it_is_the_fourier_transform(points, learn):
    x = torch.randn(2, 3, points, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.fft(x)
    assert (BlockFFT(learn=learn)(x) - expected).abs().max() <= 2e-6 * expected.abs().max() * max(1, np.log2(points))


@pytest.mark.parametrize("max_m", [2, 4, 8, 32])
def test_blocks_of_any_size_agree_in_double_precision(max_m):
    x = torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close(BlockFFT(max_m)(x), torch.fft.fft(x), rtol=1e-12, atol=1e-12)


def test_gradients_of_learned_blocks_of_sixteen_points():
    transform = BlockFFT(learn=True).double()
    torch.manual_seed(0)
    x = torch.randn(2, 16, dtype=torch.complex128, requires_grad=True)
    matrix = transform.matrices["16"]

    def through(x, matrix):
        return torch.func.functional_call(transform, {"matrices.16": matrix}, (x,))

    assert torch.autograd.gradcheck(through, (x, matrix))


def test_learned_matrices_serve_every_length_and_are_trained():
    torch.manual_seed(0)
    transform = BlockFFT(learn=True)
    assert sorted(transform.matrices) == ["16", "2", "4", "8"]
    transform(torch.randn(1, 512)).abs().sum().backward()  # 16 * 16 * 2
    moved = {name for name, each in transform.matrices.items() if each.grad is not None and each.grad.abs().sum() > 0}
    assert moved == {"16", "2"}


def test_what_is_added_begins_near_nothing():
    torch.manual_seed(0)
    transform, x = BlockFFT(learn=True, additive=True), torch.randn(4, 256)
    off = (transform(x) - torch.fft.fft(x)).abs().mean() / torch.fft.fft(x).abs().mean()
    assert 0.001 < off < 0.2
    for each in transform.matrices.values():
        torch.nn.init.zeros_(each)
    torch.testing.assert_close(transform(x), torch.fft.fft(x), rtol=1e-4, atol=1e-4)


def test_an_optimiser_is_asked_for_a_rate_without_decay_only_where_there_is_something_to_learn():
    assert BlockFFT().own_groups() == []
    assert not list(BlockFFT().parameters())
    (group,) = BlockFFT(learn=True).own_groups()
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (1e-3, 0.0, 4)
    assert "lr" not in BlockFFT(learn=True, lr=None).own_groups()[0]


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (5, 5), (33, 10), (64, 64), (100, 200)])
def test_it_convolves_as_torchs_transform_does(length, taps):
    u, kernel = torch.randn(2, 3, length), torch.randn(3, taps)
    expected = causal_convolution(u, kernel)
    torch.testing.assert_close(BlockFFT(learn=True).convolve(u, kernel), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_as_it_was():
    u, kernel = torch.randn(2, 64).bfloat16(), torch.randn(64)
    y = BlockFFT().convolve(u, kernel)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), causal_convolution(u.float(), kernel), rtol=0.02, atol=0.1)


def test_what_was_first_made_without_gradients_can_be_trained_through_later():
    with torch.inference_mode():
        BlockFFT()(torch.randn(2, 7 * 11))
    x = torch.randn(2, 7 * 11, requires_grad=True)
    BlockFFT()(x).abs().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("bad", [0, 1, 3, 12])
def test_blocks_must_be_powers_of_two(bad):
    with pytest.raises(FewerError, match=f"max_m is {bad}; give a power of two"):
        BlockFFT(bad)


@pytest.mark.parametrize(("points", "better"), [(17, 32), (2 * 19, 64), (0, 1)])
def test_points_with_a_large_prime_factor_are_refused(points, better):
    with pytest.raises(FewerError, match=f"blocks of at most 16; pad with zeros to {better}"):
        BlockFFT()(torch.zeros(2, points))
