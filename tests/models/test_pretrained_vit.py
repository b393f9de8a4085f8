"""A vision transformer of the transformers format is computed alike after it was read."""

import json

import numpy as np
import pytest
import torch

from fewer.adapt import Adaptation
from fewer.core.errors import FewerError
from fewer.models.pretrained_vit import SavedViT, read_vit
from fewer.tasks.classification import Classification

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-3,
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder, model


def test_all_tokens_are_those_of_transformers(saved):
    folder, model = saved
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            read_vit(folder).forward_features(images), model(images).last_hidden_state, atol=1e-5, rtol=1e-4
        )


def test_an_adaptation_begins_from_it_and_leaves_it_as_it_was(saved):
    folder, _ = saved
    x = np.random.default_rng(0).normal(size=(40, 3, 32, 32)).astype(np.float32)
    x[1::2] += 1
    task = Classification("bright", x, np.arange(40) % 2, ("dark", "bright"), test=10)
    learned = Adaptation(base=SavedViT(folder), steps=60, points=1).learn(task, budget=30)
    assert learned.curve.final == 1.0
    assert set(learned.result.new()) == {"head.linear.weight", "head.linear.bias"}


def test_other_kinds_and_channels_and_broken_folders_are_refused(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(FewerError, match="3 channels, and rows here are of shape"):
        SavedViT(folder).build((1, 32, 32), seed=0)
    with pytest.raises(FewerError, match="holds no model that can be read"):
        read_vit(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(FewerError, match="of type 'bert'"):
        read_vit(other)
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FewerError, match="its weights are not those of a vit"):
        read_vit(other)
