"""SERL: its settings, one update against a plain version, and its parts together."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer import compose
from fewer.control.baselines import sac
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.peg_world import peg_slot_2d
from fewer.control.prior_data import Symmetric
from fewer.control.reward_classifiers import RewardClassifier
from fewer.control.serl import SERL, Preloaded, XavierStart, cloned_gaussian
from fewer.control.vice import VICE
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz

TASK = peg_slot_2d(demonstrations=4)
SMALL = {"hidden": (8, 8), "members": 3}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def started(filling, seed=3, budget=200, **settings):
    loop = OffPolicy(**(filling | {"batch": 8, "episodes": 2, "points": 2} | settings))
    with own_randomness(seed, "start"):
        return loop, loop.start(TASK, budget, seed)


def test_the_papers_settings():
    filling = SERL()
    policy, critic = filling["policy"], filling["critic"]
    assert (policy.objective, policy.backup_entropy, policy.entropy_at, policy.delay) == (
        "mean",
        False,
        "next_observations",
        4,
    )
    assert policy.build(3, 6).target_entropy == -3
    assert (policy.activation, policy.layer_norm, policy.temperature) == ("tanh", True, 0.01)
    assert (critic.members, critic.subset, critic.replacement, critic.activation) == (10, 2, True, "tanh")
    assert (filling["sampler"], filling["ratio"], filling["reward"]) == (Symmetric(), FixedRatio(4), None)
    assert SERL(reward="vice")["reward"] == VICE()
    assert SERL(reward="classifier")["reward"] == RewardClassifier()
    assert "ratio" not in SERL(ratio=None)
    assert (SERL(ratio=None)["critic"].activation, SERL(activation="mish")["critic"].activation) == ("relu", "mish")


def test_an_update_equals_a_plain_version():
    """Three steps of the critic alone, then one of the critic and one of the actor, the latter on the last batch."""
    loop, state = started(SERL(**SMALL, lr=1e-3, temperature=0.1, learning_starts=5))
    for _ in range(12):
        loop._act(state)
    actor, critic, slow = copy.deepcopy((state.actor, state.critic, state.slow))
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    of_actor = torch.optim.Adam([*actor.net.parameters(), actor.log_temperature], lr=1e-3)
    torch.manual_seed(7)
    for _ in range(4):
        loop._update(state)
    torch.manual_seed(7)
    batch = None
    for _ in range(4):
        batch = state.source.draw(8)
        with torch.no_grad():
            following, _ = actor.sample(batch.next_observations)
            values = slow(batch.next_observations, following)
            chosen = torch.randint(3, (2,))
            goal = batch.rewards + 0.99 * batch.continues * torch.minimum(values[chosen[0]], values[chosen[1]])
        of_critic.zero_grad()
        (critic(batch.observations, batch.actions) - goal).square().mean(1).sum().backward()
        of_critic.step()
        with torch.no_grad():
            for one, two in zip(critic.parameters(), slow.parameters(), strict=True):
                two += 0.005 * (one - two)
    # the plain actor's step comes after the fourth step of the critic and before the copies move; they do not enter it
    done, density = actor.sample(batch.observations)
    with torch.no_grad():
        entropy = -actor.sample(batch.next_observations)[1].mean()
    loss = (actor.log_temperature.exp().detach() * density - critic(batch.observations, done).mean(0)).mean()
    temperature = actor.log_temperature * (entropy + 1.5)
    of_actor.zero_grad()
    (loss + temperature).backward()
    of_actor.step()
    for network, other in ((state.critic, critic), (state.slow, slow), (state.actor, actor)):
        for one, two in zip(network.parameters(), other.parameters(), strict=True):
            assert torch.allclose(one, two, atol=2e-6)


def test_half_of_a_batch_is_demonstrated():
    loop, state = started(SERL(**SMALL, learning_starts=5))
    for _ in range(20):
        loop._act(state)
    rows = {row.numpy().tobytes() for row in state.source.prior.take(torch.arange(len(state.source.prior))).actions}
    batch = state.source.draw(64)
    assert sum(row.numpy().tobytes() in rows for row in batch.actions) == 32


def test_xavier_start():
    _, state = started(SERL(hidden=(64, 32), members=3))
    for layer, inputs, outputs in ((state.actor.net[0], 10, 64), (state.critic.layers[0], 13, 64)):
        bound = (6 / (inputs + outputs)) ** 0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.bias.detach().abs().max()) == 0
    for one, two in zip(state.critic.parameters(), state.slow.parameters(), strict=True):
        assert torch.equal(one, two)


def test_preloaded_demonstrations_are_like_everything_else():
    filling = sac(hidden=(8,)) | {"initialisation": Preloaded(None, XavierStart())}
    _, state = started(filling)
    assert len(state.replay) == TASK.demonstrations(demonstration_seed(3)).steps
    _, small = started(filling, budget=5)
    assert len(small.replay) == 5
    assert float(state.actor.net[0].bias.detach().abs().max()) == 0
    shown = TASK.transitions(TASK.demonstrations(demonstration_seed(3)))
    assert 0 < float(shown.continues.mean()) < 1
    for memory in (state.replay, small.replay):  # where not all fit, the last ones stay
        held = memory.take(torch.arange(len(memory)))
        for name in ("observations", "actions", "rewards", "next_observations", "continues"):
            assert torch.equal(getattr(held, name), getattr(shown, name)[-len(memory) :]), name


def demonstration_seed(seed):
    from fewer.core.seeding import derive

    return derive(seed, "demonstrations")


def test_a_clone_does_what_was_shown():
    actor = cloned_gaussian(TASK, None, 0, (32,), steps=300)
    shown = TASK.transitions(TASK.demonstrations(demonstration_seed(0)))
    done = actor.act(shown.observations, deterministic=True)
    spread = shown.actions.var(0).sum()
    assert float((done - shown.actions).square().sum(1).mean().detach()) < 0.8 * float(spread)


def test_a_clone_of_one_action_does_it(tmp_path):
    actor = cloned_gaussian(target(), written(tmp_path, actions=np.full((3, 1), 0.9)), 0, (16,), steps=600, lr=1e-2)
    assert actor.act(torch.zeros(1, 2), deterministic=True).item() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("reward", ["environment", "classifier", "vice"])
def test_a_resumed_run_is_the_same_to_the_bit(reward, tmp_path):
    filling = SERL(**SMALL, reward=reward, reward_steps=3, learning_starts=10)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=3)
    whole = [(p.spent, p.score, p.extras["critic_loss"]) for p in loop.run(TASK, 40, 5)]
    run = loop.run(TASK, 40, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [(p.spent, p.score, p.extras["critic_loss"]) for p in loop.run(TASK, 40, 5, checkpoint=tmp_path / "state")]
    assert again == whole


def test_by_its_name_and_with_another_ratio():
    loop = compose.loop("serl(reward='classifier', discount=0.96)")
    assert (loop.discount, loop.reward, loop.learning_starts) == (0.96, RewardClassifier(), 300)
    both = compose.loop("serl + adaptive-rr")
    assert type(both.ratio).__name__ == "AdaptiveRR"
    assert both.policy.delay == 4
    small = compose.loop(
        "serl(hidden=(8,), members=2, learning_starts=10) + adaptive-rr + off-policy(batch=8, episodes=1)"
    )
    assert np.isfinite(small.learn(TASK, 40).curve.final)


def test_with_an_adaptive_ratio_it_counts_silent_units_and_raises_the_ratio():
    loop = compose.loop(
        "serl(hidden=(8,), members=2, learning_starts=10) + adaptive-rr(low=1, high=4, every_episodes=1, tol=1.0)"
        " + off-policy(batch=8, episodes=1, points=3)"
    )
    points = loop.learn(TASK, 150).curve.points
    assert 0 < points[-1].extras["active_units"] < 1
    assert points[-1].extras["replay_ratio"] == 4
    updates = [point.extras["updates"] for point in points]
    # one update a step at first, four later
    assert updates[0] <= 50
    assert updates[-1] - updates[-2] == 4 * 50


def written(tmp_path, **changes):
    """Demonstrations of two numbers seen and one done, two episodes of three steps, as a file."""
    episode = {
        "observations": np.random.default_rng(0).uniform(-1, 1, (4, 2)),
        "actions": np.full((3, 1), 0.5),
        "rewards": np.zeros(3),
        "success": True,
    } | changes
    write_npz(tmp_path / "shown.npz", Demonstrations.of_episodes([episode, episode]))
    return str(tmp_path / "shown.npz")


@pytest.mark.parametrize("reward", ["environment", "classifier", "vice"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((4, 3))}, "observations have 3 numbers and those of .* 2"),
        ({"actions": np.zeros((3, 2))}, "actions have 2 numbers and those of .* 1"),
        ({"actions": np.full((3, 1), 7.0)}, "out of the bounds of"),
        ({"rewards": None}, "says nothing of rewards"),
    ],
)
def test_demonstrations_of_something_else(reward, changes, message, tmp_path):
    file = written(tmp_path, **changes)
    with pytest.raises(FewerError, match=message):
        OffPolicy(**SERL(file, reward, **SMALL)).learn(target(), 20)


@pytest.mark.parametrize("reward", ["classifier", "vice"])
def test_without_a_success_no_reward_can_be_learned(reward, tmp_path):
    file = written(tmp_path, success=False)
    with pytest.raises(FewerError, match=r"no demonstration is a success.*give one that is"):
        OffPolicy(**SERL(file, reward, **SMALL)).learn(target(), 20)


@pytest.mark.parametrize("reward", ["environment", "classifier"])
def test_an_observation_that_is_not_finite_says_where(reward, tmp_path):
    filling = SERL(written(tmp_path), reward, reward_steps=2, **SMALL)
    with pytest.raises(FewerError, match="the observation is not finite at step 3 of an episode"):
        OffPolicy(**filling, batch=8, episodes=1).learn(target(steps=9, broken="observation"), 20)


def test_demonstrations_that_are_not_finite_say_where(tmp_path):
    with pytest.raises(FewerError, match="observations"):
        written(tmp_path, observations=np.full((4, 2), np.nan))


def test_errors():
    with pytest.raises(FewerError, match="it is 'camera'"):
        SERL(reward="camera")
    with pytest.raises(FewerError, match="has no demonstrations"):
        OffPolicy(**SERL(**SMALL)).learn(target(), 10)
    with pytest.raises(FewerError, match=r"has no demonstrations; give them as demos='file.npz'"):
        compose.loop("serl + adaptive-rr").check(target(), 10)  # before anything is started
    with pytest.raises(FewerError, match="runs on a Environment task"):
        compose.loop("serl").check(compose.task("digits"), 10)
