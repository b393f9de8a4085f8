"""What runs make, made fit to be shown, and when a loop shows it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.curve import Point
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, Stage, Stages, State, Task
from fewer.core.samples import Sample, Samples, readable


@given(st.text(st.characters()))
def test_nothing_that_steers_is_left_and_the_rest_stays(text):
    shown = readable(text, most=10**6, lines=10**6)
    for character in shown:
        assert character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
    shown.encode()  # unpaired surrogates could not be written to a file
    if text.isprintable():
        assert shown == text


@given(st.text("ab\n\x1b", max_size=300), st.integers(3, 50), st.integers(3, 9))
def test_no_text_is_long(text, most, lines):
    shown = readable(text, most, lines)
    assert len(shown.split("\n")) <= lines + 1
    assert len(shown) <= 4 * most + 80  # a code has four characters; the rest says what was left out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("gone\r", "gone\\r"),
        ("one\r\ntwo\n\tthree", "one\ntwo\n\tthree"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("\x00\u2028", "\\x00\\u2028"),
        ("<b>&amp;", "<b>&amp;"),
        ("\U0001f469\u200d\U0001f52c naïve 中文", "\U0001f469\u200d\U0001f52c naïve 中文"),
    ],
)
def test_what_becomes_of(text, shown):
    assert readable(text) == shown


def test_beginning_and_end_of_long_texts_stay():
    shown = readable("begin " + "x" * 9000 + " answer: 7")
    assert shown.startswith("begin xxx")
    assert "[8,016 characters left out]" in shown
    assert shown.endswith("answer: 7")
    lines = readable("\n".join(map(str, range(100)))).split("\n")
    assert (lines[0], lines[16], lines[-1]) == ("0", "[76 lines left out]", "99")


# --- when a loop shows it ----------------------------------------------------------------------


class Nothing(Task):
    name, metric = "nothing", "count"

    def fingerprint(self):
        return "nothing"


@dataclass
class CountState(State):
    saved: ClassVar[tuple[str, ...]] = ("count",)
    count: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Count(Loop[Nothing, CountState]):
    unit: ClassVar[str] = "steps"
    accepts: ClassVar[type[Task]] = Nothing
    watched: ClassVar[tuple[str, ...]] = ("count",)
    says: str = "so far"

    def start(self, task, budget, seed):
        return CountState(budget, seed, Ledger({"steps": 1.0}))

    def advance(self, state):
        state.ledger.add("steps", 1)
        state.count += 1
        return Point(state.ledger.spent, float(state.count), {"count": float(state.count)})

    def samples(self, state):
        return [Sample(self.says, str(state.count), float(state.count))] if self.says else []

    def result(self, state):
        return state.count

    def receive(self, state, artefact):
        state.count = artefact


def shown(loop, **options):
    made = []
    list(loop.run(Nothing(), 3, 0, show=made.append, **options))
    return made


def test_at_the_beginning_and_at_each_point():
    assert shown(Count()) == [Samples(n, (Sample("so far", str(n), float(n)),)) for n in range(4)]
    assert shown(Count(says="")) == []
    assert list(Count().run(Nothing(), 3, 0))  # nobody looks


def test_a_run_that_goes_on_shows_where_it_stands_and_is_no_other(tmp_path):
    file, made = tmp_path / "run.safetensors", []
    first = Count().run(Nothing(), 3, 0, checkpoint=file, show=made.append)
    next(first), next(first)
    first.close()
    assert [each.spent for each in made] == [0, 1, 2]
    assert [each.spent for each in shown(Count(), checkpoint=file)] == [2, 3]
    assert [each.spent for each in shown(Count(), checkpoint=file)] == [3]


def test_a_sample_may_draw_by_chance_and_the_run_stays_the_same():
    import torch

    @dataclass(frozen=True)
    class Draws(Count):
        drawn: ClassVar[list[float]] = []

        def advance(self, state):
            point = super().advance(state)
            return Point(point.spent, float(torch.rand(())), point.extras)

        def samples(self, state):
            self.drawn.append(float(torch.rand(())))
            return [Sample("", "", self.drawn[-1])]

    alone = [point.score for point in Draws().run(Nothing(), 3, 0)]
    assert [point.score for point in Draws().run(Nothing(), 3, 0, show=lambda samples: None)] == alone
    assert len(set(Draws.drawn)) == 4


def test_stages_show_what_the_running_one_does():
    stages = Stages((Stage("one", Count(says="one"), 0.34), Stage("two", Count(says="two"), 0.66)))
    assert stages.watched == ("count",)
    rows = [(each.spent, each.rows[0].asked, each.rows[0].made) for each in shown(stages)]
    assert rows == [(0, "one", "0"), (1, "one", "1"), (2, "two", "2"), (3, "two", "3")]
