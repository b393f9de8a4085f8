from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.control.critics import Critics, QEnsemble
from fewer.core.errors import FewerError
from fewer.models.ensemble import LayerNormEnsemble


@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_member_is_a_plain_network(layer_norm):
    torch.manual_seed(0)
    ensemble = QEnsemble(3, 2, members=4, hidden=(8, 5), layer_norm=layer_norm)
    for layer in ensemble.layers:  # no two members alike
        if isinstance(layer, LayerNormEnsemble):
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    seen, done = torch.randn(6, 3), torch.randn(6, 2)
    for member in range(4):
        x = torch.cat([seen, done], -1)
        for layer in ensemble.layers:
            if isinstance(layer, LayerNormEnsemble):
                x = nn.functional.layer_norm(x, x.shape[-1:], layer.weight[member], layer.bias[member])
            else:
                x = layer(x) if isinstance(layer, nn.ReLU) else x @ layer.weight[member] + layer.bias[member]
        assert torch.allclose(ensemble(seen, done)[member], x[:, 0], atol=1e-5)


def test_members_start_apart_and_learn_alone():
    ensemble = QEnsemble(1, 1, members=3, hidden=(4,))
    values = ensemble(torch.ones(1, 1), torch.ones(1, 1))
    assert len(set(values[:, 0].tolist())) == 3
    values[1].sum().backward()
    gradient = ensemble.layers[0].weight.grad
    assert gradient[[0, 2]].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


def test_the_target_is_the_least_of_all_or_of_a_random_subset():
    values = torch.arange(12.0).reshape(4, 3)
    assert Critics(members=4).target(values).tolist() == [0, 1, 2]
    torch.manual_seed(0)
    seen = {tuple(Critics(members=4, subset=2).target(values).tolist()) for _ in range(200)}
    assert seen == {(0, 1, 2), (3, 4, 5), (6, 7, 8)}  # the greatest is never the least of two
    # with replacement it may be that of one member drawn twice
    twice = Critics(members=4, subset=2, replacement=True)
    assert (9, 10, 11) in {tuple(twice.target(values).tolist()) for _ in range(200)}
    assert Critics(members=1, subset=1).target(values[:1]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong", [{"members": 0}, {"hidden": ()}, {"subset": 3}, {"subset": 0}, {"lr": 0}, {"tau": 0.0}, {"every": 0}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(FewerError, match="critics"):
        Critics(**wrong)
