"""SALT: what it puts into the slots, by name and by object, and its compositions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.models.tokens import TokenEncoder, TokenTransformer
from fewer.pretrain.dmjd import DisjointMasking, disjoint_masks
from fewer.pretrain.masked import Absolute, MaskedModelling, Pixels, RandomMask, masked_losses
from fewer.pretrain.multi_block import MultiBlock, RandomTubes
from fewer.pretrain.salt import named_masking, rank_correlation, spread, static_teacher, v_pixel, vjepa
from fewer.pretrain.teachers import FrozenTeacher, GivenTeacher, MovingAverage
from fewer.tasks.clips import bouncing_digits

SMALL = ((4, 0.15), (1, 0.7))


def trained(filling, budget=32, seed=0, width=16):
    loop = MaskedModelling(TokenTransformer(width, 1, 2, 6), predictor=(16, 1, 2), batch=8, points=2, **filling)
    return loop.learn(bouncing_digits(clips=90, test=30), budget, seed)


def test_the_papers_numbers_are_the_defaults():
    made = static_teacher()
    assert made["masking"] == MultiBlock(((8, 0.15), (2, 0.7)), (0.75, 1.5))
    assert made["target"] == FrozenTeacher(share=1 / 6, masking=made["masking"])
    assert made["distance"] == Absolute()
    assert vjepa()["target"] == MovingAverage(0.998, 1.0)
    assert v_pixel()["target"] == Pixels(normalise=True)


def test_names_of_a_race_make_the_same_loops():
    salt = compose.loop("salt(blocks=((4, 0.15), (1, 0.7)), share=0.25, size=(32, 2, 4))")
    assert salt.masking == MultiBlock(SMALL)
    assert salt.target == FrozenTeacher(0.25, (32, 2, 4), MultiBlock(SMALL))
    assert compose.loop("vjepa(momentum=0.9)").target == MovingAverage(0.9, 1.0)
    assert compose.loop("v-pixel").distance == Absolute()
    assert compose.loop("random-tubes(0.8)").masking == RandomTubes(0.8)
    assert compose.loop("multi-block").target == Pixels()
    with pytest.raises(FewerError, match="both fill the slot masking"):
        compose.loop("salt + random-tubes")


def test_masks_of_either_stage_may_be_others():
    made = static_teacher(masking="random-tubes", teacher_masking=RandomMask(0.5))
    assert (made["masking"], made["target"].masking) == (RandomTubes(0.9), RandomMask(0.5))
    assert static_teacher(masking=RandomMask(0.5))["target"].masking == RandomMask(0.5)
    assert trained(made).curve.points[-1].extras["stage"] == 1
    with pytest.raises(FewerError, match="there is no masking 'random-tube'; did you mean random-tubes"):
        static_teacher(teacher_masking="random-tube")
    assert named_masking("vjepa") == MultiBlock()  # of several fillings, the one that masks


def test_disjoint_masks_in_the_first_stage():
    masking = DisjointMasking()
    assert named_masking("dmjd") == named_masking("disjoint") == masking
    made = static_teacher(blocks=SMALL, share=0.5, teacher_masking="dmjd")
    assert (made["masking"], made["target"].masking) == (MultiBlock(SMALL), masking)
    torch.manual_seed(0)
    shape = (1, 8, 24, 24)
    targets = made["target"].build(shape, TokenEncoder(shape, (2, 6, 6), 16, 1, 2))
    # its lesson is the loss of two masks that hide all patches between them
    x = torch.randn(3, *shape)
    masks = disjoint_masks(3, (4, 4, 4), 0.6, 1.0, torch.Generator().manual_seed(1), block=None)
    assert all(len(torch.cat([each.asked[row] for each in masks]).unique()) == 64 for row in range(3))
    expected = masked_losses(x, masks, targets.encoder, targets.decoder, targets.pixels, Absolute())["masked"]
    assert torch.equal(targets.lesson(x, torch.Generator().manual_seed(1)), expected)
    learned = trained(made, budget=64)
    assert [point.extras["stage"] for point in learned.curve] == [0, 1]
    # four lessons of two masks, then four of a short-range and a long-range one
    assert learned.ledger["views"] == 2 * 64
    assert learned.result.embed(bouncing_digits(clips=90, test=30).x[:4]).shape == (4, 16)


def test_what_one_run_learned_teaches_another_and_nothing_is_spent_on_it(tmp_path):
    pixels = trained(v_pixel(SMALL), width=24)
    file = tmp_path / "teacher.safetensors"
    pixels.result.save(file)
    made = static_teacher(str(file), size=(24, 1, 2), blocks=SMALL)
    assert isinstance(made["target"], GivenTeacher)
    learned = trained(made)
    assert all("stage" not in point.extras for point in learned.curve)
    by_name = compose.loop(f"salt(teacher='{file}', size=(24, 1, 2))")
    assert by_name.target == GivenTeacher(str(file), (24, 1, 2))


def test_the_spread_of_latents_is_between_rows_at_each_place():
    tokens = np.zeros((4, 3, 2))
    tokens[:, :, 0] = np.array([1, -1, 1, -1])[:, None]
    tokens += np.arange(3)[None, :, None]  # places differ, which is no spread
    assert spread(tokens) == 0.5


def test_ranks_are_shared_by_equals():
    from scipy.stats import spearmanr

    loss, score = [0.5, 0.4, 0.4, 0.1, 0.2], [0.2, 0.3, 0.3, 0.3, 0.5]
    assert rank_correlation(loss, score) == pytest.approx(spearmanr(loss, score).statistic)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0
