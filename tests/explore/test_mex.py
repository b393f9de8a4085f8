from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from fewer.core.errors import FewerError
from fewer.explore import counts
from fewer.explore.greedy_agents import CertaintyEquivalence
from fewer.explore.loop import Account, Episode, Exploration
from fewer.explore.mex import MEX, RENEWED, first_states, objective, optimistic, promise, slope, tilted, world_of
from fewer.explore.planning import backward_induction, evaluate, greedy
from fewer.explore.psrl import PSRL
from fewer.explore.ucbvi import UCBVI
from fewer.explore.worlds import FiniteMDP, random_mdp, riverswim


def models(runs=3, states=4, actions=2, seed=0):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.5), size=(runs, states, actions))
    return P, rng.random((runs, states, actions)), rng.dirichlet(np.ones(states), size=runs)


def account(runs=2, states=3, actions=2, horizon=4, pays=None, rewards=(0.0, 1.0)):
    return Account(runs, states, actions, horizon, rewards, 10, 0, np.random.default_rng(0), pays=pays)


def fitted(agent, at, steps):
    """Take many steps of the agent at once, whatever was seen."""
    type(agent)(agent.eta, steps, agent.lr)._climb(at)
    return world_of(at.memory["logits"], at)


def test_the_promise_is_the_best_value_and_its_derivatives_are_those_of_autograd():
    P, R, start = models()
    value, by_P, by_R = promise(P, R, 5, start)
    np.testing.assert_allclose(value, (backward_induction(P, R, 5)[0][:, 0] * start).sum(axis=1))
    p, r = torch.tensor(P, requires_grad=True), torch.tensor(R, requires_grad=True)
    values = torch.zeros(3, 4, dtype=torch.float64)
    for _ in range(5):
        values = (r + torch.einsum("rsaz,rz->rsa", p, values)).amax(-1)
    (values * torch.tensor(start)).sum().backward()
    np.testing.assert_allclose(by_P, p.grad, atol=1e-12)
    np.testing.assert_allclose(by_R, r.grad, atol=1e-12)
    np.testing.assert_allclose(by_R.sum(axis=(1, 2)), 5)  # every step is spent somewhere


def test_the_promise_moves_as_finite_differences_say():
    P, R, start = models(runs=1, seed=4)
    _, by_P, by_R = promise(P, R, 4, start)
    for place in np.ndindex(R.shape):
        moved = R.copy()
        moved[place] += 1e-6
        assert (promise(P, moved, 4, start)[0] - promise(P, R, 4, start)[0]) / 1e-6 == pytest.approx(
            by_R[place], abs=1e-5
        )
    for place in np.ndindex(P.shape):
        moved = P.copy()
        moved[place] += 1e-6
        assert (promise(moved, R, 4, start)[0] - promise(P, R, 4, start)[0]) / 1e-6 == pytest.approx(
            by_P[place], abs=1e-5
        )


@pytest.mark.parametrize("told", [False, True])
def test_each_step_goes_up_the_gradient_of_the_objective(told):
    """The agent's first step of Adam has the sign of the objective's finite differences."""
    rng = np.random.default_rng(2)
    at = account(runs=1, pays=rng.random((3, 2)) if told else None)
    agent = MEX(eta=0.7, steps=1, lr=1e-3)
    agent.begin(at)
    at.memory["logits"] += rng.normal(size=at.memory["logits"].shape)
    if told:
        at.memory["logits"][..., -1] = 0
    agent.learn(at, Episode(rng.integers(3, size=(1, 5)), rng.integers(2, size=(1, 4)), rng.random((1, 4))))
    before = at.memory["logits"].copy()
    agent._climb(at)
    moved = at.memory["logits"] - before
    for place in np.ndindex(before.shape):
        up, down = before.copy(), before.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        change = (objective(up, at, 0.7) - objective(down, at, 0.7))[0] / 2e-5
        assert moved[place] == pytest.approx(1e-3 * np.sign(change) if abs(change) > 1e-6 else 0, abs=2e-5)


def test_without_the_promise_it_believes_what_it_saw():
    at = account(runs=1, horizon=60)
    agent, rng = MEX(eta=math.inf), np.random.default_rng(0)
    agent.begin(at)
    agent.learn(at, Episode(rng.integers(3, size=(1, 61)), rng.integers(2, size=(1, 60)), rng.random((1, 60))))
    P, R = fitted(agent, at, 1000)
    expected, paid = counts.model(at.memory, at)
    np.testing.assert_allclose(P, expected, atol=5e-3)
    np.testing.assert_allclose(R, paid, atol=5e-3)


