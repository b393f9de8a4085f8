"""The chain against the posterior in plain words, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewer.control.denoising_chain import Chain, DenoisingChain
from fewer.control.diffusion_policies import variance_preserving
from fewer.core.errors import FewerError


class Points(nn.Module):
    """Knows that all actions are one: then the noise is what is left of it."""

    def __init__(self, aim, steps):
        super().__init__()
        self.aim, self.kept = aim, torch.cumprod(1 - variance_preserving(steps), 0)

    def forward(self, noisy, observations, number):
        kept = self.kept[number.long()][:, None]
        return (noisy - kept.sqrt() * self.aim) / (1 - kept).sqrt()


def test_a_chain_that_knows_the_action_ends_there():
    aim = torch.tensor([0.4, -0.2])
    chain = Chain(Points(aim, 5), 5, 1)
    torch.manual_seed(0)
    for made in (chain.draw, chain.generate):
        assert torch.allclose(made(torch.zeros(9, 3), torch.randn(9, 2)), aim.expand(9, 2), atol=1e-5)
    assert float(chain.imitation_loss(torch.zeros(50, 3), aim.repeat(50, 1)).max()) < 1e-6


def test_one_step_is_drawn_from_the_posterior():
    """Two steps: the first is followed by hand."""
    torch.manual_seed(0)
    chain = DenoisingChain((8,), steps=2).build(3, 2)
    seen, noise = torch.randn(4000, 3)[:1].repeat(4000, 1), torch.randn(1, 2).repeat(4000, 1)
    betas = variance_preserving(2).tolist()
    kept = [1 - betas[0], (1 - betas[0]) * (1 - betas[1])]
    with torch.no_grad():
        predicted = chain.net(noise, seen, torch.ones(4000))
        guess = ((noise - math.sqrt(1 - kept[1]) * predicted) / math.sqrt(kept[1])).clamp(-1, 1)
        mean = (
            math.sqrt(kept[0]) * betas[1] / (1 - kept[1]) * guess
            + math.sqrt(1 - betas[1]) * (1 - kept[0]) / (1 - kept[1]) * noise
        )
        deviation = math.sqrt(betas[1] * (1 - kept[0]) / (1 - kept[1]))
        torch.manual_seed(7)
        between = mean + deviation * torch.randn_like(noise)
        last = (
            (between - math.sqrt(betas[0]) * chain.net(between, seen, torch.zeros(4000))) / math.sqrt(kept[0])
        ).clamp(-1, 1)
        torch.manual_seed(7)
        assert torch.allclose(chain.draw(seen, noise), last, atol=1e-5)


def test_gradients_go_through_the_whole_chain():
    torch.manual_seed(0)
    chain = DenoisingChain((8,), steps=5).build(3, 2)
    noise = (0.1 * torch.randn(6, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(chain.draw(torch.randn(6, 3), noise).sum(), noise)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


def test_equal_noise_gives_equal_actions_without_chance_alone():
    torch.manual_seed(0)
    chain = DenoisingChain((8,)).build(3, 2)
    seen, noise = torch.randn(6, 3), torch.randn(6, 2)
    with torch.no_grad():
        assert torch.equal(chain.generate(seen, noise), chain.generate(seen, noise))
        assert not torch.equal(chain.draw(seen, noise), chain.draw(seen, noise))
        assert float(chain.draw(seen, 9 * noise).abs().max()) <= 1


def test_the_loss_is_a_mean_over_the_numbers_of_an_action():
    torch.manual_seed(0)
    chain = DenoisingChain((8,)).build(3, 4)
    seen, actions = torch.randn(6, 3), torch.rand(6, 4)
    torch.manual_seed(1)
    mean = chain.imitation_loss(seen, actions)
    torch.manual_seed(1)
    total = super(Chain, chain).imitation_loss(seen, actions)
    assert torch.allclose(4 * mean, total)


@pytest.mark.parametrize("given", [{"hidden": ()}, {"jumps": 6}, {"jumps": 0}, {"steps": 0}])
def test_settings_out_of_range(given):
    with pytest.raises(FewerError, match="denoising chain"):
        DenoisingChain(**given)
