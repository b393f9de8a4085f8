from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from fewer.core.errors import FewerError
from fewer.tasks.digits import breast_cancer, digits


def test_digits_are_those_of_scikit_learn():
    task = digits()
    x, y = map(np.asarray, load_digits(return_X_y=True))
    assert task.x.dtype == np.float32
    assert np.array_equal(task.x.reshape(len(x), -1) * 16, x)
    assert np.array_equal(task.y, y)
    assert task.x.min() == 0
    assert task.x.max() == 1


def test_breast_cancer_is_that_of_scikit_learn_and_standardised_by_the_pool():
    task = breast_cancer()
    bunch = load_breast_cancer()
    assert np.array_equal(task.x, bunch.data.astype(np.float32))
    assert task.classes == tuple(map(str, bunch.target_names))
    assert [task.classes[label] for label in task.y[:3]] == [bunch.target_names[label] for label in bunch.target[:3]]
    assert np.allclose(task.split(0).x.mean(axis=0), 0, atol=1e-4)


def test_arguments_reach_the_task():
    split = digits(test=100, rows=50).split(0)
    assert (len(split.x), len(split.test_x)) == (50, 100)
    assert breast_cancer(metric="macro-f1").metric == "macro-f1"
    assert digits() is digits()
    with pytest.raises(FewerError, match="unknown metric"):
        breast_cancer(metric="auc")  # pyright: ignore[reportArgumentType]


def test_the_fingerprint_follows_the_arguments():
    tasks = [digits(), digits(test=0.3), digits(rows=100), breast_cancer(), breast_cancer(metric="macro-f1")]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
    digits.cache_clear()
    assert digits().fingerprint() == tasks[0].fingerprint()