def test_what_was_never_seen_is_imagined_as_good_as_can_be():
    """No likelihood holds it back: all mass on the best state, and the greatest reward where the best policy goes."""
    at = account(runs=1, states=3, actions=1, horizon=3)
    agent = MEX()
    agent.begin(at)
    states = np.array([[0, 0, 0, 0]])
    agent.learn(at, Episode(states, np.zeros((1, 3), dtype=int), np.zeros((1, 3))))
    at.memory["logits"][0, 2, 0, -1] = 3.0  # state 2 is believed to pay well
    P, R = fitted(agent, at, 2000)
    assert P[0, 2, 0, 2] > 0.99
    assert R[0, 2, 0] > 0.99
    assert P[0, 1, 0].argmax() == 2


def test_one_pair_with_data_stands_where_a_grid_search_says():
    """Two states, one action each: staying in state 0 was seen three times, state 1 is known to pay 1 for ever."""
    pays = np.array([[0.0], [1.0]])
    at = account(runs=1, states=2, actions=1, horizon=2, pays=pays)
    agent = MEX(eta=1.0)
    agent.begin(at)
    at.memory["next"][0, 0, 0] = 3, 0
    at.memory["starts"][0, 0] = 1
    P, _ = fitted(agent, at, 4000)
    # V = p for two steps: one step leads to state 1 with probability p, where one reward is left
    best = minimize_scalar(lambda p: -(p + 3 * math.log(1 - p)), bounds=(0, 0.99), method="bounded").x
    assert best < 0.01  # a promise of 1 does not pay for three nats a unit
    assert P[0, 0, 0, 1] == pytest.approx(best, abs=5e-3)
    strong = MEX(eta=0.1)
    strong.begin(at)
    at.memory["next"][0, 0, 0] = 3, 0
    at.memory["starts"][0, 0] = 1
    P, _ = fitted(strong, at, 4000)
    best = minimize_scalar(lambda p: -(p + 0.3 * math.log(1 - p)), bounds=(0, 0.99), method="bounded").x
    assert best == pytest.approx(0.7, abs=1e-4)
    assert P[0, 0, 0, 1] == pytest.approx(best, abs=5e-3)


def test_the_objective_of_a_world_with_impossible_moves_is_finite_where_they_were_not_seen():
    at = account(runs=1, states=2, actions=1, horizon=2)
    MEX().begin(at)
    at.memory["next"][0, 0, 0] = 4, 0
    at.memory["reward"][0, 0, 0] = 4.0
    with np.errstate(divide="ignore"):
        truth = np.concatenate([np.log(np.eye(2))[None, :, None], logit(np.ones((1, 2, 1)))[..., None]], axis=-1)
    assert objective(truth, at, 1.0) == pytest.approx(2.0)
    guess = np.zeros((1, 2, 1, 3))
    assert objective(guess, at, 1.0) == pytest.approx(1.0 + 8 * math.log(0.5))
    assert objective(guess, at, math.inf) == pytest.approx(8 * math.log(0.5))


def test_runs_do_not_see_one_another():
    world = random_mdp(3, 2, 4)
    whole = account(runs=3, horizon=4)
    rng, agent = np.random.default_rng(1), MEX()
    agent.begin(whole)
    episodes = Episode(rng.integers(3, size=(3, 5)), rng.integers(2, size=(3, 4)), rng.random((3, 4)))
    agent.learn(whole, episodes)
    agent.plan(whole)
    for run in range(3):
        alone = account(runs=1, horizon=world.horizon)
        agent.begin(alone)
        agent.learn(
            alone, Episode(*(each[run : run + 1] for each in (episodes.states, episodes.actions, episodes.rewards)))
        )
        agent.plan(alone)
        np.testing.assert_allclose(alone.memory["logits"][0], whole.memory["logits"][run], atol=1e-12)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e4), st.floats(-1e4, 1e4)), min_size=2, max_size=6),
    st.sampled_from([1e-3, 1.0]),
)
@example([(1.0, 5492.0), (3284.0, 0.0), (2343.0, 0.0)], 1.0)  # the root is far from both bounds: nine steps
def test_a_tilted_distribution_is_where_no_mass_gains_by_moving(rows, scale):
    """All outcomes are worth the same at the margin: times / p + gain is one level."""
    times, gain = np.array(rows).T
    p = tilted(times, scale * gain)
    assert p.sum() == pytest.approx(1)
    assert (p > 0).all()
    terms = np.stack([times / p, scale * gain])
    margin = terms.sum(0)
    np.testing.assert_allclose(margin, margin[0], rtol=0, atol=1e-9 * np.abs(terms).max())
    np.testing.assert_allclose(tilted(times, scale * gain + 7), p, rtol=1e-6)


