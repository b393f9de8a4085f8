"""DMixMatch: what it reduces to, its second head written out row by row, who keeps which share, and its errors."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.data.decoupled_mixup import DecoupledMixup, DecoupledMixupSigmoid
from fewer.data.loop import Target
from fewer.data.mixing import CutMix, MixUp
from fewer.labels.dmixmatch import DMixMatch, MixedHead, dmixmatch, rising
from fewer.labels.fixmatch import ByShape, FixMatch, Labelled, Unlabelled
from fewer.labels.learners import FittedNetwork
from fewer.labels.loop import ActiveLearning, Round
from fewer.models.classifier import MLP, ConvNet
from fewer.models.optimisers import SGD, Constant, Cosine
from fewer.tasks.classification import Classification

CLASSES = 4


def blobs(count=60, seed=0):
    """Images of 6 by 6 of which one quarter is bright."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.normal(0, 0.5, size=(count, 1, 6, 6)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 2
    return x, y


def moment(labelled=8, seed=0, shape=None, **changes) -> Round:
    x, y = blobs()
    known, others = np.arange(labelled), np.arange(labelled, len(x))
    rows = x if shape is None else x.reshape(len(x), *shape)
    made = Round(0, CLASSES, rows, known, y[known], others, np.random.default_rng(0), seed)
    return dataclasses.replace(made, **changes)


PLAIN = ByShape(ConvNet((4,), hidden=6))
SMALL = DMixMatch(PLAIN, steps=5, batch=6, ratio=2, threshold=0.3, mix_threshold=0.3)


def fit(learner, now, start=None):
    with torch.random.fork_rng():
        torch.manual_seed(now.seed)
        return learner.fit(now.examples, now, start).network


def as_fixmatch(learner):
    shared = {field.name: getattr(learner, field.name) for field in dataclasses.fields(FixMatch)}
    return FixMatch(**shared)


def shared(network):
    return {name: value for name, value in network.state_dict().items() if not name.startswith("mixed_head")}


def same(one, two):
    return all(torch.equal(value, shared(two)[name]) for name, value in shared(one).items())


def close(one, two, atol=1e-5):
    return all(
        torch.allclose(value, shared(two)[name].to(value.dtype), atol=atol) for name, value in shared(one).items()
    )


def step(seed=0, batch=6, count=12, classes=CLASSES):
    """The two halves of a step, drawn at random."""
    draws = torch.Generator().manual_seed(seed)
    known = Labelled(
        torch.randn(batch, 1, 6, 6, generator=draws),
        torch.rand(batch, classes, generator=draws).softmax(dim=1),
        torch.rand(batch, generator=draws),
    )
    guess = torch.randint(classes, (count,), generator=draws)
    guessed = Unlabelled(torch.randn(count, 1, 6, 6, generator=draws), guess, torch.rand(count, generator=draws))
    return known, guessed


# --- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [PLAIN, ByShape(), MLP((8,), dropout=0.3)], ids=["plain", "norm", "dropout"])
@pytest.mark.parametrize("average_guesses", [False, True])
def test_without_weights_it_is_fixmatch_to_the_bit(architecture, average_guesses):
    now = moment()
    learner = dataclasses.replace(
        SMALL, architecture=architecture, average_guesses=average_guesses, labelled_weight=0.0, unlabelled_weight=0.0
    )
    assert same(fit(as_fixmatch(learner), now), fit(learner, now))


@pytest.mark.parametrize("part", ["labelled_weight", "unlabelled_weight"])
def test_each_kind_of_mix_changes_what_is_learned(part):
    now = moment()
    one = dataclasses.replace(SMALL, **{part: 0.0})
    assert not close(fit(SMALL, now), fit(one, now))
    assert not close(fit(as_fixmatch(SMALL), now), fit(one, now))


