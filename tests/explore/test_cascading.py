from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.cascading import CascadingVI, ListVI, count_sessions
from fewer.explore.recommending import CascadingMDP, Recommendation, Sessions, cascade


def test_counts_are_those_of_a_plain_loop():
    rng, world = np.random.default_rng(0), cascade(states=3, items=5, length=3, horizon=4)
    lists = np.stack([np.r_[rng.permutation(5)[:2], rng.choice([-1, 4])] for _ in range(2 * 4 * 3)])
    lists[:, 2] = np.where((lists[:, :2] == 4).any(axis=1), -1, lists[:, 2])
    played = world.session(lists.reshape(2, 4, 3, 3), rng)
    memory = {"examined": np.zeros((2, 3, 5)), "attracted": np.zeros((2, 3, 5)), "next": np.zeros((2, 3, 6, 3))}
    expected = {name: value.copy() for name, value in memory.items()}
    count_sessions(memory, played, 5)
    for run in range(2):
        for step in range(4):
            state, click = played.states[run, step], played.clicks[run, step]
            for position, item in enumerate(played.lists[run, step]):
                if item >= 0 and (click < 0 or position <= click):
                    expected["examined"][run, state, item] += 1
            item = played.lists[run, step, click] if click >= 0 else 5
            if click >= 0:
                expected["attracted"][run, state, item] += 1
            expected["next"][run, state, item, played.states[run, step + 1]] += 1
    for name in memory:
        np.testing.assert_array_equal(memory[name], expected[name])


def test_items_below_a_click_tell_nothing():
    memory = {"examined": np.zeros((1, 1, 3)), "attracted": np.zeros((1, 1, 3)), "next": np.zeros((1, 1, 4, 1))}
    sessions = Sessions(np.zeros((1, 2), dtype=int), np.array([[[2, 0, 1]]]), np.array([[1]]))
    count_sessions(memory, sessions, 3)
    assert memory["examined"][0, 0].tolist() == [1, 0, 1]
    assert memory["attracted"][0, 0].tolist() == [1, 0, 0]


def test_what_it_plans_with_is_above_the_best_and_its_guarantee_below_what_it_gets():
    """At the scale of the proof, in all of many copies and sessions."""
    world = cascade(states=3, items=4, length=2, horizon=3, seed=4)
    loop = Recommendation(CascadingVI(scale=1.0), copies=40, points=12)
    state = loop.start(world, 240, seed=0)
    for _ in range(12):
        loop.advance(state)
        value = world.value(loop.result(state))
        assert (value >= world.optimum - state.memory["gap"] - 1e-9).all()
    assert (state.memory["gap"] <= 3).all()


def test_one_item_a_list_and_one_list_a_session_are_a_bandit_that_is_solved():
    attracts = np.array([[0.2, 0.8, 0.4]])
    world = CascadingMDP("bandit", attracts, np.ones((1, 4, 1)), np.array([[1.0, 0.6, 0.9]]), horizon=1, length=1)
    assert world.optimum == pytest.approx(0.48)
    loop = Recommendation(CascadingVI(scale=0.1), copies=10, points=5)
    state = loop.start(world, 2000, seed=0)
    for _ in range(5):
        point = loop.advance(state)
    assert point.score > 0.47
    assert (loop.result(state)[:, 0, 0, 0] == 1).mean() >= 0.9


def test_what_lies_ahead_matters_or_does_not():
    """A click on the item that pays less leads to where all is paid."""
    following = np.zeros((2, 3, 2))
    following[0, :, 0] = 1
    following[0, 1] = 0, 1
    following[1, :, 1] = 1
    world = CascadingMDP(
        "ahead", np.full((2, 2), 0.9), following, np.array([[0.3, 0.1], [1.0, 1.0]]), horizon=4, length=1
    )
    wise = Recommendation(CascadingVI(scale=0.05), copies=4, points=1).learn(world, 300)
    blind = Recommendation(CascadingVI(scale=0.05, transitions=False), copies=4, points=1).learn(world, 300)
    assert wise.result[:, 0, 0, 0].tolist() == [1] * 4
    assert blind.result[:, 0, 0, 0].tolist() == [0] * 4
    assert wise.curve.final > 2 * blind.curve.final


def test_it_stops_when_the_lists_are_good_enough():
    loop = Recommendation(CascadingVI(scale=0.005, precision=0.3), copies=3, points=1)
    world = cascade(states=2, items=3, length=2)
    state = loop.start(world, 5000, seed=0)
    point = loop.advance(state)
    assert state.exhausted
    assert point.spent < 5000
    assert (state.memory["stopped"] <= point.spent).all()
    assert (world.value(loop.result(state)) >= world.optimum - 0.3).all()


def test_replanning_rarely_changes_what_is_known_and_not_what_is_counted():
    world = cascade(states=2, items=4, length=2)
    ends = {}
    for replan in (1.0, 1.5):
        loop = Recommendation(CascadingVI(scale=0.05, replan=replan), copies=2, points=1)
        state = loop.start(world, 300, seed=0)
        loop.advance(state)
        ends[replan] = state
    for state in ends.values():
        assert state.memory["next"].sum() == 2 * 300 * world.horizon
        assert (state.memory["attracted"] <= state.memory["examined"]).all()


def test_learning_about_items_needs_far_fewer_sessions_than_learning_about_lists():
    world = cascade(states=3, items=6, length=3, seed=3)
    regret = {
        name: Recommendation(recommender, copies=3, points=1).learn(world, 1500).curve.points[-1].extras["regret"]
        for name, recommender in {
            "items": CascadingVI(scale=0.05, replan=1.05),
            "lists": ListVI(scale=0.05, replan=1.05),
        }.items()
    }
    assert regret["items"] < 0.4 * regret["lists"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CascadingVI(scale=-1), "cascading: scale must not be negative"),
        (lambda: CascadingVI(delta=1), r"delta lie in \(0, 1\)"),
        (lambda: CascadingVI(replan=0.5), "replan be at least 1"),
        (lambda: CascadingVI(precision=-1), "precision must not be negative"),
        (lambda: ListVI(scale=-1), "list-ucbvi: scale"),
        (
            lambda: list(Recommendation(ListVI()).run(cascade(items=40, length=4), 5, 0)),
            "40 items make 2254241 lists of up to 4, more than 20000",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
