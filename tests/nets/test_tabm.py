"""TabM: closed forms, what its members share, what PyPI's ``tabm`` gives with the same weights, its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer import catalogue
from fewer.claim import of_paper
from fewer.core.errors import FewerError
from fewer.models.optimisers import parameter_groups
from fewer.nets import tabm
from fewer.nets.ensemble_layers import LinearBatchEnsemble, LinearEnsemble, relu_dropout
from fewer.nets.piecewise_linear import PiecewiseLinearEmbedding, quantile_bins
from fewer.nets.tabm import TabM, TabMLearner, mlp


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(variant="tabm", **options):
    return TabM(3, [2, 4], 2, **{"variant": variant, "k": 5, "width": 16, "dropout": 0.0, **options})


def scrambled(network):
    """The same shapes with numbers of no pattern, so that no equality holds by the initialisation."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


# --- layers -----------------------------------------------------------------------------------------------------------


def test_one_member_without_scales_is_a_linear_layer():
    layer, plain = LinearBatchEnsemble(4, 3, k=1), nn.Linear(4, 3)
    layer.weight.data, layer.bias.data = plain.weight.data, plain.bias.data[None]
    x = torch.randn(7, 4)
    torch.testing.assert_close(layer(x[:, None])[:, 0], plain(x))


def test_a_member_is_a_linear_layer_with_its_scales_in_the_matrix():
    layer = scrambled(LinearBatchEnsemble(4, 3, k=5))
    x = torch.randn(7, 5, 4)
    for member in range(5):
        matrix = layer.s[member, :, None] * layer.weight * layer.r[member]
        torch.testing.assert_close(layer(x)[:, member], x[:, member] @ matrix.T + layer.bias[member])


def test_an_ensemble_of_layers_is_that_many_layers():
    layer = scrambled(LinearEnsemble(4, 3, k=5))
    x = torch.randn(7, 5, 4)
    for member in range(5):
        torch.testing.assert_close(layer(x)[:, member], x[:, member] @ layer.weight[member] + layer.bias[member])
    shared = x[:, :1]
    torch.testing.assert_close(layer(shared), layer(shared.expand(-1, 5, -1)))


def test_gradients_are_right():
    for layer in (LinearBatchEnsemble(3, 2, k=4).double(), LinearEnsemble(3, 2, k=4).double()):
        x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
        names, values = zip(*layer.named_parameters(), strict=True)

        def apply(x, *values, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(apply, (x, *values))


def test_gradients_of_relu_and_dropout_are_right():
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)

    def apply(x):
        torch.manual_seed(3)  # the same units each time
        return relu_dropout(x * 1, 0.4)

    assert (apply(x) == 0).any()
    assert torch.autograd.gradcheck(apply, (x,))


@given(st.integers(1000, 3000), st.floats(0.05, 0.9))
@settings(max_examples=30, deadline=None)
def test_dropout_keeps_units_whole_and_their_mean(count, drop):
    torch.manual_seed(count)
    ones = relu_dropout(torch.ones(count), drop)
    kept = ones > 0
    dropped = round(drop * 2**16) / 2**16
    torch.testing.assert_close(ones[kept], torch.full_like(ones[kept], 1 / (1 - dropped)))
    assert abs(float((~kept).float().mean()) - drop) < 6 * (drop * (1 - drop) / count) ** 0.5


def test_dropped_units_have_no_pattern():
    kept = (relu_dropout(torch.ones(400, 400), 0.3) > 0).double()
    for shifted in (kept.roll(1, 0), kept.roll(1, 1), kept.roll(4, 1), kept.flatten().roll(2).view(400, 400)):
        correlation = float(torch.corrcoef(torch.stack([kept.flatten(), shifted.flatten()]))[0, 1])
        assert abs(correlation) < 0.015  # six standard deviations


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "k"), [("tabm", 5), ("mini", 5), ("packed", 5), ("mlp", 1)])
def test_shapes(variant, k):
    network = small(variant)
    assert network(torch.randn(7, 9)).shape == (7, k, 2)
    assert network(torch.randn(7, k, 9)).shape == (7, k, 2)


@pytest.mark.parametrize("variant", ["tabm", "mini", "packed"])
def test_each_member_is_a_network_of_its_own(variant):
    network = scrambled(small(variant))
    x = torch.randn(7, 9)
    for member in range(5):
        hidden = x * network.scale[member] if network.scale is not None else x
        for layer in network.layers:
            if isinstance(layer, LinearBatchEnsemble):
                hidden = ((hidden * layer.r[member]) @ layer.weight.T) * layer.s[member] + layer.bias[member]
            elif isinstance(layer, LinearEnsemble):
                hidden = hidden @ layer.weight[member] + layer.bias[member]
            else:
                hidden = layer(hidden)
            hidden = hidden.clamp_min(0)
        out = hidden @ network.head.weight[member] + network.head.bias[member]
        torch.testing.assert_close(network(x)[:, member], out, rtol=1e-4, atol=1e-3)


