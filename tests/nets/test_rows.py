"""Learning from rows: nested subsets, their sizes, two classes from the start, resumption, races by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fewer import compose
from fewer.core.errors import FewerError
from fewer.nets.rows import Either, LearnFromRows, growing, two_classes_early
from fewer.nets.tabm import TabMLearner
from fewer.race import race
from fewer.race.engine import LocalEngine
from fewer.tasks.classification import Classification
from fewer.tasks.diabetes import diabetes
from fewer.tasks.digits import breast_cancer, digits
from fewer.tasks.friedman import friedman

TINY = TabMLearner(k=2, width=8, blocks=1, max_epochs=3)


class Recorder(DummyClassifier):
    """Notes the rows it is fitted to."""

    log: list = []

    def fit(self, X, y, sample_weight=None):
        self.log.append(X[:, 0].tolist())
        return super().fit(X, y, sample_weight)


def numbered(rows=100, classes=2):
    return Classification(
        "numbered", np.arange(float(rows))[:, None], np.arange(rows) % classes, ("a", "b", "c")[:classes]
    )


# --- which rows -------------------------------------------------------------------------------------------------------


def test_subsets_are_nested_and_depend_on_the_seed_alone():
    runs = []
    for estimator, seed in ((Recorder(), 0), (Recorder(strategy="prior"), 0), (Recorder(), 1)):
        Recorder.log = []
        LearnFromRows(estimator, first=5, points=4).learn(numbered(), 50, seed)
        runs.append(Recorder.log)
    for before, after in itertools.pairwise(runs[0]):
        assert after[: len(before)] == before
    assert [len(each) for each in runs[0]] == [5, 11, 23, 50]
    assert len(set(runs[0][-1])) == 50
    assert set(runs[0][-1]) <= set(numbered().split(0).x[:, 0])
    assert runs[0] == runs[1] != runs[2]


@given(st.integers(2, 100), st.integers(0, 3000), st.integers(1, 12))
def test_sizes_grow_by_the_same_factor(first, more, points):
    sizes = growing(first, first + more, points)
    assert sizes[-1] == first + more
    assert sizes[0] == (first if points > 1 else first + more)
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= points
    factor = (sizes[-1] / first) ** (1 / max(points - 1, 1))
    for each in sizes:
        nearest = first * factor ** round(np.log(each / first) / np.log(factor)) if factor > 1 else each
        assert abs(each - nearest) <= 0.5 + 1e-6


@given(st.lists(st.integers(0, 2), min_size=2, max_size=30), st.integers(2, 10), st.randoms())
def test_two_classes_come_early_with_as_little_change_as_there_can_be(labels, first, random):
    y = np.array(labels)
    order = np.array(random.sample(range(len(y)), len(y)))
    found = two_classes_early(order, y, first)
    assert sorted(found) == sorted(order)
    if len(set(labels)) > 1:
        assert len(set(y[found[:first]])) > 1
    assert (found != order).sum() in (0, 2)
    if len(set(y[order[:first]])) > 1:
        assert np.array_equal(found, order)


def test_a_rare_class_is_there_at_the_first_point():
    y = np.zeros(500, dtype=int)
    y[:6] = 1
    task = Classification("rare", np.random.default_rng(0).normal(size=(500, 2)), y, ("no", "yes"))
    for seed in range(5):
        assert len(LearnFromRows(LogisticRegression(), first=2, points=3).learn(task, 100, seed).curve) == 3


# --- what is measured -------------------------------------------------------------------------------------------------


def test_a_point_is_the_test_score_of_a_fresh_fit():
    task = breast_cancer()
    curve = LearnFromRows(KNeighborsClassifier(3), first=20, points=3).learn(task, 300, 4).curve
    split = task.split(4)
    order = LearnFromRows().start(task, 300, 4).order
    for point in curve:
        rows = order[: point.spent]
        fitted = KNeighborsClassifier(3).fit(split.x[rows], split.y[rows])
        assert point.score == task.score(split.test_y, fitted.predict(split.test_x))


def test_numbers_are_learned_from_rows_too():
    task = friedman(rows=300, noise=0.0)
    learned = LearnFromRows(LinearRegression(), first=20, points=4).learn(task, 200, 0)
    assert learned.curve.final > 0.6 > learned.curve.points[0].score
    split = task.split(0)
    assert learned.curve.final == task.score(split.test_y, learned.result.predict(split.test_x))


def test_images_are_flattened_and_a_networks_size_is_told():
    point = LearnFromRows(TINY, first=30, points=1).learn(digits(), 60, 0).curve.points[-1]
    assert point.spent == 60
    assert point.extras["parameters"] > 0


def test_the_pool_ends_the_curve():
    learned = LearnFromRows(DecisionTreeClassifier(), first=10, points=3).learn(numbered(), 10_000, 0)
    assert [point.spent for point in learned.curve] == [10, 28, 80]


def test_a_run_is_resumed_to_the_bit(tmp_path):
    loop, task = LearnFromRows(DecisionTreeRegressor(), first=10, points=4), diabetes()
    whole = [(point.spent, point.score) for point in loop.run(task, 200, 3)]
    part = loop.run(task, 200, 3, tmp_path / "run")
    next(part), next(part)
    part.close()
    again = [(point.spent, point.score) for point in loop.run(task, 200, 3, tmp_path / "run")]
    assert again == whole


def test_the_model_of_a_resumed_run_is_the_one_it_had():
    loop, task = LearnFromRows(TINY, first=40, points=2), breast_cancer()
    state = loop.start(task, 100, 0)
    loop.advance(state)
    state.points = 1
    fitted, state.model = loop.result(state), None
    x = state.split.test_x
    np.testing.assert_array_equal(loop.result(state).predict_proba(x), fitted.predict_proba(x))


def test_the_random_state_comes_from_the_seed_unless_it_is_set():
    task = breast_cancer()
    found = [
        LearnFromRows(estimator, points=1).learn(task, 50, seed).result.random_state
        for estimator, seed in (
            (DecisionTreeClassifier(), 0),
            (DecisionTreeClassifier(), 0),
            (DecisionTreeClassifier(), 1),
            (DecisionTreeClassifier(random_state=7), 1),
        )
    ]
    assert found[0] == found[1] != found[2]
    assert found[3] == 7


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nets.mlp", "nets.boosting", "nets.forest", "nets.logistic", "ridge", "tabm"])
def test_names_make_estimators_of_the_right_kind(name):
    loop = compose.loop(f"learn-from-rows(first=20, points=2) + {name}")
    kinds = {"nets.logistic": [breast_cancer()], "ridge": [diabetes()]}.get(name, [breast_cancer(), diabetes()])
    for task in kinds:
        loop.check(task, 40)


def test_a_table_of_the_users_own_is_raced_by_rows(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    # numbers, one of them missing, and a column of words with gaps
    lines = [
        f"{a:.3f},{b:.3f},{plan},{'yes' if a > b else 'no'}"
        for (a, b), plan in zip(x, ["x", "", "y"] * 40, strict=True)
    ]
    lines[5] = ",0.5,x,no"
    file = tmp_path / "churn.csv"
    file.write_text("\n".join(["a,b,plan,left", *lines]))
    entries = ["tabm(k=2, width=8, max_epochs=2)", "mlp(width=8, max_epochs=2)", "boosting", "logistic"]
    task = f"csv(path={str(file)!r}, target='left', impute='median')"
    with LocalEngine(workers=1) as engine:  # a second process would take longer to start than to help
        outcome = race(task, entries, 60, seeds=1, store=":memory:", engine=engine)
    assert outcome.unit == "rows"
    assert [run.entry for run in outcome.runs] == [
        "tabm(k=2, max_epochs=2, width=8)",
        "mlp(max_epochs=2, width=8)",
        "boosting",
        "logistic",
    ]
    for run in outcome.runs:
        assert (run.status, run.error) == ("done", None)
        assert [point.spent for point in run.curve][::7] == [32, 60]
    assert outcome.entries["boosting"] == "learn-from-rows + boosting"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: LearnFromRows(first=1), "first must be at least 2 and points at least 1; they are 1 and 8"),
        (lambda: LearnFromRows(points=0), "they are 32 and 0"),
        (
            lambda: LearnFromRows().check(breast_cancer(), 20),
            "a budget of 20 rows is below the first round, which takes 32",
        ),
        (
            lambda: LearnFromRows(first=90).check(numbered(), 100),
            "numbered: the pool has 80 rows and the first point takes 90",
        ),
        (lambda: LearnFromRows(LinearRegression()).check(digits(), 50), "LinearRegression is not for classification"),
        (lambda: LearnFromRows(LogisticRegression()).check(diabetes(), 50), "LogisticRegression is not for regression"),
        (lambda: compose.loop("nets.logistic").check(diabetes(), 50), "logistic has no regressor"),
        (lambda: compose.loop("ridge").check(digits(), 50), "ridge has no classifier"),
        (
            lambda: compose.loop("active-learning").check(diabetes(), 50),
            "on a Classification task; diabetes is a Regression",
        ),
        (lambda: Either().estimator("regression"), "this entry has no regressor and the task is one of regression"),
    ],
)
def test_what_cannot_run_is_one_clear_line(attempt, message):
    with pytest.raises(FewerError, match=message):
        attempt()


def test_a_task_of_another_kind_is_refused_with_both_kinds_named():
    other = compose.loop("language-modelling").accepts
    task = object.__new__(other)
    object.__setattr__(task, "name", "other")
    with pytest.raises(FewerError, match=f"runs on a Classification or Regression task; other is a {other.__name__}"):
        LearnFromRows().check(task, 50)


def test_texts_are_refused():
    texts = np.array(["one", "two"] * 20, dtype=object)
    task = Classification("texts", texts, np.arange(40) % 2, ("a", "b"))
    with pytest.raises(FewerError, match="the rows are texts"):
        LearnFromRows(first=4).learn(task, 8)
