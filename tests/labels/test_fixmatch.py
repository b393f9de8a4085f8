"""FixMatch: the method written out step by step, its limits, its moving average, and its place in the loop."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import torch_generator
from fewer.labels.augmentation import Augmentation
from fewer.labels.fixmatch import ByShape, CosineArc, FixMatch, fixmatch
from fewer.labels.learners import Constant, FittedNetwork, mlp
from fewer.labels.loop import PSEUDO, ActiveLearning, Examples, Round
from fewer.labels.self_training import Threshold
from fewer.models.classifier import MLP, ConvNet
from fewer.models.optimisers import SGD, Cosine
from fewer.tasks.classification import Classification

CLASSES = 3


def bars(count=60, seed=0):
    """Images of 8 by 8 with a bright line that lies, stands or slants."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.normal(0, 0.3, size=(count, 1, 8, 8)).astype(np.float32)
    place = np.arange(8)
    for image, label in zip(x, y, strict=True):
        at = rng.integers(2, 6)
        image[0, at if label == 0 else place, at if label == 1 else place] += 2
    return x, y


def moment(labelled=6, seed=0, shape=None, **changes) -> Round:
    x, y = bars()
    known = np.arange(labelled)
    made = Round(
        0,
        CLASSES,
        x if shape is None else x.reshape(len(x), *shape),
        known,
        y[known],
        np.arange(labelled, len(x)),
        np.random.default_rng(0),
        seed,
    )
    return dataclasses.replace(made, **changes)


PLAIN = ByShape(ConvNet((4, 8), hidden=0))
"""Without batch normalisation, so that a row's prediction does not depend on the others."""
SMALL = FixMatch(PLAIN, steps=6, batch=5, ratio=3, threshold=0.4)


def fit(learner, now, examples=None, start=None):
    with torch.random.fork_rng():
        torch.manual_seed(now.seed)
        return learner.fit(now.examples if examples is None else examples, now, start).network


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def close(one, two, atol=1e-5):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=atol) for a, b in pairs)


# --- the method ------------------------------------------------------------------------------------------------------


