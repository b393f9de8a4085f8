"""The loop against plain versions of SAC and TD3, and what it owes a run."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from tests.control.toys import target
from torch import nn

from fewer.control.baselines import sac, td3
from fewer.control.critics import Critics
from fewer.control.environments import Environment, Step
from fewer.control.loop import FixedRatio, GaussianNoise, OffPolicy
from fewer.control.policies import Deterministic, Gaussian, GaussianActor
from fewer.control.trained import TrainedPolicy
from fewer.core.errors import Diverged, FewerError

SMALL = {"hidden": (8, 8)}


def started(filling, **settings):
    loop = OffPolicy(**(filling | {"batch": 16, "learning_starts": 5, "episodes": 2, "points": 2} | settings))
    torch.manual_seed(1)
    state = loop.start(target(steps=4), 100, seed=3)
    for _ in range(40):
        loop._act(state)
    return loop, state


def plain(ensemble, member):
    """One member of an ensemble as a network of its own."""
    layers = []
    for layer in ensemble.layers:
        if hasattr(layer, "bias"):
            made = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
            made.weight.data, made.bias.data = layer.weight[member].T.clone(), layer.bias[member].clone()
            layers.append(made)
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def same(ensemble, members):
    for number, network in enumerate(members):
        for one, two in zip(plain(ensemble, number).parameters(), network.parameters(), strict=True):
            assert torch.allclose(one, two, atol=2e-6)


def test_five_updates_of_sac_equal_a_plain_version():
    loop, state = started(sac(**SMALL, lr=1e-3))
    actor, log_temperature = (
        copy.deepcopy(state.actor.net),
        state.actor.log_temperature.detach().clone().requires_grad_(),
    )
    critics = [plain(state.critic, member) for member in range(2)]
    slow = copy.deepcopy(critics)
    of_critics = torch.optim.Adam([p for each in critics for p in each.parameters()], lr=1e-3)
    of_actor, of_temperature = (
        torch.optim.Adam(actor.parameters(), lr=1e-3),
        torch.optim.Adam([log_temperature], lr=1e-3),
    )

    def sampled(observations):
        mean, deviation = actor(observations).chunk(2, -1)
        normal = torch.distributions.Normal(mean, deviation.clamp(-20, 2).exp())
        before = mean + torch.randn_like(mean) * normal.stddev
        return before.tanh(), (normal.log_prob(before) - torch.log1p(-(before.tanh() ** 2) + 1e-12)).sum(-1)

    torch.manual_seed(7)
    for _ in range(5):
        loop._update(state)
    torch.manual_seed(7)
    for _ in range(5):
        batch = state.replay.sample(16)
        with torch.no_grad():
            following, density = sampled(batch.next_observations)
            both = torch.cat([batch.next_observations, following], -1)
            ahead = torch.minimum(slow[0](both), slow[1](both))[:, 0] - log_temperature.exp() * density
            goal = batch.rewards + 0.99 * batch.continues * ahead
        pairs = torch.cat([batch.observations, batch.actions], -1)
        loss = sum(((each(pairs)[:, 0] - goal) ** 2).mean() for each in critics)
        of_critics.zero_grad()
        loss.backward()
        of_critics.step()
        done, density = sampled(batch.observations)
        worth = torch.minimum(*(each(torch.cat([batch.observations, done], -1))[:, 0] for each in critics))
        policy_loss = (log_temperature.exp().detach() * density - worth).mean()
        temperature_loss = -(log_temperature * (density.detach() - 1)).mean()  # aims at an entropy of -1
        of_actor.zero_grad(), of_temperature.zero_grad()
        policy_loss.backward()
        temperature_loss.backward()
        of_actor.step(), of_temperature.step()
        for network, follower in zip(critics, slow, strict=True):
            for one, two in zip(network.parameters(), follower.parameters(), strict=True):
                two.data += 0.005 * (one.data - two.data)
    same(state.critic, critics)
    same(state.slow, slow)
    for one, two in zip(state.actor.net.parameters(), actor.parameters(), strict=True):
        assert torch.allclose(one, two, atol=2e-6)
    assert state.actor.log_temperature.item() == pytest.approx(log_temperature.item(), abs=1e-6)


def test_four_updates_of_td3_equal_a_plain_version():
    loop, state = started(td3(**SMALL, lr=1e-3))
    actor, follower = copy.deepcopy(state.actor.net), copy.deepcopy(state.actor.net)
    critics = [plain(state.critic, member) for member in range(2)]
    slow = copy.deepcopy(critics)
    of_critics = torch.optim.Adam([p for each in critics for p in each.parameters()], lr=1e-3)
    of_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
    torch.manual_seed(7)
    for _ in range(4):
        loop._update(state)
    torch.manual_seed(7)
    for number in range(1, 5):
        batch = state.replay.sample(16)
        with torch.no_grad():
            following = follower(batch.next_observations)
            following = (following + (torch.randn_like(following) * 0.2).clamp(-0.5, 0.5)).clamp(-1, 1)
            both = torch.cat([batch.next_observations, following], -1)
            goal = batch.rewards + 0.99 * batch.continues * torch.minimum(slow[0](both), slow[1](both))[:, 0]
        pairs = torch.cat([batch.observations, batch.actions], -1)
        of_critics.zero_grad()
        sum(((each(pairs)[:, 0] - goal) ** 2).mean() for each in critics).backward()
        of_critics.step()
        if number % 2 == 0:
            of_actor.zero_grad()
            (-critics[0](torch.cat([batch.observations, actor(batch.observations)], -1)).mean()).backward()
            of_actor.step()
            for network, behind in [*zip(critics, slow, strict=True), (actor, follower)]:
                for one, two in zip(network.parameters(), behind.parameters(), strict=True):
                    two.data += 0.005 * (one.data - two.data)
    same(state.critic, critics)
    same(state.slow, slow)
    for one, two in zip(state.actor.slow.parameters(), follower.parameters(), strict=True):
        assert torch.allclose(one, two, atol=2e-6)


@pytest.mark.parametrize("filling", [sac(**SMALL), td3(**SMALL)])
@pytest.mark.parametrize("copies", [1, 3])
def test_a_resumed_run_is_the_same_to_the_bit(filling, copies, tmp_path):
    loop = OffPolicy(**filling, batch=8, learning_starts=7, episodes=2, points=3, copies=copies)
    task = target(steps=5)
    whole = [(point.spent, point.score, point.extras["critic_loss"]) for point in loop.run(task, 61, 5)]
    run = loop.run(task, 61, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [
        (point.spent, point.score, point.extras["critic_loss"])
        for point in loop.run(task, 61, 5, checkpoint=tmp_path / "state")
    ]
    assert again == whole
    assert whole[-1][0] == 61


def test_a_time_limit_is_not_an_end():
    for options, ends in (({"steps": 3}, True), ({"steps": 99, "cut": 3}, False)):
        loop = OffPolicy(**sac(**SMALL), learning_starts=100, episodes=1, points=1)
        state = loop.start(target(**options), 12, seed=0)
        for _ in range(12):
            loop._act(state)
        continues = state.replay.take(torch.arange(12)).continues
        assert torch.equal(continues == 0, torch.tensor([False, False, True] * 4) & ends)
        # what is remembered as the successor is never the first observation of the next episode
        rows = state.replay.take(torch.arange(12))
        assert not torch.equal(rows.next_observations[2], rows.observations[3])
        assert torch.equal(rows.next_observations[0], rows.observations[1])


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 2.5])
def test_fractions_of_updates_add_up(ratio):
    loop = OffPolicy(**sac(**SMALL), ratio=FixedRatio(ratio), batch=4, learning_starts=10, episodes=1, points=1)
    state = loop.start(target(), 50, seed=0)
    loop.advance(state)
    assert state.updates == math.floor(40 * ratio + 1e-9)
    assert len(state.replay) == state.ledger.spent == 50


def test_learning_starts_change_no_weight():
    loop = OffPolicy(**sac(**SMALL), batch=4, learning_starts=20, episodes=1, points=1)
    state = loop.start(target(), 20, seed=0)
    before = copy.deepcopy(state.actor.state_dict())
    loop.advance(state)
    assert all(torch.equal(before[name], value) for name, value in state.actor.state_dict().items())


@pytest.mark.parametrize(
    "filling", [sac(hidden=(32, 32), lr=3e-3, temperature=0.05), td3(hidden=(32, 32), lr=3e-3, noise=0.3)]
)
def test_it_learns_what_pays(filling, tmp_path):
    loop = OffPolicy(**filling, batch=64, learning_starts=100, episodes=10, points=1)
    learned = loop.learn(target(low=-2.0, high=4.0), budget=1500)  # 0.5 lies off the middle of its range
    assert learned.curve.final > -0.02
    learned.result.save(tmp_path / "policy")  # with all that is needed to load it without its description
    again = TrainedPolicy.load(tmp_path / "policy")
    assert np.array_equal(*(each.predict(np.ones(2), deterministic=True)[0] for each in (learned.result, again)))
    action, _ = learned.result.predict(np.zeros(2), deterministic=True)
    assert action[0] == pytest.approx(0.5, abs=0.2)


def test_noise_keeps_actions_in_bounds():
    torch.manual_seed(0)
    disturbed = GaussianNoise(2.0).disturb(torch.zeros(500, 2), 0.0)
    assert float(disturbed.abs().max()) == 1
    assert torch.equal(GaussianNoise(0.0).disturb(torch.full((3, 1), 0.4), 0.0), torch.full((3, 1), 0.4))


def test_values_that_explode_stop_the_run():
    loop = OffPolicy(
        Gaussian(hidden=(4,)), Critics(hidden=(4,), lr=1e30), batch=4, learning_starts=4, episodes=1, points=1
    )
    with pytest.raises(Diverged, match=r"an action of the policy became NaN|the critic's loss became"):
        loop.learn(target(), 60)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch is a whole number of at least 1; given 0"),
        ({"copies": 0}, "copies is a whole number of at least 1; given 0"),
        ({"learning_starts": -1}, "learning_starts is a whole number of at least 0; given -1"),
        ({"discount": 1.0}, "the discount is 1.0"),
        ({"start_with": "expert"}, "it is 'expert'"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(FewerError, match=message):
        OffPolicy(**wrong)
    with pytest.raises(FewerError, match="replay ratio"):
        FixedRatio(-1)
    with pytest.raises(FewerError, match="gaussian noise"):
        GaussianNoise(-1)


def test_delay_and_slow_copies_go_together():
    filling = td3()
    assert isinstance(filling["policy"], Deterministic)
    assert filling["policy"].delay == filling["critic"].every == 2


def test_the_policy_may_learn_from_all_that_the_critic_saw():
    seen = []

    class Watching(GaussianActor):
        def improve(self, batch, value):
            seen.append(len(batch))
            return super().improve(batch, value)

    @dataclass(frozen=True)
    class Watched(Gaussian):
        def build(self, observations, actions):
            return Watching(observations, actions, self)

    for rows, expected in (("last", 8), ("all", 24)):
        seen.clear()
        loop = OffPolicy(
            Watched((8,), delay=3, rows=rows),
            Critics(hidden=(8,)),
            ratio=FixedRatio(3),
            batch=8,
            learning_starts=5,
            episodes=1,
            points=1,
        )
        learned = loop.learn(target(), 15)
        assert seen == [expected] * 10
        assert learned.curve.points[-1].extras["updates"] == 30


def test_a_resumed_run_remembers_batches_that_wait(tmp_path):
    policy = Gaussian((8,), delay=4, rows="all")
    loop = OffPolicy(policy, Critics(hidden=(8,)), batch=4, learning_starts=5, episodes=1, points=3)
    whole = [(point.score, point.extras["critic_loss"]) for point in loop.run(target(steps=3), 31, 2)]
    run = loop.run(target(steps=3), 31, 2, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    again = [
        (p.score, p.extras["critic_loss"]) for p in loop.run(target(steps=3), 31, 2, checkpoint=tmp_path / "state")
    ]
    assert again == whole


def test_the_policy_may_act_before_anything_is_learned():
    """Then nothing is learned, and its own actions are remembered, without the exploration's disturbance."""
    loop = OffPolicy(**td3(**SMALL), learning_starts=20, start_with="policy", episodes=1, points=1)
    state = loop.start(target(), 20, seed=0)
    before = copy.deepcopy(state.critic.state_dict())
    loop.advance(state)
    batch = state.replay.take(torch.arange(20))
    assert torch.allclose(state.actor.act(batch.observations).detach(), batch.actions, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in state.critic.state_dict().items())
    assert state.updates == 0


