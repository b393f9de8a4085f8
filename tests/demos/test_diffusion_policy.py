from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.demos.chunk_denoisers import ChunkMLP, ChunkUNet, kept_share
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.diffusion_policy import DiffusionCloning, DiffusionPolicy
from fewer.demos.diffusion_training import ChunkData
from fewer.demos.plan_average import PlanAverage

QUICK = DiffusionCloning(
    chunk=4, network="mlp", hidden=(32,), train_steps=20, sample_steps=5, steps=3, batch=16, lr=1e-3
)


def corridor(episodes=3, length=10, width=2, seed=0):
    rng = np.random.default_rng(seed)
    steps = episodes * length
    return Demonstrations(
        rng.standard_normal((steps, width)).astype(np.float32),
        rng.uniform(-0.9, 0.9, (steps, 2)),
        np.arange(0, steps + 1, length),
    )


# --- noise -----------------------------------------------------------------------------------------------------------


def test_the_schedule_is_a_squared_cosine():
    kept = kept_share(100)
    wanted = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1, 100)]
    torch.testing.assert_close(
        kept[:99] * math.cos(0.008 / 1.008 * math.pi / 2) ** 2, torch.tensor(wanted), atol=1e-4, rtol=0
    )
    assert (kept.diff() < 0).all()
    assert 0 < kept[-1] < 1e-3


