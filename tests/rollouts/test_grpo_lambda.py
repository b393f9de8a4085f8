"""GRPO-lambda: in which groups length counts, and what it costs."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.grpo_lambda import EfficiencyWhereRight, GRPOLambda, length_penalty, shaped_rewards


def batch(seed, prompts=5, group=4):
    draws = torch.Generator().manual_seed(seed)
    correct = torch.rand(prompts, group, generator=draws) < 0.5
    return correct, torch.randint(1, 20, (prompts, group), generator=draws)


def plain(correct, lengths, chosen, alpha):
    """A group's rewards, as they are written down."""
    counted = [length for right, length in zip(correct, lengths, strict=True) if right]
    found = []
    for right, length in zip(correct, lengths, strict=True):
        if not right:
            found.append(0.0)
        elif not chosen:
            found.append(1.0)
        else:
            spread = statistics.pstdev(counted)
            away = (length - statistics.fmean(counted)) / max(spread, 1e-4) if spread else 0.0
            found.append(1 - alpha / (1 + math.exp(-away)))
    return found


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.21, 0.5, 1.0]))
def test_rewards_are_those_that_are_written_down(seed, lam):
    correct, lengths = batch(seed)
    shaping = EfficiencyWhereRight(lam, alpha=0.3)
    ratio = correct.double().mean(1).tolist()
    ranked = sorted(range(5), key=lambda row: (-ratio[row], row))[: math.ceil(lam * 5 - 1e-9)]
    found = shaping(correct.float(), correct, lengths)
    for row in range(5):
        expected = plain(correct[row].tolist(), lengths[row].tolist(), row in ranked, 0.3)
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_how_many_groups_are_chosen():
    correct = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    chosen = {lam: int(EfficiencyWhereRight(lam).groups(correct).sum()) for lam in (0.0, 0.01, 0.2, 0.21, 1.0)}
    assert chosen == {0.0: 0, 0.01: 1, 0.2: 1, 0.21: 2, 1.0: 5}
    assert EfficiencyWhereRight(0.4).groups(correct).tolist() == [True, True, False, False, False]
    assert EfficiencyWhereRight(1.0, min_ratio=0.5).groups(correct).tolist() == [True, True, True, False, False]
    assert EfficiencyWhereRight(0.2).groups(correct.flip(0)).tolist() == [False] * 4 + [True]


def test_a_right_completion_of_mean_length_costs_half_and_shorter_ones_less():
    correct, lengths = torch.ones(1, 3).bool(), torch.tensor([[4, 6, 8]])
    rewards = EfficiencyWhereRight(1.0, alpha=0.4)(correct.float(), correct, lengths)[0].tolist()
    assert rewards[1] == pytest.approx(0.8)
    assert 1 > rewards[0] > rewards[1] > rewards[2] > 0.6


def test_one_right_completion_and_none():
    correct, lengths = torch.tensor([[True, False], [False, False]]), torch.tensor([[5, 1], [5, 1]])
    assert EfficiencyWhereRight(1.0, alpha=0.4)(correct.float(), correct, lengths).tolist() == [
        [pytest.approx(0.8), 0.0],
        [0.0, 0.0],
    ]


def test_no_group_and_all_groups_are_the_known_methods():
    correct, lengths = batch(3)
    none = GRPOLambda(lam=0.0)["shaping"](correct.float(), correct, lengths)
    assert torch.equal(none, correct.float())
    whole = [each["shaping"](correct.float(), correct, lengths) for each in (GRPOLambda(lam=1.0), length_penalty())]
    assert torch.equal(*whole)


def test_another_order_in_a_group_orders_rewards_alike():
    correct, lengths = batch(4)
    order = torch.tensor([2, 0, 3, 1])
    shaping = EfficiencyWhereRight(0.5)
    found, moved = (
        shaping(correct.float(), correct, lengths),
        shaping(correct.float()[:, order], correct[:, order], lengths[:, order]),
    )
    assert torch.allclose(found[:, order], moved)


def test_flat_lists():
    correct, lengths = batch(5)
    expected = EfficiencyWhereRight()(correct.float(), correct, lengths)
    said = correct.int().flatten().tolist(), lengths.flatten().tolist()
    flat = shaped_rewards(*said, [name for name in "abcde" for _ in range(4)])
    assert flat == pytest.approx(expected.flatten().tolist())


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: GRPOLambda(lam=1.2), r"lam and min_ratio lie in \[0, 1\]"),
        (lambda: GRPOLambda(alpha=1.0), r"alpha in \[0, 1\)"),
        (lambda: shaped_rewards([1, 0], [1], ["a", "a"]), "2 verdicts, 1 lengths and 2 prompts"),
        (lambda: shaped_rewards([], [], []), "0 verdicts"),
        (lambda: shaped_rewards([0.5], [1], ["a"]), "right .1. or wrong .0."),
        (lambda: shaped_rewards([1, 0, 1], [1, 2, 3], ["a", "a", "b"]), "groups of different sizes"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()
