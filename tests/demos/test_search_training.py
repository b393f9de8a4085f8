from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.demos.demonstrations import Demonstrations, parts
from fewer.demos.diffusion_policy import DiffusionCloning
from fewer.demos.learned_search import LearnedSearch
from fewer.demos.residual_search import ResidualSearch
from fewer.demos.rollouts import Step
from fewer.demos.search_policy import Imagination
from fewer.demos.slot_world import slot_insertion
from fewer.demos.world_model import WorldModelShape

SMALL = LearnedSearch(
    env_steps=200,
    round_steps=60,
    copies=3,
    train_ratio=0.05,
    batch=4,
    length=6,
    world=WorldModelShape(deter=8, stoch=2, classes=4, hidden=16),
    hidden=(8,),
    members=3,
    reward_every=2,
    imagination=Imagination(search=ResidualSearch(samples=6, iterations=2, elites=2)),
    distil_every=2,
    distil_episodes=2,
    distil_steps=2,
)
TASK = slot_insertion(4)


@pytest.fixture(scope="module")
def given():
    return TASK.demonstrations(0)


@pytest.fixture(scope="module")
def base(given):
    return DiffusionCloning(
        network="mlp", hidden=(16,), train_steps=10, sample_steps=2, frames=1, steps=20, lr=1e-3
    ).fit(given)


def training(given, base, play=TASK.play, seed=0, **changes):
    return replace(SMALL, **changes).start(given, base, play, seed=seed)


def weights(run):
    return torch.cat([each.flatten() for each in [*run.models.parameters(), *run.policy.base.parameters()]])


def test_it_acts_for_the_steps_that_were_given_and_no_more(given, base):
    counted = []

    class Counted:
        def __init__(self, inner):
            self.inner, self.copies, self.horizon, self.low, self.high = (
                inner,
                inner.copies,
                inner.horizon,
                inner.low,
                inner.high,
            )

        def reset(self, seed):
            self.over = np.zeros(self.copies, dtype=bool)
            return self.inner.reset(seed)

        def step(self, actions):
            counted.append((~self.over).sum())
            after = self.inner.step(actions)
            self.over |= after.terminated | after.truncated
            return after

    run = training(given, base, lambda copies: Counted(TASK.play(copies)))
    run.run()
    assert SMALL.env_steps - SMALL.copies < run.taken <= SMALL.env_steps
    assert sum(counted) == run.taken == run.acted.steps
    assert run.updates == int(run.taken * SMALL.train_ratio)
    assert set(run.report) >= {"reconstruction", "end", "divergence", "value loss", "reward loss", "updates"}


def test_no_reward_of_the_environment_is_looked_at(given, base):
    class Unpaid:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, actions):
            after = self.inner.step(actions)
            nothing = np.full(after.rewards.shape, np.nan)
            return Step(after.observations, nothing, after.terminated, after.truncated, ~after.successes)

    runs = []
    for play in (TASK.play, lambda copies: Unpaid(TASK.play(copies))):
        run = training(replace(given, rewards=None, successes=None) if runs else given, base, play)
        run.run()
        runs.append(weights(run))
    assert torch.equal(runs[0], runs[1])


def test_the_seed_decides(given, base):
    runs = []
    for seed in (0, 0, 1):
        run = training(given, base, seed=seed, env_steps=100)
        run.run()
        runs.append(weights(run))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_policy_that_was_given_stays_as_it_is(given, base):
    before = copy.deepcopy(base.state_dict())
    run = training(given, base, distil_every=1, env_steps=400)
    run.run()
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())
    # its copy was taught
    assert any((before[key] != value).any() for key, value in run.policy.base.state_dict().items())


def test_without_teaching_the_base_stays_and_nothing_is_taught_near_the_end(given, base):
    for changes in ({"distil_every": 0}, {"distil_every": 1, "warm_up": 0.0, "round_steps": 200}):
        run = training(given, base, **changes)
        run.run()
        assert run.teaching is None


def test_batches_are_half_demonstrated(given, base):
    run = training(given, base)
    run.collect(30, search=False)
    shown, acted = run.demonstrated.trajectories[0], run.acted.trajectories[0]
    drawn = run.draw()
    assert drawn.numbers.shape == (4, 6, 4)

    def among(rows, replay):
        every = np.concatenate([parts(each.observations)[""] for each in replay.trajectories])
        return all((every == row).all(1).any() for row in rows.numpy().reshape(-1, 4))

    assert among(drawn.numbers[:2], run.demonstrated)
    assert among(drawn.numbers[2:], run.acted)
    assert len(shown) > 0 < len(acted)


