"""Texts that share beginnings in one pass, against each text read by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.models.branches import Branches
from fewer.models.causal_lm import CausalLM
from fewer.models.transformers_lm import TransformersLM

VOCABULARY = 30


def of_texts(stems: list[list[int]], rows: list[list[int]], stem: list[int]) -> Branches:
    """Fill up and lay out."""
    width, new = max(map(len, stems)), max(map(len, rows), default=0)
    return Branches(
        torch.tensor([[0] * (width - len(each)) + each for each in stems]),
        torch.tensor([width - len(each) for each in stems]),
        torch.tensor([each + [0] * (new - len(each)) for each in rows], dtype=torch.int64).reshape(len(rows), new),
        torch.tensor([len(each) for each in rows]),
        torch.tensor(stem),
    )


def one_by_one(read, stems, rows, stem):
    """What a model makes of each row's text from the last token of its beginning on, one text at a time."""
    return [
        read(torch.tensor([stems[place] + row]))[0, len(stems[place]) - 1 :]
        for row, place in zip(rows, stem, strict=True)
    ]


def in_branches(hidden, branches, rows):
    """The same from a pass over branches."""
    return [hidden[branches.before[number, : len(row) + 1]] for number, row in enumerate(rows)]


def check(model, read, stems, rows, stem, through, tolerance):
    """Values and the gradients of a sum of them with uneven weights."""
    branches = of_texts(stems, rows, stem)
    found = []
    for parts in (one_by_one(read, stems, rows, stem), in_branches(through(branches), branches, rows)):
        values = torch.cat(parts)
        weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
        wanted = [each for each in model.parameters() if each.requires_grad]
        gradients = torch.autograd.grad((values * weights).sum(), wanted, allow_unused=True)
        found.append([values, *(each for each in gradients if each is not None)])
    assert len(found[0]) == len(found[1])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance)


texts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)


@st.composite
def forests(draw):
    stems = draw(st.lists(texts, min_size=1, max_size=3))
    row = st.tuples(st.integers(0, len(stems) - 1), st.one_of(st.just([]), texts))
    rows = draw(st.lists(row, min_size=1, max_size=6))
    return stems, [each for _, each in rows], [place for place, _ in rows]


@settings(deadline=None, max_examples=40)
@given(forests(), st.sampled_from([(4, 2), (2, 2), (4, 1)]))
def test_a_pass_over_branches_is_a_pass_over_each_text(forest, heads):
    torch.manual_seed(0)
    network = CausalLM(width=16, layers=2, heads=heads[0], kv_heads=heads[1], tied=True).build(VOCABULARY).double()
    model = network.model
    check(model, model, *forest, lambda branches: model(branches)[0], 1e-9)


@given(forests())
def test_the_line_holds_every_token_once_and_in_its_place(forest):
    stems, rows, stem = forest
    branches = of_texts(*forest)
    assert branches.tokens.tolist() == [token for text in (*stems, *rows) for token in text]
    places = [list(range(len(each))) for each in stems]
    places += [[len(stems[place]) + at for at in range(len(row))] for row, place in zip(rows, stem, strict=True)]
    assert branches.places.tolist() == [place for text in places for place in text]
    for number, (row, place) in enumerate(zip(rows, stem, strict=True)):
        before = branches.tokens[branches.before[number, : len(row) + 1]].tolist()
        assert before == [stems[place][-1], *row]


def _llama(**more):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes, **more))


def _mistral():
    """Sees three tokens back, so that its memory does not hold a whole beginning."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MistralForCausalLM(MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=3, **sizes))


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2))


def _bloom():
    """Takes no positions: distances are in its attention."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2))


KEPT_OF_A_TOKEN = {"llama": 2 * 2 * 8, "gpt2": 2 * 2 * 16}
KINDS = {"llama": _llama, "mistral": _mistral, "gpt2": _gpt2, "bloom": _bloom}


@pytest.mark.parametrize("kind", list(KINDS))
def test_models_of_transformers(kind):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = TransformersLM(KINDS[kind]())  # in single precision, in which some compute whatever the weights are
    stems, rows = [[1, 2, 3, 4, 5], [6, 7]], [[8, 9], [10], [11, 12, 13], [], [14, 15]]
    check(network, network.hidden, stems, rows, [0, 0, 1, 1, 0], network.hidden_of, 1e-4)


@pytest.mark.parametrize(("kind", "once"), [("llama", True), ("gpt2", True), ("mistral", False), ("bloom", False)])
def test_beginnings_are_read_once_where_the_model_remembers_them_whole(kind, once, monkeypatch):
    pytest.importorskip("transformers")
    network, seen = TransformersLM(KINDS[kind]()), []
    assert network.remembered == (KEPT_OF_A_TOKEN[kind] if once else 0)
    branches = of_texts([[1, 2, 3, 4, 5, 6]], [[7], [8], [9]], [0, 0, 0])
    hook = network.model.base_model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    network.hidden_of(branches)
    hook.remove()
    # a model that turns out to remember otherwise may have read beginnings before whole texts are read
    assert (sum(seen) == 6 + 3) if once else (sum(seen) in (3 * 7, 6 + 3 * 7))


def test_a_model_that_ignores_its_memory_reads_whole_texts(monkeypatch):
    """Whether layers of the memory are laid out beforehand, or when a model first fills them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = transformers.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2)
    model, memory = transformers.OpenAIGPTLMHeadModel(shape), transformers.DynamicCache
    stems, rows = [[1, 2, 3, 4, 5], [6, 7]], [[8, 9], [10], [11, 12, 13]]
    for laid_out in (True, False):
        if not laid_out:
            monkeypatch.setattr(transformers, "DynamicCache", lambda config: memory())
        network = TransformersLM(model)
        assert network.remembered == 0
        check(network, network.hidden, stems, rows, [0, 0, 1], network.hidden_of, 1e-4)
