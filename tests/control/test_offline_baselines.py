"""The baselines of learning from data: closed forms, limits, and that each finds what pays."""

from __future__ import annotations

import pytest
import torch
from tests.control.toys import batch_of

from fewer import compose
from fewer.control.behaviour_regularised import BehaviourRegularised
from fewer.control.denoising_chain import DenoisingChain
from fewer.control.generative_policies import FlowMatching
from fewer.control.mean_flow import MeanFlow
from fewer.control.offline_baselines import DeterministicCloning, bc_flow, dql, fbrac, td3_bc
from fewer.core.errors import FewerError


def test_one_step_of_td3_bc_equals_a_plain_version():
    import copy

    torch.manual_seed(0)
    actor = DeterministicCloning((8,), lr=1e-3, alpha=2.5).build(2, 1)
    plain = copy.deepcopy(actor.net)
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3)
    batch = batch_of(torch.randn(16, 2), torch.rand(16, 1))

    def value(observations, actions):
        return torch.stack([3 * actions[:, 0] + observations[:, 0], torch.zeros(len(actions))])

    actor.improve(batch, value)
    actions = plain(batch.observations)
    worth = value(batch.observations, actions)[0]
    loss = -2.5 / worth.abs().mean().detach() * worth.mean() + (actions - batch.actions).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    for one, two in zip(actor.net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-7)


def test_without_value_td3_bc_is_regression():
    torch.manual_seed(0)
    actor = DeterministicCloning((32,), lr=1e-2, alpha=0.0).build(2, 1)
    seen = torch.randn(256, 2)
    for _ in range(200):
        actor.improve(batch_of(seen, 0.5 * seen[:, :1].tanh()), lambda observations, actions: 1e6 * actions.T)
    assert float((actor.act(seen) - 0.5 * seen[:, :1].tanh()).detach().abs().mean()) < 0.05


def test_what_the_names_stand_for():
    assert dql()["policy"].generator == DenoisingChain((256, 256, 256), 5, 1)
    assert not dql()["policy"].shortcut
    assert dql(acting_steps=1)["policy"].shortcut
    assert dql(acting_steps=2, hidden=[8])["policy"].generator == DenoisingChain((8,), 5, 2)
    assert fbrac(steps=1)["policy"].generator == FlowMatching((256, 256, 256), 1)
    assert bc_flow()["policy"] == BehaviourRegularised(MeanFlow(), 0.0, candidates=1, slow_every=1, slow_from=0)
    for filling in (dql(), fbrac(), bc_flow(), td3_bc()):
        assert filling["sampler"].share == 1
    assert dql()["critic"].activation == "mish"


def test_alpha_out_of_range():
    with pytest.raises(FewerError, match="alpha is the weight of the value; it is -1"):
        DeterministicCloning(alpha=-1)


@pytest.mark.parametrize("name", ["dql", "dql(acting_steps=1)", "fbrac(steps=2)", "bc-flow", "td3-bc", "ofql"])
def test_all_run_on_the_docks(name):
    spec = name[:-1] + ", hidden=[8])" if name.endswith(")") else f"{name}(hidden=[8])"
    loop = compose.loop(f"offline(batch=8, episodes=2, points=1) + {spec}")
    point = loop.learn(compose.task("dock-2d(demonstrations=4)"), 5).curve.points[-1]
    assert 0 <= point.score <= 1
    assert point.extras["updates"] == 5
