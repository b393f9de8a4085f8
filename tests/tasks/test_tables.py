from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.tasks import tables
from fewer.tasks.tables import Columns, encode, numbers, one_hot, rows_of, weak_labels


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2, 3, 4], "b": [0.5, 1.5, 2.5, 3.5], "t": ["x", "y", "x", "y"], **columns})


def task(data: pd.DataFrame | None = None, **columns):
    return Columns(**{"target": "t", **columns}).task(frame() if data is None else data, "mine", "accuracy", 0.5)


class TestEncode:
    @pytest.mark.parametrize(
        ("labels", "y", "classes"),
        [
            (["b", "a", "b", "a"], [1, 0, 1, 0], ("a", "b")),
            ([10, 9, 10, 9], [1, 0, 1, 0], ("9", "10")),
            ([2.0, -1.0, 2.0, -1.0], [1, 0, 1, 0], ("-1", "2")),
            ([True, False, True, False], [1, 0, 1, 0], ("False", "True")),
            (np.array([True, "x", True, "x"], dtype=object), [0, 1, 0, 1], ("True", "x")),
            (["0", "00", "0", "00"], [0, 1, 0, 1], ("0", "00")),
        ],
    )
    def test_classes_are_sorted_by_size_or_letter(self, labels, y, classes):
        found, names = encode(np.asarray(labels), "mine", "y")
        assert (found.tolist(), names) == (y, classes)

    @given(st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=8))
    def test_the_names_give_the_labels_back(self, labels):
        labels = labels * 2  # no class alone, and not too many
        y, classes = encode(np.array(labels, dtype=object), "mine", "y")
        assert [classes[each] for each in y] == labels
        assert list(classes) == sorted(set(labels))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([], "there are no rows"),
            (["a", None, "b", "a", " ", "b"], r"2 of 6 rows have no label in y \(data rows 2, 5\).*fewer select"),
            ([1.0, np.nan, 2.0], r"1 of 3 rows have no label in y \(data row 2\)"),
            ([1.0, 2.5, 1.0, 2.5], "y holds measurements such as 2.5; classification needs classes"),
            ([1.0, np.inf, 1.0], "y holds measurements such as inf"),
            (list(range(10)), "y holds 10 different values in 10 rows; classification needs classes that come back"),
            ([1, 1, 1, 1, 2], r"class '2' has one row only \(data row 5\)"),
        ],
    )
    def test_what_is_refused(self, labels, message):
        with pytest.raises(FewerError, match=f"^mine: .*{message}") as caught:
            encode(np.array(labels, dtype=object if None in labels else None), "mine", "y")
        assert "\n" not in str(caught.value)


class TestNumbers:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([1, 2], [1, 2]),
            (["1", " 2.5"], [1, 2.5]),
            ([True, False], [1, 0]),
            ([decimal.Decimal("1.5"), decimal.Decimal(2)], [1.5, 2]),
            (pd.array([1, 2], dtype="Int64"), [1, 2]),
        ],
    )
    def test_numbers_of_all_kinds(self, values, expected):
        found = numbers(pd.Series(values, name="a"), "mine", None)
        assert found.dtype == np.float32
        assert found.tolist() == expected

    @given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)), min_size=1).filter(any))
    def test_gaps_are_filled_with_the_median(self, values):
        column = pd.Series([np.nan if value is None else value for value in values], name="a", dtype=float)
        found = numbers(column, "mine", "median")
        known = np.array([value for value in values if value is not None])
        expected = [np.median(known) if value is None else value for value in values]
        assert np.allclose(found, np.array(expected), rtol=1e-6)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                [1, "2", "x" * 50],
                r"column 'a' holds 'x{40}…' in data row 3, which is no number; list it in categorical=",
            ),
            ([1.0, np.nan, np.nan], r"column 'a' has no value in data rows 2, 3; fill them, give impute='median'"),
            (pd.array([1, None], dtype="Int64"), "column 'a' has no value in data row 2"),
            ([np.nan, np.nan], r"column 'a' is empty; drop=\['a'\]"),
            ([1.0, -np.inf], "column 'a' is infinite or too large in data row 2"),
            ([1.0, 1e39], "column 'a' is infinite or too large in data row 2"),
            ([datetime.datetime(2020, 1, 1)] * 2, "column 'a' holds datetime64.* which is no number"),
            ([[1, 2], [3]], "column 'a' holds"),
        ],
    )
    def test_what_is_refused(self, values, message):
        with pytest.raises(FewerError, match=message) as caught:
            numbers(pd.Series(values, name="a"), "mine", None)
        assert "\n" not in str(caught.value)


