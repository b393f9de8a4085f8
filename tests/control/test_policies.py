from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from tests.control.toys import batch_of

from fewer.control.policies import Deterministic, Gaussian, _log_density
from fewer.core.errors import FewerError


def test_the_density_of_squashed_actions_integrates_to_one():
    mean, log_deviation = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)

    def density(action):
        before = torch.atanh(torch.tensor([action], dtype=torch.float64))
        noise = (before - mean) / log_deviation.exp()
        return float(_log_density(noise, log_deviation.reshape(1), before).exp())

    assert quad(density, -1, 1, points=[0.0, 0.9])[0] == pytest.approx(1, abs=1e-6)


def test_the_density_agrees_with_torchs_transforms_and_stays_finite():
    noise, log_deviation = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64) * 0.3
    mean = torch.randn(50, 3, dtype=torch.float64)
    before = mean + noise * log_deviation.exp()
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_deviation.exp()), torch.distributions.TanhTransform()
    )
    expected = reference.log_prob(before.tanh()).sum(-1)
    close = (before.abs() < 5).all(dim=-1)
    assert torch.allclose(_log_density(noise, log_deviation, before)[close], expected[close], atol=1e-6)
    far = torch.full((1, 1), 40.0)
    assert torch.isfinite(_log_density(torch.zeros(1, 1), torch.zeros(1, 1), far)).all()


def test_temperature_rises_when_entropy_is_below_its_aim_and_falls_above():
    for aim, sign in ((50.0, 1), (-50.0, -1)):
        actor = Gaussian(hidden=(8,), target_entropy=aim).build(2, 1)
        before = actor.log_temperature.item()
        actor.improve(batch_of(torch.zeros(16, 2)), lambda _, actions: actions.T)
        assert math.copysign(1, actor.log_temperature.item() - before) == sign


@pytest.mark.parametrize(
    "policy", [Gaussian(hidden=(16,), lr=1e-2, temperature=0.01), Deterministic(hidden=(16,), lr=1e-2)]
)
def test_improvement_finds_the_best_action_of_a_known_value(policy):
    torch.manual_seed(0)
    actor = policy.build(1, 2)
    wanted = torch.tensor([0.4, -0.6])

    def value(observations, actions):
        return -((actions - wanted) ** 2).sum(-1)[None]

    for _ in range(300):
        actor.improve(batch_of(torch.randn(32, 1)), value)
    assert actor.act(torch.randn(4, 1), deterministic=True).detach() == pytest.approx(wanted.expand(4, 2), abs=0.1)


def test_the_policys_loss_leaves_the_critics_weights_without_gradient():
    critic = torch.nn.Linear(2, 1)
    for policy in (Gaussian(hidden=(4,)), Deterministic(hidden=(4,))):
        policy.build(1, 1).improve(
            batch_of(torch.zeros(3, 1)), lambda seen, done: critic(torch.cat([seen, done], -1)).T
        )
        assert critic.weight.grad is None


def test_target_actions_of_td3_are_smoothed_within_bounds():
    actor = Deterministic(hidden=(4,), smoothing=10.0, clip=0.3).build(1, 1)
    seen = torch.zeros(1000, 1)
    actions, cost = actor.successor(seen)
    centre = actor.slow(seen)
    assert cost == 0
    assert float((actions - centre).abs().max().detach()) <= 0.3 + 1e-6
    assert float((actions - centre).std().detach()) > 0.2


def test_candidates_are_for_each_observation():
    actor = Gaussian(hidden=(4,)).build(2, 3)
    assert actor.propose(torch.zeros(5, 2), 7).shape == (7, 5, 3)
    still = Deterministic(hidden=(4,)).build(2, 3)
    seen = torch.randn(5, 2)
    assert torch.equal(still.propose(seen, 2)[1], still.act(seen))


def test_settings_out_of_range():
    for wrong in ({"lr": 0.0}, {"temperature": 0.0}, {"hidden": ()}, {"rows": "some"}, {"activation": "sine"}):
        with pytest.raises(FewerError, match="gaussian policy"):
            Gaussian(**wrong)
    for wrong in ({"lr": 0.0}, {"delay": 0}, {"tau": 2.0}, {"smoothing": -1.0}):
        with pytest.raises(FewerError, match="deterministic policy"):
            Deterministic(**wrong)


def test_entropy_can_be_left_out_of_the_target():
    actor = Gaussian(hidden=(4,), backup_entropy=False).build(2, 1)
    assert actor.successor(torch.zeros(3, 2))[1] == 0
    assert np.shape(Gaussian(hidden=(4,)).build(2, 1).successor(torch.zeros(3, 2))[1].detach()) == (3,)


def test_a_policy_may_please_the_least_or_the_mean_of_the_critics():
    """Of two critics that want opposite things, the mean is indifferent and the least is best between them."""

    def value(observations, actions):
        return torch.stack([-3 * (actions[:, 0] - 0.5).abs(), -((actions[:, 0] + 0.5).abs())])

    found = {}
    for objective in ("least", "mean"):
        torch.manual_seed(0)
        actor = Gaussian(hidden=(16,), lr=1e-2, temperature=1e-3, target_entropy=-9.0, objective=objective).build(1, 1)
        for _ in range(400):
            actor.improve(batch_of(torch.randn(64, 1)), value)
        found[objective] = float(actor.act(torch.zeros(1, 1), deterministic=True).detach())
    assert found["least"] == pytest.approx(0.25, abs=0.1)
    assert found["mean"] == pytest.approx(0.5, abs=0.1)


def test_layers_can_be_normalised_and_of_other_kinds():
    actor = Gaussian(hidden=(8, 8), activation="tanh", layer_norm=True).build(2, 1)
    kinds = [type(layer).__name__ for layer in actor.net]
    assert kinds == ["Linear", "LayerNorm", "Tanh"] * 2 + ["Linear"]
