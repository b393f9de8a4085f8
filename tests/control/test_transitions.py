from __future__ import annotations

import numpy as np
import pytest
from tests.control.toys import target

from fewer.control.transitions import transitions
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations


def demos(**changes):
    given = {
        "observations": np.arange(10.0).reshape(5, 2),
        "actions": np.array([[-2.0], [1.0], [4.0], [1.0], [1.0]]),
        "offsets": [0, 3, 5],
        "final_observations": np.array([[90.0, 91.0], [92.0, 93.0]]),
        "rewards": np.arange(5.0),
        "terminations": np.array([False, False, True, False, False]),
    }
    return Demonstrations(**(given | changes))


def test_actions_are_scaled_and_successors_stay_in_their_episode():
    batch = transitions(demos(), target(low=-2.0, high=4.0))
    assert batch.actions[:, 0].tolist() == [-1, 0, 1, 0, 0]
    assert batch.next_observations.tolist() == [[2, 3], [4, 5], [90, 91], [8, 9], [92, 93]]
    assert batch.rewards.tolist() == [0, 1, 2, 3, 4]
    assert batch.continues.tolist() == [1, 1, 0, 1, 1]  # the second episode was cut off, which is no end


def test_a_step_whose_successor_is_not_known_is_left_out_unless_it_ended():
    batch = transitions(demos(final_observations=None), target(low=-2.0, high=4.0))
    assert batch.rewards.tolist() == [0, 1, 2, 3]
    single = demos(final_observations=None, offsets=[0, 1, 2, 3, 4, 5], terminations=np.zeros(5, dtype=bool))
    with pytest.raises(FewerError, match="no step has a successor"):
        transitions(single, target(low=-2.0, high=4.0))


def test_windows_add_up_rewards_and_repeat_the_last_action():
    batch = transitions(demos(), target(low=-2.0, high=4.0), length=2)
    assert batch.actions.tolist() == [[-1, 0], [0, 1], [1, 1], [0, 0], [0, 0]]
    assert batch.rewards.tolist() == [1, 3, 2, 7, 4]
    assert batch.next_observations.tolist() == [[4, 5], [90, 91], [90, 91], [92, 93], [92, 93]]
    assert batch.continues.tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "says nothing of rewards"),
        ({"actions": np.full((5, 1), 4.5)}, r"the action of step 0, \[4.5\], is out of the bounds"),
        ({"actions": np.zeros((5, 2))}, "actions have 2 numbers and those of target.* 1"),
        ({"actions": np.zeros(5, dtype=int)}, "actions have 0 numbers"),
        (
            {"observations": np.zeros((5, 3)), "final_observations": np.zeros((2, 3))},
            "observations have 3 numbers and those of target.* 2",
        ),
    ],
)
def test_what_does_not_fit(changes, message):
    with pytest.raises(FewerError, match=message):
        transitions(demos(**changes), target(low=-2.0, high=4.0))
