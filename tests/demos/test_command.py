"""``fewer demos quality``, as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fewer import cli
from fewer.core.errors import FewerError
from fewer.demos import Demonstrations, Obstacle, collect, load, write_npz
from fewer.demos.rollouts import join

RUN = CliRunner()


def run(*words):
    result = RUN.invoke(cli.app, ["demos", "quality", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    above, under = Obstacle(), Obstacle(below=1.0)
    many = collect(above.play(30), above.expert(), 27).demonstrations
    few = collect(under.play(30), under.expert(), 3).demonstrations
    write_npz(folder / "mixed.npz", join([many, few], "mixed"))
    write_npz(folder / "clean.npz", many)
    return folder


def test_a_table_a_ranking_and_what_to_drop(folder):
    text = run(folder / "mixed.npz", "--show", 4).stdout
    assert "mixed.npz: 30 episodes" in text
    for line in ("action variance", "transition diversity", "near: within", "the worst episodes of mixed.npz"):
        assert line in text
    dropped = text.splitlines()[-1]
    assert dropped.startswith("to drop: ")
    assert {"27", "28", "29"} <= set(dropped.partition("stand out: ")[2].split(", "))


def test_two_sets_json_a_figure_and_the_episodes_kept(folder):
    result = run(
        folder / "mixed.npz", "--other", folder / "clean.npz", "--json", "--plot", folder / "q.png",
        "--keep", 0.9, "-o", folder / "kept.npz",
    )  # fmt: skip
    read = json.loads(result.stdout)
    assert [each["name"] for each in read["sets"]] == ["mixed.npz", "clean.npz"]
    assert read["sets"][0]["metrics"]["between episodes"] > read["sets"][1]["metrics"]["between episodes"]
    assert "27 of 30 episodes in" in result.stderr
    assert (folder / "q.png").stat().st_size > 5000
    kept, whole = load(folder / "kept.npz"), load(folder / "mixed.npz")
    assert len(kept) == 27
    assert kept.observations[:, 1].min() > whole.observations[:, 1].min()


def test_by_another_measure_with_cells_and_a_clone(folder):
    text = run(folder / "clean.npz", "--by", "horizon", "--cells", 20).stdout
    assert "the worst episodes of clean.npz by horizon" in text
    assert "near:" not in text


def test_errors_are_one_line(folder, tmp_path):
    write_npz(tmp_path / "nan.npz", Demonstrations(np.zeros((4, 1)), np.zeros((4, 1)), [0, 2, 4]))
    with np.load(tmp_path / "nan.npz") as file:
        arrays = dict(file)
    arrays["actions"][3] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    for words, message in (
        ([tmp_path / "nan.npz"], "nan.npz: actions hold nan in step 1 of episode 1"),
        ([tmp_path / "none.npz"], "there is no such file"),
        ([folder / "clean.npz", "--by", "x"], "no measure 'x'"),
        ([folder / "clean.npz", "--keep", 7], "frac is 7"),
        ([folder / "clean.npz", "--plot", tmp_path], "cannot write"),
    ):
        with pytest.raises(FewerError, match=message):
            run(*words)
