from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification, Split


def toy(rows: int = 60, classes: int = 3, **changes) -> Classification:
    """A task whose first feature is the row's number, so that rows can be followed."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.arange(rows), rng.normal(size=(rows, 2))]).astype(np.float32)
    names = tuple(f"class {label}" for label in range(classes))
    return Classification("toy", x, np.arange(rows) % classes, names, **{"test": 12, **changes})


@dataclass(frozen=True)
class Recorder:
    """A helper that writes what it was given into the split."""

    scale: float = 1.0

    def __call__(self, x: np.ndarray, y: np.ndarray, split: Split, seed: int) -> Split:
        weak = np.full((len(split.x), 3), self.scale * seed, dtype=np.float32)
        weak[0, 0] = len(x)
        return replace(split, weak=weak, teacher=np.resize(x, (len(split.x), 3)))


def ids(x: np.ndarray) -> set[int]:
    return set(x[:, 0].astype(int).tolist())


@given(seed=st.integers(0, 2**40), test=st.integers(1, 30), aside=st.integers(0, 20))
def test_pool_and_test_and_helper_rows_are_a_partition(seed, test, aside):
    task = toy(test=test, helper=Recorder() if aside else None, helper_rows=aside)
    split = task.split(seed)
    pool, held = ids(split.x), ids(split.test_x)
    assert not pool & held
    assert (len(pool), len(held)) == (60 - test - aside, test)
    if aside and len(split.x) >= aside:
        assert split.teacher is not None
        helpers = ids(split.teacher)
        assert len(helpers) == aside
        assert pool | held | helpers == set(range(60))
        assert not helpers & (pool | held)


def test_labels_and_rows_stay_together():
    split = toy().split(3)
    assert (split.x[:, 0].astype(int) % 3 == split.y).all()
    assert (split.test_x[:, 0].astype(int) % 3 == split.test_y).all()


def test_equal_seeds_give_equal_splits_and_others_do_not():
    task = toy()
    first, again, other = task.split(5), task.split(5), task.split(6)
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.test_x, again.test_x)
    assert ids(first.test_x) != ids(other.test_x)


@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 100),
)
def test_each_class_keeps_its_share_in_the_test_set(counts, share, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    total = len(y)
    test = min(max(round(share * total), 1), total - 1)
    task = Classification("t", np.zeros((total, 1)), y, tuple(map(str, range(len(counts)))), test=test)
    held = np.bincount(task.split(seed).test_y, minlength=len(counts))
    assert held.sum() == test
    assert (np.abs(held - np.array(counts) * test / total) < 1).all()


def test_a_share_of_rows_is_rounded():
    assert len(toy(test=0.25).split(0).test_y) == 15


def test_the_pool_alone_decides_the_standardisation():
    task = toy(standardise=True)
    split, raw = task.split(0), task.with_(standardise=False).split(0)
    assert np.allclose(split.x.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(split.x.std(axis=0), 1, atol=1e-5)
    expected = (raw.test_x - raw.x.mean(axis=0)) / raw.x.std(axis=0)
    assert np.allclose(split.test_x, expected, atol=1e-5)
    # a test row made enormous must not move the pool
    x = task.x.copy()
    x[int(raw.test_x[0, 0])] = 1e6
    assert np.array_equal(task.with_(x=x).split(0).x, split.x)


def test_a_constant_feature_is_only_centred():
    x = np.ones((20, 2), dtype=np.float32)
    x[:, 1] = np.arange(20)
    split = Classification("t", x, np.arange(20) % 2, ("a", "b"), standardise=True).split(0)
    assert (split.x[:, 0] == 0).all()
    assert np.isfinite(split.x).all()


def test_helper_rows_are_standardised_with_the_pool():
    task = toy(standardise=True, helper=Recorder(), helper_rows=8)
    split, raw = task.split(1), task.with_(standardise=False).split(1)
    assert split.teacher is not None
    assert raw.teacher is not None
    assert np.allclose(split.teacher[:8], (raw.teacher[:8] - raw.x.mean(axis=0)) / raw.x.std(axis=0), atol=1e-4)


def test_fewer_rows_are_drawn_anew_for_each_seed_from_the_same_pool():
    whole, part, other = toy().split(0), toy(rows=60).with_(rows=10).split(0), toy().with_(rows=10).split(1)
    assert len(part.x) == 10
    assert ids(part.x) <= ids(whole.x)
    assert ids(part.test_x) == ids(whole.test_x)
    assert ids(part.x) != ids(other.x)


def test_a_fixed_test_set_is_the_same_for_all_seeds():
    held = np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 2, 0])
    task = toy(held_out=held)
    assert np.array_equal(task.split(0).test_x, task.split(1).test_x)
    assert len(task.split(0).x) == 60


def test_weak_labels_and_teacher_travel_with_their_rows():
    weak = np.repeat(np.arange(60.0)[:, None], 3, axis=1)
    split = toy(weak=weak, teacher=-weak, rows=60).with_(rows=20).split(2)
    assert split.weak is not None
    assert split.teacher is not None
    assert np.array_equal(split.weak[:, 0], split.x[:, 0])
    assert np.array_equal(split.teacher[:, 0], -split.x[:, 0])


def test_the_helper_gets_its_rows_and_the_seed():
    split = toy(helper=Recorder(scale=2), helper_rows=7).split(4)
    assert split.weak is not None
    assert split.weak[0, 0] == 7
    assert split.weak[1, 1] == 8


def test_the_fingerprint_follows_everything_that_decides_a_result():
    x = toy().x.copy()
    x[0, 0] += 1
    variants = [
        toy(),
        toy().with_(x=x),
        toy().with_(x=toy().x.astype(np.float64)),
        toy().with_(y=np.roll(toy().y, 1)),
        toy().with_(classes=("a", "b", "c")),
        toy(test=13),
        toy().with_(rows=20),
        toy(metric="macro-f1"),
        toy(standardise=True),
        toy(weak=np.ones((60, 3))),
        toy(held_out=(toy().x, toy().y)),
        toy(helper=Recorder(), helper_rows=5),
        toy(helper=Recorder(scale=2), helper_rows=5),
        toy(helper=Recorder(), helper_rows=6),
    ]
    prints = [task.fingerprint() for task in variants]
    assert len(set(prints)) == len(prints)
    assert toy().fingerprint() == prints[0]
    assert toy().with_(name="another").fingerprint() == prints[0]


def test_the_fingerprint_of_texts_follows_the_texts():
    texts = np.array(["one", "two", "three", "four"], dtype=object)
    task = Classification("t", texts, np.array([0, 1, 0, 1]), ("a", "b"), test=2)
    changed = texts.copy()
    changed[3] = "five"
    assert task.fingerprint() == task.with_(x=texts.copy()).fingerprint()
    assert task.fingerprint() != task.with_(x=changed).fingerprint()


def test_scores_against_the_definitions():
    truth, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    recall = np.array([2 / 3, 1, 0])
    precision = np.array([1, 2 / 4, 0])
    f1 = [0 if p + r == 0 else 2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert toy().score(truth, predicted) == pytest.approx(4 / 6)
    assert toy(metric="balanced accuracy").score(truth, predicted) == pytest.approx(recall.mean())
    assert toy(metric="macro-f1").score(truth, predicted) == pytest.approx(np.mean(f1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros(5, dtype=int)}, "60 rows but 5 labels"),
        ({"y": np.ones(60, dtype=int)}, r"hold only one \(class 1\)"),
        ({"x": np.full((60, 2), np.nan)}, r"60 rows hold NaN or infinity \(the first is row 0\)"),
        ({"metric": "auc"}, "unknown metric 'auc'; choose"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, message):
    with pytest.raises(FewerError, match=message) as caught:
        toy().with_(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": 60}, "test=60 of 60 rows leaves nothing"),
        ({"test": 0}, "leaves nothing"),
        ({"test": 1.0}, "leaves nothing"),
        ({"rows": 49}, "rows=49 but only 48 are left"),
    ],
)
def test_an_impossible_split_is_refused_in_one_line(changes, message):
    with pytest.raises(FewerError, match=message):
        toy().with_(**changes).split(0)


def test_an_origin_stands_for_the_rows_in_the_fingerprint():
    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    task = Classification("toy", x, y, ("a", "b"), test=5, origin="svd of 1234")
    assert task.fingerprint() == task.with_(x=x + 1e-12).fingerprint()
    assert task.fingerprint() != task.with_(origin="svd of 1235").fingerprint()
    assert task.fingerprint() != task.with_(origin=None).fingerprint()
    assert task.fingerprint() != task.with_(y=1 - y).fingerprint()


@pytest.mark.parametrize(
    "changes", [{"rows": 0}, {"rows": -5}, {"rows": True}, {"rows": 2.5}, {"test": "a"}, {"test": True}]
)
def test_numbers_that_make_no_sense_are_refused(changes):
    x, y = np.zeros((20, 2)), np.arange(20) % 2
    with pytest.raises(FewerError, match=r"give how many rows|give a number of rows"):
        Classification("toy", x, y, ("a", "b"), **changes)