def written_out(learner, now, examples):
    """FixMatch a row at a time where it matters, a pass for each kind of view; gives the average and the share used."""
    with torch.random.fork_rng():
        torch.manual_seed(now.seed)
        network = learner.architecture.build(now.x.shape[1:], now.classes)
    average = copy.deepcopy(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9, weight_decay=learner.optimiser.weight_decay)
    one, two = (torch_generator(now.seed, "fixmatch", name, now.index, 0) for name in ("labelled", "unlabelled"))
    views, x, used = learner.augmentation, torch.from_numpy(now.x), 0
    weight = examples.weight / examples.weight.mean()
    for step in range(learner.steps):
        for group in optimiser.param_groups:
            group["lr"] = learner.optimiser.lr * math.cos(7 * math.pi * step / (16 * learner.steps))
        drawn = torch.randint(len(examples), (learner.batch,), generator=one).tolist()
        answers = network(views.weak(x[examples.rows[drawn]], one)).log_softmax(dim=1)
        loss = torch.zeros(())
        for answer, row in zip(answers, drawn, strict=True):
            loss = loss - weight[row] * (torch.from_numpy(examples.target[row]) * answer).sum() / learner.batch
        count = learner.ratio * learner.batch
        rows = x[now.unlabelled[torch.randint(len(now.unlabelled), (count,), generator=two).numpy()]]
        weak, strong = views.weak(rows, two), views.strong(rows, two)
        judge = average if learner.average_guesses else network
        guesses = judge(weak).detach().softmax(dim=1)
        for guess, answer in zip(guesses, network(strong).log_softmax(dim=1), strict=True):
            if guess.max() >= learner.threshold:
                loss = loss - learner.weight * answer[guess.argmax()] / count
                used += 1
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        share = step / learner.steps
        last = learner.last_momentum or learner.momentum
        momentum = last - (last - learner.momentum) * (1 + math.cos(math.pi * share)) / 2
        momentum = min(momentum, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, other in zip(average.parameters(), network.parameters(), strict=True):
                mine.copy_(momentum * mine + (1 - momentum) * other)
    return average, used / (learner.steps * learner.ratio * learner.batch)


@pytest.mark.parametrize(
    "learner",
    [
        SMALL,
        dataclasses.replace(SMALL, average_guesses=True, weight=2.5, threshold=0.41),
        dataclasses.replace(SMALL, momentum=0.2, last_momentum=0.5, optimiser=SGD(lr=0.1, weight_decay=0.01)),
    ],
    ids=["default", "guesses of the average", "other numbers"],
)
def test_fit_is_the_method_as_written(learner):
    now = moment()
    soft = np.random.default_rng(1).dirichlet(np.ones(CLASSES), size=4).astype(np.float32)
    more = Examples(now.unlabelled[:4], soft, np.array([0.5, 2, 1, 0], dtype=np.float32), np.full(4, PSEUDO))
    examples = now.examples.and_(more)
    expected, used = written_out(learner, now, examples)
    found = fit(learner, now, examples)
    assert close(found, expected)
    assert now.report["confident"] == pytest.approx(used)
    assert 0.05 < used < 0.95  # the threshold divides


# --- its limits ------------------------------------------------------------------------------------------------------


def test_a_threshold_of_one_is_supervised_training():
    now = moment()
    never = fit(dataclasses.replace(SMALL, threshold=1.0), now)
    assert now.report["confident"] == 0
    assert close(never, fit(dataclasses.replace(SMALL, weight=0.0), now))
    assert not close(fit(SMALL, now), never)


def test_a_threshold_of_nothing_takes_every_guess():
    now = moment()
    fit(dataclasses.replace(SMALL, threshold=0.0), now)
    assert now.report["confident"] == 1


def test_without_weight_the_unlabelled_rows_are_not_looked_at():
    now = moment()
    elsewhere = now.x.copy()
    elsewhere[now.unlabelled] = np.nan
    supervised = dataclasses.replace(SMALL, weight=0.0)
    assert same(fit(supervised, now), fit(supervised, dataclasses.replace(now, x=elsewhere)))


def test_nothing_unlabelled_is_left():
    now, none = moment(), moment(unlabelled=np.zeros(0, dtype=np.int64))
    assert same(fit(SMALL, none), fit(dataclasses.replace(SMALL, weight=0.0), now))
    assert none.report["confident"] == 0


def test_guesses_carry_no_gradient():
    # were the weak views trained through, a guess of the network itself and of a copy would differ
    now = moment()
    own = dataclasses.replace(SMALL, steps=1, threshold=0.0)
    assert close(fit(own, now), fit(dataclasses.replace(own, average_guesses=True), now))


def test_an_example_of_weight_nothing_has_no_say():
    now = moment()
    weight = np.array([2, 1, 1, 0, 1, 1], dtype=np.float32)
    examples = dataclasses.replace(now.examples, weight=weight)
    target = examples.target.copy()
    target[3] = np.roll(target[3], 1)
    one, two = fit(SMALL, now, examples), fit(SMALL, now, dataclasses.replace(examples, target=target))
    assert same(one, two)
    assert close(one, fit(SMALL, now, dataclasses.replace(examples, weight=10 * weight)))
    assert not close(one, fit(SMALL, now))


@pytest.mark.parametrize("average_guesses", [False, True])
def test_it_learns_from_what_nobody_labelled(average_guesses):
    now = moment(labelled=3)
    x, y = bars(300, seed=1)
    learner = FixMatch(ByShape(ConvNet((16, 32))), steps=150, batch=16, threshold=0.8, average_guesses=average_guesses)

    def accuracy(learner):
        return np.mean(FittedNetwork(fit(learner, now)).predict_proba(x).argmax(axis=1) == y)

    assert accuracy(learner) > accuracy(dataclasses.replace(learner, weight=0.0)) + 0.05
    assert now.report["confident"] == 0  # of the fit without unlabelled rows


# --- the moving average ----------------------------------------------------------------------------------------------


def test_an_average_that_guesses_keeps_the_statistics_of_weak_views():
    now = moment()
    # far away from the labelled rows, so that it shows whose statistics are kept
    x = now.x.copy()
    x[now.unlabelled] += 100
    norm = dataclasses.replace(SMALL, architecture=ByShape(ConvNet((4,), norm=True, hidden=0)), optimiser=SGD(lr=0.0))
    first = dataclasses.replace(
        norm, augmentation=Augmentation(0, operations=0, cutout=0), average_guesses=True, steps=30
    )
    network = fit(first, dataclasses.replace(now, x=x))
    with torch.no_grad():
        passed = network.backbone[0](torch.from_numpy(x[now.unlabelled]))
    kept = network.backbone[1]
    assert torch.allclose(kept.running_mean, passed.mean(dim=(0, 2, 3)), rtol=0.1)
    supervised = fit(dataclasses.replace(first, weight=0.0), dataclasses.replace(now, x=x))
    assert supervised.backbone[1].running_mean.abs().max() < 10


def test_the_momentum_rises_along_half_a_cosine():
    learner = FixMatch(momentum=0.9, last_momentum=1.0)
    assert [learner._momentum(progress) for progress in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])
    assert [FixMatch(momentum=0.9)._momentum(progress) for progress in (0, 0.3, 1)] == pytest.approx([0.9] * 3)


