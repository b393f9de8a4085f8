"""A pool of sums: what is made up is wrong mostly, everything else is right."""

from __future__ import annotations

import pytest

from fewer.rollouts.mixed_sums import SHARES, MixedSums


def right(problem):
    return problem.answer == str(sum(int(each) for each in problem.prompt[:-1].strip()) % 10)


def test_kinds_are_what_they_are_called():
    pool = MixedSums(rows=1000).training(0)
    of = {kind: [problem for problem in pool if problem.row["kind"] == kind] for kind in SHARES}
    assert {kind: len(each) for kind, each in of.items()} == {"trivial": 400, "made up": 300, "learnable": 300}
    assert all(problem.row["digits"] == 2 and right(problem) for problem in of["trivial"])
    assert all(6 <= problem.row["digits"] <= 8 and right(problem) for problem in of["learnable"])
    assert sum(map(right, of["made up"])) / 300 == pytest.approx(0.1, abs=0.06)
    assert [problem.row["kind"] for problem in pool[:20]] != sorted(problem.row["kind"] for problem in pool[:20])


def test_what_is_held_out_is_worth_learning():
    task = MixedSums()
    held_out = task.held_out(0)
    assert len(held_out) == 512
    assert all(problem.row["digits"] >= 6 and right(problem) for problem in held_out)
    assert task.training(0) == task.training(0) != task.training(1)
