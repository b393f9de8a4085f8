from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.control.toys import batch_of, target
from torch import nn

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Given, Imitate
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.dsrl import LatentSteering, dsrl_na, dsrl_sac, measure, weights_as_number
from fewer.control.generative_policies import FlowMatching
from fewer.control.latent_noise import LatentNoise
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.offline import Offline
from fewer.control.ofql import one_step_flow
from fewer.control.policies import Gaussian
from fewer.control.prior_data import Symmetric
from fewer.control.trained import TrainedPolicy
from fewer.core.errors import FewerError

IDENTITY = Given(lambda seen, noise: noise, name="identity")
SMALL = {"hidden": (16, 16), "lr": 3e-3, "temperature": 0.05}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Counting:
    """A policy that counts its calls and refuses to be differentiated."""

    def __init__(self):
        self.calls = 0

    def __call__(self, observations, noise):
        assert not noise.requires_grad
        self.calls += 1
        return noise.tanh()


def drawn(count, observations=3):
    return lambda rows=count: batch_of(torch.randn(rows, observations))


def test_until_anything_is_learned_the_base_policy_acts_unclipped():
    torch.manual_seed(0)
    actor = LatentSteering(FlowMatching((8,), 3), magnitude=0.1, hidden=(8,)).build(3, 2)
    seen = torch.randn(50, 3)
    for deterministic in (False, True):
        torch.manual_seed(1)
        acted = actor.act(seen, deterministic)
        torch.manual_seed(1)
        assert torch.equal(acted, actor.base.generate(seen, torch.randn(50, 2)))


def test_afterwards_noise_stays_in_its_bounds():
    torch.manual_seed(0)
    actor = LatentSteering(Given(lambda seen, noise: noise / 10), magnitude=1.5, hidden=(8,), temperature=1e3).build(
        3, 2
    )
    actor.steers.fill_(True)
    noise = 10 * actor.act(torch.randn(2000, 3))
    assert 1.3 < float(noise.detach().abs().max()) <= 1.5 + 1e-6
    seen = torch.randn(4, 3)
    mean = actor.steering.net(seen).chunk(2, -1)[0]
    assert torch.allclose(actor.act(seen, deterministic=True), 0.15 * mean.tanh(), atol=1e-6)