def test_the_model_is_the_average_and_not_what_was_trained(monkeypatch):
    trained = []
    kept = SGD.make
    monkeypatch.setattr(SGD, "make", lambda self, groups: trained.append(groups) or kept(self, groups))
    now = moment()
    average = fit(dataclasses.replace(SMALL, steps=3), now)
    assert not torch.equal(trained[0][0]["params"][0], average.backbone[0].weight)
    exact = fit(dataclasses.replace(SMALL, steps=3, momentum=0.0), now)
    assert torch.allclose(trained[1][0]["params"][0], exact.backbone[0].weight, atol=1e-6)
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_the_arc_ends_above_nothing():
    assert CosineArc().factor(1.0) == pytest.approx(math.cos(7 * math.pi / 16))
    assert CosineArc(0.5).factor(1.0) == pytest.approx(0, abs=1e-12)
    assert CosineArc(0).factor(0.7) == 1
    assert CosineArc().factor(2) == CosineArc().factor(1)
    with pytest.raises(FewerError, match=r"share must lie in \[0, 1/2\]; 0\.6 was given"):
        CosineArc(0.6)


# --- what users bring ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 4, 4), (1, 64), (8, 8), (64,)])
def test_images_signals_and_vectors(shape):
    now = moment(shape=shape)
    model = FittedNetwork(fit(dataclasses.replace(SMALL, architecture=ByShape()), now))
    proba = model.predict_proba(now.x)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert proba.shape == (60, CLASSES)
    assert len(model.embed(now.x)) == 60


def test_two_classes_and_one_label():
    now = moment(labelled=1, classes=2, labels=np.zeros(1, dtype=np.int64))
    assert FittedNetwork(fit(SMALL, now)).predict_proba(now.x).shape == (60, 2)


