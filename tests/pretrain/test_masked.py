"""The masked loop: its masks, its targets, its losses by hand, resuming, seeds, views, tasks without labels, clips, errors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import Diverged, FewerError
from fewer.models.optimisers import AdamW
from fewer.models.tokens import TokenEncoder, TokenPredictor, TokenTransformer, gathered
from fewer.pretrain.masked import (
    Mask,
    MaskedModelling,
    Pixels,
    RandomMask,
    Squared,
    masked_losses,
    visible_places,
)
from fewer.pretrain.readout import KNN, LinearProbe
from fewer.pretrain.views import Crops
from fewer.tasks.digits import digits
from fewer.tasks.representation import Representation

SMALL = {"model": TokenTransformer(width=16, depth=1, heads=2, patch=2), "predictor": (16, 1, 2), "batch": 32}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(shape=(1, 8, 8), rows=100, labels=None, seed=0):
    x = np.random.default_rng(seed).random((rows, *shape), dtype=np.float32)
    return Representation("rows", x, labels or {}, test=20)


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_mask_splits_all_places():
    for mask in RandomMask(0.6, masks=3).draw(50, (5, 4), seeded()):
        whole = torch.cat([mask.kept, mask.asked], dim=1)
        assert torch.equal(whole.sort(1).values, torch.arange(20).expand(50, 20))
        assert mask.kept.shape == (50, 8)


def test_masks_differ_from_row_to_row_and_from_mask_to_mask_and_are_even():
    first, second = RandomMask(0.75, masks=2).draw(3000, (4, 4), seeded())
    assert not torch.equal(first.kept, second.kept)
    for mask in (first, second):
        share = torch.zeros(3000, 16).scatter_(1, mask.asked, 1.0).mean(0)
        assert (share - 0.75).abs().max() < 0.05
    both = torch.zeros(3000, 16).scatter_(1, first.asked, 1.0) + torch.zeros(3000, 16).scatter_(1, second.asked, 1.0)
    assert float((both > 0).float().mean()) == pytest.approx(1 - 0.25**2, abs=0.01)


@pytest.mark.parametrize(("places", "ratio", "seen"), [(64, 0.6, 25), (10, 0.9, 1), (100, 0.01, 99), (196, 0.75, 49)])
def test_the_number_of_visible_places_is_cut_to_a_whole(places, ratio, seen):
    assert visible_places(places, ratio) == seen


def test_masks_that_leave_nothing_are_refused():
    for ratio in (0.0, 1.0, -1, 2, float("nan")):
        with pytest.raises(FewerError, match="give the share of places that is masked, between 0 and 1"):
            RandomMask(ratio)
    with pytest.raises(FewerError, match=r"a ratio of 0\.9 leaves 0 of 4 patches to see"):
        RandomMask(0.9).draw(1, (2, 2), seeded())
    with pytest.raises(FewerError, match="0 masks for each row leave nothing to learn from"):
        RandomMask(masks=0)


# --- targets and distances -------------------------------------------------------------------------------------------


def test_pixels_are_those_of_the_patch_and_normalised_by_its_own_mean_and_deviation():
    encoder = TokenEncoder((2, 4, 4), (2, 2), width=8, depth=1, heads=1)
    x = torch.rand(3, 2, 4, 4)
    plain, normal = (Pixels(each).build((2, 4, 4), encoder)(x) for each in (False, True))
    assert plain.shape == normal.shape == (3, 4, 8)
    assert plain[1, 2].tolist() == x[1, :, 2:4, 0:2].permute(1, 2, 0).flatten().tolist()
    assert normal.mean(-1).abs().max() < 1e-5
    assert torch.allclose(normal.var(-1), torch.ones(3, 4), atol=1e-3)
    assert torch.isfinite(Pixels().build((2, 4, 4), encoder)(torch.ones(1, 2, 4, 4))).all()


def test_the_distance():
    said, true = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert Squared()(said, true).tolist() == [[2.5]]


# --- losses ----------------------------------------------------------------------------------------------------------


class Whole(torch.nn.Module):
    """Takes the mean of tokens as what is lost on those that are seen."""

    def forward(self, tokens, true):
        return (tokens[..., 0] * true[..., 0]).mean(1)


def test_losses_are_means_over_masks_and_masks_take_turns_with_the_tokens():
    torch.manual_seed(0)
    encoder = TokenEncoder((1, 8, 8), (2, 2), width=16, depth=1, heads=2)
    predictor = TokenPredictor((4, 4), 16, 8, 4, 1, 2, masks=2)
    torch.nn.init.normal_(predictor.mask_tokens)
    targets, x = Pixels().build((1, 8, 8), encoder), torch.rand(3, 1, 8, 8)
    masks = RandomMask(0.5, masks=3).draw(3, (4, 4), seeded())
    found = masked_losses(x, masks, encoder, predictor, targets, Squared(), Whole())
    masked, seen, true = torch.zeros(3), torch.zeros(3), targets(x)
    for token, mask in zip((0, 1, 0), masks, strict=True):
        tokens = encoder.tokens(x, mask.kept)
        said = predictor(tokens, mask.kept, mask.asked, token)
        masked += (said - gathered(true, mask.asked)).square().mean((1, 2)) / 3
        seen += Whole()(tokens, gathered(true, mask.kept)) / 3
    assert torch.allclose(found["masked"], masked, atol=1e-6)
    assert torch.allclose(found["seen"], seen, atol=1e-6)
    assert list(masked_losses(x, masks, encoder, predictor, targets, Squared())) == ["masked"]


def test_a_mask_may_ask_for_a_part_of_the_rest():
    encoder = TokenEncoder((1, 8, 8), (4, 4), width=8, depth=1, heads=1)
    predictor = TokenPredictor((2, 2), 8, 8, 16, 1, 1)
    mask = Mask(torch.tensor([[0]]), torch.tensor([[3]]))
    found = masked_losses(
        torch.rand(1, 1, 8, 8), [mask], encoder, predictor, Pixels().build((1, 8, 8), encoder), Squared()
    )
    assert found["masked"].shape == (1,)


# --- the loop --------------------------------------------------------------------------------------------------------


def test_it_learns_to_say_what_is_masked():
    """Rows that are stripes: what is masked follows from what is seen."""
    rng = np.random.default_rng(0)
    stripes = np.broadcast_to(rng.random((256, 1, 1, 8), dtype=np.float32), (256, 1, 8, 8))
    loop = MaskedModelling(**SMALL, masking=RandomMask(0.5), target=Pixels(False), optimiser=AdamW(3e-3), points=4)
    curve = loop.learn(Representation("stripes", np.ascontiguousarray(stripes), {}, test=1), 32 * 250).curve
    losses = [point.extras["masked"] for point in curve]
    assert losses[-1] < 0.6 / 12  # of the variance of a uniform number
    assert curve.points[-1].score == curve.points[-1].extras["views recognised"] == 1  # the only row held out


def test_without_labels_clips_are_scored_by_what_is_explained():
    clips = np.random.default_rng(0).random((40, 1, 4, 8, 8), dtype=np.float32)
    loop = MaskedModelling(**SMALL, points=1)
    (point,) = loop.learn(Representation("clips", clips, {}, test=4), 32).curve.points
    assert point.score == -point.extras["loss"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 7, 9), (1, 4, 8, 8)])
def test_images_and_clips_give_features(shape):
    learned = MaskedModelling(**SMALL, points=1).learn(rows_of(shape), 64)
    assert learned.result.embed(np.zeros((3, *shape))).shape == (3, 16)
    assert learned.ledger["rows_seen"] == learned.ledger["views"] == 64


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    loop = MaskedModelling(**SMALL, views=Crops(), masking=RandomMask(0.6, masks=2), points=4)
    whole = loop.learn(digits(rows=200), 32 * 8, seed=1)
    file = tmp_path / "run"
    for stop in (1, 3):
        run = loop.run(digits(rows=200), 32 * 8, 1, file)
        for _ in range(stop):
            next(run)
        run.close()
    again = list(loop.run(digits(rows=200), 32 * 8, 1, file))
    for name in ("masked", "linear", "knn", "loss", "views"):
        assert [point.extras[name] for point in again] == [point.extras[name] for point in whole.curve]


def test_equal_seeds_give_equal_runs_and_others_do_not():
    loop = MaskedModelling(**SMALL, points=1)
    first, second, third = (loop.learn(rows_of(), 64, seed).result.network.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["project.weight"], third["project.weight"])


@dataclass(frozen=True)
class Writes:
    """A view that writes down the rows it was given."""

    given: list = field(default_factory=list, repr=False)

    def one(self, x, generator):
        self.given.append(x)
        return x


def test_every_row_is_seen_once_before_any_is_seen_again():
    views = Writes()
    numbers = np.arange(97, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    task = Representation("numbered", numbers, {}, test=1)
    MaskedModelling(**SMALL, views=views, points=1).learn(task, 32 * 9)
    for turn in range(3):
        seen = torch.cat([each[:, 0, 0, 0] for each in views.given[3 * turn : 3 * turn + 3]])
        assert len(seen.unique()) == len(seen) == 96


def test_the_read_out_asked_for_gives_the_score():
    task = rows_of(labels={"half": np.arange(100) % 2})
    for readout, name in ((LinearProbe(), "linear"), (KNN(k=3), "knn")):
        (point,) = MaskedModelling(**SMALL, readout=readout, points=1).learn(task, 32).curve
        assert point.score == point.extras[name]
        assert {"linear", "knn", "masked", "loss", "views", "seconds"} <= set(point.extras)


def test_budgets_are_kept_and_points_lie_on_them():
    curve = MaskedModelling(**SMALL, points=3).learn(rows_of(), 32 * 6 + 5).curve
    assert curve.points[-1].spent == 32 * 6
    with pytest.raises(FewerError, match="below the first round, which takes 32"):
        MaskedModelling(**SMALL).learn(rows_of(), 31)


def test_by_name():
    loop = compose.loop("masked-modelling(batch=32, points=2) + mae(0.5)")
    assert (loop.masking, loop.batch, loop.target) == (RandomMask(0.5), 32, Pixels())


def test_errors():
    for bad in ({"batch": 0}, {"points": 0}, {"clip": -1.0}):
        with pytest.raises(FewerError, match="batch and points must be at least 1 and clip at least 0"):
            MaskedModelling(**bad)
    with pytest.raises(FewerError, match=r"patches are cut from \(channels, height, width\)"):
        MaskedModelling(**SMALL).learn(rows_of((5,)), 32)
    with pytest.raises(FewerError, match="leaves 0 of 1 patches to see"):
        MaskedModelling(**{**SMALL, "model": TokenTransformer(patch=8)}).learn(rows_of(), 32)
    with pytest.raises(Diverged, match="lower the learning rate"):
        MaskedModelling(**SMALL, optimiser=AdamW(1e30), points=1).learn(rows_of(), 32 * 6)
