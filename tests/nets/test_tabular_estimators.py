"""TabM's estimators: scikit-learn's own checks, tables of all kinds, stopping, pruning, errors."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.impute import SimpleImputer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewer.core.errors import Diverged, FewerError
from fewer.nets.tabular_estimators import TabMClassifier, TabMRegressor

QUICK = {"k": 2, "width": 16, "blocks": 2, "lr": 1e-2, "max_epochs": 25, "patience": 8, "random_state": 0}


@parametrize_with_checks([TabMClassifier(**QUICK), TabMRegressor(**QUICK)])
def test_they_are_ordinary_scikit_learn_estimators(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def churn() -> pd.DataFrame:
    """A table where the plan and the age together decide."""
    rng = np.random.default_rng(0)
    plan, age = rng.choice(["basic", "family", "pro"], 240), rng.uniform(18, 80, 240)
    return pd.DataFrame(
        {
            "age": age,
            "plan": plan,
            "member": rng.random(240) < 0.5,
            "country": 49,
            "left": np.where((plan == "basic") ^ (age > 50), "yes", "no"),
        }
    )


def fitted(table, target="left", **options):
    return TabMClassifier(**{**QUICK, **options}).fit(table.drop(columns=target), table[target])


# --- tables -----------------------------------------------------------------------------------------------------------


def test_columns_of_words_and_numbers_are_learned_from(churn):
    model = fitted(churn, max_epochs=100)
    assert model.score(churn.drop(columns="left"), churn["left"]) > 0.9
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.feature_names_in_.tolist() == ["age", "plan", "member", "country"]
    assert model.network_.columns == 1 + 3 + 2  # the country is the same for all


def test_frames_of_all_kinds_give_the_same(churn):
    polars = pytest.importorskip("polars")
    expected = fitted(churn).predict_proba(churn.drop(columns="left"))
    table = polars.from_pandas(churn)
    for x, y in (
        (table.drop("left"), table["left"]),
        (table.drop("left").with_columns(polars.col("plan").cast(polars.Categorical)), churn["left"].tolist()),
        (churn.drop(columns="left").astype({"plan": "category"}), churn["left"].to_numpy()),
        (churn.drop(columns="left").astype(object), churn["left"]),
    ):
        np.testing.assert_allclose(TabMClassifier(**QUICK).fit(x, y).predict_proba(x), expected, atol=1e-6)
    # fitted to one kind and asked with another
    np.testing.assert_allclose(fitted(churn).predict_proba(table.drop("left")), expected)
    np.testing.assert_allclose(fitted(churn).predict_proba(table.drop("left").lazy()), expected)


def test_arrays_may_hold_categories(churn):
    array = churn.drop(columns="left").to_numpy(dtype=object)
    by_place = TabMClassifier(**QUICK, categorical_features=[1, 2]).fit(array, churn["left"])
    by_truth = TabMClassifier(**QUICK, categorical_features=[False, True, True, False]).fit(array, churn["left"])
    by_name = fitted(churn, categorical_features=["plan", "member"])
    expected = by_name.predict_proba(churn.drop(columns="left"))
    np.testing.assert_allclose(by_place.predict_proba(array), expected, atol=1e-6)
    np.testing.assert_allclose(by_truth.predict_proba(array), expected, atol=1e-6)


def test_a_value_never_seen_is_none_of_those_that_were(churn):
    model = fitted(churn)
    x = churn.drop(columns="left").head(5)
    other = model.predict_proba(x.assign(plan="enterprise"))
    np.testing.assert_array_equal(other, model.predict_proba(x.assign(plan=None)))
    encoded = model._columns.transform(x.assign(plan="enterprise"))
    assert (encoded[:, 1:4] == 0).all()


def test_a_row_is_predicted_alike_whatever_stands_beside_it(churn):
    x = churn.drop(columns="left")
    model = fitted(churn)
    together = model.predict_proba(pd.concat([x] * 3))
    for row in (0, 63, 64, 239):
        np.testing.assert_array_equal(model.predict_proba(x.iloc[[row]])[0], together[row])


def test_many_rows_go_in_parts(churn, monkeypatch):
    x = churn.drop(columns="left")
    model = fitted(churn)
    whole, members = model.predict_proba(x), model.predict_members(x)
    monkeypatch.setattr("fewer.nets.tabular_estimators.PREDICTED", 64)
    np.testing.assert_array_equal(model.predict_proba(x), whole)
    np.testing.assert_array_equal(model.predict_members(x), members)


# --- predictions ------------------------------------------------------------------------------------------------------


def test_probabilities_are_averaged_and_not_logits():
    x, y = load_iris(return_X_y=True)
    model = TabMClassifier(**QUICK).fit(x, y)
    outputs = model.network_(torch.from_numpy(model._columns.transform(pd.DataFrame(x)))).double()
    probabilities = outputs.softmax(dim=-1).mean(dim=1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(x), probabilities, atol=1e-6)
    np.testing.assert_allclose(model.predict_members(x).mean(axis=0), model.predict_proba(x), atol=1e-12)
    assert model.predict_members(x).shape == (2, 150, 3)
    assert not np.allclose(probabilities, outputs.mean(dim=1).softmax(dim=-1).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e5, 0.0), (1.0, 1e7)])
def test_the_unit_of_a_target_does_not_matter(scale, shift):
    x, y = load_diabetes(return_X_y=True)
    plain, other = (TabMRegressor(**QUICK).fit(x, each) for each in (y, y * scale + shift))
    np.testing.assert_allclose((other.predict(x) - shift) / scale, plain.predict(x), rtol=1e-2)
    assert plain.predict_members(x).shape == (2, 442)
    np.testing.assert_allclose(plain.predict_members(x).mean(axis=0), plain.predict(x))
    assert -plain.history_[plain.best_epoch_ - 1] == pytest.approx(
        -other.history_[other.best_epoch_ - 1] / scale, rel=1e-2
    )


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "mini"},
        {"variant": "packed"},
        {"variant": "mlp"},
        {"embedding": "piecewise-linear", "bins": 6, "embedding_width": 4},
        {"share_batches": False},
        {"gradient_clip": 1.0},
        {"numeric": "standard"},
        {"batch_size": 50},
    ],
    ids=str,
)
def test_every_variant_learns(options):
    x, y = load_iris(return_X_y=True)
    assert TabMClassifier(**{**QUICK, **options}).fit(x, y).score(x, y) > 0.9


def test_a_column_with_words_only_needs_no_number(churn):
    model = fitted(churn[["plan", "left"]], embedding="piecewise-linear")
    assert model.network_.embedding is None
    assert model.predict(churn[["plan"]]).shape == (240,)


# --- training ---------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_models_and_the_callers_streams_go_on():
    x, y = load_iris(return_X_y=True)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    first, second = (TabMClassifier(**QUICK).fit(x, y).predict_proba(x) for _ in range(2))
    assert (torch.rand(1), np.random.rand()) == expected
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, TabMClassifier(**{**QUICK, "random_state": 1}).fit(x, y).predict_proba(x))
    assert not np.array_equal(
        *(TabMClassifier(**{**QUICK, "random_state": None}).fit(x, y).predict_proba(x) for _ in "ab")
    )


def test_training_stops_by_the_ensemble_and_keeps_the_best_network():
    x, y = load_diabetes(return_X_y=True)
    model = TabMRegressor(**{**QUICK, "lr": 3e-2, "max_epochs": 60}).fit(x[:300], y[:300], eval_set=(x[300:], y[300:]))
    assert len(model.history_) == model.best_epoch_ + 8 < 60
    assert model.best_epoch_ == np.argmax(model.history_) + 1
    error = np.sqrt(np.mean((model.predict(x[300:]) - y[300:]) ** 2))
    assert error == pytest.approx(-max(model.history_), rel=1e-4)


def test_equal_accuracies_are_told_apart_by_the_log_loss():
    model = TabMClassifier()
    right = torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]]])
    surer, target = right * 2, torch.tensor([0, 1])
    (score, tie), (other, better) = model._validate(right, target), model._validate(surer, target)
    assert score == other == 1
    assert better > tie


def test_a_network_that_explodes_is_reported():
    x, y = load_diabetes(return_X_y=True)
    with pytest.raises(Diverged, match=r"TabMRegressor: the validation loss became .* lower lr"):
        TabMRegressor(**{**QUICK, "lr": 1e12, "numeric": "standard"}).fit(x, y)


@pytest.mark.parametrize("y", [[0, 1], ["a", "b", "b"], [0, 1, 2, 3], [0, 0, 0, 1]])
def test_few_rows_are_enough(y):
    x = np.arange(2.0 * len(y)).reshape(len(y), 2)
    model = TabMClassifier(**QUICK).fit(x, y)
    assert set(model.predict(x)) <= set(y)
    assert TabMRegressor(**QUICK).fit(x, np.arange(float(len(y)))).predict(x).shape == (len(y),)


def test_progress_is_shown_on_request(capsys):
    x, y = load_iris(return_X_y=True)
    TabMClassifier(**QUICK).fit(x, y)
    assert capsys.readouterr() == ("", "")
    TabMClassifier(**QUICK, verbose=True).fit(x, y)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "TabMClassifier: validation" in shown.err


def test_the_module_is_pickled_without_its_device():
    x, y = load_iris(return_X_y=True)
    model = TabMClassifier(**QUICK).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_pruning_takes_the_members_that_help_most_one_after_another():
    x, y = load_diabetes(return_X_y=True)
    model = TabMRegressor(**{**QUICK, "k": 6}).fit(x[:300], y[:300])
    members, full, parameters = model.predict_members(x[300:]), model.network_, model.parameters_
    chosen: list[int] = []
    for _ in range(3):
        losses = {
            each: np.mean((members[[*chosen, each]].mean(axis=0) - y[300:]) ** 2)
            for each in set(range(6)) - set(chosen)
        }
        chosen.append(min(losses, key=losses.get))
    kept = clone(model).set_params(k=6).fit(x[:300], y[:300]).prune(x[300:], y[300:], keep=3)
    assert kept.network_.k <= 3
    np.testing.assert_allclose(kept.predict_members(x[300:]), members[chosen[: kept.network_.k]], rtol=1e-5)
    assert kept.parameters_ < parameters
    model.prune(x[300:], y[300:])
    assert model.network_.k <= full.k
    assert np.mean((model.predict(x[300:]) - y[300:]) ** 2) <= np.mean((members.mean(axis=0) - y[300:]) ** 2) + 1e-6


def test_pruning_a_classifier_does_not_raise_its_log_loss():
    x, y = load_iris(return_X_y=True)
    model = TabMClassifier(**{**QUICK, "k": 6, "max_epochs": 5}).fit(x[::2], y[::2])
    before = -np.log(model.predict_proba(x[1::2])[np.arange(75), y[1::2]]).mean()
    best_alone = min(-np.log(each[np.arange(75), y[1::2]]).mean() for each in model.predict_members(x[1::2]))
    after = -np.log(model.prune(x[1::2], y[1::2]).predict_proba(x[1::2])[np.arange(75), y[1::2]]).mean()
    assert after <= min(before, best_alone) + 1e-6


# --- company ----------------------------------------------------------------------------------------------------------


def test_gaps_are_filled_by_an_imputer_in_front():
    x, y = load_iris(return_X_y=True)
    x[::7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        TabMClassifier(**QUICK).fit(x, y)
    assert cross_val_score(make_pipeline(SimpleImputer(), TabMClassifier(**QUICK)), x, y, cv=2).mean() > 0.8


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"embedding": "periodic"}, "unknown embedding 'periodic'; give 'piecewise-linear' or None"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; give a share"),
        ({"batch_size": 0}, "batch_size is 0; give a number of rows or 'auto'"),
        ({"batch_size": "all"}, "batch_size is 'all'"),
        ({"max_epochs": 0}, "max_epochs and patience must be at least 1"),
        ({"patience": 0}, "max_epochs and patience must be at least 1"),
        ({"lr": 0.0}, "lr above 0"),
        ({"weight_decay": -1.0}, "weight_decay not below 0"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0; give a norm above 0, or None"),
        ({"numeric": "rank"}, "unknown numeric='rank'; choose 'quantile' or 'standard'"),
        ({"variant": "maxi"}, "unknown variant 'maxi'"),
        ({"k": 2.5}, "k, blocks, width and outputs must be whole numbers of at least 1 .* given 2.5, 2, 16"),
        ({"embedding": "piecewise-linear", "bins": 1}, "1 bins were asked for; give 2 or more"),
        ({"device": "abacus"}, "device 'abacus' cannot be used .*; leave device= out"),
        ({"categorical_features": "all"}, "categorical_features='all'; give 'from_dtype', None, or a list"),
        ({"categorical_features": ["plam"]}, "no column 'plam' to be categorical; did you mean plan"),
        ({"categorical_features": [True]}, "says yes or no to 1 columns and there are 4"),
        ({"categorical_features": None}, "column 'plan' holds what is no number .* list it in categorical_features"),
    ],
)
def test_settings_that_make_no_sense_are_refused(churn, bad, message):
    with pytest.raises(FewerError, match=message) as caught:
        fitted(churn, **bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": "no"}, "there is only one class, 'no'; a classifier needs two"),
        ({"age": np.nan}, r"column 'age' holds NaN or infinity in 240 rows \(the first is row 0\); fill them, as with"),
        ({"age": np.inf}, "column 'age' holds NaN or infinity"),
        ({"age": pd.Timestamp("2020-01-01")}, "column 'age' holds times, which are no numbers"),
        ({"age": 1.0, "plan": "a", "member": True}, "every column is constant, so there is nothing to learn from"),
    ],
)
def test_tables_that_cannot_be_learned_from_are_refused(churn, change, message):
    with pytest.raises(FewerError, match=message) as caught:
        fitted(churn.assign(**change))
    assert "\n" not in str(caught.value)


def test_rows_and_targets_that_do_not_fit_are_refused(churn):
    x, y = churn.drop(columns="left"), churn["left"]
    model = fitted(churn)
    for attempt, message in [
        (lambda: TabMClassifier().fit(x, y[:-1]), "240 rows but 239 targets; give one target a row"),
        (lambda: TabMClassifier().fit(x[:1], y[:1]), "1 rows were given and two are the least"),
        (lambda: TabMClassifier().fit(x, y.where(y.index > 2)), r"3 targets are missing \(the first is row 0\)"),
        (lambda: TabMClassifier().fit(x.set_axis(["a", "a", "b", "c"], axis=1), y), "two columns have the same name"),
        (
            lambda: TabMClassifier().fit(x, y, eval_set=(x, y.replace("no", "never"))),
            "'never' is no class of the training",
        ),
        (lambda: TabMRegressor().fit(x, np.zeros(240)), "the target is 0 in every row, so there is nothing to learn"),
        (lambda: TabMRegressor().fit(x, np.full(240, np.inf)), "the target holds NaN or infinity"),
        (lambda: TabMRegressor().fit(x, y), "the target holds what is no number .*; for classes take TabMClassifier"),
        (lambda: model.predict(x[:0]), "no rows were given"),
        (lambda: TabMClassifier().fit(x, y, eval_set=x), r"eval_set is DataFrame; give rows and targets, \(X, y\)"),
        (lambda: TabMClassifier().fit(x, y, eval_set=(x, y[:9])), "240 rows but 9 targets"),
        (lambda: TabMClassifier().fit(x, y, eval_set=(x[:0], y[:0])), "no rows were given"),
        (
            lambda: TabMRegressor().fit(x, x["age"], eval_set=(x[:2], [1.0, np.nan])),
            r"1 targets are missing .* row 1\)",
        ),
        (lambda: model.prune(x, y[:9]), "240 rows but 9 targets"),
        (lambda: model.prune(x, y, keep=0), "keep is 0; give 1 member or more, or None"),
        (lambda: model.prune(x, y.replace("no", "never")), "'never' is no class of the training"),
    ]:
        with pytest.raises(FewerError, match=message):
            attempt()
    if not torch.cuda.is_available():
        with pytest.raises(FewerError, match="device 'cuda' cannot be used"):
            fitted(churn, device="cuda")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(x.rename(columns={"age": "years"}))
