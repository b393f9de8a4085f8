"""Problems made from a seed, each kind with the verifier that judges it exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fewer.rollouts.problems import Problem


@dataclass(frozen=True)
class Generator:
    """A kind of problem.

    Parameters
    ----------
    make : callable
        ``make(rng, level) -> Problem``; higher levels are harder, 1 is the easiest.
    verifier : str
        Name of what judges it.
    says : str
        What is asked.
    """

    make: Callable[[np.random.Generator, int], Problem]
    verifier: str
    says: str


def arithmetic(rng: np.random.Generator, level: int) -> Problem:
    """A sum of ``level + 1`` numbers of one or two digits.

    Examples
    --------
    >>> problem = arithmetic(np.random.default_rng(0), level=2)
    >>> problem.prompt, problem.answer
    ('Compute 17 + 13 + 10. Reply with only the number.', '40')
    """
    numbers = rng.integers(1, 20, level + 1).tolist()
    return Problem(f"Compute {' + '.join(map(str, numbers))}. Reply with only the number.", str(sum(numbers)))


def countdown(rng: np.random.Generator, level: int) -> Problem:
    """A target that ``level + 1`` given numbers reach by the four operations."""
    numbers = rng.integers(1, 10, level + 1).tolist()
    while True:
        value, order = 0, rng.permutation(numbers).tolist()
        value = order[0]
        for number in order[1:]:
            value = (value + number, value - number, value * number)[rng.integers(3)]
        if 0 < value < 100:
            break
    said = ", ".join(map(str, numbers))
    prompt = (
        f"Reach {value} from the numbers {said} with +, -, * and /, each number at most once. Answer with the term."
    )
    return Problem(prompt, row={"numbers": numbers, "target": value})


def letters(rng: np.random.Generator, level: int) -> Problem:
    """How often a letter occurs in a word of ``4 + 2 * level`` letters."""
    some = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5, replace=False)
    word = "".join(rng.choice(some, 4 + 2 * level))
    letter = str(rng.choice(some))
    prompt = f"How many times does the letter {letter} occur in {word}? Answer with the number."
    return Problem(prompt, str(word.count(letter)))


def sorting(rng: np.random.Generator, level: int) -> Problem:
    """Numbers, ``level + 2`` of them, to be put in order."""
    numbers = rng.choice(100, level + 2, replace=False)
    said = " ".join(map(str, numbers))
    return Problem(
        f"Sort from smallest to largest: {said}. Answer with the numbers.", " ".join(map(str, sorted(numbers)))
    )


def edits(rng: np.random.Generator, level: int) -> Problem:
    """A change to a word of ``2 + 2 * level`` letters: to reverse it, to take a letter away, or to put another in its place."""
    word = "".join(rng.choice(list("abcdefgh"), 2 + 2 * level))
    old, new = rng.choice(sorted(set(word))), rng.choice(list("wxyz"))
    kind = rng.integers(3)
    prompt, answer = (
        (f"Reverse the word {word}.", word[::-1]),
        (f"Take each {old} out of the word {word}.", word.replace(old, "")),
        (f"Put {new} in place of each {old} in the word {word}.", word.replace(old, new)),
    )[kind]
    return Problem(f"{prompt} Answer with the new word.", answer)


NAMED: dict[str, Generator] = {
    "arithmetic": Generator(arithmetic, "last-number", "sums of small numbers"),
    "countdown": Generator(countdown, "countdown", "a term over given numbers that has a given value"),
    "letters": Generator(letters, "last-number", "how often a letter occurs in a word"),
    "sorting": Generator(sorting, "last-line", "numbers to be put in order"),
    "edits": Generator(edits, "last-line", "a word to be changed"),
}
"""All of them."""


def draw(kind: Generator, rng: np.random.Generator, count: int, level: int) -> list[Problem]:
    """Problems with different prompts, as long as there are enough of them."""
    found: dict[str, Problem] = {}
    for _ in range(20 * count):
        problem = kind.make(rng, level)
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    return list(found.values())