def test_with_the_identity_as_base_it_is_soft_actor_critic():
    """What the target looks ahead to is what SAC's would be, to the number."""
    torch.manual_seed(0)
    actor = LatentSteering(IDENTITY, magnitude=1.0, hidden=(16,)).build(3, 2)
    plain = Gaussian((16,), target_entropy=0.0, activation="tanh", layer_norm=True).build(3, 2)
    plain.load_state_dict(actor.steering.state_dict())
    seen = torch.randn(7, 3)
    torch.manual_seed(1)
    one, cost = actor.successor(seen)
    torch.manual_seed(1)
    two, expected = plain.successor(seen)
    assert torch.allclose(one, two)
    assert torch.allclose(cost, torch.as_tensor(expected))
    # and so is a step of improvement, where the critic of noise is the critic of actions
    critic = Critics(hidden=(8,)).build(3, 2)
    actor.noise_critic = critic
    torch.manual_seed(2)
    actor.improve(batch_of(seen), critic)
    torch.manual_seed(2)
    plain.improve(batch_of(seen), critic)
    for mine, other in zip(actor.steering.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_each_critic_is_distilled_into_its_own():
    torch.manual_seed(0)
    actor = LatentSteering(IDENTITY, magnitude=2.0, hidden=(64, 64), lr=3e-3, distillations=400).build(1, 1)

    def value(observations, actions):  # two members that disagree
        return torch.stack([actions[:, 0].square(), 1 - observations[:, 0] * actions[:, 0]])

    draw = lambda rows: batch_of(torch.rand(rows, 1) * 2 - 1)  # noqa: E731
    actor._rows = 128
    first = float(actor.settle(draw, value)["distillation_loss"])
    assert float(actor.settle(draw, value)["distillation_loss"]) < max(first, 0.02)
    seen, noise = torch.rand(400, 1) * 2 - 1, torch.rand(400, 1) * 1.8 - 0.9
    # the critic of noise takes it in units of its bound
    error = actor.noise_critic(seen, noise / 2.0) - value(seen, noise)
    assert float(error.detach().abs().mean()) < 0.1


def test_noises_with_one_action_come_to_one_value():
    torch.manual_seed(0)
    fold = Given(lambda seen, noise: noise.abs().clamp(max=1))
    actor = LatentSteering(fold, magnitude=2.0, hidden=(64, 64), lr=3e-3, distillations=600).build(1, 1)
    actor._rows = 128
    actor.settle(lambda rows: batch_of(torch.rand(rows, 1)), lambda seen, actions: torch.stack([actions[:, 0]] * 2))
    seen, noise = torch.rand(200, 1), torch.rand(200, 1) * 0.8
    apart = actor.noise_critic(seen, noise / 2) - actor.noise_critic(seen, -noise / 2)
    assert float(apart.detach().abs().mean()) < 0.08
    assert float(actor.noise_critic(seen, noise / 2).detach().std()) > 0.15


def test_distillation_is_as_many_plain_steps():
    torch.manual_seed(0)
    actor = LatentSteering(FlowMatching((8,), 2), magnitude=1.5, hidden=(8,), lr=1e-2, distillations=3).build(2, 2)
    critic, actor._rows = Critics(hidden=(8,)).build(2, 2), 4
    student = copy.deepcopy(actor.noise_critic)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    torch.manual_seed(1)
    actor.settle(lambda rows: batch_of(torch.randn(rows, 2)), critic)
    torch.manual_seed(1)
    batches = [torch.randn(4, 2) for _ in range(3)]
    noises = torch.randn(12, 2).split(4)
    for seen, noise in zip(batches, noises, strict=True):
        aim = critic(seen, actor.base.generate(seen, noise)).detach()
        optimiser.zero_grad()
        sum(
            0.5 * nn.functional.mse_loss(student(seen, noise / 1.5)[member], aim[member]) for member in (0, 1)
        ).backward()
        optimiser.step()
    for mine, other in zip(actor.noise_critic.parameters(), student.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_a_step_of_the_policy_moves_neither_critic_and_asks_the_base_nothing():
    counting = Counting()
    actor = LatentSteering(Given(counting), hidden=(8,), lr=0.1).build(3, 2)
    before, asked = copy.deepcopy(actor.noise_critic.state_dict()), counting.calls
    actor.improve(batch_of(torch.randn(5, 3)), actor.noise_critic)
    actor.improve(batch_of(torch.randn(5, 3)), actor.noise_critic)
    assert counting.calls == asked
    assert all(torch.equal(before[name], value) for name, value in actor.noise_critic.state_dict().items())
    policy = copy.deepcopy(actor.steering.state_dict())
    actor.settle(lambda rows: batch_of(torch.randn(rows, 3)), Critics(hidden=(8,)).build(3, 2))
    assert counting.calls == asked + 1
    assert all(torch.equal(policy[name], value) for name, value in actor.steering.state_dict().items())
    assert not all(torch.equal(before[name], value) for name, value in actor.noise_critic.state_dict().items())


def test_it_learns_which_noise_pays():
    """0.5 pays most; the base policy only makes 0.3 times its noise of anything."""
    base = Given(lambda seen, noise: 0.3 * noise)
    loop = OffPolicy(
        **dsrl_na(base, **SMALL, ratio=2, learning_starts=100, magnitude=2.5, distillations=4),
        batch=64,
        episodes=20,
        points=1,
    )
    learned = loop.learn(target(), 400)
    assert learned.curve.final > -0.02
    action, _ = learned.result.predict(np.zeros(2), deterministic=True)
    assert action[0] == pytest.approx(0.5, abs=0.15)


def test_the_base_stays_as_it_is_and_what_was_learned_can_be_saved(tmp_path):
    base = FlowMatching((8,), 2)
    filling = dsrl_na(base, hidden=(8,), ratio=1, learning_starts=20, base_updates=3)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=1)
    task = dock_2d(demonstrations=4)
    before = loop.start(task, 60, 0).actor.base
    policy = loop.learn(task, 60, 0).result
    assert weights_as_number(policy.actor.base) == weights_as_number(before)
    assert weights_as_number(before) != weights_as_number(loop.start(task, 60, 1).actor.base)
    assert not any(each.requires_grad for each in policy.actor.base.parameters())
    assert bool(policy.actor.steers)
    policy.save(tmp_path / "policy.safetensors")
    again = TrainedPolicy.load(tmp_path / "policy.safetensors", filling["policy"])
    seen = np.random.default_rng(0).normal(size=(5, 2))
    assert np.array_equal(policy.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0])
    traced = torch.jit.trace(policy.module(), torch.zeros(5, 2))
    assert traced(torch.from_numpy(seen).float()).detach().numpy() == pytest.approx(
        policy.predict(seen, deterministic=True)[0], abs=1e-5
    )


@pytest.mark.parametrize(("members", "copies"), [(2, 1), (3, 3)])
def test_a_resumed_run_is_the_same_to_the_bit(members, copies, tmp_path):
    filling = dsrl_na(FlowMatching((8,), 2), hidden=(8,), ratio=2, learning_starts=24, base_updates=3, members=members)
    loop = OffPolicy(**filling, action_map=ActionChunks(2), batch=8, episodes=2, points=4, copies=copies)
    task = dock_2d(demonstrations=4, radius=1.7)  # reached soon, and not by all at once

    def points(**where):
        return [
            (point.spent, point.score, point.extras.get("distillation_loss"))
            for point in loop.run(task, 80, 5, **where)
        ]

    whole = points()
    for stop in (1, 3):  # before anything is learned, and in the middle
        run = loop.run(task, 80, 5, checkpoint=tmp_path / str(stop))
        for _ in range(stop):
            next(run)
        run.close()
        assert points(checkpoint=tmp_path / str(stop)) == whole
    assert whole[0][2] is None
    assert whole[-1][2] is not None


