from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.cloning import Cloning, clone_counts
from fewer.explore.demo_regularized import DemoRegularized, proven_strength
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.loop import Account, Exploration
from fewer.explore.soft_planning import soft_backward_induction, soft_evaluate, trajectory_divergence
from fewer.explore.trajectories import collect
from fewer.explore.ucbvi import UCBVI
from fewer.explore.worlds import random_mdp, riverswim


def told(world):
    return replace(world, pays=world.R)


def sampled(world, agent, times, runs, seed=0, by_step=False):
    """An account in which each pair was tried so often, by chance."""
    rng = np.random.default_rng(seed)
    account = Account(runs, world.states, world.actions, world.horizon, world.rewards, 100, 0, rng, pays=world.pays)
    agent.begin(account)
    steps = (world.horizon,) if by_step else ()
    shape = (runs, *steps, world.states, world.actions)
    chances = np.broadcast_to(world.P, (*shape, world.states))
    account.memory["next"] = rng.multinomial(times, chances, size=shape).astype(float)
    account.memory["begun"][:, 0] = True
    return account


def test_without_a_price_a_prior_or_a_deviation_it_is_ucbvi():
    world, common = riverswim(5, horizon=8), {"bonus": "bernstein", "scale": 0.05}
    for by_step in (False, True):
        ours = DemoRegularized(strength=0, deviate=False, by_step=by_step, **common)
        theirs = UCBVI(by_step=by_step, **common)
        first, second = (Exploration(agent, copies=3, points=4).learn(world, 40, seed=2) for agent in (ours, theirs))
        np.testing.assert_array_equal(first.result, second.result)
        assert [p.score for p in first.curve.points] == [p.score for p in second.curve.points]


def test_an_infinite_price_is_the_clone():
    world = slippery_grid(side=3, horizon=5, demonstrations=6)
    dear = Exploration(DemoRegularized(strength=np.inf, deviate=False), copies=2, points=1).learn(world, 10, seed=1)
    np.testing.assert_array_equal(dear.result, Exploration(Cloning(), copies=2, points=1).learn(world, 10, 1).result)


def test_without_demonstrations_it_is_regularised_by_entropy():
    world = told(random_mdp(4, 3, 5))
    agent = DemoRegularized(strength=0.3, scale=1e-5, recommends="empirical")
    account = sampled(world, agent, 10_000_000, 2)
    uniform = np.full((1, 5, 4, 3), 1 / 3)
    exact = soft_backward_induction(world.P[None], world.R[None], uniform, 0.3)
    np.testing.assert_allclose(agent.recommend(account), np.repeat(exact[1], 2, 0), atol=0.01)
    np.testing.assert_allclose(agent.bounds(account)["upper"], np.repeat(exact[0], 2, 0), atol=0.01)


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize("times", [10, 1_000, 100_000])
def test_bounds_contain_the_best_values_and_the_gap_what_is_given_away_at_the_stated_rate(times, by_step):
    """At the scale of the proof, at least 95 % of runs; all steps and states at once."""
    world = told(random_mdp(4, 2, 4, seed=1))
    agent = DemoRegularized(strength=0.5, delta=0.05, by_step=by_step)
    account = sampled(world, agent, times, 400, by_step=by_step)
    P, R, prior = world.P[None], world.R[None], account.memory["prior"]
    best = soft_backward_induction(P, R, prior, 0.5)[0]
    found = agent.bounds(account)
    inside = (found["lower"] <= best + 1e-9) & (best <= found["upper"] + 1e-9)
    assert inside.all(axis=(1, 2)).mean() >= 0.95
    loss = best - soft_evaluate(P, R, found["policy"], prior, 0.5)
    assert (loss <= found["gap"] + 1e-9).all(axis=(1, 2)).mean() >= 0.95
    if times == 100_000:  # the bounds are not only true
        assert (found["upper"] - found["lower"])[:, 0].max() < 4
        assert found["gap"][:, 0].mean() < 4


