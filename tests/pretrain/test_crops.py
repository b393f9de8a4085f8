"""Crops: what is cut, how often mirrored, clips, seeds, errors."""

from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.pretrain.views import Crops


def ramp(rows=500, side=32):
    """Two channels that say where a pixel was: across and down, from -1 to 1."""
    places = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack([places.expand(side, side), places[:, None].expand(side, side)])[None].repeat(rows, 1, 1, 1)


def edges(view):
    """Left, right, top, bottom of what is seen of a ramp, by its slope."""
    across, down = view[:, 0, 16], view[:, 1, :, 16]
    found = []
    for line in (across, down):
        middle, slope = line[:, 8:24].mean(1), (line[:, 23] - line[:, 8]) / 15 * 16
        found += [middle - slope, middle + slope]
    return torch.stack(found)


def test_crops_lie_inside_and_have_the_asked_area_and_aspect():
    view = Crops(scale=(0.5, 0.7), aspect=(0.8, 1.25), flip=False).one(ramp(), torch.Generator().manual_seed(0))
    left, right, top, bottom = edges(view)
    assert min(left.min(), top.min()) > -1.001
    assert max(right.max(), bottom.max()) < 1.001
    area, aspect = (right - left) * (bottom - top) / 4, (right - left) / (bottom - top)
    assert 0.49 < area.min() < 0.51 < 0.69 < area.max() < 0.71
    assert 0.79 < aspect.min() < 0.83
    assert 1.2 < aspect.max() < 1.26
    assert abs(float((left + right).mean())) < 0.05


def test_half_of_the_views_are_mirrored():
    left, right, *_ = edges(Crops().one(ramp(), torch.Generator().manual_seed(0)))
    assert 0.4 < float((left > right).float().mean()) < 0.6
    left, right, *_ = edges(Crops(flip=False).one(ramp(50), torch.Generator().manual_seed(0)))
    assert (left < right).all()


def test_a_mirror_of_the_whole_is_exact():
    x = torch.rand(64, 3, 9, 7)
    view = Crops(scale=(1, 1), aspect=(1, 1)).one(x, torch.Generator().manual_seed(0))
    same, turned = ((view - each).abs().flatten(1).amax(1) < 1e-5 for each in (x, x.flip(3)))
    assert (same ^ turned).all()
    assert 10 < int(turned.sum()) < 54


def test_frames_are_cut_alike_and_pairs_are_not():
    clip = torch.rand(4, 1, 1, 16, 16).expand(-1, 2, 3, -1, -1)
    view = Crops().one(clip, torch.Generator().manual_seed(0))
    assert view.shape == clip.shape
    assert torch.allclose(view[:, :, :1].expand_as(view), view)
    first, second = Crops().pair(clip, torch.Generator().manual_seed(0))
    assert not torch.allclose(first, second)
    assert torch.equal(first, view)


def test_errors():
    for bad in (
        {"scale": (0, 1)},
        {"scale": (0.9, 0.5)},
        {"scale": (0.5, 1.1)},
        {"aspect": (0, 1)},
        {"aspect": (2, 1)},
    ):
        with pytest.raises(FewerError, match="crops: scale goes from less to more"):
            Crops(**bad)
    with pytest.raises(FewerError, match=r"crops: rows of shape \(5,\) are no images"):
        Crops().one(torch.zeros(2, 5), torch.Generator())
