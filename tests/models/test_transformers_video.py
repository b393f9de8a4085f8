"""Video transformers of transformers: the same tokens as the network's own, from folders, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder, TokenTransformer
from fewer.models.transformers_video import TransformersVideo, load_video_transformer
from fewer.pretrain.masked import MaskedModelling
from fewer.pretrain.multi_block import MultiBlock
from fewer.pretrain.teachers import GivenTeacher, normalised
from fewer.tasks.representation import Representation

transformers = pytest.importorskip("transformers")

SHAPE = (3, 4, 8, 8)
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=8, patch_size=4, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    made = transformers.VideoMAEModel(config).eval()
    with torch.no_grad():
        for each in made.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return made


def test_tokens_are_the_networks_own_in_the_order_of_the_grid(model):
    tokens = TransformersVideo(model)(X)
    with torch.no_grad():
        assert torch.equal(tokens, model(X.transpose(1, 2)).last_hidden_state)
    # what changes in one patch of pixels, before any layer, changes the token of that place alone
    embed = model.embeddings.patch_embeddings
    changed = X.clone()
    changed[:, :, 2:4, 4:8, 0:4] += 1  # frames 2 and 3, lower left: place 4 + 2 of 8
    moved = (embed(changed.transpose(1, 2)) - embed(X.transpose(1, 2))).abs().sum((0, 2))
    assert moved.nonzero().flatten().tolist() == [6]


def test_a_folder_says_how_pixels_are_scaled(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.allclose(load_video_transformer(tmp_path)(X), TransformersVideo(model)(X), atol=1e-6)
    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    said = {"image_mean": mean, "image_std": deviation}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    by_hand = torch.stack([(X[:, c] - mean[c]) / deviation[c] for c in range(3)], dim=2)
    with torch.no_grad():
        expected = model(by_hand).last_hidden_state
    assert torch.allclose(load_video_transformer(str(tmp_path))(X), expected, atol=1e-5)


def test_it_teaches_a_student_and_stays_as_it_is(model, tmp_path):
    model.save_pretrained(tmp_path)
    task = Representation("noise", X.repeat(8, 1, 1, 1, 1).numpy(), {"side": np.arange(40) % 2}, test=10)
    method = compose.loop(f"salt(teacher='{tmp_path}', blocks=((2, 0.2),))")
    assert method.target == GivenTeacher(str(tmp_path))
    student = TokenEncoder(SHAPE, (2, 4, 4), 16, 1, 2)
    said = method.target.build(SHAPE, student)(X)
    assert torch.allclose(said, normalised(TransformersVideo(model)(X)), atol=1e-5)
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loop = MaskedModelling(
        TokenTransformer(16, 1, 2, 4), predictor=(16, 1, 2), batch=8, points=1, masking=MultiBlock(((2, 0.2),)),
        target=GivenTeacher(model),
    )  # fmt: skip
    assert loop.learn(task, 24).result.embed(task.x[:2]).shape == (2, 16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_read_or_does_not_fit_is_refused(model, tmp_path):
    with pytest.raises(FewerError, match=r"no config\.json in"):
        load_video_transformer(tmp_path)
    with pytest.raises(FewerError, match=r"no config\.json in"):
        GivenTeacher(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FewerError, match=r"no model\.safetensors in"):
        load_video_transformer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(FewerError, match="cannot read"):
        load_video_transformer(tmp_path)
    with pytest.raises(FewerError, match=r"clips of \(1, 4, 8, 8\) .* do not fit VideoMAEModel"):
        TransformersVideo(model)(X[:, :1])
    student = TokenEncoder((3, 4, 8, 8), (2, 2, 2), 16, 1, 2)
    with pytest.raises(FewerError, match="it says 8 tokens of a row and the student has 32 places"):
        GivenTeacher(model.requires_grad_(False)).build((3, 4, 8, 8), student)
