from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.control import replay as module
from fewer.control.replay import Replay
from fewer.core.errors import FewerError


def filled(numbers, capacity, copies=1):
    replay = Replay(capacity, observations=2, actions=1)
    for begin in range(0, len(numbers), copies):
        part = torch.tensor(numbers[begin : begin + copies], dtype=torch.float32)
        rows = part[:, None]
        replay.add(rows.expand(-1, 2), rows + 0.5, part * 2, rows.expand(-1, 2) + 1, part % 2 == 0)
    return replay


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 30))
def test_the_newest_are_kept_and_fields_stay_together(capacity, copies, rounds):
    copies = min(copies, capacity)
    numbers = list(range(copies * rounds))
    replay = filled(numbers, capacity, copies)
    assert len(replay) == min(capacity, len(numbers))
    batch = replay.take(torch.arange(len(replay)))
    assert sorted(batch.observations[:, 0].tolist()) == numbers[-capacity:]
    first = batch.observations[:, 0]
    assert torch.equal(batch.actions[:, 0], first + 0.5)
    assert torch.equal(batch.rewards, first * 2)
    assert torch.equal(batch.next_observations[:, 1], first + 1)
    assert torch.equal(batch.continues, (first % 2 != 0).float())


def test_draws_are_uniform_with_replacement():
    replay = filled(list(range(8)), 8)
    torch.manual_seed(0)
    counts = torch.bincount(replay.sample(40_000).observations[:, 0].long(), minlength=8)
    expected = 5000
    assert float(((counts - expected) ** 2 / expected).sum()) < 24.3  # chi-squared, 7 degrees of freedom, 0.1 %


def test_state_goes_over_to_another_replay():
    one, two = filled(list(range(11)), 4), Replay(4, 2, 1)
    two.load_state_dict(one.state_dict())
    places = torch.arange(4)
    assert two.added == 11
    assert torch.equal(one.take(places).rewards, two.take(places).rewards)


def test_empty_and_impossible(monkeypatch):
    with pytest.raises(FewerError, match="it is empty"):
        Replay(3, 1, 1).sample(2)
    with pytest.raises(FewerError, match="a capacity of 0 holds nothing"):
        Replay(0, 1, 1)
    monkeypatch.setattr(module, "free_memory", lambda: 2**20)
    with pytest.raises(FewerError, match=r"1,000,000 transitions of 5 numbers take 0.0 GiB and 0.0 GiB are free"):
        Replay(1_000_000, 1, 1)


def test_values_arrive_unchanged():
    replay = Replay(2, 3, 2)
    observation, action = torch.randn(1, 3), torch.randn(1, 2)
    replay.add(observation, action, torch.tensor([np.pi], dtype=torch.float32), observation * 2, torch.tensor([True]))
    batch = replay.take(torch.tensor([0]))
    assert torch.equal(batch.observations, observation)
    assert torch.equal(batch.actions, action)
    assert torch.equal(batch.next_observations, observation * 2)
    assert batch.continues.item() == 0
