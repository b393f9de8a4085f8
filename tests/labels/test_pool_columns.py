"""Which column is for what, and what values mean."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.labels.pool_columns import Columns, choose_columns, class_name, first_word, label_codes, numbers
from fewer.labels.pool_tables import TableFile


def table(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    return TableFile.open(tmp_path / "t.parquet")


def csv(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return TableFile.open(tmp_path / "t.csv")


def choose(table, features=None, probabilities=None, label="label"):
    return choose_columns(table, features, probabilities, label)


class TestChoice:
    def test_numbers_are_features_and_identifiers_are_not(self, tmp_path):
        names = ["", "id", "ID", "user_id", "row", "rank", "Unnamed: 0", "__index_level_0__", "width", "identity"]
        found = choose(table(tmp_path, **{name: [1, 2] for name in names}, name=["a", "b"], on=[True, False]))
        assert found.features == ("width", "identity")
        assert found.others == (*names[:-2], "name", "on")

    def test_lists_of_numbers_are_features(self, tmp_path):
        found = choose(table(tmp_path, e=[[1.0, 2.0]], words=[["a"]], d=[Decimal("1.5")]))
        assert found.features == ("e", "d")

    def test_distributions_are_probabilities(self, tmp_path):
        found = choose(table(tmp_path, p_cat=[0.5, 0.1], p_dog=[0.5, 0.9], age=[1, 2]))
        assert (found.features, found.probabilities) == (("age",), ("p_cat", "p_dog"))

    def test_what_only_looks_like_probabilities_is_a_feature(self, tmp_path):
        found = choose(table(tmp_path, p_age=[50, 30], p_pay=[1.0, 2.0]))
        assert (found.features, found.probabilities) == (("p_age", "p_pay"), ())
        found = choose(table(tmp_path, p_one=[1.0, 1.0]))
        assert (found.features, found.probabilities) == (("p_one",), ())

    def test_patterns_take_numbers_only_and_names_are_exact(self, tmp_path):
        some = table(tmp_path, **{"f_a": [1], "f_b": ["x"], "f_c": [2], "x[0]": [3], "id": [4], "label": [5]})
        assert choose(some, features="f_*").features == ("f_a", "f_c")
        assert choose(some, features=" x[0], f_c ").features == ("x[0]", "f_c")
        assert choose(some, features="*").features == ("f_a", "f_c", "x[0]", "id")

    def test_named_features_are_no_probabilities(self, tmp_path):
        some = table(tmp_path, p_a=[0.5], p_b=[0.5], z=[1.0])
        assert choose(some, features="p_*").probabilities == ()
        assert choose(some, features="z").probabilities == ("p_a", "p_b")
        both = choose(some, features="*", probabilities="p_*")
        assert (both.features, both.probabilities) == (("z",), ("p_a", "p_b"))

    def test_the_label_is_no_feature(self, tmp_path):
        found = choose(table(tmp_path, y=[1, 2], x=[1, 2]), label="y")
        assert (found.features, found.label, found.others) == (("x",), "y", ())
        assert choose(table(tmp_path, y=[1, 2], x=[1, 2])).label is None

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"features": "f_q"}, "no column of numbers 'f_q'; did you mean f_a?"),
            ({"features": "name"}, "column 'name' cannot be used as numbers"),
            ({"probabilities": "q_*"}, r"no column of numbers 'q_\*'"),
        ],
    )
    def test_what_is_not_there_is_named(self, given, says, tmp_path):
        with pytest.raises(FewerError, match=says):
            choose(table(tmp_path, f_a=[1], name=["a"]), **given)

    def test_no_numbers_at_all(self, tmp_path):
        with pytest.raises(FewerError, match=r"no column of numbers to choose by \(its columns: id, name\)"):
            choose(table(tmp_path, id=[1], name=["a"]))

    @pytest.mark.parametrize("some", [lambda p: table(p, a=pa.array([], pa.int64())), lambda p: csv(p, "a,b\n")])
    def test_no_rows(self, some, tmp_path):
        with pytest.raises(FewerError, match="has no rows"):
            choose(some(tmp_path))


class TestWordsAmongNumbers:
    def test_a_column_of_numbers_with_a_word_does_not_vanish(self, tmp_path):
        some = csv(tmp_path, "x,age\n1,31\n2,old\n3,\n4,45\n")
        with pytest.raises(
            FewerError, match=r"column 'age' holds 'old' in row 1 \(the first is 0\), which is no number"
        ):
            choose(some)
        assert choose(some, features="x").others == ("age",)
        with pytest.raises(FewerError, match="column 'age' holds 'old' in row 1"):
            choose(some, features="x,age")

    def test_texts_with_a_number_here_and_there_are_texts(self, tmp_path):
        assert choose(csv(tmp_path, "x,name\n1,31\n2,old\n3,b\n")).others == ("name",)
        assert choose(csv(tmp_path, "x,name\n1,NA\n2,old\n3,NA\n")).others == ("name",)

    def test_the_types_of_a_parquet_file_are_meant(self, tmp_path):
        assert choose(table(tmp_path, x=[1, 2], zip=["123", "x"])).others == ("zip",)

    def test_gaps_are_no_words(self, tmp_path):
        some = csv(tmp_path, "x,y\n1,NA\n, 2.5e-3\n-3,+.5\n")
        assert first_word(some, ["x", "y"]) is None
        assert choose(some).features == ("x", "y")

    def test_a_space_is_a_word(self, tmp_path):
        with pytest.raises(FewerError, match="column 'x' holds ' ' in row 1"):
            choose(csv(tmp_path, "x,y\n1,1\n ,1\n3,1\n"))


class TestClasses:
    @pytest.mark.parametrize(
        ("columns", "classes"),
        [
            (("p_cat", "p_big_dog"), ("cat", "big_dog")),
            (("prob_0", "prob_1"), ("0", "1")),
            (("cat", "dog"), ("cat", "dog")),
            (("p_cat", "q_dog"), ("p_cat", "q_dog")),
            (("p_", "p_dog"), ("p_", "p_dog")),
            ((), ()),
        ],
    )
    def test_names(self, columns, classes):
        assert Columns((), columns, None, ()).classes == classes

    def test_many_columns_are_summed_up(self):
        names = tuple(f"f{i}" for i in range(50))
        assert str(Columns(names, (), None, ("",))) == (
            "features f0, f1, f2, … f49 (50 columns); left out (a column without a name)"
        )


class TestNumbers:
    @pytest.mark.parametrize(
        "values",
        [
            pa.array([1, None, 2**40]),
            pa.array([1.5, None, 3], pa.float32()),
            pa.array([1, 2], pa.uint8()),
            pa.array([Decimal("1.25"), None]),
            pa.array([2**63], pa.uint64()),
        ],
    )
    def test_one_column(self, values):
        expected = [[math.nan if value is None else float(value)] for value in values.to_pylist()]
        assert numbers(values, "x").dtype == np.float32
        np.testing.assert_array_equal(numbers(values, "x"), np.array(expected, dtype=np.float32))

    @pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.int32(), 2), pa.large_list(pa.float32())])
    def test_lists(self, kind):
        values = pa.array([[1, 2], [3, 4], [5, 6]], kind)
        assert numbers(values.slice(1), "x").tolist() == [[3, 4], [5, 6]]

    @pytest.mark.parametrize("values", [[[1, 2], [3]], [[1], None], [None], [[], []]])
    def test_lists_that_make_no_table(self, values):
        with pytest.raises(FewerError, match="column 'x' holds lists of different lengths, or none"):
            numbers(pa.array(values, pa.list_(pa.int64())), "x")

    @pytest.mark.filterwarnings("error")
    def test_too_large_is_infinite(self):
        assert numbers(pa.array([1e300]), "x").tolist() == [[math.inf]]


class TestLabels:
    @given(st.lists(st.sampled_from(["cat", " cat", "dog ", "", " ", "nan", "NA", "3", "3.0", "-1.00", "2.5", None])))
    def test_codes_against_plain_python(self, labels):
        names: dict[str, int] = {}
        plain = [class_name(label) for label in labels]
        codes = label_codes(pa.array(labels, pa.string()), names)
        assert [list(names)[code] if code >= 0 else "" for code in codes] == plain
        assert sorted(names) == sorted({label for label in plain if label})

    @pytest.mark.parametrize(
        "same",
        [
            pa.array([3, None, 4]),
            pa.array([3.0, math.nan, 4.0]),
            pa.array(["3.0", "", "4"]),
            pa.array(["3", None, " 4 "]).dictionary_encode(),
            pa.chunked_array([["3", None], ["4"]]).combine_chunks(),
        ],
    )
    def test_a_class_is_the_same_however_it_is_kept(self, same):
        names: dict[str, int] = {}
        assert (label_codes(same, names).tolist(), names) == ([0, -1, 1], {"3": 0, "4": 1})

    def test_none_is_a_word(self):
        assert class_name("None") == "None"
