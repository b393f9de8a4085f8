"""What a run makes, for people to look at: what was asked, what came, and what that was worth.

A text that a model wrote may hold anything; :func:`readable` makes of it what a terminal and a page can show.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

JOINERS = "\u200c\u200d"
"""Format characters that some scripts, and some emoji, cannot be written without."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing that was made.

    Parameters
    ----------
    asked : str
        What for, such as a prompt.
    made : str
        What came, such as a completion.
    score : float
        What that is worth; higher is better.
    """

    asked: str
    made: str
    score: float


@dataclass(frozen=True, slots=True)
class Samples:
    """What a run makes at one moment.

    Parameters
    ----------
    spent : int
        Samples used so far, as in :class:`~fewer.core.curve.Point`.
    rows : tuple of Sample
        A few; those of other moments are asked the same, so that they can be compared.
    """

    spent: int
    rows: tuple[Sample, ...]

    def readable(self) -> Samples:
        """The same for showing; see :func:`readable`."""
        rows = (Sample(readable(row.asked), readable(row.made), row.score) for row in self.rows)
        return Samples(self.spent, tuple(rows))


Show = Callable[[Samples], None]
"""Who is shown them."""


def readable(text: str, most: int = 1000, lines: int = 24) -> str:
    r"""A text without what would steer a terminal or a page, and not too long to be read.

    Of a longer one the beginning and, for that is where answers stand, a third from the end are kept.

    Parameters
    ----------
    text : str
        Anything, unpaired surrogates included.
    most, lines : int, default 1000 and 24
        Characters and lines that are kept.

    Examples
    --------
    >>> readable("red: \x1b[31m, right to left: \u202e")
    'red: \\x1b[31m, right to left: \\u202e'
    >>> readable("0123456789" * 100, most=30)
    '01234567890123456789 [970 characters left out] 0123456789'
    >>> print(readable("a\nb\nc\nd\ne", lines=3))
    a
    b
    [2 lines left out]
    e
    """
    text = text.replace("\r\n", "\n")
    if len(text) > most:
        head, tail = most - most // 3, most // 3
        left_out = f" [{len(text) - head - tail:,} characters left out] "
        text = _plain(text[:head]) + left_out + _plain(text[len(text) - tail :])
    else:
        text = _plain(text)
    rows = text.split("\n")
    if len(rows) > lines:
        head, tail = lines - lines // 3, lines // 3
        left_out = f"[{len(rows) - head - tail:,} lines left out]"
        rows = [*rows[:head], left_out, *rows[len(rows) - tail :]]
    return "\n".join(rows)


def _plain(text: str) -> str:
    return "".join(each if _shows(each) else each.encode("unicode_escape").decode() for each in text)


def _shows(character: str) -> bool:
    """False for control and format characters, surrogates, private ones, and breaks of lines that are none here."""
    if character in "\n\t" or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
