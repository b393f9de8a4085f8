"""Masks of blocks: a slow version in plain Python, what must hold of any mask, limits and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.pretrain.multi_block import MultiBlock, RandomTubes, block_size, lists, multi_block, union_of_blocks


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("grid", "scale", "aspect", "size"),
    [
        ((14, 14), 0.15, 1.0, (5, 5)),  # sqrt(0.15 * 196) = 5.4
        ((14, 14), 0.7, 1.5, (14, 10)),  # sqrt(205.8) = 14.3, cut to the grid; sqrt(91.5) = 9.6
        ((4, 8), 0.7, 0.75, (4, 5)),
        ((2, 2), 0.01, 1.0, (1, 1)),
    ],
)
def test_a_block_has_the_size_of_the_formula(grid, scale, aspect, size):
    assert block_size(grid, scale, (aspect, aspect), drawn()) == size


def test_aspects_lie_between_the_bounds_and_reach_them():
    generator = drawn()
    ratios = np.array([np.divide(*block_size((200, 200), 0.15, (0.75, 1.5), generator)) for _ in range(400)])
    assert 0.73 < ratios.min() < 0.78
    assert 1.45 < ratios.max() < 1.53
    assert ratios.mean() == pytest.approx(1.125, abs=0.03)  # even between the bounds


def test_the_union_is_that_of_a_slow_version():
    rows, grid, size, blocks = 7, (5, 6), (2, 3), 3
    found = union_of_blocks(rows, grid, size, blocks, drawn(3))
    generator = drawn(3)
    tops = torch.randint(grid[0] - size[0] + 1, (rows, blocks, 1), generator=generator)
    lefts = torch.randint(grid[1] - size[1] + 1, (rows, blocks, 1), generator=generator)
    for row in range(rows):
        slow = np.zeros(grid, dtype=bool)
        for top, left in zip(tops[row, :, 0].tolist(), lefts[row, :, 0].tolist(), strict=True):
            slow[top : top + size[0], left : left + size[1]] = True
        assert np.array_equal(found[row].numpy(), slow)


def test_blocks_lie_everywhere_alike():
    places = union_of_blocks(6000, (1, 4), (1, 2), 1, drawn()).float().mean(0)[0]
    assert torch.allclose(places, torch.tensor([1 / 3, 2 / 3, 2 / 3, 1 / 3]), atol=0.03)


def test_what_is_hidden_is_hidden_in_all_frames_and_each_row_has_its_own():
    hidden = multi_block(50, (3, 6, 6), 2, 0.3, (0.75, 1.5), drawn()).view(50, 3, 36)
    assert (hidden == hidden[:, :1]).all()
    assert len({tuple(row.tolist()) for row in hidden[:, 0]}) > 10


def test_images_and_clips_of_one_frame_are_masked_alike():
    arguments = (9, 4, 0.15, (0.75, 1.5))
    image = multi_block(arguments[0], (6, 6), *arguments[1:], drawn())
    assert torch.equal(image, multi_block(arguments[0], (1, 6, 6), *arguments[1:], drawn()))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_lists_are_disjoint_and_with_what_was_cut_off_they_are_all_places(rows, frames, height, width, seed):
    grid = (frames, height, width)
    generator = drawn(seed)
    hidden = multi_block(rows, grid, 2, 0.3, (0.75, 1.5), generator)
    mask = lists(hidden, generator)
    assert mask.kept.shape == (rows, math.prod(grid) - int(hidden.sum(1).max()))
    assert mask.asked.shape == (rows, int(hidden.sum(1).min()))
    assert mask.kept.shape[1] >= frames
    for row in range(rows):
        kept, asked = mask.kept[row].tolist(), mask.asked[row].tolist()
        assert len(set(kept)) == len(kept)
        assert len(set(asked)) == len(asked)
        assert not hidden[row, kept].any()
        assert hidden[row, asked].all()


def test_the_cut_falls_on_all_frames_alike():
    # half of the rows hide one place and half three: two of those three are asked of nobody, and never the last ones only
    hidden = torch.zeros(2000, 10, dtype=torch.bool)
    hidden[:1000, 0], hidden[1000:, [0, 5, 9]] = True, True
    asked = lists(hidden, drawn()).asked[1000:, 0]
    shares = torch.bincount(asked, minlength=10)[[0, 5, 9]] / 1000
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.06)


def test_the_settings_of_the_paper_show_a_tenth_to_a_quarter():
    short, long = MultiBlock().draw(64, (8, 14, 14), drawn(1))
    shares = [mask.kept.shape[1] / (8 * 196) for mask in (short, long)]
    assert 0.05 < shares[1] < shares[0] < 0.3


def test_every_row_keeps_something_where_blocks_nearly_cover_the_grid():
    hidden = multi_block(500, (4, 4), 8, 0.15, (0.75, 1.5), drawn())
    assert not hidden.all(1).any()


def test_one_mask_of_each_kind_drawn_anew_and_again_from_the_same_stream():
    masking = MultiBlock(((4, 0.15), (1, 0.7)))
    assert masking.kinds == 2
    first, again, other = (masking.draw(8, (2, 4, 4), drawn(seed)) for seed in (0, 0, 1))
    assert len(first) == 2
    assert all(torch.equal(a.kept, b.kept) and torch.equal(a.asked, b.asked) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.kept, b.kept) for a, b in zip(first, other, strict=True))


def test_tubes_keep_the_same_places_of_each_frame():
    (mask,) = RandomTubes(0.75).draw(40, (3, 4, 4), drawn())
    kept = mask.kept.view(40, 4, 3) % 16
    assert (kept == kept[:, :, :1]).all()
    both = torch.cat([mask.kept, mask.asked], 1).sort(1).values
    assert torch.equal(both, torch.arange(48).expand(40, -1))
    counts = torch.bincount((mask.kept % 16).flatten(), minlength=16)
    assert counts.min() > 0
    assert RandomTubes(0.5).draw(2, (4, 4), drawn())[0].kept.shape == (2, 8)  # images are clips of one frame


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiBlock(()), "for each kind of mask, give how many"),
        (lambda: MultiBlock(((0, 0.5),)), "for each kind of mask, give how many"),
        (lambda: MultiBlock(((1, 1.0),)), "between 0 and 1"),
        (lambda: MultiBlock(aspect=(1.5, 0.75)), "the least and the largest"),
        (lambda: RandomTubes(1.0), "the ratio is 1.0"),
        (lambda: multi_block(2, (16,), 1, 0.5, (1, 1), drawn()), r"2 or 3 sides; this one has \(16,\)"),
        (lambda: multi_block(2, (1, 1), 1, 0.5, (1, 1), drawn()), "leave nothing to see of 1 by 1 patches"),
        (lambda: multi_block(2, (4, 4), 1, 0.99, (1, 1), drawn()), "1 blocks of scale 0.99 leave nothing to see"),
    ],
)
def test_impossible_masks_are_refused(make, message):
    with pytest.raises(FewerError, match=message):
        make()
