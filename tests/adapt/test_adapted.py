"""What adaptation hands on: probabilities, a small file, and files that do not belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.loop import HeadModule, LinearHead
from fewer.core.errors import FewerError


class Two(HeadModule):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 4))

    def logits(self, features, classes=None):
        return torch.einsum("rw,hcw->rhc", features, self.weight)


class First:
    def weights(self, logits, features, head):
        return torch.tensor([[1.0, 0.0]]).expand(len(features), 2)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(4, 4).requires_grad_(False)
        self.extra = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.model(x["a"] if isinstance(x, dict) else x) + self.extra


def adapted(classes=("a", "b", "c"), select=None, head=None):
    return Adapted(Body(), head or LinearHead(nn.Linear(4, 3)), select, classes)


def test_probabilities_sum_to_one_and_blocks_do_not_matter():
    model, x = adapted(head=Two()), torch.randn(9, 4)
    torch.testing.assert_close(torch.from_numpy(model.probabilities(x)).sum(1), torch.ones(9))
    torch.testing.assert_close(model.features(x, block=2), model.features(x))
    torch.testing.assert_close(model.features({"a": x}, block=4), model.features(x))
    assert np.array_equal(model.predict(x), model.probabilities(x).argmax(1))


def test_a_selection_weighs_and_none_takes_the_mean():
    head, x = Two(), torch.randn(5, 4)
    each = head.logits(adapted().features(x) * 0 + x).softmax(-1)
    torch.testing.assert_close(adapted(head=head).mixed(x), each.mean(1))
    torch.testing.assert_close(adapted(head=head, select=First()).mixed(x), each[:, 0])


def test_the_file_holds_what_is_new_and_nothing_else(tmp_path):
    model, x = adapted(), torch.randn(5, 4)
    model.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"readout.extra", "head.linear.weight", "head.linear.bias"}
    other = adapted()
    other.readout.model.load_state_dict(model.readout.model.state_dict())
    assert np.array_equal(other.load(tmp_path / "a.safetensors").probabilities(x), model.probabilities(x))


def test_files_that_do_not_belong(tmp_path):
    model = adapted()
    model.save(tmp_path / "a.safetensors")
    with pytest.raises(FewerError, match="no saved adaptation to these classes"):
        adapted(("a", "b", "d")).load(tmp_path / "a.safetensors")
    with pytest.raises(FewerError, match="was adapted in another way"):
        adapted(head=Two()).load(tmp_path / "a.safetensors")
    with pytest.raises(FewerError, match="is no saved adaptation"):
        model.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(FewerError, match="is no saved adaptation"):
        model.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FewerError, match="no saved adaptation to these classes"):
        model.load(tmp_path / "other.safetensors")


def test_learning_leaves_the_model_in_evaluation_but_for_what_adapts():
    model = adapted()
    model.readout.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    model.readout.model[1].adapts = True
    model.learn(everything=False)
    assert (model.readout.training, model.readout.model[0].training, model.readout.model[1].training) == (
        True,
        False,
        True,
    )
    model.learn(everything=True)
    assert model.readout.model[0].training