def test_without_a_bonus_the_bounds_fail():
    """So that the test above can."""
    world = told(random_mdp(4, 2, 4, seed=1))
    agent = DemoRegularized(strength=0.5, scale=0, bonus="bernstein")
    account = sampled(world, agent, 1000, 100)
    best = soft_backward_induction(world.P[None], world.R[None], account.memory["prior"], 0.5)[0]
    found = agent.bounds(account)
    assert (best <= found["upper"] + 1e-9).all(axis=(1, 2)).mean() < 0.5


def test_the_bounds_are_those_of_a_plain_loop():
    world = told(random_mdp(3, 2, 3, seed=2))
    agent = DemoRegularized(strength=0.4, scale=0.002, by_step=True)
    account = sampled(world, agent, 40, 2, by_step=True)
    account.memory["next"][0, 1, 2, 1] = 0  # a pair never tried
    found = agent.bounds(account)
    H, S, A = 3, 3, 2
    for run in range(2):
        U, D, G = np.zeros(S), np.zeros(S), np.zeros(S)
        for step in (2, 1, 0):
            new_u, new_d, new_g = np.zeros(S), np.zeros(S), np.zeros(S)
            for s in range(S):
                up, down, follow = np.zeros(A), np.zeros(A), np.zeros(A)
                for a in range(A):
                    seen = account.memory["next"][run, step, s, a]
                    n, left = seen.sum(), H - step
                    p = seen / n if n else np.full(S, 1 / S)
                    follow[a] = p @ G
                    if n == 0:
                        up[a], down[a] = left, 0
                        continue
                    grows = 0.002 * np.log(8 * np.e * (n + 1))
                    first = 0.002 * np.log(3 * S * A * H / 0.05)
                    variance = p @ U**2 - (p @ U) ** 2
                    b = 3 * np.sqrt(variance * (first + grows) / n) + 9 * left**2 * (first + S * grows) / n
                    b += p @ (U - D) / H
                    up[a] = min(world.R[s, a] + p @ U + b, left)
                    down[a] = max(world.R[s, a] + p @ D - b, 0)
                weight = 0.5 * np.exp(up / 0.4)
                pi = weight / weight.sum()
                new_u[s] = 0.4 * np.log(weight.sum())
                new_d[s] = 0.4 * np.log((0.5 * np.exp(down / 0.4)).sum())
                new_g[s] = min((up - down).max() ** 2 / 0.8 + pi @ follow, H - step)
                np.testing.assert_allclose(found["policy"][run, step, s], pi)
                np.testing.assert_allclose(found["apart"][run, step, s], up - down, atol=1e-12)
            U, D, G = new_u, new_d, new_g
            np.testing.assert_allclose(found["upper"][run, step], U)
            np.testing.assert_allclose(found["lower"][run, step], D, atol=1e-12)
            np.testing.assert_allclose(found["gap"][run, step], G)


def test_it_deviates_in_at_most_one_step_and_in_none_as_often_as_in_each():
    world = slippery_grid(side=3, horizon=4, demonstrations=5)
    agent = DemoRegularized(bonus="bernstein", scale=0.05)
    loop = Exploration(agent, copies=4000, points=1)
    state = loop.start(world, 5, seed=0)
    loop.advance(state)
    account = loop._account(state)
    other = (agent.plan(account) != loop.result(state)).any(axis=(2, 3))
    assert (other.sum(axis=1) <= 1).all()
    share = np.append(other.mean(axis=0), (~other).all(axis=1).mean())
    assert share == pytest.approx(0.2, abs=0.03)


def test_it_stops_when_it_may_and_then_is_within_its_precision():
    world = told(random_mdp(3, 2, 2, seed=3))
    agent = DemoRegularized(strength=1.0, scale=0.01, precision=0.2, replan=1.1)
    loop = Exploration(agent, copies=6, points=1)
    state = loop.start(world, 20_000, seed=0)
    point = loop.advance(state)
    assert state.exhausted
    assert point.spent < 20_000
    assert (state.memory["stopped"] <= point.spent).all()
    assert (state.memory["gap"] <= 0.2).sum() >= 1
    prior = state.memory["prior"]
    best = soft_backward_induction(world.P[None], world.R[None], prior, 1.0)[0][:, 0, 0]
    got = soft_evaluate(world.P[None], world.R[None], loop.result(state), prior, 1.0)[:, 0, 0]
    assert (best - got <= 0.2).all()
    on = Exploration(DemoRegularized(strength=1.0), copies=2, points=1)
    state = on.start(world, 5, seed=0)
    on.advance(state)
    assert not state.exhausted


