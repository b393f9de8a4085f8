"""The forecaster: its training written out, what is kept to stop by, the weights of the best epoch, progress, errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import derive
from fewer.nets.direct_forecasts import LayerStack, NLinear
from fewer.nets.forecaster import Forecaster, dlinear, nlinear, s4d
from fewer.nets.spacetime_layers import SpaceTime

WAVE = np.sin(np.arange(200) / 3) + 0.1 * np.random.default_rng(0).normal(size=200)
SMALL = {"lag": 10, "horizon": 3}


def test_training_is_what_anybody_would_write():
    model = Forecaster(
        **SMALL, epochs=3, batch=16, patience=None, learning_rate=0.01, weight_decay=0.02, random_state=5
    )
    model.fit(WAVE)
    z = torch.tensor((WAVE - WAVE.mean()) / WAVE.std(), dtype=torch.float32)
    rows = torch.stack([z[i : i + 13] for i in range(188)])
    torch.manual_seed(derive(5, "forecaster"))
    linear = nn.Linear(10, 3)
    optimiser = torch.optim.AdamW(linear.parameters(), lr=0.01, weight_decay=0.02)
    for epoch in range(3):
        optimiser.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * epoch / 3))
        for index in torch.randperm(188).split(16):
            x, y = rows[index, :10], rows[index, 10:]
            loss = (linear(x - x[:, -1:]) + x[:, -1:] - y).square().mean().sqrt()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert torch.allclose(model.network_.body.weight, linear.weight, atol=1e-5)
    assert model.n_parameters_ == 33
    assert (len(model.history_), model.best_epoch_) == (3, 3)


@dataclass(frozen=True)
class Watched:
    """Keeps what it was shown."""

    seen: dict

    def build(self, lag, horizon):
        seen = self.seen

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.level = nn.Parameter(torch.zeros(()))

            def forward(self, window, horizon):
                seen.setdefault("kept", []).append(window)
                return self.level.expand(len(window), 3)

            def loss(self, window, future):
                seen.setdefault("trained", []).append(torch.cat([window, future], dim=1))
                return (self.level - seen["errors"].pop(0)).abs() if seen.get("errors") else self.level.square()

        return Network()


def test_futures_that_are_kept_are_never_trained_on():
    ramp, seen = np.arange(100.0), {}
    model = Forecaster(Watched(seen), **SMALL, epochs=1, validation=0.2).fit(ramp)
    trained = torch.cat(seen["trained"]) * model.scale_[0] + model.mean_[0]
    kept = torch.cat(seen["kept"]) * model.scale_[0] + model.mean_[0]
    assert len(trained) == 80 - 13 + 1
    assert trained.max().round() == 79
    assert (kept[:, -1].min().round(), kept[:, -1].max().round()) == (79, 96)


def test_the_weights_of_the_best_epoch_are_kept_and_waiting_ends():
    model = nlinear(**SMALL, epochs=60, patience=3, learning_rate=0.3, weight_decay=0.0).fit(WAVE)
    best = int(np.argmin(model.history_))
    assert model.best_epoch_ == best + 1
    assert len(model.history_) == min(60, best + 1 + 3)
    z = (WAVE - model.mean_) / model.scale_
    windows = np.stack([WAVE[i : i + 10] for i in range(160 - 10, 188)])
    futures = np.stack([z[i + 10 : i + 13] for i in range(160 - 10, 188)])
    forecast = (model.predict(windows) - model.mean_) / model.scale_
    assert np.sqrt(np.mean((forecast - futures) ** 2)) == pytest.approx(model.history_[best], rel=1e-4)


def test_a_series_too_short_to_keep_anything_is_trained_on_to_the_end():
    model = Forecaster(**SMALL, epochs=4, patience=1).fit(WAVE[:14])
    assert len(model.history_) == 4
    assert model.predict(WAVE[:10]).shape == (3,)


def test_any_sequence_layer_fits_in():
    stack = LayerStack(lambda channels, length: SpaceTime(channels, kernel_dim=4), channels=8, blocks=1)
    model = Forecaster(stack, **SMALL, epochs=1)
    assert clone(model).fit(WAVE).predict(WAVE[:10], horizon=5).shape == (5,)


@pytest.mark.parametrize("make", [nlinear, dlinear, s4d])
def test_they_learn_a_wave(make):
    size = {"channels": 16, "blocks": 1} if make is s4d else {}
    wave = np.sin(np.arange(300) / 3)
    model = make(**size, lag=24, horizon=6, epochs=40, learning_rate=1e-2).fit(wave[:260])
    assert np.abs(model.predict(wave[236:260]) - wave[260:266]).mean() < 0.2
    assert np.abs(wave[259] - wave[260:266]).mean() > 0.4


def test_the_caller_keeps_the_global_random_stream():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Forecaster(**SMALL, epochs=1).fit(WAVE)
    assert torch.equal(torch.rand(3), expected)


def test_progress_goes_to_standard_error(capfd):
    Forecaster(**SMALL, epochs=2, progress=True).fit(WAVE)
    shown = capfd.readouterr()
    assert "Forecaster" in shown.err
    assert shown.out == ""


def test_a_loss_that_is_no_number_stops_it():
    @dataclass(frozen=True)
    class Broken:
        def build(self, lag, horizon):
            network = NLinear().build(lag, horizon)
            nn.init.constant_(network.body.weight, float("nan"))
            return network

    with pytest.raises(Diverged, match="the error became nan in epoch 1; lower the learning rate"):
        Forecaster(Broken(), **SMALL, epochs=2).fit(WAVE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epochs": 0}, r"epochs and batch must be at least 1 and validation in \[0, 1\); they are 0, 50 and 0.2"),
        ({"validation": 1.0}, "they are 500, 50 and 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"patience": 0}, "patience at least 1 or None"),
    ],
)
def test_impossible_numbers_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        Forecaster(**SMALL, **bad).fit(WAVE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_learns_the_same():
    wave = np.sin(np.arange(300) / 3)
    model = nlinear(lag=24, horizon=6, epochs=40, learning_rate=1e-2, device="cuda").fit(wave[:260])
    assert np.abs(model.predict(wave[236:260]) - wave[260:266]).mean() < 0.2