def test_a_tilted_distribution_does_not_depend_on_the_rows_beside_it():
    rng = np.random.default_rng(0)
    times, gain = 10 ** rng.uniform(-3, 4, (200, 3)), 10 ** rng.uniform(-3, 4, (200, 3))
    together = tilted(times, gain)
    for row in range(200):
        np.testing.assert_allclose(tilted(times[row], gain[row]), together[row], rtol=1e-13)


def test_a_tilted_distribution_follows_what_was_seen_or_what_is_worth_most():
    np.testing.assert_allclose(tilted(np.array([[6.0, 3.0, 1.0]]), np.zeros((1, 3))), [[0.6, 0.3, 0.1]])
    extreme = tilted(np.array([1e-3, 50.0]), np.array([1e12, 0.0]))
    np.testing.assert_allclose(extreme, [1, 0], atol=1e-6)


def stuck():
    """A river of six states of which four were seen, and where the last tries to go on from the fourth all failed."""
    river = riverswim(6, horizon=20, told=True)
    at = account(runs=1, states=6, horizon=20, pays=river.pays)
    MEX().begin(at)
    left, right = at.memory["next"][0, :, 0], at.memory["next"][0, :, 1]
    left[0, 0], left[1, 0], left[2, 1], left[3, 2] = 3508, 91, 11, 31
    right[0, :2], right[1, :3], right[2, 1:4], right[3, 3] = (69, 111), (10, 29, 21), (6, 75, 31), 7
    at.memory["starts"][0, 0] = 200
    # the climb has come to what was seen: the best policy drifts at the mouth, and nothing moves the fourth state
    at.memory["logits"][..., :-1] = np.log(at.memory["next"] + 1e-6)
    return at


def test_a_climb_ends_where_the_best_policy_does_not_go_and_a_rival_does_not():
    alone, whole = stuck(), stuck()
    agent = MEX(steps=300)
    agent._climb(alone)
    agent.plan(whole)
    climbed, found = (objective(each.memory["logits"], each, 1.0)[0] for each in (alone, whole))
    assert found > climbed + 5
    P, R = world_of(alone.memory["logits"], alone)
    assert backward_induction(P, R, 20)[0][0, 0, 0] < 0.2
    assert whole.memory["promise"][0] > 3


@pytest.mark.parametrize("told", [False, True])
def test_no_rival_makes_the_world_worse(told):
    rng = np.random.default_rng(3)
    at = account(runs=8, states=4, horizon=6, pays=rng.random((4, 2)) if told else None)
    agent = MEX(eta=0.5)
    agent.begin(at)
    for played in range(5):
        at.played = played
        agent.learn(at, Episode(rng.integers(4, size=(8, 7)), rng.integers(2, size=(8, 6)), rng.random((8, 6))))
        before = {name: np.copy(at.memory[name]) for name in ("logits", "mean", "square", "taken")}
        agent._climb(at)
        climbed = objective(at.memory["logits"], at, 0.5)
        at.memory |= before
        agent.plan(at)
        assert (objective(at.memory["logits"], at, 0.5) >= climbed - 1e-9).all()


@pytest.mark.parametrize("passes", [1.0, 10.0])
def test_a_rival_comes_close_to_what_a_long_climb_from_it_reaches(passes):
    rng = np.random.default_rng(5)
    at = account(runs=6, states=3, horizon=5)
    agent = MEX()
    agent.begin(at)
    agent.learn(at, Episode(rng.integers(3, size=(6, 41)), rng.integers(2, size=(6, 40)), rng.random((6, 40))))
    rival = optimistic(at, 1.0, passes)
    begun = objective(rival, at, 1.0)
    at.memory["logits"] = rival.copy()
    fitted(MEX(lr=0.01), at, 1000)
    assert (objective(at.memory["logits"], at, 1.0) - begun < 0.1).all()


def test_rivals_come_again_when_the_episodes_have_grown(monkeypatch):
    asked = []
    monkeypatch.setattr(MEX, "_restart", lambda self, account: asked.append(account.played))
    Exploration(MEX(steps=1), points=1).learn(riverswim(4, 6), 60, 0)
    assert asked[:8] == [*range(7), 8]  # 6 times 1.2 is more than 7
    assert all(later >= RENEWED * sooner for sooner, later in itertools.pairwise(asked))
    assert len(asked) < 25


def test_planning_twice_changes_nothing():
    loop = Exploration(MEX(), copies=2, points=1)
    state = loop.start(riverswim(4, 6), 5, 0)
    loop.advance(state)
    first = loop.result(state)
    logits = state.memory["logits"].copy()
    np.testing.assert_array_equal(loop.result(state), first)
    np.testing.assert_array_equal(state.memory["logits"], logits)


