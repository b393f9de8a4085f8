from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import Diverged, FewerError
from fewer.demos.chunk_cloning import ChunkCloning, action_bounds, cloning_loss
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.gate_world import SHAKE, gate_2d


def paths(episodes=6, length=12, scale=1.0):
    """What is done is a function of what is seen, and so is the rest of the chunk."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, size=(episodes, 1)) + 0.3 * np.arange(length)
    seen = np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(-1, 2).astype(np.float32)
    done = 0.8 * scale * np.stack([np.sin(phase + 0.5), np.cos(phase)], axis=-1).reshape(-1, 2).astype(np.float32)
    return Demonstrations(seen, done, np.arange(0, episodes * length + 1, length))


def test_the_whole_chunk_is_learned():
    given = paths()
    policy = ChunkCloning(chunk=4, steps=600, lr=1e-3).fit(given)
    windows = given.chunks(4)
    error = np.abs(policy.plan(given.observations) - given.actions[windows.index])[windows.mask]
    assert error.mean() < 0.02


def test_units_of_actions_do_not_matter():
    small = ChunkCloning(chunk=3, steps=30).fit(paths(), seed=1)
    large = ChunkCloning(chunk=3, steps=30).fit(paths(scale=50.0), [-50, -50], [50, 50], seed=1)
    seen = paths().observations[:5]
    np.testing.assert_allclose(large.plan(seen), 50 * small.plan(seen), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        ("mse", lambda d: d**2),
        ("l1", abs),
        ("huber", lambda d: 0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5),
    ],
)
def test_the_loss_is_the_mean_over_what_was_demonstrated(loss, error):
    rng = np.random.default_rng(0)
    answered, wanted = rng.normal(size=(2, 5, 3, 2))
    mask = rng.random((5, 3)) < 0.6
    expected = [
        error(answered[b, k, a] - wanted[b, k, a]) for b, k in zip(*mask.nonzero(), strict=True) for a in (0, 1)
    ]
    found = cloning_loss(torch.tensor(answered), torch.tensor(wanted), torch.tensor(mask), loss)
    assert float(found) == pytest.approx(np.mean(expected))


def test_padding_has_no_gradient():
    answered = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [False, False, False]])
    cloning_loss(answered, torch.randn(4, 3, 2, dtype=torch.float64), mask).backward()
    assert (answered.grad[~mask] == 0).all()
    assert (answered.grad[mask] != 0).all()
    wanted = torch.randn(4, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cloning_loss(x, wanted, mask), answered)


def test_what_comes_after_an_episode_changes_nothing():
    given, changed = paths(), paths()
    # the second episode begins otherwise, which a window that leaves the first would see
    first = given.keep([0])
    other = Demonstrations(changed.observations[:12].copy(), changed.actions[:12].copy(), [0, 12])
    policies = [ChunkCloning(chunk=5, steps=10).fit(each, seed=2) for each in (first, other)]
    seen = given.observations[:3]
    np.testing.assert_array_equal(policies[0].plan(seen), policies[1].plan(seen))


def test_the_same_seed_gives_the_same_policy():
    plans = [ChunkCloning(steps=5).fit(paths(), seed=seed).plan(paths().observations[:2]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert (plans[0] != plans[2]).any()


def test_what_never_changes_is_not_blown_up():
    given = paths()
    seen = np.concatenate([given.observations, np.full((given.steps, 1), 7.0, dtype=np.float32)], axis=1)
    policy = ChunkCloning(steps=2).fit(Demonstrations(seen, given.actions, given.offsets))
    assert policy.scale[-1] == 1
    assert np.isfinite(policy.plan(seen)).all()


def test_an_encoder_is_trained_with_the_rest():
    encoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
    before = encoder[0].weight.detach().clone()
    policy = ChunkCloning(chunk=4, steps=300, lr=1e-3).fit(paths(), encoder=encoder)
    assert (encoder[0].weight != before).any()
    windows = paths().chunks(4)
    assert np.abs(policy.plan(paths().observations) - paths().actions[windows.index])[windows.mask].mean() < 0.15


def test_short_episodes_are_padded_with_a_warning():
    given = Demonstrations(np.zeros((5, 1)), np.full((5, 1), 0.5), [0, 2, 5])
    with pytest.warns(
        UserWarning, match="1 of 2 episodes are shorter than a chunk of 3 actions; their chunks are padded"
    ):
        ChunkCloning(chunk=3, steps=2).fit(given)


def test_bounds_are_taken_as_given_or_minus_one_to_one():
    low, high = action_bounds(paths(), None, None)
    assert (low.tolist(), high.tolist()) == ([-1, -1], [1, 1])
    low, high = action_bounds(paths(), -3, [2.0, 4.0])
    assert (low.tolist(), high.tolist()) == ([-3, -3], [2, 4])
    low, _ = action_bounds(paths(), [-np.inf, -np.inf], [np.inf, np.inf])
    assert low.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, None, r"actions run from -[\d.]+ to [\d.]+ and no finite bounds are known; give low= and high="),
        ([-np.inf, -1], [np.inf, 1], "no finite bounds are known"),
        ([-1, -1], [1, 1], "and their bounds from -1 to 1; clip the actions, or widen the bounds"),
        ([-90, 90], [90, 90], r"low must be below high; they are \[-90.  90.\] and \[90. 90.\]"),
        ([-90] * 3, [90] * 3, r"bounds of shapes \(3,\) and \(3,\) were given for actions of shape \(2,\)"),
    ],
)
def test_wrong_bounds_are_refused(low, high, message):
    with pytest.raises(FewerError, match=message):
        ChunkCloning(steps=1).fit(paths(scale=50.0), low, high)


def test_numbered_actions_are_refused():
    given = Demonstrations(np.zeros((3, 1)), np.array([0, 1, 2]), [0, 3])
    with pytest.raises(FewerError, match="chunks are of real actions; these are numbered"):
        ChunkCloning(steps=1).fit(given)


def test_an_encoder_must_give_features():
    with pytest.raises(FewerError, match=r"the encoder must give \(batch, features\); it gave \(2, 1, 2\)"):
        ChunkCloning(steps=1).fit(paths(), encoder=nn.Unflatten(1, (1, 2)))


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(Diverged, match="the loss became nan; lower the learning rate"):
        ChunkCloning(steps=5, lr=1e38).fit(paths())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 0}, "chunk, batch, steps and lr must be positive"),
        ({"lr": float("nan")}, "chunk, batch, steps and lr must be positive"),
        ({"loss": "l3"}, "unknown loss 'l3'; choose mse, l1, huber"),
        ({"execute": 9}, "9 steps of a chunk of 8 cannot be done; lower execute="),
        ({"average": -1.0}, "average is a rate of 0 or more and excludes execute; they are -1.0 and None"),
        ({"average": 0.1, "execute": 2}, "they are 0.1 and 2"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(FewerError, match=message):
        ChunkCloning(**settings)


def test_demonstrations_of_the_gate_are_cloned():
    given = gate_2d(10).demonstrations(0)
    policy = ChunkCloning(steps=150, lr=1e-3).fit(given)
    windows = given.chunks(8)
    error = (policy.plan(given.observations) - given.actions[windows.index])[windows.mask]
    noise = SHAKE**2  # which nobody can learn
    assert np.square(error).mean() < noise + 0.5 * (given.actions.var() - noise)
