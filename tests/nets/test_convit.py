"""ConViT: GPSA against the formula written out, its limits (a convolution, self-attention), its start, its errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.models.vit import SelfAttention, VisionTransformer, ViT, attended_distance
from fewer.nets.convit import (
    GPSA,
    ConViT,
    ConViTArchitecture,
    FrozenGPSA,
    UninitialisedGPSA,
    convit_base,
    convit_small,
    convit_tiny,
)
from fewer.nets.sltrain import SparsePlusLowRank

SMALL = {
    "img_size": 12,
    "patch_size": 4,
    "in_chans": 2,
    "num_classes": 3,
    "embed_dim": 8,
    "depth": 3,
    "num_heads": 4,
    "local_up_to_layer": 2,
}


def layer(dim=12, heads=4, seed=0, spread=0.4, **options):
    """A layer in which every weight matters."""
    drawn = torch.Generator().manual_seed(seed)
    made = GPSA(dim, heads, **options).double()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn(value.shape, generator=drawn, dtype=value.dtype) * spread)
    return made


def tokens(batch, count, dim, seed=0):
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(gpsa, x, rows, columns):
    """The paper's formula, a patch and a head at a time; gives the output and the attention."""
    weights = {name: value.detach().numpy() for name, value in gpsa.named_parameters()}
    batch, count, dim = x.shape
    heads = len(weights["gating_param"])
    width = dim // heads
    mixed, attention = np.zeros((batch, count, dim)), np.zeros((batch, heads, count, count))
    for b in range(batch):
        projected = x[b].numpy() @ weights["qk.weight"].T
        values = x[b].numpy() @ weights["v.weight"].T
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            query, key = projected[:, :dim][:, part], projected[:, dim:][:, part]
            gate = 1 / (1 + math.exp(-weights["gating_param"][h]))
            for i in range(count):
                content, position = np.zeros(count), np.zeros(count)
                for j in range(count):
                    dx, dy = j % columns - i % columns, j // columns - i // columns
                    content[j] = math.exp(query[i] @ key[j] / math.sqrt(width))
                    relative = np.array([dx, dy, dx**2 + dy**2])
                    position[j] = math.exp(weights["pos_proj.weight"][h] @ relative + weights["pos_proj.bias"][h])
                row = (1 - gate) * content / content.sum() + gate * position / position.sum()
                attention[b, h, i] = row / row.sum()
                mixed[b, i, part] = attention[b, h, i] @ values[:, part]
    output = mixed @ weights["proj.weight"].T + weights["proj.bias"]
    return torch.from_numpy(output), torch.from_numpy(attention)


# --- the formula -----------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4, 5]), st.booleans(), st.integers(0, 99))
def test_it_is_the_formula_on_any_grid(rows, columns, heads, local_init, seed):
    gpsa = layer(3 * heads, heads, seed, local_init=local_init)
    x = tokens(2, rows * columns, 3 * heads, seed)
    output, attention = written_out(gpsa, x, rows, columns)
    torch.testing.assert_close(gpsa(x, (rows, columns)), output)
    torch.testing.assert_close(gpsa.attention(x, (rows, columns)), attention)
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))