def test_what_networks_know_before_the_first_step():
    class Zero:
        def initialise(self, state):
            for parameter in state.actor.net.parameters():
                parameter.data.zero_()

    loop = OffPolicy(**td3(**SMALL), initialisation=Zero(), learning_starts=3, episodes=1, points=1)
    learned = loop.learn(target(), 3)
    assert learned.result.predict(np.ones(2), deterministic=True)[0].tolist() == [0]


class Twice(Environment):
    """Every action is done twice."""

    longest = 2

    def __init__(self, inner):
        self.inner, self.metric, self.name = inner, inner.metric, inner.name
        self.observation_size, self.action_size, self.low, self.high = (
            inner.observation_size,
            inner.action_size,
            inner.low,
            inner.high,
        )

    def fingerprint(self):
        return self.inner.fingerprint()

    def make(self, copies):
        worlds, step = self.inner.make(copies), None
        step = worlds.step

        def twice(actions):
            one = step(actions)
            two = step(actions)
            over = one.terminated | one.truncated
            return Step(
                two.observations,
                one.rewards + two.rewards,
                one.terminated | two.terminated,
                ~one.terminated & (one.truncated | two.truncated),
                one.success | two.success,
                np.where(over, 1, 2),
            )

        worlds.step = twice
        return worlds