def test_rows_for_each_member_equal_rows_for_all_where_they_are_the_same():
    bins = quantile_bins(torch.randn(50, 3), 4)
    for network in (small(), small("mini"), small(embedding=PiecewiseLinearEmbedding(bins, 6))):
        x = torch.randn(7, 9)
        torch.testing.assert_close(network(x), network(x[:, None].expand(-1, 5, -1)))


@pytest.mark.parametrize("variant", ["tabm", "mini"])
def test_members_of_equal_scales_are_equal(variant):
    network = small(variant)
    first = network.scale if variant == "mini" else network.layers[0].r
    first.data = first.data[:1].expand_as(first).clone()
    network.head.weight.data = network.head.weight.data[:1].expand_as(network.head.weight).clone()
    network.head.bias.data = network.head.bias.data[:1].expand_as(network.head.bias).clone()
    out = network(torch.randn(7, 9))
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_members_differ_only_in_the_first_scale_and_the_head():
    network = small(blocks=3)
    first, *others = network.layers
    assert set(first.r.unique().tolist()) == {-1.0, 1.0}
    for layer in others:
        assert (layer.r == 1).all()
    for layer in network.layers:
        assert (layer.s == 1).all()
        assert (layer.bias == layer.bias[0]).all()
        assert layer.weight.abs().max() <= layer.weight.shape[1] ** -0.5
    assert len(network.head.weight.unique()) == network.head.weight.numel()


def test_a_feature_has_one_random_scale_over_all_its_columns():
    x = torch.randn(50, 3)
    for network in (small(), small("mini"), small(embedding=PiecewiseLinearEmbedding(quantile_bins(x, 4), 6))):
        scales = network.scale if network.scale is not None else network.layers[0].r
        width = 6 if network.embedding is not None else 1
        for part in scales.split([width] * 3 + [2, 4], dim=1):
            assert (part == part[:, :1]).all()
    assert len(scales[:, ::6].unique()) > 5  # normal, not signs, behind an embedding


def test_defaults_are_the_papers():
    network = TabM(4)
    assert (network.k, len(network.layers), network.head.weight.shape, network.dropout) == (32, 3, (32, 512, 1), 0.1)
    assert len(TabM(4, embedding=PiecewiseLinearEmbedding(quantile_bins(torch.randn(99, 4)))).layers) == 2


def test_without_gradients_rows_go_in_blocks_and_nothing_changes():
    network = small()
    x = torch.randn(3 * tabm.BLOCK + 5, 9)
    with torch.inference_mode():
        blocks = network(x)
    torch.testing.assert_close(blocks, network(x).detach())


def test_dropout_is_for_training_only():
    network = small(dropout=0.5)
    x = torch.randn(7, 9)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("variant", ["tabm", "mini", "packed"])
def test_taking_members_gives_theirs_and_leaves_the_others(variant):
    network = scrambled(small(variant))
    x = torch.randn(7, 9)
    before = network(x)
    part = network.take([3, 0])
    torch.testing.assert_close(part(x), before[:, [3, 0]])
    torch.testing.assert_close(network(x), before)
    assert sum(each.numel() for each in part.parameters()) < sum(each.numel() for each in network.parameters())


def test_only_matrices_decay():
    network = small("mini", embedding=PiecewiseLinearEmbedding(quantile_bins(torch.randn(50, 3), 4), 6))
    decayed, plain = parameter_groups(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(each)] for each in decayed["params"]} == {
        *(f"layers.{index}.weight" for index in range(2)),
        "head.weight",
    }
    assert plain["weight_decay"] == 0
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


# --- with the same weights as PyPI's tabm ----------------------------------------------------------------------------


