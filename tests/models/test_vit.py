"""The vision transformer: against transformers' with copied weights, its positions, its start, its errors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.models.vit import Block, DropPath, SelfAttention, VisionTransformer, ViT, attended_distance, linear

SMALL = {"img_size": 12, "patch_size": 4, "in_chans": 2, "num_classes": 3, "embed_dim": 8, "depth": 2, "num_heads": 2}


def small(**changes):
    torch.manual_seed(0)
    return VisionTransformer(**{**SMALL, **changes}).eval()


def randomised(network):
    """Weights large enough that every part matters."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=drawn, dtype=value.dtype) * 0.3)
    return network


# --- against transformers --------------------------------------------------------------------------------------------


def copied_from_transformers(theirs, depth):
    """Their weights under our names."""
    state = theirs.state_dict()
    names = {"norm": "layernorm", "patch_embed.proj": "embeddings.patch_embeddings.projection"}
    for index in range(depth):
        here, there = f"blocks.{index}", f"layers.{index}"
        names |= {f"{here}.norm1": f"{there}.layernorm_before", f"{here}.norm2": f"{there}.layernorm_after"}
        names |= {f"{here}.mlp.{each}": f"{there}.mlp.{each}" for each in ("fc1", "fc2")}
        names[f"{here}.attn.proj"] = f"{there}.attention.o_proj"
    ours = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    ours = {mine: state[its] for mine, its in ours.items()}
    for end in ("weight", "bias"):
        ours |= {f"{mine}.{end}": state[f"{its}.{end}"] for mine, its in names.items()}
        for index in range(depth):
            parts = [state[f"layers.{index}.attention.{one}_proj.{end}"] for one in "qkv"]
            ours[f"blocks.{index}.attn.qkv.{end}"] = torch.cat(parts)
    return ours


def test_it_equals_transformers_with_its_weights_also_at_another_resolution():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        num_channels=2,
        layer_norm_eps=1e-6,
    )
    theirs = randomised(transformers.ViTModel(config, add_pooling_layer=False).double().eval())
    ours = VisionTransformer(16, 4, 2, 0, embed_dim=24, depth=3, num_heads=4).double().eval()
    ours.load_state_dict(copied_from_transformers(theirs, 3))
    images = torch.randn(5, 2, 16, 16, dtype=torch.float64)
    expected = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), expected)
    torch.testing.assert_close(ours(images), expected[:, 0])
    images = torch.randn(3, 2, 24, 12, dtype=torch.float64)
    expected = theirs(images, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), expected)


# --- its parts -------------------------------------------------------------------------------------------------------


def test_self_attention_is_the_formula():
    torch.manual_seed(0)
    layer = randomised(SelfAttention(6, num_heads=2)).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    query, key, value = (x @ layer.qkv.weight.T + layer.qkv.bias).split(6, dim=-1)
    outputs = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        weights = torch.softmax(query[..., part] @ key[..., part].mT / 3**0.5, dim=-1)
        torch.testing.assert_close(layer.attention(x)[:, head], weights)
        outputs.append(weights @ value[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(outputs, dim=-1)))


def test_positions_break_the_symmetry_of_patches_and_nothing_else_does():
    with_positions, without = randomised(small()).double(), randomised(small(use_pos_embed=False)).double()
    images = torch.randn(1, 2, 12, 12, dtype=torch.float64)
    moved = images.roll(4, dims=3)  # patches change places, whole
    torch.testing.assert_close(without(images), without(moved))
    assert not torch.allclose(with_positions(images), with_positions(moved), atol=1e-5)
    assert without.pos_embed is None


def test_a_class_token_that_joins_late_is_not_seen_before():
    late = randomised(small(class_token_from=1))
    assert late.pos_embed.shape == (1, 9, 8)
    images = torch.randn(2, 2, 12, 12)
    tokens = late.forward_features(images)
    assert tokens.shape == (2, 10, 8)
    x = late.patch_embed(images) + late.pos_embed
    x = late.blocks[0](x, (3, 3))
    x = late.blocks[1](torch.cat([late.cls_token.expand(2, 1, 8), x], dim=1), (3, 3))
    torch.testing.assert_close(late.norm(x), tokens)
    torch.testing.assert_close(late(images), late.head(tokens[:, 0]))