class TestOneHot:
    @given(st.lists(st.sampled_from(["b", "a", None, "c"]), min_size=1))
    def test_each_row_has_its_one(self, values):
        found = one_hot(pd.Series(values, name="a", dtype=object), "mine")
        names = [*sorted({value for value in values if value is not None}), *([None] if None in values else [])]
        assert found.shape == (len(values), len(names))
        assert [names[at] for at in found.argmax(axis=1)] == values
        assert (found.sum(axis=1) == 1).all()

    def test_too_many_values(self):
        assert one_hot(pd.Series(np.arange(50), name="a"), "mine").shape == (50, 50)
        with pytest.raises(FewerError, match=r"column 'a' has 51 different values, more than the 50 .*drop=\['a'\]"):
            one_hot(pd.Series(np.arange(51), name="a"), "mine")


class TestWeakLabels:
    def test_names(self):
        found = weak_labels(pd.Series(["b", "c", "a"], name="w"), ("a", "b", "c"), "mine")
        assert found.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]

    def test_numbers_that_are_class_names(self):
        assert weak_labels(pd.Series([2.0, 1.0], name="w"), ("1", "2"), "mine").tolist() == [[0, 1], [1, 0]]

    def test_probabilities_of_the_second_class(self):
        found = weak_labels(pd.Series(["0.25", "1"], name="w"), ("no", "yes"), "mine")
        assert found.tolist() == [[0.75, 0.25], [0, 1]]

    @pytest.mark.parametrize(
        ("values", "classes", "message"),
        [
            ([0.5, None], ("no", "yes"), "column 'w' has no weak label in data row 2"),
            (
                [0.5, 1.5],
                ("no", "yes"),
                r"holds '1.5' in data row 2; .*no, yes\), or probabilities of 'yes' in \[0, 1\]",
            ),
            ([0.5, "x"], ("no", "yes"), "holds 'x' in data row 2"),
            (["a", "z"], ("a", "b", "c"), r"holds 'z' in data row 2; weak labels are class names \(a, b, c\)$"),
        ],
    )
    def test_what_is_refused(self, values, classes, message):
        with pytest.raises(FewerError, match=message):
            weak_labels(pd.Series(values, name="w"), classes, "mine")


def test_rows_are_counted_from_one_and_not_all_named():
    assert rows_of(np.array([True])) == "data row 1"
    assert rows_of(np.ones(9, dtype=bool)) == "data rows 1, 2, 3, 4, 5, … (9 in all)"


