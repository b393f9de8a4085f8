"""Recorded worlds: from arrays, files, Minari and Gymnasium; every column that does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.incontext.interactions import (
    Recorded,
    collect,
    discrete_actions,
    from_minari,
    interactions_npz,
    state_reader,
)

gymnasium = pytest.importorskip("gymnasium")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Corridor(gymnasium.Env):
    """Five cells in a row; the world's seed says at which end it pays, and the info which way is best."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seed=0):
        self.right = seed % 2
        self.place = 2

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 2
        return self.place, {"optimal_action": self.right}

    def step(self, action):
        self.place = int(np.clip(self.place + 2 * action - 1, 0, 4))
        paid = float(self.place == 4 * self.right)
        return self.place, paid, False, False, {"optimal_action": self.right}


def columns(worlds=10, transitions=6):
    rng = np.random.default_rng(0)
    return {
        "states": rng.normal(size=(worlds, transitions, 2)),
        "actions": rng.integers(3, size=(worlds, transitions)),
        "next_states": rng.normal(size=(worlds, transitions, 2)),
        "rewards": 5 + 2 * rng.normal(size=(worlds, transitions)),
        "queries": rng.normal(size=(worlds, 2)),
        "optimal": np.arange(worlds) % 3,
    }


def test_a_prompt_is_a_world_of_the_rows():
    given = columns()
    family = Recorded(given)
    assert (family.states, family.actions, family.context, family.features) == (2, 3, 6, 8)
    prompts = family.sample(40, seeded())
    rewards = (given["rewards"] - given["rewards"].mean()) / given["rewards"].std()
    for tokens, target in zip(prompts.tokens.numpy(), prompts.target.numpy(), strict=True):
        world = int(np.abs(given["queries"] - tokens[0, :2]).sum(1).argmin())
        assert target.tolist() == np.eye(3)[world % 3].tolist()
        expected = np.concatenate(
            [
                given["states"][world],
                np.eye(3)[given["actions"][world]],
                given["next_states"][world],
                rewards[world, :, None],
            ],
            1,
        )
        # in an order of its own
        order = [int(np.abs(expected - row).sum(1).argmin()) for row in tokens[1:]]
        assert sorted(order) == list(range(6))
        np.testing.assert_allclose(tokens[1:], expected[order], atol=1e-5)


def test_the_order_is_kept_where_it_means_something():
    given = columns()
    prompts = Recorded(given, shuffle=False).sample(20, seeded())
    first = {tuple(np.round(row, 4)) for row in given["states"][:, 0]}
    assert {tuple(np.round(row, 4)) for row in prompts.tokens[:, 1, :2].double().numpy()} <= first


def test_worlds_that_are_scored_on_are_never_trained_on():
    family = Recorded(columns())
    train = {tuple(row) for row in family.sample(300, seeded()).tokens[:, 0, :2].tolist()}
    seen = []
    family.evaluate(lambda prompts: seen.append(prompts) or torch.zeros(*prompts.tokens.shape[:2], 3), 0)
    scored = {tuple(row) for row in seen[0].tokens[:, 0, :2].tolist()}
    assert len(train) == 8
    assert len(scored) == 2
    assert not train & scored


def test_the_score_is_the_chance_to_name_a_best_action():
    given = columns()
    given["optimal"] = np.tile([0.25, 0.75, 0.0], (10, 1))
    always = Recorded(given, 3)
    for action, chance in enumerate((0.25, 0.75, 0.0)):
        score, _ = always.evaluate(
            lambda prompts, action=action: torch.eye(3)[action].expand(*prompts.tokens.shape[:2], 3), 0
        )
        assert score == pytest.approx(chance)


