from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.demos.gate_world import DRAG, HORIZON, NEAR, PUSH, Gate2D, GateTask, gate_2d
from fewer.demos.loop import Imitation
from fewer.demos.rollouts import rollout


class Still:
    def begin(self, copies, rng):
        pass

    def act(self, observations):
        return np.zeros((len(observations), 2))


def test_a_push_moves_as_the_equations_say():
    play = Gate2D().play(4)
    seen = play.reset(seed=0)
    position, velocity, goal = seen[:, :2].astype(float), np.zeros((4, 2)), seen[:, 4:6]
    rng = np.random.default_rng(0)
    for _ in range(5):
        push = rng.uniform(-2, 2, size=(4, 2))
        velocity = DRAG * velocity + PUSH * push.clip(-1, 1)
        position = position + velocity
        seen = play.step(push).observations
        np.testing.assert_allclose(seen, np.concatenate([position, velocity, goal, goal - position], 1), atol=1e-6)


def test_a_step_costs_one_until_the_goal_is_near():
    play = Gate2D(spread=0).play(1)
    play.reset(seed=0)
    paid, steps = [], 0
    while True:
        step = play.step(np.array([[0.0, 1.0]]))
        paid.append(step.rewards[0])
        steps += 1
        if step.terminated[0]:
            break
    assert step.successes[0]
    assert np.linalg.norm(step.observations[0, 6:]) < NEAR
    assert paid == [-1.0] * (steps - 1) + [0.0]
    assert steps < 15


def test_an_episode_that_does_not_arrive_is_cut_off():
    outcome = rollout(Gate2D().play(3), Still(), seed=0, record=True)
    assert (outcome.lengths == HORIZON).all()
    assert not outcome.successes.any()
    assert not outcome.demonstrations.terminations.any()
    assert outcome.returns.tolist() == [-HORIZON] * 3


def test_starts_and_goals_are_in_their_boxes_and_follow_from_the_seed():
    seen = Gate2D(0.3).play(500).reset(seed=1)
    assert np.abs(seen[:, :2] - [0, -0.9]).max() <= 0.3 + 1e-6
    assert np.abs(seen[:, 4:6] - [0, 0.9]).max() <= 0.3 + 1e-6
    assert np.abs(seen[:, :2] - [0, -0.9]).max() > 0.28
    np.testing.assert_array_equal(seen, Gate2D(0.3).play(500).reset(seed=1))
    assert (seen != Gate2D(0.3).play(500).reset(seed=2)).any()
    assert np.abs(Gate2D(0.55).play(500).reset(seed=1)[:, 4:6] - [0, 0.9]).max() > 0.5


def test_the_script_arrives_through_the_gate_with_pauses_and_detours():
    def lengths(**shares):
        outcome = rollout(Gate2D().play(100), Gate2D().expert(**shares), seed=0, record=True)
        assert outcome.successes.all()
        for i in range(100):
            assert np.linalg.norm(outcome.demonstrations.episode(i).observations[:, :2], axis=1).min() < NEAR
        return outcome

    straight = lengths(pause=0.0, detour=0.0)
    paused = lengths(pause=1.0, detour=0.0)
    waits = paused.lengths - straight.lengths
    # 5 to 15, and a moment to get going again
    assert waits.min() >= 4
    assert waits.max() <= 19
    aside = lengths(pause=0.0, detour=1.0)
    assert (aside.lengths > straight.lengths).all()
    sides = [aside.demonstrations.episode(i).observations[:, 0] for i in range(100)]
    assert {bool(side[np.abs(side).argmax()] > 0) for side in sides} == {True, False}
    mixed = lengths()
    assert straight.lengths.mean() < mixed.lengths.mean() < lengths(pause=1.0, detour=1.0).lengths.mean()


def test_the_task_gives_demonstrations_that_all_arrive():
    task = compose.task("gate-2d(demonstrations=12)")
    assert isinstance(task, GateTask)
    given = task.demonstrations(seed=3)
    assert (len(given), task.pool) == (12, 12)
    assert given.successes.all()
    assert given.terminations[given.offsets[1:] - 1].all()
    assert given.fingerprint() == task.demonstrations(seed=3).fingerprint()
    assert given.fingerprint() != task.demonstrations(seed=4).fingerprint()
    assert task.fingerprint() != gate_2d(12, test_spread=0.5).fingerprint()
    assert isinstance(compose.loop("bc-chunk"), Imitation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate2D(-1), "half-width of a box cannot be -1; give 0 or more"),
        (lambda: Gate2D(float("nan")), "half-width of a box cannot be nan"),
        (lambda: Gate2D().expert(pause=2), r"lie in \[0, 1\]; pause is 2 and detour 0.4"),
        (lambda: gate_2d(0), "at least one demonstration is needed; 0 were asked for"),
        (lambda: gate_2d(test_spread=-0.1), "half-width of a box cannot be -0.1"),
    ],
)
def test_errors_say_what_would_do(make, message):
    with pytest.raises(FewerError, match=message):
        make()
