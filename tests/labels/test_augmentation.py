"""Views: what a weak one may be, what each strong operation does to a row, and that rows and scales do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fewer.core.errors import FewerError
from fewer.labels import augmentation
from fewer.labels.augmentation import IMAGE, SIGNAL, Augmentation, _cut_out, _retouched, warp

SHAPES = [(1, 8, 8), (3, 9, 12), (2, 17), (1, 40), (6,)]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, count=16, seed=0):
    return torch.rand(count, *shape, generator=draws(100 + seed))


def strengths(names, **given):
    return {name: torch.tensor(given.get(name.replace("-", "_"), 0.0)).view(1, 1, 1, 1) for name in names}


# --- both views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_view_is_a_changed_copy_and_depends_on_the_seed_alone(shape, view):
    x = rows(*shape)
    before = x.clone()
    make = getattr(Augmentation(), view)
    one, two, other = make(x, draws()), make(x, draws()), make(x, draws(1))
    assert one.shape == x.shape
    assert one.dtype == x.dtype
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one, x)
    assert torch.equal(x, before)
    assert torch.isfinite(one).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12), (2, 17)])
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_row_does_not_see_the_others(shape, view):
    x, y = rows(*shape), rows(*shape, seed=1)
    y[3] = x[3]
    make = getattr(Augmentation(), view)
    assert torch.allclose(make(x, draws())[3], make(y, draws())[3], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_units_do_not_matter(shape, view):
    x = rows(*shape).double()
    make = getattr(Augmentation(), view)
    torch.testing.assert_close(make(255 * x - 40, draws()), 255 * make(x, draws()) - 40, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 7, 1), (1, 2, 2), (1, 1), (1, 2), (1,)])
def test_small_rows_have_views_too(shape):
    x = rows(*shape)
    for view in (Augmentation(shift=0.9).weak(x, draws()), Augmentation(shift=0.9).strong(x, draws())):
        assert view.shape == x.shape
        assert torch.isfinite(view).all()


def test_no_rows_have_no_views():
    none = torch.zeros(0, 1, 8, 8)
    assert Augmentation().weak(none, draws()).shape == none.shape
    assert Augmentation().strong(none, draws()).shape == none.shape


# --- weak ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.floats(0, 0.6), st.booleans(), st.integers(0, 999))
def test_a_weak_view_is_moved_by_reflection_and_perhaps_flipped(height, width, shift, flip, seed):
    x = rows(2, height, width, count=6, seed=seed).numpy()
    views = Augmentation(shift=shift, flip=flip).weak(torch.from_numpy(x), draws(seed)).numpy()
    up, left = int(shift * height), int(shift * width)
    for row, view in zip(x, views, strict=True):
        padded = np.pad(row, ((0, 0), (up, up), (left, left)), mode="reflect")
        moved = [padded[:, i : i + height, j : j + width] for i in range(2 * up + 1) for j in range(2 * left + 1)]
        if flip:
            moved += [each[:, :, ::-1] for each in moved]
        assert any(np.array_equal(view, each) for each in moved)


def test_all_moves_and_both_sides_occur():
    x = torch.arange(16.0).expand(2000, 1, 16)
    views = Augmentation(shift=0.25, flip=True).weak(x, draws())
    assert len(torch.unique(views, dim=0)) == 2 * 9
    assert 900 < (views[:, 0, 8] > views[:, 0, 7]).sum() < 1100


def test_without_move_and_flip_a_weak_view_is_the_row():
    x = rows(3, 9, 12)
    assert torch.equal(Augmentation(shift=0).weak(x, draws()), x)


# --- strong: geometry ------------------------------------------------------------------------------------------------


def by_scipy(image, rotate, shear_x, shear_y, translate_x, translate_y, stretch):
    """The same move of one channel, in pixels (row first), by another library."""
    angle = np.pi / 6 * rotate
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1 + 0.3 * stretch, 0.3 * shear_x], [0.3 * shear_y, 1]])
    sides = np.array(image.shape)
    move = 0.3 * np.array([translate_y, translate_x]) * sides
    middle = (sides - 1) / 2
    matrix = matrix[::-1, ::-1]  # from (x, y) to (row, column)
    return ndimage.affine_transform(image, matrix, middle - matrix @ middle + move, order=1, mode="nearest")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.integers(4, 12), st.integers(4, 12))
def test_geometry_is_that_of_scipy(amounts, height, width):
    x = rows(1, height, width, count=1).double()
    names = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "stretch")
    found = warp(x, **{name: torch.tensor([amount]) for name, amount in zip(names, amounts, strict=True)})
    np.testing.assert_allclose(found[0, 0].numpy(), by_scipy(x[0, 0].numpy(), *amounts), atol=1e-5)


def test_each_image_has_its_own_geometry():
    x = rows(1, 8, 8, count=3)
    together = warp(x, rotate=torch.tensor([0.0, 0.5, -1.0]))
    for index, amount in enumerate((0.0, 0.5, -1.0)):
        assert torch.allclose(together[index], warp(x[index : index + 1], rotate=amount)[0], atol=1e-6)
    assert torch.allclose(together[0], x[0], atol=1e-5)


# --- strong: tones ---------------------------------------------------------------------------------------------------


def test_nothing_is_retouched_at_strength_nothing():
    x = rows(3, 8, 8, count=1)
    assert torch.allclose(_retouched(x, strengths(IMAGE), draws()), x, atol=1e-6)


def test_brightness_adds_the_rows_own_spread():
    x = rows(3, 8, 8, count=1)
    found = _retouched(x, strengths(IMAGE, brightness=-0.5), draws())
    assert torch.allclose(found, x - 0.5 * x.std(correction=0), atol=1e-5)


@pytest.mark.parametrize("strength", [-1.0, 0.5, 1.0])
def test_contrast_keeps_the_mean_and_scales_the_spread(strength):
    x = rows(3, 8, 8, count=1)
    found = _retouched(x, strengths(IMAGE, contrast=strength), draws())
    assert found.mean() == pytest.approx(x.mean().item(), abs=1e-5)
    assert found.std() == pytest.approx((1 + 0.9 * strength) * x.std().item(), abs=1e-5)


def test_saturation_is_for_colours_only():
    colour, other = rows(3, 8, 8, count=1), rows(4, 8, 8, count=1)
    found = _retouched(colour, strengths(IMAGE, saturation=-1.0), draws())
    grey = colour.mean(dim=1, keepdim=True)
    assert torch.allclose(found, 0.9 * grey + 0.1 * colour, atol=1e-5)
    assert torch.allclose(_retouched(other, strengths(IMAGE, saturation=-1.0), draws()), other, atol=1e-6)


def test_sharpness_is_away_from_the_mean_of_the_neighbours():
    x = rows(1, 6, 7, count=1)
    found = _retouched(x, strengths(IMAGE, sharpness=1.0), draws())[0, 0]
    for i in range(6):
        for j in range(7):
            near = x[0, 0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean()
            assert found[i, j] == pytest.approx((near + 1.9 * (x[0, 0, i, j] - near)).item(), abs=1e-5)


def test_noise_is_as_strong_as_asked():
    x = rows(1, 100, 100, count=1)
    noise = _retouched(x, strengths(IMAGE, noise=-1.0), draws()) - x
    assert noise.std() == pytest.approx(0.5 * x.std().item(), rel=0.05)


# --- strong: boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0.2, 0.5, 1.0])
def test_a_box_of_the_mean_is_cut_out(largest):
    x = rows(2, 20, 30, count=200)
    found = _cut_out(x, largest, draws())
    changed = (found != x).any(dim=1)
    assert (changed.any(dim=2).sum(dim=1) <= largest * 20 + 1).all()
    assert (changed.any(dim=1).sum(dim=1) <= largest * 30 + 1).all()
    for row, image, box in zip(x, found, changed, strict=True):
        down, across = box.any(dim=1).nonzero().flatten(), box.any(dim=0).nonzero().flatten()
        if len(down):
            assert box[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
            assert torch.allclose(image[:, box], row.mean())
    assert changed.any(dim=(1, 2)).float().mean() > 0.8
    assert torch.equal(_cut_out(x, 0.0, draws()), x)


def test_an_interval_is_cut_out_of_a_signal():
    x = rows(2, 1, 50, count=500)
    cut = (_cut_out(x, 0.5, draws()) != x).all(dim=1)[:, 0].float().mean(dim=1)
    assert 0.15 < cut.mean() < 0.25  # a quarter, less what lies beyond the border
    assert cut.max() <= 0.5


# --- strong: the draw ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "names"), [((1, 8, 8), IMAGE), ((1, 30), SIGNAL)])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_row_draws_so_many_operations(shape, names, count, monkeypatch):
    seen = {}

    def note(x, strength, generator):
        seen.update(strength)
        return x

    monkeypatch.setattr(augmentation, "_retouched", note)
    Augmentation(operations=count).strong(rows(*shape, count=400), draws())
    drawn = torch.stack([seen[name].flatten() for name in names])
    assert ((drawn != 0).sum(dim=0) == count).all()
    assert drawn.abs().max() <= 1
    if count:
        often = (drawn != 0).float().mean(dim=1)
        assert torch.allclose(often, torch.full_like(often, count / len(names)), atol=0.1)
        assert (drawn > 0).any()
        assert (drawn < 0).any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12), (2, 17)])
def test_without_operations_and_box_a_strong_view_is_a_weak_one(shape):
    plain = Augmentation(operations=0, cutout=0.0)
    x = rows(*shape)
    assert torch.allclose(plain.strong(x, draws()), plain.weak(x, draws()), atol=1e-5)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_vectors_have_noise_in_units_of_each_feature():
    x = torch.randn(20_000, 3, generator=draws(7)) * torch.tensor([1.0, 100.0, 0.0]) + 5
    noise = Augmentation().weak(x, draws()) - x
    assert noise.std(dim=0).tolist() == pytest.approx([0.05, 5.0, 0.0], rel=0.05, abs=1e-6)


def test_a_strong_view_of_vectors_sets_features_to_their_mean():
    x = torch.randn(20_000, 4, generator=draws(7)) + torch.arange(4.0)
    view = Augmentation(cutout=0.5).strong(x, draws())
    dropped = view == x.mean(dim=0)
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.01)
    assert (view - x)[~dropped].std() == pytest.approx(0.25, rel=0.05)
    assert not (Augmentation(cutout=0.0).strong(x, draws()) == x.mean(dim=0)).any()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 1, 4, 4, 4)])
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_other_rows_are_refused(shape, view):
    with pytest.raises(FewerError, match=r"augmentation: rows of shape .* have no views; give images"):
        getattr(Augmentation(), view)(torch.zeros(shape), draws())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"shift": 1.0}, "shift must lie in"),
        ({"shift": -0.1}, "shift must lie in"),
        ({"cutout": 1.1}, "cutout in"),
        ({"operations": 8}, "operations must be 0 to 7; 8 was given"),
        ({"operations": -1}, "operations must be 0 to 7"),
    ],
)
def test_impossible_numbers_are_refused(bad, message):
    with pytest.raises(FewerError, match=message):
        Augmentation(**bad)


def test_stretching_along_one_axis_is_stretching_the_transposed_image_along_the_other():
    x = torch.rand(3, 2, 12, 12)
    amount = torch.tensor([-1.0, 0.3, 1.0])
    assert torch.allclose(warp(x, stretch_y=amount), warp(x.mT, stretch=amount).mT, atol=1e-6)
    assert (warp(x, stretch_y=amount) - x).abs().amax((1, 2, 3)).min() > 0.01