def test_columns_of_several_shapes():
    given = columns()
    flat = {**given, "states": given["states"][..., 0], "next_states": given["next_states"][..., 0]}
    assert Recorded({**flat, "queries": given["queries"][:, :1]}).states == 1
    many = {**given, "queries": np.zeros((10, 4, 2)), "optimal": np.tile(np.arange(4) % 3, (10, 1))}
    assert Recorded(many).sample(5, seeded()).target.shape == (5, 3)
    soft = {**many, "optimal": np.full((10, 4, 3), 1 / 3)}
    assert torch.allclose(Recorded(soft).sample(5, seeded()).target, torch.tensor(1 / 3))
    assert Recorded(given, actions=5).actions == 5
    same = Recorded({**given, "rewards": np.ones((10, 6))})
    assert same.reward_scale == (1.0, 1.0)


def test_a_file_of_arrays(tmp_path):
    file = tmp_path / "worlds.npz"
    np.savez(file, **columns())
    family = interactions_npz(file)
    assert family.fingerprint() == Recorded(columns()).fingerprint()
    assert compose.task(f"interactions-npz({str(file)!r}, actions=4)").actions == 4
    file.write_bytes(b"PK")
    with pytest.raises(FewerError, match=r"cannot read .* give an NPZ file"):
        interactions_npz(file)
    with pytest.raises(FewerError, match="cannot read"):
        interactions_npz(tmp_path / "none.npz")


# --- environments ----------------------------------------------------------------------------------------------------


