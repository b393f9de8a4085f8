from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.loop import Account, Episode
from fewer.explore.trajectories import Expert, Trajectories, collect, read
from fewer.explore.worlds import riverswim


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_episodes_of_all_runs_are_played_at_once_and_follow_the_policy():
    river = riverswim(4, horizon=6)
    right = np.broadcast_to(np.eye(2)[1], (1, 6, 4, 2))
    played = collect(river, right, 7, 3, np.random.default_rng(0))
    assert played.states.shape == (3, 7, 7)
    assert (played.actions == 1).all()
    assert len(played) == 7
    assert (np.abs(np.diff(played.states, axis=-1)) <= 1).all()
    np.testing.assert_array_equal(played.rewards, river.R[played.states[..., :-1], played.actions])
    assert len(collect(river, right, 0, 3, np.random.default_rng(0))) == 0


def test_a_file_of_episodes_of_other_lengths(tmp_path):
    file = write(
        tmp_path / "demos.npz",
        observations=np.array([0, 1, 2, 0, 1]),
        actions=np.array([1, 0, 1, 1, 1]),
        rewards=np.array([0.0, 0.5, 1.0, 0.0, 0.5]),
        final_observations=np.array([2, 3]),
        terminations=np.array([0, 0, 0, 0, 1]),
        episode_ends=[3, 5],
    )
    given = read(file, states=5, actions=2, horizon=4)
    assert given.states.tolist() == [[[0, 1, 2, 2, 2], [0, 1, 3, 3, 3]]]
    assert given.actions.tolist() == [[[1, 0, 1, -1], [1, 1, -1, -1]]]
    assert given.rewards.tolist() == [[[0, 0.5, 1, 0], [0, 0.5, 0, 0]]]
    assert given.played.sum() == 5
    assert read(file, 5, 2, 4, end=4).states[0, 1].tolist() == [0, 1, 4, 4, 4]


def test_where_the_last_action_led_may_be_unknown_and_is_then_not_counted(tmp_path):
    file = write(
        tmp_path / "demos.npz", observations=np.array([0, 1, 0, 2]), actions=np.array([1, 1, 0, 0]), episode_ends=[2, 4]
    )
    given = read(file, 3, 2, 2)
    assert given.states.tolist() == [[[0, 1, -1], [0, 2, -1]]]
    account = Account(2, 3, 2, 2, (0.0, 1.0), 5, 0, np.random.default_rng(0))
    for by_step in (False, True):
        counts.begin(account, by_step)
        counts.show(account.memory, given)
        assert account.memory["next"].sum() == 2 * 2  # for each run the first steps only


@pytest.mark.parametrize("by_step", [False, True])
def test_showing_is_counting_what_was_played(by_step):
    rng, account = np.random.default_rng(0), Account(2, 3, 2, 4, (0.0, 1.0), 5, 0, np.random.default_rng(0))
    episodes = [
        Episode(rng.integers(3, size=(2, 5)), rng.integers(2, size=(2, 4)), rng.random((2, 4))) for _ in range(3)
    ]
    counts.begin(account, by_step)
    for each in episodes:
        counts.add(account.memory, each)
    played = {name: value.copy() for name, value in account.memory.items()}
    counts.begin(account, by_step)
    counts.show(
        account.memory,
        Trajectories(
            *(np.stack([getattr(each, what) for each in episodes], 1) for what in ("states", "actions", "rewards"))
        ),
    )
    for name, value in played.items():
        np.testing.assert_allclose(account.memory[name], value)


