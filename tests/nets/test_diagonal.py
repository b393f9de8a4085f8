"""S4D-Lin: its kernel against the recurrence it stands for."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.nets.diagonal import S4D


def test_the_kernel_is_the_response_of_the_discretised_state():
    torch.manual_seed(0)
    layer = S4D(2, modes=3).double()
    u = torch.randn(1, 20, 2, dtype=torch.float64)
    rate = torch.complex(-layer.log_decay.exp(), layer.frequency)
    step = layer.log_step.exp()[:, None]
    state, outputs = torch.zeros_like(rate), []
    for t in range(20):  # zero-order hold: x' = exp(A dt) x + (exp(A dt) - 1) / A u
        state = (rate * step).exp() * state + ((rate * step).exp() - 1) / rate * u[0, t, :, None]
        outputs.append(2 * (torch.view_as_complex(layer.c) * state).sum(dim=1).real + layer.skip * u[0, t])
    assert torch.allclose(layer(u)[0], torch.stack(outputs), atol=1e-10)


def test_it_begins_as_s4d_lin():
    layer = S4D(3, modes=4)
    assert torch.allclose(layer.log_decay.exp(), torch.full((3, 4), 0.5))
    assert torch.allclose(layer.frequency[0], torch.pi * torch.arange(4))
    assert (layer.log_step.exp() >= 1e-3 - 1e-9).all()
    assert (layer.log_step.exp() <= 1e-1 + 1e-9).all()


@pytest.mark.parametrize("bad", [{"channels": 0}, {"channels": 2, "modes": 0}, {"channels": 2, "slowest": 0.2}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(FewerError, match="channels and modes must be at least 1, and steps above 0 in order"):
        S4D(**bad)
