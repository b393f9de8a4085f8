from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fewer.core.errors import FewerError
from fewer.explore.demo_regularized import DemoRegularized
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.loop import Exploration
from fewer.explore.preferences import TaughtRewards, ask, fit_rewards, from_preferences
from fewer.explore.trajectories import Trajectories, collect
from fewer.explore.worlds import random_mdp


def pairs(world, count, runs=2, seed=0):
    uniform = np.full((1, world.horizon, world.states, world.actions), 1 / world.actions)
    rng = np.random.default_rng(seed)
    first, second = (collect(world, uniform, count, runs, rng) for _ in range(2))
    return first, second, ask(first, second, rng, sharpness=3)


@pytest.mark.parametrize("rewards", [(0.0, 1.0), (-1.0, 2.0)])
def test_the_fit_is_the_likeliest_within_the_range(rewards):
    world = random_mdp(3, 2, 4)
    first, second, answers = pairs(world, 60)
    found = fit_rewards(first, second, answers, 3, 2, rewards=rewards, sharpness=3, ridge=0.5)
    low, high = rewards
    for run in range(2):
        x = np.zeros((60, 6))
        for pair in range(60):
            for step in range(4):
                x[pair, first.states[run, pair, step] * 2 + first.actions[run, pair, step]] += 1
                x[pair, second.states[run, pair, step] * 2 + second.actions[run, pair, step]] -= 1
        x *= np.where(answers[run], 1, -1)[:, None]

        def loss(r, x=x):
            return np.logaddexp(0, -3 * x @ r).sum() + 0.25 * (((r - low) / (high - low)) ** 2).sum()

        best = minimize(loss, np.full(6, (low + high) / 2), bounds=[rewards] * 6, tol=1e-10, method="L-BFGS-B").x
        np.testing.assert_allclose(found[run].ravel(), best, atol=2e-3)


def test_many_answers_give_the_order_of_returns():
    world = random_mdp(4, 2, 3, seed=1)
    first, second, answers = pairs(world, 4000, runs=1)
    learned = fit_rewards(first, second, answers, 4, 2, sharpness=3)[0]

    def returns(played, rewards):
        return rewards[played.states[..., :-1], played.actions].sum(axis=-1)

    new = pairs(world, 500, runs=1, seed=1)
    right = np.sign(returns(new[0], world.R) - returns(new[1], world.R))
    assert (np.sign(returns(new[0], learned) - returns(new[1], learned)) == right).mean() > 0.93


def test_what_no_answer_speaks_of_pays_the_least():
    one = Trajectories(np.zeros((1, 5, 2), int), np.zeros((1, 5, 1), int), np.zeros((1, 5, 1)))
    other = Trajectories(np.ones((1, 5, 2), int), np.zeros((1, 5, 1), int), np.zeros((1, 5, 1)))
    learned = fit_rewards(one, other, np.ones((1, 5), bool), 3, 2, rewards=(-1.0, 1.0), ridge=0.1)
    assert learned[0, 0, 0] > 0
    assert (learned[0, 2] == -1).all()
    assert learned[0, 1].tolist() == [-1, -1]


def test_answers_err_as_often_as_the_model_says():
    zero, one = (
        Trajectories(np.zeros((1, 20_000, 2), int), np.zeros((1, 20_000, 1), int), paid)
        for paid in (np.zeros((1, 20_000, 1)), np.ones((1, 20_000, 1)))
    )
    rng = np.random.default_rng(0)
    assert ask(one, zero, rng).mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.02)
    assert ask(zero, zero, rng).mean() == pytest.approx(0.5, abs=0.02)


def test_a_taught_world_tells_other_rewards_than_it_scores_by():
    world = slippery_grid(side=3, horizon=6)
    false = np.zeros((9, 4))
    false[0] = 1  # staying at the start is said to pay
    taught = TaughtRewards(world, false)
    learned = Exploration(DemoRegularized(bonus="bernstein", scale=0.01), points=1).learn(taught, 60)
    assert taught.optimum == world.optimum
    assert learned.curve.final < 0.3
    assert (taught.states, taught.actions, taught.horizon, taught.rewards) == (9, 4, 6, (0.0, 1.0))
    assert taught.fingerprint() != world.fingerprint()
    assert world.value(learned.result)[0] < 0.1 * world.optimum


def test_from_a_clone_by_preferences_to_more_than_the_clone():
    world = slippery_grid(side=3, horizon=6, demonstrations=20)
    taught = from_preferences(world, 400, np.random.default_rng(0))
    learned = Exploration(DemoRegularized(0.3, bonus="bernstein", scale=0.01), points=1).learn(taught, 200)
    assert world.value(learned.result)[0] > 0.9 * world.optimum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fit_rewards(*pairs(random_mdp(3, 2, 2), 4)[:2], np.ones((2, 5), bool), 3, 2),
            "give pairs, and True or False",
        ),
        (
            lambda: fit_rewards(*pairs(random_mdp(3, 2, 2), 4)[:2], np.ones((2, 4)), 3, 2),
            "give pairs, and True or False",
        ),
        (lambda: fit_rewards(*pairs(random_mdp(3, 2, 2), 0), 3, 2), "there is no pair to learn from"),
        (lambda: fit_rewards(*pairs(random_mdp(3, 2, 2), 4), 3, 2, ridge=0), "sharpness and ridge must be positive"),
        (lambda: fit_rewards(*pairs(random_mdp(3, 2, 2), 4), 3, 2, rewards=(1.0, 0.0)), "rewards a range"),
        (lambda: TaughtRewards(random_mdp(3, 2, 2), np.full((3, 2), 2.0)), r"must be \(3, 2\) within \[0, 1\]"),
        (
            lambda: from_preferences(random_mdp(3, 2, 2), 4, np.random.default_rng(0)),
            "shows no demonstrations to clone",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
