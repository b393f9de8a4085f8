"""Grids to walk on, generated, with somebody who knows the way."""

from __future__ import annotations

import numpy as np

from fewer.core.errors import FewerError
from fewer.explore.planning import backward_induction, greedy, mix
from fewer.explore.trajectories import Expert
from fewer.explore.worlds import FiniteMDP


def slippery_grid(
    side: int = 6,
    slip: float = 0.1,
    horizon: int = 14,
    demonstrations: int = 0,
    mistakes: float = 0.05,
    told: bool = True,
) -> FiniteMDP:
    """A square grid in which each step in the far corner pays 1, and a step sometimes goes astray.

    One starts in the near corner and may go up, down, left and right; walls stop.

    Parameters
    ----------
    side : int, default 6
        Cells of a side.
    slip : float, default 0.1
        Share of steps that go in a random direction.
    horizon : int, default 14
        Steps of an episode; the far corner is ``2 * (side - 1)`` steps away.
    demonstrations : int, default 0
        Episodes of an expert that agents are shown first, other ones for each run.
    mistakes : float, default 0.05
        Share of random actions of the expert, who is perfect else.
    told : bool, default True
        Tell agents the mean rewards, so that only transitions are left to learn.

    Examples
    --------
    >>> round(slippery_grid().optimum, 2)
    2.97
    """
    if side < 2 or not 0 <= slip < 1 or not 0 <= mistakes <= 1 or demonstrations < 0:
        raise FewerError(
            f"slippery-grid: side must be at least 2, slip in [0, 1), mistakes in [0, 1], demonstrations not negative; given "
            f"{side}, {slip}, {mistakes}, {demonstrations}"
        )
    if horizon < 2 * (side - 1):
        raise FewerError(
            f"slippery-grid: a horizon of {horizon} does not reach the far corner of {side} by {side} cells; give "
            f"{2 * (side - 1)} or more"
        )
    cell = np.arange(side * side)
    row, column = np.divmod(cell, side)
    moved = np.stack(
        [
            np.clip(row + down, 0, side - 1) * side + np.clip(column + right, 0, side - 1)
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1))
        ]
    )
    sure = np.zeros((side * side, 4, side * side))
    sure[cell, np.arange(4)[:, None], moved] = 1
    P = (1 - slip) * sure + slip * sure.mean(axis=1, keepdims=True)
    R = np.zeros((side * side, 4))
    R[-1] = 1
    best = greedy(backward_induction(P[None], R[None], horizon)[1])[0]
    told_as = "" if told else ", told=False"
    name = (
        f"slippery-grid(side={side}, slip={slip:g}, horizon={horizon}, demonstrations={demonstrations}, "
        f"mistakes={mistakes:g}{told_as})"
    )
    shown = Expert(mix(best, mistakes), demonstrations)
    return FiniteMDP(name, P, R, horizon, pays=R if told else None, shown=shown)
