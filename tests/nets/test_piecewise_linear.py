"""Piecewise-linear encodings: the definition, its limits, and what ``rtdl_num_embeddings`` gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewer.core.errors import FewerError
from fewer.nets.piecewise_linear import PiecewiseLinearEmbedding, PiecewiseLinearEncoding, quantile_bins


def by_hand(x, edges, width):
    """The definition, a component at a time, with the padding before the last."""
    parts = []
    for t in range(1, len(edges)):
        part = (x - edges[t - 1]) / (edges[t] - edges[t - 1])
        part = part if t == 1 else max(part, 0)
        parts.append(part if t == len(edges) - 1 else min(part, 1))
    return [*parts[:-1], *[0] * (width - len(parts)), parts[-1]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-20, 20), min_size=2, max_size=6, unique=True), min_size=1, max_size=4),
    st.floats(-30, 30),
)
def test_it_is_the_definition(cuts, value):
    cuts = [sorted(each) for each in cuts]
    encoding = PiecewiseLinearEncoding([torch.tensor(each, dtype=torch.float64) for each in cuts])
    found = encoding(torch.full((1, len(cuts)), value, dtype=torch.float64))[0]
    expected = [by_hand(value, each, encoding.width) for each in cuts]
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-9)


def test_between_the_outer_edges_the_components_sum_to_the_bins_passed():
    encoding = PiecewiseLinearEncoding([torch.tensor([0.0, 1.0, 3.0, 7.0])])
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [5.0], [7.0]])
    assert encoding(x).sum(dim=-1).flatten().tolist() == [0, 1, 1.5, 2, 2.5, 3]


def test_an_embedding_begins_as_a_linear_one():
    embedding = PiecewiseLinearEmbedding([torch.tensor([0.0, 1.0, 3.0])] * 2, width=4)
    x = torch.randn(9, 2)
    torch.testing.assert_close(embedding(x), embedding.bias + embedding.linear * x[..., None])


def test_an_embedding_can_bend_at_the_cuts_only():
    embedding = PiecewiseLinearEmbedding([torch.tensor([-1.0, 0.0, 2.0])], width=3).double()
    torch.nn.init.normal_(embedding.bent)
    x = torch.linspace(-3, 4, 701, dtype=torch.float64)[:, None]
    bends = embedding(x)[:, 0].diff(dim=0).diff(dim=0).abs().amax(dim=1) > 1e-9
    assert x[1:-1][bends].flatten().tolist() == pytest.approx([0.0])
    gradient = torch.autograd.gradcheck(
        embedding, (torch.tensor([[-2.0], [0.7]], dtype=torch.float64, requires_grad=True),)
    )
    assert gradient


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(2, 40), st.just(1)), elements=st.integers(-5, 5)), st.integers(2, 9))
def test_bins_increase_and_span_the_column(x, count):
    if len(np.unique(x)) < 2:
        return
    (edges,) = quantile_bins(torch.from_numpy(x), count)
    assert (edges.diff() > 0).all()
    assert 2 <= len(edges) <= count + 1
    assert (edges[0], edges[-1]) == (x.min(), x.max())


def test_bins_and_encodings_are_those_of_the_published_package():
    package = pytest.importorskip("rtdl_num_embeddings")
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    x[:, 1] = x[:, 1].round()
    x[:, 3] = (x[:, 3] > 0).float()
    with pytest.warns(UserWarning, match="just two bin edges"):
        theirs = package.compute_bins(x, n_bins=12)
    peer = package._PiecewiseLinearEncodingImpl(theirs)
    ours = quantile_bins(x, 12)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    wide = torch.randn(50, 4) * 3
    torch.testing.assert_close(PiecewiseLinearEncoding(theirs)(wide), peer(wide), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantile_bins(torch.randn(9, 2), 1), "1 bins were asked for; give 2 or more"),
        (lambda: quantile_bins(torch.full((9, 2), torch.nan)), "hold NaN or infinity"),
        (lambda: quantile_bins(torch.tensor([[0.0, 1.0], [1.0, 1.0]])), "column 1 holds a single value"),
        (lambda: quantile_bins(torch.zeros(1, 2)), "column 0 holds a single value"),
        (lambda: PiecewiseLinearEncoding([]), "no feature was given"),
        (lambda: PiecewiseLinearEncoding([torch.tensor([1.0])]), r"the edges of feature 0 are \[1.0\]"),
        (lambda: PiecewiseLinearEncoding([torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0, 1.0])]), "feature 1"),
        (lambda: PiecewiseLinearEncoding([torch.tensor([0.0, torch.inf])]), "finite ones that increase"),
        (lambda: PiecewiseLinearEmbedding([torch.tensor([0.0, 1.0])], 0), "width is 0; give 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
