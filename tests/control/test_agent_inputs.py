"""What a user may give for an environment."""

from __future__ import annotations

import gymnasium
import pytest
from tests.control.agent_toys import METHOD, SMALL, agent, told
from tests.control.toys import Target, target

from fewer.control import Agent
from fewer.control.environments import gym
from fewer.core.errors import FewerError


def test_environments_in_every_form():
    same = [
        told(Agent(env, METHOD, eval_freq=20, **SMALL).learn(20).curve)
        for env in ("Pendulum-v1", "gym(id='Pendulum-v1')", gymnasium.make("Pendulum-v1"), gym("Pendulum-v1"))
    ]
    assert all(each == same[0] for each in same)
    own = [told(agent(env).learn(20).curve) for env in (Target(steps=3), lambda: Target(steps=3), target(steps=3))]
    assert own[0] == own[1] == own[2]


def test_an_environment_that_is_given_is_copied_as_it_stands():
    given = Target(steps=3)
    given.steps = 2  # as a script may set it after it was made
    assert agent(given).learn(20).evaluate(4)["length"] == 2


class Glued(Target):
    def __deepcopy__(self, memo):
        raise TypeError("it is glued to the table")


def test_an_environment_that_cannot_be_copied():
    with pytest.raises(FewerError, match=r"Glued cannot be copied .it is glued.*give a function that makes it"):
        Agent(Glued())