class TestColumns:
    def test_all_other_columns_are_features_in_their_order(self):
        made = task()
        assert made.x.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5], [4, 3.5]]
        assert made.y.tolist() == [0, 1, 0, 1]
        assert made.standardise

    def test_features_and_drop_choose(self):
        assert task(features="b").x.tolist() == [[0.5], [1.5], [2.5], [3.5]]
        assert task(features=["b", "a"]).x[0].tolist() == [0.5, 1]
        assert task(drop=("a",)).x.tolist() == task(features="b").x.tolist()

    def test_categories_named_or_typed(self):
        data = frame(c=["u", "v", "u", "w"])
        assert task(data, categorical="c").x[:, 2:].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
        assert np.array_equal(task(data.astype({"c": "category"})).x, task(data, categorical=["c"]).x)
        assert task(categorical="a", features="a").x.tolist() == np.eye(4).tolist()

    def test_columns_of_words_are_categories_without_being_named(self):
        data = frame(c=["u", None, " ", "w"])  # a gap is a value of its own, and so is a cell of spaces
        assert task(data).x[:, 2:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
        for kind in ("object", "str", "category"):
            assert np.array_equal(
                task(frame(c=["u", "v", "u", "w"]).astype({"c": kind})).x, task(frame(c=list("uvuw"))).x
            )
        with pytest.raises(
            FewerError, match="column 'c' holds 'u' in data row 1, which is no number; list it in categ"
        ):
            task(frame(c=["u", "2", "3", "4"]))
        assert task(frame(c=["u", "2", "3", "4"]), categorical="c").x.shape == (4, 6)
        many = pd.DataFrame({"id": [f"c{row}" for row in range(60)], "t": ["x", "y"] * 30})
        with pytest.raises(FewerError, match=r"column 'id' has 60 different values, more than the 50 .*drop=\['id'\]"):
            task(many)

    def test_a_cell_of_spaces_is_a_gap_among_numbers(self):
        data = frame(c=["1", "  ", "5", "4"])
        with pytest.raises(FewerError, match="column 'c' has no value in data row 2; fill them, give impute='median'"):
            task(data)
        assert task(data, impute="median").x[:, 2].tolist() == [1, 4, 5, 4]

    def test_weak_labels_are_no_feature(self):
        made = task(frame(w=[0.1, 0.9, 0.2, 0.8]), weak="w")
        assert made.x.shape == (4, 2)
        assert made.weak is not None
        assert made.weak[1].tolist() == pytest.approx([0.1, 0.9])

    def test_text(self, monkeypatch):
        words = ["good film", "bad film", "good heart", "bad heart"]
        data = frame(words=words)
        raw = task(data, text="words", embed=None)
        assert raw.x.tolist() == words
        assert raw.x.dtype == object
        assert not raw.standardise
        assert task(data, text="words").x.shape == (4, 3)
        monkeypatch.setattr(tables, "minilm", lambda texts, what: np.array([[len(text)] for text in texts], np.float32))
        assert task(data, text="words", embed="minilm").x[:, 0].tolist() == [len(each) for each in words]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"target": "tt"}, "no column 'tt'; (known: a, b, t|did you mean t)"),
            ({"features": ["a", "bb"]}, "no column 'bb'; did you mean b"),
            ({"drop": "z"}, "no column 'z'"),
            ({"categorical": "z"}, "no column 'z'"),
            ({"weak": "z"}, "no column 'z'"),
            ({"text": "z"}, "no column 'z'"),
            ({"drop": ["a", "b"]}, "no column is left to learn from"),
            ({"features": ["a", "t"]}, "'t' is the target and cannot be learned from"),
            ({"weak": "t"}, "'t' is the target"),
            ({"text": "b", "features": "a"}, "text='b' is all that is learned from"),
            ({"impute": "mean"}, "unknown impute 'mean'; choose 'median'"),
            ({"embed": "bert"}, "unknown embed 'bert'; choose 'tfidf', 'minilm' or None"),
        ],
    )
    def test_bad_columns(self, columns, message):
        with pytest.raises(FewerError, match=f"^mine: {message}") as caught:
            task(**columns)
        assert "\n" not in str(caught.value)

    def test_one_long_name_hints_at_the_separator(self):
        with pytest.raises(FewerError, match=r"no column 't'; known: a;b;t; is it another separator=\?"):
            task(pd.DataFrame({"a;b;t": ["1;2;x"]}))

    def test_nameless_columns_must_be_dropped(self):
        data = frame(**{"Unnamed: 0": [0, 1, 2, 3]})
        with pytest.raises(FewerError, match=r"a column has no name, .*drop=\['Unnamed: 0'\]"):
            task(data)
        assert task(data, drop="Unnamed: 0").x.shape == (4, 2)

    def test_missing_texts(self):
        with pytest.raises(FewerError, match="column 'words' has no text in data rows 2, 4"):
            task(frame(words=["a", " ", "b", None]), text="words")

    def test_one_class_and_gaps(self):
        with pytest.raises(FewerError, match=r"hold only one \(x\)"):
            task(frame(t="x"))
        with pytest.raises(FewerError, match="column 'a' has no value in data row 1"):
            task(frame(a=[np.nan, 1, 2, 3]))
        assert task(frame(a=[np.nan, 1, 2, 3]), impute="median").x[0, 0] == 2
