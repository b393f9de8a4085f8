"""Blocks of vision transformers: found in every layout, listened to, asked by foreign tokens, refused where they do more."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.adapt.vision_models import DEPTH, SIDE, TRANSFORMERS, WIDTH, images, transformers_model, vit
from torch import nn

from fewer.adapt.first_token import FirstToken
from fewer.adapt.vit_blocks import (
    VisionStack,
    last_tokens,
    refuse_other_computations,
    sent_through,
    tokens_keys_values,
    vision_stack,
)
from fewer.core.errors import FewerError


def model_of(kind):
    return vit() if kind == "ours" else transformers_model(kind)


@pytest.mark.parametrize("kind", ["ours", *TRANSFORMERS])
def test_the_class_token_sent_through_a_block_is_the_blocks_own_next_one(kind):
    model = model_of(kind)
    stack = vision_stack(model, "test")
    assert (stack.depth, stack.width, stack.patch_area) == (DEPTH, WIDTH, 16)
    ends = []
    for block in stack.blocks(model):
        block.register_forward_hook(lambda _, given, output: ends.append((given[0], output)))
    _, heard = tokens_keys_values(model, stack, images(), "test")
    assert len(heard) == DEPTH == len(ends)
    for block, (given, output), each in zip(stack.blocks(model), ends, heard, strict=True):
        # every token that is there asks the same and gets the same
        assert torch.allclose(sent_through(block, given, each), output, atol=1e-5)
        assert (output - given).abs().max() > 0.1
    refuse_other_computations(model, stack, images(), "test")


def test_last_tokens_are_the_models_own():
    for kind in ("ViTModel", "Dinov2Model"):
        model = transformers_model(kind)
        assert torch.equal(last_tokens(model, images(), "test"), model(images()).last_hidden_state)
        assert torch.equal(last_tokens(FirstToken(model), images(), "test"), model(images()).last_hidden_state)
    clip = transformers_model("CLIPVisionModel")
    assert torch.allclose(last_tokens(clip, images(), "test")[:, 0], clip(images()).pooler_output, atol=1e-6)
    assert torch.equal(last_tokens(vit(), images(), "test"), vit().forward_features(images()))
    classifier = transformers_model("ViTForImageClassification")
    logits = classifier.classifier(last_tokens(classifier, images(), "test")[:, 0])
    assert torch.allclose(logits, classifier(images()).logits, atol=1e-6)


def test_timms_blocks_lie_in_a_sequential_and_may_have_scales():
    class Scale(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.gamma = nn.Parameter(torch.full((WIDTH,), factor))

        def forward(self, x):
            return x * self.gamma

    model = vit()
    for block in model.blocks:
        block.ls1, block.ls2 = Scale(0.3), Scale(0.6)
        block.forward = lambda x, grid, b=block: _scaled_block(b, x, grid)
    model.blocks = nn.Sequential(*model.blocks)
    refuse_other_computations(model, vision_stack(model, "test"), images(), "test")


def _scaled_block(block, x, grid):
    x = x + block.ls1(block.attn(block.norm1(x), grid))
    return x + block.ls2(block.mlp(block.norm2(x)))


@pytest.mark.parametrize("change", ["norm of queries", "scale that nobody named", "behind the skip"])
def test_blocks_that_do_more_are_refused(change):
    model = vit()
    block = model.blocks[1]
    if change == "norm of queries":
        plain = block.attn._queries_keys_values
        block.attn._queries_keys_values = lambda x: [
            nn.functional.layer_norm(each, each.shape[-1:]) for each in plain(x)
        ]
    elif change == "scale that nobody named":
        block.forward = lambda x, grid: x + 0.5 * block.attn(block.norm1(x), grid)
    else:
        block.forward = lambda x, grid: block.norm1(x + block.attn(x, grid))
    with pytest.raises(FewerError, match="test: block 1 of this model, a Block, does more than norm, attention"):
        refuse_other_computations(model, vision_stack(model, "test"), images(), "test")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Beit", "block 0 of this model, a BeitLayer, does more"),  # relative positions
        ("DINOv3ViT", "block 0 of this model, a DINOv3ViTLayer, does more"),  # positions turned into queries and keys
        ("Siglip2Vision", "a Siglip2VisionModel cannot see images of shape"),  # it takes patches
        ("VideoMAE", "a VideoMAEModel has no blocks that can be looked into"),
    ],
)
def test_models_of_transformers_that_do_more_are_refused(kind, message):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(image_size=SIDE, patch_size=4, num_channels=1, **sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval().requires_grad_(False)
    with pytest.raises(FewerError, match=message):
        refuse_other_computations(model, vision_stack(model, "test"), images(), "test")


def test_looking_leaves_modes_and_hooks_as_they_were():
    model = vit().train()
    model.blocks[1].eval()
    modes = [each.training for each in model.modules()]
    refuse_other_computations(model, vision_stack(model, "test"), images(), "test")
    assert [each.training for each in model.modules()] == modes
    assert not any(each._forward_hooks for each in model.modules())
    with pytest.raises(FewerError, match="cannot be cut into patches"):
        tokens_keys_values(model, vision_stack(model, "test"), torch.zeros(1, 1, 7, 8), "test")
    assert not any(each._forward_hooks for each in model.modules())


def test_nothing_is_remembered_of_a_frozen_model_and_all_of_one_that_learns():
    model = vit()
    last, heard = tokens_keys_values(model, vision_stack(model, "test"), images(), "test")
    assert not last.requires_grad
    assert not any(key.requires_grad or value.requires_grad for key, value in heard)
    # keys and values alone are kept, and not the queries they were projected with
    assert heard[0][0].untyped_storage().nbytes() == 4 * 5 * 5 * 2 * WIDTH
    model.blocks[0].mlp.fc1.weight.requires_grad_(True)
    last, heard = tokens_keys_values(model, vision_stack(model, "test"), images(), "test")
    assert last.requires_grad
    assert heard[1][0].requires_grad
    assert not copy.deepcopy(heard[0][0]).requires_grad


def test_errors():
    bert = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with pytest.raises(FewerError, match="test: a BertModel has no blocks that can be looked into"):
        vision_stack(FirstToken(bert.BertModel(bert.BertConfig(vocab_size=9, **sizes))), "test")
    with pytest.raises(FewerError, match="test: a Linear has no blocks"):
        vision_stack(nn.Linear(2, 2), "test")
    with pytest.raises(FewerError, match="a ModuleList has several stacks of blocks"):
        vision_stack(nn.ModuleList([vit(), vit()]), "test")
    model = transformers_model("ViTModel")
    with pytest.raises(FewerError, match=r"cannot see images of shape \(1, 12, 12\)"):
        last_tokens(model, torch.zeros(2, 1, 12, 12), "test")
    with pytest.raises(FewerError, match="it takes 1 channels"):
        last_tokens(model, torch.zeros(2, 3, SIDE, SIDE), "test")
    with pytest.raises(FewerError, match="these are uint8 of shape"):
        last_tokens(model, torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8), "test")
    masked = bert.ViTMAEModel(bert.ViTMAEConfig(image_size=SIDE, patch_size=4, num_channels=1, **sizes))
    with pytest.raises(FewerError, match="masks patches at random; load its weights as a ViTModel"):
        last_tokens(masked, images(), "test")
    odd = vit()
    odd.forward_features = lambda x: x.flatten(1)
    with pytest.raises(FewerError, match="gives no tokens"):
        last_tokens(odd, images(), "test")
    assert vision_stack(vit(), "test") == VisionStack("blocks", DEPTH, WIDTH, 16)
