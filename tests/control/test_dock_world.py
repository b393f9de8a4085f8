from __future__ import annotations

import numpy as np
import pytest

from fewer.control.dock_world import DOCK, dock_2d, picture
from fewer.core.errors import FewerError


def test_half_of_the_demonstrations_go_to_either_dock():
    demonstrations = dock_2d().demonstrations(0)
    last = demonstrations.final_observations
    near = [int((np.linalg.norm(last - dock, axis=1) < 0.25).sum()) for dock in (DOCK, DOCK * [-1, 1])]
    assert near == [150, 150]
    assert demonstrations.successes.sum() == 150
    # who comes to the dock that counts has arrived, the others stay until the time is over
    assert set(demonstrations.lengths[~demonstrations.successes]) == {40}
    assert demonstrations.lengths[demonstrations.successes].max() < 40


def test_precision_makes_imitation_rarely_hit():
    assert 0.05 < dock_2d(radius=0.05, miss=0.1).demonstrations(0).successes.mean() < 0.3


def test_a_step_costs_a_quarter_until_the_dock_is_reached():
    worlds = dock_2d().make(2)
    worlds.reset({0: 0, 1: 1})
    worlds.position[:] = [[0.7, 0.65], [0.7, 0.0]]
    step = worlds.step(np.array([[0.0, 1.0], [9.0, 0.0]]))
    assert step.rewards.tolist() == [0, -0.25]
    assert step.terminated.tolist() == [True, False]
    assert step.observations[1] == pytest.approx([0.78, 0.0])  # actions are bounded
    again = worlds.step(np.ones((2, 2)))
    assert (again.rewards[0], again.taken[0]) == (0, 0)
    assert again.observations[0] == pytest.approx(step.observations[0])


def test_the_time_limit_is_no_end():
    worlds = dock_2d().make(1)
    worlds.reset({0: 0})
    steps = [worlds.step(np.zeros((1, 2))) for _ in range(40)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 39 + [True]
    assert not any(step.terminated[0] for step in steps)


def test_a_picture_shows_where_the_point_is():
    """The centre of what is red, to a tenth of a pixel, wherever it does not cover a dock."""
    size, rng = 48, np.random.default_rng(0)
    position = rng.uniform(-1, 0.5, (50, 2))
    position = np.vstack([position, [[0.0, -0.9]]])
    seen = picture(position, size).astype(float)
    assert seen.shape == (51, size, size, 3)
    empty = picture(np.array([[9.0, -9.0]]), size)[0].astype(float)
    away = np.abs(seen - empty).sum(-1)
    away[:, -8:, -8:] = 0  # where the point of the empty picture is
    across = (np.arange(size) - (size - 1) / 2) * 2.4 / (size - 1)
    total = away.sum((1, 2))
    found = np.stack([(away.sum(1) * across).sum(1) / total, -(away.sum(2) * across).sum(1) / total], axis=1)
    assert found == pytest.approx(position, abs=0.1 * 2.4 / size)


def test_pictures_and_numbers_are_of_one_world():
    one, two = dock_2d(), dock_2d(images=True, size=20)
    assert two.observation_size == 20 * 20 * 3
    worlds, shown = one.make(3), two.make(3)
    seeds = {each: each for each in range(3)}
    pairs = [(worlds.reset(seeds), shown.reset(seeds))]
    for action in np.random.default_rng(0).uniform(-1, 1, (9, 3, 2)):
        steps = worlds.step(action), shown.step(action)
        assert np.array_equal(steps[0].rewards, steps[1].rewards)
        pairs.append((steps[0].observations, steps[1].observations))
    for position, rows in pairs:
        assert np.array_equal(picture(position.astype(np.float64), 20).reshape(3, -1), rows) or np.allclose(
            picture(position, 20).reshape(3, -1), rows, atol=1
        )
    assert len({task.fingerprint() for task in (one, two, dock_2d(images=True), dock_2d(images=True, stack=2))}) == 4


@pytest.mark.parametrize("stack", [1, 3])
def test_demonstrations_are_seen_as_the_world_is(stack):
    numbers, task = dock_2d(demonstrations=4), dock_2d(demonstrations=4, images=True, size=16, stack=stack)
    given, shown = numbers.demonstrations(2), task.demonstrations(2)
    assert np.array_equal(given.actions, shown.actions)
    batch, plain = task.transitions(shown), numbers.transitions(given)
    assert batch.observations.shape == (len(plain), task.observation_size)
    assert np.array_equal(batch.rewards, plain.rewards)
    newest = batch.next_observations.reshape(len(plain), stack, -1)[:, -1]
    pictures = picture(plain.next_observations.numpy(), 16).reshape(len(plain), -1)
    assert np.allclose(newest.numpy(), pictures, atol=1)


def test_seeds_decide():
    task = dock_2d(demonstrations=6)
    assert task.demonstrations(1).fingerprint() == task.demonstrations(1).fingerprint()
    assert task.demonstrations(1).fingerprint() != task.demonstrations(2).fingerprint()
    assert dock_2d(radius=0.1).fingerprint() != dock_2d().fingerprint()
    worlds = task.make(2)
    first = worlds.reset({0: 7, 1: 8})
    assert np.array_equal(worlds.reset({1: 7}), first[:1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"demonstrations": 1}, "at least two"),
        ({"radius": 0}, "radius"),
        ({"speed": 2}, "speed"),
        ({"images": True, "size": 8}, "pictures of 8 pixels show too little"),
        ({"stack": 2}, "pictures are stacked, and there are none"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(FewerError, match=message):
        dock_2d(**wrong)
