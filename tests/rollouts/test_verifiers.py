"""Verifiers with names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.problems import Problem
from fewer.rollouts.verifiers import (
    NAMED,
    asked_of,
    boxed,
    contains,
    countdown,
    exact,
    last_line,
    last_number,
    verifier,
)


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("The sum is 12.", "12", 1.0),
        ("12 + 3 = 15", "12", 0.0),
        ("it is -4", "-4", 1.0),
        ("it is 4", "-4", 0.0),
        ("1,234", "1234", 1.0),
        ("12.50", "12.5", 1.0),
        ("12.05", "12.5", 0.0),
        ("", "12", 0.0),
        ("no number", "0", 0.0),
    ],
)
def test_the_last_number_counts(completion, answer, right):
    assert last_number("", completion, {"answer": answer}) == right


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_numbers_are_compared_as_numbers(said, answer):
    assert last_number("", f"so 3 and then {said}", {"answer": str(answer)}) == float(said == answer)


def test_a_word_is_not_found_within_another():
    assert contains("", "caterpillar", {"answer": "cat"}) == 0
    assert contains("", "a cat, that is", {"answer": "cat"}) == 1
    assert contains("", "C++ it is", {"answer": "C++"}) == 1


def test_lines_and_boxes():
    assert exact("", "12 3", {"answer": "123"}) == 0
    assert last_line("", "first\n 1  2 ", {"answer": "1 2"}) == 1
    assert last_line("", "1 2\nlater", {"answer": "1 2"}) == 0
    assert last_line("", "\n \n", {"answer": ""}) == 0
    assert boxed("", r"\boxed{1} and \boxed{2}", {"answer": "2"}) == 1
    assert boxed("", "2", {"answer": "2"}) == 0


ROW = {"numbers": [2, 3, 7], "target": 23}


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("2 + 3 * 7", 1.0),
        ("steps\n3*7+2 = 23", 1.0),
        ("23", 0.0),
        ("3 * 7 + 3 - 1", 0.0),
        ("7 * 3 + 2 + 0", 0.0),
        ("7 / 0", 0.0),
        ("__import__('os').getcwd()", 0.0),
        ("2 ** 9", 0.0),
        ("(2 + 3", 0.0),
        ("True + 22", 0.0),
        ("", 0.0),
        ("(" * 5000 + "2" + ")" * 5000, 0.0),
    ],
)
def test_countdown_terms(completion, right):
    assert countdown("", completion, ROW) == right


def test_division_is_exact():
    assert countdown("", "7 / 3 * 3", {"numbers": [7, 3, 3], "target": 7}) == 1


def test_verifiers_are_found_by_name_and_asked_with_the_problem():
    problem = Problem("2 + 2?", "4", {"hint": "even"})
    asked = []

    def own(prompt, completion, row):
        asked.append((prompt, completion, row))
        return 0.5

    assert asked_of(own, "four", problem) == 0.5
    assert asked == [("2 + 2?", "four", {"answer": "4", "hint": "even"})]
    assert verifier(own) is own
    assert all(verifier(name) is each for name, each in NAMED.items())
    with pytest.raises(FewerError, match="there is no verifier 'last-numbr'; did you mean last-number"):
        verifier("last-numbr")
