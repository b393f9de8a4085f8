"""SpaceTime's layers: against the recurrences they stand for, exact autoregression, the fixed filters, causality, errors."""

from __future__ import annotations

import math

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.nets.companion import companion, krylov_kernel, unit_sum
from fewer.nets.convolution import causal_convolution
from fewer.nets.spacetime_layers import ClosedLoop, CompanionSSM, Preprocessing, SpaceTime, encoder


def closed_loop(normalise, dim=5, channels=3):
    torch.manual_seed(0)
    layer = ClosedLoop(channels, dim, normalise).double()
    if not normalise:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(0.3)
    return layer


def simulated(layer, u, horizon):
    """Step by step: the state, then outputs and next inputs, with the layer's own next inputs after the last."""
    a, b, c, k = layer._weights()
    matrix = companion(a)
    state = torch.zeros(len(u), *a.shape, dtype=u.dtype)
    outputs, inputs = [], []
    for t in range(u.shape[1] + horizon):
        given = u[:, t] if t < u.shape[1] else inputs[-1]
        state = (matrix @ state[..., None])[..., 0] + b * given[..., None]
        outputs.append((c * state).sum(dim=-1))
        inputs.append((k * state).sum(dim=-1))
    return torch.stack(outputs, dim=1), torch.stack(inputs, dim=1)


