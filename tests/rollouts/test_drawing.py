"""Drawing: the value whose share of the running sums a number falls into, also where there are too many to add up one by one;
and log-probabilities of chosen tokens against those that autograd goes through step by step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.rollouts.drawing import BLOCK, chosen, chosen_logps

MANY = 16 * BLOCK


@pytest.mark.parametrize("many", [5, MANY - 1, MANY, MANY + 3, 2 * MANY + BLOCK - 1])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.99))
def test_each_number_falls_into_the_share_of_what_is_drawn(many, seed, share):
    rng = np.random.default_rng(seed)
    weights = rng.gamma(0.1, size=(3, many)).astype(np.float32)
    weights[rng.random(weights.shape) < share] = 0
    weights[:, rng.integers(many)] = 1
    numbers = rng.random(3)
    places = chosen(torch.from_numpy(weights), torch.from_numpy(numbers)).numpy()
    rows = np.arange(3)
    assert (weights[rows, places] > 0).all()
    sums = weights.cumsum(1, dtype=np.float64)
    share_of = sums / sums[:, -1:]
    before = share_of[rows, places] - weights[rows, places] / sums[:, -1]
    assert (before <= numbers + 1e-5).all()
    assert (numbers <= share_of[rows, places] + 1e-5).all()


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, MANY, MANY + 2])
def test_what_has_all_the_weight_is_drawn_by_every_number(place):
    weights = torch.zeros(3, MANY + 3)
    weights[:, place] = 1e-20
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert chosen(weights, numbers).tolist() == [place] * 3


def test_many_draws_come_as_often_as_they_weigh():
    weights = torch.zeros(MANY)
    weights[[3, BLOCK + 1, MANY - 1]] = torch.tensor([1.0, 2.0, 5.0])
    numbers = torch.from_numpy((np.arange(800) + 0.5) / 800)
    places = chosen(weights.expand(800, -1), numbers)
    assert [int((places == place).sum()) for place in (3, BLOCK + 1, MANY - 1)] == [100, 200, 500]


def product(dtype, tokens=7, values=30, seed=0):
    """Inputs and weights of a head, tokens that are chosen, and what their losses weigh."""
    draws = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(tokens, 8, generator=draws).to(dtype),
        torch.randn(values, 8, generator=draws).to(dtype),
    )
    places, wanted = torch.randint(values, (tokens,), generator=draws), torch.randn(tokens, generator=draws)
    return hidden.requires_grad_(), weight.requires_grad_(), places, wanted


def plain(logits, places, temperature=1.0):
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide / temperature, -1).gather(1, places[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)]
)
def test_log_probabilities_of_chosen_tokens_and_their_gradient(temperature, reuse, dtype, close):
    hidden, weight, places, wanted = product(dtype)
    logits = nn.functional.linear(hidden, weight)
    before = logits.detach().clone()
    logps, expected = chosen_logps(logits, places, temperature, reuse), plain(before, places, temperature)
    assert logps.dtype == expected.dtype
    torch.testing.assert_close(logps.detach(), expected, rtol=1e-5, atol=min(close, 1e-5))
    # half precision is made wider in memory of its own
    assert torch.equal(logits, before) == (not reuse or dtype in (torch.bfloat16, torch.float16))
    found = torch.autograd.grad((logps * wanted).sum(), [hidden, weight])
    true = plain(nn.functional.linear(hidden, weight), places, temperature)
    for one, two in zip(found, torch.autograd.grad((true * wanted).sum(), [hidden, weight]), strict=True):
        torch.testing.assert_close(one, two, rtol=close, atol=close)
    with torch.no_grad():
        again = chosen_logps(before.clone(), places, temperature, reuse)
    assert torch.equal(again, logps)
    assert not again.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("reuse", [False, True])
def test_the_gradient_is_that_of_finite_differences(temperature, reuse):
    hidden, weight, places, _ = product(torch.float64, tokens=4, values=6)

    def logps(hidden, weight):
        return chosen_logps(nn.functional.linear(hidden, weight), places, temperature, reuse)

    assert torch.autograd.gradcheck(logps, (hidden, weight))


@pytest.mark.parametrize("reuse", [False, True])
def test_a_gradient_is_the_same_each_time_that_it_is_asked_for_and_has_none_itself(reuse):
    hidden, weight, places, wanted = product(torch.float32)
    logits = nn.functional.linear(hidden, weight)
    loss = (chosen_logps(logits, places, 0.7, reuse) * wanted).sum()
    # what is saved elsewhere in the meantime is not known to have changed
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        other = (chosen_logps(nn.functional.linear(hidden, weight), places, 0.7, reuse) * wanted).sum()
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    for again in (loss, other, other):
        for one, two in zip(first, torch.autograd.grad(again, [hidden, weight], retain_graph=True), strict=True):
            assert torch.equal(one, two)
    with pytest.raises(FewerError, match="create_graph=True and has no gradient itself; take log_softmax"):
        torch.autograd.grad(loss, hidden, create_graph=True)
    (last,) = torch.autograd.grad(loss, logits)
    assert (last.data_ptr() == logits.data_ptr()) == reuse  # at last it takes the place of what was kept
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_chosen_logits_may_be_far_apart_impossible_or_none():
    logits = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, -torch.inf, 0.0]], requires_grad=True)
    logps = chosen_logps(logits, torch.tensor([1, 0]))
    logps.sum().backward()
    torch.testing.assert_close(logps.detach(), torch.tensor([-1000.0, -0.6931472]))
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 1.0, 0.0], [0.5, 0.0, -0.5]]
    none = torch.zeros(0, 5, requires_grad=True)
    chosen_logps(none, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert none.grad is not None
    assert none.grad.shape == (0, 5)
