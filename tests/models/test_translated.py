"""Compiled functions, and machines that have no compiler."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.perceptrons import squared_error
from fewer.models.translated import _translated, translated


@pytest.fixture(autouse=True)
def fresh():
    _translated.cache_clear()
    yield
    _translated.cache_clear()


def fails_with(monkeypatch, error):
    def compile(function, **options):
        def fails(*given):
            raise error

        return fails

    monkeypatch.setattr(torch, "compile", compile)


def test_a_machine_that_compiles_nothing_is_told_what_would_do(monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    fails_with(
        monkeypatch, BackendCompilerFailed(print, RuntimeError("tried g++\nNo working C++ compiler found"), None)
    )
    parameters = [torch.ones(2, 3, 1), torch.zeros(2, 1)]
    with pytest.raises(FewerError) as caught:
        squared_error(torch.zeros(5, 2), torch.zeros(5, 1), torch.zeros(5), parameters, compiled=True)
    assert str(caught.value).count("\n") == 0
    assert "(No working C++ compiler found); install a C++ compiler, or leave compiled out" in str(caught.value)


def test_other_errors_stay_what_they_are(monkeypatch):
    fails_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        translated(torch.add)(torch.ones(1), torch.ones(1))


@pytest.mark.slow
def test_a_compiled_function_gives_the_same():
    def several(x, times):
        return torch.stack([(x * time).tanh() for time in range(times)]).sum(0)

    x, begun = torch.randn(7, 3), torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for times in range(1, 11):  # more than torch compiles a function for by default
        torch.testing.assert_close(translated(several)(x, times), several(x, times))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == begun + 10