def test_any_mixer_takes_the_place_of_attention_and_is_told_the_grid():
    seen = []

    class MeanOverRows(nn.Module):
        def forward(self, x, grid):
            seen.append((x.shape[1], grid))
            return x.mean(1, keepdim=True).expand_as(x)

    network = small(mixer=lambda index: MeanOverRows() if index else SelfAttention(8, 2))
    assert network(torch.zeros(2, 2, 8, 12)).shape == (2, 3)
    assert seen == [(7, (2, 3))]
    with pytest.raises(FewerError, match="block 1 mixes by MeanOverRows, which has no attention to look at"):
        network.nonlocality(torch.zeros(1, 2, 12, 12))
    assert not network.training


def test_padding_is_zeros_below_and_at_the_right():
    padded = randomised(small(img_size=(10, 11), dynamic_img_pad=True))
    plain = small()
    plain.load_state_dict(padded.state_dict())
    images = torch.randn(2, 2, 10, 11)
    whole = torch.zeros(2, 2, 12, 12)
    whole[:, :, :10, :11] = images
    torch.testing.assert_close(padded(images), plain(whole))


def test_stochastic_depth_rises_from_zero_and_keeps_the_mean():
    network = small(depth=5, drop_path_rate=0.2)
    assert [block.drop_path.rate for block in network.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = drop(x)
    rows = dropped[:, 0, 0]
    torch.testing.assert_close(rows.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(dropped, rows[:, None, None].expand_as(x))
    assert rows.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_it_starts_as_vision_transformers_do():
    torch.manual_seed(0)
    layer = linear(300, 200)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not layer.bias.any()
    assert linear(3, 2, bias=False).bias is None
    network = VisionTransformer(32, 4, 3, 10, embed_dim=64, depth=1, num_heads=4)
    for layer in (
        network.blocks[0].attn.qkv,
        network.blocks[0].attn.proj,
        network.blocks[0].mlp.fc1,
        network.blocks[0].mlp.fc2,
    ):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    narrow = ViT(depth=1).build((3, 32, 32), 10).backbone.blocks[0]
    for layer in (narrow.attn.qkv, narrow.attn.proj, narrow.mlp.fc1, narrow.mlp.fc2):
        assert layer.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert network.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert network.cls_token.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(("width", "heads", "millions"), [(192, 3, 5.717), (384, 6, 22.05), (768, 12, 86.57)])
def test_deits_sizes_have_deits_number_of_parameters(width, heads, millions):
    with torch.device("meta"):
        network = VisionTransformer(embed_dim=width, num_heads=heads)
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_only_weights_are_decayed():
    network = ViT(embed_dim=8, depth=2, num_heads=2).build((1, 8, 8), 3)
    decayed, spared = AdamW(weight_decay=0.1).make(parameter_groups(network)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)
    names = {id(value): name for name, value in network.named_parameters()}
    assert all(names[id(each)].endswith("weight") and each.ndim > 1 for each in decayed["params"])
    rest = {names[id(each)] for each in spared["params"]}
    assert {"backbone.cls_token", "backbone.pos_embed", "backbone.blocks.0.norm1.weight", "head.bias"} < rest
    assert all(
        each.ndim == 1 or "cls_token" in names[id(each)] or "pos_embed" in names[id(each)] for each in spared["params"]
    )
    assert len(decayed["params"]) + len(rest) == len(names)


def test_gradients_reach_every_parameter():
    network = randomised(small()).double()
    network(torch.randn(2, 2, 12, 12, dtype=torch.float64)).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())


def test_gradcheck_of_a_block():
    torch.manual_seed(0)
    block = Block(SelfAttention(4, 2), 4, 8, 0.0).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: block(x, (1, 3)), x)


# --- looking at attention --------------------------------------------------------------------------------------------


