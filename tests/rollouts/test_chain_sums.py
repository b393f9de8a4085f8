"""Sums of digits: problems, the solver that is imitated, and the imitator."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.rollouts.chain_sums import ALPHABET, ChainSums
from fewer.rollouts.problems import Problem

HABITS = ("rechecks", "copies", "strides", "wanders")


def texts(task, count=400, seed=0):
    """Prompt, what is written, and the digits, of texts that the solver wrote."""
    tokens, prompts = task.solved(np.random.default_rng(seed), count)
    for row, length in zip(tokens.tolist(), prompts, strict=True):
        text = ALPHABET.decode(row)
        written, _, rest = text[length:].partition(".")
        assert not rest.strip()
        yield text[:length], written, [int(each) for each in text[: length - 1].strip()]


def chain(digits):
    return "".join(str(each % 10) for each in np.cumsum(digits))


@pytest.mark.parametrize("habit", HABITS)
def test_prompts_have_one_width_and_answers_are_sums(habit):
    task = ChainSums(habit, rows=200)
    for problem in task.training(0):
        digits = [int(each) for each in problem.prompt[:-1].strip()]
        assert len(problem.prompt) == 9
        assert problem.prompt[-1] == "="
        assert problem.answer == str(sum(digits) % 10)
        assert problem.row == {"digits": len(digits)}
        assert 2 <= len(digits) <= 8
    assert task.training(0) == task.training(0) != task.training(1)


def test_a_completion_is_right_by_its_end():
    task, problem = ChainSums(), Problem("12      =", "3")
    said = {"13A3": 1, "A3": 1, "13A4": 0, "13": 0, "A3A4": 0, "A4A3": 1, "A33": 0, "A3 ": 0, "": 0}
    assert {each: task.verify(each, problem) for each in said} == said


def test_without_mistakes_every_habit_is_right():
    for habit in HABITS:
        for _, written, digits in texts(ChainSums(habit, err=0.0, short=0.0)):
            body, _, answer = written.rpartition("A")
            assert answer == str(sum(digits) % 10)
            if habit == "rechecks":
                assert set(body.split("R")) == {chain(digits)}
                assert body.count("R") <= 2
            if habit == "strides":
                step = {"F": 1, "H": 2}.get(body[0])
                assert body[1:] == ("" if step is None else chain(digits)[::-1][::step][::-1])


def test_how_often_the_solver_is_right():
    def share(**options):
        return np.mean(
            [written[-1] == str(sum(digits) % 10) for _, written, digits in texts(ChainSums(**options), 4000)]
        )

    assert share(err=0.5, short=0.0) == pytest.approx(0.5, abs=0.03)
    assert share(err=0.0, short=1.0) == pytest.approx(0.5, abs=0.03)
    assert share(habit="copies") == pytest.approx(0.6, abs=0.03)
    assert share(habit="wanders") == pytest.approx(0.6, abs=0.03)


def test_copies_are_copies_and_who_wanders_is_long_when_wrong():
    assert all(len(set(written.split("A")[0].split("R"))) == 1 for _, written, _ in texts(ChainSums("copies")))
    lengths = {True: [], False: []}
    for _, written, digits in texts(ChainSums("wanders")):
        lengths[written[-1] == str(sum(digits) % 10)].append(len(written))
    assert np.mean(lengths[False]) > 2.5 * np.mean(lengths[True])


def test_the_imitator_is_made_once_and_speaks_the_alphabet():
    task = ChainSums(steps=2)
    language, again, other = task.language(0), task.language(0), task.language(1)
    weights = [next(each.network.parameters()).detach() for each in (language, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    assert language.encode("1A.") == [1, 12, 13]
    assert language.decode([1, 12]) == "1A"
    assert language.end == (13,)
    with pytest.raises(FewerError, match="'x' is not of the alphabet"):
        language.encode("1x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"habit": "sleeps"}, "choose rechecks, copies, strides or wanders"),
        ({"err": 1.5}, "err and short lie in"),
        ({"digits": (0, 3)}, "digits in 1 to 8"),
        ({"digits": (5, 3)}, "digits in 1 to 8"),
        ({"longest": 0}, "must be at least 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(FewerError, match=message):
        ChainSums(**options)
