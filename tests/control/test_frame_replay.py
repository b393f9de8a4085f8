from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.control import frame_replay as module
from fewer.control.dock_world import dock_2d
from fewer.control.frame_replay import FrameReplay, memory_for
from fewer.control.observed import Observed, Part
from fewer.control.replay import Replay
from fewer.core.errors import FewerError
from fewer.core.ring import Ring

SIZE = (2, 3, 1)


def seeing(stack, vector=True):
    return Observed((Part((1,)), Part(SIZE, image=True)) if vector else (Part(SIZE, image=True),), stack)


def row(observed, episode, step):
    """An observation whose frames say where they are: 10 times the episode's number, plus the step."""
    frames = [10 * episode + max(0, step - back) for back in range(observed.stack - 1, -1, -1)]
    vector = [] if not observed.vector else [100 * episode + step]
    return torch.tensor([*vector, *np.repeat(frames, 6)], dtype=torch.float32)


def played(replay, lengths):
    for episode, length in enumerate(lengths):
        for step in range(length):
            replay.add(
                row(replay.observed, episode, step)[None],
                torch.full((1, 1), step / 10),
                torch.tensor([10.0 * episode + step]),
                row(replay.observed, episode, step + 1)[None],
                torch.tensor([step == length - 1]),
            )
    return replay


@pytest.mark.parametrize("stack", [1, 2, 3])
@pytest.mark.parametrize("vector", [True, False])
def test_what_is_drawn_is_what_was_put_in(stack, vector):
    replay = played(FrameReplay(100, seeing(stack, vector), 1), [4, 2, 6])
    batch = replay.take(torch.arange(len(replay)))
    places = [(episode, step) for episode, length in enumerate([4, 2, 6]) for step in range(length)]
    assert len(batch) == len(places) == 12
    for number, (episode, step) in enumerate(places):
        assert torch.equal(batch.observations[number], row(replay.observed, episode, step))
        assert torch.equal(batch.next_observations[number], row(replay.observed, episode, step + 1))
        assert batch.rewards[number] == 10 * episode + step
        assert batch.actions[number].item() == pytest.approx(step / 10)
        assert batch.continues[number] == (step != [4, 2, 6][episode] - 1)


def test_each_frame_lies_there_once():
    assert played(FrameReplay(100, seeing(3), 1), [30, 20]).stored == 30 + 20 + 2


@pytest.mark.parametrize("stack", [1, 3])
def test_the_oldest_go_first(stack):
    """With room for all frames, as many are held as the capacity says; with less, as many as have all their frames."""
    torch.manual_seed(0)
    replay = played(FrameReplay(6, seeing(stack), 1), [4, 9])
    assert sorted(set(replay.sample(300).rewards.tolist())) == [13, 14, 15, 16, 17, 18]
    tight = played(FrameReplay(100, seeing(stack), 1, frames=8), [4, 9])
    held = len(tight)
    # a transition of T stacked frames needs T + 1
    assert held == 8 - stack
    rewards = tight.take(torch.arange(held)).rewards
    assert rewards.tolist() == [float(10 + step) for step in range(9 - held, 9)]
    batch = tight.take(torch.arange(held))
    assert torch.equal(batch.observations[0], row(tight.observed, 1, 9 - held))
    assert set(tight.sample(200).rewards.tolist()) == set(rewards.tolist())


def test_short_episodes_leave_fewer_transitions_and_none_is_wrong():
    replay = played(FrameReplay(40, seeing(2), 1), [1] * 25 * 4)
    held = len(replay)
    assert 20 <= held < 40  # each needs two frames of its own
    batch = replay.take(torch.arange(held))
    for number, episode in enumerate(range(100 - held, 100)):
        assert batch.rewards[number] == 10 * episode
        assert int(batch.next_observations[number, -1]) == (10 * episode + 1) % 256


