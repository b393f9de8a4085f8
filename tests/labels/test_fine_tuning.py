from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score
from torch import nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import generator
from fewer.labels.denoising import DenoisingAutoencoder
from fewer.labels.fine_tuning import (
    FineTuning,
    NetworkTrainee,
    Stage,
    auroc,
    log_confidence_target,
    seeded,
    validation_score,
)
from fewer.models.classifier import MLP


def problem(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    y = (x[:, 0] - x[:, 1] > 0).astype(int)
    return torch.from_numpy(x), np.eye(2, dtype=np.float32)[y]


def network(seed=0):
    with seeded(seed, "test"):
        return MLP((16,)).build((5,), 2)


def weights(net):
    return torch.cat([value.detach().flatten() for value in net.parameters()])


# --- the plan of a stage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (12, Stage(2, 2500, 1, 2)),
        (160, Stage(32, 750, 5, 5)),
        (10_240, Stage(2048, 750, 50, 40)),  # 30,000 / 10,240 epochs of 256 steps
        (40_000, Stage(8000, 1000, 50, 40)),  # one epoch is the least
        (3, Stage(2, 10_000, 1, 2)),
        (2, Stage(0, 15_000, 1, 2)),  # two held out would leave nothing to learn from
        (1, Stage(0, 30_000, 1, 2)),
    ],
)
def test_plan(labels, expected):
    plan = FineTuning().plan(labels)
    assert (plan.held_out, plan.steps, plan.every, plan.warm_up) == (
        expected.held_out,
        expected.steps,
        expected.every,
        expected.warm_up,
    )


