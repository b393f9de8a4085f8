"""The causal language model: its numbers are those of transformers' Llama, and it never looks ahead."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.causal_lm import CausalLM, StretchedRotation, rotated

TOKENS = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(0))


def llama(shape: CausalLM, vocabulary: int):
    transformers = pytest.importorskip("transformers")
    configuration = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.units,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=shape.tied,
        attn_implementation="eager",
    )
    return transformers.LlamaForCausalLM(configuration)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_logits_and_gradients_are_those_of_llama_with_copied_weights(tied, theta):
    torch.manual_seed(1)
    shape = CausalLM(width=32, layers=3, heads=4, tied=tied, theta=theta)
    ours, theirs = shape.build(50), llama(shape, 50)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for network in (ours, theirs):
        for parameter in network.parameters():  # away from the initial ones, which hide the norms' weights
            torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    logits = [ours(TOKENS), theirs(TOKENS).logits]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    for each in logits:
        each.square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-5)


def test_it_starts_as_llama_starts_at_its_ends_and_by_width_between_them():
    shape = CausalLM(width=64, layers=2, heads=4)
    torch.manual_seed(0)
    ours = shape.build(300)
    for name, value in llama(shape, 300).state_dict().items():
        mine = ours.state_dict()[name]
        assert mine.shape == value.shape
        spread = (3 * mine.shape[-1]) ** -0.5 if "_proj" in name else float(value.std())
        assert float(mine.std()) == pytest.approx(spread, rel=0.1), name
        assert float(mine.mean()) == pytest.approx(float(value.mean()), abs=5e-3), name


def test_a_position_knows_nothing_of_later_tokens_or_other_rows():
    network = CausalLM(width=16, layers=2, heads=2).build(50)
    before = network(TOKENS)
    changed = TOKENS.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 50
    changed[1] = (changed[1] + 1) % 50
    after = network(changed)
    torch.testing.assert_close(after[0, :9], before[0, :9])
    torch.testing.assert_close(after[2], before[2])
    assert not torch.allclose(after[0, 9:], before[0, 9:])


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_alone():
    network = CausalLM(width=16, layers=1, heads=2).build(50).double()
    rotation = network.model._rotation(40, torch.zeros((), dtype=torch.float64))
    query, key = torch.randn(2, 8, dtype=torch.float64)
    turned = rotated(query.expand(40, 8), *rotation), rotated(key.expand(40, 8), *rotation)
    torch.testing.assert_close(turned[0].norm(dim=1), query.norm().expand(40))
    products = turned[0] @ turned[1].T
    torch.testing.assert_close(products[5, 2], products[38, 35])
    torch.testing.assert_close(products[7, 7], query @ key)
    assert not torch.isclose(products[5, 2], products[5, 3])


def test_tied_weights_are_one_parameter():
    tied, untied = (CausalLM(width=16, layers=1, heads=2, tied=tied).build(50) for tied in (True, False))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    sizes = [sum(each.numel() for each in network.parameters()) for network in (tied, untied)]
    assert sizes[1] - sizes[0] == 50 * 16


def test_half_precision_stays_close():
    network = CausalLM(width=32, layers=1, heads=2).build(50)
    exact = network(TOKENS)
    rounded = network.bfloat16()(TOKENS)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.02)


def test_each_head_of_keys_serves_its_group_of_queries():
    torch.manual_seed(0)
    grouped = CausalLM(width=16, layers=2, heads=4, kv_heads=2, biases=True).build(50)
    weights = grouped.state_dict()
    for name, value in weights.items():
        if "k_proj" in name or "v_proj" in name:  # the same heads, written out for each query
            weights[name] = value.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    whole = CausalLM(width=16, layers=2, heads=4, biases=True).build(50)
    whole.load_state_dict(weights)
    torch.testing.assert_close(grouped(TOKENS), whole(TOKENS))


def test_rows_that_are_filled_up_on_the_left_have_the_logits_that_they_have_alone():
    network = CausalLM(width=16, layers=2, heads=4, kv_heads=1, head_width=6).build(50)
    padding = torch.tensor([5, 0, 16])
    found = network(TOKENS, padding)
    assert found.isfinite().all()
    for row, filled in enumerate(padding.tolist()):
        torch.testing.assert_close(
            found[row, filled:], network(TOKENS[row : row + 1, filled:])[0], rtol=1e-4, atol=1e-5
        )
    found[0, 5:].sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in network.parameters())


def test_stretching_leaves_short_waves_and_stretches_long_ones():
    stretched = StretchedRotation(factor=8.0, low=1.0, high=4.0, original=100.0)
    waves = torch.tensor([10.0, 25.0, 50.0, 100.0, 5000.0])
    found = 2 * torch.pi / stretched.stretched(2 * torch.pi / waves)
    torch.testing.assert_close(found[[0, 1, 3, 4]], torch.tensor([10.0, 25.0, 800.0, 40_000.0]))
    assert 50 < float(found[2]) < 400


@pytest.mark.parametrize("wrong", [{"kv_heads": 3}, {"head_width": 5}])
def test_heads_that_do_not_fit_are_refused(wrong):
    with pytest.raises(FewerError, match="heads must be a multiple of kv_heads and head_width even"):
        CausalLM(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"heads": 0},
        {"layers": 0},
        {"hidden": 0},
        {"width": 30, "heads": 4},
        {"width": 6, "heads": 2},
        {"kv_heads": 0},
    ],
)
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(FewerError, match="causal-lm: sizes must be at least 1"):
        CausalLM(**wrong)


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(FewerError, match="a vocabulary of 0 has no token"):
        CausalLM().build(0)
