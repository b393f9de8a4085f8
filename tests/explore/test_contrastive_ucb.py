from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.explore.contrastive_ucb import ContrastiveUCB, CountingRounds
from fewer.explore.loop import Exploration
from fewer.explore.low_rank_worlds import rich_game, rich_lock
from fewer.explore.markov_games import MarkovGame, minimax
from fewer.explore.planning import backward_induction
from fewer.explore.worlds import random_mdp, riverswim


def after(world, agent, rounds, copies=2, seed=0):
    loop = Exploration(agent, copies=copies, points=1)
    state = loop.start(world, 2 * world.horizon * rounds, seed)
    loop.advance(state)
    account = loop._account(state)
    account.played = state.ledger.spent
    return loop, state, account


def test_a_round_looks_at_each_step_twice_and_keeps_what_it_saw():
    world, agent = random_mdp(4, 3, 3), ContrastiveUCB(refit=2, steps=1)
    loop = Exploration(agent, copies=2, points=1)
    state = loop.start(world, 60, seed=0)
    account = loop._account(state)
    state.memory["policy"] = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3, 4))
    for played, random in enumerate([[0], [1], [2], [0], [0, 1], [1, 2]]):
        account.played = played
        policy = agent.plan(account)
        for step in range(3):
            if step in random:
                assert policy[:, step] == pytest.approx(1 / 3)
            else:
                np.testing.assert_array_equal(policy[:, step], state.memory["policy"][:, step])
    seen = []
    real = agent.learn

    def watch(self, account, episode):
        seen.append(episode)
        real(account, episode)

    watched = type("Watched", (ContrastiveUCB,), {"learn": watch})(refit=2, steps=1)
    loop = Exploration(watched, copies=2, points=1)
    state = loop.start(world, 12, seed=0)
    loop.advance(state)
    assert state.memory["rounds"] == 2
    for number, episode in enumerate(seen):
        kind, step = divmod(number % 6, 3)
        place = (number // 6, slice(None), step, kind)
        np.testing.assert_array_equal(state.memory["at"][place], episode.states[:, step])
        np.testing.assert_array_equal(state.memory["action"][place], episode.actions[:, step])
        np.testing.assert_array_equal(state.memory["after"][place], episode.states[:, step + 1])
        np.testing.assert_array_equal(state.memory["paid"][place], episode.rewards[:, step])


def test_planning_is_that_in_the_learned_model_written_out():
    lock = rich_lock(horizon=3, symbols=3)
    agent = ContrastiveUCB(refit=4, steps=20)
    _, state, account = after(lock, agent, 8)
    P, phi = agent.transitions(account), agent._model(account)[0]
    np.testing.assert_allclose(P.sum(axis=-1), 1)
    for step in range(3):
        assert P[:, step][..., lock.levels != step + 1].sum() == 0
    for bonus in (0.0, 0.5):
        found = agent.optimistic(account, bonus)
        for run in range(2):
            values = np.zeros(lock.states)
            for step in (2, 1, 0):
                gram = np.eye(4)
                for r in range(state.memory["rounds"]):
                    f = phi[run, step, state.memory["at"][r, run, step, 0], state.memory["action"][r, run, step, 0]]
                    gram += np.outer(f, f)
                length = np.sqrt(np.einsum("sad,de,sae->sa", phi[run, step], np.linalg.inv(gram), phi[run, step]))
                b = np.minimum(bonus * length, 3)
                np.testing.assert_allclose(found["bonus"][run, step], b, atol=1e-9)
                now = np.clip(lock.R + b + P[run, step] @ values, 0, 3 - step)
                values = now.max(axis=-1)
                np.testing.assert_allclose(found["upper"][run, step], values, atol=1e-9)
                chosen = found["policy"][run, step].argmax(axis=-1)
                np.testing.assert_allclose(now[np.arange(lock.states), chosen], values, atol=1e-9)
    np.testing.assert_array_equal(agent.recommend(account), agent.optimistic(account, 0.0)["policy"])


def test_one_hot_features_have_the_bonus_of_counts_and_no_bonus_is_plain_planning():
    world = replace(random_mdp(3, 2, 3))
    agent = CountingRounds(refit=5)
    _, state, account = after(world, agent, 20)
    memory, found = state.memory, agent.optimistic(account, 0.5)
    tried, led = np.zeros((2, 3, 3, 2)), np.zeros((2, 3, 3, 2, 3))
    for r in range(20):
        for run in range(2):
            for step in range(3):
                for kind in range(2):
                    pair = (run, step, memory["at"][r, run, step, kind], memory["action"][r, run, step, kind])
                    tried[pair] += kind == 0
                    led[(*pair, memory["after"][r, run, step, kind])] += 1
    np.testing.assert_allclose(found["bonus"], 0.5 / np.sqrt(1 + tried))
    P = np.where(led.sum(-1, keepdims=True) > 0, led / np.maximum(led.sum(-1, keepdims=True), 1), 1 / 3)
    np.testing.assert_allclose(agent.transitions(account), P)
    _, _, rewards, _ = agent._model(account)
    plain, _ = backward_induction(P, rewards, 3)
    np.testing.assert_allclose(agent.optimistic(account, 0.0)["upper"], plain)


def test_a_small_lock_is_opened_and_not_without_a_bonus():
    lock = rich_lock(horizon=5, symbols=4, seed=3)
    agent = ContrastiveUCB(refit=10, steps=50)
    loop, state, _ = after(lock, agent, 80)
    assert (lock.value(loop.result(state)) > 0.9).all()
    loop, state, _ = after(lock, replace(agent, bonus=0.0), 80)
    assert (lock.value(loop.result(state)) < 0.3).all()


def test_what_it_plans_with_is_above_the_best_at_the_stated_rate_and_not_for_nothing():
    """The bound sqrt(d |A|) + d of the proof, times a tenth; the lowest of many runs' optimism."""
    lock = rich_lock(horizon=2, symbols=4, seed=1)
    agent = ContrastiveUCB(bonus=0.1 * 2 * (4 * 4) ** 0.5, refit=50, steps=150)
    _, _, account = after(lock, agent, 100, copies=24)
    upper = agent.optimistic(account, agent.bonus)["upper"][:, 0] @ lock.first
    assert (upper >= lock.optimum).mean() >= 0.95
    assert upper.mean() < 1.8  # of at most 2
    blind = agent.optimistic(account, 0.0)["upper"][:, 0] @ lock.first
    assert (blind >= lock.optimum).mean() < 0.95


def test_learned_models_come_near_the_true_one():
    lock = rich_lock(horizon=2, symbols=6, seed=0)
    agent = ContrastiveUCB(refit=50, steps=300)
    _, state, account = after(lock, agent, 400, copies=1)
    P, memory = agent.transitions(account), state.memory
    at, action = (memory[name][:, 0, 0].ravel() for name in ("at", "action"))
    come = lock.levels == 1
    learned, true = P[0, 0, at, action][:, come], lock.P[at, action][:, come]
    assert np.corrcoef(learned.ravel(), true.ravel())[0, 1] > 0.9


def test_rewards_that_are_not_told_are_learned_too():
    lock = replace(rich_lock(horizon=2, symbols=4, seed=3), pays=None)
    agent = ContrastiveUCB(refit=20, steps=100)
    loop, state, _ = after(lock, agent, 120)
    assert (lock.value(loop.result(state)) > 0.9).all()


def test_any_world_will_do():
    """No vectors, no levels: numbers for states and all of them for next ones."""
    agent = ContrastiveUCB(refit=20, steps=100)
    river = riverswim(3, horizon=4, told=True)
    loop, state, account = after(river, agent, 100, copies=6)
    np.testing.assert_allclose(agent.transitions(account).sum(axis=-1), 1)
    # nothing carries over from one state to another, so a run may miss what it has seldom seen
    assert np.median(river.value(loop.result(state))) > 0.9 * river.optimum


@pytest.mark.parametrize("bonus", [0.0, 0.5])
def test_a_matrix_game_is_played_as_its_equilibrium(bonus):
    payoff = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 0.8, 0.5]])
    R = np.vstack([payoff.reshape(1, -1), np.zeros((1, 9))])
    P = np.zeros((2, 9, 2))
    P[:, :, 1] = 1
    game = MarkovGame("m", P, R, 1, players=(3, 3), pays=R)
    agent = ContrastiveUCB(bonus=bonus, refit=2, steps=5)
    loop, state, account = after(game, agent, 4)
    assert game.value(loop.result(state)) == pytest.approx(0, abs=1e-6)
    found = agent.optimistic(account, bonus)
    value = minimax(payoff[None])[0][0]
    assert (found["lower"][:, 0, 0] <= value + 1e-7).all()
    assert (found["upper"][:, 0, 0] >= value - 1e-7).all()
    if not bonus:
        assert found["upper"][:, 0, 0] == pytest.approx(value)
    first = loop.result(state).reshape(2, 1, 2, 3, 3)
    np.testing.assert_allclose(  # played independently
        first, first.sum(-1, keepdims=True) * first.sum(-2, keepdims=True), atol=1e-9
    )


