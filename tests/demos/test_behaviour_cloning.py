"""Cloning: it learns what was done, its likelihood and gradients are right, and its policy takes what the world shows."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from fewer.core.errors import Diverged, FewerError
from fewer.demos.behaviour_cloning import BehaviourCloning, negative_log_likelihood
from fewer.demos.demonstrations import Demonstrations
from fewer.models.classifier import MLP, ConvNet
from fewer.models.optimisers import AdamW, Cosine


def line(count=400, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    seen = 5 + 3 * rng.normal(size=(count, 2))
    done = seen @ [[0.5], [-0.2]] + noise * rng.normal(size=(count, 1))
    return Demonstrations(seen, done, [0, count // 2, count])


def test_it_learns_what_was_done():
    given = line()
    policy = BehaviourCloning(steps=800).fit(given)
    assert np.abs(policy.act(given.observations) - given.actions).mean() < 0.1 * given.actions.std()


def test_the_gaussian_learns_how_much_actions_vary():
    given = line(2000, noise=0.5)
    policy = BehaviourCloning(likelihood="gaussian", steps=800).fit(given)
    _, log_std = policy(policy.tensor(given.observations))
    assert log_std.exp().mean().item() == pytest.approx(0.5, rel=0.15)


def test_the_likelihood_is_torchs_up_to_its_constant_and_its_gradient_is_right():
    drawn = torch.Generator().manual_seed(0)
    mean, log_std, done = (
        torch.randn(4, 3, generator=drawn, dtype=torch.float64, requires_grad=i < 2) for i in range(3)
    )
    expected = -torch.distributions.Normal(mean, log_std.exp()).log_prob(done).sum(dim=1)
    torch.testing.assert_close(negative_log_likelihood(mean, log_std, done) + 1.5 * math.log(2 * math.pi), expected)
    assert torch.autograd.gradcheck(lambda m, s: negative_log_likelihood(m, s, done), (mean, log_std))
    unit = negative_log_likelihood(mean, torch.zeros_like(mean), done)
    torch.testing.assert_close(negative_log_likelihood(mean, None, done), unit)
    assert negative_log_likelihood(torch.zeros(2), None, torch.ones(2)).tolist() == [0.5, 0.5]


def test_the_scale_of_observations_does_not_matter():
    given = line()
    other = Demonstrations(given.observations * [1000.0, 1e-3] + 7, given.actions, given.offsets)
    one, two = (BehaviourCloning(steps=50).fit(each) for each in (given, other))
    np.testing.assert_allclose(one.act(given.observations), two.act(other.observations), atol=1e-2)


def test_what_never_changes_is_not_blown_up():
    given = line()
    still = np.concatenate([given.observations, np.full((given.steps, 1), 3.0)], axis=1)
    policy = BehaviourCloning(steps=300).fit(Demonstrations(still, given.actions, given.offsets))
    shifted = still + np.array([0, 0, 1e-3])
    np.testing.assert_allclose(policy.act(still), policy.act(shifted), atol=1e-2)


def test_a_seed_decides_everything_and_the_callers_streams_go_on():
    given = line()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (BehaviourCloning(steps=5).fit(given, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one.act(given.observations), same.act(given.observations))
    assert not np.array_equal(one.act(given.observations), other.act(given.observations))


def test_actions_stay_within_their_bounds():
    given = line()
    policy = BehaviourCloning(steps=200).fit(given, [-0.1], [0.2])
    done = policy.act(given.observations)
    assert done.min() >= np.float32(-0.1)
    assert done.max() <= np.float32(0.2)


def test_a_single_observation_gets_a_single_action():
    given = line()
    policy = BehaviourCloning(steps=5).fit(given)
    np.testing.assert_allclose(policy.act(given.observations[3]), policy.act(given.observations[:5])[3], rtol=1e-5)
    parts = {"b": given.observations[:, :1], "a": given.observations[:, 1:]}
    several = BehaviourCloning(steps=5).fit(Demonstrations(parts, given.actions, given.offsets))
    one = several.act({"a": parts["a"][3], "b": parts["b"][3], "unused": np.zeros(9)})
    np.testing.assert_allclose(one, several.act({key: array[:5] for key, array in parts.items()})[3], rtol=1e-5)


def test_images_go_through_a_convolution():
    images = np.random.default_rng(0).normal(size=(10, 1, 8, 8))
    policy = BehaviourCloning(ConvNet(), steps=3).fit(Demonstrations(images, np.zeros((10, 2)), [0, 10]))
    assert policy.act(images).shape == (10, 2)
    assert policy.act(images[0]).shape == (2,)


def test_actions_of_any_shape_and_other_optimisers():
    given = line()
    grid = Demonstrations(given.observations, np.zeros((given.steps, 2, 3)), given.offsets)
    cloning = BehaviourCloning(MLP((8,)), optimiser=AdamW(), schedule=Cosine(), steps=3, likelihood="gaussian")
    assert cloning.fit(grid).act(given.observations).shape == (given.steps, 2, 3)


def test_a_policy_is_a_module_that_can_be_saved():
    given = line()
    policy, other = (BehaviourCloning(steps=5).fit(given, seed=seed) for seed in (0, 1))
    other.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(policy.act(given.observations), other.act(given.observations))
    assert pickle.loads(pickle.dumps(policy)).shape == policy.shape  # it goes to other processes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BehaviourCloning(steps=0), "batch and steps must be at least 1; they are 128 and 0"),
        (lambda: BehaviourCloning(likelihood="huber"), "unknown likelihood 'huber'; choose mse or gaussian"),
        (
            lambda: BehaviourCloning().fit(Demonstrations(np.zeros((2, 1)), np.zeros(2, int), [0, 2])),
            "behaviour cloning is for real actions; these are numbered",
        ),
        (lambda: BehaviourCloning(steps=2).fit(line()).act(np.zeros((4, 3))), "observations have 3 numbers and .* 2"),
        (
            lambda: BehaviourCloning(steps=2).fit(line()).act({"a": np.zeros((4, 2))}),
            r"come in parts \(a\) and were one",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_line(call, message):
    with pytest.raises(FewerError, match=message):
        call()


def test_a_loss_that_is_nan_stops_it():
    given = line()
    huge = Demonstrations(given.observations, given.actions * 1e30, given.offsets)
    with pytest.raises(Diverged, match="the loss became"):
        BehaviourCloning(steps=3).fit(huge)
