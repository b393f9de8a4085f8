"""An architecture that starts from saved weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from fewer.core.errors import FewerError
from fewer.models.classifier import MLP, ConvNet
from fewer.models.pretrained import Pretrained


@pytest.mark.parametrize("whole", [True, False])
def test_every_build_starts_from_the_same_backbone_and_a_new_head(tmp_path, whole):
    saved = MLP((8, 4)).build((6,), classes=9)
    part = saved if whole else saved.backbone
    save_file({name: value.contiguous() for name, value in part.state_dict().items()}, tmp_path / "weights.safetensors")
    architecture = Pretrained(MLP((8, 4)), tmp_path / "weights.safetensors")
    one, two = architecture.build((6,), classes=3), architecture.build((6,), classes=3)
    x = torch.randn(5, 6)
    assert torch.equal(one.features(x), saved.features(x))
    assert torch.equal(two.features(x), saved.features(x))
    assert one(x).shape == (5, 3)
    assert not torch.equal(one(x), two(x))


def test_equal_descriptions_are_equal(tmp_path):
    assert Pretrained(MLP(), tmp_path) == Pretrained(MLP(), tmp_path)


def test_weights_of_another_shape_are_an_error(tmp_path):
    save_file(dict(MLP((8, 5)).build((6,), 3).backbone.state_dict()), tmp_path / "other.safetensors")
    with pytest.raises(FewerError, match=r"other.safetensors do not fit the backbone of MLP.*size mismatch"):
        Pretrained(MLP((8, 4)), tmp_path / "other.safetensors").build((6,), 3)
    with pytest.raises(FewerError, match="do not fit"):
        Pretrained(MLP((8,)), tmp_path / "other.safetensors").build((6,), 3)


def test_a_missing_or_damaged_file_is_an_error(tmp_path):
    with pytest.raises(FewerError, match="cannot read the weights in"):
        Pretrained(MLP(), tmp_path / "none.safetensors").build((6,), 3)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(FewerError, match="give a safetensors file"):
        Pretrained(MLP(), tmp_path / "cut.safetensors").build((6,), 3)


@pytest.mark.parametrize("shape", [(2, 12), (2, 12, 8)])
def test_pooled_features_are_the_means_of_the_last_maps(shape):
    torch.manual_seed(0)
    maps = ConvNet((4, 6), hidden=0).build(shape, classes=3)
    pooled = ConvNet((4, 6), hidden=0, pool=True).build(shape, classes=3)
    pooled.backbone.load_state_dict(maps.backbone.state_dict())
    x = torch.randn(5, *shape)
    assert pooled.width == 6
    torch.testing.assert_close(pooled.features(x), maps.features(x).unflatten(1, (6, -1)).mean(2))