def test_worlds_show_the_users_file(tmp_path):
    file = write(tmp_path / "demos.npz", observations=np.zeros(3, int), actions=np.ones(3, int), episode_ends=[3])
    world = riverswim(3)
    np.savez(tmp_path / "world.npz", P=world.P, R=world.R)
    task = compose.task(f"mdp('{tmp_path / 'world.npz'}', horizon=4, demonstrations='{file}')")
    assert len(task.demonstrations(2, np.random.default_rng(0))) == 1
    plain = compose.task(f"mdp('{tmp_path / 'world.npz'}', horizon=4)")
    assert plain.demonstrations(2, np.random.default_rng(0)) is None
    assert plain.fingerprint() != task.fingerprint()
    pytest.importorskip("gymnasium")
    lake = compose.task(f"gym-tabular('FrozenLake-v1', horizon=4, demonstrations='{file}')")
    assert lake.demonstrations(1, np.random.default_rng(0)).actions.tolist() == [[[1, 1, 1, -1]]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"observations": np.full(2, 9)}, "there is no state 9; the world has 3"),
        ({"actions": np.array([0, 5])}, "there is no action 5; the world has 2"),
        ({"actions": np.array([0.5, 1.0])}, "actions must be numbers of actions; they are real"),
        ({"observations": np.array([0.5, 1.0])}, "observations must be numbers of states"),
        ({"observations": np.zeros((2, 3))}, "observations must be numbers of states"),
        (
            {"observations": np.zeros(9, int), "actions": np.zeros(9, int), "episode_ends": [9]},
            "episode 0 has 9 steps and the horizon is 4",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(tmp_path, arrays, message):
    whole = {"observations": np.zeros(2, int), "actions": np.zeros(2, int), "episode_ends": [2], **arrays}
    with pytest.raises(FewerError, match=message):
        read(write(tmp_path / "demos.npz", **whole), 3, 2, 4)


def shown(steps=4, state=0, action=0, reward=0.0, longer=1):
    return Trajectories(
        np.full((1, 2, steps + longer), state), np.full((1, 2, steps), action), np.full((1, 2, steps), float(reward))
    )


def test_what_is_not_known_of_a_demonstration_is_no_mistake():
    world = replace(riverswim(3, horizon=4), rewards=(-1.0, 1.0), shown=shown(reward=-1))
    assert replace(world, rewards=(0.0, 2.0), shown=shown()).shown is not None
    over = Trajectories(np.array([[[0, 1, -1, -1, -1]]]), np.array([[[1, 1, -1, -1]]]), np.zeros((1, 1, 4)))
    assert replace(world, shown=over).demonstrations(2, np.random.default_rng(0)) is over


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: shown(longer=2), r"states one longer; they are \(1, 2, 4\), \(1, 2, 4\) and \(1, 2, 6\)"),
        (lambda: shown(reward=np.nan), "a reward is NaN or infinite"),
        (lambda: shown(steps=5), "demonstrations have 5 steps and the horizon is 4"),
        (lambda: shown(state=3), "demonstrations have the state 3; the world has 3"),
        (lambda: shown(state=-2), "demonstrations have the state -2"),
        (lambda: shown(state=-1), "demonstrations have the state -1"),
        (lambda: shown(action=2), "demonstrations have the action 2; the world has 2"),
        (lambda: shown(reward=1.5), r"the reward 1.5, outside the declared \[0, 1\]; rescale them"),
        (lambda: Expert(np.full((4, 3, 3), 1 / 3), 2), r"must be \(horizon, states, actions\), \(4, 3, 2\); it is"),
        (lambda: Expert(np.full((4, 3, 2), 0.4), 2), "must be probabilities of actions"),
        (lambda: Expert(np.full((4, 3, 2), 0.5), -1), "number of episodes not negative"),
    ],
)
def test_what_cannot_have_been_played_in_a_world_is_one_clear_line(made, message):
    with pytest.raises(FewerError, match=message):
        replace(riverswim(3, horizon=4), shown=made())


def test_a_file_with_rewards_outside_the_range_is_one_clear_line(tmp_path):
    file = write(
        tmp_path / "demos.npz",
        observations=np.zeros(2, int),
        actions=np.zeros(2, int),
        rewards=np.array([0.0, 7.0]),
        episode_ends=[2],
    )
    world = riverswim(3)
    np.savez(tmp_path / "world.npz", P=world.P, R=world.R)
    with pytest.raises(FewerError, match="demonstrations have the reward 7, outside"):
        compose.task(f"mdp('{tmp_path / 'world.npz'}', horizon=4, demonstrations='{file}')")
    pytest.importorskip("gymnasium")
    with pytest.raises(FewerError, match="demonstrations have the reward 7, outside"):
        compose.task(f"gym-tabular('FrozenLake-v1', horizon=4, demonstrations='{file}')")
