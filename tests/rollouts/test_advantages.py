"""Advantages against plain Python."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewer.core.errors import FewerError
from fewer.rollouts.advantages import GroupRelative, LeaveOneOut, Reward, group_relative, leave_one_out
from fewer.rollouts.loop import PostTraining

groups = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.integers(-3, 3).map(float))


@given(groups)
def test_group_relative_is_the_score_in_standard_deviations(rewards):
    found = group_relative(torch.from_numpy(rewards), epsilon=1e-6)
    for row, group in zip(found.tolist(), rewards.tolist(), strict=True):
        mean, deviation = statistics.fmean(group), statistics.pstdev(group)
        assert row == pytest.approx([(each - mean) / (deviation + 1e-6) for each in group], abs=1e-9)
    unscaled = group_relative(torch.from_numpy(rewards), scale=False)
    assert torch.allclose(unscaled, torch.from_numpy(rewards - rewards.mean(1, keepdims=True)))


@given(groups)
def test_leave_one_out_takes_the_mean_of_the_others(rewards):
    found = leave_one_out(torch.from_numpy(rewards)).tolist()
    for row, group in zip(found, rewards.tolist(), strict=True):
        others = [statistics.fmean(group[:place] + group[place + 1 :]) for place in range(len(group))]
        assert row == pytest.approx([one - other for one, other in zip(group, others, strict=True)], abs=1e-9)


@given(groups, st.floats(-5, 5))
def test_what_all_of_a_group_get_changes_nothing(rewards, offset):
    given_rewards = torch.from_numpy(rewards)
    for way in (group_relative, leave_one_out):
        assert torch.allclose(way(given_rewards), way(given_rewards + offset), atol=1e-4)


def test_fillings():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert torch.equal(GroupRelative()(rewards, None), group_relative(rewards))
    assert GroupRelative(scale=False)(rewards, None).tolist() == [[0.5, -0.5], [0.0, 0.0]]
    assert LeaveOneOut()(rewards, None).tolist() == [[1.0, -1.0], [0.0, 0.0]]
    assert torch.equal(Reward()(rewards, None), rewards)
    assert Reward(centred=True)(rewards, None).tolist() == [[0.75, -0.25], [-0.25, -0.25]]


@pytest.mark.parametrize("advantage", [GroupRelative(), LeaveOneOut()])
def test_a_group_of_one_is_refused(advantage):
    with pytest.raises(FewerError, match="group is 1; take 2 or more"):
        PostTraining(advantage=advantage, group=1)
    assert PostTraining(advantage=Reward(), group=1).group == 1
