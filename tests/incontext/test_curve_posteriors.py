from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewer.incontext.curve_posteriors import ImportanceSampling, MarkovChain, last_value, power_law
from fewer.incontext.curve_prior import CurvePrior

PRIOR = CurvePrior(("ilog2",), length=12)


def exact(curve: np.ndarray, cut: int) -> np.ndarray:
    """The posterior predictive density of one growth curve by a grid over all its numbers."""
    weight, c, a, noise = np.meshgrid(
        *(np.linspace(*ends, count) for ends, count in (((0, 1), 31), ((0, 1), 31), ((-0.5, 0.5), 41))),
        np.linspace(-6, -1, 21),
        indexing="ij",
    )
    raw = np.stack([each.ravel() for each in (weight, c, a, noise)], axis=1)
    raw = raw[PRIOR.allowed(raw)]
    log_weight = PRIOR.log_raw(raw) + PRIOR.log_likelihood(raw, PRIOR.positions[:cut], curve[:cut])
    chosen = np.argsort(log_weight)[-60_000:]
    raw, log_weight = raw[chosen], log_weight[chosen]
    weights = np.exp(log_weight - log_weight.max())
    density = stats.norm(PRIOR.clean(raw, PRIOR.positions[cut:]), np.exp(raw[:, -1:])).pdf(curve[cut:])
    return np.log(weights @ density / weights.sum())


def test_both_samplers_give_the_exact_posterior():
    """A curve with enough noise for a grid to be fine enough."""
    rng = np.random.default_rng(0)
    curve = 0.7 * (0.8 - 0.35 / np.log(np.arange(1, 13) + 1.0)) + 0.05 * rng.normal(size=12)
    expected = exact(curve, 5)
    sampled = ImportanceSampling(PRIOR, 60_000, np.random.default_rng(1)).answer(curve[None], 5)
    chained = MarkovChain(PRIOR, walkers=60, steps=600).answer(curve[None], 5, np.random.default_rng(2))
    np.testing.assert_allclose(sampled.log_density[0], expected, atol=0.06)
    np.testing.assert_allclose(chained.log_density[0], expected, atol=0.15)
    np.testing.assert_allclose(chained.mean, sampled.mean, atol=0.03)


def test_a_chain_stays_where_curves_are_allowed():
    prior = CurvePrior(length=10)
    _, curves = prior.sample(2, np.random.default_rng(0))
    chain = MarkovChain(prior, walkers=20, steps=20)
    raw = np.stack([chain._begin(curve[:4], np.random.default_rng(1)) for curve in curves])
    now = chain._density(raw, curves[:, None, :4])
    before = raw.copy()
    for _ in range(20):
        for one, other in ((slice(0, 10), slice(10, None)), (slice(10, None), slice(0, 10))):
            chain._move(raw, now, one, other, curves[:, None, :4], np.random.default_rng(2))
    assert (raw != before).any()
    flat = raw.reshape(-1, raw.shape[-1])
    assert np.isfinite(prior.log_prior(flat)).all()
    np.testing.assert_allclose(now, chain._density(raw, curves[:, None, :4]))


def test_the_chain_agrees_with_emcee():
    emcee = pytest.importorskip("emcee")
    rng = np.random.default_rng(0)
    curve = 0.7 * (0.8 - 0.35 / np.log(np.arange(1, 13) + 1.0)) + 0.05 * rng.normal(size=12)
    x, seen = PRIOR.positions[:5], curve[:5]

    def density(raw):
        found = PRIOR.log_prior(raw)
        good = np.isfinite(found)
        found[good] += PRIOR.log_likelihood(raw[good], x, seen)
        return found

    chain = MarkovChain(PRIOR, walkers=60, steps=600)
    sampler = emcee.EnsembleSampler(60, 4, density, vectorize=True)
    np.random.seed(0)
    sampler.run_mcmc(chain._begin(seen, rng), 600)
    theirs = sampler.get_chain(discard=300, thin=30, flat=True)
    expected = PRIOR.clean(theirs, PRIOR.positions[5:]).mean(axis=0)
    np.testing.assert_allclose(chain.answer(curve[None], 5, rng).mean[0], expected, atol=0.03)


def test_the_plain_rules():
    x = np.arange(1.0, 31.0)
    curve = 0.9 - 0.4 * x**-0.7
    fitted = power_law(curve[None], 8)
    np.testing.assert_allclose(fitted.mean[0], curve[8:], atol=1e-3)
    assert (fitted.log_density > 3).all()
    last = last_value(curve[None], 8, CurvePrior(length=30), np.random.default_rng(0))
    assert (last.mean == curve[7]).all()
    off = (curve[8:] - curve[7]) ** 2
    differences = np.diff(last.log_density[0]) / np.diff(off)  # one Gaussian for all
    np.testing.assert_allclose(differences, differences[0])


def test_a_power_law_that_cannot_be_fitted_goes_on_with_the_last_value():
    rng = np.random.default_rng(0)
    said = power_law(rng.random((4, 20)), 2)
    assert np.isfinite(said.mean).all()
    assert np.isfinite(said.log_density).all()