class DoTwice:
    def wrap(self, environment):
        return Twice(environment)


def test_an_action_may_stand_for_several_steps():
    """All of them count, and the budget is never overdrawn."""
    loop = OffPolicy(**sac(**SMALL), action_map=DoTwice(), batch=4, learning_starts=4, episodes=3, points=2)
    assert loop.least(target()) == 2
    points = list(loop.run(target(steps=3), 21, 0))
    assert points[-1].spent <= 21
    assert points[-1].spent > 19
    # episodes of three steps are an action of two and one of one
    assert points[-1].extras["length"] == 3
    assert points[-1].extras["updates"] == pytest.approx((points[-1].spent - 4) * 2 / 3, abs=1.5)
    tight = loop.learn(target(steps=4), 3)
    assert [point.spent for point in tight.curve] == [2]


def test_what_is_no_task_and_a_filling_that_is_not_laid_out():
    loop = OffPolicy(**sac(hidden=(8,)))
    for task in ("Pendulum-v1", gymnasium.make("Pendulum-v1")):
        for ask in (lambda task=task: loop.learn(task, 20), lambda task=task: loop.run(task, 20, 0)):
            with pytest.raises(FewerError, match=r"it learns in a task.*environments.gym\(id\), or take an Agent"):
                ask()
    with pytest.raises(FewerError, match=r"laid out over the slots with two stars: OffPolicy\(\*\*sac\(\)\)"):
        OffPolicy(sac())
