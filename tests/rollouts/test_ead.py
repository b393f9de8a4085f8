"""Annealed decoding: the schedule, its corrections, and the same in another library's decoder."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.rollouts.ead import EAD, AnnealedTemperature, logits_processor, truncated_weights


def test_the_formula():
    cooling = AnnealedTemperature(tau_max=1.3, tau_min=0.2, d0=9.0, growth=2.0, hold=3)
    for step in (0, 4):
        scale = 9.0 + 2.0 * step
        for place in range(40):
            expected = 1.0 if place < 3 else max(2.3 - math.exp(place / scale), 0.2)
            assert cooling.at(place, step) == pytest.approx(expected)
            assert cooling.temperature(step)(place) == cooling.at(place, step)


@given(
    st.floats(0.05, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.5, 100),
    st.floats(0, 10),
    st.integers(0, 5),
    st.integers(0, 50),
)
def test_it_falls_from_its_top_to_its_floor(floor, more, d0, growth, hold, step):
    cooling = AnnealedTemperature(floor + more, floor, d0, growth, hold)
    after = [cooling.at(place, step) for place in range(hold, hold + 60)]
    assert after == sorted(after, reverse=True)
    assert all(floor <= each <= max(1.0, floor + more) + 1e-9 for each in after)
    assert all(cooling.at(place, step) == 1 for place in range(hold))
    reached = math.ceil(cooling.scale(step) * math.log(1 + more)) + hold + 1
    assert cooling.at(reached, step) == pytest.approx(floor)
    assert cooling.at(10**9, step) == pytest.approx(floor)


def test_it_begins_at_the_top_and_its_scale_has_an_end():
    assert AnnealedTemperature(tau_max=1.25, hold=0).at(0) == pytest.approx(1.25)
    assert AnnealedTemperature().scale(10**9) == 40_000
    assert AnnealedTemperature(d0=50_000.0).scale(5) == 50_000


def test_without_heat_and_with_a_slow_decay_nothing_changes():
    still = AnnealedTemperature(tau_max=1.0, d0=1e12, growth=0.0, hold=0)
    assert [still.at(place) for place in range(100)] == pytest.approx([1.0] * 100)


def sampled(seed=0, rows=5, new=4):
    draws = torch.Generator().manual_seed(seed)
    logps, behaviour = (-torch.rand(rows, new, generator=draws) * 3 for _ in range(2))
    return SimpleNamespace(logps=logps, behaviour=behaviour)


def test_corrections():
    drawn = sampled()
    for name in ("none", "tis"):
        assert torch.equal(EAD(correction=name).old(drawn), drawn.logps)
    tempered = EAD(correction="tempered-old")
    assert torch.equal(tempered.old(drawn), drawn.behaviour)
    assert tempered.weights(drawn) is None
    assert EAD().weights(drawn) is None
    weights = EAD(correction="tis").weights(drawn)
    assert torch.equal(weights, truncated_weights(drawn.logps, drawn.behaviour, 2.0))
    assert float(weights.max()) <= 2


def test_weights_are_one_where_nothing_was_tempered_and_average_to_one():
    drawn = sampled()
    assert bool((truncated_weights(drawn.logps, drawn.logps, 2.0) == 1).all())
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model, tempered = (torch.log_softmax(logits / tau, 0) for tau in (1.0, 1.4))
    assert float((tempered.exp() * truncated_weights(model, tempered, math.inf)).sum()) == pytest.approx(1)


def test_completions_that_never_calm_down_are_warned_of():
    with pytest.warns(UserWarning, match="within 30 tokens the temperature stays above 1"):
        AnnealedTemperature(d0=500.0).check(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AnnealedTemperature(d0=20.0, hold=0).check(30)
        AnnealedTemperature(hold=10).check(8)


def test_another_librarys_decoder_is_given_the_same_temperatures():
    pytest.importorskip("transformers")
    cooling = AnnealedTemperature(d0=8.0, hold=1)
    processor = logits_processor(cooling, prompt=5, step=2)
    scores = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    for place in range(6):
        ids = torch.zeros(3, 5 + place, dtype=torch.int64)
        assert torch.allclose(processor(ids, scores), scores / cooling.at(place, 2))


@pytest.mark.parametrize(
    "options",
    [{"tau_min": 0.0}, {"tau_max": 0.05}, {"d0": 0.0}, {"growth": -1.0}, {"hold": -1}, {"correction": "all"}],
)
def test_errors(options):
    with pytest.raises(FewerError, match="ead: "):
        EAD(**options)
