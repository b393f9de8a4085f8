"""HOG: plain loops, edges of known directions, mirrors, whitening, the layout of a patch, errors."""

from __future__ import annotations

import math

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder
from fewer.pretrain.hog import HOG, hog


def plainly(image, cell, bins):
    """One channel, without whitening: (bins, cells down, cells across)."""
    height, width = image.shape
    found = torch.zeros(bins, math.ceil(height / cell), math.ceil(width / cell), dtype=image.dtype)
    for i in range(height):
        for j in range(width):
            down = float(image[i + 1, j] - image[i - 1, j]) if 0 < i < height - 1 else 0.0
            across = float(image[i, j + 1] - image[i, j - 1]) if 0 < j < width - 1 else 0.0
            degrees = math.degrees(math.atan2(down, across)) % 180
            found[min(int(degrees * bins / 180), bins - 1), i // cell, j // cell] += math.hypot(down, across)
    return found / cell**2


@pytest.mark.parametrize(("height", "width", "cell", "bins"), [(8, 8, 2, 9), (9, 7, 4, 9), (6, 10, 3, 6)])
def test_it_is_what_plain_loops_find(height, width, cell, bins):
    x = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = hog(x, cell, bins, whiten=False)
    for row in range(2):
        for channel in range(3):
            expected = plainly(x[row, channel], cell, bins)
            assert torch.allclose(found[row, :, channel], expected, atol=1e-12)


@pytest.mark.parametrize("degrees", [5, 30, 50, 90, 110, 170])
def test_a_slope_falls_into_the_bin_of_its_direction(degrees):
    turn = math.radians(degrees)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    found = hog((math.cos(turn) * columns + math.sin(turn) * rows)[None, None], cell=4, whiten=False)
    inner = found[0, :, 0, 1:-1, 1:-1]
    assert (inner.argmax(0) == degrees // 20).all()
    assert inner.sum(0) == pytest.approx(torch.full((2, 2), 2.0).numpy(), rel=1e-4)


def test_a_mirror_mirrors_the_bins():
    x = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")  # no pixel inside lies exactly between two bins
    plain, mirrored = (hog(each, 14, whiten=False)[:, :, 0, 0, 0] for each in (x, x.flip(3)))
    inside = torch.ones(9, dtype=torch.bool)
    inside[[0, 4, 8]] = False  # where gradients of the border and exact directions are
    assert torch.allclose(mirrored.flip(1)[:, inside], plain[:, inside], atol=1e-4)


def test_brightness_and_contrast_do_not_matter():
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    assert torch.allclose(hog(x, 4), hog(3 * x + 7, 4), atol=5e-3)


def test_whitened_histograms_have_mean_0_and_deviation_1_and_no_edges_stay_0():
    found = hog(torch.rand(2, 3, 16, 16), 4)
    assert found.mean(1).abs().max() < 1e-5
    assert (found.std(1, correction=0) - 1).abs().max() < 1e-2
    assert hog(torch.full((1, 1, 8, 8), 0.3), 4).abs().max() == 0


def test_a_patch_is_laid_out_as_cells_then_bins_then_channels():
    x = torch.rand(2, 3, 32, 16)
    encoder = TokenEncoder((3, 32, 16), (16, 16), width=8, depth=1, heads=1)
    found = HOG().build((3, 32, 16), encoder)(x).view(2, 2, 2, 2, 9, 3)  # rows, patches, cells, bins, channels
    plain = hog(x, 8)
    for patch, down, across, bin, channel in ((0, 0, 0, 0, 0), (0, 1, 0, 4, 2), (1, 0, 1, 8, 1), (1, 1, 1, 3, 0)):
        expected = plain[:, bin, channel, 2 * patch + down, across]
        assert torch.equal(found[:, patch, down, across, bin, channel], expected)


def test_frames_of_a_clip_are_images():
    clip = torch.rand(2, 1, 4, 8, 8)
    found = hog(clip, 4)
    for frame in range(4):
        assert torch.allclose(found[:, :, :, frame], hog(clip[:, :, frame], 4), atol=1e-6)
    encoder = TokenEncoder((1, 4, 8, 8), (2, 4, 4), width=12, depth=1, heads=1)
    assert HOG().build((1, 4, 8, 8), encoder)(clip).shape == (2, 8, 2 * 2 * 2 * 9)


def test_patches_that_do_not_cover_evenly_and_odd_ones_have_targets_too():
    for side, patch, width in ((14, 4, 36), (15, 5, 9), (28, 7, 9)):
        encoder = TokenEncoder((1, side, side), (patch, patch), width=8, depth=1, heads=1)
        assert HOG().build((1, side, side), encoder)(torch.rand(2, 1, side, side)).shape == (2, encoder.places, width)


def test_errors():
    with pytest.raises(FewerError, match=r"clips have frames after the channels; given \(4, 4\)"):
        hog(torch.zeros(4, 4))
    with pytest.raises(FewerError, match="a cell has a side of 1 or more and 2 bins or more"):
        hog(torch.zeros(1, 1, 4, 4), bins=1)
    encoder = TokenEncoder((1, 8, 8), (4, 4), width=8, depth=1, heads=1)
    with pytest.raises(FewerError, match="cells of 3 pixels a side do not divide patches of 4 by 4; give cell="):
        HOG(cell=3).build((1, 8, 8), encoder)
