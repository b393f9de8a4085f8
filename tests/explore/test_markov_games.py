from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore.low_rank_worlds import rich_game
from fewer.explore.markov_games import MarkovGame, coarse_correlated, marginals, minimax


def matrix(payoff):
    gains, loses = payoff.shape
    return MarkovGame("matrix", np.ones((1, gains * loses, 1)), payoff.reshape(1, -1), 1, players=payoff.shape)


def test_known_games():
    payoffs = np.array([[[0.5, 0, 1], [1, 0.5, 0], [0, 1, 0.5]], [[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.0, 0.0, 0.5]]])
    values, strategies = minimax(payoffs)
    np.testing.assert_allclose(values, [0.5, 0.7], atol=1e-9)
    np.testing.assert_allclose(strategies, [[1 / 3] * 3, [1, 0, 0]], atol=1e-9)


def test_both_sides_of_random_games_agree_on_their_value():
    payoffs = np.random.default_rng(0).random((30, 3, 4))
    values, strategies = minimax(payoffs)
    other, answers = minimax(-payoffs.transpose(0, 2, 1))
    np.testing.assert_allclose(values, -other, atol=1e-9)
    np.testing.assert_allclose((strategies[:, :, None] * payoffs).sum(axis=1).min(axis=-1), values, atol=1e-9)
    np.testing.assert_allclose((answers[:, None] * payoffs).sum(axis=-1).max(axis=-1), values, atol=1e-9)


def test_nobody_would_leave_a_coarse_correlated_equilibrium():
    rng = np.random.default_rng(1)
    upper = rng.random((40, 3, 2))
    lower = upper - rng.random((40, 3, 2)) * 0.3
    joint = coarse_correlated(upper, lower)
    np.testing.assert_allclose(joint.sum(axis=(1, 2)), 1)
    first, second = joint.sum(axis=2), joint.sum(axis=1)
    gets, pays = (joint * upper).sum(axis=(1, 2)), (joint * lower).sum(axis=(1, 2))
    assert ((second[:, None] * upper).sum(axis=-1).max(axis=-1) <= gets + 1e-7).all()
    assert ((first[:, :, None] * lower).sum(axis=1).min(axis=-1) >= pays - 1e-7).all()


def test_with_equal_beliefs_its_marginals_are_an_equilibrium():
    payoffs = np.random.default_rng(2).random((20, 3, 3))
    joint = coarse_correlated(payoffs, payoffs)
    values = minimax(payoffs)[0]
    for payoff, each, value in zip(payoffs, joint, values, strict=True):
        game = matrix(payoff)
        assert game.value(each.reshape(1, 1, 1, -1))[0] == pytest.approx(0, abs=1e-7)
        assert game.worth == pytest.approx(value)


def test_the_gap_of_a_policy_is_that_of_all_deterministic_answers():
    """Two steps, by trying every answer."""
    rng = np.random.default_rng(3)
    P, R = rng.dirichlet(np.ones(2), size=(2, 4)), rng.random((2, 4))
    game = MarkovGame("g", P, R, 2, players=(2, 2))
    policy = rng.dirichlet(np.ones(4), size=(1, 2, 2))
    first, second = marginals(policy, (2, 2))

    def worth(mine, theirs):
        values = np.zeros(2)
        for step in (1, 0):
            joint = (mine[step][:, :, None] * theirs[step][:, None, :]).reshape(2, 4)
            values = (joint * (R + P @ values)).sum(axis=1)
        return values[0]

    answers = [np.eye(2)[np.array(each).reshape(2, 2)] for each in np.ndindex(2, 2, 2, 2)]
    best = max(worth(each, second[0]) for each in answers)
    worst = min(worth(first[0], each) for each in answers)
    assert game.value(policy)[0] == pytest.approx(worst - best)
    assert game.optimum == 0


def test_equilibria_step_by_step_have_no_gap():
    game = rich_game(seed=1)
    policy, values = np.zeros((1, 3, game.states, 4)), np.zeros(game.states)
    for step in (2, 1, 0):
        now = (game.R + game.P @ values).reshape(-1, 2, 2)
        joint = coarse_correlated(now, now)
        policy[0, step], values = joint.reshape(-1, 4), minimax(now)[0]
    assert game.value(policy)[0] == pytest.approx(0, abs=1e-6)
    assert values @ game.first == pytest.approx(game.worth)
    assert game.value(np.full((1, 3, game.states, 4), 0.25))[0] < -0.05


@pytest.mark.parametrize("players", [None, (2, 3), (4, 0)])
def test_players_must_make_the_pairs(players):
    with pytest.raises(FewerError, match="whose product is the number of pairs, 4"):
        MarkovGame("g", np.ones((1, 4, 1)), np.zeros((1, 4)), 1, players=players)


def test_values_that_are_no_numbers_have_no_equilibrium():
    with pytest.raises((FewerError, ValueError)):
        minimax(np.full((1, 2, 2), np.nan))
