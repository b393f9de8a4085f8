from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from tests.control.image_toys import SIDE, Spot, spot_task

from fewer.control import Agent, OffPolicy
from fewer.control.action_chunks import ActionChunks
from fewer.control.baselines import rlpd
from fewer.control.stacking import StackedWorlds
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz
from fewer.demos.gym_worlds import gym


def test_the_last_frames_are_seen_and_the_first_is_repeated():
    one, three = spot_task(steps=9, kind="dict"), spot_task(stack=3, steps=9, kind="dict")
    plain, stacked = one.make(2), three.make(2)
    assert isinstance(stacked, StackedWorlds)
    pixels = SIDE * SIDE * 3
    frames = []
    for seen in (plain.reset({0: 1, 1: 2}), *(plain.step(np.zeros((2, 2))).observations for _ in range(4))):
        frames.append(seen)
    found = [stacked.reset({0: 1, 1: 2}), *(stacked.step(np.zeros((2, 2))).observations for _ in range(4))]
    for step, seen in enumerate(found):
        assert seen.shape == (2, three.observation_size)
        assert np.array_equal(seen[:, :2], frames[step][:, :2])  # what is no image is there once
        for name, begin in (("camera", 0), ("wrist", 1)):
            camera = seen[:, 2 + begin * 3 * pixels :][:, : 3 * pixels].reshape(2, 3, pixels)
            for back in range(3):
                other = frames[max(0, step - back)][:, 2 + begin * pixels :][:, :pixels]
                assert np.array_equal(camera[:, 2 - back], other), name


def test_a_copy_that_begins_anew_forgets_and_the_other_does_not():
    worlds = spot_task(stack=2, steps=9).make(2)
    worlds.reset({0: 1, 1: 2})
    step = worlds.step(np.zeros((2, 2))).observations.copy()
    again = worlds.reset({0: 5})
    half = again.shape[1] // 2
    assert np.array_equal(again[0, :half], again[0, half:])
    after = worlds.step(np.zeros((2, 2))).observations
    assert np.array_equal(after[1, :half], step[1, half:])
    assert np.array_equal(after[0, :half], again[0, half:])


def test_a_copy_whose_episode_is_over_stays():
    worlds = spot_task(stack=2, steps=1).make(1)
    worlds.reset({0: 1})
    last = worlds.step(np.zeros((1, 2))).observations
    assert np.array_equal(worlds.step(np.zeros((1, 2))).observations, last)


# --- demonstrations ------------------------------------------------------------------------------


def shown(kind, lengths=(4, 1, 3), **changes):
    """What somebody did where single frames are seen, and the same seen stacked: an observation more than actions."""
    episodes, stacked = [], []
    for number, length in enumerate(lengths):
        env, worlds = Spot(steps=length, kind=kind), spot_task(3, steps=length, kind=kind).make(1)
        rng = np.random.default_rng(number)
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        seen, paid = [env.reset(seed=number)[0]], []
        for action in actions:
            after, reward, *_ = env.step(action)
            seen.append(after)
            paid.append(reward)
        rows = [worlds.reset({0: number})[0].copy()]
        rows += [worlds.step(action[None]).observations[0].copy() for action in actions]
        stacked.append(np.stack(rows))
        parts = (
            {name: np.stack([each[name] for each in seen]) for name in seen[0]} if kind == "dict" else np.stack(seen)
        )
        episodes.append({"observations": parts, "actions": actions, "rewards": np.array(paid), "terminated": True})
    return Demonstrations.of_episodes(episodes), stacked


@pytest.mark.parametrize("kind", ["image", "channels first", "dict"])
def test_demonstrations_of_single_frames_are_seen_as_the_worlds_are(kind):
    demonstrations, stacked = shown(kind)
    batch = spot_task(3, kind=kind).transitions(demonstrations)
    assert np.array_equal(batch.observations.numpy(), np.concatenate([rows[:-1] for rows in stacked]))
    assert np.array_equal(batch.next_observations.numpy(), np.concatenate([rows[1:] for rows in stacked]))
    chunks = ActionChunks(2).wrap(spot_task(3, kind=kind)).transitions(demonstrations)
    assert np.array_equal(chunks.observations.numpy(), batch.observations.numpy())
    following = np.concatenate([rows[np.minimum(np.arange(2, len(rows) + 1), len(rows) - 1)] for rows in stacked])
    assert np.array_equal(chunks.next_observations.numpy(), following)


def test_demonstrations_that_are_stacked_already_stay_as_they_are():
    _, stacked = shown("image")
    given = [
        {"observations": rows, "actions": np.zeros((len(rows) - 1, 2)), "rewards": np.zeros(len(rows) - 1)}
        for rows in stacked
    ]
    batch = spot_task(3).transitions(Demonstrations.of_episodes(given))
    assert np.array_equal(batch.observations.numpy(), np.concatenate([rows[:-1] for rows in stacked]))
    single = Demonstrations(np.zeros((3, SIDE, SIDE, 3)), np.zeros((3, 2)), [0, 3], rewards=np.zeros(3))
    with pytest.raises(FewerError, match=r"observations have 768 numbers and those of spot.* 4610; give its own"):
        spot_task(3, kind="dict").transitions(single)


@pytest.fixture
def spot_id():
    gymnasium.register("fewer-tests/Spot-v0", entry_point=Spot, max_episode_steps=9)
    yield "fewer-tests/Spot-v0"
    del gymnasium.registry["fewer-tests/Spot-v0"]


@pytest.mark.parametrize("kind", ["image", "dict"])
def test_stack_and_demos_together(spot_id, kind, tmp_path):
    file = str(tmp_path / "spots.npz")
    write_npz(file, shown(kind)[0])
    task = gym(spot_id, demos=file, stack=3, kind=kind)
    assert task.observation_size == spot_task(3, kind=kind).observation_size
    assert task.fingerprint() != gym(spot_id, demos=file, kind=kind).fingerprint()
    settings = {"batch": 8, "episodes": 1, "learning_starts": 4, "points": 1, "capacity": 50}
    networks = {"hidden": (8,), "members": 2, "ratio": 1}
    one = OffPolicy(**rlpd(**networks), **settings).learn(task, 12)
    # demonstrations that the method names are the same
    two = OffPolicy(**rlpd(demos=file, **networks), **settings).learn(gym(spot_id, stack=3, kind=kind), 12)
    assert one.result.predict(task.make(1).reset({0: 1}))[0].shape == (1, 2)
    assert two.curve.points[0].extras["updates"] == 8
    agent = Agent(f"gym('{spot_id}', stack=3, kind='{kind}')", "rlpd", **(settings | {"eval_freq": 8}))
    with pytest.raises(FewerError, match=r"has no demonstrations; give them as demos='file.npz'"):
        agent.learn(8)
    with pytest.raises(FewerError, match="leave stack out to imitate"):
        task.play(1)


def test_what_shows_no_images_is_not_stacked(tmp_path):
    demonstrations = Demonstrations(np.zeros((3, 3)), np.zeros((3, 1)), [0, 3], rewards=np.zeros(3))
    write_npz(tmp_path / "swings.npz", demonstrations)
    for options in ({}, {"demos": str(tmp_path / "swings.npz")}):
        with pytest.raises(
            FewerError, match="frames are stacked where images are seen, and there are none; leave stack out"
        ):
            gym("Pendulum-v1", stack=3, **options)
