from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore import least_squares
from fewer.explore.least_squares import LSVIUCB
from fewer.explore.linear_mex import LinearMEX, sweep_back, sweep_forth
from fewer.explore.linear_worlds import linear_mdp, linear_river
from fewer.explore.loop import Account, Episode, Exploration
from fewer.explore.mex import first_states
from fewer.explore.worlds import FiniteMDP, random_mdp, riverswim


def account(world, runs=2):
    return Account(
        runs,
        world.states,
        world.actions,
        world.horizon,
        world.rewards,
        10,
        0,
        np.random.default_rng(0),
        features=world.features,
    )


def seen(world, agent, episodes=3, runs=2, seed=0):
    at, rng = account(world, runs), np.random.default_rng(seed)
    agent.begin(at)
    for _ in range(episodes):
        states = rng.integers(world.states, size=(runs, world.horizon + 1))
        actions = rng.integers(world.actions, size=(runs, world.horizon))
        agent.learn(at, Episode(states, actions, rng.random((runs, world.horizon))))
    return at


def test_the_fit_is_ridge_regression():
    world = linear_mdp(5, 2, 3, 4)
    at, rng = account(world, 1), np.random.default_rng(3)
    least_squares.begin(at, 0.5)
    values, rows, targets = rng.random((1, 5)), [], []
    for _ in range(4):
        episode = Episode(rng.integers(5, size=(1, 5)), rng.integers(2, size=(1, 4)), rng.random((1, 4)))
        least_squares.add(at, episode)
        for step in range(4):
            rows.append(world.features[episode.states[0, step], episode.actions[0, step]])
            targets.append(episode.rewards[0, step] + values[0, episode.states[0, step + 1]])
    phi, y = np.array(rows), np.array(targets)
    expected = np.linalg.solve(phi.T @ phi + 0.5 * np.eye(3), phi.T @ y)
    np.testing.assert_allclose(least_squares.weights(at.memory, np.linalg.inv(at.memory["gram"]), values)[0], expected)


def test_the_excess_loss_is_the_quadratic_it_is_said_to_be():
    """Squared errors beyond those of the best weights for the same targets, ridge included."""
    world = linear_mdp(5, 2, 3, 4)
    rng = np.random.default_rng(3)
    phi = world.features[rng.integers(5, size=30), rng.integers(2, size=30)]
    y, gram = rng.random(30), phi.T @ phi + 0.5 * np.eye(3)
    best = np.linalg.solve(gram, phi.T @ y)

    def loss(w):
        return ((phi @ w - y) ** 2).sum() + 0.5 * w @ w

    delta = rng.normal(size=3)
    assert loss(best + delta) - loss(best) == pytest.approx(delta @ gram @ delta)


def test_sweeping_forth_is_the_derivative_of_sweeping_back():
    world = linear_mdp(6, 3, 4, 5, seed=2)
    at = seen(world, LinearMEX())
    inverse = np.linalg.inv(at.memory["gram"])
    start = first_states(at.memory)
    delta = np.random.default_rng(5).normal(size=(2, 5, 4)) * 0.05
    of_actions, _ = sweep_back(at, inverse, delta)
    u = sweep_forth(at, inverse, of_actions, start)
    for place in np.ndindex(delta.shape):
        up, down = delta.copy(), delta.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        change = [(sweep_back(at, inverse, each)[1][:, 0] * start).sum(axis=1)[place[0]] for each in (up, down)]
        assert (change[0] - change[1]) / 2e-6 == pytest.approx(u[place], abs=1e-5)