def test_in_single_precision_it_agrees_to_five_digits_at_the_papers_size():
    torch.manual_seed(0)
    gpsa = GPSA(192, 4)
    x = torch.randn(2, 196, 192)
    attention = gpsa.attention(x)
    value = gpsa.v(x).unflatten(-1, (4, 48)).transpose(1, 2)
    expected = gpsa.proj((attention @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(gpsa(x), expected, rtol=1e-5, atol=1e-5)


def test_gradients():
    gpsa = layer(4, 2)
    x = tokens(2, 6, 4).requires_grad_()
    names = [name for name, value in gpsa.named_parameters() if value.requires_grad]
    values = [value for value in gpsa.parameters() if value.requires_grad]

    def output(x, *values):
        return torch.func.functional_call(gpsa, dict(zip(names, values, strict=True)), (x, (2, 3)))

    assert torch.autograd.gradcheck(output, (x, *values))
    gpsa(x, (2, 3)).square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in values)
    assert set(names) == {"qk.weight", "v.weight", "proj.weight", "proj.bias", "pos_proj.weight", "gating_param"}


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "side"), [(9, 3), (25, 5)])
def test_sharp_and_by_position_only_it_is_a_convolution_inside_the_image(heads, side):
    dim = 2 * heads
    gpsa = layer(dim, heads, spread=0, locality_strength=60)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        gpsa.gating_param.fill_(100)
        gpsa.v.weight.copy_(torch.randn(dim, dim, generator=drawn))
        gpsa.proj.weight.copy_(torch.randn(dim, dim, generator=drawn))
    # the tap at each head's offset: that head's share of the projection, after its share of the values
    kernel = torch.zeros(dim, dim, side, side, dtype=torch.float64)
    for head in range(heads):
        part = slice(2 * head, 2 * head + 2)
        tap = (gpsa.proj.weight[:, part] @ gpsa.v.weight[part]).detach()
        kernel[:, :, head % side, head // side] = tap
    x = tokens(2, 8 * 7, dim)
    image = x.transpose(1, 2).reshape(2, dim, 8, 7)
    expected = nn.functional.conv2d(image, kernel)
    edge = side // 2
    found = gpsa(x, (8, 7)).transpose(1, 2).reshape(2, dim, 8, 7)
    torch.testing.assert_close(found[:, :, edge : 8 - edge, edge : 7 - edge], expected)


def test_by_content_only_it_is_self_attention():
    gpsa, plain = layer(12, 3), SelfAttention(12, 3, qkv_bias=False).double()
    with torch.no_grad():
        gpsa.gating_param.fill_(-100)
    plain.load_state_dict(
        {
            "qkv.weight": torch.cat([gpsa.qk.weight, gpsa.v.weight]),
            "proj.weight": gpsa.proj.weight,
            "proj.bias": gpsa.proj.bias,
        }
    )
    x = tokens(2, 9, 12)
    torch.testing.assert_close(gpsa(x), plain(x))
    torch.testing.assert_close(gpsa.attention(x), plain.attention(x))


def test_by_content_only_patches_may_change_places_and_by_position_only_their_content_does_not_matter():
    gpsa = layer(12, 3)
    x, order = tokens(1, 9, 12), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gpsa.gating_param.fill_(-100)
        torch.testing.assert_close(gpsa(x[:, order]), gpsa(x)[:, order])
        gpsa.gating_param.fill_(100)
        torch.testing.assert_close(gpsa.attention(x), gpsa.position_attention((3, 3))[None])
        torch.testing.assert_close(gpsa(2 * x) - gpsa.proj.bias, 2 * (gpsa(x) - gpsa.proj.bias))


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 4, 9, 16])
def test_the_heads_start_at_the_offsets_of_a_square(heads):
    gpsa = GPSA(3 * heads, heads, locality_strength=2)
    side = math.isqrt(heads)
    places = [place - (side - 1) / 2 for place in range(side)]
    expected = torch.tensor([[column, row] for column in places for row in places])
    torch.testing.assert_close(gpsa.pos_proj.offsets(), expected)
    assert torch.equal(gpsa.pos_proj.weight[:, 2], torch.full((heads,), -2.0))
    assert torch.equal(gpsa.v.weight, torch.eye(3 * heads))
    torch.testing.assert_close(gpsa.gates(), torch.full((heads,), 1 / (1 + math.exp(-1))))
    assert not gpsa.pos_proj.bias.any()


