from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewer.claim import Evidence, judge
from fewer.core.errors import FewerError
from fewer.labels import linear_first, nested_selection
from fewer.labels.learners import Constant, FittedEstimator
from fewer.labels.linear_first import LinearFirst, SimpleLinear
from fewer.labels.loop import PSEUDO, WEAK, ActiveLearning, Examples, Round
from fewer.labels.nested_selection import (
    Candidate,
    corrected_standard_error,
    default_candidates,
    feasible_folds,
    search,
)
from fewer.tasks.classification import Classification

LINEAR = Candidate("linear", LogisticRegression(max_iter=500), {"C": [0.1, 1]}, complexity=0)
TREE = Candidate("tree", DecisionTreeClassifier(), {"max_depth": [2, 4]}, complexity=1, scale=False)
SVM = Candidate("svm", SVC(), {"C": [1]}, complexity=2)
FEW = [LINEAR, TREE]
PLAIN = [replace(LINEAR, grid={}), replace(TREE, grid={"max_depth": [2]})]


@pytest.fixture(autouse=True)
def quick_timing(monkeypatch):
    monkeypatch.setattr(nested_selection, "REFITS", 1)


def two_classes(rows=60, width=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width))
    return x, (x[:, 0] + 0.5 * rng.normal(size=rows) > 0).astype(int)


@parametrize_with_checks(
    [LinearFirst(PLAIN, outer=2, inner=2)],
    expected_failed_checks=lambda estimator: {
        "check_fit2d_1feature": "it gives ten rows in three classes, one of them too rare for any outer fold to hold it twice",
    },
)
def test_it_is_an_ordinary_scikit_learn_classifier(estimator, check):
    check(estimator)


# --- what is measured ---------------------------------------------------------------------------


def test_the_fold_scores_are_those_of_scikit_learns_own_nested_cross_validation():
    x, y = two_classes()
    model = LinearFirst(FEW, outer=5, inner=3, random_state=7).fit(x, y)
    folds = StratifiedKFold(5, shuffle=True, random_state=7)
    for candidate in FEW:
        own = search(candidate, nested_selection.preparation(range(4), (), 4), 3, "accuracy", 7)
        np.testing.assert_array_equal(model.report_[candidate.name]["folds"], cross_val_score(own, x, y, cv=folds))


class Recorder(ClassifierMixin, BaseEstimator):
    """Notes the first column, which numbers the rows, of all it is fitted on and asked about."""

    log: list = []

    def __init__(self, label=0):
        self.label = label

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.log.append(("fit", frozenset(X[:, 0])))
        return self

    def predict(self, X):
        self.log.append(("predict", frozenset(X[:, 0])))
        return np.full(len(X), self.classes_[self.label])

    def predict_proba(self, X):
        return np.eye(len(self.classes_))[np.full(len(X), self.label)]


def test_the_inner_search_never_sees_the_rows_that_score():
    rows = 40
    x = np.stack([np.arange(rows), np.arange(rows) % 3], axis=1).astype(float)
    y = np.arange(rows) % 2
    Recorder.log.clear()
    LinearFirst([Candidate("recorder", Recorder(), {"label": [0, 1]}, 0, scale=False)], outer=4, inner=2).fit(x, y)
    parts = list(StratifiedKFold(4, shuffle=True, random_state=0).split(x, y))
    log = Recorder.log
    # per outer fold: two inner folds of two values, a refit, and two predictions of the rows that score
    size = 2 * 2 * 2 + 1 + 2
    for fold, (train, test) in enumerate(parts):
        calls = log[fold * size : (fold + 1) * size]
        assert [rows for _, rows in calls[-2:]] == [frozenset(test)] * 2
        seen = frozenset().union(*(rows for _, rows in calls[:-2]))
        assert seen == frozenset(train)


def test_imputation_and_scaling_are_fitted_inside_the_fold():
    x, y = two_classes(40)
    x[::7, 1] = np.nan
    candidate = Candidate("linear", LogisticRegression(), {"C": [1.0]}, 0)
    folds = LinearFirst([candidate], outer=4, inner=2).fit(x, y).report_["linear"]["folds"]
    for fold, (train, test) in enumerate(StratifiedKFold(4, shuffle=True, random_state=0).split(x, y)):
        median = np.nanmedian(x[train], axis=0)
        filled, held_out = (np.where(np.isnan(part), median, part) for part in (x[train], x[test]))
        mean, sd = filled.mean(axis=0), filled.std(axis=0)
        by_hand = LogisticRegression().fit((filled - mean) / sd, y[train])
        assert folds[fold] == by_hand.score((held_out - mean) / sd, y[test])