def test_the_strength_follows_the_number_of_demonstrations_and_the_range_of_rewards():
    for world, expected in (
        (slippery_grid(side=3, horizon=4, demonstrations=25), 0.1),
        (slippery_grid(side=3, horizon=4), 0.02),
        (replace(riverswim(3), rewards=(0.0, 2.0)), 0.04),
    ):
        loop = Exploration(DemoRegularized(), points=1)
        assert loop.start(world, 1, 0).memory["strength"] == pytest.approx(expected)


def test_a_proven_strength_keeps_the_price_of_imitation_within_the_precision():
    world = slippery_grid(side=3, horizon=4)
    expert = world.shown.policy[None]
    for size in (20, 500):
        cloned = clone_counts(collect(world, expert, size, 50, np.random.default_rng(0)), 9, 4)
        apart = trajectory_divergence(world.P[None], world.first, np.repeat(expert, 50, 0), cloned)
        assert (proven_strength(0.1, size, 9, 4, 4) * apart <= 0.1).mean() >= 0.95


def test_a_few_demonstrations_save_most_episodes():
    def left(world, agent):
        learned = Exploration(agent, copies=6, points=1).learn(world, 60)
        return float((1 - world.value(learned.result) / world.optimum).mean())

    options = {"bonus": "bernstein", "scale": 0.02, "recommends": "empirical"}
    shown = slippery_grid(side=5, horizon=12, demonstrations=20)
    with_them = left(shown, DemoRegularized(**options))
    assert with_them < 0.1
    assert with_them < 0.5 * left(shown, DemoRegularized(**options, prior="uniform"))
    assert with_them < 0.5 * left(slippery_grid(side=5, horizon=12), UCBVI(**options))


def test_rewards_that_are_not_told_are_learned_too():
    world = slippery_grid(side=3, horizon=6, demonstrations=20, told=False)
    learned = Exploration(DemoRegularized(bonus="bernstein", scale=0.01), copies=5, points=1).learn(world, 150)
    assert (world.value(learned.result) > 0.9 * world.optimum).all()


def test_ucbvi_counts_demonstrations_if_asked():
    world = slippery_grid(side=3, horizon=5, demonstrations=7)
    loop = Exploration(UCBVI(warm_start=True), copies=2, points=1)
    state = loop.start(world, 3, 0)
    assert counts.visits(state.memory).sum() == 2 * 7 * 5
    with pytest.raises(FewerError, match="there are no demonstrations to start from"):
        loop.start(riverswim(), 3, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DemoRegularized(prior="x"), "unknown prior 'x'; choose demonstrations or uniform"),
        (lambda: DemoRegularized(bonus="x"), "unknown bonus 'x'"),
        (lambda: DemoRegularized(recommends="x"), "unknown recommends 'x'"),
        (lambda: DemoRegularized(strength=-1), "strength must not be negative"),
        (lambda: DemoRegularized(strength=float("nan")), "strength must not be negative"),
        (lambda: DemoRegularized(scale=-1), "scale and precision must not be negative"),
        (lambda: DemoRegularized(replan=0.5), "replan be at least 1"),
        (lambda: DemoRegularized(strength=0, precision=0.1), "only a strength above 0 tells when to stop"),
        (lambda: proven_strength(0.1, 0, 2, 2, 2), "at least one demonstration"),
        (lambda: UCBVI(replan=0.5), "replan be at least 1"),
        (lambda: UCBVI(recommends="x"), "recommends is optimistic or empirical"),
        (
            lambda: Exploration(DemoRegularized(pseudo_count=0)).learn(slippery_grid(demonstrations=2), 3),
            "pseudo_count must be positive",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
