from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.grid_worlds import slippery_grid


def test_walls_stop_and_slips_go_anywhere():
    world = slippery_grid(side=3, slip=0.4, horizon=4)
    assert world.P[0, 3] == pytest.approx([0.2, 0.7, 0, 0.1, 0, 0, 0, 0, 0])  # right from a corner
    assert world.P[4, 0, 1] == pytest.approx(0.7)  # up from the middle
    assert world.R[8].tolist() == [1] * 4
    assert world.R[:8].sum() == 0


def test_without_slips_the_corner_is_paid_for_from_the_first_step_in_it():
    assert slippery_grid(side=4, slip=0, horizon=9).optimum == 3


def test_the_expert_errs_as_often_as_said_and_plays_other_episodes_for_each_run():
    world = slippery_grid(side=3, horizon=6, demonstrations=400, mistakes=0.2)
    shown = world.demonstrations(2, np.random.default_rng(0))
    assert shown.actions.shape == (2, 400, 6)
    assert not np.array_equal(shown.states[0], shown.states[1])
    assert world.shown.policy.max(axis=-1) == pytest.approx(0.85)
    assert slippery_grid(demonstrations=3).fingerprint() != slippery_grid(demonstrations=4).fingerprint()
    assert compose.task("slippery-grid(told=False)").pays is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 1}, "side must be at least 2"),
        ({"slip": 1}, r"slip in \[0, 1\)"),
        ({"demonstrations": -1}, "demonstrations not negative"),
        ({"horizon": 9}, "a horizon of 9 does not reach the far corner of 6 by 6 cells; give 10 or more"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options, message):
    with pytest.raises(FewerError, match=message):
        slippery_grid(**options)
