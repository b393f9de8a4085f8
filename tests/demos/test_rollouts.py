"""Acting: what is recorded is what happened, noise goes where it should, and a seed gives everybody the same."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.point_worlds import DRAG, PUSH, SHAKE, STEP, Obstacle, TwoGates
from fewer.demos.rollouts import Step, collect, join, rollout


class Counter:
    """Copy i ends after i + 1 steps, successfully where i is even; pays 1 a step, and 100 a step after the end."""

    copies, horizon = 4, 10
    low, high = np.array([-1.0]), np.array([1.0])

    def reset(self, seed):
        self.time = 0
        return np.zeros((4, 1))

    def step(self, actions):
        self.time += 1
        length = np.arange(4) + 1
        done = self.time >= length
        rewards = np.where(self.time > length, 100.0, 1.0)
        return Step(np.full((4, 1), self.time), rewards, done, np.zeros(4, bool), done & (np.arange(4) % 2 == 0))


class Push:
    def __init__(self, action):
        self.action = np.asarray(action, dtype=float)

    def begin(self, copies, rng):
        self.copies = copies

    def act(self, observations):
        return np.broadcast_to(self.action, (len(observations), *self.action.shape))


def test_what_is_recorded_is_what_happened():
    outcome = rollout(Counter(), Push([0.5]), 0, record=True)
    assert outcome.lengths.tolist() == outcome.returns.tolist() == [1, 2, 3, 4]
    assert outcome.successes.tolist() == [True, False, True, False]
    recorded = outcome.demonstrations
    assert recorded.lengths.tolist() == [1, 2, 3, 4]
    assert recorded.observations[:, 0].tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert recorded.final_observations[:, 0].tolist() == [1, 2, 3, 4]
    assert recorded.terminations.sum() == 4
    assert (recorded.rewards == 1).all()
    assert (recorded.actions == 0.5).all()


def test_actions_are_clipped_and_their_shape_is_checked():
    assert rollout(Counter(), Push([7.0]), 0, record=True).demonstrations.actions.max() == 1
    with pytest.raises(FewerError, match=r"actions have shape \(2,\) and the environment's \(1,\)"):
        rollout(Counter(), Push([0, 0]), 0)


def test_a_seed_gives_every_policy_the_same_starts_and_noise():
    world = TwoGates(0.3)
    first = rollout(world.play(20), Push([0, 0]), 1, record=True).demonstrations
    again = rollout(world.play(20), Push([0, 0]), 1, record=True).demonstrations
    other = rollout(world.play(20), Push([0.1, 0]), 1, record=True).demonstrations
    assert first.fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(first.observations[first.offsets[:-1]], other.observations[other.offsets[:-1]])
    # the difference of the velocities after one step is that of the pushes alone
    after = [each.observations[each.offsets[:-1] + 1, 2] for each in (first, other)]
    np.testing.assert_allclose(after[1] - after[0], 0.1 * PUSH, atol=1e-6)
    assert rollout(world.play(20), Push([0, 0]), 2, record=True).demonstrations.fingerprint() != first.fingerprint()


def test_noise_of_the_policy_is_in_the_recorded_actions_and_that_of_the_system_is_not():
    still = rollout(TwoGates().play(200), Push([0, 0]), 0, policy_noise=0.2, record=True).demonstrations
    assert still.actions.std() == pytest.approx(0.2, rel=0.02)
    seen, after = still.observations, still.next_observations(np.arange(still.steps))[0]
    np.testing.assert_allclose(after[:, 2:], DRAG * seen[:, 2:] + PUSH * still.actions, atol=1e-5)
    shaken = rollout(TwoGates(0.4).play(200), Push([0, 0]), 0, record=True).demonstrations
    assert (shaken.actions == 0).all()
    seen, after = shaken.observations, shaken.next_observations(np.arange(shaken.steps))[0]
    assert (after - DRAG * seen)[:, 2:].std() == pytest.approx(0.4 * SHAKE, rel=0.02)
    np.testing.assert_allclose(after[:, :2], seen[:, :2] + STEP * after[:, 2:], atol=1e-5)


def test_only_successes_are_kept_and_the_discarded_share_is_known():
    world = Obstacle(system_noise=2.5)
    kept = collect(world.play(50), world.expert(), 20, seed=0)
    assert kept.demonstrations.successes.all()
    assert len(kept.demonstrations) == 20
    assert 0 < kept.discarded < 1
    assert kept.attempts * (1 - kept.discarded) == pytest.approx(20)
    everything = collect(world.play(50), world.expert(), 20, seed=0, only_success=False)
    assert not everything.demonstrations.successes.all()
    assert everything.discarded == 0


def test_who_cannot_do_it_cannot_show_it():
    with pytest.raises(FewerError, match="succeeded in 0 of 200 attempts"):
        collect(TwoGates().play(100), Push([0, 0]), 5)
    with pytest.raises(FewerError, match="episodes must be at least 1 and noise not negative; they are 0"):
        collect(TwoGates().play(1), Push([0, 0]), 0)
    with pytest.raises(FewerError, match="and -1"):
        collect(TwoGates().play(1), Push([0, 0]), 1, policy_noise=-1)


def test_sets_are_joined_and_what_not_all_have_is_left_out():
    one = Demonstrations(np.zeros((2, 3)), np.zeros((2, 2)), [0, 2], rewards=[1.0, 2.0], successes=[True])
    two = Demonstrations(np.ones((3, 3)), np.ones((3, 2)), [0, 1, 3], successes=[True, False])
    both = join([one, two], "both")
    assert both.offsets.tolist() == [0, 2, 3, 5]
    assert both.rewards is None
    assert both.successes.tolist() == [True, True, False]
    assert both.keep([1, 2]).fingerprint() == join([two], "two").fingerprint()
    with pytest.raises(FewerError, match="observations of different shapes"):
        join([one, Demonstrations(np.zeros((2, 4)), np.zeros((2, 2)), [0, 2])], "both")
