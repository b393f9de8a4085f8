"""DMJD: the algebra of its masks, the pairing of visible tokens, losses against plain formulas, reductions, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW
from fewer.models.tokens import TokenEncoder, TokenTransformer, gathered
from fewer.pretrain.dmjd import (
    DMJD,
    DisjointMasking,
    TokenScaledAdamW,
    VisibleBranch,
    disjoint_masks,
    joint_distillation,
)
from fewer.pretrain.hog import HOG
from fewer.pretrain.masked import MaskedModelling, Pixels, RandomMask
from fewer.tasks.digits import digits
from fewer.tasks.representation import Representation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sets(places):
    return [set(row.tolist()) for row in places]


# --- masks -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.15, 0.85), st.floats(0, 1), st.integers(0, 99))
def test_both_views_hide_as_many_patches_and_together_as_many_as_asked_for(down, across, mask_ratio, more, seed):
    places, pred_ratio = down * across, mask_ratio + more * (1 - mask_ratio)
    seen = int(places * (1 - mask_ratio) + 1e-9)
    if not 0 < seen < places:
        return
    first, second = disjoint_masks(3, (down, across), mask_ratio, pred_ratio, seeded(seed))
    fresh = int(min(pred_ratio - mask_ratio, mask_ratio) * places + 1e-9)
    for one, other in zip(sets(first.asked), sets(second.asked), strict=True):
        assert len(one) == len(other) == places - seen
        assert len(one | other) == places - seen + fresh
    for mask in (first, second):
        for kept, asked in zip(sets(mask.kept), sets(mask.asked), strict=True):
            assert len(kept) == seen
            assert kept | asked == set(range(places))
            assert not kept & asked


def test_half_and_all_are_exact_complements():
    first, second = disjoint_masks(5, (4, 6), 0.5, 1.0, seeded())
    assert sets(first.kept) == sets(second.asked)
    assert sets(first.asked) == sets(second.kept)


def test_predicting_no_more_than_is_hidden_is_the_same_mask_twice():
    first, second = disjoint_masks(5, (5, 5), 0.6, 0.6, seeded())
    assert sets(first.asked) == sets(second.asked)


@pytest.mark.parametrize(("grid", "block"), [((8, 8), 2), ((4, 12), (2, 3)), ((4, 6, 6), 2), ((4, 6, 6), (4, 1, 1))])
def test_blocks_are_hidden_as_a_whole(grid, block):
    sides = (1,) * (len(grid) - 2) + (block, block) if isinstance(block, int) else block
    for mask in disjoint_masks(4, grid, 0.5, 1.0, seeded(), block):
        hidden = torch.zeros(4, math.prod(grid)).scatter_(1, mask.asked, 1.0).view(4, *grid)
        for place in np.ndindex(*(side // part for side, part in zip(grid, sides, strict=True))):
            cut = tuple(slice(at * part, (at + 1) * part) for at, part in zip(place, sides, strict=True))
            inside = hidden[(slice(None), *cut)].flatten(1)
            assert (inside == inside[:, :1]).all()


def test_masks_are_of_each_row_evenly_spread_and_of_the_seed():
    first, second = disjoint_masks(4000, (4, 4), 0.5, 0.8, seeded())
    assert len({tuple(sorted(row)) for row in first.kept.tolist()}) > 1000
    for mask in (first, second):
        share = torch.zeros(4000, 16).scatter_(1, mask.asked, 1.0).mean(0)
        assert (share - 0.5).abs().max() < 0.04
    again = disjoint_masks(4000, (4, 4), 0.5, 0.8, seeded())
    assert torch.equal(second.kept, again[1].kept)


def test_two_hidden_places_are_hidden_again_independently():
    # of the hidden, those that are hidden again are any: no pair is preferred
    first, second = disjoint_masks(20000, (2, 4), 0.5, 0.75, seeded(1))
    both = torch.zeros(2, 20000, 8)
    for turn, mask in enumerate((first, second)):
        both[turn].scatter_(1, mask.asked, 1.0)
    again = both.prod(0)  # two of the four are hidden twice
    pairs = (again.T @ again) / 20000
    off = pairs[~torch.eye(8, dtype=torch.bool)]
    assert (off - 2 * 1 / (8 * 7)).abs().max() < 0.01


@pytest.mark.parametrize(("grid", "block"), [((8, 8), 2), ((4, 4), 1), ((7, 8), 1), ((3, 8, 8), 2), ((9, 9), 1)])
def test_blocks_by_default_where_there_are_enough(grid, block):
    chosen, expected = (disjoint_masks(2, grid, 0.6, 1.0, seeded(), each) for each in (None, block))
    assert torch.equal(chosen[0].kept, expected[0].kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, (4, 4), 0.0, 1.0), "ratio is 0.0"),
        ((1, (4, 4), 1.0, 1.0), "ratio is 1.0"),
        ((1, (4, 4), float("nan"), 1.0), "ratio is nan"),
        (
            (1, (4, 4), 0.6, 0.5),
            r"pred_ratio is 0.5; give the share that both masks hide together, from mask_ratio \(0.6\)",
        ),
        ((1, (4, 4), 0.6, 1.1), r"pred_ratio is 1.1"),
        ((1, (2, 2), 0.9, 1.0), "leaves 0 of 4 patches to see"),
    ],
)
def test_impossible_shares_are_refused(arguments, message):
    with pytest.raises(FewerError, match=message):
        disjoint_masks(*arguments, seeded())


@pytest.mark.parametrize("block", [2, (2, 2, 2), (0, 1)])
def test_blocks_that_do_not_fit_are_refused(block):
    with pytest.raises(FewerError, match=r"do not divide a grid of 7 by 7; give block=1"):
        disjoint_masks(1, (7, 7), 0.6, 1.0, seeded(), block)
    with pytest.raises(FewerError, match="pred_ratio"):
        DisjointMasking(0.6, 0.5)


# --- the visible branch ----------------------------------------------------------------------------------------------


class SaysItself(nn.Module):
    def forward(self, x):
        return x


def test_each_visible_token_meets_its_own_target():
    """An encoder whose tokens are the targets: a head that repeats them is never wrong, in whatever order they come."""
    shape = (1, 16, 16)
    encoder = TokenEncoder(shape, (4, 4), width=36, depth=0, heads=1)
    model = DMJD(encoder, DisjointMasking(block=1), visible=VisibleBranch(hidden=8), predictor=(8, 1, 1))
    x = torch.rand(6, *shape)

    def says_targets(x, keep):
        return gathered(model.targets(x), keep)

    encoder.tokens = says_targets
    model.visible.say = SaysItself()
    assert float(model.losses(x, seeded())["seen"].abs().max()) == 0
    # and the test would notice raster order
    encoder.tokens = lambda x, keep: gathered(model.targets(x), keep.sort(1).values)
    assert float(model.losses(x, seeded())["seen"].min()) > 0.01


def test_its_loss_is_smooth_l1_with_a_bend_at_two():
    branch = VisibleBranch(theta=3.0, hidden=4).build(1, 1)
    branch.say = SaysItself()
    errors = torch.tensor([0.0, 0.5, 1.9, 2.0, 5.0])
    expected = [0.25 * e * e if e < 2 else e - 1 for e in errors.tolist()]
    found = branch(errors.view(5, 1, 1), torch.zeros(5, 1, 1))
    assert found.tolist() == pytest.approx([3 * each for each in expected])


def test_the_head_has_the_published_layers():
    kinds = [type(layer).__name__ for layer in VisibleBranch().build(8, 4).say]
    assert kinds == ["Linear", "LayerNorm", "GELU", "Linear", "LayerNorm", "GELU", "Linear", "LayerNorm", "Linear"]
    assert VisibleBranch().build(8, 4).say[7].weight is None


@pytest.mark.parametrize("bad", [{"theta": -1}, {"beta": 0}, {"hidden": 0}, {"theta": float("nan")}])
def test_an_impossible_branch_is_refused(bad):
    with pytest.raises(FewerError, match="visible branch: theta must be 0 or more"):
        VisibleBranch(**bad)


# --- the loss as a whole ---------------------------------------------------------------------------------------------


def model_of(**options):
    torch.manual_seed(0)
    encoder = TokenEncoder((1, 16, 16), (4, 4), width=16, depth=2, heads=2)
    return DMJD(encoder, **{"masking": DisjointMasking(block=1), "predictor": (12, 1, 2), **options})


def test_the_loss_against_plain_loops():
    model = model_of(visible=VisibleBranch(theta=0.7, hidden=8)).double()
    x = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    found = model(x, seeded(4))
    true, masks = model.targets(x), model.masking.draw(3, (4, 4), seeded(4))
    for row in range(3):
        total = 0.0
        for mask in masks:
            kept, asked = mask.kept[row].tolist(), mask.asked[row].tolist()
            tokens = model.encoder.tokens(x[row : row + 1], mask.kept[row : row + 1])
            said = model.predictor(tokens, mask.kept[row : row + 1], mask.asked[row : row + 1])[0]
            for place, each in zip(asked, said, strict=True):
                total += ((each - true[row, place]) ** 2).mean() / len(asked) / 2
            for place, each in zip(kept, model.visible.say(tokens)[0], strict=True):
                wrong = (each - true[row, place]).abs()
                total += 0.7 * torch.where(wrong < 2, wrong**2 / 4, wrong - 1).mean() / len(kept) / 2
        assert found[row].item() == pytest.approx(total.item(), rel=1e-9)


def test_one_view_of_pixels_without_the_branch_is_a_masked_autoencoder():
    model = model_of(masking=RandomMask(0.75), target=Pixels(), visible=None)
    x = torch.rand(3, 1, 16, 16)
    found = model.losses(x, seeded())
    (mask,) = RandomMask(0.75).draw(3, (4, 4), seeded())
    said = model.predictor(model.encoder.tokens(x, mask.kept), mask.kept, mask.asked)
    cut = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(3, 16, 16)
    cut = (cut - cut.mean(-1, keepdim=True)) / (cut.var(-1, keepdim=True) + 1e-6).sqrt()
    assert list(found) == ["masked"]
    assert torch.allclose(found["masked"], (said - gathered(cut, mask.asked)).square().mean((1, 2)), atol=1e-6)


def test_the_masked_loss_moves_no_visible_head_and_masked_pixels_move_nothing_of_the_encoder():
    model = model_of(visible=VisibleBranch(hidden=8))
    x = torch.rand(3, 1, 16, 16)
    model.losses(x, seeded())["masked"].sum().backward()
    assert all(each.grad is None for each in model.visible.parameters())
    assert all(each.grad is not None for each in model.encoder.parameters())
    first, _ = model.masking.draw(3, (4, 4), seeded())
    seen = x.clone().requires_grad_()
    model.encoder.tokens(seen, first.kept).square().sum().backward()
    from fewer.models.tokens import patches

    moved = patches(seen.grad, (4, 4)).abs().sum(-1)
    assert float(moved.gather(1, first.asked).max()) == 0
    assert float(moved.gather(1, first.kept).min()) > 0


def test_equal_generators_give_equal_losses_and_torchs_own_is_the_default():
    model = model_of(visible=None)
    x = torch.rand(4, 1, 16, 16)
    assert torch.equal(model(x, seeded(3)), model(x, seeded(3)))
    assert not torch.equal(model(x, seeded(3)), model(x, seeded(4)))
    torch.manual_seed(7)
    first = model(x)
    torch.manual_seed(7)
    assert torch.equal(model(x), first)


def test_paper_sizes_are_the_defaults_of_the_module():
    model = DMJD(TokenEncoder((3, 32, 32), (16, 16), width=16, depth=1, heads=2), DisjointMasking(0.5, block=1))
    assert (model.predictor.enter.out_features, len(model.predictor.blocks)) == (512, 8)
    assert model.visible.say[0].out_features == 512
    assert model.targets.width == 108


# --- the learning rate -----------------------------------------------------------------------------------------------


def test_the_rate_follows_predicted_patches_and_not_views():
    assert TokenScaledAdamW(6e-4, 256, 0.5, 0.5).lr == pytest.approx(6e-4)
    assert TokenScaledAdamW(6e-4, 256, 0.5, 1.0).lr == pytest.approx(1.2e-3)
    made = TokenScaledAdamW(6e-4, 512, 0.6, 0.9).make([nn.Parameter(torch.zeros(1))])
    group = made.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (pytest.approx(1.8e-3), (0.9, 0.95), 0.05)
    for bad in ({"base": 0.0}, {"batch": 0}):
        with pytest.raises(FewerError, match="base must be above 0 and batch at least 1"):
            TokenScaledAdamW(**bad)


# --- in the loop -----------------------------------------------------------------------------------------------------

SMALL = {"model": TokenTransformer(width=16, depth=1, heads=2, patch=2), "predictor": (16, 1, 2), "batch": 48}


def test_by_name_it_fills_its_slots_and_leaves_those_that_another_insists_on():
    loop = compose.loop("dmjd(theta=0.5, block=1)")
    assert loop.masking == DisjointMasking(block=1)
    assert loop.visible == VisibleBranch(theta=0.5)
    assert loop.target == HOG()
    assert loop.optimiser == TokenScaledAdamW()
    assert compose.loop("dmjd + pixels").target == Pixels()
    assert compose.loop("dmjd(theta=0)").visible is None
    assert compose.loop("mae(0.6, masks=2) + hog + visible").masking == RandomMask(0.6, masks=2)
    assert compose.loop("disjoint + hog").masking == DisjointMasking()
    assert compose.loop("dmjd + crops").views is not None
    assert joint_distillation(target="pixels")["target"] == Pixels()
    with pytest.raises(FewerError, match="the target is 'sift'; choose 'hog' or 'pixels'"):
        joint_distillation(target="sift")


def test_it_learns_to_say_more_than_nothing():
    filled = {**joint_distillation(block=1), "optimiser": AdamW(3e-3)}
    learned = MaskedModelling(**SMALL, **filled, points=3).learn(digits(), budget=48 * 60)
    first, last = learned.curve.points[0].extras, learned.curve.points[-1].extras
    assert last["masked"] < 0.97 * first["masked"]
    assert last["seen"] < 0.97 * first["seen"]
    assert learned.ledger["views"] == 2 * learned.ledger["rows_seen"]


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    loop = MaskedModelling(**SMALL, **joint_distillation(block=1), points=3)
    whole = list(loop.run(digits(), 48 * 6, 1))
    file = tmp_path / "run"
    for _ in range(2):  # stopped after each point
        run = loop.run(digits(), 48 * 6, 1, file)
        next(run)
        next(run)
        run.close()
    again = list(loop.run(digits(), 48 * 6, 1, file))
    assert [point.score for point in again] == [point.score for point in whole]
    assert [point.extras["loss"] for point in again] == [point.extras["loss"] for point in whole]


def test_its_masks_serve_salts_first_stage():
    loop = compose.loop("masked-modelling(batch=16, points=1) + salt(masking='disjoint', teacher_masking='disjoint')")
    assert loop.masking == DisjointMasking()
    clips = np.random.default_rng(0).random((40, 1, 4, 16, 16), dtype=np.float32)
    learned = loop.learn(Representation("clips", clips, {}, test=2), 96)
    assert learned.result.embed(clips[:2]).shape == (2, 64)
