"""Partitions of actions, and the plain choices of one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fewer.core.errors import FewerError
from fewer.explore import groupings
from fewer.explore.generative import Account
from fewer.explore.groupings import (
    ActionGrouping,
    GivenGroups,
    Members,
    NeighbourGroups,
    OneGroup,
    RandomGroups,
    Ungrouped,
    halved,
    merged,
    neighbours,
)


def random_labels(seed, states, actions, groups):
    """Labels with every group and some actions that a state does not have."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, groups, size=(states, actions))
    labels[0] = np.arange(actions) % groups
    labels[:, 0] = 0
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 5))
def test_members_are_those_of_a_plain_loop(seed, states, groups):
    labels = random_labels(seed, states, 7, groups)
    grouping = ActionGrouping(labels)
    members = Members(np.stack([labels, np.roll(labels, 1, axis=1)]), grouping.groups)
    rng = np.random.default_rng(seed)
    for run, each in enumerate(members.labels):
        for state in range(states):
            for group in range(grouping.groups):
                inside = set(np.flatnonzero(each[state] == group))
                assert members.size[run, state, group] == len(inside)
                if not inside:
                    continue
                at, chosen = np.full((2, 200), state), np.full((2, 200), group)
                if members.size[1 - run, state, group]:
                    assert set(members.draw(at, chosen, rng)[run]) <= inside
    chosen = members.labels.max(axis=-1)
    policy = members.play(chosen)
    assert policy.sum(axis=-1) == pytest.approx(1)
    assert ((policy > 0) == (members.labels == chosen[..., None])).all()
    assert members.of(np.zeros((2, 7), int), np.tile(np.arange(7), (2, 1))).tolist() == members.labels[:, 0].tolist()


def test_members_are_drawn_uniformly_and_all_of_them():
    grouping = ActionGrouping([0, 1, 1, 1, 1, 1, 0])
    drawn = grouping.sample_member(np.ones(5000, dtype=int), np.random.default_rng(0))
    times = np.bincount(drawn, minlength=7)
    assert times[[0, 6]].sum() == 0
    assert chisquare(times[1:6]).pvalue > 0.001
    assert (grouping.to_group(drawn) == 1).all()


def test_a_partition_may_differ_with_the_state():
    grouping = ActionGrouping([[0, 0, 1], [1, 0, -1]])
    assert grouping.to_group([0, 0, 2], [0, 1, 1]).tolist() == [0, 1, -1]
    assert grouping.sample_member([0, 1], np.random.default_rng(0), [1, 1]).tolist() == [1, 0]
    with pytest.raises(FewerError, match="states are whole numbers from 0 to 1; 2 was given"):
        grouping.to_group(0, 2)


def test_a_mask_takes_actions_away_and_drops_groups_that_are_left_empty():
    grouping = ActionGrouping([0, 0, 1, 2])
    left = grouping.allowed(np.array([[True, False, False, True], [True, True, False, False]]))
    assert left.labels.tolist() == [[0, -1, -1, 1], [0, 0, -1, -1]]
    assert left.groups == 2
    assert left.allowed(np.ones((2, 4), bool)).labels.tolist() == left.labels.tolist()
    with pytest.raises(FewerError, match="leaves state 1 without an action"):
        grouping.allowed(np.array([[True] * 4, [False] * 4]))
    with pytest.raises(FewerError, match=r"the mask is \(1, 3\), but the partition is of 4 actions$"):
        grouping.allowed(np.ones((1, 3), bool))
    with pytest.raises(FewerError, match="of 4 actions in 2 states"):
        left.allowed(np.ones((3, 4), bool))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "group 1 of 3 is empty"),
        ([0, -1], r"action 1 is in no group \(1 such actions\)"),
        ([[0, 0], [-1, -1]], "state 1 has no action"),
        ([0, -2], "from 0, or -1; -2 was given"),
        ([0, 0.5], "whole numbers"),
        ([0, np.nan], "whole numbers"),
        (["a", "b"], "whole numbers"),
        ([], "not empty"),
        ([[[0]]], r"their shape is \(1, 1, 1\)"),
    ],
)
def test_what_is_no_partition_is_refused(labels, message):
    with pytest.raises(FewerError, match=message):
        ActionGrouping(labels)


def test_what_is_not_there_cannot_be_asked_for():
    grouping, rng = ActionGrouping([[0, 0, 1], [0, 0, -1]]), np.random.default_rng(0)
    with pytest.raises(FewerError, match="actions are whole numbers from 0 to 2; 3 was given"):
        grouping.to_group(3)
    with pytest.raises(FewerError, match="groups are whole numbers from 0 to 1; -1 was given"):
        grouping.sample_member(-1, rng)
    with pytest.raises(FewerError, match="group 1 has no member in state 1"):
        grouping.sample_member(1, rng, 1)
    with pytest.raises(
        FewerError, match="here: the grouping is of 3 actions in 2 states, and there are 3 actions in 4"
    ):
        grouping.check(4, 3, "here")