def test_a_network_that_knows_the_chunk_gives_it_back():
    policy = QUICK.start(corridor()).policy
    truth = torch.rand(6, 4, 2) * 1.6 - 0.8

    class Knows(torch.nn.Module):
        def forward(self, x, level, features):
            kept = policy.kept[level][:, None, None]
            return (x - kept.sqrt() * truth) / (1 - kept).sqrt()

    policy.network = Knows()
    torch.testing.assert_close(policy.sample(torch.zeros(6, 2), torch.randn(6, 4, 2)), truth, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_sum_over_a_chunk_and_padding_is_not_learned():
    policy = QUICK.start(corridor()).policy
    features, chunks = torch.zeros(5, 2), torch.rand(5, 4, 2)

    class Silent(torch.nn.Module):
        def forward(self, x, level, features):
            return torch.zeros_like(x)

    policy.network = Silent()
    mask = torch.tensor([[True, True, False, False]]).expand(5, -1)
    torch.manual_seed(3)
    found = policy.loss(features, chunks, mask)
    torch.manual_seed(3)
    torch.randint(20, (5,))
    noise = torch.randn(5, 4, 2)
    torch.testing.assert_close(found, noise[:, :2].square().sum(dim=(1, 2)).mean())


def test_it_learns_two_ways_where_a_mean_would_take_neither():
    rng = np.random.default_rng(0)
    side = rng.choice([-0.8, 0.8], size=200)
    given = Demonstrations(np.zeros((800, 1)), np.repeat(side, 4)[:, None], np.arange(0, 801, 4))
    settings = DiffusionCloning(
        chunk=4, network="mlp", hidden=(64, 64), train_steps=20, sample_steps=10, steps=600, batch=128, lr=2e-3
    )
    policy = settings.fit(given)
    policy.begin(200, np.random.default_rng(1))
    plans = policy.plan(np.zeros((200, 1)))[:, :, 0]
    first = plans[:, 0]
    assert (np.abs(np.abs(first) - 0.8) < 0.25).mean() > 0.85
    assert 0.25 < (first > 0).mean() < 0.75


@pytest.mark.parametrize("network", [ChunkMLP, ChunkUNet])
def test_networks_see_the_features_and_the_level(network):
    torch.manual_seed(0)
    net = network(3, 8, 2, (8, 16))
    chunks, level, features = torch.randn(4, 8, 2), torch.arange(4), torch.randn(4, 3)
    out = net(chunks, level, features)
    assert out.shape == chunks.shape
    assert (net(chunks, level + 5, features) != out).any()
    assert (net(chunks, level, features + 1) != out).any()


# --- acting ----------------------------------------------------------------------------------------------------------


def test_plans_are_averaged_as_a_slow_loop_does():
    rng = np.random.default_rng(0)
    plans, average = rng.standard_normal((7, 3, 4, 2)), PlanAverage()
    for t in range(7):
        found = average(plans[t])
        for j in range(4):
            every = [plans[s][:, t + j - s] for s in range(t + 1) if t + j - s < 4]
            np.testing.assert_allclose(found[:, j], np.mean(every, axis=0))


def test_an_episode_forgets_the_last_one_and_the_generator_decides():
    given, policy = corridor(), QUICK.fit(corridor())
    seen = given.observations[:3]
    runs = []
    for seed in (0, 0, 1):
        policy.begin(3, np.random.default_rng(seed))
        runs.append([policy.act(seen) for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (np.array(runs[0]) != np.array(runs[2])).any()
    policy.begin(1, np.random.default_rng(0))
    assert policy.act(seen[0]).shape == (2,)
    with pytest.raises(FewerError, match="3 observations were given and 1 at the step before; call begin"):
        policy.act(seen)


def test_actions_keep_their_bounds_and_units():
    given = Demonstrations(np.zeros((20, 1)), np.random.default_rng(0).uniform(10, 30, (20, 1)), [0, 20])
    policy = QUICK.fit(given, low=[10.0], high=[30.0])
    plan = policy.plan(np.zeros((50, 1)))
    assert (plan >= 10 - 1e-4).all()
    assert (plan <= 30 + 1e-4).all()
    torch.testing.assert_close(policy.scaled(np.array([[10.0], [20.0], [30.0]])), torch.tensor([[-1.0], [0.0], [1.0]]))


def test_two_frames_of_each_camera_and_the_latest_numbers():
    rng = np.random.default_rng(0)
    seen = {"camera": rng.integers(0, 255, (12, 32, 32, 3)).astype(np.uint8), "arm": rng.standard_normal((12, 2))}
    given = Demonstrations(seen, rng.uniform(-1, 1, (12, 2)), [0, 6, 12])
    policy = DiffusionCloning(chunk=4, network="mlp", hidden=(16,), steps=1, batch=4).fit(given)
    policy.begin(2, rng)
    frames = [{key: array[i : i + 2] for key, array in seen.items()} for i in range(3)]
    with torch.no_grad():
        both = policy.features([frames[0], frames[1]])
        assert both.shape == (2, 2 + 2 * 64)
        torch.testing.assert_close(both[:, 66:], policy.features([frames[0], frames[1]])[:, 66:])
        torch.testing.assert_close(both[:, 2:66], policy.features([frames[0], frames[0]])[:, 66:])
    policy.plan(frames[0])
    assert len(policy._frames) == 2  # the first frame stands in for the one before
    policy.plan(frames[1])
    np.testing.assert_array_equal(policy._frames[0]["camera"], frames[0]["camera"])
    # training sees the same: the frame before, or the first one where the episode begins
    data = ChunkData.of(given, torch.zeros(12, 4, 2), np.ones((12, 4), dtype=bool))
    before, now = data._frames(np.array([0, 5, 6, 7]), 2)
    np.testing.assert_array_equal(before["arm"], seen["arm"][[0, 4, 6, 6]])
    np.testing.assert_array_equal(now["arm"], seen["arm"][[0, 5, 6, 7]])


# --- training --------------------------------------------------------------------------------------------------------


def test_the_average_acts_and_the_seed_decides():
    one, other = QUICK.start(corridor(), seed=1), QUICK.start(corridor(), seed=1)
    for kept in (1 / 10, 2 / 11, 3 / 12):
        before = [each.clone() for each in one.policy.parameters()]
        one.advance(1)
        for old, slow, fast in zip(before, one.policy.parameters(), one.fast.parameters(), strict=True):
            torch.testing.assert_close(slow, kept * old + (1 - kept) * fast)
        other.advance(1)
    assert all(torch.equal(a, b) for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True))


def test_a_policy_is_made_again_from_its_tree():
    given, policy = corridor(), QUICK.fit(corridor())
    again = DiffusionPolicy.of_tree(policy.tree())
    for each in (policy, again):
        each.begin(3, np.random.default_rng(5))
    np.testing.assert_array_equal(policy.plan(given.observations[:3]), again.plan(given.observations[:3]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "lstm"}, "unknown network 'lstm'; choose unet or mlp"),
        ({"batch": 0}, "sizes, steps and lr must be positive"),
        ({"sample_steps": 200}, "sample_steps is at most train_steps"),
        ({"decay": 1.0}, r"decay lies in \[0, 1\)"),
        ({"chunk": 6}, "a unet halves the chunk 2 times and groups its channels by 8"),
        ({"hidden": (10, 20)}, "network='mlp' takes any"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(FewerError, match=message):
        DiffusionCloning(**settings)


def test_what_cannot_be_cloned_is_refused():
    with pytest.raises(FewerError, match="the longest episode has 3 steps and a chunk 4; lower chunk="):
        QUICK.fit(corridor(length=3))
    with pytest.raises(FewerError, match="chunks are of real actions; these are numbered"):
        QUICK.fit(Demonstrations(np.zeros((5, 1)), np.zeros(5, dtype=int), [0, 5]))
    with pytest.raises(Diverged, match="the loss became nan; lower the learning rate"):
        DiffusionCloning(chunk=4, network="mlp", hidden=(8,), steps=8, batch=4, lr=1e38).fit(corridor())
