"""The student with two heads: its loss, its prediction, what each loss reaches, and its place in the loop."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fewer.core.errors import Diverged, FewerError
from fewer.labels import distillation
from fewer.labels.distillation import ActiveKD, DualHead, _in_turn, activekd, distillation_loss, dual_head
from fewer.labels.learners import FittedNetwork, Network
from fewer.labels.loop import PSEUDO, ActiveLearning, Examples, Round, TaskTeacher
from fewer.labels.pcoreset import PCoreSet
from fewer.labels.teachers import Asked
from fewer.models.classifier import MLP
from fewer.models.pretrained import Pretrained
from fewer.tasks.digits import digits

CLASSES = 3


def moment(rows: int = 60, labelled: int = 6, seed: int = 0, **changes) -> Round:
    """A round on three blobs, with a teacher that is mostly right."""
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=rows)
    y[:CLASSES] = np.arange(CLASSES)
    x = (2 * np.eye(CLASSES, 4)[y] + rng.normal(size=(rows, 4))).astype(np.float32)
    teacher = (2 * np.eye(CLASSES)[y] + rng.normal(size=(rows, CLASSES))).astype(np.float32)
    known = np.arange(labelled)
    made = Round(0, CLASSES, x, known, y[known], np.arange(labelled, rows), rng, seed, teacher=teacher)
    return dataclasses.replace(made, **changes)


def fit(learner: ActiveKD, now: Round, examples: Examples | None = None, start=None) -> DualHead:
    with torch.random.fork_rng():
        torch.manual_seed(now.seed)
        fitted = learner.fit(now.examples if examples is None else examples, now, start)
    assert isinstance(fitted.network, DualHead)
    return fitted.network


SMALL = ActiveKD(MLP((8,)), steps=40, lr=1e-2)


# --- the loss ----------------------------------------------------------------------------------


def slow_loss(student, teacher, temperature):
    def soft(logits):
        e = [np.exp(float(value) / temperature) for value in logits]
        return [each / sum(e) for each in e]

    q, p = soft(student), soft(teacher)
    return temperature**2 * sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0, 7.0]))
@settings(max_examples=50, deadline=None)
def test_loss_is_the_scaled_divergence(seed, temperature):
    draws = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(4, 5, generator=draws), torch.randn(4, 5, generator=draws)
    expected = [slow_loss(a, b, temperature) for a, b in zip(student, teacher, strict=True)]
    found = distillation_loss(student, teacher, temperature)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-4)
    peer = nn.functional.kl_div(
        (student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean"
    )
    assert torch.allclose(found.mean(), temperature**2 * peer, atol=1e-4)


def test_gradient_keeps_its_size_as_the_temperature_grows():
    student, teacher = (
        torch.randn(6, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(6, 5, dtype=torch.float64),
    )
    distillation_loss(student, teacher, 1e4).sum().backward()
    apart = student - teacher
    limit = (apart - apart.mean(dim=1, keepdim=True)) / 5
    assert student.grad is not None
    assert torch.allclose(student.grad, limit, atol=1e-3)


def test_gradient_by_finite_differences():
    teacher = torch.randn(3, 4, dtype=torch.float64)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: distillation_loss(logits, teacher, 2.0), (student,))


def test_a_class_the_teacher_rules_out_is_no_trouble():
    student = torch.zeros(1, 3, requires_grad=True)
    loss = distillation_loss(student, torch.tensor([[0.0, 0.0, -torch.inf]]), 2.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(4 * np.log(1.5), rel=1e-5)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


# --- the network -------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.5)])
def test_prediction_mixes_the_heads(alpha, beta):
    student = DualHead(MLP((8,)).build((4,), CLASSES), alpha, beta)
    x = torch.randn(7, 4)
    features = student.features(x)
    one, two = student.head(features).softmax(1), (student.teacher_head(features) / beta).softmax(1)
    fitted = FittedNetwork(student)
    mixed = ((1 - alpha) * one + alpha * two).detach().numpy()
    assert np.allclose(fitted.predict_proba(x.numpy()), mixed, atol=1e-6)
    assert np.allclose(fitted.embed(x.numpy()), features.detach().numpy(), atol=1e-6)


def test_prediction_survives_a_head_that_is_certain():
    student = DualHead(MLP((8,)).build((4,), CLASSES))
    with torch.no_grad():
        for head in (student.head, student.teacher_head):
            head.weight.zero_()
            head.bias.copy_(torch.tensor([1000.0, 0.0, -1000.0]))
    assert FittedNetwork(student).predict_proba(np.zeros((2, 4))).tolist() == [[1, 0, 0]] * 2


# --- the fit -----------------------------------------------------------------------------------


def test_each_loss_reaches_its_own_head_only():
    # the share of one loss is all: the other head keeps its first weights up to weight decay
    now = moment()
    fresh = fit(dataclasses.replace(SMALL, steps=1, lr=0.0), now)
    plain = dataclasses.replace(SMALL, weight_decay=0.0)
    labels_only, teacher_only = (
        fit(dataclasses.replace(plain, share=0.0), now),
        fit(dataclasses.replace(plain, share=1.0), now),
    )
    assert torch.equal(labels_only.teacher_head.weight, fresh.teacher_head.weight)
    assert not torch.equal(labels_only.head.weight, fresh.head.weight)
    assert torch.equal(teacher_only.head.weight, fresh.head.weight)
    assert not torch.equal(teacher_only.teacher_head.weight, fresh.teacher_head.weight)
    for student in (labels_only, teacher_only):
        assert not torch.equal(student.features(torch.ones(1, 4)), fresh.features(torch.ones(1, 4)))


def test_unlabelled_rows_teach_only_the_teacher_head(monkeypatch):
    # everything but the unlabelled rows is the same: with no share for the teacher they cannot matter
    now = moment()
    elsewhere = now.x.copy()
    elsewhere[now.unlabelled] += 5
    off = dataclasses.replace(SMALL, share=0.0)
    one, two = fit(off, now), fit(off, dataclasses.replace(now, x=elsewhere))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    one, two = fit(SMALL, now), fit(SMALL, dataclasses.replace(now, x=elsewhere))
    assert not torch.allclose(one.backbone[1].weight, two.backbone[1].weight, atol=1e-3)


def slow_fit(learner: ActiveKD, now: Round, examples: Examples, monkeypatch) -> DualHead:
    """The method as the paper writes it: two passes, three losses, on the same draws."""
    network = DualHead(learner.architecture.build((4,), CLASSES), learner.alpha, learner.beta)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learner.lr, weight_decay=learner.weight_decay)
    assert learner.steps is not None
    rise = max(1, round(learner.warm_up * learner.steps))

    def factor(step):
        return (step + 1) / rise if step < rise else (learner.steps - step) / (learner.steps - rise)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    rng = distillation.generator(now.seed, "activekd", now.index, 0)
    drawn = rng.integers(len(examples), size=(learner.steps, learner.batch))
    others = _in_turn(now.unlabelled, learner.steps * learner.batch, rng).reshape(learner.steps, learner.batch)
    x, teacher = torch.from_numpy(now.x), torch.from_numpy(now.teacher)
    weight = torch.from_numpy(examples.weight / examples.weight.mean())
    for step in range(learner.steps):
        labelled, unlabelled = examples.rows[drawn[step]], others[step]
        one, two = network.features(x[labelled]), network.features(x[unlabelled])
        picked = torch.from_numpy(examples.target[drawn[step]])
        supervised = -(picked * network.head(one).log_softmax(1)).sum(1) * weight[drawn[step]]
        softened = [
            nn.functional.kl_div(
                (network.teacher_head(features) / learner.temperature).log_softmax(1),
                (teacher[rows] / learner.temperature).softmax(1),
                reduction="batchmean",
            )
            * learner.temperature**2
            for features, rows in ((one, labelled), (two, unlabelled))
        ]
        loss = (1 - learner.share) * supervised.mean() + learner.share * (softened[0] + softened[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


@pytest.mark.parametrize(
    "learner",
    [
        SMALL,
        dataclasses.replace(SMALL, share=0.3, temperature=4.0, weight_decay=0.1, batch=10, warm_up=0.25),
    ],
    ids=["default", "other numbers"],
)
def test_fit_is_the_method_as_written(learner, monkeypatch):
    now = moment()
    rng = np.random.default_rng(1)
    soft = rng.dirichlet(np.ones(CLASSES), size=5).astype(np.float32)
    more = Examples(now.unlabelled[:5], soft, rng.random(5).astype(np.float32), np.full(5, PSEUDO))
    examples = now.examples.and_(more)
    with torch.random.fork_rng():
        torch.manual_seed(now.seed)
        expected = slow_fit(learner, now, examples, monkeypatch)
    found = fit(learner, now, examples)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_weight_of_two_is_an_example_drawn_twice_as_hard():
    now = moment()
    weight = np.array([2, 1, 1, 0, 1, 1], dtype=np.float32)
    examples = dataclasses.replace(now.examples, weight=weight)
    scaled = dataclasses.replace(now.examples, weight=10 * weight)
    one, two = fit(SMALL, now, examples), fit(SMALL, now, scaled)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    # an example of weight nothing has no say, whatever its target
    other = examples.target.copy()
    other[3] = np.roll(other[3], 1)
    three = fit(SMALL, now, dataclasses.replace(examples, target=other))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_a_uniform_teacher_pulls_its_head_to_uniform():
    now = moment(teacher=np.zeros((60, CLASSES), dtype=np.float32))
    student = fit(dataclasses.replace(SMALL, steps=300, alpha=1.0), now)
    assert np.allclose(FittedNetwork(student).predict_proba(now.x), 1 / CLASSES, atol=0.05)
    student.alpha = 0.0
    assert (FittedNetwork(student).predict_proba(now.x).max(axis=1) > 0.6).mean() > 0.8


def test_unlabelled_rows_all_come_before_any_comes_again():
    rows = np.arange(100, 117)
    drawn = _in_turn(rows, 60, np.random.default_rng(0))
    assert len(drawn) == 60
    for start in range(0, 51, 17):
        part = drawn[start : start + 17]
        assert len(np.unique(part)) == len(part)
    assert np.isin(drawn, rows).all()
    assert len(_in_turn(np.arange(10**6), 5, np.random.default_rng(0))) == 5


def test_paper_default_is_two_hundred_draws_an_example(monkeypatch):
    asked = []
    monkeypatch.setattr(
        distillation, "distillation_loss", lambda a, b, t: asked.append(len(a)) or (a - b).square().sum(1)
    )
    fit(ActiveKD(MLP((8,)), batch=16), moment())
    assert len(asked) == 200 * 6 / 16
    assert set(asked) == {32}


def test_equal_seeds_give_equal_students_and_rounds_differ():
    now = moment()
    one, two = fit(SMALL, now), fit(SMALL, now)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    three = fit(SMALL, dataclasses.replace(now, index=1))
    assert not torch.equal(one.head.weight, three.head.weight)


def test_goes_on_from_a_student():
    now = moment()
    with torch.random.fork_rng():
        first = SMALL.fit(now.examples, now)
    before = {name: value.clone() for name, value in first.network.state_dict().items()}
    still = fit(dataclasses.replace(SMALL, lr=0.0), now, start=first)
    assert all(torch.equal(value, before[name]) for name, value in still.state_dict().items())
    moved = fit(SMALL, now, start=first)
    assert not torch.equal(moved.head.weight, before["head.weight"])
    assert torch.equal(first.network.head.weight, before["head.weight"])  # the old student stays as it was


def test_every_round_starts_from_the_saved_backbone(tmp_path):
    saved = MLP((8,)).build((4,), CLASSES)
    save_file(dict(saved.backbone.state_dict()), tmp_path / "backbone.safetensors")
    learner = dataclasses.replace(SMALL, architecture=Pretrained(MLP((8,)), tmp_path / "backbone.safetensors"), lr=0.0)
    for index in (0, 1):
        student = fit(learner, moment(index=index))
        assert torch.equal(student.features(torch.ones(2, 4)), saved.features(torch.ones(2, 4)))


def test_nothing_unlabelled_is_left():
    now = moment(labelled=60)
    assert np.isfinite(FittedNetwork(fit(SMALL, now)).predict_proba(now.x)).all()


def test_memory_maps_are_read_a_batch_at_a_time(tmp_path):
    now = moment()
    np.save(tmp_path / "x.npy", now.x)
    np.save(tmp_path / "teacher.npy", now.teacher)
    mapped = dataclasses.replace(
        now,
        x=np.load(tmp_path / "x.npy", mmap_mode="r"),
        teacher=np.load(tmp_path / "teacher.npy", mmap_mode="r"),
    )
    one, two = fit(SMALL, now), fit(SMALL, mapped)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


class Grudging(np.ndarray):
    """An array that notes how many rows are read at once, and minds being read whole."""

    largest = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        Grudging.largest = max(Grudging.largest, len(part) if np.ndim(part) else 1)
        return part


def test_the_pool_is_never_copied():
    now = moment(rows=500)
    Grudging.largest = 0
    fit(SMALL, dataclasses.replace(now, x=now.x.view(Grudging), teacher=now.teacher.view(Grudging)))
    assert Grudging.largest == 128


def test_images_of_bytes_and_doubles_are_taken():
    now = moment()
    for dtype in (np.float64, np.uint8):
        fit(SMALL, dataclasses.replace(now, x=np.abs(now.x).astype(dtype)))


# --- errors ------------------------------------------------------------------------------------


def test_without_a_teacher():
    with pytest.raises(FewerError, match="distils a teacher and there is none"):
        fit(SMALL, moment(teacher=None))
    with pytest.raises(FewerError, match="the task brings none"):
        next(ActiveLearning(**activekd(steps=2)).run(digits(), budget=10, seed=0))


def test_a_teacher_of_another_shape():
    with pytest.raises(FewerError, match=r"shape \(60, 4\); they must be 60 rows of 3 classes"):
        fit(SMALL, moment(teacher=np.zeros((60, 4))))


def test_nothing_to_learn_from_and_texts():
    now = moment()
    with pytest.raises(FewerError, match="no examples"):
        fit(SMALL, now, Examples.hard(np.zeros(0, int), np.zeros(0, int), CLASSES))
    with pytest.raises(FewerError, match="rows are texts"):
        fit(SMALL, moment(x=np.array(["a"] * 60, dtype=object)))


def test_a_teacher_with_nan_stops_the_fit():
    spoilt = moment().teacher.copy()
    spoilt[10:] = np.nan
    with pytest.raises(Diverged, match="NaN in rows or teacher logits"):
        fit(SMALL, moment(teacher=spoilt))


def test_goes_on_from_nothing_else():
    now = moment()
    with torch.random.fork_rng():
        plain = Network(MLP((8,)), steps=1).fit(now.examples, dataclasses.replace(now, teacher=None))
    with pytest.raises(FewerError, match="student with two heads"):
        fit(SMALL, now, start=plain)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"beta": -1.0}, {"alpha": 1.5}, {"share": -0.1}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(FewerError, match="alpha and share in"):
        ActiveKD(**wrong)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"steps": 0}])
def test_counts_out_of_range(wrong):
    with pytest.raises(FewerError, match="at least 1"):
        ActiveKD(**wrong)


# --- in the loop -------------------------------------------------------------------------------


def taught_digits():
    task = digits()
    noise = np.random.default_rng(0).normal(size=(len(task.y), 10))
    return task.with_(teacher=(3 * np.eye(10)[task.y] + 2 * noise).astype(np.float32))


def test_activekd_fills_two_slots_and_pcoreset_the_third():
    made = activekd(hidden=(16,), steps=30, lr=1e-2)
    loop = ActiveLearning(query=PCoreSet(), **made)
    assert isinstance(loop.teacher, TaskTeacher)
    learned = loop.learn(taught_digits(), budget=30, seed=0)
    assert [point.spent for point in learned.curve] == [10, 20, 30]
    assert isinstance(learned.result.network, DualHead)


def test_a_good_teacher_helps():
    task = taught_digits()
    taught = ActiveLearning(**activekd(hidden=(16,), steps=60, lr=1e-2)).learn(task, 20, seed=0).curve
    alone = ActiveLearning(learner=Network(MLP((16,)), steps=60, lr=1e-2)).learn(task, 20, seed=0).curve
    assert taught.final > alone.final + 0.1


def test_a_run_resumes_to_the_bit(tmp_path):
    loop, task = ActiveLearning(query=PCoreSet(), **activekd(hidden=(16,), steps=10)), taught_digits()
    whole = [point.score for point in loop.run(task, 40, seed=1)]
    points = loop.run(task, 40, seed=1, checkpoint=tmp_path / "run")
    next(points), next(points)
    assert [point.score for point in loop.run(task, 40, seed=1, checkpoint=tmp_path / "run")] == whole


class Confident:
    """Pseudo-labels: the four rows the model is surest of in each class, believed by half."""

    def label(self, round: Round) -> Examples:
        there = round.probabilities[round.unlabelled]
        best = there.argsort(axis=0)[-4:]
        made = Examples.hard(round.unlabelled[best].ravel(), np.tile(np.arange(10), 4), round.classes, PSEUDO)
        return dataclasses.replace(made, weight=np.full(40, 0.5, dtype=np.float32))


def test_goes_on_with_pseudo_labels_in_the_loop():
    loop = ActiveLearning(query=PCoreSet(), pseudo=Confident(), **activekd(hidden=(16,), steps=30, lr=1e-2))
    points = list(loop.run(taught_digits(), 20, seed=0))
    assert all(point.extras["pseudo_labels"] == 40 for point in points)
    assert points[-1].score > 0.5


def test_the_fillings_take_the_students_settings():
    settings = {"hidden": [8, 4], "dropout": 0.1, "steps": None, "lr": 0.1, "alpha": 0.2, "pretrained": "w.safetensors"}
    expected = ActiveKD(Pretrained(MLP((8, 4), 0.1), "w.safetensors"), lr=0.1, alpha=0.2)
    assert dual_head(**settings) == expected
    assert activekd(**settings) == {"teacher": TaskTeacher(), "learner": expected}
    assert inspect.signature(activekd) == inspect.signature(dual_head)  # it is in messages about wrong arguments


def test_the_student_alone_takes_any_teacher():
    loop = ActiveLearning(teacher=Asked(lambda x: x.reshape(len(x), -1)[:, :10]), learner=dual_head((8,), steps=5))
    assert len(list(loop.run(digits(), 20, seed=0))) == 2
