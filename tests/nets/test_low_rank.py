"""Low-rank layers: both beginnings, and that they are what sparse plus low rank is without its sparse part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.causal_lm import CausalLM
from fewer.nets.low_rank import LowRank, LowRankLinear, checked_rank
from fewer.nets.sltrain import SLTrain


def test_outputs_are_those_of_the_dense_weight():
    layer = LowRankLinear(10, 7, rank=3, alpha=5.0, initial="random").double()
    x = torch.randn(2, 4, 10, dtype=torch.float64)
    expected = x @ (5 / 3 * layer.B @ layer.A).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.to_dense()(x), expected)
    assert int(torch.linalg.matrix_rank(layer.weight)) == 3
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


def test_with_zero_b_it_says_nothing_and_only_b_has_a_gradient():
    layer = LowRankLinear(10, 7, rank=3, bias=False)
    out = layer(torch.randn(4, 10))
    assert not out.any()
    out.sum().backward()
    assert not layer.A.grad.any()
    assert layer.B.grad.any()


def test_where_every_layer_starts_at_zero_none_of_them_ever_moves():
    """Attention and gated parts of zeros have no gradient at all: the ablation of the sparse part is a saddle."""
    tokens = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(0))
    moved = {}
    for name, linears in {
        "zero": LowRank(4, 4.0),
        "random": LowRank(4, 4.0, "random"),
        "sparse": SLTrain(4, 0.1, 4.0),
    }.items():
        torch.manual_seed(0)
        network = CausalLM(width=16, layers=2, heads=2).build(50)
        done = linears.replace(network, 0)
        nn.functional.cross_entropy(network(tokens).flatten(0, 1), tokens.flatten()).backward()
        moved[name] = [bool(network.get_submodule(each).B.grad.any()) for each in done.layers]
    assert not any(moved["zero"])
    assert all(moved["random"])
    assert all(moved["sparse"])


@pytest.mark.parametrize(("rank", "alpha"), [(8, 8.0), (64, 16.0), (16, 1.0)])
def test_with_random_b_the_weight_has_the_variance_of_torchs_linear(rank, alpha):
    layer = LowRankLinear(400, 300, rank, alpha, initial="random", generator=torch.Generator().manual_seed(0))
    assert float(layer.weight.detach().std()) == pytest.approx((3 * 400) ** -0.5, rel=0.1)


def test_the_first_numbers_of_both_beginnings_are_the_same_and_follow_the_generator():
    one, two = (
        LowRankLinear(9, 8, 2, initial=each, generator=torch.Generator().manual_seed(3)) for each in ("zero", "random")
    )
    assert torch.equal(one.A, two.A)
    assert torch.equal(one.bias, two.bias)
    assert not torch.equal(one.B, two.B)


def test_wrong_numbers_are_refused():
    with pytest.raises(FewerError, match="unknown initial 'spectral'; choose 'zero' or 'random'"):
        LowRankLinear(9, 8, 2, initial="spectral")
    for rank in (0, 8, -1, True, 2.0):
        with pytest.raises(FewerError, match=f"a rank of {rank} does not lie in 1 to below the smaller side of 8 by 9"):
            LowRankLinear(9, 8, rank)
    assert [checked_rank(None, side, 99) for side in (2, 4, 64)] == [1, 1, 16]