def test_the_attention_is_highest_at_each_heads_offset():
    gpsa = GPSA(18, 9)
    middle = gpsa.position_attention((5, 5))[:, 12].argmax(dim=-1)
    offsets = [(int(place) % 5 - 2, int(place) // 5 - 2) for place in middle]
    assert offsets == [(column, row) for column in (-1, 0, 1) for row in (-1, 0, 1)]


def test_heads_beyond_the_square_and_layers_without_the_start_begin_at_random():
    torch.manual_seed(0)
    gpsa = GPSA(12, 6)
    assert torch.equal(gpsa.pos_proj.weight[:4, 2], -torch.ones(4))
    assert 0 < gpsa.pos_proj.weight[4:].abs().max() < 0.1
    free = GPSA(12, 6, local_init=False)
    assert 0 < free.pos_proj.weight.abs().max() < 0.1
    assert 0 < free.v.weight.abs().max() < 0.1
    wide = GPSA(60, 4, init_std=0.1, local_init=False)
    for weight in (wide.qk.weight, wide.v.weight, wide.proj.weight):
        assert weight.std().item() == pytest.approx(0.1, rel=0.05)


def test_heads_that_change_places_take_their_offsets_along():
    gpsa, x = layer(12, 4, spread=0), tokens(2, 9, 12)
    order = torch.tensor([2, 0, 3, 1])
    channels = torch.cat([torch.arange(3 * head, 3 * head + 3) for head in order])
    moved = layer(12, 4, spread=0)
    moved.load_state_dict(gpsa.state_dict())
    with torch.no_grad():
        moved.pos_proj.weight.copy_(gpsa.pos_proj.weight[order])
        moved.qk.weight.copy_(torch.cat([gpsa.qk.weight[:12][channels], gpsa.qk.weight[12:][channels]]))
        moved.v.weight.copy_(gpsa.v.weight[channels])
        moved.proj.weight.copy_(gpsa.proj.weight[:, channels])
    torch.testing.assert_close(moved.pos_proj.offsets(), gpsa.pos_proj.offsets()[order])
    torch.testing.assert_close(moved(x), gpsa(x))
    torch.testing.assert_close(moved.attention(x), gpsa.attention(x)[:, order])


def test_a_stronger_locality_looks_less_far():
    distances = [attended_distance(GPSA(8, 4, each).position_attention((7, 7)), (7, 7)).max() for each in (0.1, 1, 10)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 2 > 1 > distances[1]
    assert distances[2].item() == pytest.approx(math.sqrt(0.5), rel=0.1)  # half a patch off in both directions


# --- the network -----------------------------------------------------------------------------------------------------


def small(**changes):
    torch.manual_seed(0)
    return ConViT(**{**SMALL, **changes}).eval()


def test_gated_layers_come_first_and_do_not_see_the_class_token():
    network = small()
    kinds = [type(block.attn) for block in network.blocks]
    assert kinds == [GPSA, GPSA, SelfAttention]
    assert network.blocks[2].attn.qkv.bias is None
    images = torch.randn(4, 2, 12, 12)
    x = network.patch_embed(images) + network.pos_embed
    for block in network.blocks[:2]:
        x = x + block.attn(block.norm1(x), (3, 3))
        x = x + block.mlp(block.norm2(x))
    x = torch.cat([network.cls_token.expand(4, 1, 8), x], dim=1)
    x = network.blocks[2](x, (3, 3))
    torch.testing.assert_close(network(images), network.head(network.norm(x)[:, 0]))


def test_without_gated_layers_it_is_the_vision_transformer():
    network = small(local_up_to_layer=0)
    plain = VisionTransformer(12, 4, 2, 3, embed_dim=8, depth=3, num_heads=4, qkv_bias=False).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.randn(4, 2, 12, 12)
    assert torch.equal(network(images), plain(images))


def test_images_of_other_sizes_and_shapes_go_in():
    network = small()
    assert network(torch.randn(2, 2, 16, 8)).shape == (2, 3)
    assert network(torch.zeros(0, 2, 12, 12)).shape == (0, 3)
    assert small(img_size=(8, 20))(torch.randn(2, 2, 8, 20)).shape == (2, 3)
    assert small(img_size=10, dynamic_img_pad=True)(torch.randn(2, 2, 10, 10)).shape == (2, 3)
    assert small(use_pos_embed=False).pos_embed is None


def test_nan_stays_in_its_row():
    network, images = small(), torch.randn(3, 2, 12, 12)
    spoilt = images.clone()
    spoilt[1, 0, 0, 0] = torch.nan
    torch.testing.assert_close(network(spoilt)[[0, 2]], network(images)[[0, 2]])
    assert network(spoilt)[1].isnan().all()


@pytest.mark.parametrize(
    ("make", "width", "heads", "millions"),
    [(convit_tiny, 192, 4, 5.71), (convit_small, 432, 9, 27.78), (convit_base, 768, 16, 86.54)],
)
def test_the_papers_sizes(make, width, heads, millions):
    with torch.device("meta"):
        network = make(num_classes=1000)
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert (network.embed_dim, network.gated[0].num_heads, len(network.blocks)) == (width, heads, 12)
    assert len(network.gated) == 10


def test_the_plus_sizes_are_wider():
    with torch.device("meta"):
        network = convit_tiny(embed_dim=256)
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(10, rel=0.01)


def test_parameters_have_the_published_names():
    names = set(small().state_dict())
    gated = ("qk.weight", "v.weight", "proj.weight", "proj.bias", "pos_proj.weight", "pos_proj.bias", "gating_param")
    assert {f"blocks.0.attn.{name}" for name in gated} == {name for name in names if ".0.attn." in name}
    assert {"blocks.2.attn.qkv.weight", "blocks.2.attn.proj.weight", "blocks.2.attn.proj.bias"} == {
        name for name in names if ".2.attn." in name
    }
    rest = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    assert {name for name in names if "blocks" not in name} == rest | {"head.weight", "head.bias"}


def test_gates_are_not_decayed_and_move():
    network = small()
    optimiser = AdamW(lr=0.1, weight_decay=0.5).make(parameter_groups(network))
    decayed, spared = optimiser.param_groups
    gates = {id(gpsa.gating_param) for gpsa in network.gated}
    assert gates <= {id(value) for value in spared["params"]}
    assert spared["weight_decay"] == 0
    assert id(network.gated[0].pos_proj.weight) in {id(value) for value in decayed["params"]}
    before = network.gates()
    network(torch.randn(2, 2, 12, 12)).square().sum().backward()
    optimiser.step()
    assert before.shape == (2, 4)
    assert (network.gates() != before).all()


def test_its_linear_layers_can_be_made_sparse_plus_low_rank():
    network = small(embed_dim=16)
    done = SparsePlusLowRank.replace(network, rank=2, density=0.1)
    names = ("attn.qk", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert {f"blocks.0.{name}" for name in names} == {name for name in done.layers if "blocks.0" in name}
    assert done.parameters_after < 0.6 * done.parameters_before
    assert network(torch.randn(2, 2, 12, 12)).shape == (2, 3)
    assert network.gates().shape == (2, 4)


def test_frozen_gates_leave_only_positions():
    network = small()
    network.freeze_gates()
    assert torch.equal(network.gates(), torch.ones(2, 4))
    network(torch.randn(2, 2, 12, 12)).square().sum().backward()
    for gpsa in network.gated:
        assert gpsa.gating_param.grad is None
        assert not gpsa.qk.weight.grad.any()
        assert gpsa.pos_proj.weight.grad.any()


def test_at_the_start_it_looks_near_and_a_vision_transformer_far():
    images = torch.rand(4, 1, 28, 28)
    near = ConViTArchitecture().build((1, 28, 28), 10).backbone.nonlocality(images)
    far = ViT().build((1, 28, 28), 10).backbone.nonlocality(images)
    assert near.shape == far.shape == (5, 4)
    assert near[:4].max() < 2 < 2.5 < far.min()
    # the gate mixes the two: 0.73 of the position's distance and 0.27 of the content's, which starts even
    gpsa = GPSA(64, 4)
    position = attended_distance(gpsa.position_attention((7, 7)), (7, 7))
    even = attended_distance(torch.full((49, 49), 1 / 49), (7, 7))
    gate = gpsa.gates()
    torch.testing.assert_close(near[0], (gate * position + (1 - gate) * even).detach(), rtol=0.01, atol=0.01)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 0), "gpsa: num_heads is 0; at least one head is needed"),
        ((12, 5), "gpsa: 12 channels cannot be shared by 5 heads; give a multiple of num_heads"),
        ((12, 4, 0.0), "gpsa: locality_strength is 0.0; give a positive number"),
        ((12, 4, math.nan), "gpsa: locality_strength is nan"),
        ((12, 4, math.inf), "gpsa: locality_strength is inf"),
    ],
)
def test_layers_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(FewerError, match=message):
        GPSA(*arguments)