# --- open loop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
def test_the_open_loop_is_its_recurrence(normalise):
    torch.manual_seed(0)
    layer = CompanionSSM(6, kernel_dim=4, kernels=2, normalise=normalise).double()
    u = torch.randn(2, 15, 6, dtype=torch.float64)
    a = unit_sum(layer.a) if normalise else layer.a
    expected = torch.zeros_like(u)
    for channel in range(6):
        kernel = channel // 3
        state = torch.zeros(2, 4, dtype=torch.float64)
        for t in range(15):
            state = state @ companion(a)[kernel].T + layer.b[kernel] * u[:, t, channel, None]
            expected[:, t, channel] = state @ layer.c[kernel] + layer.skip[channel] * u[:, t, channel]
    assert torch.allclose(layer(u), expected, atol=1e-8 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(
    "layer", [CompanionSSM(8, 4), Preprocessing(8), SpaceTime(8, 4, preprocess=True), SpaceTime(8, 4)]
)
def test_no_output_knows_a_later_input(layer):
    layer = layer.double().eval()
    u = torch.randn(1, 40, 8, dtype=torch.float64)
    changed = u.clone()
    changed[:, 25:] += 3
    assert torch.allclose(layer(u)[:, :25], layer(changed)[:, :25], atol=1e-9)
    assert not torch.allclose(layer(u)[:, 25:], layer(changed)[:, 25:])


# --- closed loop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("length", [1, 3, 5, 30])
def test_both_loops_are_their_recurrence(normalise, length):
    layer = closed_loop(normalise)
    u = torch.randn(2, length, 3, dtype=torch.float64)
    outputs, inputs = simulated(layer, u, 20)
    opened = layer.open_loop(u)
    assert torch.allclose(opened[0], outputs[:, :length], atol=1e-10)
    assert torch.allclose(opened[1], inputs[:, :length], atol=1e-10)
    # the first step of the closed loop is the last of the open one
    assert torch.allclose(layer(u, 21), outputs[:, length - 1 :], atol=1e-10)
    assert torch.allclose(layer.next_inputs(u, 21), inputs[:, length - 1 :], atol=1e-10)


def test_a_longer_horizon_begins_with_the_shorter_one():
    layer, u = closed_loop(True), torch.randn(2, 10, 3, dtype=torch.float64)
    assert torch.allclose(layer(u, 100)[:, :7], layer(u, 7))


def test_an_autoregression_written_into_the_layer_goes_on_exactly():
    weights = torch.tensor([1.2, -0.9, 0.3, -0.2], dtype=torch.float64)
    series = torch.randn(3, 100, dtype=torch.float64)
    for t in range(4, 100):
        series[:, t] = series[:, t - 4 : t].flip(-1) @ weights
    layer = ClosedLoop(1, 4, normalise=False).double()
    with torch.no_grad():
        layer.a.zero_()
        layer.b.zero_()
        layer.b[0, 0] = 1
        layer.k[0] = layer.c[0] = weights
        given = series[:, :40, None]
        assert torch.allclose(layer.open_loop(given)[0][:, 3:-1, 0], series[:, 4:40], atol=1e-12)
        assert torch.allclose(layer(given, 60)[..., 0], series[:, 40:], atol=1e-9)
        # the loop's matrix is the companion matrix of the autoregression, transposed
        loop = companion(layer.a[0]) + layer.b[0, :, None] * layer.k[0]
    assert torch.allclose(
        torch.linalg.eigvals(loop).abs().sort()[0], torch.linalg.eigvals(companion(weights.flip(0))).abs().sort()[0]
    )


def test_gradients_are_those_of_finite_differences():
    layer = closed_loop(True, dim=3, channels=2)
    u = torch.randn(1, 6, 2, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def run(*weights):
        given = dict(zip(names, weights, strict=True))
        ahead = torch.func.functional_call(layer, given, (u, 4))
        return ahead

    assert torch.autograd.gradcheck(run, tuple(layer.parameters()))


# --- fixed filters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
def test_differences_of_a_polynomial_of_lower_degree_are_zero(order):
    time = torch.arange(30, dtype=torch.float64)
    polynomial = sum((0.3 - degree) * (time / 10) ** degree for degree in range(order))
    filtered = Preprocessing(8).double()(polynomial[None, :, None].expand(1, 30, 8))[0, order:, order]
    assert filtered.abs().max() < 1e-9


def test_the_filters_are_binomials_and_residuals_of_moving_averages():
    torch.manual_seed(0)
    layer = Preprocessing(16, shortest=4, longest=9)
    kernel = layer.kernel.reshape(2, 8, 9)
    for order in range(4):
        expected = [(-1) ** tap * math.comb(order, tap) for tap in range(order + 1)]
        assert kernel[:, order, : order + 1].tolist() == [expected] * 2
        assert not kernel[:, order, order + 1 :].any()
    u = torch.randn(50)
    windows = []
    for filter_ in kernel[:, 4:].reshape(8, 9):
        window = int((filter_ != 0).sum())
        windows.append(window)
        average = u.unfold(0, window, 1).mean(dim=1)
        assert torch.allclose(causal_convolution(u, filter_)[window - 1 :], u[window - 1 :] - average, atol=1e-5)
    assert 4 <= min(windows) < max(windows) <= 9
    assert not list(layer.parameters())


def test_the_first_filter_of_a_group_changes_nothing():
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    assert torch.allclose(Preprocessing(8).double()(u)[..., 0], u[..., 0], atol=1e-10)


# --- the block -------------------------------------------------------------------------------------------------------


def test_the_block_is_its_formula():
    torch.manual_seed(0)
    block = SpaceTime(8, kernel_dim=4, preprocess=True).double().eval()
    u = torch.randn(2, 20, 8, dtype=torch.float64)
    z = causal_convolution(u.mT, block.preprocess.kernel).mT
    kernel = krylov_kernel(unit_sum(block.ssm.a), block.ssm.b, block.ssm.c, 20)
    assert len(kernel) == 1  # one kernel for the group of eight
    y = causal_convolution(z.mT, kernel).mT + block.ssm.skip * z
    linear = block.mix[2]
    expected = z + y + torch.nn.functional.gelu(y) @ linear.weight.T + linear.bias
    assert torch.allclose(block(u), expected, atol=1e-8)


def test_only_the_first_block_of_a_stack_preprocesses():
    stack = encoder(8, 4, blocks=3, dropout=0.1)
    assert [isinstance(block.preprocess, Preprocessing) for block in stack] == [True, False, False]
    assert [len(block.ssm.a) for block in stack] == [1, 8, 8]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CompanionSSM(6, 4, kernels=4), "4 kernels of 4 states cannot be shared by 6 channels"),
        (lambda: CompanionSSM(0), "cannot be shared by 0 channels"),
        (lambda: ClosedLoop(2, 0), "2 channels of 0 states; both must be at least 1"),
        (lambda: Preprocessing(12), "12 channels are not in groups of 8; give a multiple of 8"),
        (lambda: Preprocessing(8, 5, 4), "windows from 5 to 4; give 1 <= shortest <= longest"),
        (lambda: encoder(8, 4, 0, 0.1), r"blocks must be at least 1 and dropout in \[0, 1\); they are 0 and 0.1"),
        (lambda: encoder(8, 4, 1, 1.0), "they are 1 and 1.0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