def test_what_is_kept_is_at_least_as_good_as_the_fit_and_near_what_random_search_finds():
    world = linear_mdp(4, 2, 3, 3, seed=1)
    agent = LinearMEX(eta=1.0)
    at = seen(world, agent)
    agent.plan(at)
    reached = at.memory["objective"].copy()
    inverse, start = np.linalg.inv(at.memory["gram"]), first_states(at.memory)

    def value(delta):
        values = sweep_back(at, inverse, delta)[1]
        return (values[:, 0] * start).sum(axis=1) - (delta @ at.memory["gram"] * delta).sum(axis=(1, 2)) / 3

    rng, best, size = np.random.default_rng(0), np.zeros((2, 3, 3)), 0.3
    assert (reached >= value(best) - 1e-9).all()
    for attempt in range(4000):
        tried = best + rng.normal(size=best.shape) * size
        better = value(tried) > value(best)
        best[better] = tried[better]
        size = 0.3 * 0.999**attempt
    assert (reached >= value(best) - 0.02 * np.abs(value(best))).all()


def test_with_infinite_weight_it_is_least_squares_value_iteration():
    world = linear_mdp(6, 3, 4, 5)
    plain, fit = LSVIUCB(scale=0.0), LinearMEX(eta=math.inf)
    one, two = seen(world, plain), seen(world, fit)
    one.rng, two.rng = np.random.default_rng(1), np.random.default_rng(1)
    # actions may differ where the values are clipped; where they are not they are the same
    mine, theirs = fit.plan(two), plain.plan(one)
    assert (mine == theirs).mean() > 0.9


def test_without_features_each_pair_is_a_dimension():
    world = riverswim(4, 6)
    at = account(world)
    assert least_squares.features_of(at).shape == (4, 2, 8)
    np.testing.assert_array_equal(least_squares.features_of(at).reshape(8, 8), np.eye(8))
    learned = Exploration(LinearMEX(), copies=4, points=1).learn(riverswim(4, 10), 100)
    assert learned.curve.points[-1].extras["regret"] < 0.25 * 100 * riverswim(4, 10).optimum


def test_features_let_it_find_the_end_of_a_river_that_is_seen_in_many_ways():
    river = linear_river(4, 5, horizon=14)
    blind = FiniteMDP("blind", river.P, river.R, 14, river.first)
    regret = {
        name: Exploration(agent, copies=4, points=1).learn(world, 60, 0).curve.points[-1].extras["regret"]
        for name, agent, world in (
            ("features", LinearMEX(), river),
            ("blind", LinearMEX(), blind),
            ("fit", LinearMEX(eta=math.inf), river),
            ("bonus", LSVIUCB(scale=0.03), river),
        )
    }
    assert regret["features"] < 0.1 * 60 * river.optimum
    assert regret["features"] < 0.5 * regret["blind"]
    assert regret["fit"] > 0.7 * 60 * river.optimum
    assert regret["bonus"] < 0.5 * 60 * river.optimum


@pytest.mark.parametrize("world", [linear_mdp(7, 3, 4, 5), linear_river(3, 4, 6)])
def test_linear_worlds_are_linear(world):
    phi = world.features.reshape(world.states * world.actions, -1)
    for array in (world.P.reshape(len(phi), -1), world.R.reshape(-1, 1)):
        fit, *_ = np.linalg.lstsq(phi, array, rcond=None)
        np.testing.assert_allclose(phi @ fit, array, atol=1e-9)
    assert np.linalg.matrix_rank(world.P.reshape(len(phi), -1)) <= phi.shape[1]


def test_the_linear_river_is_the_river():
    """Whatever the symbols, the best return is that of the river they show."""
    assert linear_river(5, 3, 12).optimum == pytest.approx(riverswim(5, 12).optimum)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearMEX(eta=0), "linear-mex: eta and ridge must be positive"),
        (lambda: LinearMEX(sweeps=0), "sweeps at least 1"),
        (lambda: LSVIUCB(scale=-1), "lsvi-ucb: scale must not be negative"),
        (lambda: LSVIUCB(ridge=0), "ridge be positive"),
        (lambda: linear_mdp(dimensions=0), "linear-mdp: sizes must be at least 1"),
        (lambda: linear_river(2), "linear-river: at least 3 reaches"),
        (
            lambda: FiniteMDP("w", *_arrays(random_mdp(3, 2, 2)), 2, noise="bernoulli", features=np.zeros((2, 2, 1))),
            r"w: features must be finite and \(states, actions, dimensions\)",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def _arrays(world):
    return world.P, world.R
