"""Bottleneck adapters: written out by hand at each placement, in transformers' encoders, one matrix product for all tasks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewer.adapt.bottleneck_adapter import (
    Bottleneck,
    Bottlenecks,
    FixedMixture,
    adapter_places,
    built_in_compositions,
)
from fewer.adapt.built_in import merged
from fewer.adapt.first_token import FirstToken
from fewer.adapt.task_adapter import PARTS, TaskAdapter
from fewer.adapt.text_encoder import TextEncoder
from fewer.core.errors import FewerError
from fewer.models.optimisers import parameter_groups
from fewer.models.vit import VisionTransformer
from fewer.pretrain.vocabulary import Vocabulary

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def text_encoder():
    torch.manual_seed(0)
    return TextEncoder(Vocabulary(["a b c d e f"], context=10, least=1), 16, 2, 2).eval()


def images():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2
    ).eval()


def theirs(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
        return FirstToken(transformers.ViTModel(config, add_pooling_layer=False)).eval(), torch.randn(3, 1, 8, 8)
    tokens = {"input_ids": torch.randint(5, 20, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.int64)}
    if kind == "distilbert":
        config = transformers.DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
        return FirstToken(transformers.DistilBertModel(config)).eval(), tokens
    made = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(vocab_size=20, **SIZES))
    return FirstToken(made).eval(), tokens


def filled(model, reduction=4.0):
    """Adapted, with weights that say something."""
    adapted = Bottleneck(reduction).attach(model.requires_grad_(False))
    for each in built_in_compositions(adapted):
        for part in each.adapters.parameters():
            part.data.normal_(std=0.5)
    return adapted


def single(composed, x):
    """One adapter by the formula."""
    down, down_bias, up, up_bias = composed.adapters.of(0)
    return torch.relu(x @ down.T + down_bias) @ up.T + up_bias


def test_a_layer_with_a_norm_behind_its_skip_by_hand():
    model = filled(text_encoder())
    layer, composed = model.encoder["layer"][1], built_in_compositions(model)[1]
    tokens = model.tokens(["a b c", "d e"])
    seen = {}
    layer.register_forward_pre_hook(lambda _, given: seen.update(given=given))
    out = model.hidden(tokens)
    x, mask = seen["given"]
    x = layer.attention["output"](layer.attention["self"](x, mask), x)
    fed = layer.output.dense(nn.functional.gelu(layer.intermediate["dense"](x)))

    def norm(value):
        return nn.functional.layer_norm(value, (16,), layer.output.LayerNorm.weight, layer.output.LayerNorm.bias, 1e-12)

    torch.testing.assert_close(out, norm(fed + single(composed, norm(fed + x)) + x))


def test_a_layer_with_a_norm_in_front_by_hand():
    plain = images()
    model = filled(copy.deepcopy(plain))
    x = torch.randn(3, 1, 8, 8)
    seen, grid = plain._embed(x)
    for index, composed in enumerate(built_in_compositions(model)):
        seen = plain.blocks[index](plain._joined(seen, index), grid)
        seen = seen + single(composed, seen)
    torch.testing.assert_close(model.forward_features(x), plain.norm(seen))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "distilbert", "vit"])
def test_encoders_of_transformers(kind):
    model, x = theirs(kind)
    before, bits = model(x), {name: each.clone() for name, each in model.state_dict().items()}
    silent = Bottleneck(4).attach(copy.deepcopy(model).requires_grad_(False))
    for each in built_in_compositions(silent):
        each.adapters.up.data.zero_()
    torch.testing.assert_close(silent(x), before)
    adapted = filled(model)
    assert len(built_in_compositions(adapted)) == 2
    assert (adapted(x) - before).abs().max() > 0.1
    adapted(x).sum().backward()
    trained = {name for name, each in adapted.named_parameters() if each.grad is not None}
    assert len(trained) == 2 * 4
    assert all("built_in.adapters" in name for name in trained)
    after = adapted.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in bits.items())


def test_bert_of_transformers_says_what_this_librarys_encoder_says():
    transformers = pytest.importorskip("transformers")
    mine = text_encoder()
    config = transformers.BertConfig(vocab_size=mine.words.size, max_position_embeddings=10, type_vocab_size=1, **SIZES)
    config.intermediate_size = 64
    bert = transformers.BertModel(config, add_pooling_layer=False)
    nn.init.zeros_(bert.embeddings.token_type_embeddings.weight)
    bert.load_state_dict(mine.state_dict(), strict=False)
    torch.manual_seed(1)
    first = filled(mine)
    torch.manual_seed(1)
    second = filled(FirstToken(bert).eval())
    tokens = mine.tokens(["a b c"])
    torch.testing.assert_close(first(tokens), second(tokens))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_all_tasks_at_once_are_each_task_by_itself(activation):
    torch.manual_seed(0)
    made = Bottlenecks(3, 8, 2, activation).double()
    for each in made.parameters():
        each.data.normal_()
    x, omega = torch.randn(5, 7, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    function = getattr(nn.functional, activation)
    single = torch.stack(
        [function(x @ made.down[t].T + made.down_bias[t]) @ made.up[t].T + made.up_bias[t] for t in range(3)], -2
    )
    torch.testing.assert_close(made.outputs(x), single)
    torch.testing.assert_close(made.mixed(x, omega), (omega * single).sum(-2))
    torch.testing.assert_close(made.mixed(x, omega[:, :1]), (omega[:, :1] * single).sum(-2))
    assert torch.autograd.gradcheck(made.mixed, (x[:1, :2].clone().requires_grad_(), omega.clone().requires_grad_()))


def test_the_start_is_berts():
    torch.manual_seed(0)
    made = Bottlenecks(1, 768, 48)
    assert float(made.down.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(made.up.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not made.down_bias.any()
    assert not made.up_bias.any()


def test_places_and_parameters():
    assert [each.name for each in adapter_places(text_encoder())] == [
        "encoder.layer.0.output.LayerNorm", "encoder.layer.1.output.LayerNorm"
    ]  # fmt: skip
    assert [each.name for each in adapter_places(images())] == ["blocks.0", "blocks.1"]
    adapted = Bottleneck(4, lr=0.5).attach(text_encoder().requires_grad_(False))
    trained = [each for each in adapted.parameters() if each.requires_grad]
    assert sum(each.numel() for each in trained) == 2 * (2 * 16 * 4 + 4 + 16)
    groups = [each for each in parameter_groups(adapted) if "lr" in each]
    assert [(len(each["params"]), each["lr"], each["weight_decay"]) for each in groups] == [(8, 0.5, 0.0)]


def test_what_was_trained_is_taken_out_and_put_in_again():
    model = filled(text_encoder())
    adapter = Bottleneck(4).trained(model, "some")
    assert (adapter.width, adapter.hidden, len(adapter.layers)) == (16, 4, 2)
    again = text_encoder()
    tokens = again.tokens(["a b c"])
    for index, place in enumerate(adapter_places(again)):
        composed = FixedMixture(Bottlenecks.at([adapter], index), again.get_submodule(place.name))
        again.get_submodule(place.name).add_module("built_in", composed)
        again.get_submodule(place.name).register_forward_hook(
            lambda layer, given, output: layer.built_in.change(given[0], output)
        )
    assert torch.equal(again(tokens), model(tokens))
    built_in_compositions(model)[0].adapters.up.data.zero_()
    assert adapter.layers[0]["up.weight"].any()  # a copy


def test_a_copy_of_an_adapted_model_normalises_by_its_own_norm():
    model = filled(text_encoder())
    twin = copy.deepcopy(model)
    layer = twin.encoder["layer"][0].output.LayerNorm
    assert layer.built_in._norm[0] is layer
    assert torch.equal(twin(twin.tokens(["a"])), model(model.tokens(["a"])))


def layers(**changed):
    shapes = {"down.weight": (2, 8), "down.bias": (2,), "up.weight": (8, 2), "up.bias": (8,)} | changed
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: adapter_places(nn.Linear(2, 2)), "a Linear has no layer of an encoder"),
        (lambda: Bottleneck(0.5), "reduction must be 1 or more"),
        (lambda: Bottleneck(activation="tan"), "activation one of gelu, relu, silu"),
        (lambda: Bottleneck().attach(filled(text_encoder())), "carries an adapter already"),
        (lambda: merged(filled(text_encoder())), "not linear, so they cannot be merged"),
        (lambda: built_in_compositions(nn.Linear(2, 2)), "no bottleneck adapters in this Linear"),
        (lambda: TaskAdapter("t", ()), "it has no layer"),
        (lambda: TaskAdapter("t", (layers(),), "tan"), "activation is 'tan'"),
        (lambda: TaskAdapter("t", (layers(**{"up.bias": (7,)}),)), "layer 0 do not make a bottleneck"),
        (lambda: TaskAdapter("t", ({"down.weight": torch.zeros(2, 8)},)), "do not make a bottleneck"),
        (lambda: TaskAdapter("t", (layers(), layers(**{"down.weight": (3, 8), "down.bias": (3,), "up.weight": (8, 3)}))),
         "its layers are of different width"),
        (lambda: TaskAdapter("t", (layers() | {"up.bias": torch.full((8,), torch.nan)},)), "holds NaN"),
    ],
)  # fmt: skip
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def test_the_parts_have_their_names():
    assert set(layers()) == set(PARTS)
