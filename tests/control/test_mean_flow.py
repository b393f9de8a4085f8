"""The mean-flow identity: derivatives, exact solutions, limits, and what it learns."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fewer import catalogue, compose
from fewer.control.base_policies import described
from fewer.control.generative_policies import FlowMatching, TimeEmbedding, VelocityNet
from fewer.control.mean_flow import MeanFlow, OneStepFlow, embedding_with_derivative, through_layers
from fewer.control.policies import adam, step
from fewer.core.errors import FewerError


def built(seed=0, **settings):
    torch.manual_seed(seed)
    return MeanFlow(**{"hidden": (16, 16)} | settings).build(3, 2).double()


def some(rows=7, seed=1):
    torch.manual_seed(seed)
    noisy, velocity = torch.randn(2, rows, 2, dtype=torch.float64)
    begin = 0.5 * torch.rand(rows, dtype=torch.float64)
    return noisy, torch.randn(rows, 3, dtype=torch.float64), begin + 0.4, begin, velocity


class Exact(nn.Module):
    """A network whose velocities are known, in place of a learned one."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, noisy, observations, end, begin):
        return self.velocity(noisy, end[:, None], begin[:, None])


def exact(velocity, **settings):
    flow = OneStepFlow(Exact(velocity), MeanFlow((1,), **settings))

    def change(noisy, observations, end, begin, along):
        def at(noisy, end):
            return flow.net(noisy, observations, end, begin)

        return torch.func.jvp(at, (noisy, end), (along, torch.ones_like(end)))[1]

    flow._change = change
    return flow


def test_the_change_equals_forward_differentiation_and_finite_differences():
    flow = built()
    noisy, seen, end, begin, along = some()
    change = flow._change(noisy, seen, end, begin, along)

    def at(noisy, end):
        return flow.net(noisy, seen, end, begin)

    other = torch.func.jvp(at, (noisy, end), (along, torch.ones_like(end)))[1]
    assert torch.allclose(change, other, atol=1e-12)
    h = 1e-5
    numeric = (at(noisy + h * along, end + h) - at(noisy - h * along, end - h)) / (2 * h)
    assert torch.allclose(change, numeric, atol=1e-7)
    assert not change.requires_grad


def test_layers_and_embeddings_carry_their_derivatives():
    torch.manual_seed(0)
    time = torch.rand(5, dtype=torch.float64)
    embedding = TimeEmbedding().double()
    values, turned = embedding_with_derivative(embedding, time)
    expected = torch.func.jvp(embedding, (time,), (torch.ones_like(time),))
    assert torch.allclose(values, expected[0])
    assert torch.allclose(turned, expected[1])
    with pytest.raises(TypeError, match="no derivative is known here for ReLU"):
        through_layers(nn.Sequential(nn.ReLU()), values, turned)