def test_attended_distance_written_out():
    rng = np.random.default_rng(0)
    attention = rng.random((2, 6, 6))
    attention /= attention.sum(-1, keepdims=True)
    expected = np.zeros(2)
    for i in range(6):
        for j in range(6):
            distance = np.hypot(i // 3 - j // 3, i % 3 - j % 3)
            expected += attention[:, i, j] * distance / 6
    torch.testing.assert_close(attended_distance(torch.from_numpy(attention), (2, 3)), torch.from_numpy(expected))


def test_nonlocality_is_that_of_the_patches_attention_and_leaves_the_mode_as_it_was():
    network = randomised(small(drop_path_rate=0.5)).train()
    images = torch.randn(4, 2, 12, 8)
    found = network.nonlocality(images)
    assert network.training
    assert found.shape == (2, 2)
    x, grid = network._embed(images)
    assert grid == (3, 2)
    x = torch.cat([(network.cls_token + network.pos_embed[:, :1]).expand(4, 1, 8), x], dim=1)
    first = network.blocks[0]
    attention = first.attn.attention(first.norm1(x))[:, :, 1:, 1:]
    attention = attention / attention.sum(-1, keepdim=True)
    torch.testing.assert_close(found[0], attended_distance(attention, grid).mean(0))
    torch.testing.assert_close(found, network.nonlocality(images))


# --- what goes in ----------------------------------------------------------------------------------------------------


def test_an_empty_batch_gives_no_rows_and_nan_stays_in_its_row():
    network = small()
    assert network(torch.zeros(0, 2, 12, 12)).shape == (0, 3)
    images = torch.randn(3, 2, 12, 12)
    spoilt = images.clone()
    spoilt[1, 0, 0, 0] = torch.nan
    torch.testing.assert_close(network(spoilt)[[0, 2]], network(images)[[0, 2]])
    assert network(spoilt)[1].isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0; at least one head is needed"),
        ({"num_heads": 3}, "8 channels cannot be shared by 3 heads; give a multiple of num_heads"),
        ({"embed_dim": 0}, "0 channels cannot be shared"),
        ({"img_size": 13}, "13 by 13 pixels cannot be cut into patches of 4 by 4; give multiples, or dynamic_img_pad"),
        ({"img_size": (12, 0)}, "12 by 0 pixels cannot be cut"),
        ({"patch_size": 0}, "must be positive"),
        ({"in_chans": 0}, "must be positive"),
        ({"depth": 0}, "must be positive"),
        ({"mlp_ratio": 0}, "must be positive"),
        ({"init_std": 0.0}, "init_std must be positive"),
        ({"num_classes": -1}, "num_classes not negative"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\); given 1.0"),
        ({"class_token_from": 2}, "must join before one of the 2 blocks, 0 to 1; given 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(FewerError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 12, 12), r"images must be \(batch, 2, height, width\); these are \(2, 3, 12, 12\)"),
        ((2, 12, 12), "images must be"),
        ((1, 2, 12, 10), "12 by 10 pixels cannot be cut into patches of 4 by 4"),
        ((1, 2, 0, 12), "0 by 12 pixels cannot be cut"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(FewerError, match=message):
        small()(torch.zeros(shape))


# --- the description -------------------------------------------------------------------------------------------------


def test_a_description_builds_a_classifier_for_images_of_any_size_and_for_signals():
    torch.manual_seed(0)
    description = ViT(embed_dim=8, depth=2, num_heads=2)
    for shape, grid in {(1, 28, 28): (7, 7), (3, 5, 9): (2, 3), (2, 13): (1, 4)}.items():
        network = description.build(shape, 4)
        x = torch.rand(3, *shape)
        assert network(x).shape == (3, 4)
        assert network.features(x).shape == (3, 8)
        (backbone,) = (each for each in network.modules() if isinstance(each, VisionTransformer))
        assert backbone.grid == grid
        assert not network.head.bias.any()
    assert pickle.loads(pickle.dumps(description)) == description
    with pytest.raises(
        FewerError, match=r"rows of \(channels, height, width\) or \(channels, length\); these are \(5,\)"
    ):
        description.build((5,), 2)


def test_a_signal_is_an_image_of_one_row():
    torch.manual_seed(0)
    network = ViT(embed_dim=8, depth=1, num_heads=2).build((2, 8), 3).eval()
    x = torch.rand(3, 2, 8)
    torch.testing.assert_close(network.features(x), network.backbone[1](x[:, :, None]))
