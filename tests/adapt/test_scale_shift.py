"""Scale and shift: the identity at first, folded away exactly, counted, kept off the classifier, shared by tied layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewer.adapt.built_in import attach, changes, merged
from fewer.adapt.scale_shift import ScaleShift, scale_shift_for, scale_shift_parameters
from fewer.core.errors import FewerError


def batch_norm(layer):
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6), 4),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (5, 3, 6), 4),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3), (5, 6, 9), 4),
    "conv2d": (lambda: nn.Conv2d(6, 4, 3, groups=2), (5, 6, 8, 8), 4),
    "conv2d unbatched": (lambda: nn.Conv2d(6, 4, 3), (6, 8, 8), 4),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3), (5, 6, 4, 4), 4),
    "transposed in groups": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False), (5, 6, 4, 4), 4),
    "batch norm": (lambda: batch_norm(nn.BatchNorm2d(6)), (5, 6, 4, 4), 6),
    "batch norm of rows": (lambda: batch_norm(nn.BatchNorm1d(6, affine=False)), (5, 6), 6),
    "layer norm": (lambda: nn.LayerNorm(6), (5, 3, 6), 6),
    "layer norm without weights": (lambda: nn.LayerNorm((3, 6), elementwise_affine=False), (5, 3, 6), 18),
    "group norm": (lambda: nn.GroupNorm(2, 6), (5, 6, 4), 6),
    "instance norm": (lambda: nn.InstanceNorm2d(6), (5, 6, 4, 4), 6),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scale", [True, False])
def test_it_begins_as_the_identity_and_folds_away(name, scale):
    make, shape, channels = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    if not scale and layer.bias is None:
        assert scale_shift_for(layer, scale) is None
        return
    model = nn.Sequential(layer)
    model.register_parameter("kind", nn.Parameter(torch.zeros((), dtype=torch.float64)))
    model.requires_grad_(False)
    before = model(x)
    adapted = ScaleShift(scale).attach(model)
    assert torch.equal(adapted(x), before)
    new = [each for each in adapted.parameters() if each.requires_grad]
    assert sum(each.numel() for each in new) == channels * (1 + scale)
    for each in new:
        each.data.normal_()
    plain = merged(adapted)
    assert not any(hasattr(each, "built_in") for each in plain.modules())
    assert not any(each._forward_hooks for each in plain.modules())
    torch.testing.assert_close(plain(x), adapted(x), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(plain(x), before)


def test_a_transformer_layer_with_its_fast_path():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    model = model.double().eval().requires_grad_(False)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    before = model(x)
    adapted = ScaleShift().attach(copy.deepcopy(model))
    torch.testing.assert_close(adapted(x), before)
    for each in adapted.parameters():
        if each.requires_grad:
            each.data += 0.1 * torch.randn_like(each)
    with torch.no_grad():  # torch takes a short cut here where nothing is built in
        said = adapted(x)
        torch.testing.assert_close(said, merged(adapted)(x))
    torch.testing.assert_close(said, adapted(x))
    assert not torch.allclose(said, before)


def test_a_copy_has_changes_of_its_own():
    adapted = ScaleShift().attach(nn.Sequential(nn.Linear(2, 2)))
    other = copy.deepcopy(adapted)
    other[0].built_in.shift.data += 1
    x = torch.zeros(1, 2)
    torch.testing.assert_close(other(x), adapted(x) + 1)


def test_the_classifier_is_left_alone_unless_wanted():
    model = nn.ModuleDict({"body": nn.Linear(3, 5), "classifier": nn.Linear(5, 2), "overhead": nn.Linear(5, 7)})
    assert set(changes(model, scale_shift_for)) == {"body", "overhead"}
    assert scale_shift_parameters(model) == 24
    assert scale_shift_parameters(model, leave_out=()) == 28


def test_tied_layers_have_one_change_and_stay_tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight, second.bias = first.weight, first.bias
    model = nn.Sequential(first, nn.ReLU(), second, first).requires_grad_(False)
    adapted = ScaleShift().attach(model)
    assert adapted[0].built_in is adapted[2].built_in
    adapted[0].built_in.scale.data.normal_()
    adapted[0].built_in.shift.data.normal_()
    x, plain = torch.randn(3, 4), merged(adapted)
    assert plain[0].weight is plain[2].weight
    torch.testing.assert_close(plain(x), adapted(x))


def test_weight_decay_spares_it():
    (group,) = scale_shift_for(nn.Linear(2, 2)).own_groups()
    assert group["weight_decay"] == 0
    assert len(group["params"]) == 2


def test_errors():
    with pytest.raises(FewerError, match="no layer of the model can be adapted in this way; it is made of ReLU"):
        ScaleShift().attach(nn.Sequential(nn.ReLU()))
    adapted = ScaleShift().attach(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(FewerError, match="layer 0 carries an adapter already"):
        attach(adapted, {"0": scale_shift_for(adapted[0])})
    with pytest.raises(FewerError, match="nothing to merge"):
        merged(nn.Linear(2, 2))
    with pytest.raises(FewerError, match="no linear, convolutional or normalising layer"):
        scale_shift_parameters(nn.ReLU())
