"""The loop, and one template for every curation and imitator that the catalogue knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.demos.behaviour_cloning import BehaviourCloning
from fewer.demos.loop import Imitation, KeepAll, Lesson
from fewer.demos.point_worlds import obstacle, two_gates

LOOP = "fewer.demos.loop:Imitation"
BY_SLOT = {
    slot: [name for name, part in catalogue.fillings().items() if LOOP in part.loops and slot in part.slots]
    for slot in ("curation", "imitator")
}
QUICK = BehaviourCloning(steps=20)


@pytest.fixture(scope="module")
def task():
    return two_gates(demonstrations=10, system_noise=0.4)


def lesson(task, **changes):
    given = task.demonstrations(0)
    play = task.play(1)
    said = {
        "demonstrations": given,
        "low": play.low,
        "high": play.high,
        "play": task.play,
        "seed": 0,
        "rng": np.random.default_rng(0),
    }
    return Lesson(**{**said, **changes})


def test_the_baselines_are_named():
    assert set(BY_SLOT["curation"]) >= {"demo-quality", "random-subset", "success-only", "state-entropy"}
    assert set(BY_SLOT["imitator"]) >= {"behaviour-cloning"}


@pytest.mark.parametrize("name", BY_SLOT["curation"])
def test_a_curation_keeps_some_episodes_once_each_and_repeats_itself(name, task):
    curation = compose.loop(name).curation
    kept = curation.choose(lesson(task))
    assert 1 <= len(kept) <= 10
    assert len(np.unique(kept)) == len(kept)
    assert kept.min() >= 0
    assert kept.max() < 10
    np.testing.assert_array_equal(kept, curation.choose(lesson(task)))


def test_points_are_nested_and_the_unit_is_demonstrations_bought(task):
    seen = []

    @dataclass(frozen=True)
    class Watch:
        def choose(self, lesson):
            seen.append(lesson.demonstrations)
            return np.arange(1)

    learned = Imitation(Watch(), QUICK, first=3, points=3, episodes=4).learn(task, budget=10)
    assert [point.spent for point in learned.curve] == [3, 5, 10]
    assert [len(each) for each in seen] == [3, 5, 10]
    assert seen[2].keep(np.arange(3)).fingerprint() == seen[0].fingerprint()
    assert [point.extras["kept"] for point in learned.curve] == [1, 1, 1]
    assert learned.ledger["environment_steps"] == 0


def test_the_budget_ends_with_the_pool(task):
    curve = Imitation(imitator=QUICK, first=4, points=2, episodes=2).learn(task, budget=1000).curve
    assert [point.spent for point in curve] == [4, 10]


def test_a_resumed_run_is_the_same_to_the_bit(task, tmp_path):
    loop = Imitation(imitator=QUICK, first=2, points=3, episodes=5)
    whole = [(point.spent, point.score, point.extras["mean_length"]) for point in loop.run(task, 10, 5)]
    run = loop.run(task, 10, 5, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    again = [(p.spent, p.score, p.extras["mean_length"]) for p in loop.run(task, 10, 5, checkpoint=tmp_path / "state")]
    assert again == whole


def test_what_was_learned_can_be_had_again_after_a_resumption(task):
    loop = Imitation(imitator=QUICK, first=10, points=1, episodes=2)
    state = loop.start(task, 10, 0)
    loop.advance(state)
    state.points = 1
    seen = task.demonstrations(0).observations
    before = loop.result(state).act(seen)
    state.policy = None
    np.testing.assert_array_equal(loop.result(state).act(seen), before)
    assert state.ledger.spent == 10


def test_a_planner_acts_and_its_steps_are_counted(task):
    @dataclass(frozen=True)
    class Expert:
        def improve(self, lesson, policy):
            play = lesson.play(3)
            play.reset(0)
            for _ in range(4):
                play.step(np.zeros((3, 2)))
            lesson.report["seen"] = 1.0
            return task.world.expert()

    learned = Imitation(imitator=QUICK, planner=Expert(), first=5, points=1, episodes=5).learn(task, budget=5)
    last = learned.curve.points[-1]
    assert last.score == 1
    assert last.extras["environment_steps"] == learned.ledger["environment_steps"] == 12
    assert last.extras["seen"] == 1
    assert last.spent == 5


def test_a_copy_whose_episode_is_over_takes_no_more_steps():
    wall = obstacle(demonstrations=2, below=0.0)

    @dataclass(frozen=True)
    class Ahead:
        def improve(self, lesson, policy):
            play = lesson.play(2)
            play.reset(0)
            for _ in range(200):
                play.step(np.array([[1.0, 0.0], [-1.0, 0.0]]))  # one into the disc, one away until it is cut off
            return policy

    ledger = Imitation(imitator=QUICK, planner=Ahead(), first=2, points=1, episodes=2).learn(wall, budget=2).ledger
    assert 140 < ledger["environment_steps"] < 180


def test_entries_of_a_race_see_the_same_starts(task):
    scores = [
        next(Imitation(KeepAll(), QUICK, first=5, points=1, episodes=20).run(task, 5, seed)).extras["mean_length"]
        for seed in (0, 0, 1)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Imitation(first=0), "first, points and episodes must be at least 1; they are 0, 4 and 100"),
        (
            lambda: Imitation(first=20).run(two_gates(10), 30, 0),
            "10 demonstrations can be had and the first point takes 20",
        ),
        (
            lambda: Imitation().run(two_gates(10), 3, 0),
            "a budget of 3 demonstrations is below the first round, which takes 5",
        ),
        (
            lambda: Imitation().run(compose.task("digits"), 5, 0),
            "runs on a ImitationTask task; digits is a Classification",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()


def test_a_curation_that_keeps_nothing_is_named(task):
    class Nothing:
        def choose(self, lesson):
            return np.zeros(0, int)

    with pytest.raises(FewerError, match="Nothing keeps none of 5 demonstrations"):
        Imitation(Nothing(), QUICK, first=5, points=1).learn(task, budget=5)