def test_whole_numbers_and_memory_maps_are_read_as_they_are(tmp_path):
    now = moment()
    pixels = np.round(20 * now.x).astype(np.int16)
    np.save(tmp_path / "x.npy", pixels)
    mapped = dataclasses.replace(now, x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert same(fit(SMALL, mapped), fit(SMALL, dataclasses.replace(now, x=pixels.astype(np.float32))))


def test_equal_seeds_give_equal_models_and_rounds_differ():
    now = moment()
    one = fit(SMALL, now)
    assert same(one, fit(SMALL, now))
    assert not close(one, fit(SMALL, dataclasses.replace(now, index=1)))
    assert not close(one, fit(SMALL, dataclasses.replace(now, seed=1)))


def test_goes_on_from_an_earlier_fit():
    now = moment()
    first = FittedNetwork(fit(SMALL, now))
    before = copy.deepcopy(first.network)
    still = dataclasses.replace(SMALL, optimiser=SGD(lr=0.0))
    assert close(fit(still, now, start=first), before, atol=1e-7)
    assert not close(fit(SMALL, now, start=first), before)
    assert same(first.network, before)


# --- in the loop -----------------------------------------------------------------------------------------------------


def task():
    return Classification("bars", *bars(120), ("lies", "stands", "slants"), test=30)


def test_it_runs_in_the_loop_and_resumes_to_the_bit(tmp_path):
    loop = ActiveLearning(learner=dataclasses.replace(SMALL, steps=3), pseudo=Threshold(0.4), initial=6, per_round=3)
    whole = list(loop.run(task(), 15, 3))
    assert [point.spent for point in whole] == [6, 9, 12, 15]
    assert all(0 <= point.extras["confident"] <= 1 for point in whole)
    first = loop.run(task(), 15, 3, tmp_path / "run")
    next(first), next(first)
    again = list(loop.run(task(), 15, 3, tmp_path / "run"))
    for one, two in zip(whole, again, strict=True):
        assert (one.spent, one.score) == (two.spent, two.score)
        assert one.extras["confident"] == two.extras["confident"]


def test_the_filling_takes_numbers():
    made = fixmatch((4,), hidden=0, norm=False, lr=0.1, weight_decay=0.01, steps=7, momentum=0.5, flip=True)
    assert made.architecture == ByShape(ConvNet((4,), hidden=0), MLP())
    assert made.optimiser == SGD(0.1, weight_decay=0.01)
    assert (made.steps, made.momentum, made.augmentation.flip) == (7, 0.5, True)
    assert dataclasses.replace(fixmatch(), architecture=ByShape()) == FixMatch()
    assert fixmatch() == FixMatch()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps, batch and ratio must be at least 1; they are 0, 64 and 7"),
        ({"batch": 0}, "steps, batch and ratio"),
        ({"ratio": 0}, "steps, batch and ratio"),
        ({"threshold": 1.1}, "threshold must lie in"),
        ({"weight": -1.0}, "weight be at least 0"),
        ({"weight": math.nan}, "weight be at least 0"),
        ({"weight": math.inf}, "weight be at least 0"),
        ({"momentum": 1.1}, "momentum must lie in"),
        ({"momentum": 0.9, "last_momentum": 0.8}, "not fall; it goes from 0.9 to 0.8"),
    ],
)
def test_impossible_numbers_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        FixMatch(**bad)


def test_what_cannot_be_fitted_is_refused():
    now = moment()
    with pytest.raises(FewerError, match="cannot learn from a teacher"):
        fit(SMALL, dataclasses.replace(now, teacher=np.zeros((60, CLASSES))))
    with pytest.raises(FewerError, match="no examples; buy labels first"):
        fit(SMALL, now, Examples.hard(np.zeros(0), np.zeros(0, dtype=np.int64), CLASSES))
    with pytest.raises(FewerError, match="the rows are texts"):
        fit(SMALL, dataclasses.replace(now, x=np.array(["a"] * 60, dtype=object)))
    with pytest.raises(FewerError, match="have no views"):
        fit(dataclasses.replace(SMALL, architecture=MLP((4,))), moment(shape=(1, 4, 4, 4)))
    with pytest.raises(FewerError, match="can only go on from a network, not from Constant"):
        fit(SMALL, now, start=Constant(0, CLASSES))
    other = mlp(hidden=(4,), steps=1).fit(now.examples, now)
    with pytest.raises(FewerError, match="can only go on from a network like its own"):
        fit(SMALL, now, start=other)


def test_a_loss_that_is_not_finite_is_noticed():
    now = moment()
    with pytest.raises(Diverged, match="look for NaN in the rows, or lower the learning rate"):
        fit(dataclasses.replace(SMALL, schedule=Cosine(), optimiser=SGD(lr=1e30)), now)
