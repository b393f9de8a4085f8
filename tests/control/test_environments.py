from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tests.control.toys import Target, target

from fewer.control.baselines import sac
from fewer.control.environments import GymEnvironment, gym
from fewer.control.loop import OffPolicy
from fewer.core.errors import FewerError


def test_actions_are_scaled_to_the_environments_bounds():
    worlds = target(low=-2.0, high=4.0).make(3)
    worlds.reset({0: 1, 1: 2, 2: 3})
    step = worlds.step(np.array([[-1.0], [0.0], [7.0]]))  # the last one is beyond its bounds
    assert step.rewards == pytest.approx([-(2.5**2), -(0.5**2), -(3.5**2)])


def test_an_episode_follows_from_its_seed_whatever_the_others_do():
    worlds = target(steps=9).make(2)
    worlds.reset({0: 5, 1: 6})
    one = [worlds.step(np.zeros((2, 1))).observations[0] for _ in range(4)]
    worlds.reset({1: 5})
    two = [worlds.step(np.zeros((2, 1))).observations[1] for _ in range(4)]
    assert np.array_equal(one, two)


def test_a_copy_whose_episode_is_over_stays():
    worlds = target(steps=1).make(2)
    worlds.reset({0: 0, 1: 1})
    last = worlds.step(np.zeros((2, 1)))
    again = worlds.step(np.zeros((2, 1)))
    assert np.array_equal(last.observations, again.observations)
    assert again.rewards.tolist() == [0, 0]
    assert again.terminated.all()


def test_evaluation_counts_each_episode_once_and_depends_on_the_seed_alone():
    task = target(steps=3)
    score, measures = task.evaluate(lambda seen: np.zeros((len(seen), 1)), 4, seed=0)
    assert score == pytest.approx(-0.25 * 3)
    assert measures["length"] == 3
    seen = []
    for seed in (0, 0, 1):
        task.evaluate(lambda x: seen.append(x.copy()) or np.zeros((len(x), 1)), 4, seed)
    assert np.array_equal(seen[0], seen[3])
    assert not np.array_equal(seen[0], seen[6])


def test_success_can_be_the_score():
    assert target("success rate").evaluate(lambda seen: np.full((len(seen), 1), 0.5), 3, 0)[0] == 1
    assert target("success rate").evaluate(lambda seen: np.zeros((len(seen), 1)), 3, 0)[0] == 0
    with pytest.raises(FewerError, match="unknown metric 'regret'"):
        target("regret")


def with_spaces(observation, action):
    class Other(Target):
        def __init__(self):
            super().__init__()
            self.observation_space, self.action_space = observation, action

    return GymEnvironment("other", Other)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (Box(-1, 1, (2,)), Discrete(3), "this room needs a Box of numbers"),
        (Box(-1, 1, (2,)), Box(-np.inf, np.inf, (1,)), "its actions are not bounded"),
        (
            Dict({"a": Box(-1, 1, (2,)), "b": Discrete(3)}),
            Box(-1, 1, (1,)),
            "its observations are Dict.* with a Discrete in",
        ),
        (Discrete(4), Box(-1, 1, (1,)), r"its observations are Discrete\(4\), with a Discrete in them"),
        (Dict({}), Box(-1, 1, (1,)), "its observations are Dict"),
    ],
)
def test_spaces_that_do_not_fit(observation, action, message):
    with pytest.raises(FewerError, match=message):
        with_spaces(observation, action)


def test_what_of_an_observation_is_an_image():
    image, bytes_ = Box(0, 255, (9, 9, 3), np.uint8), Box(0, 255, (128,), np.uint8)
    action = Box(-1, 1, (1,))
    assert with_spaces(image, action).observed.images[0].size == (9, 9, 3)
    assert with_spaces(bytes_, action).observed is None
    assert with_spaces(Box(-1, 1, (9, 9, 3)), action).observed is None
    both = with_spaces(Dict({"b": image, "a": Box(-1, 1, (2,))}), action)
    assert both.observation_size == 9 * 9 * 3 + 2
    assert [part.image for part in both.observed.parts] == [False, True]
    numbers = with_spaces(Dict({"b": Box(-1, 1, (3,)), "a": Box(-1, 1, (2,))}), action)
    assert (numbers.observation_size, numbers.observed) == (5, None)
    assert GymEnvironment("other", Target).observed is None


