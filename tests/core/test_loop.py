from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, Stage, Stages, State, Task
from fewer.core.seeding import derive, generator, torch_generator


class Toy(Task):
    name, metric = "toy", "height"

    def fingerprint(self):
        return "toy"


class Other(Toy):
    name = "other"


@dataclass
class WalkState(State):
    saved: ClassVar = ("rng", "height", "network")
    rng: np.random.Generator = field(kw_only=True)
    height: float = field(kw_only=True)
    network: torch.nn.Linear = field(kw_only=True)


@dataclass(frozen=True)
class Walk(Loop[Toy, WalkState]):
    """Adds own randomness, global NumPy and torch randomness, and a weight, so that nothing may be forgotten."""

    unit = "steps"
    accepts = Toy
    step: int = 3
    spend: int | None = None
    spoil: float | None = None
    stop_after: int = 10**9

    def start(self, task, budget, seed):
        network = torch.nn.Linear(1, 1)
        return WalkState(budget, seed, Ledger({"steps": 1.0}), rng=generator(seed, "walk"), height=0.0, network=network)

    def advance(self, state):
        state.height += state.rng.normal() + np.random.normal() + float(torch.randn(()))
        with torch.no_grad():
            state.network.weight += torch.randn(1, 1)
        count = self.step if self.spend is None else self.spend
        state.ledger.add("steps", min(count, state.budget - state.ledger.spent) if self.spend is None else count)
        state.exhausted = state.points + 1 >= self.stop_after
        score = state.height + float(state.network.weight.detach())
        return Point(state.ledger.spent, score if self.spoil is None else self.spoil, {"height": state.height})

    def result(self, state):
        return state.height

    def receive(self, state, artefact):
        state.height = artefact


def told(points):
    return [(point.spent, point.score, point.extras["height"]) for point in points]


def test_the_last_point_is_at_the_budget_and_never_beyond():
    assert [point.spent for point in Walk().run(Toy(), 10, 0)] == [3, 6, 9, 10]


def test_equal_seeds_are_equal_and_others_not():
    assert told(Walk().run(Toy(), 30, 1)) == told(Walk().run(Toy(), 30, 1))
    assert told(Walk().run(Toy(), 30, 1)) != told(Walk().run(Toy(), 30, 2))


def test_the_callers_random_streams_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (float(torch.randn(())), np.random.normal())
    torch.manual_seed(5)
    np.random.seed(5)
    for _ in Walk().run(Toy(), 9, 0):
        pass
    assert (float(torch.randn(())), np.random.normal()) == expected


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("loop", [Walk(), Stages((Stage("a", Walk(), 0.3), Stage("b", Walk(step=4), 0.7)))])
def test_a_run_resumes_to_the_bit(tmp_path, stop, loop):
    whole = told(loop.run(Toy(), 20, 7))
    file = tmp_path / "run"
    run = loop.run(Toy(), 20, 7, checkpoint=file)
    begun = told(point for point, _ in zip(run, range(min(stop, len(whole))), strict=False))
    run.close()
    resumed = told(loop.run(Toy(), 20, 7, checkpoint=file))
    assert begun == whole[:stop]
    assert resumed == whole
    # and a finished run is not run again
    assert told(loop.run(Toy(), 20, 7, checkpoint=file)) == whole


def test_the_checkpoint_is_there_before_the_point(tmp_path):
    file = tmp_path / "run"
    for point in Walk().run(Toy(), 9, 0, checkpoint=file):
        from fewer.core import checkpoint

        assert checkpoint.load(file)["curve"][-1]["spent"] == point.spent


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "run"
    list(Walk().run(Toy(), 9, 0, checkpoint=file))
    for other in (Walk().run(Toy(), 9, 1, checkpoint=file), Walk(step=2).run(Toy(), 9, 0, checkpoint=file)):
        with pytest.raises(FewerError, match="belongs to another run"):
            list(other)


def test_an_impossible_request_fails_at_the_call():
    class Elsewhere(Task):
        name, metric = "elsewhere", "score"

        def fingerprint(self):
            return ""

    with pytest.raises(FewerError, match="Walk runs on a Toy task; elsewhere is a Elsewhere"):
        Walk().run(Elsewhere(), 10, 0)
    with pytest.raises(FewerError, match="a budget of 0 steps is below the first round, which takes 1"):
        Walk().run(Toy(), 0, 0)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_stops_the_run(score):
    with pytest.raises(Diverged, match="the score became"):
        list(Walk(spoil=score).run(Toy(), 10, 0))


def test_a_loop_that_overdraws_or_stands_still_is_caught():
    with pytest.raises(FewerError, match="overdrew"):
        list(Walk(spend=7).run(Toy(), 10, 0))
    with pytest.raises(FewerError, match="without spending any"):
        list(Walk(spend=0).run(Toy(), 10, 0))


def test_learn_gives_curve_result_and_cost():
    learned = Walk().learn(Toy(), 10, 0)
    assert learned.curve.points[-1].spent == learned.ledger.spent == 10
    assert learned.result == learned.curve.points[-1].extras["height"]


