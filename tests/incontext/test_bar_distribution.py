from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.incontext.bar_distribution import BarDistribution

BORDERS = torch.tensor([-0.2, 0.1, 0.3, 0.35, 0.8, 1.0], dtype=torch.float64)
LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
BARS = BarDistribution(BORDERS)


def test_density_inside_is_mass_over_width():
    mass = LOGITS.softmax(-1)
    for bar, y in ((1, 0.2), (2, 0.33), (3, 0.5)):
        expected = math.log(mass[bar] / (BORDERS[bar + 1] - BORDERS[bar]))
        assert float(BARS.log_density(LOGITS, torch.tensor(y, dtype=torch.float64))) == pytest.approx(expected)


def test_density_integrates_to_one_and_to_the_cdf_tails_included():
    y = torch.linspace(-4, 4, 400_001, dtype=torch.float64)
    density = BARS.log_density(LOGITS.expand(len(y), -1), y).exp()
    upto = torch.cumulative_trapezoid(density, y)
    assert float(upto[-1]) == pytest.approx(1, abs=1e-4)
    cdf = BARS.cdf(LOGITS.expand(len(y), -1), y)
    torch.testing.assert_close(cdf[1:], upto, atol=2e-4, rtol=0)
    assert float(torch.trapezoid(density * y, y)) == pytest.approx(float(BARS.mean(LOGITS)), abs=1e-4)


def test_half_of_a_tail_lies_within_its_bar():
    mass = LOGITS.softmax(-1)
    low, high = BARS.cdf(LOGITS, BORDERS[0]), BARS.cdf(LOGITS, BORDERS[-1])
    assert float(low) == pytest.approx(float(mass[0]) / 2)
    assert float(1 - high) == pytest.approx(float(mass[-1]) / 2)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-6, 6), min_size=5, max_size=5), st.floats(0.001, 0.999))
def test_quantile_undoes_the_cdf(logits, chance):
    values = torch.tensor(logits, dtype=torch.float64)
    at = BARS.quantile(values, chance)
    assert float(BARS.cdf(values, at)) == pytest.approx(chance, abs=1e-6)


def test_gradient():
    y = torch.tensor([-0.5, 0.2, 0.5, 1.7], dtype=torch.float64)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: BARS.log_density(each, y), (logits,))


def test_it_is_what_the_authors_have():
    theirs = pytest.importorskip("lcpfn.bar_distribution")
    torch.manual_seed(0)
    samples = torch.rand(1003)
    borders = theirs.get_bucket_limits(20, ys=samples)
    ours = BarDistribution.from_samples(samples, 20)
    torch.testing.assert_close(ours.borders, borders, rtol=0, atol=0)
    peer = theirs.FullSupportBarDistribution(borders)
    logits, y = torch.randn(50, 7, 20), torch.rand(50, 7) * 1.6 - 0.3
    y[0, :3] = borders[:3]  # on a border it is the lower bar's
    torch.testing.assert_close(ours.log_density(logits, y), -peer(logits, y), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.mean(logits), peer.mean(logits))
    for chance in (0.2, 0.5, 0.9):
        at, expected = ours.quantile(logits, chance), peer.icdf(logits, chance)
        inside = (at > borders[1]) & (at < borders[-2])  # their outer bars are straight there, and have tails elsewhere
        assert inside.float().mean() > 0.5
        torch.testing.assert_close(at[inside], expected[inside], atol=1e-4, rtol=1e-4)


def test_bars_of_samples_hold_equally_many():
    samples = torch.randn(1000).square()
    bars = BarDistribution.from_samples(samples, 10)
    assert bars.bars == 10
    assert torch.histogram(samples, bars.borders).hist.tolist() == [100] * 10


def test_what_cannot_be_is_one_clear_line():
    with pytest.raises(FewerError, match="borders must increase"):
        BarDistribution(torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(FewerError, match="at least three"):
        BarDistribution(torch.tensor([0.0, 1.0]))
    with pytest.raises(FewerError, match="given 10 bars and 15 samples"):
        BarDistribution.from_samples(torch.rand(15), 10)
    with pytest.raises(FewerError, match=r"strictly between 0 and 1; 1\.0 was given"):
        BARS.quantile(LOGITS, 1.0)
