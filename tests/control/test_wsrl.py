"""WSRL: what acts, what is remembered, and what is learned from, before and after the data are gone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.cal_ql import CalQL, Conservative
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.loop import OffPolicy, Uniform
from fewer.control.wsrl import (
    OfflineBuffer,
    Retain,
    finetune_noretain,
    finetune_retain,
    offline_rows,
    warm_start,
    warm_up,
)
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz

TASK = dock_2d(demonstrations=6)
SMALL = {"hidden": (8,), "members": 3, "pretraining": 3, "samples": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def started(filling, seed=3, budget=200, **settings):
    loop = OffPolicy(**(filling | {"batch": 8, "episodes": 2, "points": 2} | settings))
    with own_randomness(seed, "start"):
        return loop, loop.start(TASK, budget, seed)


def given(state):
    return state.task.transitions(TASK.demonstrations(derive(state.seed, "demonstrations")))


def weights(state):
    trees = [getattr(state, name).state_dict() for name in ("actor", "critic", "slow")]
    return copy.deepcopy({f"{i}.{name}": value for i, tree in enumerate(trees) for name, value in tree.items()})


def test_nothing_changes_in_the_warm_up_and_the_policy_acts():
    loop, state = started(warm_start(warm_up=40, **SMALL), budget=80)
    with torch.no_grad():
        state.actor.net[-1].bias[2:] = -4.0  # deviations of about 0.02
    before = weights(state)
    loop.advance(state)
    assert state.ledger.spent == 40
    assert all(torch.equal(before[name], value) for name, value in weights(state).items())
    held = state.replay.take(torch.arange(40))
    apart = (held.actions - state.actor.act(held.observations, deterministic=True)).detach().abs()
    # what was done is drawn from the policy: near its best known action, and not that itself
    assert 0.001 < float(apart.mean()) < 0.1
    state.points += 1
    loop.advance(state)
    assert state.updates == 4 * 40
    assert any(not torch.equal(before[name], value) for name, value in weights(state).items())


def test_four_steps_of_the_critic_and_one_of_the_policy_on_all_four_batches():
    loop, state = started(warm_start(warm_up=10, **SMALL))
    for _ in range(11):
        loop._act(state)
    seen = []
    improve = state.actor.improve
    state.actor.improve = lambda batch, value: (seen.append(len(batch)), improve(batch, value))[1]
    moments = int(state.critic_optimiser.state_dict()["state"][0]["step"])
    loop._learn(state, 1)
    assert seen == [32]
    assert state.updates == 4
    # the optimiser goes on from the offline one
    assert int(state.critic_optimiser.state_dict()["state"][0]["step"]) == moments + 4 == 7


def test_no_offline_row_can_be_drawn_and_nothing_conservative_is_in_the_loss():
    loop, state = started(warm_start(warm_up=20, **SMALL), budget=60)
    while state.ledger.spent < 60:
        loop.advance(state)
        state.points += 1
    assert loop.critic_term is None
    assert isinstance(loop.sampler, Uniform)
    assert offline_rows(state, given(state)) == 0
    assert len(state.replay) == 60


def _rows_of(batch):
    return batch.observations, batch.actions, batch.continues.tolist()


def test_a_memory_that_begins_with_offline_rows():
    filling = warm_start(warm_up=20, start="offline", **SMALL)
    assert isinstance(filling["initialisation"], OfflineBuffer)
    assert filling["learning_starts"] == 0
    _, state = started(filling)
    assert len(state.replay) == offline_rows(state, given(state)) == 20
    rows = {torch.cat([o, a]).numpy().tobytes(): c for o, a, c in zip(*_rows_of(given(state)), strict=True)}
    held = state.replay.take(torch.arange(20))
    assert all(rows[torch.cat([o, a]).numpy().tobytes()] == c for o, a, c in zip(*_rows_of(held), strict=True))
    assert {0.0, 1.0} == set(rows.values())
    _, again = started(filling)
    assert torch.equal(state.replay.take(torch.arange(20)).actions, again.replay.take(torch.arange(20)).actions)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 4), (1.0, 8), (0.01, 0), (0.7, 6)])
def test_retaining_draws_exactly_its_share_with_returns(share, expected):
    loop, state = started(warm_start(warm_up=20, retain=share, **SMALL))
    assert loop.sampler == Retain(None, share)
    for _ in range(10):
        loop._act(state)
    batch = state.source.draw(8)
    rows = {row.numpy().tobytes() for row in given(state).actions}
    assert sum(row.numpy().tobytes() in rows for row in batch.actions) == expected
    known = torch.zeros(8, dtype=torch.bool) if batch.returns is None else batch.returns.isfinite()
    assert int(known.sum()) == expected
    assert bool(known[8 - expected :].all())
    assert offline_rows(state, given(state)) == len(given(state))


def test_all_ways_begin_from_the_same_networks():
    ways = [
        warm_start(warm_up=20, **SMALL),
        warm_start(warm_up=0, **SMALL),
        finetune_noretain(online_alpha=0.5, **SMALL),
        finetune_retain(**SMALL),
    ]
    first, *others = [weights(started(way)[1]) for way in ways]
    for other in others:
        assert all(torch.equal(first[name], value) for name, value in other.items())


def test_without_pretraining_it_is_fast_soft_actor_critic():
    filling = warm_start(pretraining=0, hidden=(8,), warm_up=20)
    assert filling["initialisation"] is None
    assert filling["start_with"] == "random"
    assert filling["critic"] == Critics(10, 2, (8,), layer_norm=True, replacement=True)


def test_the_rivals_keep_the_term():
    plain = finetune_noretain(alpha=3.0, **SMALL)
    assert plain["critic_term"] == Conservative(3.0, 2)
    assert plain["sampler"] == Uniform()
    kept = finetune_retain(alpha=3.0, online_alpha=0.5, calibrated=False, **SMALL)
    assert kept["critic_term"] == Conservative(0.5, 2, calibrated=False)
    assert kept["sampler"] == Retain(None, 0.5)
    assert kept["initialisation"].alpha == 3.0


def test_the_papers_settings():
    filling = warm_start()
    offline = CalQL(None, 250_000, 5.0, None, 10, 10, 256)
    assert filling["initialisation"] == offline
    policy = filling["policy"]
    assert (policy.lr, policy.delay, policy.rows, policy.objective) == (1e-4, 4, "all", "least")
    assert (policy.backup_entropy, policy.temperature, policy.entropy_at) == (False, 1.0, "next_observations")
    assert (filling["learning_starts"], filling["start_with"], filling["ratio"].ratio) == (5000, "policy", 4)


@pytest.mark.parametrize(
    "filling",
    [
        warm_start(warm_up=12, **SMALL),
        warm_start(warm_up=12, start="offline", **SMALL),
        finetune_retain(warm_up=12, **SMALL),
    ],
)
def test_a_resumed_run_is_the_same_to_the_bit(filling, tmp_path):
    loop = OffPolicy(**filling, action_map=ActionChunks(2), batch=8, episodes=2, points=3)
    whole = [(p.spent, p.score, p.extras.get("critic_loss")) for p in loop.run(TASK, 60, 5)]
    run = loop.run(TASK, 60, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [
        (p.spent, p.score, p.extras.get("critic_loss")) for p in loop.run(TASK, 60, 5, checkpoint=tmp_path / "state")
    ]
    assert again == whole


def test_by_its_name_in_a_race():
    loop = compose.loop("off-policy(discount=0.95) + wsrl(warm_up=100, pretraining=10) + action-chunks")
    assert loop.discount == 0.95
    assert (loop.learning_starts, loop.start_with) == (100, "policy")
    assert compose.loop("finetune-retain(online_alpha=1.0)").critic_term == Conservative(1.0)
    assert compose.loop("finetune-noretain").sampler == Uniform()
    mixed = compose.loop("rlpd + warm-up(steps=7)")
    assert (mixed.learning_starts, mixed.start_with) == (7, "policy")
    assert warm_up()["learning_starts"] == 5000
    both = compose.loop("wsrl(warm_up=30) + expo")
    assert type(both.policy) is type(compose.loop("expo").policy)
    assert (both.learning_starts, both.start_with, both.ratio.ratio) == (30, "policy", 4)


def test_with_expo_its_policy_acts_first_and_its_ratio_holds():
    loop = compose.loop(
        "wsrl(warm_up=30) + expo(base='flow', base_hidden=(8,), base_updates=3, n_base=2, n_edit=1, hidden=(8,), members=2)"
        " + off-policy(batch=8, episodes=2, points=2)"
    )
    before, after = loop.learn(TASK, 60).curve
    assert (before.spent, before.extras["updates"]) == (30, 0)
    assert (after.spent, after.extras["updates"]) == (60, 4 * 30)
    assert after.extras["imitation_loss"] > 0


def written(tmp_path, **changes):
    """Demonstrations of two numbers seen and one done, two episodes of three steps, as a file."""
    episode = {
        "observations": np.zeros((4, 2)),
        "actions": np.full((3, 1), 0.5),
        "rewards": np.full(3, -1.0),
        "terminated": False,
        "success": False,
    } | changes
    write_npz(tmp_path / "shown.npz", Demonstrations.of_episodes([episode, episode]))
    return str(tmp_path / "shown.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((4, 3))}, "observations have 3 numbers and those of .* 2"),
        ({"actions": np.zeros((3, 2))}, "actions have 2 numbers and those of .* 1"),
        ({}, "each step paid -1 and no episode terminated.*give data with a successful episode"),
        ({"rewards": None}, "says nothing of rewards"),
    ],
)
def test_data_that_nothing_can_be_learned_from(changes, message, tmp_path):
    file = written(tmp_path, **changes)
    with pytest.raises(FewerError, match=message):
        OffPolicy(**warm_start(file, **SMALL)).learn(target(), 10)


@pytest.mark.parametrize("changes", [{"terminated": True}, {"rewards": np.array([-1.0, -1.0, 0.0])}])
def test_one_end_or_one_other_reward_is_enough(changes, tmp_path):
    filling = warm_start(written(tmp_path, **changes), warm_up=4, **SMALL)
    curve = OffPolicy(**filling, batch=4, episodes=1, points=1).learn(target(steps=3), 8).curve
    assert np.isfinite(curve.final)


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_what_is_not_finite_in_the_warm_up_says_where(what, tmp_path):
    filling = warm_start(written(tmp_path, terminated=True), warm_up=20, **SMALL)
    with pytest.raises(FewerError, match=f"the {what} is not finite at step 3 of an episode"):
        OffPolicy(**filling, batch=4, episodes=1).learn(target(steps=9, broken=what), 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: warm_start(start="cold"), "start is 'warm-up' or 'offline'"),
        (lambda: warm_start(warm_up=-1), "must not be negative"),
        (lambda: warm_start(retain=1.5), "it is 1.5"),
        (lambda: warm_start(colour=None), "colour=None does not fit"),
        (lambda: warm_start(policy=3), "policy=3 does not fit"),
        (lambda: Retain(share=0.0), "the share of offline data is 0.0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()
