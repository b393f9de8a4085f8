"""Verifiers with names: how a completion is compared with what is right."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from fewer.core.errors import FewerError, nearest
from fewer.rollouts.problems import Problem

Verifier = Callable[[str, str, Any], float]
"""``verify(prompt, completion, row) -> reward``, where a row holds the problem's columns, ``answer`` among them."""

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?![\d.]*\d)")


def exact(prompt: str, completion: str, row: Any) -> float:
    r"""The completion is the answer, but for spaces around it.

    Examples
    --------
    >>> exact("", " 12\n", {"answer": "12"}), exact("", "it is 12", {"answer": "12"})
    (1.0, 0.0)
    """
    return float(completion.strip() == str(row["answer"]).strip())


def contains(prompt: str, completion: str, row: Any) -> float:
    """The answer stands somewhere in the completion, not as a part of a longer word or number.

    Examples
    --------
    >>> contains("", "it is 12.", {"answer": "12"}), contains("", "it is 123", {"answer": "12"})
    (1.0, 0.0)
    """
    answer = re.escape(str(row["answer"]).strip())
    return float(re.search(rf"(?<!\w){answer}(?!\w)", completion) is not None)


def last_number(prompt: str, completion: str, row: Any) -> float:
    """The last number of the completion is the answer.

    Examples
    --------
    >>> last_number("", "3 + 4 = 7, so it is 1,207.0", {"answer": "1207"}), last_number("", "none", {"answer": "7"})
    (1.0, 0.0)
    """
    said = _NUMBER.findall(completion)
    return float(bool(said) and Fraction(said[-1].replace(",", "")) == Fraction(str(row["answer"]).replace(",", "")))


def boxed(prompt: str, completion: str, row: Any) -> float:
    r"""What stands in the last ``\boxed{...}`` is the answer.

    Examples
    --------
    >>> boxed("", r"so \boxed{ 12 }.", {"answer": "12"})
    1.0
    """
    said = re.findall(r"\\boxed\{([^{}]*)\}", completion)
    return float(bool(said) and said[-1].strip() == str(row["answer"]).strip())


def last_line(prompt: str, completion: str, row: Any) -> float:
    r"""The last line that is not empty is the answer, but for spaces and a full stop.

    Examples
    --------
    >>> last_line("", "sorted:\n1 2 3.\n", {"answer": "1 2 3"})
    1.0
    """
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    return float(bool(lines) and " ".join(lines[-1].rstrip(".").split()) == " ".join(str(row["answer"]).split()))


def countdown(prompt: str, completion: str, row: Any) -> float:
    """The last line is a term over the given numbers, each used at most once, whose value is the target.

    The row holds ``numbers`` and ``target``.

    Examples
    --------
    >>> row = {"numbers": [3, 5, 2], "target": 16}
    >>> countdown("", "(3 + 5) * 2", row), countdown("", "(3 + 5) * 2 = 16", row), countdown("", "8 * 2", row)
    (1.0, 1.0, 0.0)
    """
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    if not lines:
        return 0.0
    term = lines[-1].split("=")[0].strip()
    try:
        used: list[int] = []
        value = _value(ast.parse(term, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return 0.0
    return float(value == row["target"] and not Counter(used) - Counter(row["numbers"]))


_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.AST, used: list[int]) -> Fraction:
    """Value of a term of whole numbers; nothing but the four operations is understood."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError(f"not a term: {ast.dump(node)[:60]}")


NAMED: dict[str, Verifier] = {
    "exact": exact,
    "contains": contains,
    "last-number": last_number,
    "boxed": boxed,
    "last-line": last_line,
    "countdown": countdown,
}
"""All of them."""


def verifier(name: str | Verifier) -> Verifier:
    """Find a verifier by its name; a function is one already.

    Raises
    ------
    FewerError
        If there is none of that name.
    """
    if not isinstance(name, str):
        return name
    if name not in NAMED:
        raise FewerError(f"there is no verifier {name!r}; {nearest(name, NAMED)}")
    return NAMED[name]


def asked_of(verify: Verifier, completion: str, problem: Problem) -> float:
    """Ask a verifier about a problem."""
    return verify(problem.prompt, completion, {"answer": problem.answer, **problem.row})
