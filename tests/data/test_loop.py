"""The supervised loop: against a training loop written out, to the bit; its budget, its memory, its errors."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import derive, generator
from fewer.data.infobatch import InfoBatch
from fewer.data.loop import AllRows, CrossEntropy, Epoch, Selection, Supervised, Target
from fewer.data.mixing import CutMix
from fewer.data.seta import SeTa
from fewer.data.subsets import StaticRandom
from fewer.models.classifier import MLP, ConvNet
from fewer.models.optimisers import SGD, AdamW, Constant, Cosine
from fewer.tasks.classification import Classification
from fewer.tasks.digits import digits


def blobs(rows=130, test=30, classes=3):
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=rows)
    x = rng.normal(size=(rows, 4)) + 2 * np.eye(4)[y]
    return Classification("blobs", x.astype(np.float32), y, tuple(map(str, range(classes))), test=test)


def images(rows=130):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=rows)
    return Classification("images", rng.random((rows, 1, 6, 6), dtype=np.float32), y, tuple("abc"), test=30)


SMALL = MLP((8,))


def weights(network):
    return torch.cat([value.detach().double().ravel() for value in network.state_dict().values()])


# --- the whole of it -------------------------------------------------------------------------------------------------


def written_out(task, epochs, seed, batch=32, lr=0.1):
    """The same training, as anybody would write it."""
    split = task.split(seed)
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    torch.manual_seed(derive(seed, "start"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    rng = generator(seed, "sampler")
    scores = []
    for epoch in range(epochs):
        order = torch.from_numpy(rng.permutation(len(y)))
        for begin in range(0, len(y), batch):
            rows = order[begin : begin + batch]
            progress = (epoch + begin / len(y)) / epochs
            optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * progress))
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            scores.append(float(np.mean(network(torch.from_numpy(split.test_x)).argmax(1).numpy() == split.test_y)))
    return network, scores


@pytest.mark.parametrize("by_epochs", [True, False])
def test_all_rows_is_ordinary_training_to_the_bit(by_epochs):
    task, epochs, seed = blobs(), 4, 3
    loop = Supervised(model=SMALL, batch=32, epochs=epochs if by_epochs else 0)
    learned = loop.learn(task, budget=100 * epochs, seed=seed)
    network, scores = written_out(task, epochs, seed)
    assert torch.equal(weights(learned.result), weights(network))
    assert [point.score for point in learned.curve] == scores
    assert [point.spent for point in learned.curve] == [100, 200, 300, 400]


# --- resuming --------------------------------------------------------------------------------------------------------

LOOPS = {
    "plain": (Supervised(model=SMALL, batch=16), blobs),
    "seta": (Supervised(model=SMALL, batch=16, sampler=SeTa(groups=4, window=0.5), epochs=5), blobs),
    "infobatch, adam": (Supervised(model=SMALL, batch=16, sampler=InfoBatch(), optimiser=AdamW()), blobs),
    "static, mixed, normalised": (
        Supervised(model=ConvNet((4,), norm=True, hidden=0), batch=16, sampler=StaticRandom(), mixing=CutMix()),
        images,
    ),
    "dropout": (Supervised(model=MLP((8,), dropout=0.5), batch=16), blobs),
}


def same(points, others):
    """Equal in all but the time taken."""

    def timeless(each):
        return [
            (point.spent, point.score, {name: v for name, v in point.extras.items() if name != "seconds"})
            for point in each
        ]

    return timeless(points) == timeless(others)


@pytest.mark.parametrize("name", LOOPS)
def test_stopped_after_any_point_it_goes_on_to_the_bit(name, tmp_path):
    loop, make = LOOPS[name]
    task, budget = make(), 430
    whole = list(loop.run(task, budget, 1))
    assert len(whole) > 3
    for stop in range(1, len(whole)):
        file = tmp_path / f"{stop}.safetensors"
        assert same(itertools.islice(loop.run(task, budget, 1, checkpoint=file), stop), whole[:stop])
        assert same(loop.run(task, budget, 1, checkpoint=file), whole)


def test_the_last_state_is_restored_whole(tmp_path):
    loop, make = LOOPS["seta"]
    file = tmp_path / "state"
    list(itertools.islice(loop.run(make(), 430, 1, checkpoint=file), 3))
    stopped, fresh = loop.start(make(), 430, 1), loop.start(make(), 430, 1)
    for _ in range(3):
        loop.advance(stopped)
    loop.resume(fresh, stopped.state_dict())
    assert np.array_equal(fresh.losses, stopped.losses, equal_nan=True)
    assert fresh.epoch == 3
    assert fresh.ledger.spent == stopped.ledger.spent
    assert torch.equal(weights(fresh.network), weights(stopped.network))


# --- budget and curve ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [16, 99, 100, 101, 250])
def test_the_budget_is_used_up_and_never_overdrawn(budget):
    learned = Supervised(model=SMALL, batch=16).learn(blobs(), budget)
    assert learned.curve.points[-1].spent == budget == learned.ledger["sample_visits"]
    assert [point.extras["rows_visited"] for point in learned.curve] == [100] * (budget // 100) + [
        left for left in [budget % 100] if left
    ]


def test_with_epochs_it_stops_there_and_saves_the_rest():
    learned = Supervised(model=SMALL, epochs=3, sampler=StaticRandom(0.4)).learn(blobs(), 1000)
    assert [point.spent for point in learned.curve] == [40, 80, 120]
    assert [point.extras["epoch"] for point in learned.curve] == [1, 2, 3]


def test_with_epochs_it_still_stops_at_the_budget():
    learned = Supervised(model=SMALL, epochs=3).learn(blobs(), 150)
    assert [point.spent for point in learned.curve] == [100, 150]


# --- what slots are shown --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy:
    """A sampler, a loss and a schedule at once, that writes down what it was shown."""

    choose: Any = None
    epochs: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    progress: list = field(default_factory=list)

    def select(self, epoch: Epoch) -> Selection:
        self.epochs.append((epoch.index, epoch.epochs, epoch.rows, epoch.losses.copy()))
        return self.choose(epoch)

    def __call__(self, logits, target):
        loss = CrossEntropy()(logits, target)
        self.losses.append(loss.detach())
        return loss

    def factor(self, progress):
        self.progress.append(progress)
        return 0.5


def test_each_row_has_the_loss_it_had_when_it_was_last_visited():
    visits = [np.array([5, 1, 7]), np.array([1, 2])]
    spy = Spy(lambda epoch: Selection(visits[epoch.index]))
    loop = Supervised(model=SMALL, sampler=spy, loss=spy, batch=2, epochs=2)
    state = loop.start(blobs(), 100, 0)
    loop.advance(state)
    loop.advance(state)
    seen = torch.cat(spy.losses).numpy()  # of the rows 5 1 | 7 || 1 2
    assert np.isnan(spy.epochs[0][3]).all()
    assert np.array_equal(spy.epochs[1][3][[5, 1, 7]], seen[:3])
    assert np.array_equal(state.losses[[5, 7, 1, 2]], seen[[0, 2, 3, 4]])
    assert np.isnan(state.losses).sum() == 100 - 4


def test_weights_scale_gradients_and_not_the_recorded_losses():
    rows = np.arange(32)

    def run(weights):
        loop = Supervised(
            model=SMALL,
            sampler=Spy(lambda epoch: Selection(rows, weights)),
            optimiser=SGD(momentum=0, weight_decay=0, lr=0.1),
            batch=32,
            epochs=1,
        )
        torch.manual_seed(0)
        state = loop.start(blobs(), 32, 0)
        before = weights_of(state)
        loop.advance(state)
        return weights_of(state) - before, state.losses

    def weights_of(state):
        return torch.cat([value.detach().ravel().clone() for value in state.network.parameters()])

    plain, losses = run(None)
    doubled, same_losses = run(np.full(32, 2.0))
    first, _ = run((rows < 16).astype(float))
    second, _ = run((rows >= 16).astype(float))
    torch.testing.assert_close(doubled, 2 * plain)
    torch.testing.assert_close(first + second, plain)
    assert np.array_equal(losses, same_losses, equal_nan=True)


def test_the_schedule_runs_over_epochs_or_over_visits():
    half = lambda epoch: Selection(np.arange(50))  # noqa: E731
    spy = Spy(half)
    Supervised(model=SMALL, sampler=spy, schedule=spy, batch=25, epochs=2).learn(blobs(), 1000)
    assert spy.progress == [0, 0.25, 0.5, 0.75]
    spy = Spy(half)
    Supervised(model=SMALL, sampler=spy, schedule=spy, batch=25).learn(blobs(), 200)
    assert spy.progress == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]


def test_a_sampler_is_told_how_many_epochs_there_will_be():
    spy = Spy(lambda epoch: Selection(np.arange(50)))
    Supervised(model=SMALL, sampler=spy, epochs=3).learn(blobs(), 1000)
    assert [(index, planned, rows) for index, planned, rows, _ in spy.epochs] == [(0, 3, 100), (1, 3, 100), (2, 3, 100)]
    spy = Spy(lambda epoch: Selection(np.arange(50)))
    Supervised(model=SMALL, sampler=spy).learn(blobs(), 200)
    # before anything is spent all rows are expected; after that, what was spent so far
    assert [planned for _, planned, _, _ in spy.epochs] == [2, 4, 4, 4]


def test_the_learning_rate_follows_the_schedule_from_the_peak():
    loop = Supervised(model=SMALL, batch=50, epochs=2, optimiser=SGD(lr=0.3))
    state = loop.start(blobs(), 1000, 0)
    loop.advance(state)
    assert state.optimiser.param_groups[0]["lr"] == pytest.approx(0.3 * Cosine().factor(0.25))
    loop.advance(state)
    assert state.optimiser.param_groups[0]["lr"] == pytest.approx(0.3 * Cosine().factor(0.75))


def test_schedules_at_their_ends():
    assert [Cosine().factor(at) for at in (-1, 0, 0.5, 1, 2)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert {Constant().factor(at) for at in (0, 0.5, 1)} == {1.0}


@pytest.mark.parametrize(("epochs", "expected"), [(0, [300, 600, 850]), (7, [300, 600, 700]), (6, [300, 600])])
def test_points_may_be_several_epochs_apart_and_training_is_the_same(epochs, expected):
    every = Supervised(model=SMALL, batch=50, epochs=epochs).learn(blobs(), 850).curve
    some = Supervised(model=SMALL, batch=50, epochs=epochs, score_every=3).learn(blobs(), 850).curve
    assert [point.spent for point in some] == expected
    assert sum(point.extras["rows_visited"] for point in some) == expected[-1]
    scores = {point.spent: point.score for point in every}
    assert [point.score for point in some] == [scores[spent] for spent in expected]


# --- targets and losses ----------------------------------------------------------------------------------------------


def test_soft_targets_are_probabilities():
    target = Target(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.7, 0.4]))
    torch.testing.assert_close(target.soft(3), torch.tensor([[0.7, 0.3, 0], [0, 0, 1.0]]))


def test_cross_entropy_of_mixed_rows_is_that_with_the_soft_target():
    torch.manual_seed(0)
    logits = torch.randn(6, 4)
    target = Target(torch.randint(4, (6,)), torch.randint(4, (6,)), torch.rand(6))
    expected = -(target.soft(4) * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(CrossEntropy()(logits, target), expected)
    plain = Target.plain(target.first)
    torch.testing.assert_close(
        CrossEntropy(0.1)(logits, plain),
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)(logits, plain.first),
    )


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_training_loss_that_is_no_number_stops_the_run():
    with pytest.raises(Diverged, match="lower the learning rate"):
        Supervised(model=SMALL, optimiser=SGD(lr=1e30), batch=10).learn(blobs(), 200)


def test_a_sampler_that_keeps_nothing_is_named():
    spy = Spy(lambda epoch: Selection(np.zeros(0, dtype=int)))
    with pytest.raises(FewerError, match="Spy chose no row for epoch 1; let it keep more"):
        Supervised(model=SMALL, sampler=spy).learn(blobs(), 200)


def test_requests_that_cannot_run():
    with pytest.raises(FewerError, match="batch must be at least 1"):
        Supervised(batch=0)
    with pytest.raises(FewerError, match="epochs at least 0"):
        Supervised(epochs=-1)
    with pytest.raises(FewerError, match="score_every is 0; give how many epochs make a point"):
        Supervised(score_every=0)
    with pytest.raises(FewerError, match="below the first round, which takes 100"):
        Supervised(model=SMALL).run(blobs(), 99, 0)
    texts = Classification("texts", np.array(["a", "b"] * 20, dtype=object), np.arange(40) % 2, ("a", "b"), test=10)
    with pytest.raises(FewerError, match="the rows are texts"):
        Supervised(model=SMALL).learn(texts, 100)


def test_it_learns_digits():
    learned = Supervised(epochs=8).learn(digits(test=300), 12_000)
    assert learned.curve.final > 0.93
    assert isinstance(learned.result(torch.zeros(1, 1, 8, 8)), torch.Tensor)
    assert AllRows() == Supervised().sampler