def test_the_report_describes_each_candidate():
    x, y = two_classes(80)
    model = LinearFirst([LINEAR, TREE, SVM], outer=4, inner=2).fit(x, np.array(["no", "yes"])[y])
    for name, line in model.report_.items():
        assert line["mean"] == pytest.approx(line["folds"].mean())
        assert line["sd"] == pytest.approx(line["folds"].std(ddof=1))
        assert line["seconds"] > 0
        # recalls, weighted by the classes' shares, are the accuracy over all rows
        share = {"no": np.mean(y == 0), "yes": np.mean(y == 1)}
        assert sum(line["recall"][label] * share[label] for label in share) == pytest.approx(line["mean"], abs=0.02), (
            name
        )
    assert model.report_["linear"]["size"] == 4
    assert model.report_["tree"]["size"] <= 2 ** model.report_["tree"]["parameters"]["max_depth"]
    assert 0 < model.report_["svm"]["size"] <= 80


def test_equal_seeds_give_equal_results_and_the_caller_keeps_the_global_stream():
    x, y = two_classes()
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    first, second = (LinearFirst(FEW, outer=3, inner=2, random_state=1).fit(x, y) for _ in range(2))
    assert np.random.rand() == expected
    np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))
    assert first.verdict_ == second.verdict_


# --- the rule -----------------------------------------------------------------------------------


def test_the_corrected_standard_error():
    differences = np.array([0.0, 0.1, 0.2, 0.3])
    # variance 1/60; a plain mean of independent folds would have a quarter of it
    expected = np.sqrt((1 / 4 + 1 / 3) / 60)
    assert corrected_standard_error(differences, test=25, train=75) == pytest.approx(expected)
    assert corrected_standard_error(np.full(5, 0.1), 1, 4) == pytest.approx(0, abs=1e-15)


def decide(rule="1se", **scores):
    model = LinearFirst(rule=rule, outer=len(next(iter(scores.values()))))
    candidates = [Candidate(name, LogisticRegression(), {}, rank) for rank, name in enumerate(scores)]
    model._decide(candidates, {name: np.array(values) for name, values in scores.items()}, 100)
    return model


def test_of_two_identical_candidates_the_simpler_is_chosen_in_whatever_order_they_come():
    x, y = two_classes()
    twins = [
        Candidate("later", LogisticRegression(), {"C": [1]}, 3),
        Candidate("simple", LogisticRegression(), {"C": [1]}, 1),
    ]
    assert LinearFirst(twins, outer=3, inner=2).fit(x, y).chosen_ == "simple"


@given(st.lists(st.floats(0, 0.9), min_size=3, max_size=10))
def test_ten_points_better_on_every_fold_is_chosen_whatever_its_rank(scores):
    simple = np.array(scores)
    assert decide(simple=simple, complex=simple + 0.1).chosen_ == "complex"


def test_a_lead_within_one_standard_error_does_not_count():
    simple, noise = np.full(5, 0.9), np.array([0.02, -0.01, 0.02, -0.01, 0.005])
    assert decide(simple=simple, complex=simple + noise).chosen_ == "simple"
    assert decide("best", simple=simple, complex=simple + noise).chosen_ == "complex"
    assert "complex leads by 0.0050" in decide(simple=simple, complex=simple + noise).verdict_


def test_the_simplest_of_all_that_are_kept_is_chosen_and_not_the_second_best():
    base = np.full(4, 0.8)
    jitter = np.array([0.02, -0.02, 0.02, -0.01])
    model = decide(simple=base, middle=base + jitter / 2, best=base + jitter)
    assert model.chosen_ == "simple"
    far = decide(simple=base - 0.2, middle=base, best=base + jitter)
    assert far.chosen_ == "middle"
    assert not far.report_["simple"]["kept"]


def test_a_more_complex_candidate_that_is_no_better_is_never_kept():
    model = decide(simple=[0.9, 0.9, 0.9], complex=[0.9, 0.9, 0.9])
    assert model.report_["complex"]["kept"] is False