def test_without_a_guess_that_counts_the_mixes_with_unlabelled_rows_do_nothing():
    now = moment()
    learner = dataclasses.replace(SMALL, threshold=1.0, mix_threshold=1.0, labelled_weight=0.0)
    assert close(fit(as_fixmatch(learner), now), fit(learner, now))


def test_without_unlabelled_rows_the_mixes_of_labelled_rows_remain():
    now = moment(unlabelled=np.zeros(0, dtype=np.int64))
    assert same(fit(SMALL, now), fit(dataclasses.replace(SMALL, unlabelled_weight=0.0), now))
    assert not close(fit(as_fixmatch(SMALL), now), fit(SMALL, now))


def test_mixes_with_unlabelled_rows_do_not_need_the_consistency_loss():
    now = moment()
    learner = dataclasses.replace(SMALL, weight=0.0)
    assert not close(fit(learner, now), fit(dataclasses.replace(learner, unlabelled_weight=0.0), now))
    assert now.report["confident"] == 0  # of the second: nobody guessed


def test_without_the_decoupled_term_the_second_head_has_cross_entropy():
    known, guessed = step()
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    eta_none = dataclasses.replace(SMALL, loss=DecoupledMixup(eta=0))
    found = eta_none._further(network, known, guessed, 1.0, torch_generator(0, "mix"))
    expected = written_out(eta_none, network, known, guessed, 1.0, torch_generator(0, "mix"))
    assert found.item() == pytest.approx(expected, rel=1e-5)


# --- the second head -------------------------------------------------------------------------------------------------


def row_loss(z, a, b, share, loss, guessed):
    """Decoupled mixup of one row, from its formula."""
    z = z.tolist()

    def log_sum(values):
        return math.log(sum(map(math.exp, values)))

    total = share * (log_sum(z) - z[a]) + (1 - share) * (log_sum(z) - z[b])
    if a == b or share in (0, 1):
        return total
    first = min(1.0, share / loss.threshold) ** loss.t
    second = (1 - share) if guessed else min(1.0, (1 - share) / loss.threshold) ** loss.t
    total += loss.eta * first * (log_sum(v for c, v in enumerate(z) if c != b) - z[a])
    return total + loss.eta * second * (log_sum(v for c, v in enumerate(z) if c != a) - z[b])


def written_out(learner, network, known, guessed, progress, draws):
    """The further loss of a step, a row at a time."""
    batch, total = len(known.view), 0.0
    classes = known.target.argmax(dim=1).tolist()
    mixed, pairs = learner.mixing(known.view, torch.arange(batch), draws)
    for i, z in enumerate(network.mixed(mixed)):
        a, b, share = int(pairs.first[i]), int(pairs.second[i]), float(pairs.ratio[i])
        weight = share * known.weight[a].item() + (1 - share) * known.weight[b].item()
        loss = row_loss(z, classes[a], classes[b], share, learner.loss, guessed=False)
        total += learner.labelled_weight * weight * loss / batch
    uniform = torch.rand((), generator=draws, dtype=torch.float64).item()  # Beta(1, 1)
    mixed, share = learner.mixing.blend(known.view, guessed.view[:batch], max(uniform, 1 - uniform), draws)
    for i, z in enumerate(network.mixed(mixed)):
        if guessed.confidence[i] >= min(learner.threshold, max(learner.mix_threshold, 1 - share)):
            loss = row_loss(z, classes[i], int(guessed.guess[i]), share, learner.loss, guessed=True)
            rise = learner.unlabelled_weight * (1 - math.cos(math.pi * progress)) / 2
            total += rise * known.weight[i].item() * loss / batch
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "learner",
    [
        SMALL,
        dataclasses.replace(SMALL, mixing=CutMix(inside=True), loss=DecoupledMixup(eta=0.5, t=0), mix_threshold=0.1),
        dataclasses.replace(SMALL, loss=DecoupledMixup(eta=2, t=0.5, threshold=0.7), labelled_weight=0.3),
    ],
    ids=["default", "cutmix", "other numbers"],
)
def test_the_second_heads_loss_is_that_of_the_paper(learner, seed):
    known, guessed = step(seed)
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    nn.init.normal_(network.mixed_head.weight)
    for progress in (0.0, 0.4, 1.0):
        found = learner._further(network, known, guessed, progress, torch_generator(seed, "mix"))
        expected = written_out(learner, network, known, guessed, progress, torch_generator(seed, "mix"))
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_sigmoid_version_rescales_the_labelled_class_only():
    learner = dataclasses.replace(SMALL, loss=DecoupledMixupSigmoid(t=0), labelled_weight=0.0, mix_threshold=0.0)
    known, guessed = step()
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    found = learner._further(network, known, guessed, 1.0, torch_generator(0, "mix"))
    draws = torch_generator(0, "mix")
    uniform = torch.rand((), generator=draws, dtype=torch.float64).item()
    mixed, share = MixUp().blend(known.view, guessed.view[:6], max(uniform, 1 - uniform), draws)
    wanted = torch.zeros(6, CLASSES)
    row = torch.arange(6)
    wanted[row, guessed.guess[:6]] = 1 - share
    wanted[row, known.target.argmax(dim=1)] = 1.0
    each = nn.functional.binary_cross_entropy_with_logits(network.mixed(mixed), wanted, reduction="none").mean(dim=1)
    sure = guessed.confidence[:6] >= min(0.3, 1 - share)
    assert found.item() == pytest.approx((each * known.weight * sure).mean().item(), rel=1e-5)


