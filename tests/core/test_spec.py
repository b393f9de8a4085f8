from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.core.spec import Call, canonical, parse, parse_one

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(st.from_regex(r"arg_[a-z]{1,4}", fullmatch=True), LITERALS, max_size=3)
CALLS = st.builds(Call, NAMES, st.lists(LITERALS, max_size=2).map(tuple), ARGUMENTS)


@given(st.lists(CALLS, min_size=1, max_size=3))
def test_what_is_written_is_read_back(calls):
    text = " + ".join(map(str, calls))
    assert list(parse(text)) == calls
    assert canonical(canonical(text)) == canonical(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        calls = parse(text)
    except FewerError as error:
        assert "\n" not in str(error).replace(repr(text), "")  # noqa: PT017 (any other error may pass through)
    else:
        assert calls


def test_spellings_of_the_same_spec_are_equal():
    assert canonical("K_Centre( metric = 'cosine' )+hast") == canonical("k-centre(metric='cosine') + hast")
    assert canonical("f(b=1, a=2)") == "f(a=2, b=1)"


def test_plus_inside_brackets_and_quotes_does_not_separate():
    (call,) = parse("csv('a+b.csv', drop=['x+y', '('])")
    assert call.positional == ("a+b.csv",)
    assert call.named["drop"] == ["x+y", "("]


def test_a_room_may_be_named():
    assert parse_one("data.random").name == "data.random"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty spec"),
        ("   ", "empty spec"),
        ("a + ", "cannot read ''"),
        ("+ a", "cannot read ''"),
        ("a + + b", "cannot read ''"),
        ("a(", "not closed"),
        ("a(x='b)", "not closed|cannot read"),
        ("a(1)(2)", "cannot read"),
        ("a b", "cannot read 'a b'"),
        ("a(x=b)", r"argument x is b, which is not a literal; .*quote a text: 'b'"),
        ("a(x=__import__('os').system('true'))", "not a literal"),
        ("a(x=[1, open('f')])", "not a literal"),
        ("a(*[1])", "not a literal"),
        ("a(**{'x': 1})", r"\*\* is not understood"),
        ("a(x=1, x=2)", "cannot read the arguments|given twice"),
        ("a - b", "cannot read"),
        ("a(x=" + "[" * 5000 + "]" * 5000 + ")", "cannot read|not a literal"),
    ],
)
def test_nonsense_is_one_clear_line(text, message):
    with pytest.raises(FewerError, match=message):
        parse(text)


def test_one_name_where_one_is_expected():
    with pytest.raises(FewerError, match="one name was expected here, not 2"):
        parse_one("a + b")