def test_what_it_reaches_is_at_least_what_the_truth_would():
    """In almost all episodes, on a world with noise: that is what the proof asks of the optimiser."""
    world = random_mdp(4, 2, 5, seed=3)
    loop = Exploration(MEX(), copies=6, points=40)
    state, above = loop.start(world, 40, 7), []
    truth = np.concatenate([np.log(world.P), logit(world.R)[..., None]], axis=-1)
    for _ in range(40):
        loop.advance(state)
        state.points += 1
        at = loop._account(state)
        loop.agent.plan(at)
        found = state.memory["logits"]
        above.append(objective(found, at, 1.0) >= objective(np.broadcast_to(truth, found.shape), at, 1.0) - 1e-6)
    assert np.mean(above) > 0.95


def test_it_finds_the_end_of_the_river_and_too_little_weight_on_fit_explores_too_much():
    river = riverswim(5, horizon=14, told=True)
    regret = {
        eta: Exploration(MEX(eta), copies=6, points=1).learn(river, 60, 0).curve.points[-1].extras["regret"]
        for eta in (0.02, 1.0)
    }
    assert regret[1.0] < 0.15 * 60 * river.optimum
    assert regret[1.0] < 0.5 * regret[0.02]


def test_the_promise_shrinks_to_what_comes():
    loop = Exploration(MEX(), copies=4, points=10)
    points = list(loop.run(riverswim(4, 10), 100, 0))
    ahead = [point.extras["promise"] - point.score for point in points]
    assert ahead[0] > 2 * abs(ahead[-1])


def test_where_rewards_are_told_no_agent_has_to_learn_them():
    told, untold = riverswim(4, 8, told=True), riverswim(4, 8)
    assert told.fingerprint() != untold.fingerprint()
    assert told.pays is not None
    at = account(runs=1, states=4, horizon=8, pays=told.pays)
    counts.begin(at)
    np.testing.assert_array_equal(counts.model(at.memory, at)[1][0], told.R)
    states, actions = np.array([[0, 1, 2, 3, 3, 2, 1, 0, 0]]), np.array([[1, 1, 1, 1, 1, 0, 0, 0]])
    for agent in (PSRL(), UCBVI(scale=0.02), MEX(steps=3), CertaintyEquivalence(0)):
        policies = []
        for rewards in (np.zeros((1, 8)), np.ones((1, 8))):  # what comes changes nothing any more
            at = account(runs=1, states=4, horizon=8, pays=told.pays)
            agent.begin(at)
            agent.learn(at, Episode(states, actions, rewards))
            policies.append(agent.plan(at))
        np.testing.assert_array_equal(*policies)
    with pytest.raises(FewerError, match="pays is R where agents are told it"):
        FiniteMDP("x", told.P, told.R, 8, pays=told.R + 1)


def test_episodes_begin_where_they_were_seen_to():
    at = account(runs=2)
    MEX().begin(at)
    np.testing.assert_allclose(first_states(at.memory), 1 / 3)
    at.memory["starts"][0] = 3, 1, 0
    np.testing.assert_allclose(first_states(at.memory), [[0.75, 0.25, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_rewards_of_any_range_are_modelled_within_it():
    at = account(runs=1, rewards=(-2.0, 4.0))
    agent = MEX(eta=math.inf)
    agent.begin(at)
    agent.learn(at, Episode(np.zeros((1, 5), dtype=int), np.zeros((1, 4), dtype=int), np.full((1, 4), 1.0)))
    _, R = fitted(agent, at, 2000)
    assert R[0, 0, 0] == pytest.approx(1.0, abs=1e-2)
    assert R[0, 1, 1] == pytest.approx(-2 + 6 * expit(0))


def test_the_policy_is_the_best_of_the_world_found():
    loop = Exploration(MEX(), copies=3, points=1)
    state = loop.start(random_mdp(3, 2, 4), 6, 0)
    loop.advance(state)
    policy = loop.result(state)
    P, R = world_of(state.memory["logits"], loop._account(state))
    values, of_actions = backward_induction(P, R, 4)
    np.testing.assert_array_equal(policy, greedy(of_actions))
    np.testing.assert_allclose(evaluate(P, R, policy)[:, 0], values[:, 0])


def test_a_slope_is_the_power():
    assert slope([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    assert slope([1, 2, 4], [0.1, 0.5, -3]) == 0


@pytest.mark.parametrize(
    "wrong", [{"eta": 0}, {"eta": -1}, {"eta": math.nan}, {"lr": 0}, {"lr": math.inf}, {"steps": 0}]
)
def test_what_cannot_be_is_one_clear_line(wrong):
    with pytest.raises(FewerError, match="mex: eta and lr must be positive and steps at least 1"):
        MEX(**wrong)
