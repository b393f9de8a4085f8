"""Views: what is drawn, what stays, what is refused."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.pretrain.views import Mild

STILL = {"degrees": 0, "shift": 0, "shear": 0, "scale": (1.0, 1.0), "contrast": (1.0, 1.0), "noise": 0.0}


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_two_views_differ_and_equal_generators_give_equal_views():
    x = torch.rand(6, 3, 12, 12)
    first, second = Mild().pair(x, drawn())
    again = Mild().pair(x, drawn())
    assert not torch.allclose(first, second)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert first.shape == x.shape


def test_without_any_change_the_row_comes_back():
    x = torch.rand(6, 1, 12, 12)
    assert torch.allclose(Mild(**STILL).one(x, drawn()), x, atol=1e-5)


def test_each_change_alone():
    x = torch.zeros(200, 1, 32, 32)
    x[:, :, 12:20, 12:20] = 1.0
    places = torch.arange(32.0)
    width = x[0, 0].sum(0).gt(0.5).sum()
    moved = Mild(**{**STILL, "shift": 0.125}).one(x, drawn())
    centre = (moved.sum((1, 2)) * places).sum(1) / moved.sum((1, 2, 3)) - 15.5
    assert centre.abs().max() == pytest.approx(4, abs=0.2)  # an eighth of 32
    sized = Mild(**{**STILL, "scale": (0.5, 2.0)}).one(x, drawn())
    found = (sized[:, 0, 16] > 0.5).sum(1)
    assert found.min() == pytest.approx(width / 2, abs=1)
    assert found.max() == pytest.approx(2 * width, abs=1)
    contrast = Mild(**{**STILL, "contrast": (0.5, 1.5)}).one(x, drawn()).amax((1, 2, 3))
    assert contrast.min() == pytest.approx(0.5, abs=0.05)
    assert contrast.max() == pytest.approx(1.5, abs=0.05)
    noise = Mild(**{**STILL, "noise": 0.3}).one(x, drawn()) - x
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    x[:, :, :, :12] = 0.5
    flipped = (Mild(**STILL, flip=True).one(x, drawn()) - x).abs().amax((1, 2, 3)) > 0.1
    assert 0.35 < flipped.float().mean() < 0.65


def test_rows_that_are_no_images_have_views_too():
    for shape in ((6, 20), (6, 2, 20)):
        x = torch.rand(*shape)
        first, second = Mild().pair(x, drawn())
        assert first.shape == x.shape
        assert not torch.equal(first, second)


@pytest.mark.parametrize("bad", [{"scale": (0.0, 1.0)}, {"scale": (1.2, 1.0)}, {"contrast": (-0.1, 1.0)}])
def test_ranges_that_make_no_sense_are_refused(bad):
    with pytest.raises(FewerError, match="scale and contrast go from less to more"):
        Mild(**bad)
