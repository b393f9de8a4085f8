"""Learners on groups, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.explore.generative import Account, Samples
from fewer.explore.group_learners import AveragedModel, GroupedQLearning, in_rounds
from fewer.explore.groupings import ActionGrouping, Members

LABELS = np.array([[0, 0, 1, 2, 2], [1, 0, 0, -1, 1], [0, 1, 1, 0, 0]])  # group 2 is only in state 0


def account(labels=LABELS, runs=2, gamma=0.8):
    grouping = ActionGrouping(labels)
    members, rng = Members(grouping.labels[None], grouping.groups), np.random.default_rng(0)
    return Account(runs, 3, 5, gamma, (0.0, 1.0), None, None, None, 100, rng, lambda *_: None, members)


def some_samples(seed=0, n=60, runs=2, labels=LABELS):
    rng = np.random.default_rng(seed)
    states = rng.integers(3, size=(runs, n))
    keys = np.where(np.broadcast_to(labels, (3, 5))[states] >= 0, rng.random((runs, n, 5)), -1)
    return Samples(states, keys.argmax(axis=-1), rng.integers(3, size=(runs, n)), rng.random((runs, n)))


def plain_model(samples, run, labels, groups):
    """Means of a loop over samples; what was never tried pays nothing and goes anywhere alike."""
    P, R = np.full((3, groups, 3), 1 / 3), np.zeros((3, groups))
    for s in range(3):
        for j in range(groups):
            inside = [
                i for i, a in enumerate(samples.actions[run]) if samples.states[run, i] == s and labels[s, a] == j
            ]
            if inside:
                P[s, j] = np.bincount(samples.next[run, inside], minlength=3) / len(inside)
                R[s, j] = samples.rewards[run, inside].mean()
    return P, R


def plain_plan(P, R, there, gamma):
    values = np.zeros(3)
    for _ in range(500):
        of_groups = np.where(there, R + gamma * P @ values, -np.inf)
        values = of_groups.max(axis=1)
    return of_groups


def test_the_model_and_its_plan_are_those_of_plain_loops():
    at, learner, samples = account(), AveragedModel(), some_samples()
    learner.begin(at)
    half = [Samples(*(getattr(samples, name)[:, part] for name in ("states", "actions", "next", "rewards")))
            for part in (slice(0, 25), slice(25, None))]  # fmt: skip
    for each in half:
        learner.learn(at, each)
    policy = learner.policy(at)
    for run in range(2):
        of_groups = plain_plan(*plain_model(samples, run, LABELS, 3), at.members.size[0] > 0, 0.8)
        for state in range(3):
            inside = LABELS[state] == of_groups[state].argmax()
            np.testing.assert_allclose(policy[run, state], inside / inside.sum())


def test_without_samples_and_with_one_group_a_policy_is_uniform():
    at = account(np.zeros((1, 5), int))
    learner = AveragedModel()
    learner.begin(at)
    assert (learner.policy(at) == 0.2).all()
    learner.learn(at, some_samples(labels=np.zeros((1, 5), int)))
    assert (learner.policy(at) == 0.2).all()


def test_one_member_may_be_played_the_first_or_the_best():
    labels, samples = np.array([[0, 0, 0, 1, 1]]), some_samples(3, n=2000, labels=np.zeros((1, 5), int))
    samples = Samples(samples.states, samples.actions, samples.next, 0.1 * samples.actions)  # the last member pays most
    chosen = {}
    for play in ("uniform", "representative", "best"):
        at, learner = account(labels), AveragedModel(play)
        learner.begin(at)
        learner.learn(at, samples)
        policy = learner.policy(at)
        assert policy.sum(axis=-1) == pytest.approx(1)
        chosen[play] = policy
    np.testing.assert_array_equal(chosen["uniform"][0, 0], [0, 0, 0, 0.5, 0.5])
    assert (chosen["representative"].argmax(axis=-1) == 3).all()
    assert (chosen["best"].argmax(axis=-1) == 4).all()


def test_few_samples_of_a_member_count_little():
    """One lucky sample of an action does not beat many good ones of another."""
    at, learner = account(np.array([[0, 0, 1, 1, 1]]), runs=1), AveragedModel("best")
    actions = np.array([[0] * 50 + [1] + [2] * 50])
    rewards = np.array([[0.9] * 50 + [1.0] + [0.1] * 50])
    learner.begin(at)
    learner.learn(at, Samples(0 * actions, actions, 0 * actions, rewards))
    assert learner.policy(at)[0, 0].tolist() == [0, 1, 0, 0, 0]  # shrunk: 0.9 + 0.1 / 11 is still above 0.9
    learner.learn(at, Samples(0 * actions[:, :2], actions[:, :2] * 0 + 1, 0 * actions[:, :2], np.array([[0.0, 0.5]])))
    assert learner.policy(at)[0, 0].tolist() == [1, 0, 0, 0, 0]


def test_q_learning_is_the_rule_written_out_in_rounds():
    at, learner, samples = account(), GroupedQLearning(rate=0.7), some_samples(5)
    learner.begin(at)
    learner.learn(at, samples)
    there = at.members.size[0] > 0
    for run in range(2):
        values, times = np.zeros((3, 3)), np.zeros((3, 3))
        cells = [(s, LABELS[s, a]) for s, a in zip(samples.states[run], samples.actions[run], strict=True)]
        rounds = [cells[:i].count(cell) for i, cell in enumerate(cells)]
        for number in range(max(rounds) + 1):
            before = np.where(there, values, -np.inf).max(axis=1)
            for i, (s, j) in enumerate(cells):
                if rounds[i] == number:
                    times[s, j] += 1
                    share = 1 / (1 + 0.7 * (1 - 0.8) * times[s, j])
                    target = samples.rewards[run, i] + 0.8 * before[samples.next[run, i]]
                    values[s, j] += share * (target - values[s, j])
        np.testing.assert_allclose(at.memory["values"][run], values)
    assert (learner.policy(at)[:, LABELS < 0] == 0).all()


@given(st.lists(st.integers(0, 4), max_size=30))
def test_rounds_hold_each_place_once_and_keep_its_order(places):
    place = np.array(places, dtype=np.int64)
    rounds = in_rounds(place)
    for number, each in enumerate(rounds):
        assert len(set(place[each])) == len(each)
        assert all(np.count_nonzero(place[:i] == place[i]) == number for i in each)
    assert sorted(np.concatenate([*rounds, np.zeros(0, int)]).tolist()) == list(range(len(place)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AveragedModel("x"), "averaged-model: unknown play 'x'; choose uniform, representative or best"),
        (lambda: GroupedQLearning(0), "grouped-q-learning: rate must be above 0; 0 was given"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
