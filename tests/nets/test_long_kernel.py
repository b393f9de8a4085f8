"""Each regulariser against its formula, their order, and what an optimiser is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.nets.long_kernel import LongKernel, roughness


def plain(width=3, length=40, **settings):
    torch.manual_seed(0)
    return LongKernel(width, length, **{"lam": 0.0, "dropout": 0.0, **settings})


def test_without_regularisers_the_taps_are_what_is_used():
    kernel = plain(smooth=1, smooth_frequency=1, channels=2)
    assert torch.equal(kernel(40), kernel.weight)
    assert torch.equal(kernel(10), kernel.weight[..., :10])


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.01), st.integers(0, 99))
def test_squash_takes_lam_from_the_size_of_every_tap_or_all_of_it(lam, seed):
    torch.manual_seed(seed)
    kernel = LongKernel(2, 30, lam=lam, dropout=0)
    before, after = kernel.weight.detach(), kernel(30).detach()
    torch.testing.assert_close(before.abs() - after.abs(), before.abs().clamp(max=lam), rtol=1e-4, atol=1e-9)
    assert ((after == 0) | (after.sign() == before.sign())).all()


def test_taps_below_lam_receive_no_gradient():
    kernel = plain(lam=0.002)
    kernel(40).sum().backward()
    dead = kernel.weight.abs() <= 0.002
    assert dead.any()
    assert not dead.all()
    assert torch.equal(kernel.weight.grad == 0, dead)


@pytest.mark.parametrize("width", [3, 7])
def test_smoothing_is_a_moving_average_with_zeros_beyond_the_ends(width):
    kernel = plain(smooth=width)
    taps = kernel.weight.detach().double().numpy()
    expected = np.stack([np.convolve(each, np.ones(width) / width, mode="same") for each in taps[0]])
    np.testing.assert_allclose(kernel(40)[0].detach().numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("length", [40, 41])
def test_smoothing_over_frequencies_is_a_gaussian_average_of_the_spectrum(length):
    kernel = plain(length=length, smooth_frequency=5)
    taps = kernel.weight.detach().double().numpy()[0]
    window = np.exp(-0.5 * (np.arange(5) - 2) ** 2)
    spectrum = np.fft.rfft(taps)
    smoothed = [
        np.convolve(each.real, window / window.sum(), "same")
        + 1j * np.convolve(each.imag, window / window.sum(), "same")
        for each in spectrum
    ]
    expected = np.fft.irfft(np.stack(smoothed), n=length)
    np.testing.assert_allclose(kernel(length)[0].detach().numpy(), expected, atol=1e-8)


def test_smoothing_comes_before_squashing():
    kernel = plain(smooth=3, lam=0.001)
    smoothed = plain(smooth=3)(40)
    torch.testing.assert_close(kernel(40), torch.nn.functional.softshrink(smoothed, 0.001))


def test_dropout_is_of_single_taps_and_only_in_training():
    kernel = plain(length=4000, dropout=0.25)
    taps = kernel(4000)
    dropped = taps == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(taps[~dropped], kernel.weight[~dropped] / 0.75)
    kernel.eval()
    assert torch.equal(kernel(4000), kernel.weight)


@pytest.mark.parametrize(
    "settings", [{"smooth": 3}, {"smooth_frequency": 3}, {"lam": 0.001}, {"smooth": 5, "lam": 0.001}]
)
def test_gradients(settings):
    kernel = plain(2, 12, **settings).double()

    def taps(weight):
        return torch.func.functional_call(kernel, {"weight": weight}, (12,))

    assert torch.autograd.gradcheck(taps, (kernel.weight.detach().requires_grad_(),), eps=1e-7)


def test_initial_sizes():
    assert plain(16, 4000).weight.std().item() == pytest.approx(0.002, rel=0.02)
    kernel = plain(16, 4000, init="double_exp").weight[0]
    position = torch.arange(4000) / 4000
    for channel in (0, 8, 15):
        size = 0.02 * torch.exp(-position * 8 ** (channel / 16))
        assert (kernel[channel] / size).std().item() == pytest.approx(1, abs=0.05)


def test_roughness_of_noise_is_two():
    torch.manual_seed(0)
    assert roughness(torch.randn(10, 10_000)).item() == pytest.approx(2, abs=0.02)
    wave = torch.sin(torch.arange(10_000) * 2 * math.pi / 100)
    assert roughness(wave).item() == pytest.approx((2 * math.pi / 100) ** 2, rel=0.01)


def test_an_optimiser_is_asked_for_a_rate_and_no_decay():
    (group,) = plain(lr=0.005).own_groups()
    assert (group["lr"], group["weight_decay"]) == (0.005, 0.0)
    assert "lr" not in plain(lr=None).own_groups()[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_model": 0}, "must be at least 1; they are 0, 40, 1"),
        ({"l_max": 0}, "must be at least 1"),
        ({"channels": 0}, "must be at least 1"),
        ({"lam": -1}, "lam must be at least 0"),
        ({"dropout": 1}, "kernel dropout lie in"),
        ({"smooth": 4}, "smooth is 4; give an odd number"),
        ({"smooth": -1}, "smooth is -1"),
        ({"smooth_frequency": 2}, "smooth_frequency is 2; give an odd number"),
        ({"init": "ones"}, "unknown init 'ones'"),
    ],
)
def test_impossible_settings_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        LongKernel(**{"d_model": 3, "l_max": 40, **bad})


def test_more_taps_than_there_are_are_refused():
    with pytest.raises(FewerError, match="a sequence of 41 steps is longer than l_max=40; shorten it"):
        plain()(41)