@pytest.mark.parametrize("mixing", [MixUp(), MixUp(0.2), CutMix(inside=True)])
def test_the_labelled_row_keeps_the_larger_share(mixing, monkeypatch):
    asked = []

    def note(self, x, others, ratio, generator=None):
        asked.append(ratio)
        return x, ratio

    monkeypatch.setattr(type(mixing), "blend", note)
    known, guessed = step()
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    learner = dataclasses.replace(SMALL, mixing=mixing)
    for seed in range(40):
        learner._further(network, known, guessed, 0.5, torch_generator(seed, "mix"))
    assert min(asked) >= 0.5
    assert min(asked) < 0.7 or mixing.alpha < 1
    assert max(asked) > 0.8


@pytest.mark.parametrize(
    ("threshold", "mix_threshold", "share", "line"),
    [(0.95, 0.95, 0.6, 0.95), (0.95, 0.3, 0.6, 0.4), (0.95, 0.3, 0.9, 0.3), (0.2, 0.9, 0.6, 0.2)],
)
def test_a_guess_must_be_surer_the_more_of_it_is_mixed_in(threshold, mix_threshold, share, line, monkeypatch):
    monkeypatch.setattr(MixUp, "blend", lambda self, x, others, ratio, generator=None: (x, share))
    learner = dataclasses.replace(SMALL, threshold=threshold, mix_threshold=mix_threshold, labelled_weight=0.0)
    known, guessed = step()
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    for confidence, counts in ((line + 0.01, True), (line - 0.01, False)):
        sure = dataclasses.replace(guessed, confidence=torch.full((12,), confidence))
        assert (learner._further(network, known, sure, 1.0, torch_generator(0, "mix")) > 0) == counts


