from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos.rollouts import rollout
from fewer.demos.slot_world import DEPTH, HORIZON, SHAKE, Slot, slot_insertion


class Push:
    def __init__(self, push):
        self.push = np.array(push)

    def begin(self, copies, rng):
        self.copies = copies

    def act(self, observations):
        return np.tile(self.push, (self.copies, 1))


def test_it_moves_as_a_double_integrator():
    play = Slot(noise=0).play(4)
    before = play.reset(0)
    after = play.step(np.tile([0.5, -3.0], (4, 1))).observations  # beyond the bounds counts as the bound
    np.testing.assert_allclose(after[:, 2:], before[:, 2:] + [0.05, -0.1], atol=1e-6)
    np.testing.assert_allclose(after[:, :2], before[:, :2] + 0.1 * after[:, 2:], atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after", "hit"),
    [
        ((-0.5, 0.5), (-0.1, 0.5), False),  # in front of the wall
        ((-0.1, 0.5), (0.1, 0.5), True),  # into it
        ((-0.1, 0.0), (0.1, 0.0), False),  # into the slot
        ((0.1, 0.0), (0.1, 0.07), True),  # against its side
        ((0.1, 0.0), (DEPTH + 0.1, 0.0), False),  # into the pocket
        ((0.3, 0.0), (0.3, 0.15), False),  # which is wider
        ((0.3, 0.0), (0.3, 0.17), True),
        ((0.5, 0.0), (0.7, 0.0), True),  # and ends
    ],
)
def test_walls_are_where_they_should_be(before, after, hit):
    assert Slot(width=0.12).blocked(np.array([before]), np.array([after]))[0] == hit


def test_success_is_to_be_inside_at_the_end():
    outcome = rollout(Slot().play(400), Slot().expert(), 0, policy_noise=SHAKE, record=True)
    assert 0.1 < outcome.successes.mean() < 0.5  # the expert is in a hurry
    assert (outcome.lengths[outcome.successes] == HORIZON).all()
    final = outcome.demonstrations.final_observations
    assert (final[outcome.successes, 0] >= 0).all()
    np.testing.assert_array_equal(outcome.returns, outcome.successes)
    away = rollout(Slot().play(5), Push([-1.0, 0.0]), 0)
    assert not away.successes.any()
    assert (away.lengths == HORIZON).all()


def test_all_demonstrations_succeed_and_repeat_themselves():
    task = slot_insertion(6)
    given = task.demonstrations(3)
    assert len(given) == task.pool == 6
    assert given.successes.all()
    assert given.fingerprint() == task.demonstrations(3).fingerprint() != task.demonstrations(4).fingerprint()
    assert task.fingerprint() != slot_insertion(6, width=0.2).fingerprint()


def test_what_cannot_be_is_one_clear_line():
    with pytest.raises(FewerError, match=r"at most as wide as the pocket, 0.32, and noise is not negative; they are 1"):
        slot_insertion(width=1)
    with pytest.raises(FewerError, match=r"noise is not negative; they are 0.12 and -1"):
        slot_insertion(noise=-1)
    with pytest.raises(FewerError, match="at least one demonstration is needed; 0 were asked for"):
        slot_insertion(0)