@pytest.mark.parametrize("call", [GPSA.forward, GPSA.attention])
def test_tokens_that_are_no_grid_are_refused(call):
    gpsa = GPSA(4, 2)
    with pytest.raises(FewerError, match=r"12 tokens are no square; give grid=\(rows, columns\)"):
        call(gpsa, torch.zeros(1, 12, 4))
    with pytest.raises(FewerError, match="13 tokens do not lie on a grid of 3 by 4; give another grid, and no class"):
        call(gpsa, torch.zeros(1, 13, 4), (3, 4))


@pytest.mark.parametrize("layers", [-1, 3])
def test_the_class_token_needs_a_block(layers):
    with pytest.raises(FewerError, match=f"local_up_to_layer is {layers} of 3 blocks; leave at least one block"):
        small(local_up_to_layer=layers)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(FewerError, match="13 by 13 pixels cannot be cut into patches of 4 by 4"):
        small(img_size=13)
    with pytest.raises(FewerError, match="images must be"):
        small()(torch.zeros(1, 1, 12, 12))


# --- the descriptions ------------------------------------------------------------------------------------------------


def test_the_descriptions_differ_where_they_say():
    torch.manual_seed(0)
    built = {each: each().build((1, 28, 28), 10) for each in (ConViTArchitecture, UninitialisedGPSA, FrozenGPSA, ViT)}
    counts = {each: sum(value.numel() for value in network.parameters()) for each, network in built.items()}
    assert counts[ConViTArchitecture] == counts[UninitialisedGPSA] == counts[FrozenGPSA]
    assert counts[ViT] == pytest.approx(counts[ConViTArchitecture], rel=0.01)
    gates = {each: built[each].backbone.gates() for each in built if each is not ViT}
    assert (gates[FrozenGPSA] == 1).all()
    torch.testing.assert_close(gates[ConViTArchitecture], torch.full((4, 4), 1 / (1 + math.exp(-1))))
    assert torch.equal(gates[UninitialisedGPSA], gates[ConViTArchitecture])
    local = {each: built[each].backbone.gated[0].v.weight.equal(torch.eye(64)) for each in gates}
    assert local == {ConViTArchitecture: True, UninitialisedGPSA: False, FrozenGPSA: True}
    for network in (built[ConViTArchitecture].backbone, built[ViT].backbone):
        assert network.blocks[-1].attn.qkv.weight.std().item() == pytest.approx(0.05, rel=0.05)


def test_they_are_named_in_the_loop():
    for name, description in {
        "vit": ViT,
        "convit": ConViTArchitecture,
        "gpsa-noinit": UninitialisedGPSA,
        "gpsa-frozen": FrozenGPSA,
    }.items():
        assert compose.loop(f"{name}(embed_dim=32)").model == description(embed_dim=32)