def test_guesses_come_in_along_half_a_cosine():
    assert [rising(progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([0, (1 - 0.5**0.5) / 2, 0.5, 1])


# --- the network -----------------------------------------------------------------------------------------------------


def test_the_first_head_predicts_and_a_second_is_made_without_drawing():
    torch.manual_seed(0)
    plain = PLAIN.build((1, 6, 6), CLASSES)
    after = torch.rand(3)
    torch.manual_seed(0)
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    assert torch.equal(torch.rand(3), after)
    x = torch.randn(5, 1, 6, 6)
    assert torch.equal(network(x), plain(x))
    assert torch.equal(network.features(x), plain.features(x))
    assert network.mixed(x).shape == (5, CLASSES)
    assert not torch.equal(network.mixed(x), network(x))
    assert network.head.weight is not network.mixed_head.weight
    assert len(list(network.parameters())) == len(list(plain.parameters())) + 2


def test_mixes_reach_the_backbone_and_the_second_head_and_not_the_first():
    known, guessed = step()
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    SMALL._further(network, known, guessed, 1.0, torch_generator(0, "mix")).backward()
    assert network.head.weight.grad is None
    assert network.mixed_head.weight.grad.abs().sum() > 0
    assert network.backbone[0].weight.grad.abs().sum() > 0


def test_mixes_leave_no_trace_in_running_statistics():
    network = MixedHead(ByShape().build((1, 6, 6), CLASSES)).train()
    known, guessed = step()
    before = {name: value.clone() for name, value in network.named_buffers()}
    one = SMALL._further(network, known, guessed, 1.0, torch_generator(0, "mix"))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network(known.view)
    assert not torch.equal(network.backbone[1].running_mean, before["backbone.1.running_mean"])
    # normalised by the batch itself all the same
    assert torch.allclose(SMALL._further(network, known, guessed, 1.0, torch_generator(0, "mix")), one)


# --- what users bring ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
@pytest.mark.parametrize("shape", [(1, 6, 6), (4, 9), (36,)])
def test_images_signals_and_vectors(shape, mixing):
    now = moment(shape=shape)
    learner = dataclasses.replace(SMALL, architecture=ByShape(), mixing=mixing)
    if len(shape) == 1 and isinstance(mixing, CutMix):
        with pytest.raises(FewerError, match="cutmix needs rows of"):
            fit(learner, now)
        return
    proba = FittedNetwork(fit(learner, now)).predict_proba(now.x)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_with_two_classes_a_warning_says_that_nothing_is_left_to_compete():
    now = moment(classes=2, labels=np.arange(8) % 2)
    with pytest.warns(UserWarning, match="with 2 classes nothing is left to compete"):
        assert FittedNetwork(fit(SMALL, now)).predict_proba(now.x).shape == (60, 2)


def bars(count, seed):
    """Images of 8 by 8 with a bright line that lies, stands or slants, anywhere."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.normal(0, 0.3, size=(count, 1, 8, 8)).astype(np.float32)
    place = np.arange(8)
    for image, label in zip(x, y, strict=True):
        at = rng.integers(2, 6)
        image[0, at if label == 0 else place, at if label == 1 else place] += 2
    return x, y


def test_it_learns_from_what_nobody_labelled():
    (pool, labels), (x, y) = bars(60, seed=0), bars(300, seed=1)
    now = moment(labelled=3, x=pool, labels=labels[:3], classes=3)
    learner = DMixMatch(ByShape(ConvNet((16, 32))), steps=100, batch=16, threshold=0.8)
    supervised = dataclasses.replace(learner, weight=0.0, labelled_weight=0.0, unlabelled_weight=0.0)

    def accuracy(learner):
        return np.mean(FittedNetwork(fit(learner, now)).predict_proba(x).argmax(axis=1) == y)

    assert accuracy(learner) > accuracy(supervised) + 0.05


def test_equal_seeds_give_equal_models_and_rounds_differ():
    now = moment()
    one = fit(SMALL, now)
    assert same(one, fit(SMALL, now))
    assert torch.equal(one.mixed_head.weight, fit(SMALL, now).mixed_head.weight)
    assert not close(one, fit(SMALL, dataclasses.replace(now, index=1)))
    assert not close(one, fit(SMALL, dataclasses.replace(now, seed=1)))


def test_goes_on_from_an_earlier_fit_with_both_heads():
    now = moment()
    first = FittedNetwork(fit(SMALL, now))
    before = copy.deepcopy(first.network)
    still = dataclasses.replace(SMALL, optimiser=SGD(lr=0.0), schedule=Constant())
    again = fit(still, now, start=first)
    assert close(again, before, atol=1e-7)
    assert torch.allclose(again.mixed_head.weight, before.mixed_head.weight, atol=1e-7)
    with pytest.raises(FewerError, match="a network like its own"):
        fit(SMALL, now, start=FittedNetwork(fit(as_fixmatch(SMALL), now)))


def test_it_runs_in_the_loop_and_resumes_to_the_bit(tmp_path):
    task = Classification("blobs", *blobs(120), tuple("abcd"), test=30)
    loop = ActiveLearning(learner=dataclasses.replace(SMALL, steps=3), initial=8, per_round=4)
    whole = list(loop.run(task, 16, 3))
    first = loop.run(task, 16, 3, tmp_path / "run")
    next(first)
    again = list(loop.run(task, 16, 3, tmp_path / "run"))
    assert [(point.spent, point.score) for point in whole] == [(point.spent, point.score) for point in again]


def test_the_defaults_are_the_authors():
    made = DMixMatch()
    assert (made.batch, made.ratio, made.threshold, made.mix_threshold) == (64, 7, 0.95, 0.95)
    assert (made.momentum, made.last_momentum, made.average_guesses) == (0.999, 0.99999, True)
    assert (made.optimiser, made.schedule) == (SGD(0.03, 0.9, 1e-3), Cosine(floor=0.2))
    assert (made.mixing, made.loss) == (MixUp(1.0), DecoupledMixup(eta=1, mode="both", t=1, threshold=1))
    assert (made.weight, made.labelled_weight, made.unlabelled_weight) == (1, 1, 1)
    assert dmixmatch() == made


def test_the_filling_takes_numbers():
    made = dmixmatch(
        (4,), mixing="cutmix", alpha=0.2, eta=0.1, t=0, labelled_weight=0.5, unlabelled_weight=0, flip=True
    )
    assert (made.mixing, made.loss) == (CutMix(0.2), DecoupledMixup(0.1, t=0))
    assert (made.labelled_weight, made.unlabelled_weight, made.augmentation.flip) == (0.5, 0, True)
    assert made.architecture == ByShape(ConvNet((4,), norm=True))
    assert dmixmatch(momentum=1.0).last_momentum == 1.0


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"labelled_weight": -1.0}, "dmixmatch: labelled_weight and unlabelled_weight must be at least 0"),
        ({"unlabelled_weight": math.nan}, "unlabelled_weight must be at least 0"),
        ({"mix_threshold": 1.5}, r"mix_threshold lie in \[0, 1\]; they are 1.0, 1.0 and 1.5"),
        ({"steps": 0}, "steps, batch and ratio must be at least 1"),
        ({"momentum": 1.0}, "not fall; it goes from 1.0 to 0.99999"),
    ],
)
def test_impossible_numbers_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        DMixMatch(**bad)


def test_an_unknown_mixing_is_refused():
    with pytest.raises(FewerError, match="unknown mixing 'fmix'; choose mixup or cutmix"):
        dmixmatch(mixing="fmix")


def test_as_the_authors_have_it_both_sides_are_weighted_by_their_shares():
    known, guessed = step()
    sure = dataclasses.replace(guessed, confidence=torch.ones(12))
    network = MixedHead(PLAIN.build((1, 6, 6), CLASSES))
    only = dataclasses.replace(SMALL, labelled_weight=0.0)
    found = only._further(network, known, sure, 1.0, torch_generator(0, "mix"))
    draws = torch_generator(0, "mix")
    uniform = torch.rand((), generator=draws, dtype=torch.float64).item()
    mixed, share = MixUp().blend(known.view, guessed.view[:6], max(uniform, 1 - uniform))
    target = Target(known.target.argmax(dim=1), guessed.guess[:6], torch.full((6,), share))
    # with t = 1 and threshold 1, rescaled shares are the shares
    each = DecoupledMixup(eta=1)(network.mixed(mixed), target)
    assert found.item() == pytest.approx((each * known.weight).mean().item(), rel=1e-5)
