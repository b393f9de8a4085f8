from __future__ import annotations

from pathlib import Path

import pytest
from tests.race.outcomes import SEEDS, made, mixed

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.race import report
from fewer.race.outcome import Outcome, Run


@pytest.fixture
def outcome() -> Outcome:
    return mixed()


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_plot_writes_what_the_suffix_says_and_the_same_each_time(
    outcome: Outcome, tmp_path: Path, suffix: str, start: bytes
) -> None:
    for name in ("one", "two"):
        report.plot(outcome, tmp_path / f"{name}{suffix}", 0.75)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert first.startswith(start)
    assert first == second


def test_plot_refuses_other_kinds_and_leaves_nothing(outcome: Outcome, tmp_path: Path) -> None:
    with pytest.raises(FewerError, match=r"use \.png, \.svg or \.pdf"):
        report.plot(outcome, tmp_path / "race.jpeg")
    assert not list(tmp_path.iterdir())


def test_plot_of_nothing_of_one_point_and_of_many(tmp_path: Path) -> None:
    report.plot(made({"a": 0.7}, {"a": SEEDS}), tmp_path / "nothing.svg")
    single = Outcome("t", "m", "u", 9, (0,), {"a": "a"}, (Run("a", 0, "done", Curve.of([(9, 1.0)])),))
    report.plot(single, tmp_path / "point.svg")
    report.plot(made({f"entry {i}": 0.6 + i / 50 for i in range(20)}), tmp_path / "many.svg")
    assert len(list(tmp_path.glob("*.svg"))) == 3


def test_another_measure_may_be_drawn_in_place_of_the_score() -> None:
    curves = [
        Curve((Point(1, 0.5, {"regret": 2.0}), Point(2, 0.6, {}), Point(3, 0.7, {"regret": 5.0}))),
        Curve.of([(1, 1)]),
    ]
    entries = {"a": "a", "b": "b", "c": "c"}
    runs = (Run("a", 0, "done", curves[0]), Run("b", 0, "done", curves[1]), Run("c", 0, "failed"))
    race = Outcome("t", "return", "episodes", 3, (0,), entries, runs).measured("regret")
    assert race.metric == "regret"
    assert [(point.spent, point.score) for point in race.curves("a")[0]] == [(1, 2.0), (3, 5.0)]
    assert race.curves("b") == []
    with pytest.raises(FewerError, match=r"no run of this race has measured 'regrets'; .*regret"):
        Outcome("t", "return", "episodes", 3, (0,), entries, runs).measured("regrets")