def test_demonstrations_may_be_in_memory():
    """Memory holds actions, so they may be anybody's; with all of every batch from there, it learns from them alone."""
    filling = dsrl_na(FlowMatching((8,), 2), hidden=(8,), ratio=1, learning_starts=5, base_updates=3)
    for share in (0.5, 1.0):
        loop = OffPolicy(**filling, sampler=Symmetric(share=share), batch=8, episodes=2, points=1)
        assert loop.learn(dock_2d(demonstrations=4), 30).curve.points[-1].extras["updates"] == 25


def test_noise_as_the_action_of_a_soft_actor_critic():
    filling = dsrl_sac(FlowMatching((8,), 2), chunk=4, hidden=(8,), ratio=2, learning_starts=40, base_updates=3)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=1)
    learned = loop.learn(dock_2d(demonstrations=4), 120)
    noise, _ = learned.result.predict(np.zeros((50, 2)))
    assert noise.shape == (50, 8)
    assert (np.abs(noise) <= 1.5).all()
    assert isinstance(filling["action_map"], LatentNoise)
    assert filling["policy"].target_entropy == 0


def test_published_settings():
    filling = dsrl_na()
    policy, critic = filling["policy"], filling["critic"]
    assert (policy.magnitude, policy.distillations, policy.target_entropy, policy.temperature) == (1.5, 10, 0, 1)
    assert (critic.members, critic.subset, critic.layer_norm, critic.activation) == (2, None, True, "tanh")
    assert (filling["ratio"], filling["start_with"]) == (FixedRatio(20), "policy")
    assert (policy.steering().activation, policy.steering().layer_norm) == ("tanh", True)


@pytest.mark.parametrize("base", ["mean-flow", "diffusion"])
def test_other_base_policies(base):
    filling = dsrl_na(base, base_hidden=(8,), hidden=(8,), ratio=1, learning_starts=20, base_updates=3)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=1)
    assert loop.learn(dock_2d(demonstrations=4), 40).curve.points[-1].extras["updates"] > 0


def test_from_data_alone():
    filling = dsrl_na(FlowMatching((8,), 2), hidden=(8,), base_updates=3)
    filling |= {"ratio": FixedRatio(1)}
    point = Offline(**filling, batch=8, episodes=2, points=1).learn(dock_2d(demonstrations=4), 7).curve.points[-1]
    assert point.extras["updates"] == 7
    assert point.extras["distillation_loss"] > 0


def test_a_policy_that_was_learned_from_data_and_values_can_be_steered():
    task = dock_2d(demonstrations=4)
    before = (
        Offline(**one_step_flow(hidden=(8,), candidates=2), batch=8, episodes=2, points=1).learn(task, 5).result.actor
    )
    loop = OffPolicy(**dsrl_na(before.slow, hidden=(8,), ratio=1, learning_starts=20), batch=8, episodes=2, points=1)
    base = loop.learn(task, 40).result.actor.base
    assert weights_as_number(base) == weights_as_number(before.slow)


def test_specs():
    loop = compose.loop("dsrl(base='flow', base_hidden=(8,), base_steps=2) + action-chunks(length=4)")
    assert isinstance(loop, OffPolicy)
    assert isinstance(loop.policy, LatentSteering)
    assert loop.policy.base == FlowMatching((8,), 2)
    assert loop.initialisation == Imitate(FlowMatching((8,), 2))
    assert isinstance(compose.loop("offline + dsrl"), Offline)
    assert compose.loop("dsrl-sac(chunk=4)").action_map.chunk == 4
    assert compose.loop("dsrl + fixed-ratio(ratio=3) + warm-up(steps=70)").learning_starts == 70


def test_what_cannot_be():
    with pytest.raises(FewerError, match="its magnitude is -1"):
        dsrl_na(magnitude=-1)
    with pytest.raises(FewerError, match="0 distillations were asked for"):
        dsrl_na(distillations=0)
    with pytest.raises(FewerError, match="lr, temperature, hidden"):
        dsrl_na(temperature=0)
    with pytest.raises(FewerError, match="equal noise gave actions that differ"):
        OffPolicy(**dsrl_na(lambda seen, noise: torch.randn_like(noise))).learn(target(), 10)
    with pytest.raises(FewerError, match="has no demonstrations; give them as demos="):
        OffPolicy(**dsrl_na()).learn(target(), 10)


def test_the_measure_sees_all_arms():
    found = measure(0, tiny=True)
    assert set(found) == {"dsrl-na", "dsrl-sac", "rlpd", "base"}
    assert found["dsrl-na"]["weights of the base"] == found["base"]["weights of the base"]
