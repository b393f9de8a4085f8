from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewer.control.base_policies import described
from fewer.control.diffusion_policies import Denoiser, Diffusion, variance_preserving
from fewer.core.errors import FewerError


class Oracle(nn.Module):
    """The exact noise where all data are one point."""

    def __init__(self, point, steps):
        super().__init__()
        self.point, self.kept = point, torch.cumprod(1 - variance_preserving(steps), 0)

    def forward(self, noisy, observations, number):
        kept = self.kept[number.long()][:, None]
        return (noisy - kept.sqrt() * self.point) / (1 - kept).sqrt()


def test_the_schedule_is_of_its_closed_form():
    for steps in (1, 5, 10):
        expected = [1 - math.exp(-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2) for t in range(1, steps + 1)]
        assert variance_preserving(steps).tolist() == pytest.approx(expected, rel=1e-5)
        # the rates add up to those of the whole, however many steps: exp(-0.1 - 4.95) of the variance is kept
        assert float((1 - variance_preserving(steps)).prod()) == pytest.approx(math.exp(-5.05), rel=1e-4)


@pytest.mark.parametrize(("steps", "jumps"), [(1, 1), (10, 10), (10, 3), (20, 8)])
def test_with_the_exact_noise_of_one_point_both_samplers_arrive(steps, jumps):
    torch.manual_seed(0)
    point = torch.tensor([0.3, -0.8])
    denoiser = Denoiser(Oracle(point, steps), steps, jumps)
    noise = torch.randn(7, 2)
    for made in (denoiser.generate(torch.zeros(7, 1), noise), denoiser.draw(torch.zeros(7, 1), noise)):
        assert torch.allclose(made, point.expand(7, 2), atol=1e-4)
    assert float(denoiser.imitation_loss(torch.zeros(50, 1), point.expand(50, 2)).max()) < 1e-6


def test_one_sampler_depends_on_its_noise_alone_and_the_other_does_not():
    torch.manual_seed(0)
    denoiser = Diffusion(hidden=(16,), steps=5, time_features=8).build(3, 2)
    seen, noise = torch.randn(20, 3), 5 * torch.randn(20, 2)
    assert torch.equal(denoiser.generate(seen, noise), denoiser.generate(seen, noise))
    assert not torch.equal(denoiser.draw(seen, noise), denoiser.draw(seen, noise))
    for made in (denoiser.generate(seen, noise), denoiser.draw(seen, noise)):
        assert float(made.detach().abs().max()) <= 1


def test_the_ancestral_sampler_equals_a_plain_version():
    torch.manual_seed(0)
    denoiser = Diffusion(hidden=(16,), steps=4, time_features=8).build(3, 2)
    seen, noise = torch.randn(6, 3), torch.randn(6, 2)
    torch.manual_seed(1)
    made = denoiser.draw(seen, noise)
    torch.manual_seed(1)
    betas = variance_preserving(4)
    alphas, action = 1 - betas, noise
    for t in (3, 2, 1, 0):
        predicted = denoiser.net(action, seen, torch.full((6,), float(t)))
        action = (action - (1 - alphas[t]) / (1 - alphas[: t + 1].prod()).sqrt() * predicted) / alphas[t].sqrt()
        if t > 0:
            action = action + betas[t].sqrt() * torch.randn(6, 2)
        action = action.clamp(-1, 1)
    assert torch.allclose(made, action, atol=1e-6)


def test_two_modes_stay_two():
    torch.manual_seed(0)
    denoiser = Diffusion(hidden=(32, 32), steps=10, time_features=16).build(1, 1)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    for _ in range(600):
        modes = torch.where(torch.rand(256, 1) < 0.5, -0.7, 0.7)
        optimiser.zero_grad()
        denoiser.imitation_loss(torch.zeros(256, 1), modes).mean().backward()
        optimiser.step()
    noise = torch.randn(1000, 1)
    for made in (denoiser.draw(torch.zeros(1000, 1), noise), denoiser.generate(torch.zeros(1000, 1), noise)):
        assert float(((made.abs() - 0.7).abs() < 0.2).float().mean()) > 0.9
        assert 0.35 < float((made > 0).float().mean()) < 0.65


def test_what_cannot_be():
    for wrong in ({"steps": 0}, {"hidden": ()}, {"hidden": (8, 4)}):
        with pytest.raises(FewerError, match="hidden blocks of one width"):
            Diffusion(**wrong)
    with pytest.raises(FewerError, match="11 jumps over 10 steps"):
        Diffusion(jumps=11)
    with pytest.raises(FewerError, match="an even number; it is 3"):
        Diffusion(time_features=3)
    assert described("diffusion", steps=4) == Diffusion(steps=4)