def test_the_gradient_is_that_of_the_predicted_side_alone():
    flow = built(flow_ratio=0.0)
    _, seen, *_ = some()
    actions = torch.rand(7, 2, dtype=torch.float64) * 2 - 1
    torch.manual_seed(5)
    loss = flow.imitation_loss(seen, actions).mean()
    gradients = torch.autograd.grad(loss, list(flow.parameters()))
    # the plain way: the same draws, and the target by forward differentiation
    torch.manual_seed(5)
    noise = torch.randn_like(actions)
    end, begin = flow._times(7, torch.float64)
    noisy, velocity = torch.lerp(actions, noise, end[:, None]), noise - actions

    def at(noisy, end):
        return flow.net(noisy, seen, end, begin)

    predicted, change = torch.func.jvp(at, (noisy, end), (velocity, torch.ones_like(end)))
    target = (velocity - (end - begin)[:, None] * change).detach()
    plain = (predicted - target).square().sum(-1).mean()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for one, two in zip(gradients, torch.autograd.grad(plain, list(flow.parameters())), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_one_point_is_solved_exactly():
    """Data of one action a0: u = (a_t - a0) / t whatever r is, the loss vanishes, and one step gives a0."""
    aim = torch.tensor([0.3, -0.6])
    flow = exact(lambda noisy, end, begin: (noisy - aim) / end, flow_ratio=0.25)
    torch.manual_seed(0)
    seen = torch.zeros(200, 3)
    assert float(flow.imitation_loss(seen, aim.repeat(200, 1)).max()) < 1e-8
    assert torch.allclose(flow.generate(seen, torch.randn(200, 2)), aim.expand(200, 2), atol=1e-6)


def gaussian_average_velocity(mean, deviation):
    """Of a_t = (1 - t) a + t e with a ~ N(mean, deviation^2): the flow keeps standard scores, so it is in closed form."""

    def velocity(noisy, end, begin):
        def spread(time):
            return ((1 - time) ** 2 * deviation**2 + time**2).sqrt()

        score = (noisy - (1 - end) * mean) / spread(end)
        back = (1 - begin) * mean + spread(begin) * score
        gap = end - begin
        at_point = -mean + ((end - (1 - end) * deviation**2) / spread(end)) * score
        return torch.where(gap > 1e-9, (noisy - back) / gap.clamp_min(1e-9), at_point)

    return velocity


def test_the_average_velocity_of_a_gaussian_obeys_the_identity_and_gives_it_back():
    mean, deviation = 0.2, 0.3
    velocity = gaussian_average_velocity(mean, deviation)
    flow = exact(velocity)
    torch.manual_seed(0)
    noisy, end = torch.randn(50, 2, dtype=torch.float64), torch.rand(50, dtype=torch.float64) * 0.5 + 0.4
    begin = end * 0.5
    # marginal velocity at the point: the average over a way of no length
    at_point = velocity(noisy, end[:, None], end[:, None])
    change = flow._change(noisy, None, end, begin, at_point)
    assert torch.allclose(
        velocity(noisy, end[:, None], begin[:, None]), at_point - (end - begin)[:, None] * change, atol=1e-8
    )
    made = flow.generate(torch.zeros(20_000, 3), torch.randn(20_000, 2))
    assert float(made.mean()) == pytest.approx(mean, abs=0.01)
    assert float(made.std()) == pytest.approx(deviation, rel=0.03)


def test_with_all_rows_at_a_point_it_is_flow_matching():
    flow = built(flow_ratio=1.0)
    _, seen, *_ = some()
    actions = torch.rand(7, 2, dtype=torch.float64)
    end, begin = flow._times(1000)
    assert torch.equal(end, begin)
    torch.manual_seed(3)
    loss = flow.imitation_loss(seen, actions)
    torch.manual_seed(3)
    noise = torch.randn_like(actions)
    end, _ = flow._times(7, torch.float64)
    noisy = torch.lerp(actions, noise, end[:, None])
    assert torch.allclose(loss, (flow.net(noisy, seen, end, end) - (noise - actions)).square().sum(-1))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_share_of_points_is_spread_over_the_batch(share):
    torch.manual_seed(0)
    end, begin = built(flow_ratio=share)._times(200)
    points = end == begin
    assert int(points.sum()) == 200 * share
    for half in points.chunk(2):
        assert abs(int(half.sum()) - 100 * share) <= 1
    assert bool((begin <= end).all())


def test_times_are_logit_normal():
    torch.manual_seed(0)
    end, begin = built(flow_ratio=0.0, centre=0.3, spread=0.7)._times(50_000)
    logits = torch.logit(torch.cat([end, begin]).double())
    assert float(logits.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(logits.std()) == pytest.approx(0.7, abs=0.01)


def test_it_learns_two_points_in_one_step():
    """Two actions with equal chance: noise goes to either, where one step of the velocity gives their mean."""
    apart = {}
    for policy in (MeanFlow((32, 32)), FlowMatching((32, 32), steps=1)):
        torch.manual_seed(0)
        flow = policy.build(1, 1)
        parameters = list(flow.parameters())
        optimiser = adam(parameters, 3e-3)
        for _ in range(500):
            actions = torch.randint(2, (128, 1)) * 1.2 - 0.6
            step(optimiser, flow.imitation_loss(torch.zeros(128, 1), actions).mean(), parameters)
        with torch.no_grad():
            made = flow.generate(torch.zeros(1000, 1), torch.randn(1000, 1))
        apart[type(policy).__name__] = float(made.abs().mean())
        assert abs(float(made.mean())) < 0.2
    assert apart["MeanFlow"] > 0.3
    assert apart["FlowMatching"] < 0.2


def test_actions_stay_in_bounds_and_follow_the_noise():
    flow = built()
    seen, noise = torch.randn(50, 3, dtype=torch.float64), 10 * torch.randn(50, 2, dtype=torch.float64)
    assert float(flow.generate(seen, noise).detach().abs().max()) <= 1
    assert torch.equal(flow.generate(seen, noise), flow.generate(seen, noise))
    assert isinstance(flow.net, VelocityNet)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": ()}, "hidden widths"),
        ({"flow_ratio": 1.5}, r"flow_ratio lies in \[0, 1\]"),
        ({"spread": 0.0}, "spread is positive"),
        ({"centre": math.nan}, "mean flow"),
    ],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(FewerError, match=message):
        MeanFlow(**given)


def test_it_is_a_base_that_others_can_name():
    assert described("mean-flow", hidden=(8,)) == MeanFlow((8,))


@pytest.mark.parametrize("spec", ["dsrl(base='mean-flow', {})", "expo(base='mean-flow', {})"])
def test_others_steer_it_and_edit_it(spec):
    slug = spec.split("(")[0]
    paper = catalogue.show(slug)
    if paper.fills is None:
        pytest.skip(f"{slug} is planned")
    taken = inspect.signature(catalogue.resolve(paper.fills)).parameters
    small = {"hidden": [8], "base_hidden": [8], "updates": 3, "base_updates": 3, "ratio": 1}
    given = ", ".join(f"{name}={value}" for name, value in small.items() if name in taken)
    loop = replace(compose.loop(spec.format(given)), batch=8, learning_starts=4, episodes=2, points=1)
    assert math.isfinite(loop.learn(compose.task("dock-2d(demonstrations=4)"), 12).curve.final)