def test_copies_are_told_apart():
    observed = seeing(2)
    replay = FrameReplay(60, observed, 1)
    lengths = ([3, 4, 5], [12])
    at = [[(episode, step) for episode, length in enumerate(each) for step in range(length)] for each in lengths]
    for one, two in zip(*at, strict=True):
        both = [one, (two[0] + 10, two[1])]
        before, after = ([row(observed, episode, step + late) for episode, step in both] for late in (0, 1))
        replay.add(torch.stack(before), torch.zeros(2, 1), torch.zeros(2), torch.stack(after), torch.zeros(2))
    assert replay.stored == (3 + 4 + 5 + 3) + (12 + 1)
    batch = replay.take(torch.arange(24))
    for number in range(24):
        episode, step = (at[0][number // 2], (10, number // 2))[number % 2]
        assert torch.equal(batch.observations[number], row(observed, episode, step))


def test_transitions_one_after_another_share_frames_as_well():
    observed = seeing(1)
    rows = torch.stack([row(observed, 0, step) for step in range(9)])
    replay = FrameReplay(20, observed, 1)
    replay.add(rows[:-1], torch.zeros(8, 1), torch.arange(8.0), rows[1:], torch.zeros(8))
    assert (len(replay), replay.stored) == (8, 9)
    assert torch.equal(replay.take(torch.arange(8)).next_observations, rows[1:])


def test_a_successor_that_shares_no_frame_is_stored_whole():
    """As where an action stands for several steps."""
    observed = seeing(3)
    replay = FrameReplay(20, observed, 1)
    for step in (0, 4, 8):
        before, after = row(observed, 0, step)[None], row(observed, 0, step + 4)[None]
        replay.add(before, torch.zeros(1, 1), torch.zeros(1), after, torch.zeros(1))
    batch = replay.take(torch.arange(3))
    assert torch.equal(batch.observations[1], row(observed, 0, 4))
    assert torch.equal(batch.next_observations[1], row(observed, 0, 8))
    assert replay.stored == 1 + 3 * 3


@pytest.mark.parametrize("lengths", [[5, 3], [30, 30], [1] * 50])
def test_it_can_be_saved_and_taken_up(lengths):
    replay, other = played(FrameReplay(20, seeing(3), 1), lengths), FrameReplay(20, seeing(3), 1)
    other.load_state_dict(replay.state_dict())
    for each in (replay, other):
        played(each, [2])  # and goes on in the same way
    assert len(replay) == len(other)
    held = torch.arange(len(replay))
    for name, values in vars(replay.take(held)).items():
        assert name == "returns" or torch.equal(values, getattr(other.take(held), name))
    assert replay.stored == other.stored


def test_which_memory_a_task_gets():
    assert type(memory_for(dock_2d(), 10)) is Replay
    assert type(memory_for(dock_2d(images=True, size=15), 10)) is FrameReplay


def test_it_takes_a_byte_for_a_pixel():
    replay = FrameReplay(1000, Observed((Part((20, 20, 3), image=True),), stack=3), 2)
    rings = [each for each in vars(replay).values() if isinstance(each, Ring)]
    taken = sum(each.rows.numel() * each.rows.element_size() for each in rings)
    assert taken < 1.2 * 1000 * 20 * 20 * 3


def test_errors(monkeypatch):
    with pytest.raises(FewerError, match="no part of an observation is an image"):
        FrameReplay(4, Observed((Part((2,)),)), 1)
    with pytest.raises(FewerError, match="hold no transition of 3 stacked frames; give at least 6"):
        FrameReplay(4, seeing(3), 1, frames=5)
    with pytest.raises(FewerError, match="a capacity of 0"):
        FrameReplay(0, seeing(1), 1)
    with pytest.raises(FewerError, match="it is empty"):
        FrameReplay(20, seeing(1), 1).sample(2)
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 2**30)
    with pytest.raises(
        FewerError, match=r"1,000,000 transitions with frames of 49,152 bytes take 51.\d GiB and 2.0 GiB are free"
    ):
        FrameReplay(10**6, Observed((Part((128, 128, 3), image=True),)), 2)
