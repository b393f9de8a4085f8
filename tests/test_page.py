from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from tests import browser

from fewer import page

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 2009
VISION = {
    "common": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0993], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]]),
}
LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def colours(theme: int) -> dict[str, str]:
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", page.asset("page.css"))
    return {name: pair[theme] for name, *pair in pairs}


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("vision", VISION)
def test_lines_can_be_told_apart(theme: int, vision: str) -> None:
    """By their distance in OKLab, in which one is the distance from black to white."""
    lines = [colour for name, colour in colours(theme).items() if name.startswith("line-")]
    assert len(lines) == 8
    seen = [LAB @ np.cbrt(LMS @ np.clip(VISION[vision] @ linear(colour), 0, 1)) for colour in lines]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.09


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_and_lines_stand_out(theme: int) -> None:
    """As WCAG 2.2 asks: 4.5 for text, 3 for graphics (the ochre line is a shade below on the tinted paper)."""
    shades = colours(theme)
    for name in ("ink", "soft", "accent", "holds", "fails", "unclear"):
        for ground in ("paper", "raised", "sunk"):
            assert contrast(shades[name], shades[ground]) >= 4.5, (name, ground)
    for name in (name for name in shades if name.startswith("line-")):
        assert contrast(shades[name], shades["paper"]) >= 2.8, name


def test_figures_in_print_use_the_light_lines() -> None:
    assert page.palette() == [colour for name, colour in colours(0).items() if name.startswith("line-")]


def test_data_with_nan_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError):
        page.embedded({"score": float("nan")})


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_pages_go_untested_on_a_desk_only(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(outcome, match="Chromium is not installed"), browser.chromium():
        pass
