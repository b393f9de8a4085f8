"""Visual prompts: as they are written, on lists and sequentials of blocks, copies, modes, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.adapt.vision_models import DEPTH, TRANSFORMERS, WIDTH, images, transformers_model, vit
from torch import nn

from fewer.adapt.visual_prompts import VisualPromptTuning
from fewer.core.errors import FewerError


def test_they_stand_behind_the_class_token_of_every_block_and_are_taken_away():
    plain, prompted = vit(), VisualPromptTuning(3, dropout=0.0).attach(vit())
    tokens, grid = plain._embed(images())
    tokens = plain._joined(tokens, 0)
    for block, other in zip(plain.blocks, prompted.blocks, strict=True):
        prompts = other.visual_prompts.prompts.expand(5, -1, -1)
        seen = block(torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], 1), grid)
        tokens = torch.cat([seen[:, :1], seen[:, 4:]], 1)
    assert torch.allclose(prompted.forward_features(images()), plain.norm(tokens), atol=1e-6)
    assert not torch.allclose(prompted(images()), plain(images()), atol=1e-2)


@pytest.mark.parametrize("kind", [*TRANSFORMERS, "sequential"])
def test_other_kinds_of_models_learn_prompts_alone(kind):
    model = vit() if kind == "sequential" else transformers_model(kind)
    if kind == "sequential":
        model.blocks = nn.Sequential(*model.blocks)
    before = model(images())
    prompted = VisualPromptTuning(2).attach(model)
    learned = {name: each for name, each in prompted.named_parameters() if each.requires_grad}
    assert [tuple(each.shape) for each in learned.values()] == [(2, WIDTH)] * DEPTH
    after = prompted(images())
    before, after = (each if isinstance(each, torch.Tensor) else next(iter(each.values())) for each in (before, after))
    assert before.shape == after.shape
    after.square().sum().backward()
    assert all(each.grad.any() for each in learned.values())


def test_a_copy_has_its_own_prompts():
    prompted = VisualPromptTuning(2).attach(vit())
    other, before = copy.deepcopy(prompted), prompted(images())
    with torch.no_grad():
        other.blocks[0].visual_prompts.prompts.neg_()
    assert torch.equal(prompted(images()), before)
    assert not torch.allclose(other(images()), before)


def test_dropout_is_drawn_for_each_image_and_only_while_learning():
    prompted = VisualPromptTuning(2, dropout=0.5).attach(vit())
    same = images(1).expand(3, -1, -1, -1)
    assert torch.allclose(prompted(same)[0], prompted(same)[1])
    for block in prompted.blocks:
        assert block.visual_prompts.adapts
        block.visual_prompts.train()
    assert not torch.allclose(prompted(same)[0], prompted(same)[1])


def test_errors():
    with pytest.raises(FewerError, match="visual prompts: tokens must be at least 1"):
        VisualPromptTuning(0)
    with pytest.raises(FewerError, match=r"dropout lie in \[0, 1\)"):
        VisualPromptTuning(dropout=1.0)
    with pytest.raises(FewerError, match="visual prompts: a Linear has no blocks"):
        VisualPromptTuning().attach(nn.Linear(2, 2))
    with pytest.raises(FewerError, match="has prompts already"):
        VisualPromptTuning().attach(VisualPromptTuning().attach(vit()))