def test_games_of_several_steps_come_close_to_an_equilibrium():
    game = rich_game(horizon=2, symbols=4, seed=1)
    agent = ContrastiveUCB(refit=20, steps=100)
    loop, state, _ = after(game, agent, 80)
    uniform = game.value(np.full((1, 2, game.states, 4), 0.25))
    assert (game.value(loop.result(state)) > 0.2 * uniform).all()
    assert next(iter(loop.run(game, 4, 0))).extras["regret"] > 0  # the sum of gaps


def test_networks_are_remembered_as_numbers_and_the_first_policy_is_uniform():
    world, agent = random_mdp(3, 2, 2), ContrastiveUCB(refit=3, steps=2)
    loop = Exploration(agent, copies=2, points=1)
    state = loop.start(world, 40, seed=0)
    assert (loop.result(state) == 0.5).all()
    assert all(isinstance(each, torch.Tensor) for each in state.memory["weights"].values())


@pytest.mark.parametrize("told", [True, False])
def test_the_seed_decides_the_first_weights_and_the_callers_stream_is_left_alone(told):
    world = random_mdp(3, 2, 2)
    world = replace(world, pays=world.R) if told else world
    loop = Exploration(ContrastiveUCB(refit=3, steps=2), copies=2, points=1)

    def weights(seed):
        memory = loop.start(world, 40, seed).memory
        return [*memory["weights"].values(), *memory["reward weights"].values()]

    before = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert len(first) == (8 if told else 12)
    assert all(torch.equal(*pair) for pair in zip(first, weights(0), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, weights(1), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveUCB(bonus=-1), "bonus must not be negative"),
        (lambda: ContrastiveUCB(ridge=0), "ridge and lr be positive"),
        (lambda: ContrastiveUCB(epsilon=2), "epsilon a share"),
        (lambda: ContrastiveUCB(steps=0), "must be at least 1"),
        (
            lambda: Exploration(ContrastiveUCB(dimensions=9)).learn(random_mdp(2, 2, 2), 4),
            "9 dimensions are more than the 4 pairs of states and actions",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