def test_xor_is_not_linear():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(200, 2))
    model = LinearFirst([LINEAR, Candidate("svm", SVC(), {"C": [10]}, 2)], outer=5, inner=2)
    model.fit(x, (x[:, 0] > 0) ^ (x[:, 1] > 0))
    assert model.chosen_ == "svm"
    assert model.score(x, (x[:, 0] > 0) ^ (x[:, 1] > 0)) > 0.9


@pytest.mark.slow
def test_the_linear_model_is_chosen_on_breast_cancer():
    x, y = load_breast_cancer(return_X_y=True)
    model = LinearFirst(outer=5, inner=3).fit(x, y)
    assert model.chosen_ == "linear"
    assert model.report_["linear"]["mean"] > 0.96


# --- the models ---------------------------------------------------------------------------------


def test_contributions_and_intercept_sum_to_the_logit_and_the_logit_is_standardised():
    x, y = two_classes(60)
    model = LinearFirst([LINEAR], outer=3, inner=2).fit(x, y)
    taken = model.explain(x)
    logit = model.best_estimator_.decision_function(x)
    np.testing.assert_allclose(taken.contributions.sum(axis=2)[:, 0] + taken.intercept[0], logit, atol=1e-10)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(z @ taken.coefficients[0] + taken.intercept[0], logit, atol=1e-10)
    np.testing.assert_allclose(np.log(taken.odds_ratios), taken.coefficients)
    chance = model.predict_proba(x)
    np.testing.assert_allclose(np.log(chance[:, 1] / chance[:, 0]), logit, atol=1e-8)


def test_several_classes_are_explained_one_output_each():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 2)) + 3 * np.stack([y == 1, y == 2], axis=1)
    model = LinearFirst([LINEAR], outer=3, inner=2).fit(x, y)
    taken = model.explain(x[:5])
    assert taken.contributions.shape == (5, 3, 2)
    np.testing.assert_allclose(
        taken.contributions.sum(axis=2) + taken.intercept, model.best_estimator_.decision_function(x[:5]), atol=1e-10
    )


def test_a_large_C_separates_what_can_be_separated_and_a_small_one_answers_the_majority():
    x, _ = two_classes(60)
    y = (x[:, 0] > 0.3).astype(int)
    x[:, 0] += 2 * y  # a margin
    strong, weak = (
        LinearFirst([Candidate("linear", LogisticRegression(max_iter=5000), {"C": [C]}, 0)], outer=3, inner=2).fit(x, y)
        for C in (1e6, 1e-9)
    )
    assert strong.score(x, y) == 1
    assert set(weak.predict(x)) == {int(y.mean() > 0.5)}


def test_a_choice_without_probabilities_is_calibrated():
    x, y = two_classes(60)
    model = LinearFirst([SVM], outer=3, inner=2).fit(x, y)
    chance = model.predict_proba(x)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    np.testing.assert_array_equal(chance.argmax(axis=1), model.predict(x))
    with pytest.raises(FewerError, match=r"only a linear model can be explained; svm is chosen"):
        model.explain(x)


def test_the_default_candidates_are_ranked_and_only_the_tree_is_not_scaled():
    assert [(each.name, each.complexity, each.scale) for each in default_candidates()] == [
        ("linear", 0, True),
        ("tree", 1, False),
        ("svm", 2, True),
    ]


# --- tables -------------------------------------------------------------------------------------


def table(rows=60):
    x, y = two_classes(rows)
    frame = pd.DataFrame(x, columns=["a", "b", "c", "d"])
    frame["city"] = pd.Categorical(np.where(y == 1, "Rome", "Oslo"), categories=["Oslo", "Rome", "Bonn"])
    return frame, y


def test_categories_are_encoded_and_numbers_imputed():
    frame, y = table()
    frame.loc[::9, "b"] = np.nan
    model = LinearFirst([LINEAR], outer=3, inner=2).fit(frame, y)
    taken = model.explain(frame)
    assert taken.features == ("a", "b", "c", "d", "city_Oslo", "city_Rome")
    assert model.score(frame, y) == 1  # the city gives it away
    unseen = frame.assign(city=pd.Categorical(["Bonn"] * len(frame), categories=["Oslo", "Rome", "Bonn"]))
    assert np.isfinite(model.predict_proba(unseen)).all()


