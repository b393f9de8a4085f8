"""Prompts that are read once for all of their completions, against rows that are read one by one."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.models.causal_lm import CausalLM
from fewer.rollouts import decoding
from fewer.rollouts.decoding import Sampled, decode, teacher_forced
from fewer.rollouts.shared_prompts import Grouping, grouped, pays


def network():
    torch.manual_seed(0)
    return CausalLM(width=32, layers=2, heads=4, kv_heads=2, tied=True).build(50).double()


def written(model, prompts, group=4, new=5) -> Sampled:
    draws = torch.Generator().manual_seed(0)
    return decode(model, prompts, new=new, end=[0], pad=0, draws=draws, group=group)


def both(model, sampled, monkeypatch):
    """Log-probabilities, entropies and gradients, of rows alone and of rows that share their prompts."""
    found = []
    weights = torch.rand(sampled.mask.shape, generator=torch.Generator().manual_seed(1)).double()
    for shared in (False, True):
        monkeypatch.setattr(decoding, "pays", lambda *given, shared=shared: shared)
        logps, entropy = teacher_forced(model, sampled, 0.7, entropy=True)
        gradients = torch.autograd.grad(((logps + 0.1 * entropy) * weights).sum(), list(model.parameters()))
        found.append((logps, entropy, *gradients))
    return found


@pytest.mark.parametrize(
    "prompts",
    [[[1, 2, 3, 4]], [[1, 2, 3], [4, 5, 6]], [[1, 2, 3, 4, 5, 6, 7, 8], [9, 4, 6], [7] * 8], [[0, 0, 1], [1], [0, 1]]],
)
@pytest.mark.parametrize("group", [1, 4])
def test_values_and_gradients_are_those_of_rows_alone(prompts, group, monkeypatch):
    model = network()
    for one, two in zip(*both(model, written(model, prompts, group), monkeypatch), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_some_rows_of_some_prompts(monkeypatch):
    """As a selector leaves them: not all of a prompt, in another order, a prompt twice."""
    model = network()
    sampled = written(model, [[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]]).select(torch.tensor([1, 0, 5, 8, 9, 10, 2]))
    for one, two in zip(*both(model, sampled, monkeypatch), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_completions_of_one_token(monkeypatch):
    model = network()
    sampled = written(model, [[1, 2, 3], [4, 5]], new=1)
    for one, two in zip(*both(model, sampled, monkeypatch), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_it_is_done_where_it_saves_operations(monkeypatch):
    model, asked = network(), []
    sampled = written(model, [[1] * 30, [2] * 30], new=5)
    monkeypatch.setattr(decoding, "hidden_of", lambda *given: asked.append(1) or hidden(*given))
    teacher_forced(model, sampled)
    assert asked == [1]
    sampled = written(model, [[1] * 30, [2] * 30], new=5, group=1)
    teacher_forced(model, sampled)
    assert asked == [1]


hidden = decoding.hidden_of


@given(st.lists(st.sampled_from([(1, 2), (1, 3), (0, 1), (0, 2)]), min_size=1, max_size=12))
def test_neighbours_with_one_prompt_are_grouped(rows):
    padding = torch.tensor([int(row[0] == 0) for row in rows])
    found = grouped(torch.tensor([[*row, 7] for row in rows]), padding, 2)
    expected = [(prompt, place) for prompt, (_, some) in enumerate(groupby(rows)) for place, _ in enumerate(some)]
    assert list(zip(found.prompt.tolist(), found.place.tolist(), strict=True)) == expected
    assert found.prompts == len(list(groupby(rows)))
    assert found.most == max(place for _, place in expected) + 1


def test_the_same_tokens_with_other_padding_are_another_prompt():
    assert grouped(torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1]), 2).prompts == 2


def test_long_completions_are_read_row_by_row():
    """Their attention would look at too many pairs."""
    model = network()
    grouping = Grouping(torch.zeros(8, dtype=torch.int64), torch.arange(8))
    assert pays(model, 8, grouping, 40, 10)
    assert not pays(model, 8, grouping, 40, 4000)
    alone = Grouping(torch.arange(8), torch.zeros(8, dtype=torch.int64))
    assert not pays(model, 8, alone, 40, 10)
