"""The meter against numbers counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from fewer.adapt.meter import bytes_for_backward, trainable


def test_a_linear_layer_keeps_its_input_where_its_weight_learns():
    x, layer = torch.randn(10, 4), nn.Linear(4, 3)
    assert bytes_for_backward(lambda: layer(x), layer.parameters()) == 10 * 4 * 4
    layer.weight.requires_grad_(False)
    assert bytes_for_backward(lambda: layer(x), layer.parameters()) == 0


def test_what_is_kept_twice_counts_once():
    x = torch.randn(8, requires_grad=True)
    assert bytes_for_backward(lambda: (x * x).sum()) == 8 * 4
    y = torch.randn(8)
    assert bytes_for_backward(lambda: (x * y).sum()) == 8 * 4
    assert bytes_for_backward(lambda: x.exp() * y) == 2 * 8 * 4


def test_parameters_are_not_counted_unless_unnamed():
    x, layer = torch.randn(5, 4, requires_grad=True), nn.Linear(4, 3, bias=False)
    assert bytes_for_backward(lambda: layer(x), layer.parameters()) == 5 * 4 * 4
    assert bytes_for_backward(lambda: layer(x)) == 5 * 4 * 4 + 4 * 3 * 4


def test_without_gradients_nothing_is_kept():
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        assert bytes_for_backward(lambda: layer(torch.zeros(2, 4))) == 0


def test_shared_and_frozen_parameters():
    layer = nn.Linear(4, 3)
    tied = nn.Sequential(layer, layer, nn.Linear(3, 2).requires_grad_(False))
    assert trainable(tied) == 15
    assert trainable() == 0