def test_truth_values_and_nullable_integers_are_numbers():
    frame, y = table()
    frame = pd.DataFrame({"flag": frame["a"] > 0, "count": pd.array([1, None, 3] * 20, dtype="Int64")})
    assert LinearFirst([LINEAR], outer=3, inner=2).fit(frame, y).explain(frame).features == ("flag", "count")


def test_a_table_and_its_array_give_the_same():
    frame, y = table()
    frame = frame.drop(columns="city")
    one, other = (LinearFirst(FEW, outer=3, inner=2).fit(data, y) for data in (frame, frame.to_numpy()))
    np.testing.assert_array_equal(one.predict_proba(frame), other.predict_proba(frame.to_numpy()))


def test_constant_columns_are_left_out_with_a_warning():
    frame, y = table()
    frame["constant"], frame["empty"] = 3.0, np.nan
    with pytest.warns(UserWarning, match="constant columns are left out: constant, empty"):
        model = LinearFirst([LINEAR], outer=3, inner=2).fit(frame, y)
    assert not {"constant", "empty"} & set(model.explain(frame).features)
    without = LinearFirst([LINEAR], outer=3, inner=2).fit(frame.drop(columns=["constant", "empty"]), y)
    np.testing.assert_allclose(
        without.predict_proba(frame.drop(columns=["constant", "empty"])), model.predict_proba(frame)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y: (f, np.zeros(len(y))), "only one class, 0.0"),
        (
            lambda f, y: (f, np.where(np.arange(len(y)) < 4, 2, y)),
            "class 2 has 4 rows, too few for outer=10.*use outer=4, inner=3",
        ),
        (
            lambda f, y: (f, np.where(np.arange(len(y)) < 1, 2, y)),
            "class 2 has 1 rows.*leave that class out, or add rows",
        ),
        (lambda f, y: (f.assign(city="Rome"), y), "column 'city' holds .*, not numbers; make it a category"),
        (lambda f, y: (f.assign(a=np.inf), y), "column 'a' holds infinity"),
        (lambda f, y: (f[["a"]] * 0, y), "every column is constant"),
        (
            lambda f, y: (f, np.where(np.arange(len(y)) == 7, None, y.astype(object))),
            "1 rows have no label .the first is row 7",
        ),
    ],
)
def test_bad_tables_are_refused(change, message):
    frame, y = change(*table())
    with pytest.raises(FewerError, match=message):
        LinearFirst(FEW).fit(frame, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "2se"}, "unknown rule '2se'; choose '1se' or 'best'"),
        ({"outer": 1}, "two folds are the least; outer=1"),
        ({"inner": 1}, "inner=1 were given"),
        ({"candidates": "all"}, "candidates is 'all'; give 'default' or a list"),
        ({"candidates": []}, "need names that differ; given: none"),
        ({"candidates": [LINEAR, LINEAR]}, "need names that differ; given: linear, linear"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(FewerError, match=message):
        LinearFirst(**options).fit(*two_classes())


@given(st.integers(1, 100), st.integers(2, 12), st.integers(2, 8))
def test_feasible_folds_leave_the_class_in_every_part(members, outer, inner):
    folds = feasible_folds(members, outer, inner)
    if folds is None:
        taken = min(outer, members)
        assert taken < 2 or members - -(-members // taken) < 2
        return
    assert 2 <= folds[0] <= min(outer, members)
    fewest = members - -(-members // folds[0])  # in the training part of the fold that takes the most
    assert 2 <= folds[1] <= min(inner, fewest)
    assert folds[1] == min(inner, fewest)


# --- as a learner in the loop -------------------------------------------------------------------


def round_of(x, classes, seed=0):
    none = np.zeros(0, dtype=np.int64)
    return Round(0, classes, x, none, none, np.arange(len(x)), np.random.default_rng(0), seed)


def test_too_few_labels_give_the_plain_linear_model():
    x, y = two_classes(60)
    round = round_of(x, 2)
    rows = np.concatenate([np.flatnonzero(y == 1)[:8], np.flatnonzero(y == 0)[:2]])
    model = SimpleLinear().fit(Examples.hard(rows, y[rows], 2), round)
    z = (x - x[rows].mean(axis=0)) / x[rows].std(axis=0)
    by_hand = LogisticRegression(max_iter=5000).fit(z[rows], y[rows])
    np.testing.assert_allclose(model.predict_proba(x), by_hand.predict_proba(z), atol=1e-5)
    assert round.report == {"linear": 1.0}


def test_enough_labels_are_chosen_from_with_the_folds_they_allow(monkeypatch):
    asked = []

    class Spy(LinearFirst):
        def __init__(self, candidates, outer, inner, **more):
            asked.append((outer, inner))
            super().__init__(FEW, outer, inner, **more)

    monkeypatch.setattr(linear_first, "LinearFirst", Spy)
    x, _ = two_classes(200)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    rows = np.concatenate([np.flatnonzero(y == 1)[:60], np.flatnonzero(y == 0)[:6]])
    SimpleLinear().fit(Examples.hard(rows, y[rows], 2), round_of(x, 2))
    assert asked == [(6, 5)]


def test_one_class_is_no_choice():
    x, _ = two_classes(60)
    model = SimpleLinear().fit(Examples.hard(np.arange(20), np.ones(20, dtype=int), 2), round_of(x, 2))
    assert isinstance(model, Constant)


def test_weak_and_pseudo_labels_are_fitted_by_weight_but_do_not_choose(monkeypatch):
    x, y = two_classes(200)
    monkeypatch.setattr(linear_first, "LinearFirst", lambda *a, **more: LinearFirst([LINEAR], 3, 2))
    known = Examples.hard(np.arange(30), y[:30], 2)
    others = np.arange(30, 200)
    wrong = Examples(
        others, np.eye(2, dtype=np.float32)[1 - y[others]], np.full(170, 1e-6, np.float32), np.full(170, PSEUDO)
    )
    alone = SimpleLinear().fit(known, round_of(x, 2))
    light = SimpleLinear().fit(known.and_(wrong), round_of(x, 2))
    assert isinstance(light, FittedEstimator)
    heavy = SimpleLinear().fit(
        known.and_(Examples(wrong.rows, wrong.target, np.ones(170, np.float32), wrong.source)), round_of(x, 2)
    )
    truth = lambda model: np.mean(model.predict_proba(x).argmax(axis=1) == y)  # noqa: E731
    assert truth(alone) > 0.8
    # scaling sees the rows whatever they weigh, so the two are close and not equal
    assert abs(truth(light) - truth(alone)) < 0.1
    assert truth(heavy) < 0.4


def test_weak_labels_alone_can_be_learned_from():
    x, y = two_classes(100)
    soft = np.stack([1 - 0.8 * y - 0.1, 0.8 * y + 0.1], axis=1).astype(np.float32)
    weak = Examples(np.arange(100), soft, np.ones(100, np.float32), np.full(100, WEAK))
    model = SimpleLinear().fit(weak, round_of(x, 2))
    assert np.mean(model.predict_proba(x).argmax(axis=1) == y) > 0.8


def test_it_runs_in_the_loop(monkeypatch):
    monkeypatch.setattr(linear_first, "default_candidates", lambda: FEW)
    x, y = two_classes(200)
    task = Classification("toy", x, y, ("no", "yes"), test=50)
    points = list(
        ActiveLearning(learner=SimpleLinear(outer=3, inner=2), initial=20, per_round=20).run(task, 40, seed=0)
    )
    assert points[-1].score > 0.7
    assert {"linear"} <= set(points[-1].extras)


def test_the_claims_speak_of_what_is_measured(monkeypatch):
    monkeypatch.setattr(linear_first, "default_candidates", lambda: [LINEAR, TREE, SVM])
    for claim in linear_first.claim:
        assert claim.measure is not None
        measured = claim.measure(0, True)
        assert len(judge(claim, Evidence(measures=[measured, measured]))) == len(claim.holds)


def test_cloning_keeps_the_candidates():
    twin = clone(LinearFirst(FEW, outer=3))
    assert [each.name for each in twin.candidates] == ["linear", "tree"]
    assert twin.outer == 3


def test_a_candidate_may_be_anything_that_classifies():
    x, y = two_classes()
    dummy = Candidate("majority", DummyClassifier(), {}, 0)
    model = LinearFirst([dummy, Candidate("linear", LogisticRegression(), {}, 1)], outer=3, inner=2).fit(x, y)
    assert model.chosen_ == "linear"
    assert model.report_["majority"]["size"] is None
