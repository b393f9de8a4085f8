"""Learning on is learning longer, after an interruption, too."""

from __future__ import annotations

import numpy as np
import pytest
from tests.control.agent_toys import METHOD, SEEN, SMALL, agent, same, told
from tests.control.toys import Target, target

from fewer.control import Agent, OffPolicy
from fewer.control.baselines import sac
from fewer.core.errors import FewerError


def test_the_first_call_is_the_run_of_the_loop():
    task, loop = target(steps=3), OffPolicy(**sac(hidden=(8,)), **SMALL, points=4)
    made = Agent(task, loop, seed=3).learn(60)
    assert told(made.curve) == told(loop.learn(task, 60, 3).curve)
    assert made.num_timesteps == 60


@pytest.mark.parametrize("parts", [(20, 60), (40, 20, 20), (70, 10), (1, 79)])
def test_learning_on_is_learning_longer_to_the_bit(parts):
    at_once, in_parts = agent(copies=2).learn(80), agent(copies=2)
    for part in parts:
        assert in_parts.learn(part) is in_parts
    assert told(in_parts.curve) == told(at_once.curve)
    assert [point.spent for point in at_once.curve] == [20, 40, 60, 80]
    assert np.array_equal(in_parts.predict(SEEN, deterministic=True)[0], at_once.predict(SEEN, deterministic=True)[0])


def test_it_learns_to_the_next_evaluation_and_calls_add_up():
    made = agent().learn(25)
    assert made.num_timesteps == 40
    assert made.learn(15).num_timesteps == 40  # which is what was asked for
    assert made.learn(1).num_timesteps == 60
    assert Agent(target(steps=3), METHOD, **SMALL).learn(90).curve.points[0].spent == 5  # twenty points


@pytest.mark.parametrize("broken_at", [20, 60])
def test_a_script_that_is_started_again_does_what_is_missing(tmp_path, broken_at):
    whole = agent().learn(40).learn(40)
    file = tmp_path / "run"
    agent().learn(broken_at, checkpoint=file)  # a script that was stopped there
    again = agent().learn(40, checkpoint=file, log=tmp_path / "progress.csv")
    assert again.num_timesteps == max(40, broken_at)
    again.learn(40, checkpoint=file)
    assert told(again.curve) == told(whole.curve)
    with pytest.raises(FewerError, match="belongs to another run"):
        agent(seed=1).learn(40, checkpoint=file)
    with pytest.raises(FewerError, match=r"kept in .*run since the first call"):
        again.learn(20, checkpoint=tmp_path / "other")
    with pytest.raises(FewerError, match="is not kept since the first call"):
        whole.learn(20, checkpoint=file)


class Stuck(Exception):
    pass


class Breaks(Target):
    stop: type[BaseException] = Stuck

    def step(self, action):
        Breaks.left -= 1
        if Breaks.left == 0:
            raise Breaks.stop
        return super().step(action)


def broken(at, stop=Stuck):
    """An agent whose environment stops it after so many steps, evaluations included."""
    Breaks.left, Breaks.stop = at, stop
    made = agent(Breaks)
    with pytest.raises(stop):
        made.learn(60)
    Breaks.left = 10_000
    return made


def test_what_was_learned_before_an_interruption_stays():
    Breaks.left = 10_000
    made = agent(Breaks).learn(20)
    before = made.predict(SEEN, deterministic=True)[0]
    Breaks.left = 1
    with pytest.raises(Stuck):
        made.learn(20)
    assert np.array_equal(made.predict(SEEN, deterministic=True)[0], before)
    assert [point.spent for point in made.curve] == [20]


@pytest.mark.parametrize("stop", [Stuck, KeyboardInterrupt])
@pytest.mark.parametrize("at", [5, 35])
def test_learning_goes_on_where_an_interruption_left_it(at, stop):
    made = broken(at, stop)
    done = made.num_timesteps
    assert 0 < done < 60
    assert made.learn(1).num_timesteps == 20 * (done // 20 + 1)  # what was asked for before is not made up for
    assert [point.spent for point in made.curve] == list(range(20, made.num_timesteps + 1, 20))
    state = made._run.state
    assert len(state.replay) == made.num_timesteps
    assert state.updates == made.num_timesteps - 8


def test_an_interruption_before_the_first_step(monkeypatch):
    made = agent()
    with monkeypatch.context() as patched:
        patched.setattr(OffPolicy, "start", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.learn(20)
    assert same(made.learn(20), agent().learn(20))


def test_an_interruption_with_a_checkpoint_goes_on_to_the_bit(tmp_path):
    made = broken(35)
    assert made.num_timesteps > 20
    Breaks.left = 35
    kept = agent(Breaks)
    with pytest.raises(Stuck):
        kept.learn(60, checkpoint=tmp_path / "run")
    Breaks.left = 10_000
    assert same(kept.learn(40), agent(Breaks).learn(60))
