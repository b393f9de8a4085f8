from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewer.core.errors import FewerError
from fewer.incontext.curve_prior import GROWTH, CurvePrior

EVERY = CurvePrior(tuple(GROWTH), length=30)


def test_curves_rise_and_stay_inside_and_noise_is_around_them():
    prior = CurvePrior()
    raw = prior.draw(2000, np.random.default_rng(0))
    clean = prior.clean(raw, prior.positions)
    assert clean.shape == (2000, 100)
    assert (clean[:, -1] > clean[:, 0]).all()
    assert ((clean >= 0) & (clean <= 1)).all()
    # the constraints do not touch the noise: its logarithm is still normal
    assert stats.kstest(raw[:, -1] + 4, "norm").pvalue > 1e-3
    clean, noisy = prior.sample(2000, np.random.default_rng(1))
    scale = np.log((noisy - clean).std(axis=1))
    assert abs(scale.mean() + 4) < 0.1
    assert abs(scale.std() - 1) < 0.1


def test_proposals_have_the_distributions_that_are_written_down():
    raw = EVERY.propose(4000, np.random.default_rng(0))
    for column, parameter in zip(raw.T, EVERY.parameters, strict=True):
        if parameter.kind == "uniform":
            expected = stats.uniform(parameter.first, parameter.second - parameter.first)
        else:
            expected = stats.norm(parameter.first, parameter.second)
        assert stats.kstest(column, expected.cdf).pvalue > 1e-4, parameter


def test_a_curve_by_hand():
    prior = CurvePrior(("pow3", "ilog2", "janoschek"), length=5)
    # weight, c, a, log alpha | weight, c, a | weight, a, beta, log k, log delta | log noise
    raw = np.array([[0.5, 0.8, 0.4, math.log(2.0), 0.2, 0.5, 0.1, 0.3, 0.9, 0.1, math.log(0.5), math.log(1.5), -3.0]])
    x = 4.0
    expected = (
        0.5 * (0.8 - 0.4 * x**-2.0)
        + 0.2 * (0.5 - 0.1 / math.log(5.0))
        + 0.3 * (0.9 - (0.9 - 0.1) * math.exp(-0.5 * x**1.5))
    )
    assert prior.clean(raw, np.array([x]))[0, 0] == pytest.approx(expected, rel=1e-14)
    y = np.array([0.6])
    density = stats.norm(expected, math.exp(-3.0)).logpdf(0.6)
    assert prior.log_likelihood(raw, np.array([x]), y)[0] == pytest.approx(density, rel=1e-12)


@pytest.mark.parametrize("name", GROWTH)
def test_the_formulas_are_those_of_the_authors(name):
    curves = pytest.importorskip("lcpfn.curves")
    theirs = {"dr_hill": "dr_hill_zero_background"}.get(name, name)
    formula, draw = getattr(curves, theirs), getattr(curves, f"prior_{theirs}")
    order = {  # of our parameters, by their names
        "pow3": "c a alpha", "ilog2": "c a", "janoschek": "a beta k delta", "log_power": "a b c",
        "weibull": "alpha beta kappa delta", "mmf": "alpha beta kappa delta", "vap": "a b c", "loglog_linear": "a b",
        "exp4": "c a b alpha", "pow4": "c a b alpha", "dr_hill": "theta eta kappa",
    }[name].split()  # fmt: skip
    rng, x = np.random.RandomState(0), np.arange(1.0, 101.0)
    drawn = [draw(rng) for _ in range(400)]
    with np.errstate(all="ignore"):
        for values in drawn[:50]:
            ours = GROWTH[name].formula(x, *(values[key] for key in order))
            assert ours == pytest.approx(formula(x, **values), rel=1e-10, abs=1e-12, nan_ok=True)
    prior = CurvePrior((name,))
    mine = prior.propose(4000, np.random.default_rng(0))
    for place, (key, parameter) in enumerate(zip(order, GROWTH[name].parameters, strict=True)):
        column = mine[:, 1 + place]
        if parameter.through != "itself":
            column = np.exp(column) if parameter.through == "exp" else 1 - np.exp(column)
        assert stats.ks_2samp(column, [values[key] for values in drawn]).pvalue > 1e-3, key


def test_the_whole_prior_is_that_of_the_authors():
    domhan = pytest.importorskip("lcpfn.domhan_prior")
    rng = np.random.RandomState(0)
    theirs = [domhan.sample_from_prior(rng, seq_len=50)() for _ in range(1200)]
    clean, noisy = CurvePrior(length=50).sample(4000, np.random.default_rng(0))
    for at in (0, 4, 24, 49):
        assert stats.ks_2samp(clean[:, at], [each[0][at] for each in theirs]).pvalue > 1e-3
        assert stats.ks_2samp(noisy[:, at], [each[1][at] for each in theirs]).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([CurvePrior(length=20), EVERY]))
def test_the_density_is_finite_exactly_where_curves_are_allowed(seed, prior):
    raw = prior.propose(40, np.random.default_rng(seed))
    whole = prior.clean(raw, prior.positions)
    with np.errstate(invalid="ignore"):
        allowed = (whole[:, -1] > whole[:, 0]) & (whole >= 0).all(axis=1) & (whole <= 1).all(axis=1)
    np.testing.assert_array_equal(prior.allowed(raw), allowed)
    np.testing.assert_array_equal(np.isfinite(prior.log_prior(raw)), allowed)
    raw[:, 0] = 1.5  # a weight out of its bounds
    assert np.isneginf(prior.log_prior(raw)).all()


def test_equal_seeds_give_equal_curves():
    first, second = (CurvePrior(length=10).sample(5, np.random.default_rng(3))[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_cannot_be_is_one_clear_line():
    with pytest.raises(FewerError, match="no component 'pow'; did you mean pow"):
        CurvePrior(("pow",))
    with pytest.raises(FewerError, match="at least one component, none twice"):
        CurvePrior(("pow3", "pow3"))
    with pytest.raises(FewerError, match="no component and 100"):
        CurvePrior(())
    with pytest.raises(FewerError, match="length of at least 2"):
        CurvePrior(length=1)
    with pytest.raises(FewerError, match="0 were asked for"):
        CurvePrior().draw(0, np.random.default_rng(0))
