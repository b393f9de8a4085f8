"""Pooled layers: as they are written, on other models, in the loop, errors."""

from __future__ import annotations

import pytest
import torch
from tests.adapt.vision_models import DEPTH, TRANSFORMERS, WIDTH, images, transformers_model, vit

from fewer import compose
from fewer.adapt.digit_changes import digit_changes
from fewer.adapt.pooled_layers import PooledLayers, PooledReadout
from fewer.core.errors import FewerError


def test_class_token_and_means_of_each_block():
    model = vit()
    readout = PooledReadout(model, regions=2)
    tokens, grid = model._embed(images())
    tokens, found = model._joined(tokens, 0), []
    for block in model.blocks:
        tokens = block(tokens, grid)
        means = [tokens[:, 1:3].mean(1), tokens[:, 3:5].mean(1)]
        found.append(torch.cat([tokens[:, 0], *means], 1))
    parts = [model.norm(tokens)[:, 0], *found]
    by_hand = torch.cat([each / each.norm(dim=1, keepdim=True) for each in parts], 1)
    assert torch.allclose(readout(images()), by_hand, atol=1e-5)
    assert readout.width == by_hand.shape[1] == WIDTH * (1 + 3 * DEPTH)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_other_models(kind):
    readout = PooledReadout(transformers_model(kind))
    assert readout(images()).shape == (5, readout.width)


def test_in_the_loop_features_are_computed_once():
    learned = compose.loop("adaptation(steps=3, points=1) + head2toe(regions=2)").learn(
        digit_changes("place", small=True), 32, 0
    )
    assert learned.curve.points[-1].extras["parameters"] == (16 * 7 + 1) * 8


def test_errors():
    with pytest.raises(FewerError, match="head2toe: regions is 0; give 1 or more"):
        PooledLayers(0)
    with pytest.raises(FewerError, match="head2toe: a Linear has no blocks"):
        PooledReadout(torch.nn.Linear(2, 2))
