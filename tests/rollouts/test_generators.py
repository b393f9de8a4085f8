"""Problems made from a seed, solved here in another way."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from fewer.rollouts.generators import NAMED, draw
from fewer.rollouts.verifiers import NAMED as VERIFIERS
from fewer.rollouts.verifiers import asked_of

LEVELS = (1, 2, 3)


def solved(name: str, prompt: str) -> str:
    """An answer found from the prompt's text alone."""
    numbers = [int(each) for each in re.findall(r"\d+", prompt)]
    if name == "arithmetic":
        return f"I think {sum(numbers)}"
    if name == "sorting":
        return " ".join(map(str, sorted(numbers)))
    if name == "letters":
        letter, word = re.search(r"letter (\w) occur in (\w+)\?", prompt).groups()
        return str(sum(each == letter for each in word))
    if name == "edits":
        if found := re.search(r"Reverse the word (\w+)", prompt):
            return "".join(reversed(found[1]))
        if found := re.search(r"Take each (\w) out of the word (\w+)", prompt):
            return "".join(each for each in found[2] if each != found[1])
        new, old, word = re.search(r"Put (\w) in place of each (\w) in the word (\w+)", prompt).groups()
        return "".join(new if each == old else each for each in word)
    target, *given = numbers
    for order in itertools.permutations(given):
        for signs in itertools.product("+-*", repeat=len(order) - 1):
            term = str(order[0])
            for sign, number in zip(signs, order[1:], strict=True):
                term = f"({term} {sign} {number})"
            if eval(term) == target:
                return term
    raise AssertionError(f"no term solves {prompt!r}")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("level", LEVELS)
def test_right_answers_are_right_and_others_wrong(name, level):
    kind = NAMED[name]
    problems = draw(kind, np.random.default_rng(level), 30, level)
    assert len({problem.prompt for problem in problems}) == len(problems) == 30
    judge = VERIFIERS[kind.verifier]
    for problem in problems:
        answer = solved(name, problem.prompt)
        assert asked_of(judge, answer, problem) == 1, (problem, answer)
        if answer:
            assert asked_of(judge, answer + "9", problem) == 0
        assert asked_of(judge, "I do not know", problem) == 0


@pytest.mark.parametrize("name", NAMED)
def test_they_come_from_the_seed_and_levels_are_harder(name):
    kind = NAMED[name]
    one, same, other = (draw(kind, np.random.default_rng(seed), 10, 1) for seed in (0, 0, 1))
    assert one == same != other
    lengths = [
        np.mean([len(each.prompt) for each in draw(kind, np.random.default_rng(0), 20, level)]) for level in LEVELS
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_where_there_are_few_prompts_all_of_them_come_once():
    found = draw(NAMED["edits"], np.random.default_rng(0), 10**4, 1)
    assert 1000 < len(found) == len({each.prompt for each in found})
