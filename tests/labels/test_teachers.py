"""Teachers: known logits, a function, a zero-shot model, and the probe that is trained on each round's labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.labels.distillation import ActiveKD
from fewer.labels.loop import ActiveLearning, Round, TaskTeacher
from fewer.labels.teachers import CLAP, Asked, Embedded, ZeroShot, attach
from fewer.models.classifier import MLP
from fewer.tasks.digits import digits

CLASSES, WIDTH = 4, 16


class Space:
    """An encoder made by hand: rows lie around class directions, and one class name points somewhere else."""

    def __init__(self, wrong: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.calls = 0
        self.centres = np.eye(CLASSES, WIDTH)
        self.names = self.centres * rng.uniform(1, 3, size=(CLASSES, 1))
        if wrong is not None:
            self.names[wrong] = np.roll(self.names[wrong], WIDTH // 2)
        self.y = rng.integers(CLASSES, size=80)
        rows = self.centres[self.y] + 0.15 * rng.normal(size=(80, WIDTH))
        self.rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode(self, x, classes) -> Embedded:
        self.calls += 1
        return Embedded(self.rows, self.names.astype(np.float32), 20.0)


def moment(labelled=(), y=None, **changes) -> Round:
    known = np.array(labelled, dtype=np.int64)
    labels = np.zeros(0, dtype=np.int64) if y is None else y[known]
    x = np.arange(80, dtype=np.float32)[:, None]
    made = Round(0, CLASSES, x, known, labels, np.setdiff1d(np.arange(80), known), np.random.default_rng(0), seed=0)
    return dataclasses.replace(made, **changes)


# --- known logits ------------------------------------------------------------------------------


def test_attached_logits_follow_their_rows_through_the_split(tmp_path):
    task = digits()
    logits = np.random.default_rng(0).normal(size=(len(task.y), 10)).astype(np.float32)
    logits[:, 3] = np.arange(len(logits))
    np.save(tmp_path / "logits.npy", logits)
    marked = task.with_(x=np.arange(len(task.y), dtype=np.float32)[:, None])
    for teacher in (logits, tmp_path / "logits.npy", str(tmp_path / "logits.npy")):
        split = attach(marked, teacher).split(seed=1)
        assert split.teacher is not None
        assert np.array_equal(split.teacher[:, 3], split.x[:, 0])
    assert attach(task, logits).fingerprint() != task.fingerprint()


def test_attached_logits_must_fit(tmp_path):
    task = digits()
    rows = len(task.y)
    with pytest.raises(FewerError, match=rf"shape \({rows}, 9\); {rows} rows of 10 classes are needed"):
        attach(task, np.zeros((rows, 9)))
    spoilt = np.zeros((rows, 10), dtype=np.float32)
    spoilt[1234, 5] = np.nan
    with pytest.raises(FewerError, match="row 1234 hold NaN"):
        attach(task, spoilt)
    with pytest.raises(FewerError, match="cannot read the teacher's logits in"):
        attach(task, tmp_path / "none.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FewerError, match=r"give a \.npy file"):
        attach(task, tmp_path / "pickled.npy")


# --- a function --------------------------------------------------------------------------------


def with_gradient(logits):
    return torch.from_numpy(logits).requires_grad_()


@pytest.mark.parametrize("give", [np.asarray, with_gradient, np.ndarray.tolist])
def test_a_function_is_asked_once_for_each_row(give):
    asked = []

    def function(x):
        asked.append(len(x))
        return give(np.hstack([x, -x, x + 1, 0 * x]))

    now = moment()
    teacher = Asked(function, block=30)
    first = teacher.logits(now)
    assert asked == [30, 30, 20]
    x = now.x
    assert np.array_equal(first, np.hstack([x, -x, x + 1, 0 * x]))
    assert first.dtype == np.float32
    assert teacher.logits(dataclasses.replace(now, index=1)) is first  # the memory goes from round to round
    assert len(asked) == 3


def test_a_function_must_give_logits():
    with pytest.raises(FewerError, match=r"shape \(80, 1\); 80 rows of 4 classes are needed"):
        Asked(lambda x: x).logits(moment())
    with pytest.raises(FewerError, match="row 33 hold NaN"):
        Asked(lambda x: np.where(x == 33, np.nan, 0) * np.ones((1, 4))).logits(moment())


# --- zero-shot ---------------------------------------------------------------------------------


def test_zero_shot_is_scaled_cosine():
    space = Space()
    found = ZeroShot(space).logits(moment())
    expected = [
        [20 * row @ name / (np.linalg.norm(row) * np.linalg.norm(name)) for name in space.names] for row in space.rows
    ]
    assert np.allclose(found, expected, atol=1e-4)
    assert (found.argmax(axis=1) == space.y).mean() > 0.95


def test_rows_are_embedded_once_a_run_and_a_checkpoint_may_make_a_tuple_of_it():
    space, now = Space(), moment()
    first = ZeroShot(space).logits(now)
    now.memory["teacher"] = tuple(now.memory["teacher"])
    assert np.array_equal(ZeroShot(space).logits(now), first)
    assert space.calls == 1


# --- the probe ---------------------------------------------------------------------------------


def test_probe_without_labels_is_zero_shot():
    assert np.allclose(CLAP(Space()).logits(moment()), ZeroShot(Space()).logits(moment()), atol=1e-4)


def test_probe_learns_a_class_whose_name_is_misleading():
    space = Space(wrong=2)
    before = ZeroShot(space).logits(moment()).argmax(axis=1) == space.y
    known = np.concatenate([np.flatnonzero(space.y == label)[:4] for label in range(CLASSES)])
    now = moment(known, space.y)
    after = CLAP(space).logits(now).argmax(axis=1) == space.y
    assert before[space.y == 2].mean() < 0.6
    assert after.mean() > 0.95
    later = dataclasses.replace(now, labelled=known[:4], labels=space.y[known[:4]], index=1)
    assert not np.array_equal(CLAP(space).logits(later), CLAP(space).logits(now))  # trained anew in each round


def slow_probe(rows, labels, start, scale, picks, lr):
    """Gradient descent with momentum on the loss written out, in float64."""
    rows, start = rows.double(), start.double()
    named = nn.functional.normalize(start, dim=1)
    certainty = [[] for _ in start]
    for row, label in zip(rows, labels, strict=True):
        certainty[label].append((scale * named @ row).softmax(0)[label])
    hold = [sum(each) / len(each) if each else 0.0 for each in certainty]
    at, speed = start.clone(), torch.zeros_like(start)
    steps, rise = len(picks), max(1, int(np.ceil(0.1 * len(picks))))
    for step, pick in enumerate(picks):
        there = at.clone().requires_grad_()
        loss = sum(
            nn.functional.cross_entropy(
                (scale * (there / there.norm(dim=1, keepdim=True)) @ rows[i])[None], labels[i][None]
            )
            for i in pick
        ) / len(pick)
        loss = loss + sum(w * ((a - b) ** 2).sum() for w, a, b in zip(hold, there, start, strict=True)) / len(start)
        (gradient,) = torch.autograd.grad(loss, there)
        speed = 0.9 * speed + gradient
        factor = (step + 1) / rise if step < rise else (steps - step) / (steps - rise)
        at = at - lr * factor * speed
    return at


def test_probe_is_the_method_as_written():
    space = Space(wrong=1)
    known = torch.tensor([3, 10, 20, 30, 41])
    rows, labels = torch.from_numpy(space.rows)[known], torch.from_numpy(space.y)[known]
    start = torch.from_numpy(space.names).float()
    probe = CLAP(space, passes=24, lr=0.05, batch=6)
    found = probe.train(rows, labels, start, 20.0, torch.Generator().manual_seed(0))
    picks = torch.randint(5, (20, 6), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found, slow_probe(rows, labels, start, 20.0, picks, 0.05).float(), atol=1e-4)
    assert not torch.allclose(found, start, atol=1e-2)


def test_probe_never_forgets_a_class_without_labels():
    space = Space()
    known = np.flatnonzero(space.y != 3)[:12]
    now = moment(known, space.y)
    right = CLAP(space).logits(now).argmax(axis=1) == space.y
    assert right[space.y == 3].mean() > 0.9


# --- in the loop -------------------------------------------------------------------------------


class DigitSpace:
    """Images as unit vectors, classes as the mean image of their first rows."""

    def encode(self, x, classes) -> Embedded:
        flat = x.reshape(len(x), -1)
        rows = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)
        task = digits()
        names = np.stack([task.x[task.y == label][:3].reshape(3, -1).mean(axis=0) for label in range(classes)])
        return Embedded(rows, names.astype(np.float32), 30.0)


@pytest.mark.parametrize("teacher", [ZeroShot(DigitSpace()), CLAP(DigitSpace(), passes=20)])
def test_teachers_of_the_loop_resume_to_the_bit(teacher, tmp_path):
    loop = ActiveLearning(teacher=teacher, learner=ActiveKD(MLP((8,)), steps=5))
    whole = [point.score for point in loop.run(digits(), 30, seed=0)]
    points = loop.run(digits(), 30, seed=0, checkpoint=tmp_path / "run")
    next(points)
    assert [point.score for point in loop.run(digits(), 30, seed=0, checkpoint=tmp_path / "run")] == whole


def test_the_tasks_teacher_is_handed_on():
    logits = np.zeros((80, CLASSES), dtype=np.float32)
    assert TaskTeacher().logits(moment(opinion=logits)) is logits