def test_worlds_are_collected_in_environments():
    family = collect(Corridor, lambda env, observation: env.right, worlds=12, context=15, queries=3)
    assert (family.states, family.actions, family.context) == (5, 2, 15)
    prompts = family.sample(50, seeded())
    cells, after = prompts.tokens[:, 1:, :5].argmax(-1), prompts.tokens[:, 1:, 7:12].argmax(-1)
    moves = 2 * prompts.tokens[:, 1:, 5:7].argmax(-1) - 1
    assert torch.equal(after, (cells + moves).clamp(0, 4))
    paid = prompts.tokens[:, 1:, 12] > prompts.tokens[:, 1:, 12].amin()
    ends = torch.where(prompts.target.argmax(-1) == 1, 4, 0)[:, None]
    assert torch.equal(paid, after == ends)
    once = collect(Corridor, lambda env, observation: env.right, worlds=12, context=15, queries=3)
    assert once.fingerprint() == family.fingerprint()
    straight = collect(
        Corridor, lambda env, observation: [0.5, 0.5], worlds=4, context=5, behaviour=lambda observation, rng: 1
    )
    assert (straight.sample(9, seeded()).tokens[:, 1:, 6] == 1).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_episodes_of_minari_are_worlds(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = []
    for world in range(10):
        env = Corridor(world)
        observations, infos = [env.reset()[0]], [env.right]
        actions = rng.integers(2, size=8 + world % 2)
        rewards = []
        for action in actions:
            observation, paid, *_ = env.step(int(action))
            observations.append(observation)
            rewards.append(paid)
            infos.append(env.right)
        over = np.arange(len(actions)) == len(actions) - 1
        episodes.append(
            minari.data_collector.EpisodeBuffer(
                id=world,
                observations=np.array(observations, dtype=np.float32)[:, None],
                actions=actions,
                rewards=rewards,
                terminations=over.tolist(),
                truncations=[False] * len(actions),
                infos={"optimal_action": np.array(infos)[:, None]},
            )
        )

    def dataset(name, buffer):
        return minari.create_dataset_from_buffers(
            name,
            buffer=buffer,
            observation_space=gymnasium.spaces.Box(0, 4, (1,)),
            action_space=Corridor.action_space,
            data_format="arrow",
        )

    family = from_minari(dataset("corridor/worlds-v0", episodes))
    assert (family.states, family.actions, family.context) == (1, 2, 8)
    prompts = family.sample(60, seeded())
    assert (prompts.tokens[:, 1, 0] == 2).all()  # in order, from the middle
    after = prompts.tokens[:, 1:, 3]
    paid = prompts.tokens[:, 1:, 4] > prompts.tokens[:, 1:, 4].amin()
    ends = torch.where(prompts.target.argmax(-1) == 1, 4, 0)[:, None]
    assert torch.equal(paid, after == ends)

    episodes = [dataclasses.replace(episode, infos=None) for episode in episodes]
    with pytest.raises(FewerError, match="infos have no 'optimal_action'; record it"):
        from_minari(dataset("corridor/plain-v0", episodes))


def test_spaces_become_vectors():
    spaces = gymnasium.spaces
    assert state_reader(spaces.Discrete(3))(1).tolist() == [0, 1, 0]
    assert state_reader(spaces.Box(-1, 1, (2, 2)))(np.eye(2)).tolist() == [1, 0, 0, 1]
    assert state_reader(spaces.MultiDiscrete([2, 3]))(np.array([1, 2])).tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(FewerError, match="a state has 2 numbers; one of 3 was given"):
        state_reader(spaces.Box(-1, 1, (2,)))(np.zeros(3))
    with pytest.raises(FewerError, match="must be a box, discrete or several of these"):
        state_reader(spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(FewerError, match=r"actions must be discrete; they are Box.* cut the range"):
        discrete_actions(spaces.Box(-1, 1, (1,)))
    with pytest.raises(FewerError, match="actions must be numbered from 0"):
        discrete_actions(spaces.Discrete(3, start=1))


def changed(**given):
    return {**columns(), **given}


NAN = np.where(np.arange(60).reshape(10, 6) == 7, np.nan, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({key: value for key, value in columns().items() if key != "rewards"}, "the column 'rewards' is missing"),
        (changed(rewards=NAN), "rewards holds NaN, infinities or no numbers"),
        (changed(states=np.full((10, 6, 2), "a")), "states holds NaN, infinities or no numbers"),
        (changed(actions=np.full((10, 6), 0.5)), "actions must be whole numbers from 0"),
        (changed(actions=np.full((10, 6), -1)), "actions must be whole numbers from 0"),
        (changed(actions=np.zeros((10, 0), int)), r"actions must be whole numbers from 0, \(worlds, transitions\)"),
        (changed(states=np.zeros((10, 5, 2))), "do not fit"),
        (changed(next_states=np.zeros((10, 6, 3))), "do not fit"),
        (changed(rewards=np.zeros((10, 5))), r"rewards \(10, 5\) and actions \(10, 6\) do not fit"),
        (changed(queries=np.zeros((9, 2))), "queries .* do not fit"),
        (changed(queries=np.zeros((10, 4, 3))), "queries .* do not fit"),
        (changed(optimal=np.zeros(9, int)), r"optimal \(9,\) does not fit 10 worlds of 1 queries"),
        (changed(optimal=np.full(10, 0.5)), "optimal must be whole numbers of actions; 0.5 is among them"),
        (changed(optimal=np.full((10, 3), 0.5)), "chances of 3 actions that sum to 1"),
        (changed(optimal=np.tile([1.5, -0.5, 0], (10, 1))), "chances of 3 actions that sum to 1"),
    ],
)
def test_columns_that_do_not_fit_are_named(given, message):
    with pytest.raises(FewerError, match=message):
        Recorded(given)


def test_numbers_that_do_not_fit_are_named():
    with pytest.raises(FewerError, match="actions run from 0 to 1, but 2 occurs; raise actions"):
        Recorded(columns(), actions=2)
    with pytest.raises(FewerError, match=r"held_out=0\.01 of 10 worlds leaves none"):
        Recorded(columns(), held_out=0.01)


def test_worlds_must_look_alike():
    def make(seed):
        env = Corridor(seed)
        env.observation_space = gymnasium.spaces.Discrete(5 + seed % 7)
        return env

    with pytest.raises(FewerError, match="all worlds must look alike"):
        collect(make, lambda env, observation: 0, worlds=8, context=3)
