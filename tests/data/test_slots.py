"""One template for each slot of the supervised loop, run over everything that the catalogue has for it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fewer.data
from fewer import catalogue, compose
from fewer.data.decoupled_mixup import DecoupledMixup
from fewer.data.loop import Batch, Epoch, Supervised, Target
from fewer.data.seta import SeTa
from fewer.tasks.classification import Classification

LOOP = "fewer.data.loop:Supervised"
HERE = {"sampler": {"seta": SeTa()}, "loss": {"decoupled-mixup": DecoupledMixup()}}


def fillings(slot):
    """By name; the papers of this room also where the catalogue does not list them yet."""
    found = dict(HERE.get(slot, {}))
    for name, part in catalogue.fillings().items():
        if LOOP in part.loops and part.slots == (slot,):
            found[name] = getattr(compose.loop(name), slot)
    return [pytest.param(filling, id=name) for name, filling in found.items()]


def every(slot):
    return pytest.mark.parametrize("filling", fillings(slot))


def epoch(index, seed=0, rows=90):
    rng = np.random.default_rng(seed)
    losses = rng.exponential(size=rows).astype(np.float32) if index else np.full(rows, np.nan, np.float32)
    return Epoch(index, 16, rows, losses, rng)


@every("sampler")
@pytest.mark.parametrize("index", [0, 1, 2, 8, 15])
def test_a_sampler_chooses_rows_that_there_are_each_once_and_by_its_seed(filling, index):
    at = epoch(index)
    before = at.losses.copy()
    chosen = filling.select(at)
    assert chosen.rows.dtype.kind == "i"
    assert 0 < len(chosen.rows) <= 90
    assert len(np.unique(chosen.rows)) == len(chosen.rows)
    assert chosen.rows.min() >= 0
    assert chosen.rows.max() < 90
    if chosen.weights is not None:
        assert chosen.weights.shape == chosen.rows.shape
        assert (chosen.weights > 0).all()
    assert np.array_equal(at.losses, before, equal_nan=True)
    assert np.array_equal(filling.select(epoch(index)).rows, chosen.rows)
    assert not np.array_equal(filling.select(epoch(index, seed=1)).rows, chosen.rows)
    assert all(isinstance(value, float) for value in at.report.values())


@every("mixing")
@pytest.mark.parametrize("shape", [(1, 12), (2, 6, 6)])
def test_a_mixing_gives_as_many_rows_and_a_target_for_each(filling, shape):
    x, y = torch.rand(10, *shape), torch.arange(10) % 4
    mixed, target = filling.mix(Batch(x, y, torch.Generator().manual_seed(0)))
    assert mixed.shape == x.shape
    assert torch.isfinite(mixed).all()
    assert target.first.shape == target.second.shape == target.ratio.shape == (10,)
    torch.testing.assert_close(target.soft(4).sum(1), torch.ones(10))
    again, _ = filling.mix(Batch(x, y, torch.Generator().manual_seed(0)))
    assert torch.equal(mixed, again)


@every("loss")
@pytest.mark.parametrize("mixed", [True, False])
def test_a_loss_is_one_number_a_row_that_falls_along_its_gradient(filling, mixed):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator, requires_grad=True)
    first, second = torch.randint(5, (2, 12), generator=generator)
    target = Target(first, second, torch.rand(12, generator=generator)) if mixed else Target.plain(first)
    loss = filling(logits, target)
    assert loss.shape == (12,)
    assert (loss >= 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    with torch.no_grad():
        assert (filling(logits - 1e-2 * gradient, target) <= loss).all()
        for row in range(12):  # rows do not see one another
            alone = Target(first[row : row + 1], target.second[row : row + 1], target.ratio[row : row + 1])
            torch.testing.assert_close(filling(logits[row : row + 1], alone)[0], loss[row])


@every("model")
@pytest.mark.parametrize("shape", [(1, 12), (2, 7, 6)])
def test_a_model_gives_logits_and_features(filling, shape):
    network = filling.build(shape, 3)
    x = torch.rand(4, *shape)
    assert network(x).shape == (4, 3)
    assert network.features(x).shape == (4, network.width)
    assert [value.shape for value in filling.build(shape, 3).parameters()] == [v.shape for v in network.parameters()]


@every("optimiser")
def test_an_optimiser_moves_the_parameters_downhill(filling):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimiser = filling.make(model.parameters())
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (model(torch.ones(1, 3)) - 2).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@every("schedule")
def test_a_schedule_begins_at_the_peak_and_never_rises_above_it(filling):
    factors = [filling.factor(step / 50) for step in range(51)]
    assert factors[0] == 1
    assert all(0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize("slot", ["sampler", "mixing", "loss", "model", "optimiser", "schedule"])
def test_fillings_are_frozen_equal_to_their_like_and_can_be_sent_to_workers(slot):
    for parameter in fillings(slot):
        (filling,) = parameter.values
        assert pickle.loads(pickle.dumps(filling)) == filling
        assert hash(filling) == hash(pickle.loads(pickle.dumps(filling)))


@pytest.mark.parametrize("slot", ["sampler", "mixing", "loss"])
def test_every_filling_trains_in_the_loop_with_every_resource_counted(slot):
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    x = (rng.random((80, 1, 6, 6)) + np.eye(4)[y].repeat(9, axis=1).reshape(80, 1, 6, 6)).astype(np.float32)
    task = Classification("toy", x, y, tuple("abcd"), test=20)
    for parameter in fillings(slot):
        (filling,) = parameter.values
        learned = Supervised(**{slot: filling}, batch=20, epochs=4).learn(task, 240)
        assert 0 < learned.curve.points[-1].spent <= 240
        assert learned.curve.points[-1].spent == sum(point.extras["rows_visited"] for point in learned.curve)


def test_the_slots_combine():
    loop = compose.loop(
        "supervised(batch=20, epochs=3) + infobatch + cutmix + decoupled-mixup-sigmoid + adamw + constant"
    )
    assert [type(getattr(loop, slot)).__name__ for slot in ("sampler", "mixing", "loss", "optimiser", "schedule")] == [
        "InfoBatch",
        "CutMix",
        "DecoupledMixupSigmoid",
        "AdamW",
        "Constant",
    ]
    assert (loop.batch, loop.epochs) == (20, 3)


# --- the package -----------------------------------------------------------------------------------------------------


def test_everything_the_package_names_is_there():
    for name in fewer.data.__all__:
        assert getattr(fewer.data, name).__name__ == name
    assert set(fewer.data.__all__) == set(fewer.data._HOMES)
    assert dir(fewer.data) == sorted(fewer.data.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'SetA'"):
        fewer.data.SetA  # noqa: B018


def test_the_package_needs_no_torch():
    code = "import sys, fewer.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
