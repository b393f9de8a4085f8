from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tests.control.toys import Target, target

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Given, Imitate
from fewer.control.baselines import sac
from fewer.control.dock_world import dock_2d
from fewer.control.environments import gym
from fewer.control.generative_policies import FlowMatching
from fewer.control.latent_noise import LatentEnvironment, LatentNoise, LatentNoiseWrapper, latent_noise
from fewer.control.loop import OffPolicy
from fewer.core.errors import FewerError

WEIGHTS = torch.tensor([[0.5, -0.3], [0.2, 0.7]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def generate(observations, noise):
    """A policy of chunks that looks at both."""
    return (0.5 * noise + (observations @ WEIGHTS)[:, :1, None]).tanh()


# --- in the loop ---------------------------------------------------------------------------------


def test_a_step_with_noise_is_a_step_with_what_the_policy_makes_of_it():
    inner = ActionChunks(3).wrap(target(steps=9))
    latent = LatentEnvironment(inner, Given(generate, length=3), magnitude=2.0)
    noisy, plain = latent.make(2), inner.make(2)
    seen = noisy.reset({0: 4, 1: 5})
    assert np.array_equal(seen, plain.reset({0: 4, 1: 5}))
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
        made = generate(torch.from_numpy(seen), 2.0 * torch.from_numpy(actions).reshape(2, 3, 1))
        one, two = noisy.step(actions), plain.step(made.reshape(2, 3).numpy())
        assert one.rewards == pytest.approx(two.rewards)
        assert one.observations == pytest.approx(two.observations)
        seen = two.observations


def test_one_copy_may_start_again_alone():
    inner = target(steps=2)
    worlds = LatentEnvironment(inner, Given(generate), 1.0).make(2)
    worlds.reset({0: 0, 1: 1})
    before = worlds.seen.copy()
    again = worlds.reset({1: 7})
    assert np.array_equal(worlds.seen, np.stack([before[0], again[0]]))


def test_sizes_and_bounds_are_of_the_noise():
    latent = LatentNoise(Imitate(FlowMatching((4,))), magnitude=1.5, chunk=4).wrap(target())
    assert (latent.action_size, latent.longest) == (4, 4)
    assert latent.low.tolist() == [-1.5] * 4
    assert latent.high.tolist() == [1.5] * 4
    assert latent.fingerprint() != LatentNoise(Imitate(FlowMatching((4,))), 2.0, 4).wrap(target()).fingerprint()
    torch.manual_seed(0)
    tried = latent.random_actions(4000)
    torch.manual_seed(0)
    assert torch.equal(1.5 * tried, torch.randn(4000, 4).div(1.5).clamp(-1, 1) * 1.5)
    assert float((tried.abs() == 1).float().mean()) == pytest.approx(
        0.1336, abs=0.01
    )  # of a standard Gaussian, over 1.5


def test_noise_of_a_gaussian_acts_as_the_base_policy_does():
    """With bounds so wide that they cut nothing off, nothing is steered."""
    task, flow = dock_2d(demonstrations=40), FlowMatching((32, 32), 4)
    imitate = Imitate(flow, updates=600, lr=3e-3)
    noise = LatentNoise(imitate, magnitude=6.0)
    state = OffPolicy(action_map=noise, initialisation=noise).start(task, 100, seed=0)
    latent = state.task
    assert isinstance(latent, LatentEnvironment)

    def base(observations):
        seen = torch.from_numpy(observations)
        return latent.base.generate(seen, torch.randn(len(seen), 2)).detach().numpy()

    torch.manual_seed(0)
    steered = latent.evaluate(lambda seen: latent.random_actions(len(seen)).numpy(), 400, 0)
    plain = latent.inner.evaluate(base, 400, 0)
    spread = np.sqrt(2 * 0.25 / 400)
    assert abs(steered[0] - plain[0]) < 3 * spread
    assert abs(steered[1]["length"] - plain[1]["length"]) < 2


def test_it_runs_resumes_and_leaves_the_base_alone(tmp_path):
    noise = LatentNoise(Imitate(FlowMatching((8,), 2), updates=3, batch=8), chunk=2)
    loop = OffPolicy(
        **sac(hidden=(8,)),
        action_map=noise,
        initialisation=noise,
        batch=8,
        learning_starts=20,
        episodes=3,
        points=3,
        copies=2,
    )
    task = dock_2d(demonstrations=4)
    whole = [(point.score, point.extras["critic_loss"]) for point in loop.run(task, 120, 3)]
    run = loop.run(task, 120, 3, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    assert [(p.score, p.extras["critic_loss"]) for p in loop.run(task, 120, 3, checkpoint=tmp_path / "state")] == whole


def test_what_learning_in_noise_cannot_do():
    with pytest.raises(FewerError, match="its magnitude is 0"):
        latent_noise(magnitude=0)
    task = dock_2d(demonstrations=4)
    latent = LatentEnvironment(task, FlowMatching((4,)), 1.0)
    with pytest.raises(FewerError, match="its actions are no noise"):
        latent.transitions(latent.demonstrations(0))
    noise = latent_noise(FlowMatching((4,)))
    with pytest.raises(FewerError, match="fill both slots with the same"):
        OffPolicy(initialisation=noise["initialisation"]).start(task, 100, 0)


def test_its_spec_composes_with_another_ratio():
    loop = compose.loop("latent-noise(chunk=4, base_hidden=(8,), updates=0) + fixed-ratio(ratio=4) + sac(hidden=(8,))")
    assert isinstance(loop, OffPolicy)
    assert loop.action_map == loop.initialisation
    assert loop.learn(dock_2d(demonstrations=4), 120).curve.points[-1].extras["updates"] > 0


# --- as a wrapper --------------------------------------------------------------------------------


def test_the_wrapper_carries_out_the_chunk():
    env, plain = LatentNoiseWrapper(Target(steps=7, low=-2.0, high=4.0), generate, 2.0, chunk=3), Target(steps=7)
    assert env.action_space == Box(-2.0, 2.0, (3,), np.float32)
    seen, _ = env.reset(seed=3)
    same, _ = plain.reset(seed=3)
    rng = np.random.default_rng(0)
    for steps in (3, 3, 1):
        noise = rng.uniform(-2, 2, 3).astype(np.float32)
        made = generate(torch.from_numpy(seen)[None], torch.from_numpy(noise).reshape(1, 3, 1)).reshape(3).numpy()
        rewards, ended = [], False
        for one in made[:steps]:
            same, reward, ended, _, _ = plain.step(np.array([1 + 3 * one]))
            rewards.append(reward)
        seen, gained, terminated, truncated, info = env.step(noise)
        assert gained == pytest.approx(sum(rewards), rel=1e-5)
        assert seen == pytest.approx(same)
        assert (terminated, truncated, info["steps"]) == (ended, False, steps)
    with pytest.raises(FewerError, match=r"call reset\(\) first"):
        env.step(noise)


def test_the_wrapper_takes_a_policy_of_this_library():
    torch.manual_seed(0)
    flow = FlowMatching((8,), 2).build(3, 2)
    env = LatentNoiseWrapper(gymnasium.make("Pendulum-v1"), flow, chunk=2)
    seen, _ = env.reset(seed=0)
    noise = torch.tensor([[0.3, -1.2]])
    made = flow.generate(torch.from_numpy(seen)[None], noise).detach()[0].numpy()
    plain = gymnasium.make("Pendulum-v1")
    plain.reset(seed=0)
    rewards = [float(plain.step(np.array([2 * one], dtype=np.float32))[1]) for one in made]
    assert env.step(noise[0].numpy())[1] == pytest.approx(sum(rewards), abs=1e-5)


def test_others_agents_train_in_it():
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env

    env = LatentNoiseWrapper(gymnasium.make("Pendulum-v1"), lambda seen, noise: noise.tanh(), chunk=4)
    check_env(env)
    agent = sb3.SAC("MlpPolicy", env, learning_starts=20, batch_size=8, policy_kwargs={"net_arch": [8]})
    agent.learn(40)
    assert agent.predict(np.zeros(3, dtype=np.float32))[0].shape == (4,)


def test_as_does_this_librarys_loop():
    name = "LatentPendulum-v0"
    gymnasium.register(name, lambda: LatentNoiseWrapper(gymnasium.make("Pendulum-v1"), lambda seen, noise: noise))
    try:
        loop = OffPolicy(**sac(hidden=(8,)), batch=8, episodes=1, points=1)
        action, _ = loop.learn(gym(name), 120).result.predict(np.zeros(3))
        assert (np.abs(action) <= 1.5).all()
    finally:
        del gymnasium.registry[name]


@pytest.mark.parametrize(
    ("change", "policy", "options", "message"),
    [
        ({"action_space": Discrete(2)}, generate, {}, "must be a Box of numbers"),
        ({"observation_space": Discrete(2)}, generate, {}, "must be a Box of numbers"),
        ({"action_space": Box(-np.inf, np.inf, (1,))}, generate, {}, "actions are not bounded"),
        ({}, lambda seen, noise: torch.randn_like(noise), {}, "equal noise gave actions that differ"),
        ({}, lambda seen, noise: noise[:, :2], {"chunk": 3}, "it makes actions of shape"),
        ({}, generate, {"magnitude": -1.0}, "its magnitude is -1.0"),
    ],
)
def test_what_the_wrapper_refuses(change, policy, options, message):
    env = Target()
    for name, value in change.items():
        setattr(env, name, value)
    with pytest.raises(FewerError, match=message):
        LatentNoiseWrapper(env, policy, **options)


def test_noise_of_another_size():
    env = LatentNoiseWrapper(Target(), generate, chunk=2)
    env.reset(seed=0)
    with pytest.raises(FewerError, match="an action has 3 numbers; 2 are needed, a chunk of 2 actions"):
        env.step(np.zeros(3))
