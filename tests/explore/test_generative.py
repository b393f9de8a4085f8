"""The loop that learns from a sampler, and one template for all its groupings and learners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.explore.generative import GenerativeLearning, Samples, level_out
from fewer.explore.group_learners import AveragedModel, GroupedQLearning
from fewer.explore.groupings import ActionGrouping, GivenGroups, NeighbourGroups, OneGroup, RandomGroups, Ungrouped
from fewer.explore.sampled_worlds import DiscountedMDP, SampledWorld, grouped_actions

LOOP = "fewer.explore.generative:GenerativeLearning"
PARTS = {name: part for name, part in catalogue.fillings().items() if LOOP in part.loops}
WORLD = grouped_actions(states=4, actions=6, groups=3)


@pytest.fixture(params=[*PARTS, "action-grouping(family='pilot', levels=(1, 3, 6)) + grouped-q-learning"])
def loop(request):
    made = compose.loop(request.param)
    return GenerativeLearning(made.grouping, made.learner, copies=3, points=4)


def test_the_baselines_are_named():
    assert set(PARTS) >= {
        *("ungrouped", "one-group", "neighbour-groups", "random-groups", "given-groups", "action-grouping"),
        *("averaged-model", "grouped-q-learning"),
    }


def test_random_groups_of_a_world_with_few_actions_are_refused():
    with pytest.raises(FewerError, match="6 actions make 1 to 6 groups; 8 were asked for"):
        GenerativeLearning(RandomGroups()).learn(WORLD, 100)


def test_a_policy_is_a_distribution_over_the_actions_of_each_state(loop):
    world = grouped_actions(states=4, actions=8, groups=4)
    learned = loop.learn(world, 400)
    assert learned.result.shape == (3, 4, 8)
    assert (learned.result >= 0).all()
    assert learned.result.sum(axis=-1) == pytest.approx(1)
    assert [point.spent for point in learned.curve][-1] == 400
    for point in learned.curve:
        assert point.extras["loss"] == pytest.approx(world.optimum - point.score)
        assert point.extras["loss"] > -1e-9
        assert 1 <= point.extras["groups"] <= 8


def test_a_resumed_run_is_the_same_to_the_bit(loop, tmp_path):
    world = grouped_actions(states=4, actions=8, groups=4)
    whole = [(point.spent, point.score, point.extras["loss"]) for point in loop.run(world, 400, 5)]
    run = loop.run(world, 400, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [(point.spent, point.score, point.extras["loss"]) for point in loop.run(world, 400, 5, tmp_path / "state")]
    assert again == whole
    assert [point.spent for point in loop.run(world, 400, 5, tmp_path / "state")] == [spent for spent, _, _ in whole]


# --- how samples are spent -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 40))
def test_tries_are_levelled_out(seed, cells, count):
    rng = np.random.default_rng(seed)
    tried, there = rng.integers(8, size=(3, cells)), rng.random((3, cells)) < 0.7
    there[:, 0] = True
    extra = level_out(tried, there, count, rng)
    assert (extra.sum(axis=1) == count).all()
    assert (extra >= 0).all()
    assert (extra[~there] == 0).all()
    after = tried + extra
    for run in range(3):
        given_to = extra[run] > 0
        if given_to.any():  # nobody who got a try is more than one above anybody who could have got it
            assert after[run, given_to].max() <= after[run, there[run]].min() + 1


def test_who_gets_the_last_tries_is_drawn():
    rng = np.random.default_rng(0)
    extra = level_out(np.zeros((4000, 4), int), np.ones((4000, 4), bool), 6, rng)
    assert extra.mean(axis=0) == pytest.approx([1.5] * 4, abs=0.05)


class Recorder:
    """A learner that only remembers what it is given."""

    def __init__(self):
        self.seen = []

    def begin(self, account):
        pass

    def learn(self, account, samples):
        self.seen.append(samples)

    def policy(self, account):
        return np.full((account.runs, account.states, account.actions), 1 / account.actions)


def recorded(grouping, budget, world=WORLD, copies=2, points=3):
    learner = Recorder()
    GenerativeLearning(grouping, learner, copies, points).learn(world, budget)
    return Samples(*(np.concatenate([getattr(each, name) for each in learner.seen], axis=1) for name in FIELDS))


FIELDS = ("states", "actions", "next", "rewards")


def test_each_state_and_group_is_tried_equally_often_by_uniform_members():
    labels = [0, 0, 0, 0, 1, 2]
    samples = recorded(GivenGroups(labels), 12 * 500, copies=1)
    groups = np.array(labels)[samples.actions]
    assert np.bincount((samples.states * 3 + groups).ravel()).tolist() == [500] * 12
    assert np.bincount(samples.actions[groups == 0]) / 2000 == pytest.approx([0.25] * 4, abs=0.05)


def test_all_groupings_get_the_same_total_whatever_they_try_first():
    class Trying:
        def choose(self, account):
            account.sample(np.zeros((2, 30), int), np.tile(np.arange(6), (2, 5)))
            return [ActionGrouping([0, 0, 0, 1, 1, 1])]

    samples = recorded(Trying(), 160)
    assert samples.states.shape == (2, 160)
    times = np.bincount((samples.states[0] * 2 + (samples.actions[0] > 2)), minlength=8)
    assert times.tolist() == [20] * 8  # what was tried before is made up for
    points = list(GenerativeLearning(Trying(), Recorder(), 2, 10).run(WORLD, 160, 0))
    assert [point.spent for point in points] == [32, 48, 64, 80, 96, 112, 128, 144, 160]
    assert points[0].extras["pilot"] == 30
    with pytest.raises(FewerError, match="Trying tried more than the budget of 20 samples"):
        GenerativeLearning(Trying(), Recorder(), 2).learn(WORLD, 20)


def test_what_comes_in_blocks_is_spent_all_the_same():
    big = GenerativeLearning(OneGroup(), copies=2**17, points=1)
    learned = big.learn(grouped_actions(states=2, actions=2, groups=1), 20)
    assert learned.ledger.spent == 20


@pytest.mark.parametrize(("budget", "points"), [(7, 10), (10, 3), (5, 1), (30, 10)])
def test_a_curve_has_as_many_points_as_it_can_and_ends_at_the_budget(budget, points):
    spent = [point.spent for point in GenerativeLearning(OneGroup(), points=points).run(WORLD, budget, 0)]
    assert spent == sorted({budget * i // points for i in range(1, points + 1)} - {0})


# --- closed forms and reductions -------------------------------------------------------------------------------------


def test_every_action_for_itself_is_ordinary_planning_bit_for_bit():
    """Against counts and value iteration in plain loops over the same samples."""
    samples = recorded(Ungrouped(), 100, copies=1)
    found = GenerativeLearning(Ungrouped(), AveragedModel(), copies=1, points=3).learn(WORLD, 100).result[0]
    P, R = np.full((4, 6, 4), 0.25), np.zeros((4, 6))
    for s in range(4):
        for a in range(6):
            chosen = [i for i in range(100) if (samples.states[0, i], samples.actions[0, i]) == (s, a)]
            P[s, a] = np.bincount(samples.next[0, chosen], minlength=4) / len(chosen)
            R[s, a] = sum(samples.rewards[0, chosen]) / len(chosen)
    values = np.zeros(4)
    for _ in range(500):
        values = (R + 0.9 * P @ values).max(axis=1)
    assert found.tolist() == np.eye(6)[(R + 0.9 * P @ values).argmax(axis=1)].tolist()


def test_one_group_plays_uniformly_whatever_was_seen():
    losses = [
        GenerativeLearning(OneGroup(), points=1).learn(WORLD, 50, seed).curve.points[0].extras["loss"]
        for seed in (0, 1)
    ]
    uniform = WORLD.optimum - WORLD.value(np.full((1, 4, 6), 1 / 6), np.random.default_rng(0))[0]
    assert losses == pytest.approx([uniform] * 2)


def test_with_equal_actions_the_true_groups_lose_what_the_world_of_groups_loses():
    """Same random stream, so the same samples, and the same policy; with many samples nothing is lost."""
    world = grouped_actions(states=4, actions=12, groups=3, unlike=0.0)
    small = DiscountedMDP("of groups", world.P[:, ::4], world.R[:, ::4], world.gamma, world.noise)
    loop = {grouping: GenerativeLearning(grouping, copies=5, points=4) for grouping in (GivenGroups(), Ungrouped())}
    for budget in (48, 480):
        grouped = list(loop[GivenGroups()].run(world, budget, 3))
        alone = list(loop[Ungrouped()].run(small, budget, 3))
        assert [each.score for each in grouped] == pytest.approx([each.score for each in alone], abs=1e-12)
    assert loop[GivenGroups()].learn(world, 40_000).curve.points[-1].extras["loss"] == pytest.approx(0, abs=1e-9)


def test_merging_two_equal_groups_changes_nothing_in_expectation():
    world = grouped_actions(states=4, actions=8, groups=2, unlike=0.0)
    two, three = GivenGroups((0, 0, 0, 0, 1, 1, 1, 1)), GivenGroups((0, 0, 0, 0, 1, 1, 2, 2))
    # as many samples of each of the two and of the merged one: the merged one is tried twice as often as either
    loss = [
        GenerativeLearning(grouping, copies=1500, points=1).learn(world, budget).curve.points[0].extras["loss"]
        for grouping, budget in ((two, 4 * 2 * 40), (three, 4 * 3 * 40))
    ]
    assert loss[0] == pytest.approx(loss[1], abs=0.02)


def test_q_learning_comes_near_the_plan():
    world = grouped_actions(states=4, actions=8, groups=2, unlike=0.0)
    point = (
        GenerativeLearning(GivenGroups(), GroupedQLearning(), copies=5, points=1).learn(world, 16_000).curve.points[0]
    )
    assert point.extras["loss"] < 0.02 * world.optimum


# --- worlds of all kinds ---------------------------------------------------------------------------------------------


def test_actions_that_a_state_lacks_are_neither_tried_nor_played():
    allowed = np.array([[1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]], dtype=bool)
    world = DiscountedMDP("some", WORLD.P, WORLD.R, 0.9, 0.3, allowed=allowed, groups=WORLD.groups)
    for grouping in (GivenGroups(), compose.loop("action-grouping").grouping, Ungrouped()):
        for learner in (AveragedModel(), GroupedQLearning()):
            learned = GenerativeLearning(grouping, learner, copies=2, points=2).learn(world, 300)
            assert (learned.result[:, ~allowed] == 0).all()
            assert learned.result.sum(axis=-1) == pytest.approx(1)
        samples = recorded(grouping, 300, world)
        assert allowed[samples.states, samples.actions].all()


def test_a_function_is_learned_from_like_arrays():
    def step(states, actions, rng):
        return (states + actions) % 3, (states == 2) * 1.0

    world = SampledWorld("wheel", step, states=3, actions=4, gamma=0.8)
    learned = GenerativeLearning(points=2).learn(world, 60)
    assert learned.result[0, 2, [0, 3]].sum() == 1  # stay where it pays
    assert "loss" not in learned.curve.points[-1].extras
    assert learned.ledger.spent == 60  # judging is free


def test_a_race_runs_on_it():
    for spec in ("given-groups", "grouped-q-learning + neighbour-groups(groups=3)", "generative-learning(points=1)"):
        points = list(compose.loop(spec).run(compose.task("grouped-actions(states=3, actions=6, groups=3)"), 60, 0))
        assert points[-1].spent == 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenerativeLearning(copies=0), "copies and points must be at least 1; they are 0 and 10"),
        (lambda: GenerativeLearning(points=0), "they are 1 and 0"),
        (lambda: GenerativeLearning().learn(WORLD, 3), "a budget of 3 samples is below the first round, which takes 4"),
        (
            lambda: GenerativeLearning().learn(WORLD, 20),
            r"20 samples are fewer than the 24 pairs of a state and a group; group the actions more coarsely \(at most 5 "
            r"groups\), or raise the budget to 24",
        ),
        (
            lambda: GenerativeLearning(GivenGroups((0, 1))).learn(WORLD, 20),
            "grouped-actions.*: the grouping is of 2 actions, and there are 6 actions in 4 states",
        ),
        (
            lambda: GenerativeLearning(NeighbourGroups(2)).learn(compose.task("riverswim"), 20),
            "runs on a Sampled task; riverswim.* is a FiniteMDP",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
