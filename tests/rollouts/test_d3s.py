"""D3S: the most varied subset against brute force, and what is kept."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.advantages import group_relative
from fewer.rollouts.d3s import D3S, DualDownSampling, RandomDownSampling, RewardDownSampling, most_varied


def experience(rewards, mask, entropy=None):
    sampled = SimpleNamespace(entropy=torch.ones(mask.shape) if entropy is None else entropy)
    return SimpleNamespace(rewards=rewards, mask=mask, sampled=sampled)


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8), st.data())
def test_no_subset_varies_more(values, data):
    count = data.draw(st.integers(1, len(values)))
    chosen = most_varied(torch.tensor([values]), count)[0].tolist()
    assert len(set(chosen)) == count
    best = max(np.var(each) for each in itertools.combinations(values, count))
    assert np.var([values[place] for place in chosen]) == pytest.approx(best, abs=1e-9)


def test_a_single_success_is_kept():
    advantages = group_relative(torch.tensor([[0.0, 0, 0, 1, 0, 0, 0, 0]]))
    chosen = most_varied(advantages, 2)[0].tolist()
    assert 3 in chosen
    assert float(advantages[0, chosen].var(correction=0)) > 1


def test_everything_is_kept_where_everything_is_asked_for():
    draws = torch.Generator().manual_seed(0)
    rewards = torch.rand(4, 6, generator=draws)
    mask = torch.rand(24, 5, generator=draws) < 0.7
    advantages = group_relative(rewards).reshape(-1, 1).expand(24, 5)
    assert torch.equal(DualDownSampling((1.0, 1.0), (1.0, 1.0))(advantages, experience(rewards, mask), 0.3), mask)


def test_shares_grow_along_the_run():
    draws = torch.Generator().manual_seed(0)
    rewards, mask = torch.rand(8, 8, generator=draws), torch.ones(64, 10, dtype=torch.bool)
    advantages = group_relative(rewards).reshape(-1, 1).expand(64, 10)
    selector = D3S(samples=(0.25, 1.0), tokens=(0.2, 0.6))
    for progress, rollouts, tokens in ((0.0, 16, 32), (0.5, 40, 160), (1.0, 64, 384)):
        assert int(selector.rollouts(group_relative(rewards), progress).sum()) == rollouts
        assert int(selector(advantages, experience(rewards, mask), progress).sum()) == tokens


def test_kept_tokens_are_those_of_largest_advantage_times_entropy():
    draws = torch.Generator().manual_seed(1)
    rewards, entropy = torch.rand(3, 4, generator=draws), torch.rand(12, 6, generator=draws)
    mask = torch.rand(12, 6, generator=draws) < 0.8
    advantages = group_relative(rewards).reshape(-1, 1).expand(12, 6)
    selector = DualDownSampling((0.5, 0.5), (0.3, 0.3))
    kept = selector(advantages, experience(rewards, mask, entropy), 0.0)
    candidates = mask & selector.rollouts(group_relative(rewards), 0.0)[:, None]
    worth = advantages.abs() * entropy
    assert bool((kept <= candidates).all())
    assert int(kept.sum()) == round(0.3 * int(candidates.sum()))
    assert worth[kept].min() >= worth[candidates & ~kept].max()


def test_across_groups_those_without_advantage_disappear_and_variance_rises():
    rewards = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    advantages = group_relative(rewards)
    kept = DualDownSampling((0.375, 1.0)).rollouts(advantages, 0.0)
    assert int(kept.sum()) == 6
    assert bool((advantages.flatten()[kept] != 0).all())
    assert advantages.flatten()[kept].var(correction=0) >= advantages.var(correction=0)
    alone = DualDownSampling((0.5, 1.0), across=False).rollouts(advantages, 0.0).view(4, 4)
    assert alone.sum(1).tolist() == [2, 2, 2, 2]


def test_rollouts_in_another_order_are_kept_in_that_order():
    draws = torch.Generator().manual_seed(2)
    advantages = group_relative(torch.rand(5, 7, generator=draws))
    order = torch.randperm(5, generator=draws)
    selector = DualDownSampling((0.4, 1.0))
    kept, moved = (selector.rollouts(each, 0.0).view(5, 7) for each in (advantages, advantages[order]))
    assert torch.equal(kept[order], moved)


def test_rivals():
    rewards = torch.tensor([[1.0, 0, 0, 0], [0.1, 0.2, 0.9, 0.3]])
    mask = torch.ones(8, 3, dtype=torch.bool)
    kept = RewardDownSampling(0.5)(torch.zeros(8, 3), experience(rewards, mask), 0.0).view(2, 4, 3)
    assert torch.equal(kept.any(2), kept.all(2))
    assert kept.any(2)[0, 0]
    assert kept.any(2).sum(1).tolist() == [2, 2]
    assert kept.any(2)[1].tolist() == [True, False, True, False]
    torch.manual_seed(0)
    chance = [RandomDownSampling((0.25, 0.75))(torch.zeros(8, 3), experience(rewards, mask), p) for p in (0, 0.5, 1)]
    assert [int(each.any(1).sum()) for each in chance] == [2, 4, 6]


def test_errors():
    with pytest.raises(FewerError, match=r"shares lie in \(0, 1\]"):
        D3S(samples=(0.0, 1.0))
    with pytest.raises(FewerError, match=r"shares lie in \(0, 1\]"):
        D3S(tokens=(0.2, 1.5))
    with pytest.warns(UserWarning, match="falls along the run"):
        D3S(samples=(1.0, 0.5))
    for rival in (RewardDownSampling, RandomDownSampling):
        with pytest.raises(FewerError, match=r"\(0, 1\]"):
            rival(0.0 if rival is RewardDownSampling else (0.0, 1.0))
