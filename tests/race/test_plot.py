from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tests.race.outcomes import SEEDS, made, mixed

from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.race import report
from fewer.race.outcome import Outcome, Run
from fewer.race.plot import shortened


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


def spec(index: int) -> str:
    return (
        f"adaptation(steps=300, batch=64) + scalearn(variant='vector', adapters='./adapters/of-many-tasks', dropout=0.{index}) "
        f"+ saved-encoder('/home/somebody/models/a-folder-with-a-long-name-{index}')"
    )


@pytest.mark.parametrize("entries", [1, 2, 7, 12, 20])
@pytest.mark.parametrize("failed", [False, True])
def test_long_names_leave_the_axes_half_of_the_figure(entries, failed, tmp_path, monkeypatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: (drawn.append(self), save(self, *args, **more)))
    tops = {spec(index): 0.6 + index / 50 for index in range(entries)}
    lost = {f"{spec(index)} + lost" if entries > 1 else "lost": SEEDS for index in range(3)} if failed else {}
    outcome = made(tops | dict.fromkeys(lost, 0.5), lost)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where axes collapse
        report.plot(outcome, tmp_path / "race.png")
    (axes,) = drawn[0].axes
    place = axes.get_position()
    assert place.width >= 0.5
    assert place.height >= 0.5
    # and nothing lies beyond the paper
    box = axes.get_tightbbox()
    assert box is not None
    around = box.transformed(drawn[0].transFigure.inverted())
    assert min(around.x0, around.y0) > -0.01
    assert max(around.x1, around.y1) < 1.01


def test_the_page_and_the_table_keep_whole_names(tmp_path) -> None:
    outcome = made({spec(0): 0.7, spec(1): 0.8})
    report.html(outcome, tmp_path / "race.html")
    text = (tmp_path / "race.html").read_text()
    assert "a-folder-with-a-long-name-0" in text
    assert "a-folder-with-a-long-name-1" in text


def test_short_names_stay_as_they_are_and_dollars_are_dollars() -> None:
    assert shortened(["margin", "pcoreset + hast", "a$b$"]) == ["margin", "pcoreset + hast", r"a\$b\$"]
    assert shortened(["full fine-tuning of everything"]) == ["full fine-tuning of\neverything"]


@given(
    st.lists(st.text("ab cd+(=0.", min_size=1, max_size=120).filter(str.strip), min_size=1, max_size=20, unique=True),
    st.integers(12, 30),
    st.integers(1, 3),
)
def test_shortened_names_fit_and_stay_different(names, width, lines) -> None:
    names = list(dict.fromkeys(" ".join(name.split()) for name in names))
    found = shortened(names, width, lines)
    assert len(set(found)) == len(names)
    for short, name in zip(found, names, strict=True):
        broken = short.split("\n")
        assert len(broken) <= lines
        assert max(map(len, broken)) <= width
        if len(name) <= width:
            assert short == name or short.endswith(name)
