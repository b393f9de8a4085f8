"""The network and its loss, written out; the classifier."""

from __future__ import annotations

import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.data.loop import Supervised
from fewer.models.optimisers import AdamW
from fewer.nets.spacetime_network import SpaceTimeArchitecture, SpaceTimeClassifier, SpaceTimeNetwork


def network(weights=(1.0, 1.0, 1.0)):
    torch.manual_seed(0)
    return SpaceTimeNetwork(channels=8, kernel_dim=5, blocks=2, dropout=0.0, weights=weights).double()


def rmse(one, two):
    return (one - two).square().mean().sqrt()


def test_the_three_parts_of_the_loss_are_those_of_the_paper():
    made = network()
    window, future = torch.randn(4, 20, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    level = window.mean(dim=1, keepdim=True)
    z = made.encoder((window - level)[..., None].expand(-1, -1, 8))
    opened, next_inputs = made.decoder.open_loop(z)
    series = torch.cat([window, future], dim=1)
    parts = [
        rmse(made(window, 7), future),
        # what is said at step t is compared with step t + 1, from the step at which the state is full
        rmse(torch.stack([made.output(opened[:, t])[:, 0] + level[:, 0] for t in range(4, 20)]), series[:, 5:21].T),
        rmse(torch.stack([next_inputs[:, t] for t in range(4, 19)]), torch.stack([z[:, t] for t in range(5, 20)])),
    ]
    assert torch.allclose(made.loss(window, future), sum(parts))
    for index, weights in enumerate(((2.0, 0, 0), (0, 2.0, 0), (0, 0, 2.0))):
        assert torch.allclose(network(weights).loss(window, future), 2 * parts[index])


def test_every_weight_is_trained():
    made = network()
    made.loss(torch.randn(4, 20, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_window_that_just_fills_the_state_has_a_loss():
    made = network()
    loss = made.loss(torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64))
    loss.backward()
    assert torch.isfinite(loss)


def test_a_shift_of_the_window_shifts_the_forecast():
    made, window = network(), torch.randn(2, 20, dtype=torch.float64)
    assert torch.allclose(made(window + 5, 9), made(window, 9) + 5)


def test_the_description_builds_the_network_and_the_horizon_takes_no_weights():
    sizes = [
        sum(parameter.numel() for parameter in SpaceTimeArchitecture(8, 4).build(10, horizon).parameters())
        for horizon in (1, 700)
    ]
    assert sizes[0] == sizes[1] > 0


def test_the_classifier_learns_signals():
    task = compose.task("mnist1d")
    loop = Supervised(model=SpaceTimeClassifier(16, 8, 1, 0.0), optimiser=AdamW(lr=5e-3), batch=50)
    learned = loop.learn(task, budget=3000)
    assert learned.curve.final > 0.2  # one in ten by chance
    assert compose.loop("spacetime-classifier(channels=8)").model == SpaceTimeClassifier(8)
    assert learned.result.features(torch.zeros(3, 1, 40)).shape == (3, 16)


def test_signals_of_several_variables_are_mixed():
    made = SpaceTimeClassifier(8, 4, 1).build((3, 20), 2)
    assert made(torch.randn(5, 3, 20)).shape == (5, 2)
    with pytest.raises(FewerError, match=r"spacetime: rows are \(channels, length\), or images .* these are \(8,\)"):
        SpaceTimeClassifier().build((8,), 2)
