from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.low_rank_worlds import LowRank, build_lock, rich_game, rich_lock
from fewer.explore.planning import backward_induction, greedy
from fewer.explore.worlds import FiniteMDP


def test_a_lock_is_opened_by_its_secret_only():
    lock = build_lock(horizon=4, actions=3, symbols=5, seed=2)
    world = lock.world
    assert world.optimum == pytest.approx(1)
    best = greedy(backward_induction(world.P[None], world.R[None], 4)[1])
    assert world.value(best)[0] == pytest.approx(1)
    wrong = np.roll(best, 1, axis=-1)
    assert world.value(wrong)[0] == pytest.approx(0.1)  # the decoy
    # a random player opens it with probability 3^-4, or dies at once with probability 2/3
    uniform = np.full((1, 4, world.states, 3), 1 / 3)
    assert world.value(uniform)[0] == pytest.approx(3**-4 + 0.1 * 2 / 3)


def test_its_rank_is_that_of_the_hidden_states_and_symbols_of_one_are_alike():
    lock = build_lock(horizon=3, symbols=6, noise=0.1, seed=0)
    world = lock.world
    assert world.states == 12 + 2 * 18 + 1
    assert np.linalg.matrix_rank(world.P.reshape(-1, world.states)) <= lock.model.phi.shape[2]
    np.testing.assert_allclose(world.P, lock.model.P)
    for cause in np.unique(lock.cause):
        rows = world.P[lock.cause == cause]
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[:1], rows.shape))
    apart = np.linalg.norm(world.vectors[:, None] - world.vectors, axis=-1)
    alike = lock.cause[:, None] == lock.cause
    assert apart[alike].mean() < 0.3 * apart[~alike].mean()
    assert (world.levels == np.repeat([0, 1, 2, 3], [12, 18, 18, 1])).all()


def test_agents_do_not_see_the_factors_and_may_not_see_vectors():
    assert rich_lock().features is None
    assert rich_lock(vectors=False).vectors is None
    assert rich_lock().fingerprint() != rich_lock(vectors=False).fingerprint() != rich_lock(seed=1).fingerprint()
    assert compose.task("rich-lock(horizon=2)").horizon == 2
    assert compose.task("rich-game(horizon=2)").players == (2, 2)


def test_games_of_low_rank():
    game = rich_game(horizon=2, gains=2, loses=3, hidden=2, symbols=3)
    assert (game.states, game.actions, game.optimum) == (13, 6, 0)
    assert 0 < game.worth < 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rich_lock(actions=1), "2 actions are needed"),
        (lambda: rich_lock(noise=-1), "noise not negative"),
        (lambda: rich_game(gains=0), "all sizes must be at least 1"),
        (
            lambda: LowRank(np.ones((1, 1, 2)), np.full((2, 1), 1.0), np.zeros((1, 1))),
            "rows of phi must be distributions",
        ),
        (
            lambda: LowRank(np.ones((2, 1, 1)), np.full((1, 1), 1.0), np.zeros((2, 1))),
            r"must agree; they are \(2, 1, 1\), \(1, 1\) and \(2, 1\)",
        ),
        (
            lambda: FiniteMDP("w", np.ones((1, 1, 1)), np.zeros((1, 1)), 2, levels=np.zeros(1, int)),
            "state 0 of level 0 leads to state 0 of level 0; each step must lead to the next level",
        ),
        (
            lambda: FiniteMDP("w", np.ones((1, 1, 1)), np.zeros((1, 1)), 1, levels=np.ones(1, int)),
            "levels must be one number for each of 1 states, 0 for first ones",
        ),
        (
            lambda: FiniteMDP("w", np.ones((1, 1, 1)), np.zeros((1, 1)), 1, vectors=np.full((1, 2), np.nan)),
            "vectors must be finite and one row for each of 1 states",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