def test_what_is_acted_is_recorded_as_it_was(given, base):
    run = training(given, base)
    run.collect(90)
    for each in run.acted.trajectories:
        seen = each.observations
        assert len(seen) == len(each.actions) + 1 == len(each.plans)
        assert np.abs(each.actions).max() <= 1
        # the search changes plans by 0.2 at most
        assert np.abs(each.actions - each.plans[:-1, 0]).max() <= 0.2 + 1e-5
        # a push that is seen in the velocity, but for the noise of the motors
        np.testing.assert_allclose((seen[1:, 2:] - seen[:-1, 2:]) / 0.1, each.actions, atol=0.3)


def test_warm_up_is_the_base_policy_with_noise(given, base):
    run = training(given, base, warm_noise=0.0)
    run.collect(60, search=False)
    for each in run.acted.trajectories:
        np.testing.assert_array_equal(each.actions, each.plans[:-1, 0])


def test_the_reward_learns_more_slowly_than_the_world(given, base):
    run = training(given, base, reward_every=3)
    run.collect(30, search=False)
    changed = []
    for _ in range(6):
        before = [each.clone() for each in run.models.reward.parameters()]
        run.update(run.draw())
        changed.append(any((a != b).any() for a, b in zip(before, run.models.reward.parameters(), strict=True)))
    assert changed == [False, False, True, False, False, True]


def test_values_imagine_what_the_base_policy_would_do(given, base):
    run = training(given, base)
    run.collect(30, search=False)
    seen = []
    imagine = run.models.world.imagine_chunks
    run.models.world.imagine_chunks = lambda state, chunks: (seen.append(chunks), imagine(state, chunks))[1]
    batch = run.draw()
    _, latent, _ = run.models.world.loss(batch)
    run.value_loss(latent, batch.plans)
    torch.testing.assert_close(seen[0], batch.plans.flatten(0, 1)[:, :7])


def test_taught_plans_follow_the_latest_episodes(given, base):
    run = training(given, base)
    run.train(run.collect(150, search=False))
    seen = []
    choose = run.policy.choose
    run.policy.choose = lambda observations, **options: (seen.append(observations), choose(observations, **options))[1]
    before = copy.deepcopy(run.policy.base.state_dict())
    run.distil()
    latest = run.acted.trajectories[-2:]
    assert len(seen) == max(map(len, latest))
    np.testing.assert_array_equal(seen[3][0], latest[0].observations[min(3, len(latest[0]))])
    assert any((before[key] != value).any() for key, value in run.policy.base.state_dict().items())


def test_what_was_found_is_what_is_taught(given, base):
    base = replace(base.settings, hidden=(32,), steps=300, lr=5e-3).fit(given)
    plans = []
    for found in (0.3, -0.3):
        run = training(given, base, distil_steps=200)
        run.collect(100, search=False)
        run.policy._change = lambda observations, plans, found=found: torch.full_like(plans, found)
        run.distil()
        assert run.teaching.done == base.settings.steps + 200
        run.policy.base.begin(1, np.random.default_rng(0))
        plans.append(run.policy.base.plan(run.acted.trajectories[-1].observations))
    assert (plans[0] - plans[1]).mean() > 0.1


def test_a_policy_of_the_users_own_is_searched_around(given):
    class Mine:
        def plan(self, observations):
            return np.zeros((len(observations), 10, 2))

    run = training(given, Mine())
    run.run()
    assert run.teaching is None
    run.policy.begin(2, np.random.default_rng(0))
    assert np.abs(run.policy.act(given.observations[:2])).max() <= 0.2 + 1e-6


def test_what_does_not_fit_is_refused(given, base):
    with pytest.raises(
        FewerError, match=r"have shape \(3,\), those of the environment \(2,\); these are demonstrations of"
    ):
        training(Demonstrations(np.zeros((9, 4)), np.zeros((9, 3)), [0, 9]), base)
    with pytest.raises(FewerError, match="chunks are of real actions; these are numbered"):
        training(Demonstrations(np.zeros((9, 4)), np.zeros(9, dtype=int), [0, 9]), base)
    with pytest.raises(Diverged, match="lower the learning rates"):
        training(given, base, world_lr=1e30, train_ratio=0.2).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_steps": 0}, "counts must be at least 1, and batch at least 2"),
        ({"batch": 1}, "batch at least 2"),
        ({"warm_up": 2.0}, r"warm_up and mix lie in \[0, 1\] and slow in \(0, 1\]; they are 2.0, 0.95 and 0.02"),
        ({"train_ratio": -1.0}, "warm_noise, train_ratio, penalty, slope and distil_every cannot be negative"),
        ({"value_lr": 0.0}, "learning rates must be positive; they are 0.0001, 0.0001 and 0.0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(FewerError, match=message):
        LearnedSearch(**settings)
