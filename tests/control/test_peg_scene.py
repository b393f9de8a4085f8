"""Two views of one scene."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.control.peg_scene import peg_there_and_back


def test_two_views_of_one_scene():
    task = peg_there_and_back(demonstrations=2)
    there, back = task.link(3)
    there.reset({0: 0})
    there.step(np.array([[0.3, 0.4, 0.1]]))
    seen = back.reset({0: 9})
    assert back.tool == pytest.approx(there.tool)
    assert seen[0, :4] == pytest.approx([0, 0, 0, 1], abs=1e-6)  # where it begins is its origin
    back.step(np.array([[0.0, -0.5, 0.0]]))
    saved = (there.state_dict(), back.state_dict())
    there.reset({0: 1})
    after = there.step(np.array([[0.1, 0.1, 0.1]])).observations
    for view, tree in zip((there, back), saved, strict=True):
        view.load_state_dict(tree)
    there.reset({0: 1})
    assert there.step(np.array([[0.1, 0.1, 0.1]])).observations == pytest.approx(after)