def test_seconds_accumulate_over_a_resumption(tmp_path):
    run = Walk().run(Toy(), 9, 0, checkpoint=tmp_path / "r")
    first = next(run)
    run.close()
    seconds = [point.extras["seconds"] for point in Walk().run(Toy(), 9, 0, checkpoint=tmp_path / "r")]
    assert seconds[0] == first.extras["seconds"]
    assert seconds == sorted(seconds)


def test_stages_hand_on_what_was_learned_and_share_the_budget():
    loop = Stages((Stage("a", Walk(), 0.25), Stage("b", Walk(step=5), 0.75)))
    points = list(loop.run(Toy(), 40, 0))
    assert [point.spent for point in points] == [3, 6, 9, 10, 15, 20, 25, 30, 35, 40]
    assert [point.extras["stage"] for point in points] == [0.0] * 4 + [1.0] * 6
    alone = list(Walk(step=5).run(Toy(), 30, derive(0, "stage", 1)))
    # the second stage began at the height the first one reached
    gap = points[4].extras["height"] - points[3].extras["height"]
    assert abs(gap) < 10
    assert points[4].extras["height"] != alone[0].extras["height"]


def test_a_stage_that_ends_early_hands_over_at_once():
    loop = Stages((Stage("a", Walk(stop_after=2), 0.5), Stage("b", Walk(), 0.5)))
    assert [point.spent for point in loop.run(Toy(), 24, 0)][:3] == [3, 6, 9]


@pytest.mark.parametrize("budget", [1, 7, 99, 1000])
def test_the_stages_of_a_budget_sum_to_it(budget):
    loop = Stages(tuple(Stage(str(i), Walk(), 1 / 3) for i in range(3)))
    assert sum(loop._allowance(budget, i) for i in range(3)) == budget


def test_stages_that_do_not_fit_are_refused():
    @dataclass(frozen=True)
    class Hop(Walk):
        unit = "hops"

    with pytest.raises(FewerError, match="at least one stage"):
        Stages(())
    with pytest.raises(FewerError, match=r"sum to 0\.8"):
        Stages((Stage("a", Walk(), 0.5), Stage("b", Walk(), 0.3)))
    with pytest.raises(FewerError, match="hops and steps"):
        Stages((Stage("a", Walk(), 0.5), Stage("b", Hop(), 0.5)))
    with pytest.raises(FewerError, match="below the first round"):
        Stages((Stage("a", Walk(), 0.01), Stage("b", Walk(), 0.99))).run(Toy(), 10, 0)


def test_a_loop_that_cannot_receive_says_so():
    @dataclass(frozen=True)
    class Deaf(Loop[Toy, WalkState]):
        unit, accepts = "steps", Toy

        def start(self, task, budget, seed):
            return Walk().start(task, budget, seed)

        def advance(self, state):
            return Walk().advance(state)

    with pytest.raises(FewerError, match="Deaf learns nothing"):
        Deaf().learn(Toy(), 10)
    with pytest.raises(FewerError, match="Deaf cannot begin from an earlier stage"):
        list(Stages((Stage("a", Walk(), 0.5), Stage("b", Deaf(), 0.5))).run(Toy(), 20, 0))


def test_named_streams_are_independent_and_repeatable():
    assert derive(0, "a") != derive(0, "b") != derive(1, "b")
    assert derive(0, "a", "b") != derive(0, "ab")
    assert generator(0, "x").integers(2**60) == generator(0, "x").integers(2**60)
    assert torch.equal(
        torch.rand(3, generator=torch_generator(0, "x")), torch.rand(3, generator=torch_generator(0, "x"))
    )


def test_the_ledger_counts_by_price():
    ledger = Ledger({"expert": 1.0, "weak": 0.1})
    for _ in range(30):
        ledger.add("weak")
    assert (ledger.cost, ledger.spent) == (pytest.approx(3.0), 3)  # thirty tenths are three, not four
    ledger.add("expert", 2)
    ledger.add("seconds", 100)
    assert ledger.spent == 5
    assert ledger["seconds"] == 100
    assert ledger["nothing"] == 0
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(FewerError, match="can only grow"):
            ledger.add("expert", wrong)


def test_who_watches_sees_what_was_spent_between_points(tmp_path):
    seen = []
    stages = Stages((Stage("first", Walk(), 0.5), Stage("second", Walk(step=4), 0.5)))
    for loop in (Walk(), stages):
        states = []
        for point in loop.run(Toy(), 20, 0, tmp_path / "run", watch=states.append):
            seen.append(point.spent == states[0].spent)
        assert len(states) == 1
        assert list(loop.run(Toy(), 20, 0, tmp_path / "run", watch=states.append))
        assert [each.spent for each in states] == [20, 20]  # also of a run that is taken up
        (tmp_path / "run").unlink()
    assert all(seen)


def test_a_running_stage_counts_behind_those_before_it():
    state = Stages((Stage("first", Walk(), 0.5), Stage("second", Walk(), 0.5))).start(Toy(), 20, 0)
    state.inner.ledger.add("steps", 3)
    assert (state.ledger.spent, state.spent) == (0, 3)
    state.before = 10
    assert state.spent == 13
