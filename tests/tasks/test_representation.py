"""Rows without labels, with some, with several kinds: how they are divided and probed."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification
from fewer.tasks.files import csv
from fewer.tasks.representation import UNKNOWN, Representation, rows_of

X = np.arange(40, dtype=np.float32).reshape(40, 1)


def known(labels, **options):
    return Representation("toy", X, labels, **options)


def test_rows_are_divided_once_and_labels_stay_with_their_rows():
    labels = np.arange(40) % 4
    rows = known({"rest": labels}, test=10).rows_of(3)
    (probe,) = rows.probes
    assert sorted(np.concatenate([rows.x, rows.held_out]).ravel().tolist()) == X.ravel().tolist()
    assert np.array_equal(probe.x, rows.x)
    assert np.array_equal(probe.test_x, rows.held_out)
    assert np.array_equal(probe.y, labels[probe.x.ravel().astype(int)])
    assert np.array_equal(probe.test_y, labels[probe.test_x.ravel().astype(int)])


def test_equal_seeds_divide_alike_and_others_do_not():
    task = known({})
    assert np.array_equal(task.rows_of(0).x, task.rows_of(0).x)
    assert not np.array_equal(task.rows_of(0).x, task.rows_of(1).x)


def test_rows_of_unknown_class_are_learned_from_and_never_probed():
    labels = np.where(np.arange(40) < 30, np.arange(40) % 2, UNKNOWN)
    rows = known({"half": labels}, test=10).rows_of(0)
    (probe,) = rows.probes
    assert len(rows.x) == 30
    assert len(probe.x) + len(probe.test_x) == 30
    assert set(probe.y) | set(probe.test_y) == {0, 1}


def test_kinds_of_labels_that_cannot_be_told_apart_are_left_out():
    labels = {"two": np.arange(40) % 2, "one": np.zeros(40, int), "none": np.full(40, UNKNOWN)}
    assert [probe.name for probe in known(labels).rows_of(0).probes] == ["two"]
    assert known({}).rows_of(0).probes == ()


def test_read_outs_may_be_given_few_labelled_rows():
    rows = known({"two": np.arange(40) % 2}, probe_rows=6).rows_of(0)
    assert len(rows.probes[0].x) == 6
    assert len(rows.x) == 32


def test_the_fingerprint_follows_everything():
    tasks = [
        known({}),
        known({"two": np.arange(40) % 2}),
        known({"others": np.arange(40) % 2}),
        known({"two": np.arange(40) % 3}),
        known({}, test=10),
        known({}, probe_rows=3),
        Representation("toy", X + 1, {}),
    ]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)


def test_a_classification_task_is_one_of_these():
    task = Classification("toy", X, np.arange(40) % 2, ("even", "odd"), test=8)
    rows, split = rows_of(task, 5), task.split(5)
    assert np.array_equal(rows.x, split.x)
    assert np.array_equal(rows.held_out, split.test_x)
    assert np.array_equal(rows.probes[0].test_y, split.test_y)
    assert rows.probes[0].name == "class"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: known({"short": np.zeros(3, int)}), "labels 'short': 40 rows but 3 labels"),
        (lambda: Representation("toy", np.full((4, 1), np.nan), {}), "4 rows hold NaN"),
        (lambda: known({}, probe_rows=0), "rows=0"),
        (lambda: known({}, test=True), "test=True"),
        (lambda: known({}, test=40).rows_of(0), "leaves nothing to score or nothing to learn"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_other_tasks_and_texts_are_refused(tmp_path):
    texts = Classification("toy", np.array(["a", "b"] * 10, dtype=object), np.arange(20) % 2, ("a", "b"))
    with pytest.raises(FewerError, match="this network needs numbers and the rows are texts"):
        rows_of(texts, 0)
    file = tmp_path / "prices.csv"
    file.write_text("size,price\n" + "\n".join(f"{row},{row * 1.5}" for row in range(20)))
    with pytest.raises(FewerError, match="features are learned from rows; this is a Regression"):
        rows_of(csv(str(file), target="price", kind="regression"), 0)


def test_without_labels_the_score_is_not_called_an_accuracy():
    assert Representation("toy", np.zeros((4, 1, 2, 2)), {}, test=1).metric == "views recognised"
    assert Representation("toy", np.zeros((4, 1, 2, 2, 2)), {}, test=1).metric == "minus the loss"
    assert Representation("toy", np.zeros((4, 2)), {"side": np.arange(4) % 2}, test=1).metric == "accuracy"