@pytest.mark.parametrize("bad", [{"visits": 0}, {"batch": 0}, {"patience": 0}, {"lr": 0.0}, {"validation": 1.0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(FewerError, match="visits, batch, patience and lr must be positive and validation in"):
        FineTuning(**bad)


class Scripted:
    """A trainee whose validation scores are written down beforehand, and that notes what it is asked."""

    def __init__(self, scores, labels):
        self.scores, self.labels = iter(scores), labels
        self.steps, self.batches, self.asked, self.restored = 0, [], [], None

    def begin(self, steps, warm_up):
        self.began = steps, warm_up

    def step(self, rows):
        self.steps += 1
        self.batches.append(rows)

    def log_probabilities(self, rows):
        self.asked.append(rows)
        # minus the loss is the score itself where all labels agree
        return np.log(np.full((len(rows), 2), next(self.scores)))

    def snapshot(self):
        return self.steps

    def restore(self, snapshot):
        self.restored = snapshot


def run(scores, how=None, labels=40):
    how = how or FineTuning(visits=40 * 100)
    trainee = Scripted(np.exp(scores), labels)
    one_class = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (labels, 1))
    return trainee, how.run(trainee, one_class, seed=0)


def test_training_stops_after_so_many_evaluations_without_a_gain_and_goes_back_to_the_best():
    # 40 labels: 8 held out, one step an epoch, two steps between evaluations
    trainee, done = run([-1.0, -0.5, -0.6, -0.7, -0.55, -0.52, 0.0])
    assert len(trainee.asked) == 6  # the gain is at the second; four without one follow
    assert trainee.steps == done.steps == 12
    assert trainee.restored == 4
    assert done.score == pytest.approx(-0.5)


def test_many_gains_too_small_to_count_do_not_keep_training_alive_but_the_best_of_them_is_kept():
    trainee, _ = run(-1 + 0.004 * np.arange(50))
    # each third step is a gain of 0.012 over the last that counted
    assert trainee.steps == 100
    small, done = run(-1 + 0.002 * np.arange(50))
    assert small.steps == 2 * 5
    assert small.restored == 10
    assert done.score == pytest.approx(-1 + 0.002 * 4)


def test_of_equal_scores_the_first_is_kept():
    trainee, _ = run([-0.5] * 10)
    assert trainee.restored == 2


def test_without_validation_all_labels_are_visited_to_the_end():
    trainee, done = run([], FineTuning(visits=160, validation=0))
    assert trainee.asked == []
    assert trainee.restored is None
    assert trainee.steps == done.steps == 8  # four epochs of two steps
    assert math.isnan(done.score)
    assert [len(rows) for rows in trainee.batches] == [32, 8] * 4
    for epoch in range(4):
        np.testing.assert_array_equal(
            np.sort(np.concatenate(trainee.batches[2 * epoch : 2 * epoch + 2])), np.arange(40)
        )


def test_held_out_rows_are_never_trained_on():
    trainee, _ = run([-0.5] * 10, FineTuning(visits=4000, batch=4))
    held = trainee.asked[0]
    assert len(held) == 8
    assert all((rows == held).all() for rows in trainee.asked)
    np.testing.assert_array_equal(np.sort(np.concatenate(trainee.batches[:8])), np.setdiff1d(np.arange(40), held))


def test_the_last_step_is_evaluated_too():
    trainee, _ = run([-1.0, -0.9, -0.8], FineTuning(visits=40 * 5))
    assert (trainee.steps, trainee.restored) == (5, 5)


# --- scores -------------------------------------------------------------------------------------


@given(
    hnp.arrays(np.int64, st.integers(4, 30), elements=st.integers(0, 2)),
    st.integers(0, 2**32 - 1),
)
def test_auroc_agrees_with_scikit_learn(labels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 5, size=(len(labels), 3)).astype(float)  # with ties
    scores /= scores.sum(axis=1, keepdims=True)
    present = np.unique(labels)
    if len(present) < 2:
        assert math.isnan(auroc(scores, labels))
        return
    expected = np.mean([roc_auc_score(labels == label, scores[:, label]) for label in present])
    assert auroc(scores, labels) == pytest.approx(expected)


def test_validation_falls_back_to_the_loss_where_all_labels_agree():
    chance = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    ones = np.array([[0.0, 1.0], [0.1, 0.9]])
    expected = (np.log(0.5) + 0.1 * np.log(0.25) + 0.9 * np.log(0.75)) / 2
    assert validation_score(chance, ones) == pytest.approx(expected)
    assert validation_score(chance, np.array([[1.0, 0.0], [0.0, 1.0]])) == 1.0


def test_predictions_that_are_no_numbers_stop_training():
    with pytest.raises(Diverged, match="NaN or infinite; lower the learning rate"):
        validation_score(np.array([[np.nan, 0.0]]), np.array([[1.0, 0.0]]))
    x, target = problem()
    with pytest.raises(Diverged):
        FineTuning(lr=1e30).fit(network(), x, target, np.ones(120), 0)


# --- networks -----------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_as_half_a_cosine():
    x, target = problem()
    trainee = NetworkTrainee(network(), x, target, np.ones(120), FineTuning(lr=0.1), 0.0)
    trainee.begin(steps=50, warm_up=10)
    rates = []
    for _ in range(50):
        rates.append(trainee.optimiser.param_groups[0]["lr"])
        trainee.step(np.arange(8))
    np.testing.assert_allclose(rates[:11], 0.1 * np.arange(11) / 10)
    np.testing.assert_allclose(rates[10:], 0.05 * (1 + np.cos(np.pi * np.arange(40) / 40)))
    assert trainee.optimiser.param_groups[0]["betas"] == (0.9, 0.95)


def test_a_step_descends_the_weighted_cross_entropy():
    x, target = problem()
    weight = np.random.default_rng(0).uniform(0.5, 2, 120)
    net = network()
    trainee = NetworkTrainee(net, x, target, weight, FineTuning(), 0.0)
    trainee.begin(10, 2)
    rows = np.arange(30)
    trainee.step(rows)  # the first step has rate 0, so its gradient is that at the start
    gradient = torch.cat([value.grad.flatten() for value in net.parameters()])
    loss = nn.functional.cross_entropy(net(x[rows]), torch.from_numpy(target[rows]), reduction="none")
    by_hand = (loss * torch.from_numpy(weight / weight.mean()).float()[rows]).mean()
    expected = torch.cat([value.flatten() for value in torch.autograd.grad(by_hand, list(net.parameters()))])
    torch.testing.assert_close(gradient, expected)


def test_it_learns_and_restores_what_was_best():
    x, target = problem(400)
    net = network()
    done = FineTuning(visits=8000).fit(net, x, target, np.ones(400), 0)
    assert np.mean(net(x).detach().argmax(dim=1).numpy() == target.argmax(axis=1)) > 0.9
    rows = generator(0, "stage").permutation(400)[:80]
    assert auroc(net(x[rows]).detach().log_softmax(dim=1).numpy(), target[rows].argmax(axis=1)) == pytest.approx(
        done.score
    )


def test_equal_seeds_give_equal_weights_and_the_callers_stream_is_left_alone():
    x, target = problem()
    with_dropout = [MLP((16,), dropout=0.5).build((5,), 2) for _ in range(2)]
    with_dropout[1].load_state_dict(with_dropout[0].state_dict())
    before = torch.get_rng_state()
    for net in with_dropout:
        FineTuning(visits=500).fit(net, x, target, np.ones(120), 3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights(with_dropout[0]), weights(with_dropout[1]))
    other = network()
    FineTuning(visits=500).fit(other, x, target, np.ones(120), 4)
    again = network()
    FineTuning(visits=500).fit(again, x, target, np.ones(120), 5)
    assert not torch.equal(weights(other), weights(again))


def test_frozen_weights_stay_and_buffers_are_restored():
    x, target = problem()
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    trainee = NetworkTrainee(net, x, target, np.ones(120), FineTuning(), 0.0)
    trainee.begin(10, 2)
    frozen = net[0].weight.clone()
    kept = trainee.snapshot()
    assert "0.weight" not in kept
    means = net[1].running_mean.clone()
    for _ in range(5):
        trainee.step(np.arange(32))
    assert not torch.equal(net[1].running_mean, means)
    trainee.restore(kept)
    assert torch.equal(net[1].running_mean, means)
    assert torch.equal(net[0].weight, frozen)


# --- log-confidence -----------------------------------------------------------------------------


def soft(rows, seed=0):
    one = torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    return torch.stack([1 - one, one], dim=1)


def test_with_share_zero_the_target_is_the_labellers():
    target = soft(16)
    torch.testing.assert_close(log_confidence_target(soft(16, 1), target, 0.0), target, rtol=0, atol=0)


@given(st.integers(2, 64), st.integers(0, 1000))
def test_the_hardened_classes_are_as_frequent_as_the_labels(rows, seed):
    target = soft(rows, seed)
    own = log_confidence_target(soft(rows, seed + 1), target, 1.0)
    assert set(own.flatten().tolist()) <= {0.0, 1.0}
    assert abs(own[:, 1].sum().item() - rows * target[:, 1].mean().item()) <= 1
    mixed = log_confidence_target(soft(rows, seed + 1), target, 0.5)
    torch.testing.assert_close(mixed, 0.5 * target + 0.5 * own)


def test_the_most_probable_rows_are_the_ones_that_are_hardened():
    probabilities, target = soft(20, 1), soft(20)
    own = log_confidence_target(probabilities, target, 1.0)[:, 1].bool()
    assert probabilities[own, 1].min() > probabilities[~own, 1].max()


def test_the_models_opinion_comes_to_weight_over_two_hundred_steps():
    x, target = problem()
    target = 0.6 * target + 0.2  # soft, so that hardening makes a difference
    plain, confident = network(), network()
    trainees = [
        NetworkTrainee(net, x, target, np.ones(120), FineTuning(), share)
        for net, share in ((plain, 0.0), (confident, 0.5))
    ]
    rows = np.arange(32)
    for trainee in trainees:
        trainee.begin(300, 2)
        trainee.step(rows)
    assert torch.equal(weights(plain), weights(confident))  # at step 0 its share is 0
    for trainee in trainees:
        for _ in range(250):
            trainee.step(rows)
    surer = [net(x[rows]).softmax(dim=1).max(dim=1).values.mean().item() for net in (plain, confident)]
    assert surer[1] > surer[0] + 0.05


def test_log_confidence_is_for_two_classes():
    with pytest.raises(FewerError, match="log-confidence loss is for two classes; there are 3"):
        NetworkTrainee(
            MLP((4,)).build((5,), 3), torch.zeros(4, 5), np.eye(3)[[0, 1, 2, 0]], np.ones(4), FineTuning(), 0.5
        )


# --- warm start ---------------------------------------------------------------------------------


def test_the_autoencoder_learns_to_fill_in_and_leaves_the_head():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 12))
    x = factor.astype(np.float32).reshape(300, 1, 3, 4)
    net = MLP((32, 8)).build((1, 3, 4), 2)
    head = net.head.weight.clone()
    before = torch.get_rng_state()
    first = DenoisingAutoencoder(steps=1).pretrain(net, x, seed=0)
    last = DenoisingAutoencoder(steps=400, lr=3e-3).pretrain(net, x, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert last < 0.35 * first
    assert torch.equal(net.head.weight, head)


def test_pretraining_is_reproducible():
    x = np.random.default_rng(0).random((50, 12)).astype(np.float32)
    nets = []
    for _ in range(2):
        with seeded(0, "net"):
            nets.append(MLP((8,)).build((12,), 2))
        DenoisingAutoencoder(steps=20).pretrain(nets[-1], x, seed=1)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
