"""The report: its order of episodes, its table, its JSON and its picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos.report import MEANS, Quality, QualityReport


def quality(values, name="toy", **more):
    values = np.asarray(values, dtype=float)
    each = {"action variance": values, "state similarity": -values, **more}
    return Quality(
        name, {"action variance": float(np.nanmean(values)), "coverage": np.nan}, each, np.array([0.5]), ("note",)
    )


def test_less_variance_and_more_similarity_are_better():
    toy = quality([0.3, 0.1, np.nan, 0.2, 0.9])
    assert toy.ranking().tolist() == [4, 0, 2, 3, 1]
    assert toy.ranking("state_similarity").tolist() == [4, 0, 2, 3, 1]
    assert toy.keep(0.4).tolist() == [1, 3]
    assert toy.keep(0.41).tolist() == [1, 2, 3]
    assert toy.keep(1.0).tolist() == [0, 1, 2, 3, 4]
    assert quality([np.nan, np.nan]).keep(0.5).tolist() == [1]


def test_what_stands_out_is_far_beyond_most():
    values = np.r_[np.linspace(0, 1, 20), 9.0]
    assert quality(values).stand_out().tolist() == [20]
    assert quality(np.linspace(0, 1, 20)).stand_out().tolist() == []


def test_the_text_shows_what_was_measured_and_what_to_drop():
    report = QualityReport((quality(np.r_[np.linspace(0, 1, 20), 9.0]), quality([0.1, 0.2], "other")), 0.25, 2)
    text = report.text(show=3)
    assert text.split("\n")[0].split() == ["toy", "other"]
    assert "2 is random" in text
    assert "unknown" in text
    assert "near: within 0.25 of a state" in text
    assert "note (other): note" in text
    assert "to drop: 1 of 21 episodes stand out: 20" in text
    assert text.count("stands out") == 1
    assert str(QualityReport((quality([1, 1]),), None, 1)).endswith(
        "to drop: nothing; no episode stands out by action variance"
    )
    unknown = QualityReport((quality([np.nan, np.nan]),), np.nan, 1).text()
    assert "episodes cannot be ranked by action variance" in unknown
    assert "near:" not in unknown


def test_every_measure_is_explained():
    assert all("{" not in means or "{most}" in means for means in MEANS.values())


def test_json_holds_everything_and_null_for_what_is_unknown():
    report = QualityReport((quality([0.1, np.nan]),), np.nan, 2)
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["eps"] is None
    assert read["sets"][0]["episodes"]["action variance"] == [0.1, None]
    assert read["sets"][0]["metrics"]["coverage"] is None
    assert read["sets"][0]["transition_variance"] == [0.5]


def test_the_picture(tmp_path):
    report = QualityReport((quality(np.r_[np.linspace(0, 1, 20), 9.0]), quality([0.1, np.nan])), 0.1, 2)
    for kind in ("png", "svg"):
        report.plot(tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").stat().st_size > 5000

    with pytest.raises(FewerError, match=r"a\.gif: \.gif is unknown"):
        report.plot(tmp_path / "a.gif")
    with pytest.raises(FewerError, match="no measure 'x'"):
        report.plot(tmp_path / "b.png", by="x")
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quality([1.0]).keep(0), "frac is 0; give a share of the episodes to keep"),
        (lambda: quality([1.0]).keep(2), "frac is 2"),
        (lambda: quality([1.0]).ranking("variance"), "no measure 'variance'; did you mean action variance"),
    ],
)
def test_what_cannot_be_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()
