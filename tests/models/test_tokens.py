"""Patches against plain loops, positions, tokens of a part of the patches, where gradients go, shapes and errors."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.models.tokens import (
    TokenEncoder,
    TokenPredictor,
    TokenTransformer,
    gathered,
    grid_of,
    patches,
    sine_positions,
)


def orders(rows, places, seed=0):
    return torch.rand(rows, places, generator=torch.Generator().manual_seed(seed)).argsort(1)


# --- patches ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4)), min_size=2, max_size=3), st.integers(1, 3))
def test_patches_are_what_plain_loops_cut(dimensions, channels):
    sides, size = [side for side, _ in dimensions], tuple(part for _, part in dimensions)
    x = torch.rand(2, channels, *sides)
    grid = grid_of(tuple(sides), size)
    found = patches(x, size)
    assert found.shape == (2, math.prod(grid), math.prod(size) * channels)
    for number, place in enumerate(itertools.product(*map(range, grid))):
        expected = []
        for inside in itertools.product(*map(range, size)):
            at = [part * here + step for part, here, step in zip(size, place, inside, strict=True)]
            beyond = any(each >= side for each, side in zip(at, sides, strict=True))
            expected += [0.0 if beyond else float(x[(1, channel, *at)]) for channel in range(channels)]
        assert found[1, number].tolist() == expected


@pytest.mark.parametrize(("sides", "size"), [((8, 8), (4,)), ((8, 8), (0, 4)), ((0, 8), (4, 4)), ((2, 8, 8), (4, 4))])
def test_patches_that_cannot_be_cut_are_refused(sides, size):
    with pytest.raises(FewerError, match="cannot be cut into patches of"):
        grid_of(sides, size)


# --- positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "width"), [((3, 5), 16), ((2, 3, 4), 18), ((7,), 4), ((3, 3), 10)])
def test_positions_are_sines_and_cosines_of_each_dimension(grid, width):
    found, share = sine_positions(grid, width), width // (2 * len(grid))
    for number, place in enumerate(itertools.product(*map(range, grid))):
        angles = [[at * 10000 ** (-rate / share) for rate in range(share)] for at in place]
        expected = [wave(each) for axis in angles for wave in (math.sin, math.cos) for each in axis]
        expected += [0.0] * (width - len(expected))
        assert found[number].tolist() == pytest.approx(expected, abs=1e-6)
    assert len({tuple(row) for row in found.tolist()}) == math.prod(grid)


def test_too_few_channels_for_positions_are_refused():
    with pytest.raises(FewerError, match="5 channels are too few for 3 dimensions; give 6 or more"):
        sine_positions((2, 2, 2), 5)


# --- the encoder -----------------------------------------------------------------------------------------------------

IMAGE, CLIP = ((2, 8, 12), (4, 4)), ((1, 4, 8, 8), (2, 4, 4))


def encoder_of(kind=IMAGE, **options):
    torch.manual_seed(0)
    shape, patch = kind
    return TokenEncoder(shape, patch, **{"width": 16, "depth": 2, "heads": 2, **options}), torch.rand(3, *shape)


@pytest.mark.parametrize("kind", [IMAGE, CLIP])
def test_all_places_kept_in_any_order_give_the_same_tokens_in_that_order(kind):
    encoder, x = encoder_of(kind)
    whole, keep = encoder.tokens(x), orders(3, encoder.places)
    assert whole.shape == (3, encoder.places, 16)
    assert torch.allclose(encoder.tokens(x, keep), gathered(whole, keep), atol=1e-5)
    assert torch.allclose(encoder(x), whole.mean(1))


@pytest.mark.parametrize("kind", [IMAGE, CLIP])
def test_tokens_of_a_part_follow_the_order_and_know_nothing_of_the_rest(kind):
    encoder, x = encoder_of(kind)
    keep = orders(3, encoder.places)[:, :3]
    found = encoder.tokens(x, keep)
    assert torch.allclose(encoder.tokens(x, keep.flip(1)), found.flip(1), atol=1e-5)
    x.requires_grad_()
    (touched,) = torch.autograd.grad(encoder.tokens(x, keep).square().sum(), x)
    moved = patches(touched, encoder.patch).abs().sum(-1) > 0
    assert torch.equal(moved, torch.zeros(3, encoder.places).scatter_(1, keep, 1.0) > 0)


def test_a_kept_place_has_its_own_position():
    encoder, x = encoder_of(depth=0)
    keep = torch.tensor([[4, 1], [0, 5], [2, 3]])
    plain = encoder.norm(encoder.project(patches(x, (4, 4))) + encoder.positions)
    for row in range(3):
        for number, place in enumerate(keep[row].tolist()):
            assert torch.allclose(encoder.tokens(x, keep)[row, number], plain[row, place], atol=1e-6)


def test_gradients_of_the_encoder_are_right():
    encoder, x = encoder_of(((1, 4, 4), (2, 2)), width=4, depth=1, heads=1)
    encoder, x, keep = encoder.double(), x.double()[:2], torch.tensor([[2, 0], [1, 3]])
    weight = encoder.project.weight.detach().clone().requires_grad_()

    def said(weight):
        return torch.func.functional_call(Tokens(encoder), {"encoder.project.weight": weight}, (x, keep))

    assert torch.autograd.gradcheck(said, (weight,))


class Tokens(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, keep):
        return self.encoder.tokens(x, keep)


def test_biases_norms_and_mask_tokens_do_not_decay():
    encoder, _ = encoder_of()
    predictor = TokenPredictor((2, 3), 16, 8, 4, 1, 2, masks=2)
    groups = parameter_groups(torch.nn.ModuleList([encoder, predictor]))
    assert len(groups) == 2
    assert all(each.ndim == 2 for each in groups[0]["params"])
    spared = {id(each) for each in groups[1]["params"]}
    assert groups[1]["weight_decay"] == 0
    assert id(predictor.mask_tokens) in spared
    assert id(encoder.norm.weight) in spared
    everything = [*encoder.parameters(), *predictor.parameters()]
    assert sum(len(group["params"]) for group in groups) == len(everything)
    AdamW().make(groups)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), (4, 4), 16, 1, 2), r"patches are cut from \(channels, height, width\)"),
        (((1, 8, 8), (4, 4), 16, 1, 3), "16 channels cannot be shared by 3 heads"),
        (((1, 8, 8), (4, 4, 4), 16, 1, 2), "8 by 8 cannot be cut into patches of 4 by 4 by 4"),
    ],
)
def test_impossible_encoders_are_refused(arguments, message):
    with pytest.raises(FewerError, match=message):
        TokenEncoder(*arguments)


def test_rows_of_another_shape_are_refused():
    encoder, _ = encoder_of()
    with pytest.raises(FewerError, match=r"rows are \(1, 8, 12\) and it was made for \(2, 8, 12\)"):
        encoder(torch.rand(2, 1, 8, 12))


def test_a_description_gives_its_patch_to_images_and_clips():
    model = TokenTransformer(width=12, depth=1, heads=2, patch=4, frames=2)
    assert model.build((3, 8, 8)).patch == (4, 4)
    assert model.build((1, 6, 8, 8)).grid == (3, 2, 2)
    assert TokenTransformer(width=12, patch=(1, 8, 8)).build((1, 6, 8, 8)).grid == (6, 1, 1)
    torch.manual_seed(3)
    first = model.build((3, 8, 8)).state_dict()
    torch.manual_seed(3)
    second = model.build((3, 8, 8)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- the predictor ---------------------------------------------------------------------------------------------------


def predictor_of(grid=(3, 4), masks=1, outputs=5):
    torch.manual_seed(1)
    made = TokenPredictor(grid, inputs=16, width=12, outputs=outputs, depth=2, heads=2, masks=masks)
    torch.nn.init.normal_(made.mask_tokens)
    return made, torch.rand(2, 4, 16), orders(2, math.prod(grid))


def test_what_is_said_follows_the_order_of_the_asked_and_not_that_of_the_kept():
    predictor, tokens, order = predictor_of()
    kept, asked = order[:, :4], order[:, 4:]
    said = predictor(tokens, kept, asked)
    assert said.shape == (2, 8, 5)
    assert torch.allclose(predictor(tokens, kept, asked.flip(1)), said.flip(1), atol=1e-5)
    assert torch.allclose(predictor(tokens.flip(1), kept.flip(1), asked), said, atol=1e-5)
    moved = predictor(tokens, kept.flip(1), asked)
    assert not torch.allclose(moved, said, atol=1e-3)


def test_a_part_of_the_places_may_be_asked_and_each_kind_of_mask_has_its_token():
    predictor, tokens, order = predictor_of(masks=2)
    kept, asked = order[:, :4], order[:, 4:7]
    first, second = (predictor(tokens, kept, asked, mask) for mask in (0, 1))
    assert first.shape == (2, 3, 5)
    assert not torch.allclose(first, second, atol=1e-4)
    first.sum().backward()
    assert float(predictor.mask_tokens.grad[1].abs().max()) == 0
    assert float(predictor.mask_tokens.grad[0].abs().max()) > 0


def test_little_is_said_at_first():
    predictor, tokens, order = predictor_of()
    assert float(predictor(tokens, order[:, :4], order[:, 4:]).detach().std()) < 0.2


def test_an_asked_place_has_the_position_that_it_has_where_it_is_seen():
    """Without contents, a place is its position alone, whether it is seen or asked."""
    torch.manual_seed(0)
    predictor = TokenPredictor((2, 2), inputs=8, width=8, outputs=4, depth=2, heads=2)
    for each in (predictor.enter.weight, predictor.enter.bias):
        torch.nn.init.zeros_(each)
    torch.nn.init.normal_(predictor.leave.weight)
    kept, asked = torch.tensor([[0]]), torch.tensor([[3, 1]])
    said = predictor(torch.rand(1, 1, 8), kept, asked)
    other = predictor(torch.rand(1, 2, 8), torch.tensor([[1, 0]]), torch.tensor([[3]]))
    assert torch.allclose(said[:, :1], other, atol=1e-5)
    assert (said[:, 0] - said[:, 1]).abs().max() > 0.01