def copied(ours, peer):
    """Give our network the peer's numbers, all of them."""
    theirs = dict(peer.named_parameters())
    names = {"head": "output", "scale": "backbone.affine.weight"}
    names |= {"embedding.linear": "num_module.linear0.weight", "embedding.bias": "num_module.linear0.bias"}
    names |= {"embedding.bent": "num_module.linear.weight"}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            head, _, tail = name.partition(".")
            if head == "layers":
                index, _, kind = tail.partition(".")
                source = theirs.pop(f"backbone.blocks.{index}.0.{kind}")
            else:
                source = theirs.pop(names.get(name) or f"{names[head]}.{tail}")
            parameter.copy_(source.view_as(parameter))
    assert not theirs
    return ours


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize(("variant", "theirs"), [("tabm", "tabm"), ("mini", "tabm-mini"), ("packed", "tabm-packed")])
def test_the_same_weights_give_what_the_published_package_gives(variant, theirs, embedded):
    package = pytest.importorskip("tabm")
    embeddings = pytest.importorskip("rtdl_num_embeddings")
    rows = torch.randn(60, 3)
    rows[:, 2] = rows[:, 2].round()  # fewer bins than the others have
    bins = embeddings.compute_bins(rows, n_bins=8)
    start = None if variant == "packed" else "normal" if embedded else "random-signs"
    peer = package.TabM(
        n_num_features=3,
        cat_cardinalities=[2, 4],
        d_out=3,
        num_embeddings=(
            embeddings.PiecewiseLinearEmbeddings(bins, 6, activation=False, version="B") if embedded else None
        ),
        n_blocks=2,
        d_block=16,
        dropout=0.0,
        k=5,
        arch_type=theirs,
        start_scaling_init=start,
    )
    scrambled(peer)
    embedding = PiecewiseLinearEmbedding(quantile_bins(rows, 8), 6) if embedded else None
    ours = copied(TabM(3, [2, 4], 3, variant=variant, k=5, blocks=2, width=16, dropout=0.0, embedding=embedding), peer)
    numbers, names = torch.randn(11, 3), torch.stack([torch.arange(11) % 2, torch.arange(11) % 4], dim=1)
    one_hot = torch.cat([torch.eye(2)[names[:, 0]], torch.eye(4)[names[:, 1]]], dim=1)
    expected, found = peer(numbers, names), ours(torch.cat([numbers, one_hot], dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    # and the same gradients
    found.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(ours.head.weight.grad, peer.output.weight.grad, rtol=1e-4, atol=1e-4)


# --- as an entry of a race --------------------------------------------------------------------------------------------


def test_the_learner_hands_on_what_it_is_given():
    made = TabMLearner(variant="mini", k=4, width=8, lr=0.1, embedding="piecewise-linear").estimator("classification")
    assert type(made).__name__ == "TabMClassifier"
    given = made.get_params()
    assert (given["variant"], given["k"], given["width"], given["lr"], given["embedding"]) == (
        "mini",
        4,
        8,
        0.1,
        "piecewise-linear",
    )
    assert (mlp(width=9).variant, mlp(width=9).width) == ("mlp", 9)
    assert type(mlp().estimator("regression")).__name__ == "TabMRegressor"


def test_the_claims_parameter_counts_are_those_of_the_formulas():
    for name, found in tabm.measure_parameters(0, tiny=False).items():
        for metric, count in found.items():
            columns, outputs = {"friedman": (10, 1), "diabetes": (10, 1), "digits": (64, 10)}[metric.split()[0]]
            shapes = [(columns, 512), (512, 512), (512, 512)]
            one = sum(i * o + o for i, o in shapes) + 512 * outputs + outputs
            shared = sum(i * o for i, o in shapes)
            own = sum(i + 2 * o for i, o in shapes) + 512 * outputs + outputs
            assert count == {"mlp": one, "tabm": shared + 32 * own, "packed": 32 * one}[name]


def test_the_paper_is_listed_with_its_claims():
    assert catalogue.show("tabm").fills == "fewer.nets.tabm:TabMLearner"
    assert len(of_paper("tabm")) == len(tabm.claim)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"variant": "tabn"}, "unknown variant 'tabn'; did you mean tabm"),
        ({"k": 0}, "k, blocks, width and outputs must be whole numbers of at least 1"),
        ({"width": 8.5}, "must be whole numbers of at least 1 .* given 32, 3, 8.5, 1"),
        ({"blocks": 0}, "must be whole numbers of at least 1"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"numeric": 0}, r"0 numbers and categories of \[\]; give a column or more"),
        ({"categories": [2, 0]}, "give a column or more"),
        (
            {"embedding": PiecewiseLinearEmbedding([torch.arange(3.0)])},
            "the embedding is for 1 numbers and the rows have 4",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(bad, message):
    with pytest.raises(FewerError, match=f"^tabm: .*{message}"):
        TabM(**{"numeric": 4, **bad})


@pytest.mark.parametrize("shape", [(9,), (7, 8), (7, 4, 9), (7, 5, 8), (1, 7, 5, 9)])
def test_rows_of_another_shape_are_refused(shape):
    with pytest.raises(FewerError, match=r"give \(rows, 9\), or \(rows, 5, 9\)"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("members", [[], [5], [-1]])
def test_members_that_are_not_there_are_refused(members):
    with pytest.raises(FewerError, match="give some of 0 to 4"):
        small().take(members)


def test_a_claim_in_small_measures_all_that_it_speaks_of():
    measured = tabm.measure_errors(100, tiny=True)
    assert measured["tabm"]["data sets won"] + measured["mlp"]["data sets won"] == 3
    assert np.isfinite([value for each in measured.values() for value in each.values()]).all()
