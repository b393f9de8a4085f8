from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.control.critics import Critics, QEnsemble, held
from fewer.control.environments import gym
from fewer.control.loop import OffPolicy
from fewer.control.policies import Gaussian
from fewer.core.errors import FewerError
from fewer.models.ensemble import LayerNormEnsemble


@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_member_is_a_plain_network(layer_norm):
    torch.manual_seed(0)
    ensemble = QEnsemble(3, 2, members=4, hidden=(8, 5), layer_norm=layer_norm)
    for layer in ensemble.layers:  # no two members alike
        if isinstance(layer, LayerNormEnsemble):
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    seen, done = torch.randn(6, 3), torch.randn(6, 2)
    for member in range(4):
        x = torch.cat([seen, done], -1)
        for layer in ensemble.layers:
            if isinstance(layer, LayerNormEnsemble):
                x = nn.functional.layer_norm(x, x.shape[-1:], layer.weight[member], layer.bias[member])
            else:
                x = layer(x) if isinstance(layer, nn.ReLU) else x @ layer.weight[member] + layer.bias[member]
        assert torch.allclose(ensemble(seen, done)[member], x[:, 0], atol=1e-5)


def test_members_start_apart_and_learn_alone():
    ensemble = QEnsemble(1, 1, members=3, hidden=(4,))
    values = ensemble(torch.ones(1, 1), torch.ones(1, 1))
    assert len(set(values[:, 0].tolist())) == 3
    values[1].sum().backward()
    gradient = ensemble.layers[0].weight.grad
    assert gradient[[0, 2]].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


def test_the_target_is_the_least_of_all_or_of_members_drawn_anew():
    assert Critics(members=4).drawn() is None
    assert Critics(members=4, subset=4).drawn() is None
    torch.manual_seed(0)
    seen = {tuple(sorted(Critics(members=4, subset=2).drawn().tolist())) for _ in range(200)}
    assert seen == {(one, two) for one in range(4) for two in range(one + 1, 4)}
    # with replacement it may be one member drawn twice
    twice = Critics(members=4, subset=2, replacement=True)
    assert (3, 3) in {tuple(twice.drawn().tolist()) for _ in range(200)}


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_chosen_members_alone_are_computed(layer_norm, activation):
    ensemble = QEnsemble(3, 2, members=5, hidden=(8, 5), layer_norm=layer_norm, activation=activation)
    seen, done, chosen = torch.randn(6, 3), torch.randn(6, 2), torch.tensor([4, 1, 1])
    assert torch.allclose(ensemble(seen, done, chosen), ensemble(seen, done)[chosen], atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_layers_that_are_looked_at_give_the_same(layer_norm):
    """Hooks see what happens between layers, which is another way to the same values and gradients."""
    ensemble = QEnsemble(3, 2, members=3, hidden=(8, 5), layer_norm=layer_norm).double()
    seen, done = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    asked, shown = [*ensemble.parameters(), done], []
    values = ensemble(seen, done)
    straight = torch.autograd.grad(values.square().sum(), asked)
    handles = [layer.register_forward_hook(lambda *seen: shown.append(seen[-1])) for layer in ensemble.layers]
    watched = ensemble(seen, done)
    for handle in handles:
        handle.remove()
    assert len(shown) == len(ensemble.layers)
    assert torch.allclose(values, watched, atol=1e-12)
    for one, two in zip(straight, torch.autograd.grad(watched.square().sum(), asked), strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_what_is_held_asks_for_no_gradient_and_is_given_back():
    ensemble = QEnsemble(3, 2, members=2, hidden=(4,))
    frozen = ensemble.layers[0].weight.requires_grad_(False)
    with held(list(ensemble.parameters())):
        assert not any(each.requires_grad for each in ensemble.parameters())
    asked = [each.requires_grad for each in ensemble.parameters()]
    assert asked == [each is not frozen for each in ensemble.parameters()]
    with pytest.raises(ZeroDivisionError), held(list(ensemble.parameters())):
        raise ZeroDivisionError
    assert asked == [each.requires_grad for each in ensemble.parameters()]


@pytest.mark.parametrize(
    "wrong", [{"members": 0}, {"hidden": ()}, {"subset": 3}, {"subset": 0}, {"lr": 0}, {"tau": 0.0}, {"every": 0}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(FewerError, match="critics"):
        Critics(**wrong)


@pytest.mark.parametrize("settings", [{}, {"layer_norm": True}, {"activation": "mish"}])
@pytest.mark.parametrize("watched", [False, True])
def test_regression_has_the_automatic_gradient(settings, watched):
    torch.manual_seed(0)
    critic = QEnsemble(3, 2, 4, (8, 6), **settings)
    seen, done, target = torch.randn(9, 3), torch.randn(9, 2), torch.randn(9)
    parameters, counted = list(critic.parameters()), []
    if watched:
        critic.layers[-2].register_forward_hook(lambda *given: counted.append(given))
    values, loss, gradients = critic.regress(seen, done, target, parameters)
    assert len(counted) == watched
    expected = (critic(seen, done) - target).square().mean(1).sum()
    assert torch.allclose(values, critic(seen, done))
    assert torch.allclose(loss, expected)
    for one, two in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_regression_of_some_parameters_gives_their_gradients_alone():
    critic = QEnsemble(3, 2, 4, (8,))
    seen, done, target = torch.randn(9, 3), torch.randn(9, 2), torch.randn(9)
    parameters = list(critic.parameters())
    whole = critic.regress(seen, done, target, parameters)[2]
    parameters[0].requires_grad_(False)
    part = critic.regress(seen, done, target, parameters[1:])[2]
    assert len(part) == len(whole) - 1
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(part, whole[1:], strict=True))


@pytest.mark.slow
def test_compiled_critics_learn_the_same_but_for_rounding():
    runs = []
    for compiled in (False, True):
        loop = OffPolicy(
            Gaussian(hidden=(16,)), Critics(3, 2, (16, 16), True, compiled=compiled), batch=16, episodes=1, points=1
        )
        torch.manual_seed(0)
        runs.append(loop.start(gym("Pendulum-v1"), budget=130, seed=0))
        loop.advance(runs[-1])
    assert runs[0].updates > 20
    for one, two in zip(runs[0].critic.parameters(), runs[1].critic.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)