def test_the_share_of_actions_with_company():
    assert ActionGrouping([0, 0, 1, 2]).shared == 0.5
    assert ActionGrouping(np.arange(5)).shared == 0
    assert ActionGrouping([[0, 0, 1], [0, 1, -1]]).shared == pytest.approx(2 / 5)


# --- families --------------------------------------------------------------------------------------------------------


def nested(coarse, fine):
    return all(len(set(coarse[fine == group])) == 1 for group in np.unique(fine))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70))
def test_neighbours_halved_are_nested_and_even(actions):
    family = halved(actions)
    assert [each.groups for each in family] == sorted({*(2**i for i in range(7) if 2**i < actions), actions})
    for coarse, fine in itertools.pairwise(family):
        assert nested(coarse.labels[0], fine.labels[0])
        assert np.ptp(fine.members.size) <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.booleans())
def test_merged_partitions_are_nested_and_of_the_sizes_asked_for(seed, actions, by_state):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, actions, 2) if by_state else (actions, 2))
    levels = sorted(set(rng.integers(1, actions + 1, size=3).tolist()))
    family = merged(features, levels)
    assert [each.groups for each in family] == levels
    for coarse, fine in itertools.pairwise(family):
        assert all(nested(*rows) for rows in zip(coarse.labels, fine.labels, strict=True))
    assert len(family[0].labels) == (3 if by_state else 1)


def test_merging_finds_clusters_however_many_actions_there_are(monkeypatch):
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=300)
    features = np.eye(4)[true] * 10 + rng.normal(size=(300, 4))
    for most in (4096, 50):
        monkeypatch.setattr(groupings, "_MOST", most)
        by_size = {each.groups: each.labels[0] for each in merged(features)}
        assert nested(by_size[4], true)
        assert nested(true, by_size[4])
        assert sorted(by_size) == [1, 2, 4, 8, 16, 32, *([64, 128, 256] if most > 300 else []), 300]
    # of many actions of few kinds there are no more clusters than kinds
    repeated = merged(np.eye(7)[np.arange(300) % 7], (3, 20, 300))
    assert [each.groups for each in repeated] == [3, 7, 300]
    assert nested(repeated[1].labels[0], np.arange(300) % 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: merged(np.ones(3)), r"their shape is \(3,\)"),
        (lambda: merged(np.ones((0, 3))), "not empty"),
        (lambda: merged([[0.0], [np.nan]]), "the features of action 1 are not all finite"),
        (lambda: merged(np.ones((3, 1)), (4,)), r"3 actions make 1 to 3 groups; levels \(4,\) were given"),
        (lambda: halved(3, (0, 2)), "1 to 3 groups"),
        (lambda: neighbours(3, 4), "4 were asked for"),
    ],
)
def test_what_makes_no_family_is_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()


# --- choices ---------------------------------------------------------------------------------------------------------


def account(groups=None, actions=6, runs=3):
    nothing = Members(np.zeros((1, 1, actions), int), 1)
    rng = np.random.default_rng(0)
    return Account(runs, 2, actions, 0.9, (0.0, 1.0), None, groups, None, 100, rng, lambda *_: None, nothing)


def test_plain_choices():
    assert [each.labels.tolist() for each in Ungrouped().choose(account())] == [[[0, 1, 2, 3, 4, 5]]]
    assert [each.labels.tolist() for each in OneGroup().choose(account())] == [[[0] * 6]]
    assert [each.labels.tolist() for each in NeighbourGroups(2).choose(account())] == [[[0, 0, 0, 1, 1, 1]]]
    drawn = RandomGroups(3).choose(account(runs=20))
    assert all(np.bincount(each.labels[0]).tolist() == [2, 2, 2] for each in drawn)
    assert len({tuple(each.labels[0]) for each in drawn}) > 10


def test_a_given_partition_is_taken_as_it_is():
    own = ActionGrouping([0, 1, 0, 1, 0, 1])
    assert GivenGroups().choose(account(own)) == [own]
    assert GivenGroups((0, 0, 1)).choose(account(own))[0].labels.tolist() == [[0, 0, 1]]
    assert GivenGroups([[0, 1], [1, 0]]).choose(account())[0].labels.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(FewerError, match="given-groups: this task brings no partition"):
        GivenGroups().choose(account())
