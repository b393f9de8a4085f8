"""SLTrain: its layer against the dense one it stands for, what it keeps, its counts, any model's layers, its errors."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.models.causal_lm import CausalLM
from fewer.nets.linears import to_dense_
from fewer.nets.low_rank import LowRankLinear
from fewer.nets.sltrain import SLTrain, SparsePlusLowRank, sparse_plus_low_rank, sparse_plus_lowrank_


def parts(d, p, rank, count, seed=0, dtype=torch.float64):
    """Factors, values and places, none of them zero."""
    draws = torch.Generator().manual_seed(seed)
    A, B = (torch.randn(*shape, generator=draws, dtype=dtype) for shape in ((rank, p), (d, rank)))
    index = torch.randperm(d * p, generator=draws)[:count].sort().values.int()
    return A, B, torch.randn(count, generator=draws, dtype=dtype), index


def written_out(A, B, values, index, factor):
    """The dense weight, number by number."""
    d, p = B.shape[0], A.shape[1]
    weight = [[factor * sum(B[i, k] * A[k, j] for k in range(A.shape[0])) for j in range(p)] for i in range(d)]
    for value, place in zip(values, index.tolist(), strict=True):
        weight[place // p][place % p] = weight[place // p][place % p] + value
    return torch.stack([torch.stack([torch.as_tensor(each, dtype=A.dtype) for each in row]) for row in weight])


def grown(*args, **kwargs):
    """A layer away from B = 0, in double precision."""
    layer = SparsePlusLowRank(*args, generator=torch.Generator().manual_seed(0), **kwargs).double()
    nn.init.normal_(layer.B, std=0.5)
    return layer


# --- the function ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.integers(0, 40), st.integers(0, 99), st.booleans())
def test_outputs_and_gradients_are_those_of_the_weight_written_out(d, p, rank, count, seed, biased):
    leaves = [*parts(d, p, rank, min(count, d * p), seed)]
    index = leaves.pop()
    x = torch.randn(2, 3, p, dtype=torch.float64)
    bias = torch.randn(d, dtype=torch.float64) if biased else None
    both = []
    for fast in (True, False):
        inputs = [each.clone().requires_grad_() for each in (x, *leaves)] + (
            [bias.clone().requires_grad_()] if biased else []
        )
        added = inputs[4] if biased else None
        if fast:
            out = sparse_plus_low_rank(*inputs[:4], index, 1.7, added)
        else:
            out = nn.functional.linear(inputs[0], written_out(*inputs[1:4], index, 1.7), added)
        (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        both.append([out, *(each.grad if each.grad is not None else torch.zeros_like(each) for each in inputs)])
    for mine, slow in zip(*both, strict=True):
        torch.testing.assert_close(mine, slow)


def test_its_backward_is_the_derivative_of_its_forward():
    A, B, values, index = parts(5, 7, 2, 9)
    inputs = [each.requires_grad_() for each in (torch.randn(4, 7, dtype=torch.float64), A, B, values)]
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *leaves: sparse_plus_low_rank(*leaves[:4], index, 0.5, leaves[4]), (*inputs, bias)
    )


@pytest.mark.parametrize("frozen", range(5))
def test_what_needs_no_gradient_gets_none_and_the_others_keep_theirs(frozen):
    leaves = [*parts(4, 6, 2, 5)]
    index = leaves.pop()
    inputs = [torch.randn(3, 6, dtype=torch.float64), *leaves, torch.randn(4, dtype=torch.float64)]
    results = []
    for chosen in (range(5), [each for each in range(5) if each != frozen]):
        copies = [each.clone().requires_grad_(at in chosen) for at, each in enumerate(inputs)]
        sparse_plus_low_rank(*copies[:4], index, 0.5, copies[4]).square().sum().backward()
        results.append([each.grad for each in copies])
    for at, (whole, part) in enumerate(zip(*results, strict=True)):
        assert part is None if at == frozen else torch.equal(whole, part)


def test_without_a_product_it_is_a_sparse_layer_and_without_values_a_low_rank_one():
    x = torch.randn(3, 7, dtype=torch.float64)
    A, B, values, index = parts(5, 7, 0, 9)
    sparse = torch.zeros(35, dtype=torch.float64).index_put((index.long(),), values).view(5, 7)
    torch.testing.assert_close(sparse_plus_low_rank(x, A, B, values, index), x @ sparse.T)
    A, B, values, index = parts(5, 7, 2, 0)
    layer = LowRankLinear(7, 5, rank=2, alpha=3.0, bias=False).double()
    with torch.no_grad():
        layer.A.copy_(A)
        layer.B.copy_(B)
    torch.testing.assert_close(sparse_plus_low_rank(x, A, B, values, index, 1.5), layer(x))


# --- what it keeps ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def saved_tensors():
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("bias", [False, True])
def test_it_saves_its_input_and_its_own_numbers_and_nothing_of_the_size_of_the_weight(bias):
    rank, tokens, d, p = 4, 10, 48, 64
    layer = SparsePlusLowRank(p, d, rank, density=0.03, bias=bias)
    x = torch.randn(tokens, p, requires_grad=True)
    with saved_tensors() as kept:
        layer(x)
    count = int(0.03 * d * p)
    assert sum(each.numel() * each.element_size() for each in kept) == 4 * (rank * (d + p) + 2 * count) + 4 * tokens * p
    assert {each.data_ptr() for each in kept} == {
        each.data_ptr() for each in (x, layer.A, layer.B, layer.values, layer.index)
    }
    with saved_tensors() as dense:
        nn.Linear(p, d, bias)(x)
    assert sum(each.numel() * each.element_size() for each in dense) == 4 * d * p + 4 * tokens * p


# --- the layer -------------------------------------------------------------------------------------------------------


def test_it_starts_as_its_sparse_part_with_the_spread_of_a_linear_layer():
    layer = SparsePlusLowRank(400, 300, rank=10, density=0.05, generator=torch.Generator().manual_seed(0))
    bound = 400**-0.5
    assert not layer.B.any()
    for numbers in (layer.A.detach(), layer.values.detach()):
        assert float(numbers.abs().max()) <= bound
        assert float(numbers.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert float(layer.bias.detach().abs().max()) <= 300**-0.5
    x = torch.randn(5, 400)
    sparse = torch.zeros(120_000).index_put((layer.index.long(),), layer.values.detach()).view(300, 400)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, sparse, layer.bias))


def test_places_are_sorted_different_evenly_spread_and_in_32_bits():
    layer = SparsePlusLowRank(300, 200, rank=1, density=0.1, generator=torch.Generator().manual_seed(0))
    assert layer.index.dtype == torch.int32
    assert len(layer.index) == 6000
    assert (layer.index.diff() > 0).all()
    assert 0 <= int(layer.index[0]) < int(layer.index[-1]) < 60_000
    rows = torch.bincount(layer.index // 300, minlength=200)
    assert abs(float(rows.float().var()) / (30 * 0.9) - 1) < 0.4  # hypergeometric
    assert "index" in layer.state_dict()


def test_alpha_scales_the_product_alone():
    layer = grown(12, 10, rank=3, density=0.2, alpha=6.0)
    sparse = layer.weight - 2.0 * layer.B @ layer.A
    assert int((sparse.abs() > 1e-12).sum()) == len(layer.index)
    torch.testing.assert_close(sparse.flatten()[layer.index.long()], layer.values)


def test_a_learned_scale_starts_at_tanh_of_one_and_has_a_gradient():
    layer = grown(12, 10, rank=3, density=0.2, trainable_scale=True)
    x = torch.randn(4, 12, dtype=torch.float64)
    fixed = grown(12, 10, rank=3, density=0.2, alpha=3 * float(torch.tanh(torch.tensor(1.0, dtype=torch.float64))))
    fixed.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "scale"})
    torch.testing.assert_close(layer(x), fixed(x))
    torch.testing.assert_close(layer.to_dense()(x), layer(x))
    layer(x).sum().backward()
    step = 1e-6
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            layer.scale.add_(sign * step)
            ends.append(float(layer(x).sum()))
            layer.scale.sub_(sign * step)
    assert float(layer.scale.grad) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_the_weight_can_be_read_and_differentiated_like_any_other():
    layer = grown(7, 5, rank=2, density=0.3)
    x = torch.randn(3, 7, dtype=torch.float64)
    gradients = []
    for out in (layer(x), nn.functional.linear(x, layer.weight, layer.bias)):
        layer.zero_grad()
        out.square().sum().backward()
        gradients.append([each.grad.clone() for each in layer.parameters()])
    for mine, read in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, read)


def test_dense_export_has_the_same_outputs_and_shares_nothing():
    layer = grown(7, 5, rank=2, density=0.3)
    x = torch.randn(3, 7, dtype=torch.float64)
    dense = layer.to_dense()
    assert type(dense) is nn.Linear
    torch.testing.assert_close(dense(x), layer(x))
    with torch.no_grad():
        dense.bias.add_(1)
    torch.testing.assert_close(dense(x), layer(x) + 1)


def test_under_autocast_it_works_in_half_precision_and_learns_in_single():
    layer = SparsePlusLowRank(32, 16, rank=4, density=0.1)
    nn.init.normal_(layer.B, std=0.1)
    x = torch.randn(8, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)
    out.float().square().sum().backward()
    exact = [each.grad.clone() for each in layer.parameters()]
    layer.zero_grad()
    layer(x).square().sum().backward()
    for half, single in zip(exact, layer.parameters(), strict=True):
        assert half.dtype == torch.float32
        assert float((half - single.grad).norm() / single.grad.norm()) < 0.05
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert layer.index.dtype == torch.int32


def test_a_trained_weight_has_full_rank_where_the_product_alone_has_not():
    layer = grown(64, 48, rank=4, density=0.1)
    assert int(torch.linalg.matrix_rank(layer.weight)) == 48
    assert int(torch.linalg.matrix_rank(layer.B @ layer.A)) == 4


def test_it_fits_a_dense_target_better_than_low_rank_alone_could():
    """The best weight of rank r leaves the tail of the spectrum; with the support of S free it leaves less."""
    torch.manual_seed(0)
    target = torch.randn(24, 24)
    layer = SparsePlusLowRank(24, 24, rank=4, density=0.3, bias=False)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    eye = torch.eye(24)
    for _ in range(400):
        optimiser.zero_grad()
        (layer(eye).T - target).square().sum().backward()
        optimiser.step()
    tail = float(torch.linalg.svdvals(target)[4:].square().sum())
    assert float((layer.weight - target).detach().square().sum()) < 0.8 * tail


# --- whole models ----------------------------------------------------------------------------------------------------


def learned(model):
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def test_the_papers_models_shrink_as_its_table_says():
    """58M to 44M and 134M to 97M for the two smallest."""
    for shape, rank, before, after in (
        (CausalLM(512, 8, 8), 128, 58, 44),
        (CausalLM(768, 12, 12), 256, 134, 97),
    ):
        with torch.device("meta"):
            model = shape.build(32_000)
        assert round(learned(model) / 1e6) == before
        done = SparsePlusLowRank.replace(model, rank=rank, density=0.03)
        assert round(learned(model) / 1e6) == pytest.approx(after, abs=1)
        width, units = shape.width, shape.units
        layer = 4 * (rank * 2 * width + int(0.03 * width**2)) + 3 * (rank * (width + units) + int(0.03 * width * units))
        assert done.parameters_after == shape.layers * layer
        assert done.fixed_bytes == 4 * shape.layers * (4 * int(0.03 * width**2) + 3 * int(0.03 * width * units))


def test_only_attention_and_feed_forward_parts_are_turned_and_counted():
    model = CausalLM(width=32, layers=2, heads=2).build(50)
    total = learned(model)
    done = sparse_plus_lowrank_(model, rank=4, density=0.05, alpha=8.0)
    assert len(done.layers) == 14
    assert all(isinstance(model.get_submodule(name), SparsePlusLowRank) for name in done.layers)
    assert type(model.lm_head) is nn.Linear
    assert total - learned(model) == done.parameters_before - done.parameters_after
    assert model(torch.zeros(1, 5, dtype=torch.int64)).isfinite().all()


def test_supports_follow_the_seed_and_the_name_and_travel_with_the_state():
    models = [CausalLM(width=32, layers=1, heads=2).build(50) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        SparsePlusLowRank.replace(model, rank=4, seed=seed)
    one, two, other = (model.model.layers[0].self_attn for model in models)
    assert torch.equal(one.q_proj.index, two.q_proj.index)
    assert not torch.equal(one.q_proj.index, one.k_proj.index)
    assert not torch.equal(one.q_proj.index, other.q_proj.index)
    tokens = torch.arange(10)[None]
    assert not torch.allclose(models[0](tokens), models[2](tokens))
    models[2].load_state_dict(models[0].state_dict())
    assert torch.equal(models[0](tokens), models[2](tokens))


def test_the_slot_turns_a_network_as_the_class_does():
    one, two = (CausalLM(width=32, layers=1, heads=2).build(50) for _ in range(2))
    two.load_state_dict(one.state_dict())
    assert SLTrain(4, 0.05, 8.0).replace(one, 3) == SparsePlusLowRank.replace(two, 4, 0.05, 8.0, seed=3)
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_transformers_models_are_turned_trained_and_saved(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 60}
    llama = transformers.LlamaConfig(**sizes, intermediate_size=64, num_key_value_heads=2)
    llama.save_pretrained(tmp_path)
    gpt = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=16)
    from_path = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    for model, count in ((from_path, 14), (transformers.GPT2LMHeadModel(gpt), 8)):
        done = SparsePlusLowRank.replace(model, rank=3, density=0.1)
        assert len(done.layers) == count
        tokens = torch.arange(12)[None]
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(12):
            loss = model(tokens, labels=tokens).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.7 * losses[0]
        model.eval()
        before = model(tokens).logits
        assert to_dense_(model) == count
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(each, SparsePlusLowRank) for each in model.modules())


def test_torchs_own_transformer_works_in_training_and_on_its_fast_path():
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), 2, enable_nested_tensor=True
    )
    done = SparsePlusLowRank.replace(model, rank=4, target_modules=["linear"])
    assert len(done.layers) == 4  # out_proj is a subclass that attention reads by itself
    x = torch.randn(2, 5, 16)
    trained = model(x)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(x), trained)


def test_modes_types_and_bias_are_those_of_the_layer_before():
    model = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 6))}).double().eval()
    SparsePlusLowRank.replace(model, rank=2, density=0.2)
    first, second = model["mlp"]
    assert (first.bias is None, second.bias is None) == (True, False)
    assert first.A.dtype == second.values.dtype == torch.float64
    assert not first.training


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 6}, "a rank of 6 does not lie in 1 to below the smaller side of 6 by 8; lower rank"),
        ({"rank": 0}, "a rank of 0 does not lie"),
        ({"rank": 2.5}, "a rank of 2.5 does not lie"),
        ({"density": 0.0}, r"a density of 0.0 is outside \(0, 1\); give the share"),
        ({"density": 1.0}, r"a density of 1.0 is outside \(0, 1\)"),
        ({"density": float("nan")}, "a density of nan is outside"),
        ({"density": 0.001}, "a density of 0.001 leaves none of the 48 weights of 6 by 8; raise it"),
    ],
)
def test_layers_that_cannot_be_are_refused_and_named_in_a_model(wrong, message):
    with pytest.raises(FewerError, match=message):
        SparsePlusLowRank(8, 6, **wrong)
    model = nn.ModuleDict({"attn": nn.Linear(20, 20), "mlp": nn.Linear(8, 6)})
    small = {"rank": 2, **wrong}
    if wrong.get("density") == 0.001:
        small["target_modules"] = ["mlp"]
    with pytest.raises(
        FewerError, match=f"layer (attn|mlp): {message}" if small["rank"] != 6 else f"layer mlp: {message}"
    ):
        SparsePlusLowRank.replace(model, **small)
    assert type(model["attn"]) is type(model["mlp"]) is nn.Linear  # all or none


def test_no_layer_that_matches_is_refused_with_the_names_there_are():
    model = nn.ModuleDict({"encoder": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    with pytest.raises(
        FewerError, match="name contains any of 'attn', 'mlp', 'attention'; its linear layers are encoder, head"
    ):
        SparsePlusLowRank.replace(model)
    with pytest.raises(FewerError, match="it has none"):
        SparsePlusLowRank.replace(nn.Sequential(nn.ReLU()))
    assert SparsePlusLowRank.replace(model, target_modules="encoder").layers == ("encoder",)
    with pytest.raises(FewerError, match="its linear layers are head"):
        SparsePlusLowRank.replace(model, target_modules="encoder")


def test_shared_weights_are_refused():
    tied = CausalLM(width=32, layers=1, heads=2, tied=True).build(50)
    with pytest.raises(FewerError, match=r"layers lm_head and model\.embed_tokens share one weight.*untie them"):
        SparsePlusLowRank.replace(tied, rank=4, target_modules=["lm_head"])
    SparsePlusLowRank.replace(tied, rank=4)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    twice = nn.ModuleDict({"mlp_a": nn.Linear(8, 8), "mlp_b": nn.Linear(8, 8)})
    twice["mlp_b"].weight = twice["mlp_a"].weight
    with pytest.raises(FewerError, match="layers mlp_a and mlp_b share one weight"):
        SparsePlusLowRank.replace(twice)
    layer = nn.Linear(8, 8)
    with pytest.raises(FewerError, match="layers mlp_a and mlp_b share one weight"):
        SparsePlusLowRank.replace(nn.ModuleDict({"mlp_a": layer, "mlp_b": layer}))


def test_a_dense_model_cannot_be_made_dense():
    with pytest.raises(FewerError, match="no layer to turn back"):
        to_dense_(nn.Sequential(nn.Linear(2, 2)))


def test_second_derivatives_are_refused_and_not_wrong():
    layer = grown(7, 5, rank=2, density=0.3)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_nan_comes_out_where_it_goes_in_and_no_row_is_no_row():
    layer = SparsePlusLowRank(8, 6, rank=2, density=0.2)
    x = torch.randn(3, 8)
    x[1, 2] = torch.nan
    assert layer(x).isnan().any(1).tolist() == [False, True, False]
    empty = layer(torch.zeros(0, 8))
    assert empty.shape == (0, 6)
    empty.sum().backward()
    assert not layer.values.grad.any()


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    SparsePlusLowRank(8, 6, rank=2, density=0.2, generator=torch_generator(0, "any"))
    assert torch.equal(torch.rand(3), expected)
