from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.control.dock_world import dock_2d
from fewer.control.generative_policies import Cloned, Flow, FlowMatching, TimeEmbedding, VelocityNet
from fewer.core.errors import Diverged, FewerError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class ToPoint(nn.Module):
    """The exact velocity where all data are one point: towards it, from wherever."""

    def __init__(self, point):
        super().__init__()
        self.point = point

    def forward(self, noisy, observations, time):
        return (noisy - self.point) / time[:, None]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_exact_flow_of_one_point_arrives_and_has_no_loss(steps):
    torch.manual_seed(0)
    point = torch.tensor([0.3, -0.8])
    flow = Flow(ToPoint(point), steps)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(flow.generate(torch.zeros(7, 1), torch.randn(7, 2)), point.expand(7, 2), atol=1e-5)
    assert float(flow.imitation_loss(torch.zeros(50, 1), point.expand(50, 2)).max()) < 1e-6


def test_equal_noise_gives_equal_actions_in_bounds():
    torch.manual_seed(0)
    flow = FlowMatching(hidden=(8,)).build(3, 2)
    seen, noise = torch.randn(20, 3), 5 * torch.randn(20, 2)
    assert torch.equal(flow.generate(seen, noise), flow.generate(seen, noise))
    assert float(flow.generate(seen, noise).detach().abs().max()) <= 1


def test_times_are_told_apart():
    torch.manual_seed(0)
    embedded = TimeEmbedding()(torch.linspace(0, 1, 50))
    distances = torch.cdist(embedded, embedded) + 9 * torch.eye(50)
    assert float(distances.min()) > 1e-3


def test_two_modes_stay_two():
    """A Gaussian would go in the middle; what is generated is near one mode or the other, each half of the time."""
    torch.manual_seed(0)
    flow = FlowMatching(hidden=(64, 64), steps=20).build(1, 1)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(1500):
        modes = torch.where(torch.rand(256, 1) < 0.5, -0.7, 0.7)
        optimiser.zero_grad()
        flow.imitation_loss(torch.zeros(256, 1), modes).mean().backward()
        optimiser.step()
    made = flow.generate(torch.zeros(1000, 1), torch.randn(1000, 1)).detach()
    assert float(((made.abs() - 0.7).abs() < 0.15).float().mean()) > 0.9
    assert 0.4 < float((made > 0).float().mean()) < 0.6


def test_cloning_is_remembered_and_follows_the_seed():
    task = dock_2d(demonstrations=4)
    shown = task.transitions(task.demonstrations(0))
    cloned = Cloned(FlowMatching((8,), 2), steps=5, batch=16)
    one, again, other = (cloned.train(task, shown, seed) for seed in (0, 0, 1))
    weight = "net.net.0.weight"
    assert torch.equal(one.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    assert not any(parameter.requires_grad for parameter in one.parameters())
    fresh = FlowMatching((8,), 2).build(2, 2)
    assert not torch.equal(fresh.state_dict()[weight], one.state_dict()[weight])


def test_cloning_learns_where_to_go():
    task = dock_2d(demonstrations=40)
    shown = task.transitions(task.demonstrations(0))
    torch.manual_seed(0)
    before = FlowMatching((32,), 4).build(2, 2).imitation_loss(shown.observations, shown.actions).mean()
    after = Cloned(FlowMatching((32,), 4), steps=300, lr=3e-3).train(task, shown, 0)
    torch.manual_seed(0)
    assert after.imitation_loss(shown.observations, shown.actions).mean() < 0.8 * before


def test_what_cannot_be():
    with pytest.raises(FewerError, match="flow matching"):
        FlowMatching(steps=0)
    with pytest.raises(FewerError, match="cloned policy"):
        Cloned(steps=0)
    task = dock_2d(demonstrations=4)
    with pytest.raises(Diverged, match="the loss became"):
        Cloned(FlowMatching((8,)), steps=600, lr=1e38).train(task, task.transitions(task.demonstrations(0)), 0)


def test_a_network_of_two_times_sees_both():
    torch.manual_seed(0)
    net = VelocityNet(1, 1, (8,), times=2)
    noisy, seen, zeros, ones = torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.ones(1)
    made = {float(net(noisy, seen, *pair).detach()) for pair in ((zeros, ones), (ones, zeros), (zeros, zeros))}
    assert len(made) == 3
