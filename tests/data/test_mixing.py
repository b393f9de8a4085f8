from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fewer.core.errors import FewerError
from fewer.data.loop import Batch
from fewer.data.mixing import CutMix, MixUp

SHAPES = {"signal": (1, 40), "image": (3, 14, 9), "volume": (2, 5, 6, 7)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(shape, rows=6):
    """Row r holds the number r everywhere."""
    x = torch.arange(rows).float().reshape(rows, *[1] * len(shape)).expand(rows, *shape).clone()
    return x, torch.arange(rows)


@pytest.mark.parametrize("make", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_intended_ratio_has_the_beta_distribution(make, alpha):
    # so long a signal that a box at the border is the only thing that moves a CutMix ratio
    x, y = torch.zeros(2, 1, 3), torch.tensor([0, 1])
    if make is MixUp:
        ratios = [make(alpha)(x, y, seeded(seed))[1].ratio[0].item() for seed in range(800)]
        assert scipy.stats.kstest(ratios, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    else:
        x = torch.zeros(2, 1, 4000)
        ratios = np.array([make(alpha)(x, y, seeded(seed))[1].ratio[0].item() for seed in range(800)])
        intended = np.array([MixUp(alpha)(x, y, seeded(seed))[1].ratio[0].item() for seed in range(800)])
        assert (ratios >= intended - 1e-3).all()  # what the border cuts off is not pasted
        assert (np.abs(ratios - intended) < 1e-3).mean() > 0.2


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mixup_is_the_weighted_mean(shape):
    x, y = batch(shape)
    mixed, target = MixUp()(x, y, seeded(1))
    assert sorted(target.second.tolist()) == list(range(6))
    assert len(set(target.ratio.tolist())) == 1
    expected = target.ratio * target.first + (1 - target.ratio) * target.second
    torch.testing.assert_close(mixed, expected.reshape(6, *[1] * len(shape)).expand(6, *shape).contiguous())


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cutmix_pastes_one_box_and_the_ratio_is_what_is_left(shape, seed, inside):
    x, y = batch(shape)
    mixed, target = CutMix(inside=inside)(x, y, seeded(seed))
    moved = target.first != target.second
    assert moved.any()
    pasted = (mixed != x)[moved]
    assert torch.equal(mixed[moved][pasted], x[target.second][moved][pasted])
    assert torch.equal(mixed[~moved], x[~moved])
    box = pasted[0]
    assert (pasted == box).all()  # the same place in all rows
    assert (box == box[0]).all()  # and in all channels
    assert target.ratio[0].item() == pytest.approx(1 - box.float().mean().item(), abs=1e-6)
    if box.any():
        where = box[0].nonzero()
        sides = where.max(0).values - where.min(0).values + 1
        assert len(where) == math.prod(sides.tolist())  # a box, without holes


def test_cutmix_cuts_every_place_alike_away_from_the_border():
    x, y = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 1, 400).clone(), torch.tensor([0, 1])
    cut = torch.zeros(400)
    swapped = 0
    for seed in range(1500):
        mixed, target = CutMix(50.0)(x, y, seeded(seed))
        if target.second[0] == 1:
            cut += mixed[0, 0]
            swapped += 1
    share = cut / swapped
    # a box of half the length is over a place in the middle half of the time, over the ends a quarter
    assert share[150:250].mean() == pytest.approx(0.5, abs=0.05)
    assert share[0].item() == pytest.approx(0.25, abs=0.05)
    assert share[-1].item() == pytest.approx(0.25, abs=0.05)


def test_a_box_inside_has_the_intended_size_and_every_place_it_fits():
    x, y = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 1, 40).clone(), torch.tensor([0, 1])
    begins = []
    for seed in range(400):
        mixed, target = CutMix(inside=True)(x, y, seeded(seed))
        intended = MixUp()(x, y, seeded(seed))[1].ratio[0].item()
        assert target.ratio[0].item() == pytest.approx(intended, abs=0.5 / 40 + 1e-6)
        if target.second[0] == 1 and 18 <= mixed[0, 0].sum() <= 22:
            begins.append(int(mixed[0, 0].argmax()))
    assert min(begins) <= 1
    assert max(begins) >= 19


@pytest.mark.parametrize("mixing", [MixUp(), CutMix(), CutMix(inside=True)])
def test_the_rows_are_left_as_they_are_and_a_seed_decides_everything(mixing):
    x, y = torch.rand(5, 1, 8, 8), torch.randint(3, (5,))
    before = x.clone()
    first, second = mixing(x, y, seeded(4)), mixing.mix(Batch(x, y, seeded(4)))
    assert torch.equal(x, before)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].second, second[1].second)
    assert torch.equal(first[1].ratio, second[1].ratio)
    assert not torch.equal(first[0], mixing(x, y, seeded(5))[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_rows_is_kept(dtype):
    for mixing in (MixUp(), CutMix()):
        assert mixing(torch.rand(4, 1, 8).to(dtype), torch.arange(4), seeded())[0].dtype == dtype


@pytest.mark.parametrize("mixing", [MixUp(), CutMix(), CutMix(inside=True)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.8, 1.0])
def test_rows_are_blended_with_others_in_a_given_ratio(mixing, ratio):
    x, others = torch.zeros(3, 2, 10, 10), torch.ones(3, 2, 10, 10)
    mixed, share = mixing.blend(x, others, ratio, seeded())
    assert mixed.mean().item() == pytest.approx(1 - share, abs=1e-6)
    assert x.sum() == 0
    if not isinstance(mixing, CutMix):
        assert share == ratio
    elif mixing.inside:
        assert share == pytest.approx(ratio, abs=0.06)  # sides are whole numbers
    else:
        assert share >= ratio - 0.06  # what lies beyond the border is not pasted
    if isinstance(mixing, CutMix):
        assert torch.equal(mixed[0, 0], mixed[2, 1])
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}


def test_one_row_is_mixed_with_itself():
    x, y = torch.rand(1, 1, 8), torch.tensor([2])
    for mixing in (MixUp(), CutMix()):
        mixed, target = mixing(x, y, seeded())
        torch.testing.assert_close(mixed, x)
        assert target.second.tolist() == [2]


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_what_cannot_be_mixed_is_refused(make):
    with pytest.raises(FewerError, match="alpha must be positive, 0 was given"):
        make(0)
    with pytest.raises(FewerError, match="an empty batch"):
        make()(torch.zeros(0, 1, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(FewerError, match="turn one-hot labels into numbers"):
        make()(torch.zeros(3, 1, 4), torch.zeros(3, 10))
    with pytest.raises(FewerError, match="one whole number a row"):
        make()(torch.zeros(3, 1, 4), torch.zeros(4, dtype=torch.long))


def test_cutmix_needs_places():
    with pytest.raises(FewerError, match=r"these are \(4,\); use mixup"):
        CutMix()(torch.zeros(3, 4), torch.arange(3))
    with pytest.raises(FewerError, match=r"these are \(4,\); use mixup"):
        CutMix().blend(torch.zeros(3, 4), torch.zeros(3, 4), 0.5)
