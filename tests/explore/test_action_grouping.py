"""The bound of what a grouping loses, and the choice by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer import compose
from fewer.claim import Evidence
from fewer.core.errors import FewerError
from fewer.explore.action_grouping import (
    BoundedGrouping,
    LossBound,
    near_the_least,
    select_grouping,
)
from fewer.explore.generative import GenerativeLearning
from fewer.explore.group_betas import true_betas
from fewer.explore.groupings import ActionGrouping, GivenGroups, halved
from fewer.explore.planning import policy_iteration
from fewer.explore.sampled_worlds import DiscountedMDP, grouped_actions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0.1, 0.95), st.integers(1, 8))
def test_the_first_term_bounds_the_loss_where_nothing_is_left_to_chance(seed, unlike, gamma, groups):
    """Planning in the exact average of each group and playing a uniform member."""
    world = grouped_actions(states=3, actions=8, groups=4, unlike=unlike, gamma=gamma, noise=0, seed=seed)
    grouping = ActionGrouping(np.random.default_rng(seed).permutation(np.arange(8) % groups))
    member = (grouping.labels[0][:, None] == np.arange(groups)) / grouping.members.size[0, 0]
    P, R = np.einsum("sat,aj->sjt", world.P, member), world.R @ member
    chosen = policy_iteration(P[None], R[None], gamma)[1].argmax(axis=-1)
    loss = world.optimum - world.value(grouping.members.play(chosen), np.random.default_rng(0))[0]
    betas = np.array(true_betas(world.P, world.R, grouping))[:, None]
    approximation, _, _ = LossBound().terms(np.array([groups]), betas, 3, 100, gamma)
    assert -1e-9 <= loss <= approximation[0] + 1e-9


def test_the_terms_are_those_of_the_formula():
    bound = LossBound((2.0, 0.5), delta=0.1, price=0.01)
    groups, betas = np.array([2, 5, 50]), np.array([[0.4, 0.2, 0.0], [0.3, 0.1, 0.0]])
    approximation, estimation, total = bound.terms(groups, betas, 4, 100, 0.8)
    for level in range(3):
        cells = 4 * groups[level]
        first = 2 * (betas[1, level] / 0.2 + 0.8 * betas[0, level] / 0.2**2)
        second = 0.5 * math.sqrt(math.log(cells / (0.2 * 0.1)) / (0.2**3 * 100 / cells)) if cells <= 100 else math.inf
        assert approximation[level] == pytest.approx(first)
        assert estimation[level] == pytest.approx(second)
        assert total[level] == pytest.approx(first + second + 0.01 * 4 * 4 * groups[level])
    by_run = bound.terms(groups, np.stack([betas, betas / 2], axis=-1), 4, 100, 0.8)
    np.testing.assert_allclose(by_run[2][:, 0], total)
    assert by_run[0].shape == (3, 2)


def test_more_samples_choose_finer_and_dearer_planning_coarser():
    groups, betas = np.array([1, 4, 16, 64]), np.array([[0.8, 0.1, 0.05, 0.0], [0.5, 0.1, 0.05, 0.0]])

    def chosen(samples, price=0.0):
        bound = LossBound(price=price)
        return int(groups[bound.best(groups, bound.terms(groups, betas, 10, samples, 0.9)[2], 10, samples)])

    found = [chosen(samples) for samples in (10, 100, 1000, 10_000, 100_000, 1_000_000)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 64)
    assert chosen(1_000_000, price=0.1) < 64


# --- from samples ----------------------------------------------------------------------------------------------------


def log(world, tries, seed=0):
    rng = np.random.default_rng(seed)
    states = np.repeat(np.arange(world.states), world.actions * tries)
    actions = np.tile(np.repeat(np.arange(world.actions), tries), world.states)
    following, rewards = world.sample(states[None], actions[None], rng)
    return states, actions, following[0], rewards[0]


def test_a_log_leads_to_the_true_groups_where_samples_are_few_and_to_all_actions_where_they_are_many():
    world = grouped_actions(unlike=0.1)
    data, family = log(world, 30), halved(64)
    few, many = (select_grouping(*data, family, samples=n, gamma=0.9) for n in (2_000, 10**6))
    assert (few.grouping.groups, few.index) == (8, 3)
    assert few.grouping is family[3]
    assert many.grouping.groups == 64
    assert [level.groups for level in few.levels] == [1, 2, 4, 8, 16, 32, 64]
    for level in few.levels:
        assert level.each == 2_000 / (10 * level.groups) or level.each < 1
        assert level.operations == 100 * level.groups
        assert level.bound == pytest.approx(level.approximation + level.estimation)
    assert math.isinf(select_grouping(*data, family, samples=100, gamma=0.9).levels[-1].bound)


def test_the_report_is_a_table_with_the_choice_marked():
    text = str(select_grouping(*log(grouped_actions(), 8), halved(64), samples=2_000, gamma=0.9))
    lines = text.splitlines()
    assert len(lines) == 8
    assert sum("<- chosen" in line for line in lines) == 1
    assert lines[4].startswith("     8          25.0")


def test_rewards_on_another_scale_choose_alike():
    world = grouped_actions(unlike=0.1)
    states, actions, following, rewards = log(world, 10)
    plain = select_grouping(states, actions, following, rewards, halved(64), samples=5_000, gamma=0.9)
    scaled = select_grouping(
        states, actions, following, 50 * rewards - 20, halved(64), samples=5_000, gamma=0.9, rewards_range=(-20, 30)
    )
    assert scaled.index == plain.index
    assert scaled.levels[0].beta_r == pytest.approx(plain.levels[0].beta_r)


def test_states_may_be_named_or_counted():
    data = log(grouped_actions(states=3, actions=4, groups=2), 5)
    chosen = select_grouping(*data, halved(4), samples=500, gamma=0.5, number_of_states=10)
    assert chosen.levels[0].each == 50


GOOD = {"states": [0, 0, 0, 0], "actions": [0, 0, 1, 1], "following": [0, 1, 1, 0], "rewards": [0.0, 1.0, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": [0, 0]}, "must be of one length and not empty; their lengths are 2, 4, 4 and 4"),
        ({key: [] for key in GOOD}, "not empty; their lengths are 0, 0, 0 and 0"),
        ({"actions": [0.5, 0, 1, 1]}, "actions must be whole numbers from 0; float64 ones were given"),
        ({"following": [-1, 0, 0, 0]}, "following must be whole numbers from 0"),
        ({"rewards": [0, 0, np.nan, 0]}, "reward 2 is not finite; drop the row"),
        ({"number_of_states": 1}, "the samples name 2 states"),
        ({"gamma": 1.0}, "gamma lies between 0 and 1"),
        ({"samples": 0}, "samples are at least 1"),
        ({"rewards_range": (1, 1)}, r"rewards_range is \(least, greatest\)"),
        ({"family": []}, r"must go from coarse to fine; it has \[\] groups"),
        ({"family": [ActionGrouping([0, 1]), ActionGrouping([0, 0])]}, r"it has \[2, 1\] groups"),
        ({"family": [ActionGrouping([0])]}, "the grouping is of 1 actions, and there are 2 actions in 2 states"),
        ({"family": [ActionGrouping([[0, 0]] * 3)]}, "of 2 actions in 3 states, and there are 2 actions in 2 states"),
        ({"samples": 1}, r"1 samples are fewer than the 2 pairs .*\(at most 0 groups"),
        (
            {"actions": [0, 0, 0, 0], "family": [ActionGrouping([0, 0])]},
            "no group of the coarsest grouping had two actions",
        ),
    ],
)
def test_a_log_that_cannot_be_judged_is_refused(changes, message):
    given = GOOD | {"family": halved(2), "samples": 100, "gamma": 0.9} | changes
    columns = [np.array(given.pop(key)) for key in GOOD]
    with pytest.raises(FewerError, match=message):
        select_grouping(*columns, given.pop("family"), **given)


# --- in the loop -----------------------------------------------------------------------------------------------------


def groups_at(budget, grouping, world=None, copies=4, seed=0):
    loop = GenerativeLearning(grouping, copies=copies, points=1)
    return loop.learn(world or grouped_actions(), budget, seed).curve.points[-1].extras


def test_the_choice_moves_to_finer_groups_as_samples_grow():
    found = [groups_at(budget, BoundedGrouping())["groups"] for budget in (100, 640, 2560, 60_000)]
    assert found == sorted(found)
    assert found[0] <= 4
    assert found[2] == pytest.approx(8, abs=3)
    assert found[3] == 64


def test_the_pilot_is_part_of_the_budget_and_is_learned_from():
    extras = groups_at(2560, BoundedGrouping(share=0.25))
    assert extras["pilot"] == pytest.approx(640, abs=20)
    assert extras["bound"] > 0
    # the pilot alone already makes a good policy
    assert groups_at(2560, BoundedGrouping(share=1.0))["loss"] < 0.5


@pytest.mark.parametrize("by_state", [False, True])
def test_what_was_seen_merges_actions_that_are_numbered_at_random(by_state):
    """Four kinds of actions, each of which leads elsewhere, in an order of its own in each state or one for all."""
    rng = np.random.default_rng(0)
    order = [rng.permutation(32) for _ in range(6)] if by_state else [rng.permutation(32)] * 6
    P, R = np.zeros((6, 32, 6)), np.zeros((6, 32))
    for state in range(6):
        P[state, np.arange(32), (state + order[state] % 4) % 6] = 0.99
        R[state] = order[state] % 4 / 10 + state / 10
    world = DiscountedMDP("shuffled", P + 0.01 / 6, R, 0.9, noise=0.1)
    found = groups_at(6 * 32 * 8, BoundedGrouping("pilot", by_state=by_state, levels=(1, 4, 32)), world)
    blind = groups_at(6 * 32 * 8, BoundedGrouping(levels=(1, 4, 32)), world)
    assert found["groups"] == 4
    assert blind["groups"] == 32  # neighbours are not alike here
    assert found["loss"] < 0.1


def test_features_merge_actions_too():
    plain, order = grouped_actions(actions=16, groups=4, unlike=0.0), np.random.default_rng(0).permutation(16)
    kind = (order // 4)[:, None] + np.random.default_rng(1).normal(0, 0.05, size=(16, 2))
    world = DiscountedMDP("shuffled", plain.P[:, order], plain.R[:, order], 0.9, 0.3, features=kind)
    loop = GenerativeLearning(BoundedGrouping("features"), copies=3, points=1)
    assert groups_at(3000, loop.grouping, world)["groups"] == 4
    state = loop.start(world, 3000, 0)
    loop.advance(state)
    assert all(len(set(state.labels[0, 0][order // 4 == group])) == 1 for group in range(4))
    with pytest.raises(FewerError, match="brings no features of its actions"):
        groups_at(3000, BoundedGrouping("features"))


def test_a_state_with_one_action_does_not_hide_how_unlike_the_others_are():
    world = grouped_actions(states=4, actions=16, groups=16, unlike=1.0)
    allowed = np.ones((4, 16), bool)
    allowed[0, 1:] = False
    some = DiscountedMDP("some", world.P, world.R, 0.9, 0.3, allowed=allowed)
    assert groups_at(20_000, BoundedGrouping(), some)["groups"] == 16


def test_one_action_needs_no_choice():
    assert groups_at(100, BoundedGrouping(), grouped_actions(actions=1, groups=1))["groups"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoundedGrouping("kmeans"), "unknown family 'kmeans'; choose neighbours, features or pilot"),
        (lambda: BoundedGrouping(share=0), r"share lies in \(0, 1\]; 0 was given"),
        (lambda: BoundedGrouping(delta=1), "delta lies between 0 and 1, scales are above 0 and price is not below"),
        (lambda: LossBound(scales=(0.0, 1.0)), "scales are above 0"),
        (lambda: LossBound(price=-1), "price is not below"),
        (
            lambda: groups_at(39, BoundedGrouping()),
            "a pilot of 0.5 of 39 samples does not reach two actions twice in each of 10 states; raise the budget to 80",
        ),
        (
            lambda: groups_at(640, BoundedGrouping(levels=(64,))),
            None,
        ),
        (
            lambda: groups_at(500, BoundedGrouping(levels=(64,))),
            r"500 samples are fewer than the 640 pairs of a state and a group of the coarsest grouping; give a coarser one "
            r"\(at most 50 groups\)",
        ),
        (lambda: groups_at(640, BoundedGrouping("pilot")), "tries all 64 actions of 10 states four times; .* to 5120"),
        (
            lambda: groups_at(
                500,
                BoundedGrouping("pilot"),
                DiscountedMDP("some", np.ones((1, 2, 1)), np.ones((1, 2)), 0.9, allowed=np.array([[True, False]])),
            ),
            "some states lack actions, so what was seen of actions cannot be compared",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    if message is None:
        make()
        return
    with pytest.raises(FewerError, match=message):
        make()


def test_it_is_raced_by_its_name():
    loop = compose.loop("action-grouping(share=0.25) + grouped-q-learning + generative-learning(copies=2)")
    assert loop.grouping == BoundedGrouping(share=0.25)
    assert compose.loop("given-groups").grouping == GivenGroups()


# --- the claim's own condition ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chosen", "verdict"), [(1.0, "holds"), (1.3, "unclear"), (2.0, "does not hold")])
def test_near_the_least_looks_at_the_least_mean(chosen, verdict):
    noise = np.random.default_rng(0).normal(0, 0.2, size=8)
    measures = [
        {"a": {"loss": 1 + each}, "b": {"loss": 3.0}, "chosen": {"loss": chosen + (each if chosen == 1.0 else 0)}}
        for each in noise
    ]
    condition = near_the_least("loss", "chosen", ("a", "b"), 1.25)
    assert condition.text == "loss: chosen is at most 1.25 times the least of (a, b)"
    answer = condition.judge(Evidence(measures=measures))
    assert answer.verdict == verdict
    assert answer.low <= answer.estimate <= answer.high
