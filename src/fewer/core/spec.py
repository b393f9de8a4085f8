"""The little language in which races are written: ``"hast(beta=0.1) + pcoreset"``.

A spec is one or more calls joined by ``+``.  A name may contain hyphens, and dots where a room is
named (``data.random``); an underscore is read as a hyphen.  Arguments are Python literals only:
nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fewer.core.errors import FewerError

_NAME = re.compile(r"\s*([A-Za-z0-9][\w-]*(?:\.[\w-]+)*)\s*(\(.*\))?\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A name with arguments; ``str`` gives its canonical form.

    Parameters
    ----------
    name : str
        Lower case, hyphens for underscores.
    positional : tuple
        Literals.
    named : mapping of str to literal
        In the order of their names.

    Examples
    --------
    >>> str(Call("csv", ("churn.csv",), {"target": "left"}))
    "csv('churn.csv', target='left')"
    """

    name: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = [repr(value) for value in self.positional]
        arguments += [f"{name}={value!r}" for name, value in sorted(self.named.items())]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name


def parse(text: str) -> tuple[Call, ...]:
    """Read a spec.

    Parameters
    ----------
    text : str
        ``"name"``, ``"name(arg=1)"``, ``"one + other(arg='a')"``.

    Returns
    -------
    tuple of Call
        In the order written.

    Raises
    ------
    FewerError
        If the text cannot be read; the message shows the part that is wrong.

    Examples
    --------
    >>> [call.name for call in parse("hast(beta=0.1) + k_centre")]
    ['hast', 'k-centre']
    >>> parse("csv(path='a+b.csv')")[0].named["path"]
    'a+b.csv'
    """
    if not isinstance(text, str) or not text.strip():
        raise FewerError("an empty spec; write a name, such as margin or 'hast + pcoreset'")
    return tuple(_call(part, text) for part in _split(text))


def parse_one(text: str) -> Call:
    """Read a spec that must be a single call, such as a task.

    Examples
    --------
    >>> str(parse_one(" mnist5k( size = 14 ) "))
    'mnist5k(size=14)'
    """
    calls = parse(text)
    if len(calls) != 1:
        raise FewerError(f"one name was expected here, not {len(calls)}: {text!r}")
    return calls[0]


def canonical(text: str) -> str:
    """Write a spec in the one form that all its spellings share.

    Examples
    --------
    >>> canonical("pcoreset+hast( beta=.1,k = 15 )")
    'pcoreset + hast(beta=0.1, k=15)'
    """
    return " + ".join(map(str, parse(text)))


def _split(text: str) -> list[str]:
    """Cut at the plus signs that stand outside brackets and quotes."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    parts, depth, begin = [], 0, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
                if token.string in ("+", "+=") and depth == 0:
                    at = starts[token.start[0] - 1] + token.start[1]
                    parts.append(text[begin:at])
                    begin = at + 1
    except (tokenize.TokenError, SyntaxError) as error:  # an open bracket or quote
        raise FewerError(f"cannot read {text!r}: a bracket or a quote is not closed") from error
    return [*parts, text[begin:]]


def _call(part: str, text: str) -> Call:
    match = _NAME.fullmatch(part)
    if match is None:
        raise FewerError(f"cannot read {part.strip()!r} in {text!r}; write name or name(argument=value)")
    name = match[1].lower().replace("_", "-")
    if match[2] is None:
        return Call(name)
    try:
        # only the argument list is parsed, behind a name of ours: a spec's names are not Python's
        tree = ast.parse(f"call{match[2]}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FewerError(f"cannot read the arguments of {name} in {text!r}; write name(argument=value)") from error
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise FewerError(f"cannot read {part.strip()!r} in {text!r}; write name(argument=value)")
    named: dict[str, Any] = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise FewerError(f"{name}: ** is not understood here; write each argument by name")
        if keyword.arg in named:
            raise FewerError(f"{name}: the argument {keyword.arg} is given twice in {text!r}")
        named[keyword.arg] = _literal(keyword.value, name, keyword.arg)
    positional = tuple(_literal(value, name, str(i + 1)) for i, value in enumerate(tree.args))
    return Call(name, positional, dict(sorted(named.items())))


def _literal(node: ast.expr, name: str, argument: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        given = ast.unparse(node)
        raise FewerError(
            f"{name}: argument {argument} is {given}, which is not a literal; "
            f"write a number, True, False, None, a list, or quote a text: '{given}'"
        ) from error
