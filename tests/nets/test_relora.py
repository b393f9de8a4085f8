"""ReLoRA: merges change nothing but the rank that can be reached, the state is partly forgotten, the rate is jagged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.optimisers import Cosine
from fewer.nets.linears import Step
from fewer.nets.relora import JaggedCosine, MergingLinear, ReLoRA, forget, relora


def test_a_merge_leaves_the_outputs_and_begins_anew():
    layer = MergingLinear(10, 7, rank=3, alpha=5.0).double()
    nn.init.normal_(layer.B)
    x = torch.randn(4, 10, dtype=torch.float64)
    before, first = layer(x), layer.A.detach().clone()
    torch.testing.assert_close(before, x @ (layer.frozen + 5 / 3 * layer.B @ layer.A).T + layer.bias)
    torch.testing.assert_close(layer.to_dense()(x), before)
    layer.merge(torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), before)
    assert not layer.B.any()
    assert not torch.equal(layer.A, first)
    assert float(layer.A.detach().abs().max()) <= 10**-0.5


def test_only_the_product_learns_and_merges_raise_the_rank_of_what_was_learned():
    layer = MergingLinear(12, 12, rank=2, bias=False).double()
    begin = layer.weight.detach().clone()
    for merges in range(1, 4):
        nn.init.normal_(layer.B)
        assert int(torch.linalg.matrix_rank(layer.weight - begin)) == 2 * merges
        layer.merge()
    layer(torch.randn(3, 12, dtype=torch.float64)).sum().backward()
    assert layer.frozen.grad is None
    assert layer.B.grad.any()


def steps(restarts, count):
    """Which of ``count`` equal steps merge."""
    merged = []

    class Spy(MergingLinear):
        def merge(self, generator=None):
            merged.append(at)

    network = nn.Sequential(Spy(4, 4, rank=1))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for at in range(count):
        ReLoRA(rank=1, restarts=restarts).after_step(Step(network, optimiser, at / count, (at + 1) / count, 0))
    return merged


def test_merges_come_at_even_shares_and_not_at_the_end():
    assert steps(3, 8) == [1, 3, 5]
    assert steps(1, 10) == [4]
    assert steps(0, 10) == []
    assert steps(3, 10) == [2, 4, 7]


@given(st.integers(0, 20), st.integers(1, 400))
def test_there_are_as_many_merges_as_restarts_if_there_are_steps_enough(restarts, count):
    assert len(steps(restarts, count)) == min(restarts, count - 1)


def test_the_optimisers_state_keeps_its_largest_entries():
    layer = MergingLinear(40, 10, rank=5)
    optimiser = torch.optim.Adam([layer.A, layer.B, layer.bias], lr=0.1)
    layer(torch.randn(8, 40)).square().sum().backward()
    optimiser.step()
    state = {name: value.clone() for name, value in optimiser.state[layer.B].items()}
    bias = optimiser.state[layer.bias]["exp_avg"].clone()
    ReLoRA(rank=5, restarts=1, reset=0.9).after_step(Step(nn.Sequential(layer), optimiser, 0.4, 0.6, 0))
    largest = state["exp_avg"].abs().flatten().topk(5).indices
    for name in ("exp_avg", "exp_avg_sq"):
        kept = optimiser.state[layer.B][name].flatten()
        assert int((kept != 0).sum()) == 5
        assert torch.equal(kept[largest], state[name].flatten()[largest])
    assert float(optimiser.state[layer.B]["step"]) == 0 < float(state["step"])
    assert float(optimiser.state[layer.bias]["step"]) == 1
    assert torch.equal(optimiser.state[layer.bias]["exp_avg"], bias)


def test_forgetting_nothing_and_all():
    state = {"exp_avg": torch.tensor([1.0, -3.0, 2.0]), "exp_avg_sq": torch.tensor([9.0, 4.0, 1.0])}
    state["step"] = torch.tensor(4.0)
    forget(state, torch.Size([3]), 0.0)
    assert float(state["step"]) == 4
    forget(state, torch.Size([3]), 0.5)
    assert state["exp_avg"].tolist() == [0, -3, 2]
    assert state["exp_avg_sq"].tolist() == [0, 4, 1]
    assert float(state["step"]) == 0
    forget(state, torch.Size([3]), 1.0)
    assert not state["exp_avg"].any()
    forget({}, torch.Size([3]), 1.0)


def test_after_a_merge_adam_steps_by_the_rate_where_it_forgot_and_by_its_moments_elsewhere():
    layer, rate = MergingLinear(40, 10, rank=5), 0.01
    optimiser = torch.optim.Adam([layer.A, layer.B], lr=rate)
    for _ in range(50):
        optimiser.zero_grad()
        layer(torch.randn(8, 40)).square().sum().backward()
        optimiser.step()
    ReLoRA(rank=5, restarts=1, reset=0.9).after_step(Step(nn.Sequential(layer), optimiser, 0.4, 0.6, 0))
    before = layer.B.detach().clone()
    first, second = (optimiser.state[layer.B][name].clone() for name in ("exp_avg", "exp_avg_sq"))
    optimiser.zero_grad()
    layer(torch.randn(8, 40)).square().sum().backward()
    optimiser.step()
    moved, gradient = layer.B.detach() - before, layer.B.grad
    assert gradient is not None
    # the first step's corrections: one less each beta
    mean, square = (0.9 * first + 0.1 * gradient) / 0.1, (0.999 * second + 0.001 * gradient**2) / 0.001
    torch.testing.assert_close(moved, -rate * mean / (square.sqrt() + 1e-8), rtol=1e-3, atol=1e-7)
    forgotten = first == 0
    assert int(forgotten.sum()) == 45
    torch.testing.assert_close(moved[forgotten].abs(), torch.full((45,), rate), rtol=1e-3, atol=1e-5)


@given(st.floats(0, 1))
def test_without_restarts_the_rate_is_a_cosine(progress):
    assert JaggedCosine(restarts=0).factor(progress) == Cosine(0.1, 0.1).factor(progress)


@given(st.floats(0, 1), st.integers(0, 8))
def test_the_jagged_rate_is_the_cosine_except_right_after_a_restart(progress, restarts):
    schedule, cosine = JaggedCosine(restarts, rewarm=0.02), Cosine(0.1, 0.1).factor(progress)
    assert 0 <= schedule.factor(progress) <= cosine + 1e-12
    since = min(
        (progress - at / (restarts + 1) for at in range(restarts + 1) if at / (restarts + 1) <= progress), default=0
    )
    if since > 0.0201 or progress < 1 / (restarts + 1) - 1e-6:
        assert schedule.factor(progress) == pytest.approx(cosine)


def test_layers_and_schedule_agree():
    made = relora(rank=4, restarts=5, rewarm=0.01)
    assert made["linears"].restarts == made["schedule"].restarts == 5
    assert made["linears"].rank == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReLoRA(restarts=-1), "relora: restarts must be at least 0 and reset lie in"),
        (lambda: ReLoRA(reset=1.5), "reset lie in"),
        (lambda: JaggedCosine(restarts=9, rewarm=0.1), "rewarm shorter than the 0.1 between them"),
        (lambda: JaggedCosine(restarts=-1), "relora: restarts"),
        (lambda: JaggedCosine(warmup=1.0), "cosine: warmup must lie in"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