def test_stacking_is_for_images():
    with pytest.raises(FewerError, match="there are none; leave stack out"):
        gym("Pendulum-v1", stack=3)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_nan_says_where(what):
    worlds = target(steps=9, broken=what).make(1)
    worlds.reset({0: 0})
    worlds.step(np.zeros((1, 1)))
    worlds.step(np.zeros((1, 1)))
    with pytest.raises(FewerError, match=f"the {what} is not finite at step 3 of an episode of copy 0"):
        worlds.step(np.zeros((1, 1)))


def test_gymnasiums_own():
    task = gym("Pendulum-v1", g=5.0)
    assert (task.observation_size, task.action_size, task.name) == (3, 1, "gym('Pendulum-v1', g=5.0)")
    assert task.fingerprint() != gym("Pendulum-v1").fingerprint()
    mine, theirs = gym("Pendulum-v1").make(1), gymnasium.make("Pendulum-v1")
    assert np.allclose(mine.reset({0: 11})[0], theirs.reset(seed=11)[0])
    for action in (0.3, -1.0, 0.9):
        step = mine.step(np.array([[action]]))
        observation, reward, *_ = theirs.step(np.array([2 * action], dtype=np.float32))
        assert np.allclose(step.observations[0], observation)
        assert step.rewards[0] == pytest.approx(reward)
    with pytest.raises(FewerError, match="Nothing-v0 is unknown to Gymnasium"):
        gym("Nothing-v0")
    with pytest.raises(FewerError, match="could not be made"):
        gym("Pendulum-v1", nonsense=1)
    with pytest.raises(FewerError, match="this room needs a Box"):
        gym("CartPole-v1")


def test_parts_of_an_observation_lie_side_by_side_in_the_order_of_their_names():
    box = Box(-9, 9, (2,), np.float32)

    class Parts(Target):
        def __init__(self):
            super().__init__()
            self.observation_space = Dict([("b", box), ("a", Box(-9, 9, (1, 2), np.float32))])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return {"b": np.array([1, 2], np.float32), "a": np.array([[3, 4]], np.float32)}, {}

    gymnasium.register("Parts-v0", entry_point=Parts, max_episode_steps=5)
    try:
        assert gym("Parts-v0").make(1).reset({0: 0}).tolist() == [[3, 4, 1, 2]]
        chosen = gym("Parts-v0", observations=["b"])
        assert chosen.observation_size == 2
        assert chosen.make(1).reset({0: 0}).tolist() == [[1, 2]]
        assert chosen.fingerprint() != gym("Parts-v0").fingerprint()
        with pytest.raises(FewerError, match="has no part 'c'; it has"):
            gym("Parts-v0", observations=["c"])
    finally:
        del gymnasium.registry["Parts-v0"]
    with pytest.raises(FewerError, match="observes one array, which has no parts"):
        gym("Pendulum-v1", observations=["b"])


def test_an_episode_can_be_made_shorter():
    _, measures = gym("Pendulum-v1", horizon=7).evaluate(lambda seen: np.zeros((len(seen), 1)), 2, 0)
    assert measures["length"] == 7
    with pytest.raises(FewerError, match="it is 0"):
        gym("Pendulum-v1", horizon=0)


def test_what_somebody_did_instead_is_remembered():
    class Helped(GymEnvironment):
        def make(self, copies):
            worlds = super().make(copies)
            for environment in worlds.environments:
                inner = environment.step

                def step(action, inner=inner):
                    seen, reward, ended, cut, info = inner(np.zeros(1, dtype=np.float32))
                    return seen, reward, ended, cut, info | {"intervene_action": np.array([1.0])}

                environment.step = step
            return worlds

    plain = target(steps=5, low=-2.0, high=4.0)
    task = Helped(plain.name, plain.create)
    loop = OffPolicy(**sac(hidden=(8, 8)), learning_starts=10, episodes=1, points=1)
    state = loop.start(task, 10, 0)
    for _ in range(5):
        loop._act(state)
    # 1 is the middle of -2 to 4
    assert state.replay.take(torch.arange(5)).actions[:, 0].tolist() == [0] * 5
