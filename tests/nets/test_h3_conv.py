"""The gated form against its formula, position by position."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.nets.h3_conv import H3Conv
from fewer.nets.long_kernel import LongKernel


def written_out(mixer, u):
    """One position and one head at a time."""
    length, width = u.shape[1:]
    d = mixer.head_dim
    q, k, v = (u @ mixer.project.weight.T + mixer.project.bias).split(width, dim=2)
    shift, carry = mixer.shift(length)[0], mixer.carry(length)[0]
    shifted = torch.stack(
        [sum(shift[:, i] * k[:, t - i] for i in range(t + 1)) + mixer.shift_skip * k[:, t] for t in range(length)],
        dim=1,
    )
    out = torch.zeros_like(u)
    for head in range(width // d):
        part = slice(head * d, head * d + d)
        pairs = shifted[:, :, part, None] * v[:, :, None, part]
        for t in range(length):
            carried = sum(carry[head, i] * pairs[:, t - i] for i in range(t + 1)) + mixer.carry_skip[head] * pairs[:, t]
            out[:, t, part] = torch.einsum("bi,bij->bj", q[:, t, part], carried)
    return out @ mixer.output.weight.T + mixer.output.bias


@pytest.mark.parametrize("head_dim", [1, 2, 4])
def test_it_is_its_formula(head_dim):
    torch.manual_seed(0)
    mixer = H3Conv(4, 12, head_dim, lam=0, kernel_dropout=0, init="double_exp").double()
    u = torch.randn(3, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(mixer(u), written_out(mixer, u), rtol=1e-9, atol=1e-9)


def test_a_later_input_never_changes_an_earlier_output():
    torch.manual_seed(0)
    mixer = H3Conv(6, 30, 2, kernel_dropout=0)
    u = torch.randn(2, 30, 6)
    changed = u.clone()
    changed[:, 20:] += 5
    difference = (mixer(u) - mixer(changed)).abs().amax(dim=(0, 2))
    assert difference[:20].max() < 1e-4 < difference[20:].min()


def test_both_kernels_ask_for_their_own_rate():
    kernels = [each for each in H3Conv(4, 10, kernel_lr=0.5).modules() if isinstance(each, LongKernel)]
    assert [each.own_groups()[0]["lr"] for each in kernels] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: H3Conv(6, 10, head_dim=4), "d_model=6 cannot be cut into heads of 4"),
        (lambda: H3Conv(6, 10)(torch.zeros(1, 11, 6)), "a sequence of 11 steps is longer than l_max=10"),
        (lambda: H3Conv(6, 10)(torch.zeros(1, 5, 4)), r"inputs are \(batch, length, 6\); these are \(1, 5, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(FewerError, match=message):
        call()
