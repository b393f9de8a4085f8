"""The layer against a plain convolution, who sees what, its reductions, its optimiser, and its errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.data.loop import Supervised
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.nets.long_conv import LongConv, LongConvArchitecture, measure_kernels, param_groups, two_sided_convolution
from fewer.nets.long_kernel import LongKernel
from fewer.nets.sequence_network import S4DArchitecture, SequenceBackbone, TransformerArchitecture
from fewer.tasks.digits import digits


def layer(width=4, length=50, **settings):
    torch.manual_seed(0)
    return LongConv(width, length, **{"kernel_dropout": 0.0, "lam": 0.0, "init": "double_exp", **settings})


def slow(made, u):
    """The whole layer, with a direct convolution."""
    batch, length, width = u.shape
    kernel = made.kernel(length)
    y = torch.zeros(batch, made.channels, width, length, dtype=u.dtype)
    for t in range(length):
        for s in range(t + 1):
            y[..., t] += kernel[: made.channels, :, t - s] * u[:, None, s]
        if made.bidirectional:
            for s in range(t + 1, length):
                y[..., t] += kernel[made.channels :, :, s - t - 1] * u[:, None, s]
    y = y + made.skip[..., None] * u.mT[:, None]
    y = nn.functional.gelu(y.flatten(1, 2)).mT @ made.output.weight.T + made.output.bias
    return y[..., :width] * torch.sigmoid(y[..., width:])


@pytest.mark.parametrize("settings", [{}, {"channels": 1}, {"bidirectional": True}, {"smooth": 3, "lam": 0.003}])
@pytest.mark.parametrize("length", [1, 17, 50])
def test_it_is_the_layer_written_out(settings, length):
    made = layer(**settings).double()
    u = torch.randn(3, length, 4, dtype=torch.float64)
    torch.testing.assert_close(made(u), slow(made, u), rtol=1e-9, atol=1e-9)


def test_it_is_a_convolution_with_the_flipped_kernel():
    made = layer(channels=1)
    nn.init.zeros_(made.skip)
    u = torch.randn(2, 50, 4)
    padded = nn.functional.pad(u.mT, (49, 0))
    direct = nn.functional.conv1d(padded, made.kernel(50)[0].flip(-1)[:, None], groups=4)
    expected = nn.functional.glu(made.output(nn.functional.gelu(direct).mT))
    torch.testing.assert_close(made(u), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("butterfly", [None, "fixed", "learned"])
def test_a_later_input_never_changes_an_earlier_output(butterfly):
    made = layer(butterfly=butterfly)
    u = torch.randn(2, 50, 4)
    changed = u.clone()
    changed[:, 30:] += 10
    difference = (made(u) - made(changed)).abs().amax(dim=(0, 2))
    assert difference[:30].max() < 1e-4
    assert difference[30:].min() > 1e-3


def test_both_directions_see_everything_and_without_the_second_kernel_only_the_past():
    made = layer(bidirectional=True, channels=1)
    u = torch.randn(2, 50, 4)
    changed = u.clone()
    changed[:, 30:] += 10
    assert (made(u) - made(changed)).abs().amax(dim=(0, 2)).min() > 1e-4
    causal = layer(channels=1)
    made.kernel.weight.data[1] = 0
    made.kernel.weight.data[0] = causal.kernel.weight.data[0]
    made.output.load_state_dict(causal.output.state_dict())
    made.skip.data.copy_(causal.skip.data)
    torch.testing.assert_close(made(u), causal(u), rtol=1e-4, atol=1e-5)


def test_two_sides_by_a_plain_loop():
    u, past, future = torch.randn(9).double(), torch.randn(9).double(), torch.randn(5).double()
    y = two_sided_convolution(u, past, future)
    for t in range(9):
        before = sum(past[i] * u[t - i] for i in range(t + 1))
        after = sum(future[i] * u[t + 1 + i] for i in range(min(5, 8 - t)))
        assert float(y[t]) == pytest.approx(float(before + after), abs=1e-9)


@pytest.mark.parametrize("butterfly", ["fixed", "learned"])
def test_through_blocks_it_begins_as_the_same_layer(butterfly):
    made, plain = layer(butterfly=butterfly), layer()
    made.load_state_dict(plain.state_dict(), strict=False)
    u = torch.randn(2, 50, 4)
    torch.testing.assert_close(made(u), plain(u), rtol=1e-3, atol=1e-4)


def test_shorter_sequences_use_the_first_taps():
    long, short = layer(length=50), layer(length=20)
    short.load_state_dict({**long.state_dict(), "kernel.weight": long.kernel.weight[..., :20]})
    u = torch.randn(2, 20, 4)
    torch.testing.assert_close(long(u), short(u), rtol=1e-4, atol=1e-5)


def test_gradients():
    made = layer(2, 7, channels=1, bidirectional=True).double()
    u = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (u,))

    def of_taps(weight):
        return torch.func.functional_call(made, {"kernel.weight": weight}, (u.detach(),))

    assert torch.autograd.gradcheck(of_taps, (made.kernel.weight.detach().requires_grad_(),))


@pytest.mark.parametrize("settings", [{}, {"smooth": 3, "smooth_frequency": 3}, {"bidirectional": True}])
def test_under_autocast_the_convolution_stays_in_single_precision(settings):
    made = layer(**settings)
    u = torch.randn(2, 50, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = made(u)
    torch.testing.assert_close(y.float(), made(u), rtol=0.05, atol=0.05)
    assert made.bfloat16()(u.bfloat16()).dtype == torch.bfloat16


# --- the optimiser ---------------------------------------------------------------------------------------------------


def test_taps_have_their_own_rate_and_do_not_decay_in_the_loop_and_in_a_script():
    network = LongConvArchitecture(width=8, layers=2, kernel_lr=0.002).build((1, 12), 3)
    taps = {id(each.weight) for each in network.modules() if isinstance(each, LongKernel)}
    assert len(taps) == 2
    for groups in (
        AdamW(0.01, weight_decay=0.05).make(parameter_groups(network)).param_groups,
        param_groups(network, lr=0.01, kernel_lr=0.002, weight_decay=0.05),
    ):
        rest, kernels = groups
        assert {id(each) for each in kernels["params"]} == taps
        assert (kernels["lr"], kernels["weight_decay"]) == (0.002, 0.0)
        assert (rest["lr"], rest["weight_decay"]) == (0.01, 0.05)
        assert len(rest["params"]) + 2 == len(list(network.parameters()))


def test_the_loop_moves_the_taps_at_their_rate():
    moved = {}
    for rate in (None, 0.0):
        loop = Supervised(LongConvArchitecture(width=8, layers=1, kernel_lr=rate), optimiser=AdamW(), batch=50)
        torch.manual_seed(0)
        state = loop.start(digits(rows=100), 100, seed=0)
        taps = next(each.weight for each in state.network.modules() if isinstance(each, LongKernel))
        before = taps.detach().clone()
        loop.advance(state)
        moved[rate] = float((taps.detach() - before).abs().max())
    assert moved[0.0] == 0 < moved[None]


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_blocks_of_any_norm_train(norm, prenorm):
    torch.manual_seed(0)
    network = LongConvArchitecture(width=8, layers=2, norm=norm, prenorm=prenorm).build((2, 5, 4), 3)
    network(torch.randn(6, 2, 5, 4)).square().sum().backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in network.parameters())
    network.eval()
    assert torch.equal(network(x := torch.randn(3, 2, 5, 4)), network(x))


def test_an_image_is_read_line_by_line():
    network = LongConvArchitecture(width=8, layers=1).build((1, 3, 4), 2).eval()
    x = torch.randn(2, 1, 3, 4)
    same = LongConvArchitecture(width=8, layers=1).build((1, 12), 2).eval()
    same.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), same(x.flatten(2)))


def test_a_block_without_its_mixer_is_its_norm():
    backbone = SequenceBackbone(2, 4, [nn.Identity()], dropout=0)
    x = torch.randn(3, 5, 2)
    z = backbone.encoder(x)
    torch.testing.assert_close(backbone(x), nn.functional.layer_norm(2 * z, (4,)).mean(dim=1))


def test_the_rivals_are_of_the_same_blocks_or_width():
    ours = LongConvArchitecture(width=16, layers=2, channels=1).build((1, 30), 3)
    space = S4DArchitecture(width=16, layers=2).build((1, 30), 3)
    mixer = space.backbone[1].mixers[0]
    assert mixer[3].weight.shape == ours.backbone[1].mixers[0].output.weight.shape
    (group,) = mixer.own_groups()
    assert {id(each) for each in group["params"]} == {
        id(getattr(mixer[0], n)) for n in ("log_step", "log_decay", "frequency")
    }
    attentive = TransformerArchitecture(width=16, layers=2).build((1, 30), 3)
    assert attentive.width == space.width == ours.width


def test_it_composes_by_its_name():
    if catalogue.papers()["long-conv"].fills is None:
        pytest.skip("not listed yet")
    made = compose.loop("long-conv(width=8, lam=0.0, kernel_dropout=0.0) + adamw")
    assert made.model == LongConvArchitecture(width=8, lam=0.0, kernel_dropout=0.0)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer()(torch.zeros(2, 51, 4)), "a sequence of 51 steps is longer than l_max=50"),
        (lambda: layer()(torch.zeros(2, 50, 3)), r"inputs are \(batch, length, 4\) .* these are \(2, 50, 3\)"),
        (lambda: layer()(torch.zeros(50, 4)), r"these are \(50, 4\)"),
        (lambda: layer()(torch.zeros(2, 0, 4)), "of one step or more"),
        (lambda: layer(butterfly="yes"), "butterfly is 'yes'; choose 'fixed', 'learned' or None"),
        (lambda: layer(butterfly="fixed", bidirectional=True), "the butterfly is for causal kernels"),
        (lambda: LongConvArchitecture(width=0), "width and layers must be at least 1"),
        (lambda: LongConvArchitecture(norm="group"), "norm be 'layer' or 'batch'"),
        (lambda: LongConvArchitecture().build((5,), 2), r"long-conv: rows are \(channels, length\)"),
        (lambda: S4DArchitecture().build((1, 2, 3, 4), 2), "s4d: rows are"),
        (lambda: TransformerArchitecture(width=10, heads=4), "a width of 10 cannot be shared by 4 heads"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(FewerError, match=message):
        call()


def test_the_claim_measures_every_recipe_from_one_start():
    measured = measure_kernels(100, tiny=True)
    assert set(measured) == {"none", "dropout", "smooth", "squash", "squash and dropout", "all", "state space"}
    assert all(value > 0 for each in measured.values() for value in each.values())
    assert measured["smooth"]["roughness, n=1"] < measured["none"]["roughness, n=1"]
