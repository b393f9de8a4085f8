"""How columns become numbers: scales against scikit-learn, categories against pandas, gaps and constants."""

from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewer.core.errors import FewerError
from fewer.nets.tabular_columns import Columns, as_frame, categorical_columns


@pytest.mark.parametrize(
    ("column", "categorical"),
    [
        ([1, 2], False),
        ([1.5, 2.0], False),
        (pd.array([1, None], dtype="Int64"), False),
        (["a", "b"], True),
        ([True, False], True),
        (pd.Categorical([1, 2]), True),
        (pd.Series([1, 2.5], dtype=object), False),
        (pd.Series([decimal.Decimal(1), decimal.Decimal(2)], dtype=object), False),
        (pd.Series([1, "a"], dtype=object), True),
        (pd.Series([True, None], dtype=object), True),
        (pd.to_datetime(["2020", "2021"]), False),
    ],
)
def test_types_tell_categories_from_numbers(column, categorical):
    assert categorical_columns(pd.DataFrame({"x": column}), "from_dtype", "toy") == [0] * categorical


def test_columns_are_named_by_name_place_or_truth():
    frame = pd.DataFrame({"a": [1], "b": [2], "c": [3]})
    for given_columns in (["c", "a"], [2, 0], [True, False, True], np.array([0, 2]), ["a", 2]):
        assert categorical_columns(frame, given_columns, "toy") == [0, 2]
    assert categorical_columns(frame, None, "toy") == categorical_columns(frame, [], "toy") == []
    with pytest.raises(FewerError, match="toy: no column 3 to be categorical; known: a, b, c"):
        categorical_columns(frame, [3], "toy")


def test_quantiles_make_any_column_normal():
    x = pd.DataFrame(np.random.default_rng(0).lognormal(0, 3, (3000, 1)))
    found = Columns([], "quantile", "toy").fit(x, seed=0).transform(x)[:, 0]
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(np.quantile(found, shares), stats.norm.ppf(shares), atol=0.06)
    order = np.argsort(x[0])
    assert (np.diff(found[order]) >= 0).all()


def test_a_value_that_many_rows_share_lies_in_the_midst_of_its_share():
    x = pd.DataFrame({"x": np.r_[np.zeros(600), np.arange(1.0, 401)]})
    found = Columns([], "quantile", "toy").fit(x, seed=0).transform(x)[:, 0]
    assert np.unique(found[:600]).size == 1
    assert stats.norm.cdf(found[0]) == pytest.approx(0.3, abs=0.03)
    assert stats.norm.cdf(found[800]) == pytest.approx(0.8, abs=0.01)


def test_standard_scaling_is_by_the_rows_fitted_to():
    rng = np.random.default_rng(0)
    train, test = (pd.DataFrame(rng.normal(5, 3, (n, 2))) for n in (40, 7))
    columns = Columns([], "standard", "toy").fit(train, seed=0)
    expected = (test - train.mean()) / train.std(ddof=0)
    np.testing.assert_allclose(columns.transform(test), expected, rtol=1e-4, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=12))
def test_categories_are_those_of_pandas_and_a_gap_is_one_of_them(values):
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    if len(set(values)) == 1:
        with pytest.raises(FewerError, match="every column is constant"):
            Columns([0], "standard", "toy").fit(frame, 0)
        return
    columns = Columns([0], "standard", "toy").fit(frame, 0)
    found = columns.transform(frame)
    expected = pd.get_dummies(frame["x"].fillna("gap"))
    assert columns.category_sizes == [expected.shape[1]]
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, expected.to_numpy(np.float32).T))
    assert (found.sum(axis=1) == 1).all()


def test_what_was_never_seen_is_zeros_and_so_is_a_gap_where_there_was_none():
    columns = Columns([0], "standard", "toy").fit(pd.DataFrame({"x": ["a", "b"]}), 0)
    assert columns.transform(pd.DataFrame({"x": ["c", None, "b"]})).tolist() == [[0, 0], [0, 0], [0, 1]]


def test_numbers_as_categories_are_found_whatever_their_type():
    columns = Columns([0], "standard", "toy").fit(pd.DataFrame({"x": [3, 7]}), 0)
    for values in ([7], [7.0], pd.Categorical([7]), pd.Series([7], dtype=object)):
        assert columns.transform(pd.DataFrame({"x": values})).tolist() == [[0, 1]]


def test_a_column_of_row_names_is_refused():
    with pytest.raises(FewerError, match="toy: column 'id' has 1001 different values, more than the 1000 that can be"):
        Columns([0], "standard", "toy").fit(pd.DataFrame({"id": [f"row {i}" for i in range(1001)]}), 0)


def test_constant_columns_are_left_out():
    frame = pd.DataFrame({"a": [1.0, 1.0], "b": ["x", "x"], "c": [1.0, 2.0], "d": ["x", "y"]})
    columns = Columns([1, 3], "standard", "toy").fit(frame, 0)
    assert (columns.numeric_width, columns.category_sizes) == (1, [2])
    assert columns.transform(frame).tolist() == [[-1, 1, 0], [1, 0, 1]]


def test_polars_frames_become_pandas_and_others_stay():
    polars = pytest.importorskip("polars")
    frame = as_frame(polars.DataFrame({"a": [1, None], "b": ["x", "y"]}).lazy())
    assert frame.columns.tolist() == ["a", "b"]
    assert frame["a"].isna().tolist() == [False, True]
    array = np.zeros((2, 2))
    assert as_frame(array) is array
